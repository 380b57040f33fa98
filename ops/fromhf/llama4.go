package fromhf

import (
	"slices"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// Llama 4, the text part: layers that turn see their own chunk and norm heads
// without weights after turning; layers without positions see everything and
// sharpen far queries. An expert's input is multiplied by its sigmoid score;
// experts are stored as x @ W wants them, gate beside up.
var _ = register(family{
	classes:  []string{"Llama4ForCausalLM", "Llama4ForConditionalGeneration"},
	prefixes: decoderNames,
	others:   vision,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := r.rms(1e-5), r.heads()
		rope := r.ropeOf("", attn.KeyDim, rotary{theta: 500000, interleaved: true})
		layers := r.layerCount("num_hidden_layers")
		turned := r.ropeLayers(layers)
		bias, headNorms := r.flag("attention_bias", false), r.flag("use_qk_norm", true)
		temperature := 0.0
		if r.llama4Tuned() {
			temperature = r.positive("attn_scale", 0.1)
		}
		act := r.activation("hidden_act")
		moe := &spec.MoE{
			Experts: r.dim("num_local_experts"), Used: r.dim("num_experts_per_tok"), Inner: r.dim("intermediate_size"),
			Scoring: spec.ScoreSigmoid, WeightInput: true, Scale: 1,
		}
		moe.SharedInner = moe.Inner
		step := r.dim("interleave_moe_layer_step", 1)
		sparse := func(i int) bool { return (i+1)%step == 0 }
		if r.has("moe_layers") {
			list := r.indices("moe_layers")
			sparse = func(i int) bool { return slices.Contains(list, i) }
		}
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			a := *attn
			if turned[l.i] {
				a.Rope, a.Chunk = rope, r.dim("attention_chunk_size", 8192)
				if headNorms {
					a.QNorm, a.KNorm, a.NormAfterRope = norm, norm, true
				}
			} else {
				a.Temperature, a.TemperatureFloor = temperature, r.positive("floor_scale", 8192)
			}
			l.streamNorm(spec.PreMix, "input_layernorm", false)
			l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
			l.selfAttn(&a, bias, bias)
			b := spec.Block{PreMix: norm, PreFFN: norm, Attention: &a}
			if !sparse(l.i) {
				b.FFN = l.gatedFFN("feed_forward.gate_proj", "feed_forward.up_proj", "feed_forward.down_proj", act, r.dim("intermediate_size_mlp"), false)
				return b
			}
			l.linear(spec.Router, "feed_forward.router", moe.Experts, l.model.Width, false)
			l.shared(moe, "feed_forward.shared_expert.gate_proj", "feed_forward.shared_expert.up_proj", "feed_forward.shared_expert.down_proj")
			l.llama4Experts(moe)
			b.FFN = spec.FFN{Gated: true, Activation: act, MoE: moe}
			return b
		})
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("lm_head", false, false)
	},
})

// llama4Tuned reads attn_temperature_tuning, which is a flag or a number.
func (r *reader) llama4Tuned() bool {
	if _, ok := r.fields["attn_temperature_tuning"].(bool); ok {
		return r.flag("attn_temperature_tuning")
	}
	return r.number("attn_temperature_tuning", 1) != 0
}

func (l layer) llama4Experts(e *spec.MoE) {
	in := l.expertMatrices("feed_forward.experts.gate_up_proj", e.Experts, 2*e.Inner, l.model.Width)
	out := l.expertMatrices("feed_forward.experts.down_proj", e.Experts, l.model.Width, e.Inner)
	for x := 0; x < e.Experts && l.err == nil; x++ {
		at := func(role spec.Role) spec.Slot { return spec.Slot{Layer: l.i, Role: role, Expert: x} }
		w := in(x)
		l.slice(at(spec.Gate), w, spec.Weight{}, 2*e.Inner, 0, e.Inner)
		l.slice(at(spec.Up), w, spec.Weight{}, 2*e.Inner, e.Inner, e.Inner)
		l.put(at(spec.Down), out(x))
	}
}
