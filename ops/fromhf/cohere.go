package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// Command R and its successor: parallel blocks with one layer norm without
// bias, logits times logit_scale. The second turns only in layers with a
// sliding window. use_qk_norm norms each head by weights of its own.
var _ = register(family{
	classes:  []string{"CohereForCausalLM", "Cohere2ForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		second := r.class == "Cohere2ForCausalLM"
		norm, attn := &spec.Norm{Kind: spec.LayerNorm, Eps: r.eps("layer_norm_eps", 1e-5)}, r.heads()
		rope := r.ropeOf("", attn.KeyDim, rotary{theta: 10000, interleaved: true})
		layers := r.layerCount("num_hidden_layers")
		windowed := make([]bool, layers)
		if second {
			pattern := r.dim(r.either("sliding_window_pattern", "_sliding_window_pattern"), 4)
			windowed = r.windowed(layers, func(i int) bool { return (i+1)%pattern != 0 })
		}
		bias, headNorms := r.flag("attention_bias", false), !second && r.flag("use_qk_norm", false)
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			a := *attn
			switch {
			case windowed[l.i]:
				a.Rope, a.Window = rope, r.dim("sliding_window")
			case !second:
				a.Rope = rope
			}
			l.streamNorm(spec.PreMix, "input_layernorm", false)
			l.selfAttn(&a, bias, bias)
			if headNorms {
				a.QNorm, a.KNorm = norm, norm
				l.headRows(spec.QNorm, "self_attn.q_norm.weight", a.Heads, a.KeyDim)
				l.headRows(spec.KNorm, "self_attn.k_norm.weight", a.KVHeads, a.KeyDim)
			}
			return spec.Block{Parallel: true, PreMix: norm, Attention: &a, FFN: l.mlp(act, inner, false)}
		})
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("lm_head", true, false)
		r.model.Head.Scale = float32(r.positive("logit_scale", 0.0625))
	},
})

// headRows gives a norm's weights, a row per head, their place.
func (l layer) headRows(role spec.Role, name string, heads, dim int) {
	if t := l.numeric(l.prefix+name, heads, dim); t != nil {
		l.put(l.slot(role), dense(t, 0, heads, dim))
	}
}
