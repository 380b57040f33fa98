package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

// The model of 46 layers scales scores by the width per head.
var _ = register(architecture{
	name: "gemma2", norm: spec.RMSNorm, pairs: halves,
	keys: func(p *hparams) {
		p.embdScale = rootOfWidth(p)
		p.sameRopeInWindow()
		p.swaRope = true
		p.slide(standardWindow, p.countOr("attention.sliding_window", 4096, maxSize), 2, false)
		p.attnSoftCap = p.numberOr("attn_logit_softcapping", 50)
		p.headSoftCap = p.numberOr("final_logit_softcapping", 30)
		if p.layers == 46 {
			p.scaleByWidth()
		}
	},
	norms:       sandwichNorms,
	attention:   attention{bias: maybe},
	feedForward: feedForward{activation: spec.GELUTanh},
	head:        tied,
})
