package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// Mixtral: Mistral with experts, w1 the gate, w3 up and w2 down. The weights of
// the chosen experts are divided by their sum.
var _ = register(family{
	classes:  []string{"MixtralForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := r.rms(1e-5), r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 1e6})
		attn.Window = r.count("sliding_window", 0)
		act := r.activation("hidden_act")
		moe := &spec.MoE{
			Experts: r.dim("num_local_experts"), Used: r.dim("num_experts_per_tok"),
			Inner: r.dim("intermediate_size"), Scoring: spec.ScoreSoftmax, Normalize: true, Scale: 1,
		}
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.streamNorm(spec.PreMix, "input_layernorm", false)
			l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
			l.selfAttn(attn, false, false)
			l.linear(spec.Router, "block_sparse_moe.gate", moe.Experts, l.model.Width, false)
			l.experts(moe, "block_sparse_moe.experts.%d.w1", "block_sparse_moe.experts.%d.w3", "block_sparse_moe.experts.%d.w2")
			return spec.Block{PreMix: norm, PreFFN: norm, Attention: attn, FFN: spec.FFN{Gated: true, Activation: act, MoE: moe}}
		})
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("lm_head", false, false)
	},
})
