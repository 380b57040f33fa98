package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// SmolLM3: a Llama in which every fourth layer, or those with a 0 in
// no_rope_layers, has no positions.
var _ = register(family{
	classes:  []string{"SmolLM3ForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := r.rms(1e-6), r.heads()
		rope := r.ropeOf("", attn.KeyDim, rotary{theta: 2e6})
		layers := r.layerCount("num_hidden_layers")
		turned := r.ropeLayers(layers)
		windowed := make([]bool, layers)
		if r.flag("use_sliding_window", false) {
			windowed = r.windowed(layers, func(i int) bool { return !turned[i] })
		}
		bias, mlpBias := r.flag("attention_bias", false), r.flag("mlp_bias", false)
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			a := *attn
			if turned[l.i] {
				a.Rope = rope
			}
			if windowed[l.i] {
				a.Window = r.dim("sliding_window")
			}
			l.streamNorm(spec.PreMix, "input_layernorm", false)
			l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
			l.selfAttn(&a, bias, bias)
			return spec.Block{PreMix: norm, PreFFN: norm, Attention: &a, FFN: l.mlp(act, inner, mlpBias)}
		})
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("lm_head", true, false)
	},
})

// ropeLayers says which layers have a rotary embedding: those with a 1 in
// no_rope_layers, or all but every no_rope_layer_interval-th.
func (r *reader) ropeLayers(layers int) []bool {
	out := make([]bool, layers)
	if !r.has("no_rope_layers") || len(r.list("no_rope_layers")) == 0 {
		every := r.dim("no_rope_layer_interval", 4)
		for i := range out {
			out[i] = (i+1)%every != 0
		}
		return out
	}
	flags := r.numbers("no_rope_layers")
	if r.err == nil && len(flags) != layers {
		r.fail("%s: no_rope_layers has %d entries for %d layers", r.name, len(flags), layers)
	}
	for i := range out {
		out[i] = r.err == nil && flags[i] != 0
	}
	return out
}
