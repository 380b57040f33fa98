package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// HunYuan: a Llama that norms each head after it has turned.
var _ = register(family{
	classes:  []string{"HunYuanDenseV1ForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := r.rms(1e-5), r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000})
		attn.NormAfterRope = true
		r.only("use_qk_norm", true)
		r.only("use_cla", false)
		bias := r.flag("attention_bias", false)
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.streamNorm(spec.PreMix, "input_layernorm", false)
			l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
			l.selfAttn(attn, bias, bias)
			l.headNorms(norm, attn, "self_attn.query_layernorm", "self_attn.key_layernorm")
			return spec.Block{PreMix: norm, PreFFN: norm, Attention: attn, FFN: l.mlp(act, inner, false)}
		})
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("lm_head", false, false)
	},
})
