package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

// The first block has no norm before its attention. hidden_activation names the
// function of the gate; names that llama.cpp does not know are GELU there too.
var _ = register(architecture{
	name: "modern-bert", norm: spec.LayerNorm, pairs: halves,
	keys: func(p *hparams) {
		if window := p.countOr("attention.sliding_window", 0, maxSize); window > 0 {
			p.swaRope, p.baseSWA = true, p.numberOr("rope.freq_base_swa", p.baseSWA)
			p.slide(symmetricWindow, window, 3, true)
		}
		switch p.textOr("hidden_activation", "gelu") {
		case "silu", "swish", "swiglu":
			p.activation = spec.SiLU
		case "reglu":
			p.activation = spec.ReLU
		case "relu":
			p.fail("metadata %q: relu without a gate cannot be run here", p.arch+".hidden_activation")
		}
	},
	embedding: embedding{norm: true},
	norms: norms{preMix: "attn_norm", preFFN: "ffn_norm", adjust: func(b *builder, layer int, n *norms) {
		if layer == 0 && !b.has("blk.0.attn_norm.weight") {
			n.preMix = ""
		}
	}},
	attention:   attention{fused: onlyFused},
	feedForward: feedForward{form: fusedGate, activation: spec.GELUTanh},
	head:        noHead,
	classifier:  pooledHead,
})
