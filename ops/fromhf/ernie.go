package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// ERNIE 4.5 with experts: interleaved pairs; experts in a range of layers,
// chosen by softmax plus a correction and divided by their sum.
var _ = register(family{
	classes:  []string{"Ernie4_5_MoeForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := r.rms(1e-5), r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 500000, interleaved: true})
		bias := r.flag("use_bias", false)
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		layers := r.layerCount("num_hidden_layers")
		moe := &spec.MoE{
			Experts: r.dim("moe_num_experts"), Used: r.dim("moe_k"), Inner: r.dim("moe_intermediate_size"),
			Scoring: spec.ScoreSoftmax, Normalize: true, Scale: 1,
		}
		moe.SharedInner = r.count("moe_num_shared_experts", 0) * moe.Inner
		if moe.SharedInner > maxDim {
			r.fail("%s: a shared expert of %d values: too many", r.name, moe.SharedInner)
			moe.SharedInner = 0
		}
		first, every, last := r.count("moe_layer_start_index"), r.dim("moe_layer_interval", 1), layers-1
		if r.number("moe_layer_end_index", -1) >= 0 {
			last = r.count("moe_layer_end_index")
		}
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.streamNorm(spec.PreMix, "input_layernorm", false)
			l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
			l.selfAttn(attn, bias, bias)
			b := spec.Block{PreMix: norm, PreFFN: norm, Attention: attn}
			if l.i < first || l.i > last || (l.i+1)%every != 0 {
				b.FFN = l.mlp(act, inner, bias)
				return b
			}
			l.linear(spec.Router, "mlp.gate", moe.Experts, l.model.Width, false)
			if t := l.numeric(l.prefix+"mlp.moe_statics.e_score_correction_bias", 1, moe.Experts); t != nil {
				l.put(l.slot(spec.RouterCorrection), dense(t, 0, 1, moe.Experts))
			}
			l.mlpExperts(moe)
			if moe.SharedInner > 0 {
				l.shared(moe, "mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj", "mlp.shared_experts.down_proj")
			}
			b.FFN = spec.FFN{Gated: true, Activation: act, MoE: moe}
			return b
		})
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("lm_head", true, false)
	},
})
