package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// StarCoder2: layer norms, biases, no gate.
var _ = register(family{
	classes:  []string{"Starcoder2ForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := &spec.Norm{Kind: spec.LayerNorm, Eps: r.eps(r.either("norm_epsilon", "layer_norm_epsilon"), 1e-5)}, r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000})
		attn.Window = r.count("sliding_window", 0)
		bias := r.flag("use_bias", true)
		act, inner := r.activation("hidden_act", "gelu_pytorch_tanh"), r.dim("intermediate_size")
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.streamNorm(spec.PreMix, "input_layernorm", true)
			l.streamNorm(spec.PreFFN, "post_attention_layernorm", true)
			l.selfAttn(attn, bias, bias)
			return spec.Block{PreMix: norm, PreFFN: norm, Attention: attn, FFN: l.plainFFN("mlp.c_fc", "mlp.c_proj", act, inner, bias)}
		})
		r.finalNorm(norm, "norm", true)
		r.model.Head = r.head("lm_head", true, false)
	},
})
