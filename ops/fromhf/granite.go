package fromhf

import (
	"github.com/modelpipe/modelpipe/ops/spec"
)

// Granite: a Llama whose embedding, attention, residuals and logits are
// multiplied by factors. With experts, the matrices of all experts are one
// tensor, gate above up, and the router's softmax is over the chosen ones.
var _ = register(family{
	classes:  []string{"GraniteForCausalLM", "GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.model.Embedding.Scale = float32(r.positive("embedding_multiplier", 1))
		r.embedding("embed_tokens")
		norm, attn := r.rms(1e-6), r.heads()
		attn.Scale = r.positive("attention_multiplier", 1)
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000})
		bias := r.flag("attention_bias", false)
		residual := float32(r.positive("residual_multiplier", 1))
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		var moe *spec.MoE
		if r.class != "GraniteForCausalLM" {
			moe = &spec.MoE{
				Experts: r.dim("num_local_experts"), Used: r.dim("num_experts_per_tok"), Inner: inner,
				Scoring: spec.ScoreSoftmaxSelected, Scale: 1,
			}
			if r.class == "GraniteMoeSharedForCausalLM" {
				moe.SharedInner = r.count("shared_intermediate_size")
			}
		}
		mlpBias := moe == nil && r.flag("mlp_bias", false)
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.streamNorm(spec.PreMix, "input_layernorm", false)
			l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
			l.selfAttn(attn, bias, bias)
			b := spec.Block{PreMix: norm, PreFFN: norm, Attention: attn, ResidualScale: residual}
			if moe == nil {
				b.FFN = l.mlp(act, inner, mlpBias)
				return b
			}
			b.FFN = spec.FFN{Gated: true, Activation: act, MoE: moe}
			l.linear(spec.Router, "block_sparse_moe.router.layer", moe.Experts, l.model.Width, false)
			l.stackedExperts(moe, "block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight")
			if s := moe.SharedInner; s > 0 {
				w, none := l.module(l.prefix+"shared_mlp.input_linear", 2*s, l.model.Width, false)
				l.slice(l.slot(spec.SharedGate), w, none, 2*s, 0, s)
				l.slice(l.slot(spec.SharedUp), w, none, 2*s, s, s)
				l.linear(spec.SharedDown, "shared_mlp.output_linear", l.model.Width, s, false)
			}
			return b
		})
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("lm_head", false, false)
		r.model.Head.Scale = float32(1 / r.positive("logits_scaling", 1))
	},
})

// stackedExperts gives experts that are stored as one tensor [experts,
// 2*inner, width], gate above up, and one [experts, width, inner] their places.
func (l layer) stackedExperts(e *spec.MoE, gateUp, down string) {
	width := l.model.Width
	in := l.numeric(l.prefix+gateUp, e.Experts, 2*e.Inner, width)
	out := l.numeric(l.prefix+down, e.Experts, width, e.Inner)
	for x := 0; x < e.Experts && l.err == nil; x++ {
		at := func(role spec.Role) spec.Slot { return spec.Slot{Layer: l.i, Role: role, Expert: x} }
		size := int64(e.Inner) * int64(width)
		l.put(at(spec.Gate), dense(in, 2*int64(x)*size, e.Inner, width))
		l.put(at(spec.Up), dense(in, (2*int64(x)+1)*size, e.Inner, width))
		l.put(at(spec.Down), dense(out, int64(x)*size, width, e.Inner))
	}
}
