package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

// Models of 26 and 27 layers, and those of 48 with a vocabulary of 128256, are
// lite: they have no q_lora_rank.
var _ = register(architecture{
	name: "deepseek2", norm: spec.RMSNorm, pairs: neighbours,
	keys: func(p *hparams) {
		lite := p.layers == 26 || p.layers == 27 || p.layers == 48 && p.vocab == 128256
		if !lite {
			p.loraQ = p.countOr("attention.q_lora_rank", -1, maxSize)
			p.need("attention.q_lora_rank", p.loraQ >= 0)
		}
		p.loraKV = p.count("attention.kv_lora_rank", maxSize)
		p.keyMLA = p.countOr("attention.key_length_mla", 0, maxHeadDim)
		p.valueMLA = p.countOr("attention.value_length_mla", 0, maxHeadDim)
		if (p.keyMLA == 0) != (p.valueMLA == 0) {
			p.fail("metadata: key_length_mla is %d and value_length_mla %d", p.keyMLA, p.valueMLA)
		}
		p.denseLead = p.countOr("leading_dense_block_count", 0, maxLayers)
		p.expertFF = p.same("expert_feed_forward_length", p.allLayers, -1, maxSize)
		p.need("expert_feed_forward_length", p.expertFF >= 0)
		p.sharedCount = p.count("expert_shared_count", maxExperts)
		p.weightsScale = p.nonzeroOr("expert_weights_scale", 1)
		p.weightsNorm = p.flagOr("expert_weights_norm", false)
		p.gating(spec.ScoreSoftmax)
		if p.countOr("expert_gating_func", 0, 1<<31-1) == 0 && (p.layers == 47 || p.layers == 48) && p.vocab == 154880 {
			p.scoring = spec.ScoreSigmoid
		}
		// The converter writes a tenth of mscale_all_dim.
		p.logMultiplier = p.numberOr("rope.scaling.yarn_log_multiplier", 0) / 0.1
		if p.numberOr("attention.temperature_scale", 0) != 0 {
			p.fail("metadata %q: attention with a temperature cannot be run here", p.arch+".attention.temperature_scale")
		}
	},
	norms:       plainNorms,
	attention:   attention{latent: true},
	feedForward: feedForward{activation: spec.SiLU},
	experts: &experts{
		in: afterDense, inner: expertFF, correction: maybe, mayFuse: true, activation: spec.SiLU,
		shared: func(p *hparams) int { return p.expertFF * p.sharedCount },
	},
})
