package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// Phi-1.5 and 2: parallel blocks with one norm, biases everywhere, the head
// included, and a part of each head that does not turn.
var _ = register(family{
	classes:  []string{"PhiForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		r.only("qk_layernorm", false)
		norm, attn := &spec.Norm{Kind: spec.LayerNorm, Eps: r.eps("layer_norm_eps", 1e-5)}, r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000, partial: 0.5})
		act, inner := r.activation("hidden_act", "gelu_new"), r.dim("intermediate_size")
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.streamNorm(spec.PreMix, "input_layernorm", true)
			l.projections(attn, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense", true, true)
			return spec.Block{Parallel: true, PreMix: norm, Attention: attn, FFN: l.plainFFN("mlp.fc1", "mlp.fc2", act, inner, true)}
		})
		r.finalNorm(norm, "final_layernorm", true)
		r.model.Head = r.head("lm_head", false, true)
	},
})

// Phi-3 and 4: a Llama whose queries, keys and values, and whose gate and up,
// are one matrix each.
var _ = register(family{
	classes:  []string{"Phi3ForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := r.rms(1e-5), r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000})
		attn.Window = r.count("sliding_window", 0)
		r.only("attention_bias", false)
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.streamNorm(spec.PreMix, "input_layernorm", false)
			l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
			l.fusedQKV(attn, "self_attn.qkv_proj", false)
			l.linear(spec.AttnOut, "self_attn.o_proj", l.model.Width, attn.Heads*attn.ValueDim, false)
			return spec.Block{PreMix: norm, PreFFN: norm, Attention: attn, FFN: l.fusedGateUp("mlp.gate_up_proj", "mlp.down_proj", act, inner, false)}
		})
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("lm_head", false, false)
	},
})
