package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// Mixtral: Mistral with experts, w1 the gate, w3 up and w2 down. The weights of
// the chosen experts are divided by their sum.
var _ = register(family{
	classes: []string{"MixtralForCausalLM"},
	read: func(r *reader) {
		norm, attn := r.decoder(1e-5)
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 1e6})
		attn.Window = r.count("sliding_window", 0)
		act := r.activation("hidden_act")
		moe := &spec.MoE{
			Experts: r.dim("num_local_experts"), Used: r.dim("num_experts_per_tok"),
			Inner: r.dim("intermediate_size"), Scoring: spec.ScoreSoftmax, Normalize: true, Scale: 1,
		}
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.preNorms(false)
			l.selfAttn(attn, false, false)
			l.linear(spec.Router, "block_sparse_moe.gate", moe.Experts, l.model.Width, false)
			l.experts(moe, "block_sparse_moe.experts.%d.w1", "block_sparse_moe.experts.%d.w3", "block_sparse_moe.experts.%d.w2")
			return spec.Block{PreMix: norm, PreFFN: norm, Attention: attn, FFN: spec.FFN{Gated: true, Activation: act, MoE: moe}}
		})
		r.finish(norm, false, false)
	},
})
