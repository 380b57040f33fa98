package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "phi2", norm: spec.LayerNorm, pairs: halves,
	norms:       norms{preMix: "attn_norm", bias: always, parallel: true},
	attention:   attention{bias: maybe, outBias: always},
	feedForward: feedForward{form: ungated, activation: spec.GELUTanh, bias: always},
	head:        ownWithBias,
})
