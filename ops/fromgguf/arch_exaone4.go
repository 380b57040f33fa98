package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

// llama.cpp knows windows in the model of 64 layers only; there the layers
// without one do not turn queries and keys.
var _ = register(architecture{
	name: "exaone4", norm: spec.RMSNorm, pairs: halves,
	keys: func(p *hparams) {
		if p.layers != 64 {
			return
		}
		p.slide(standardWindow, p.countOr("attention.sliding_window", 4096, maxSize), 4, false)
		for i, windowed := range p.windowed {
			p.noRope[i] = !windowed
		}
	},
	norms:       norms{postMix: "post_attention_norm", postFFN: "post_ffw_norm"},
	attention:   attention{bias: maybe, headNorm: perHead, factors: freqFactors},
	feedForward: feedForward{activation: spec.SiLU},
})
