package fromhf

import (
	"github.com/modelpipe/modelpipe/ops/spec"
)

// OLMo 1 has layer norms without weights; 2 and 3 norm what each part gives,
// and all heads' queries and keys together; OLMoE norms before the parts. In
// the third, layers with a sliding window turn without the scaling.
var _ = register(family{
	classes:  []string{"OlmoForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM", "OlmoeForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		first := r.class == "OlmoForCausalLM"
		norm := &spec.Norm{Kind: spec.LayerNorm, Eps: 1e-5}
		if !first {
			norm = r.rms(1e-5)
		}
		attn := r.heads()
		attn.NormWhole = !first
		if first {
			attn.Clamp = float32(r.number("clip_qkv", 0))
		} else {
			r.only("clip_qkv") // would cut behind the norms
		}
		layers := r.layerCount("num_hidden_layers")
		full := r.ropeOf("full_attention", attn.KeyDim, rotary{theta: 10000})
		local, windowed := full, make([]bool, layers)
		if r.class == "Olmo3ForCausalLM" {
			windowed = r.windowed(layers, func(i int) bool { return (i+1)%4 != 0 })
			if r.has("rope_parameters") {
				local = r.ropeOf("sliding_attention", attn.KeyDim, rotary{theta: 10000})
			} else {
				local = r.rope(r.positive("rope_theta", 10000), nil, attn.KeyDim, rotary{})
			}
		}
		bias := r.flag("attention_bias", false)
		act := r.activation("hidden_act")
		inner := r.dim("intermediate_size")
		var moe *spec.MoE
		if r.class == "OlmoeForCausalLM" {
			moe = &spec.MoE{
				Experts: r.dim(r.either("num_experts", "num_local_experts")), Used: r.dim("num_experts_per_tok"), Inner: inner,
				Scoring: spec.ScoreSoftmax, Normalize: r.flag("norm_topk_prob", false), Scale: 1,
			}
		}
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			a := *attn
			a.Rope = full
			if windowed[l.i] {
				a.Rope, a.Window = local, r.dim("sliding_window")
			}
			l.selfAttn(&a, bias, bias)
			b := spec.Block{Attention: &a}
			switch {
			case first:
				b.PreMix, b.PreFFN = norm, norm
			case moe != nil:
				b.PreMix, b.PreFFN = norm, norm
				l.streamNorm(spec.PreMix, "input_layernorm", false)
				l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
			default:
				b.PostMix, b.PostFFN = norm, norm
				l.streamNorm(spec.PostMix, "post_attention_layernorm", false)
				l.streamNorm(spec.PostFFN, "post_feedforward_layernorm", false)
			}
			if !first {
				l.headNorms(norm, &a, "self_attn.q_norm", "self_attn.k_norm")
			}
			if moe == nil {
				b.FFN = l.mlp(act, inner, false)
				return b
			}
			l.linear(spec.Router, "mlp.gate", moe.Experts, l.model.Width, false)
			l.mlpExperts(moe)
			b.FFN = spec.FFN{Gated: true, Activation: act, MoE: moe}
			return b
		})
		r.model.FinalNorm = norm
		if !first {
			r.finalNorm(norm, "norm", false)
		}
		r.model.Head = r.head("lm_head", false, false)
	},
})
