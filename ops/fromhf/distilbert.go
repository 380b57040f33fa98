package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// DistilBERT: a BERT without token types, by other names.
var _ = register(family{
	classes:  []string{"DistilBertModel", "DistilBertForMaskedLM"},
	prefixes: []string{"distilbert."},
	others:   []string{"vocab_transform.", "vocab_layer_norm.", "vocab_projector."},
	buffers:  []string{"embeddings.position_ids"},
	read: func(r *reader) {
		m := r.model
		m.Vocab, m.Width = r.dim("vocab_size"), r.dim("dim")
		r.embedding("embeddings.word_embeddings")
		norm := &spec.Norm{Kind: spec.LayerNorm, Eps: 1e-12}
		r.bertEmbeddings(norm, r.dim("max_position_embeddings"), 0)
		heads := r.dim("n_heads")
		attn := &spec.Attention{Heads: heads, KVHeads: heads, KeyDim: r.headDim(heads)}
		r.checkHeads(attn)
		act, inner := r.activation("activation", "gelu"), r.dim("hidden_dim")
		r.layers("n_layers", "transformer.layer.%d.", func(l layer) spec.Block {
			l.projections(attn, "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", true, true)
			l.streamNorm(spec.SumMix, "sa_layer_norm", true)
			l.streamNorm(spec.SumFFN, "output_layer_norm", true)
			return spec.Block{SumMix: norm, SumFFN: norm, Attention: attn, FFN: l.plainFFN("ffn.lin1", "ffn.lin2", act, inner, true)}
		})
		m.Pooling = r.pooling()
	},
})
