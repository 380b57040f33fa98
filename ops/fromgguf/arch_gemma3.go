package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

// The model of 62 layers scales scores by the width per head. Layers with a
// window have a rotary base of their own and no scaling.
var _ = register(architecture{
	name: "gemma3", norm: spec.RMSNorm, pairs: halves,
	keys: func(p *hparams) {
		p.embdScale = rootOfWidth(p)
		if window := p.countOr("attention.sliding_window", 0, maxSize); window > 0 {
			p.swaRope, p.baseSWA = true, p.numberOr("rope.freq_base_swa", p.baseSWA)
			p.slide(standardWindow, window, 6, false)
		}
		p.headSoftCap = p.numberOr("final_logit_softcapping", 0)
		if p.layers == 62 {
			p.scaleByWidth()
		}
	},
	norms:       sandwichNorms,
	attention:   attention{bias: maybe, headNorm: perHead},
	feedForward: feedForward{activation: spec.GELUTanh},
})
