package fromhf

import (
	"slices"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// Qwen2 and Qwen3, with and without experts. Qwen2 has biases on queries, keys
// and values; Qwen3 norms each head of queries and keys instead. Layers from
// max_window_layers on have a sliding window where use_sliding_window says so.
var _ = register(family{
	classes:  []string{"Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM", "Qwen2Model", "Qwen3Model"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read:     readQwen,
})

func readQwen(r *reader) {
	second := r.class == "Qwen2ForCausalLM" || r.class == "Qwen2MoeForCausalLM" || r.class == "Qwen2Model"
	r.size()
	r.embedding("embed_tokens")
	norm, attn := r.rms(1e-6), r.heads()
	attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000})
	act := r.activation("hidden_act")
	var moe *spec.MoE
	inner := 0
	switch r.class {
	case "Qwen2MoeForCausalLM":
		moe = r.qwenExperts()
		moe.SharedInner = r.dim("shared_expert_intermediate_size")
	case "Qwen3MoeForCausalLM":
		moe = r.qwenExperts()
	default:
		inner = r.dim("intermediate_size")
	}
	step, dense := 1, []int(nil)
	if moe != nil {
		step = r.dim("decoder_sparse_step", 1)
		if r.has("mlp_only_layers") {
			dense = r.indices("mlp_only_layers")
		}
	}
	qkvBias, outBias := r.flag("attention_bias", false), r.flag("attention_bias", false)
	if second {
		qkvBias, outBias = r.flag("qkv_bias", true), false
	}
	var windowed []bool
	if r.flag("use_sliding_window", false) {
		from := r.count("max_window_layers", 28)
		windowed = r.windowed(r.layerCount("num_hidden_layers"), func(i int) bool { return i >= from })
	}
	r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
		a := *attn
		if windowed != nil && windowed[l.i] {
			a.Window = r.dim("sliding_window")
		}
		l.streamNorm(spec.PreMix, "input_layernorm", false)
		l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
		l.selfAttn(&a, qkvBias, outBias)
		if !second {
			l.headNorms(norm, &a, "self_attn.q_norm", "self_attn.k_norm")
		}
		b := spec.Block{PreMix: norm, PreFFN: norm, Attention: &a}
		if moe == nil || (l.i+1)%step != 0 || slices.Contains(dense, l.i) {
			if moe != nil {
				inner = r.dim("intermediate_size")
			}
			b.FFN = l.mlp(act, inner, false)
			return b
		}
		l.linear(spec.Router, "mlp.gate", moe.Experts, l.model.Width, false)
		l.mlpExperts(moe)
		if moe.SharedInner > 0 {
			l.shared(moe, "mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj")
			l.linear(spec.SharedRouter, "mlp.shared_expert_gate", 1, l.model.Width, false)
		}
		b.FFN = spec.FFN{Gated: true, Activation: act, MoE: moe}
		return b
	})
	r.finalNorm(norm, "norm", false)
	if r.class != "Qwen2Model" && r.class != "Qwen3Model" {
		r.model.Head = r.head("lm_head", false, false)
	}
	r.model.Pooling = r.pooling()
}

// qwenExperts reads the experts of a layer that has them.
func (r *reader) qwenExperts() *spec.MoE {
	return &spec.MoE{
		Experts:   r.dim(r.either("num_experts", "num_local_experts")),
		Used:      r.dim("num_experts_per_tok"),
		Inner:     r.dim("moe_intermediate_size"),
		Scoring:   spec.ScoreSoftmax,
		Normalize: r.flag("norm_topk_prob", false),
		Scale:     1,
	}
}
