package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "gemma", norm: spec.RMSNorm, pairs: halves,
	keys:        func(p *hparams) { p.embdScale = rootOfWidth(p) },
	norms:       plainNorms,
	attention:   attention{bias: maybe},
	feedForward: feedForward{activation: spec.GELUTanh},
	head:        tied,
})
