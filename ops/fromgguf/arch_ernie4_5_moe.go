package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "ernie4_5-moe", norm: spec.RMSNorm, pairs: neighbours,
	keys: func(p *hparams) {
		p.expertFF = p.same("expert_feed_forward_length", p.allLayers, -1, maxSize)
		p.need("expert_feed_forward_length", p.expertFF >= 0)
		p.sharedFF = p.countOr("expert_shared_feed_forward_length", 0, maxSize)
		p.moeStep = p.count("interleave_moe_layer_step", maxLayers)
		p.denseLead = p.countOr("leading_dense_block_count", 0, maxLayers)
		if p.moeStep > 1 {
			p.fail("metadata %q is %d: llama.cpp runs 1 only", p.arch+".interleave_moe_layer_step", p.moeStep)
		}
	},
	norms:       plainNorms,
	attention:   attention{bias: maybe},
	feedForward: feedForward{activation: spec.SiLU},
	experts: &experts{
		in: afterDense, inner: expertFF, scoring: spec.ScoreSoftmax, normalize: true, correction: maybe, activation: spec.SiLU,
		shared: func(p *hparams) int { return p.sharedFF },
	},
})
