package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "nemotron", norm: spec.LayerNorm, pairs: halves,
	norms:       norms{preMix: "attn_norm", preFFN: "ffn_norm", bias: always},
	attention:   attention{bias: maybe, outBias: maybe},
	feedForward: feedForward{form: ungated, activation: spec.ReLU2, bias: maybe},
	head:        own,
})
