package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

// llama.cpp does not use the window that a file may name.
var _ = register(architecture{
	name: "phi3", norm: spec.RMSNorm, pairs: halves,
	norms:       plainNorms,
	attention:   attention{bias: maybe, factors: longFactors},
	feedForward: feedForward{form: fusedGate, activation: spec.SiLU},
})
