package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// GLM-4 (0414): norms before and behind each part, a gate and up in one matrix,
// interleaved pairs in half of each head.
var _ = register(family{
	classes:  []string{"Glm4ForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := r.rms(1.5625e-07), r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000, partial: 0.5, interleaved: true})
		bias := r.flag("attention_bias", false)
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.streamNorm(spec.PreMix, "input_layernorm", false)
			l.streamNorm(spec.PostMix, "post_self_attn_layernorm", false)
			l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
			l.streamNorm(spec.PostFFN, "post_mlp_layernorm", false)
			l.selfAttn(attn, bias, false)
			return spec.Block{
				PreMix: norm, PostMix: norm, PreFFN: norm, PostFFN: norm, Attention: attn,
				FFN: l.fusedGateUp("mlp.gate_up_proj", "mlp.down_proj", act, inner, false),
			}
		})
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("lm_head", false, false)
	},
})

// GLM-4.5: DeepSeek's experts with ordinary attention, half of each head turned.
var _ = register(family{
	classes:  []string{"Glm4MoeForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := r.rms(1e-5), r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000, partial: 0.5})
		bias, headNorms := r.flag("attention_bias", false), r.flag("use_qk_norm", false)
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		dense, moe := r.count("first_k_dense_replace"), r.deepseekExperts()
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.streamNorm(spec.PreMix, "input_layernorm", false)
			l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
			l.selfAttn(attn, bias, false)
			if headNorms {
				l.headNorms(norm, attn, "self_attn.q_norm", "self_attn.k_norm")
			}
			b := spec.Block{PreMix: norm, PreFFN: norm, Attention: attn}
			if l.i < dense {
				b.FFN = l.mlp(act, inner, false)
				return b
			}
			l.deepseekMoE(moe)
			b.FFN = spec.FFN{Gated: true, Activation: act, MoE: moe}
			return b
		})
		r.dropPredictors(len(r.model.Blocks))
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("lm_head", false, false)
	},
})
