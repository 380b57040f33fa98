package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "command-r", norm: spec.LayerNorm, pairs: neighbours,
	keys:        func(p *hparams) { p.headScale = p.nonzeroOr("logit_scale", 1) },
	norms:       norms{preMix: "attn_norm", parallel: true},
	attention:   attention{bias: maybe, headNorm: ownPerHead, normKind: spec.LayerNorm, optional: true},
	feedForward: feedForward{activation: spec.SiLU},
	head:        tied,
})
