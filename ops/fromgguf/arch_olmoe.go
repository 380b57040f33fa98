package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "olmoe", norm: spec.RMSNorm, pairs: halves,
	keys:        needExperts,
	norms:       plainNorms,
	attention:   attention{bias: maybe, headNorm: wholeHeads},
	feedForward: feedForward{activation: spec.SiLU},
	experts:     &experts{scoring: spec.ScoreSoftmax, activation: spec.SiLU},
	head:        own,
})
