package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

// Only layers with a window turn queries and keys.
var _ = register(architecture{
	name: "cohere2", norm: spec.LayerNorm, pairs: neighbours,
	keys: func(p *hparams) {
		p.slide(standardWindow, p.count("attention.sliding_window", maxSize), 4, false)
		for i, windowed := range p.windowed {
			p.noRope[i] = !windowed
		}
		p.number("logit_scale")
		p.headScale = p.nonzeroOr("logit_scale", 1)
	},
	norms:       norms{preMix: "attn_norm", parallel: true},
	attention:   attention{bias: maybe},
	feedForward: feedForward{activation: spec.SiLU},
	head:        tied,
})
