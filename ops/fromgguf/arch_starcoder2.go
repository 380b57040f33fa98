package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "starcoder2", norm: spec.LayerNorm, pairs: halves,
	norms:       norms{preMix: "attn_norm", preFFN: "ffn_norm", bias: always},
	attention:   attention{bias: maybe, outBias: always},
	feedForward: feedForward{form: ungated, activation: spec.GELUTanh, bias: always},
})
