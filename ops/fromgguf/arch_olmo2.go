package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

// Layers with a window, which OLMo 3 has, turn without any scaling.
var _ = register(architecture{
	name: "olmo2", norm: spec.RMSNorm, pairs: halves,
	keys: func(p *hparams) {
		if window := p.countOr("attention.sliding_window", 0, maxSize); window > 0 {
			p.swaPlain = true
			p.slide(standardWindow, window, 4, false)
		}
	},
	norms:       norms{postMix: "post_attention_norm", postFFN: "post_ffw_norm"},
	attention:   attention{bias: maybe, headNorm: wholeHeads},
	feedForward: feedForward{activation: spec.SiLU},
	head:        own,
})
