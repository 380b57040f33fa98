package fromgguf

import (
	"math"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// Queries and keys are normed after they are turned.
var _ = register(architecture{
	name: "hunyuan-dense", norm: spec.RMSNorm, pairs: halves,
	keys: func(p *hparams) {
		if p.experts <= 1 {
			p.experts, p.used = 0, 0
		}
		// The base of NTK-aware scaling.
		if alpha := p.numberOr("rope.scaling.alpha", 0); alpha > 0 && p.keyDim > 2 {
			p.base *= math.Pow(alpha, float64(p.keyDim)/float64(p.keyDim-2))
		}
	},
	norms:       plainNorms,
	attention:   attention{bias: maybe, headNorm: perHead, normAfter: true},
	feedForward: feedForward{activation: spec.SiLU},
})
