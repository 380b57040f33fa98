package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "gemma-embedding", norm: spec.RMSNorm, pairs: halves,
	keys: func(p *hparams) {
		p.causal = false
		p.embdScale = rootOfWidth(p)
		p.swaRope, p.baseSWA = true, p.numberOr("rope.freq_base_swa", p.baseSWA)
		p.slide(symmetricWindow, p.count("attention.sliding_window", maxSize), 6, false)
	},
	norms:       sandwichNorms,
	attention:   attention{bias: maybe, headNorm: perHead},
	feedForward: feedForward{activation: spec.GELUTanh},
	head:        unusedHead,
})
