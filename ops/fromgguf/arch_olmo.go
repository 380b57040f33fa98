package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "olmo", norm: spec.LayerNorm, pairs: neighbours,
	keys:        func(p *hparams) { p.clamp = p.numberOr("attention.clamp_kqv", 0) },
	norms:       norms{preMix: "attn_norm", preFFN: "ffn_norm", bare: true},
	attention:   attention{bias: maybe},
	feedForward: feedForward{activation: spec.SiLU},
	finalNorm:   "-",
})
