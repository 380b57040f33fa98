package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

// A block without ffn_norm has its parts side by side.
var _ = register(architecture{
	name: "stablelm", norm: spec.LayerNorm, pairs: halves,
	norms: norms{preMix: "attn_norm", preFFN: "ffn_norm", bias: always, adjust: func(b *builder, layer int, n *norms) {
		if !b.has(block(layer, "ffn_norm.weight")) {
			n.preFFN, n.parallel = "", true
		}
	}},
	attention:   attention{bias: maybe, headNorm: ownPerHead, normKind: spec.LayerNorm, optional: true},
	feedForward: feedForward{activation: spec.SiLU},
	head:        own,
})
