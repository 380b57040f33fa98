package fromhf

import (
	"strings"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// EXAONE 4: norms behind the parts and of each head. Where there are layers
// with a sliding window, only those have positions.
var _ = register(family{
	classes:  []string{"Exaone4ForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := r.rms(1e-5), r.heads()
		rope := r.ropeOf("", attn.KeyDim, rotary{theta: 10000})
		window := r.count("sliding_window", 0)
		windowed := r.windowed(r.layerCount("num_hidden_layers"), r.exaonePattern())
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			a := *attn
			if window == 0 || windowed[l.i] {
				a.Rope = rope
			}
			if windowed[l.i] {
				a.Window = r.dim("sliding_window")
			}
			l.selfAttn(&a, false, false)
			l.headNorms(norm, &a, "self_attn.q_norm", "self_attn.k_norm")
			l.streamNorm(spec.PostMix, "post_attention_layernorm", false)
			l.streamNorm(spec.PostFFN, "post_feedforward_layernorm", false)
			return spec.Block{PostMix: norm, PostFFN: norm, Attention: &a, FFN: l.mlp(act, inner, false)}
		})
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("lm_head", false, false)
	},
})

// exaonePattern says which layers have a window where there is no layer_types:
// all but every n-th, or those with an L in a pattern such as LLLG.
func (r *reader) exaonePattern() func(i int) bool {
	if pattern, ok := r.fields["sliding_window_pattern"].(string); ok {
		if pattern == "" || strings.Trim(pattern, "LG") != "" {
			r.fail("%s: sliding_window_pattern is %.40q: want a number, or letters L and G", r.name, pattern)
			return none
		}
		return func(i int) bool { return pattern[i%len(pattern)] == 'L' }
	}
	every := r.count("sliding_window_pattern", 0)
	if every == 0 {
		return none
	}
	return func(i int) bool { return (i+1)%every != 0 }
}
