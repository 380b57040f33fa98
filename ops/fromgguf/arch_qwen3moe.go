package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "qwen3moe", norm: spec.RMSNorm, pairs: halves,
	keys: func(p *hparams) {
		needExperts(p)
		p.expertFF = p.same("expert_feed_forward_length", p.allLayers, 0, maxSize)
	},
	norms:       plainNorms,
	attention:   attention{bias: maybe, headNorm: perHead},
	feedForward: feedForward{activation: spec.SiLU},
	experts:     &experts{inner: expertFFOrShare, scoring: spec.ScoreSoftmax, normalize: true, activation: spec.SiLU},
})
