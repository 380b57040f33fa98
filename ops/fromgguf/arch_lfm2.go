package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

// Layers without key heads are convolutions. The last norm has the name of an
// embedding's.
var _ = register(architecture{
	name: "lfm2", norm: spec.RMSNorm, pairs: halves,
	keys: func(p *hparams) {
		p.convTaps = p.count("shortconv.l_cache", 1<<10)
		if !p.causal {
			p.fail("metadata %q: convolutions that look ahead cannot be run here", p.arch+".attention.causal")
		}
		if window := p.countOr("attention.sliding_window", 0, maxSize); window > 0 {
			p.windowKind, p.window = standardWindow, window
			for i := range p.windowed {
				p.windowed[i] = p.kvHeads[i] > 0
			}
		}
	},
	norms:       plainNorms,
	attention:   attention{bias: maybe, headNorm: perHead},
	feedForward: feedForward{activation: spec.SiLU},
	finalNorm:   "token_embd_norm",
})
