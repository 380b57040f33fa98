package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "nomic-bert", norm: spec.LayerNorm, pairs: halves,
	embedding:   embedding{norm: true, normBias: always, types: true},
	norms:       norms{sumMix: "attn_output_norm", sumFFN: "layer_output_norm", bias: always},
	attention:   attention{bias: maybe, outBias: maybe},
	feedForward: feedForward{activation: spec.SiLU},
	finalNorm:   "none",
	head:        noHead,
})
