package fromhf

import (
	"fmt"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// StableLM: a Llama with layer norms and a part of each head that does not
// turn. With use_parallel_residual both parts get the same norm's result; with
// qk_layernorm each head has a norm of its own.
var _ = register(family{
	classes:  []string{"StableLmForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := &spec.Norm{Kind: spec.LayerNorm, Eps: r.eps("layer_norm_eps", 1e-5)}, r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000, partial: 0.25})
		bias, parallel, headNorms := r.flag("use_qkv_bias", false), r.flag("use_parallel_residual", false), r.flag("qk_layernorm", false)
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			b := spec.Block{Parallel: parallel, PreMix: norm, Attention: attn}
			l.streamNorm(spec.PreMix, "input_layernorm", true)
			if !parallel {
				b.PreFFN = norm
				l.streamNorm(spec.PreFFN, "post_attention_layernorm", true)
			}
			l.selfAttn(attn, bias, false)
			if headNorms {
				attn.QNorm, attn.KNorm = norm, norm
				l.perHeadNorm(spec.QNorm, "self_attn.q_layernorm.norms.%d.weight", attn.Heads, attn.KeyDim)
				l.perHeadNorm(spec.KNorm, "self_attn.k_layernorm.norms.%d.weight", attn.KVHeads, attn.KeyDim)
			}
			b.FFN = l.mlp(act, inner, false)
			return b
		})
		r.finalNorm(norm, "norm", true)
		r.model.Head = r.head("lm_head", false, false)
	},
})

// perHeadNorm gives the weights of a norm for each head, one tensor each, their
// place.
func (l layer) perHeadNorm(role spec.Role, format string, heads, dim int) {
	var rows []spec.Weight
	for h := 0; h < heads && l.err == nil; h++ {
		rows = append(rows, l.vector(l.prefix+fmt.Sprintf(format, h), dim))
	}
	if l.err == nil {
		l.put(l.slot(role), stack(rows))
	}
}
