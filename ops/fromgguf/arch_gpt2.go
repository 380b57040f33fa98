package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "gpt2", norm: spec.LayerNorm,
	embedding:   embedding{positions: true},
	norms:       norms{preMix: "attn_norm", preFFN: "ffn_norm", bias: always},
	attention:   attention{fused: onlyFused, bias: always, outBias: always},
	feedForward: feedForward{form: ungated, activation: spec.GELUTanh, bias: always},
})
