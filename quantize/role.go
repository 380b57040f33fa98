package quantize

import "strings"

// role is the broad job of a tensor, as far as presets tell jobs apart
// (llama-quant.cpp, tensor_get_category). Fused attention and the joint
// key-value projection of MLA count as values.
type role int

const (
	otherRole role = iota
	tokenEmbd
	outputMatrix
	attnV
	attnK
	attnQ
	attnOutput
	ffnUp
	ffnGate
	ffnDown
)

func roleOf(name string) role {
	switch name {
	case "output.weight":
		return outputMatrix
	case "token_embd.weight", "per_layer_token_embd.weight":
		return tokenEmbd
	}
	for _, r := range []struct {
		part string
		role role
	}{
		{"attn_qkv.weight", attnV},
		{"attn_kv_b.weight", attnV},
		{"attn_v.weight", attnV},
		{"attn_k.weight", attnK},
		{"attn_q.weight", attnQ},
		{"attn_output.weight", attnOutput},
		{"ffn_up", ffnUp},
		{"ffn_gate", ffnGate},
		{"ffn_down", ffnDown},
	} {
		if strings.Contains(name, r.part) {
			return r.role
		}
	}
	return otherRole
}

// keptParts are parts of names of tensors that are too small or too delicate
// to quantize (llama-quant.cpp, tensor_allows_quantization).
var keptParts = []string{
	"_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight",
	"altup", "laurel", "per_layer_model_proj",
	"ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
	"time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight",
	"time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight",
	"time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight",
	"time_mix_g1.weight", "time_mix_g2.weight",
	"time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight",
	"attn_rel_b.weight",
	".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",
	"a.rvq.codebook", "mm.a.code_embd",
}

// Quantizable reports whether llama-quantize changes the type of a tensor of
// that name and shape (ne order) at all.
func Quantizable(name string, shape []int64) bool {
	dims := len(shape)
	for dims > 1 && shape[dims-1] == 1 {
		dims--
	}
	if dims < 2 || !strings.HasSuffix(name, "weight") {
		return false
	}
	if name == "position_embd.weight" || name == "token_types.weight" {
		return false
	}
	for _, part := range keptParts {
		if strings.Contains(name, part) {
			return false
		}
	}
	return true
}
