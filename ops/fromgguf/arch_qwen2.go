package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "qwen2", norm: spec.RMSNorm, pairs: halves,
	norms:       plainNorms,
	attention:   attention{bias: maybe},
	feedForward: feedForward{activation: spec.SiLU},
	head:        ownOrTiedMaybeBias,
})
