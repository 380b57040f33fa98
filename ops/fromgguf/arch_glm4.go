package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "glm4", norm: spec.RMSNorm, pairs: neighbours,
	norms:       sandwichNorms,
	attention:   attention{bias: maybe},
	feedForward: feedForward{form: fusedGate, activation: spec.SiLU},
})
