package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

// Every fourth layer turns nothing.
var _ = register(architecture{
	name: "smollm3", norm: spec.RMSNorm, pairs: neighbours,
	keys: func(p *hparams) {
		for i := range p.noRope {
			p.noRope[i] = (i+1)%4 == 0
		}
	},
	norms:       plainNorms,
	attention:   attention{bias: maybe},
	feedForward: feedForward{activation: spec.SiLU},
})
