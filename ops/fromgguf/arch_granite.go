package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "granite", norm: spec.RMSNorm, pairs: neighbours,
	keys: func(p *hparams) {
		p.graniteScales()
		if !p.flagOr("rope.scaling.finetuned", true) {
			for i := range p.noRope {
				p.noRope[i] = true
			}
		}
	},
	norms:       plainNorms,
	attention:   attention{bias: maybe, outBias: maybe, factors: bothFactors},
	feedForward: feedForward{activation: spec.SiLU, bias: maybe},
	experts: &experts{
		scoring: spec.ScoreSoftmax, normalize: true, activation: spec.SiLU,
		shared: func(p *hparams) int { return p.sharedFF },
	},
})
