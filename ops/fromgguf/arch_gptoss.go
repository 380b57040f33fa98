package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

var _ = register(architecture{
	name: "gpt-oss", norm: spec.RMSNorm, pairs: halves,
	keys: func(p *hparams) {
		p.expertFF = p.same("expert_feed_forward_length", p.allLayers, -1, maxSize)
		p.need("expert_feed_forward_length", p.expertFF >= 0)
		p.sameRopeInWindow()
		p.swaRope = true
		p.slide(standardWindow, p.count("attention.sliding_window", maxSize), 2, false)
	},
	norms:       norms{preMix: "attn_norm", preFFN: "post_attention_norm"},
	attention:   attention{bias: maybe, outBias: always, sinks: true, rotWidth: true},
	feedForward: feedForward{activation: spec.SiLU},
	experts:     &experts{inner: expertFF, scoring: spec.ScoreSoftmaxSelected, bias: always, activation: spec.SwiGLUClamped},
	head:        own,
})
