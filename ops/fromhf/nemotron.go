package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// Nemotron: layer norms stored as weight-1, a squared ReLU without gate, and a
// part of each head that does not turn.
var _ = register(family{
	classes:  []string{"NemotronForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm := &spec.Norm{Kind: spec.LayerNorm, Eps: r.eps("norm_eps", 1e-5), Offset: 1}
		attn := r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000, partial: 0.5})
		bias, mlpBias := r.flag("attention_bias", false), r.flag("mlp_bias", false)
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.streamNorm(spec.PreMix, "input_layernorm", true)
			l.streamNorm(spec.PreFFN, "post_attention_layernorm", true)
			l.selfAttn(attn, bias, bias)
			return spec.Block{PreMix: norm, PreFFN: norm, Attention: attn, FFN: l.plainFFN("mlp.up_proj", "mlp.down_proj", act, inner, mlpBias)}
		})
		r.finalNorm(norm, "norm", true)
		r.model.Head = r.head("lm_head", false, false)
	},
})
