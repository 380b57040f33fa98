package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "qwen3", norm: spec.RMSNorm, pairs: halves,
	norms:       plainNorms,
	attention:   attention{bias: maybe, headNorm: perHead},
	feedForward: feedForward{activation: spec.SiLU},
	classifier:  lastToken,
})
