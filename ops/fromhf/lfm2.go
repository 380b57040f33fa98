package fromhf

import (
	"slices"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// LFM2: gated short convolutions in most layers, attention with norms of each
// head in the others.
var _ = register(family{
	classes:  []string{"Lfm2ForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := &spec.Norm{Kind: spec.RMSNorm, Eps: r.eps("norm_eps", 1e-5)}, r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 1e6})
		conv, convBias := &spec.ShortConv{Kernel: r.dim("conv_L_cache", 3)}, r.flag("conv_bias", false)
		attends := r.lfm2Attends(r.layerCount("num_hidden_layers"))
		inner := r.lfm2Inner()
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			w := l.model.Width
			b := spec.Block{PreMix: norm, PreFFN: norm}
			l.streamNorm(spec.PreMix, "operator_norm", false)
			l.streamNorm(spec.PreFFN, "ffn_norm", false)
			if attends[l.i] {
				b.Attention = attn
				l.projections(attn, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", false, false)
				l.headNorms(norm, attn, "self_attn.q_layernorm", "self_attn.k_layernorm")
			} else {
				b.Conv = conv
				l.linear(spec.ConvIn, "conv.in_proj", 3*w, w, convBias)
				if t := l.numeric(l.prefix+"conv.conv.weight", w, 1, conv.Kernel); t != nil {
					l.put(l.slot(spec.ConvTaps), dense(t, 0, w, conv.Kernel))
				}
				if convBias {
					l.put(biasOf(l.slot(spec.ConvTaps)), l.vector(l.prefix+"conv.conv.bias", w))
				}
				l.linear(spec.ConvOut, "conv.out_proj", w, w, convBias)
			}
			b.FFN = l.gatedFFN("feed_forward.w1", "feed_forward.w3", "feed_forward.w2", spec.SiLU, inner, false)
			return b
		})
		r.finalNorm(norm, "embedding_norm", false)
		tied := r.flag("tie_embedding", true)
		r.model.Head = r.head("lm_head", tied, false)
	},
})

// lfm2Attends says which layers have attention.
func (r *reader) lfm2Attends(layers int) []bool {
	out := make([]bool, layers)
	if !r.has("layer_types") {
		full := r.indices("full_attn_idxs")
		for i := range out {
			out[i] = slices.Contains(full, i)
		}
		return out
	}
	for i, kind := range r.perLayer("layer_types", layers) {
		switch kind {
		case "full_attention":
			out[i] = true
		case "conv":
		default:
			r.fail("%s: layer_types[%d] is %q, which has no reader", r.name, i, kind)
		}
	}
	return out
}

// lfm2Inner is the width of the feed-forward part: two thirds of what the
// config says, times a multiplier, rounded up to a multiple
// (modeling_lfm2.py, Lfm2MLP).
func (r *reader) lfm2Inner() int {
	inner := r.dim(r.either("block_ff_dim", "intermediate_size"))
	if !r.flag("block_auto_adjust_ff_dim", true) {
		return inner
	}
	inner = 2 * inner / 3
	if r.has("block_ffn_dim_multiplier") {
		inner = int(min(r.positive("block_ffn_dim_multiplier")*float64(inner), maxDim))
	}
	multiple := r.dim("block_multiple_of", 256)
	return min((inner+multiple-1)/multiple*multiple, maxDim)
}
