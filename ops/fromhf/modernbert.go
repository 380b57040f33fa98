package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// ModernBERT: norms before the parts, none before the first attention; a gated
// part whose gate is the first half of one matrix; every third layer sees all
// tokens, the others those near, and turn by another base.
var _ = register(family{
	classes:  []string{"ModernBertModel", "ModernBertForMaskedLM"},
	prefixes: []string{"model."},
	others:   []string{"head.", "decoder."},
	read: func(r *reader) {
		r.modernBERT()
		r.model.Pooling = r.pooling()
	},
})

// Classifiers and rerankers of it, which see the first token or the mean.
var _ = register(family{
	classes:  []string{"ModernBertForSequenceClassification"},
	prefixes: []string{"model."},
	others:   []string{"decoder."},
	read: func(r *reader) {
		norm, bias := r.modernBERT()
		m := r.model
		r.linear(spec.Global(spec.ClassDense), "head.dense", m.Width, m.Width, r.flag("classifier_bias", false))
		r.norm(spec.Global(spec.ClassNorm), "head.norm", m.Width, bias)
		r.linear(spec.Global(spec.ClassOut), "classifier", r.labels(), m.Width, true)
		m.Classifier = &spec.Classifier{Labels: r.labels(), Dense: true, Activation: r.activation("classifier_activation", "gelu"), Norm: norm}
		switch pooling := r.text("classifier_pooling", "cls"); pooling {
		case "cls":
			m.Pooling = spec.PoolCLS
		case "mean":
			m.Pooling = spec.PoolMean
		default:
			r.fail("%s: unknown classifier_pooling %q", r.name, pooling)
		}
	},
})

// modernBERT reads all but what is made of the hidden states, and returns the
// norm that the model has everywhere and whether it has biases.
func (r *reader) modernBERT() (*spec.Norm, bool) {
	r.size()
	m := r.model
	r.embedding("embeddings.tok_embeddings")
	norm, bias := &spec.Norm{Kind: spec.LayerNorm, Eps: r.eps("norm_eps", 1e-5)}, r.flag("norm_bias", false)
	m.Embedding.Norm = norm
	r.norm(spec.Global(spec.EmbdNorm), "embeddings.norm", m.Width, bias)
	attn := r.heads()
	attn.Causal = false
	var global, local *spec.Rope
	if r.has("rope_parameters") {
		global, local = r.ropeOf("full_attention", attn.KeyDim, rotary{}), r.ropeOf("sliding_attention", attn.KeyDim, rotary{})
	} else {
		theta := r.positive("global_rope_theta", 160000)
		global = r.rope(theta, nil, attn.KeyDim, rotary{})
		local = r.rope(r.positive("local_rope_theta", theta), nil, attn.KeyDim, rotary{})
	}
	every := r.dim("global_attn_every_n_layers", 3)
	windowed := r.windowed(r.layerCount("num_hidden_layers"), func(i int) bool { return i%every != 0 })
	attnBias, mlpBias := r.flag("attention_bias", false), r.flag("mlp_bias", false)
	act, inner := r.activation("hidden_activation", "gelu"), r.dim("intermediate_size")
	r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
		a := *attn
		a.Rope = global
		if windowed[l.i] {
			a.Rope, a.Window = local, r.dim("local_attention")
		}
		b := spec.Block{PreFFN: norm, Attention: &a}
		if l.i > 0 {
			b.PreMix = norm
			l.streamNorm(spec.PreMix, "attn_norm", bias)
		}
		l.streamNorm(spec.PreFFN, "mlp_norm", bias)
		l.fusedQKV(&a, "attn.Wqkv", attnBias)
		l.linear(spec.AttnOut, "attn.Wo", m.Width, m.Width, attnBias)
		b.FFN = l.fusedGateUp("mlp.Wi", "mlp.Wo", act, inner, mlpBias)
		return b
	})
	r.finalNorm(norm, "final_norm", bias)
	return norm, bias
}
