package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "bert", norm: spec.LayerNorm,
	embedding:   embedding{norm: true, normBias: always, positions: true, types: true},
	norms:       norms{sumMix: "attn_output_norm", sumFFN: "layer_output_norm", bias: always},
	attention:   attention{bias: maybe, outBias: maybe},
	feedForward: feedForward{form: ungated, activation: spec.GELUTanh, bias: maybe},
	finalNorm:   "none",
	head:        noHead,
	classifier:  firstToken,
})
