package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "qwen2moe", norm: spec.RMSNorm, pairs: halves,
	keys: func(p *hparams) {
		needExperts(p)
		p.expertFF = p.same("expert_feed_forward_length", p.allLayers, 0, maxSize)
		if p.sharedFF = p.countOr("expert_shared_feed_forward_length", 0, maxSize); p.sharedFF == 0 {
			p.sharedFF = p.ff
		}
	},
	norms:       plainNorms,
	attention:   attention{bias: maybe},
	feedForward: feedForward{activation: spec.SiLU},
	experts: &experts{
		inner: expertFFOrShare, scoring: spec.ScoreSoftmax, activation: spec.SiLU,
		shared: func(p *hparams) int { return p.sharedFF }, sharedGate: true,
	},
	head: own,
})
