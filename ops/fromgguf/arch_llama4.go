package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

// Every fourth layer sees all tokens and turns nothing; the others see chunks of
// 8192, whatever the file says. The model of 128 experts has no norms after
// rotation.
var _ = register(architecture{
	name: "llama4", norm: spec.RMSNorm, pairs: neighbours,
	keys: func(p *hparams) {
		p.expertFF = p.same("expert_feed_forward_length", p.allLayers, -1, maxSize)
		p.need("expert_feed_forward_length", p.expertFF >= 0)
		p.moeStep = p.countOr("interleave_moe_layer_step", -1, maxLayers)
		p.need("interleave_moe_layer_step", p.moeStep >= 0)
		if p.experts == 0 || p.countOr("attention.sliding_window", 8192, maxSize) == 0 {
			p.fail("without experts, or with a window of 0, llama.cpp does not run this architecture")
		}
		const span = 8192
		p.slide(chunked, span, 4, false)
		p.temperature, p.temperatureFloor = 0.1, span
		p.sameRopeInWindow()
		p.swaRope = true
		for i := range p.noRope {
			p.noRope[i] = (i+1)%4 == 0
		}
		p.afterRopeNorm = p.experts != 128
	},
	norms:       plainNorms,
	attention:   attention{bias: maybe, factors: freqFactors},
	feedForward: feedForward{activation: spec.SiLU},
	experts: &experts{
		in:    func(p *hparams, layer int) bool { return p.moeStep > 0 && (layer+1)%p.moeStep == 0 },
		inner: expertFF, shared: expertFF, scoring: spec.ScoreSigmoid, weighInput: true, activation: spec.SiLU,
	},
})
