package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "granitemoe", norm: spec.RMSNorm, pairs: neighbours,
	keys: func(p *hparams) {
		p.graniteScales()
	},
	norms:       plainNorms,
	attention:   attention{bias: maybe, outBias: maybe, factors: bothFactors},
	feedForward: feedForward{activation: spec.SiLU, bias: maybe},
	experts: &experts{
		scoring: spec.ScoreSoftmax, normalize: true, activation: spec.SiLU,
		shared: func(p *hparams) int { return p.sharedFF },
	},
})
