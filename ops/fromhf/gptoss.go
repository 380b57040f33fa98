package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// gpt-oss: a learned sink per head, alternating windows, and experts that are
// stored as x @ W wants them, [experts, in, out], gate and up in alternating
// columns. In MXFP4 they are stored by outputs: blocks of 32 values of a row.
var _ = register(family{
	classes:  []string{"GptOssForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := r.rms(1e-5), r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 150000})
		bias := r.flag("attention_bias", true)
		r.only("hidden_act", "silu")
		windowed := r.windowed(r.layerCount("num_hidden_layers"), func(i int) bool { return i%2 == 0 })
		moe := &spec.MoE{
			Experts: r.dim("num_local_experts"), Used: r.dim(r.either("num_experts_per_tok", "experts_per_token")),
			Inner: r.dim("intermediate_size"), Scoring: spec.ScoreSoftmaxSelected, Scale: 1,
		}
		ffn := spec.FFN{
			Gated: true, Activation: spec.SwiGLUClamped, MoE: moe,
			Alpha: float32(r.positive("swiglu_alpha", 1.702)), Limit: float32(r.positive("swiglu_limit", 7)),
		}
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			a := *attn
			if windowed[l.i] {
				a.Window = r.dim("sliding_window")
			}
			l.streamNorm(spec.PreMix, "input_layernorm", false)
			l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
			l.selfAttn(&a, bias, bias)
			l.put(l.slot(spec.Sinks), l.vector(l.prefix+"self_attn.sinks", a.Heads))
			l.linear(spec.Router, "mlp.router", moe.Experts, l.model.Width, true)
			l.gptossExperts(moe)
			return spec.Block{PreMix: norm, PreFFN: norm, Attention: &a, FFN: ffn}
		})
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("lm_head", false, false)
	},
})

func (l layer) gptossExperts(e *spec.MoE) {
	width := l.model.Width
	inBias := l.numeric(l.prefix+"mlp.experts.gate_up_proj_bias", e.Experts, 2*e.Inner)
	outBias := l.numeric(l.prefix+"mlp.experts.down_proj_bias", e.Experts, width)
	in := l.expertMatrices("mlp.experts.gate_up_proj", e.Experts, 2*e.Inner, width)
	out := l.expertMatrices("mlp.experts.down_proj", e.Experts, width, e.Inner)
	for x := 0; x < e.Experts && l.err == nil; x++ {
		at := func(role spec.Role) spec.Slot { return spec.Slot{Layer: l.i, Role: role, Expert: x} }
		w, b := in(x), dense(inBias, int64(x)*2*int64(e.Inner), 1, 2*e.Inner)
		l.slice(at(spec.Gate), w, b, 2, 0, 1)
		l.slice(at(spec.Up), w, b, 2, 1, 1)
		l.put(at(spec.Down), out(x))
		l.put(biasOf(at(spec.Down)), dense(outBias, int64(x)*int64(width), 1, width))
	}
}

// expertMatrices returns the matrix [rows, cols] of each expert: stored
// transposed, or in MXFP4.
func (l layer) expertMatrices(name string, experts, rows, cols int) func(x int) spec.Weight {
	if l.scheme != nil && l.scheme.mxfp4 {
		return l.mxfp4Matrices(name, experts, rows, cols)
	}
	t := l.numeric(l.prefix+name, experts, cols, rows)
	return func(x int) spec.Weight {
		return transposed(t, int64(x)*int64(rows)*int64(cols), cols, rows)
	}
}
