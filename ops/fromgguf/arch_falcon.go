package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

// Where there are two norms, attn_norm is the one of the feed-forward part.
var _ = register(architecture{
	name: "falcon", norm: spec.LayerNorm, pairs: halves,
	norms: norms{preMix: "attn_norm", bias: always, parallel: true, adjust: func(b *builder, layer int, n *norms) {
		if b.has(block(layer, "attn_norm_2.weight")) {
			n.preMix, n.preFFN = "attn_norm_2", "attn_norm"
		}
	}},
	attention:   attention{fused: onlyFused},
	feedForward: feedForward{form: ungated, activation: spec.GELUTanh},
})
