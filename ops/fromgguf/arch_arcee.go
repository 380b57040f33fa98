package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "arcee", norm: spec.RMSNorm, pairs: neighbours,
	norms:       plainNorms,
	attention:   attention{bias: maybe, factors: freqFactors},
	feedForward: feedForward{form: ungated, activation: spec.ReLU2},
})
