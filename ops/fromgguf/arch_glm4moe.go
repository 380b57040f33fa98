package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "glm4moe", norm: spec.RMSNorm, pairs: halves,
	keys: func(p *hparams) {
		p.expertFF = p.same("expert_feed_forward_length", p.allLayers, -1, maxSize)
		p.need("expert_feed_forward_length", p.expertFF >= 0)
		p.sharedCount = p.countOr("expert_shared_count", -1, maxExperts)
		p.need("expert_shared_count", p.sharedCount >= 0)
		p.denseLead = p.countOr("leading_dense_block_count", 0, maxLayers)
		p.weightsScale = p.nonzeroOr("expert_weights_scale", 1)
		p.weightsNorm = p.flagOr("expert_weights_norm", false)
		p.gating(spec.ScoreSigmoid)
	},
	norms:       norms{preMix: "attn_norm", preFFN: "post_attention_norm"},
	attention:   attention{bias: maybe, headNorm: perHead, optional: true},
	feedForward: feedForward{activation: spec.SiLU},
	experts: &experts{
		in: afterDense, inner: expertFFOrShare, correction: always, activation: spec.SiLU,
		shared: func(p *hparams) int { return expertFFOrShare(p) * p.sharedCount },
	},
})
