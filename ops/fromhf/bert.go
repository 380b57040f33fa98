package fromhf

import (
	"strings"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// BERT and RoBERTa: learned positions, norms of the sums, attention both ways.
// RoBERTa counts positions from pad_token_id+1 on.
var _ = register(family{
	classes: []string{
		"BertModel", "BertForMaskedLM", "RobertaModel", "RobertaForMaskedLM",
		"XLMRobertaModel", "XLMRobertaForMaskedLM", "CamembertModel", "CamembertForMaskedLM",
	},
	prefixes: []string{"bert.", "roberta."},
	others:   []string{"pooler.", "cls.", "lm_head."},
	buffers:  []string{"embeddings.position_ids", "embeddings.token_type_ids"},
	read: func(r *reader) {
		r.bert()
		r.model.Pooling = r.pooling()
	},
})

// Classifiers and rerankers of theirs. BERT's class puts its pooler, a layer
// with tanh, before the last one; RoBERTa's has a layer of its own there.
var _ = register(family{
	classes:  []string{"BertForSequenceClassification", "RobertaForSequenceClassification", "XLMRobertaForSequenceClassification"},
	prefixes: []string{"bert.", "roberta."},
	buffers:  []string{"embeddings.position_ids", "embeddings.token_type_ids"},
	read: func(r *reader) {
		r.bert()
		m := r.model
		dense, out := "classifier.dense", "classifier.out_proj"
		if r.class == "BertForSequenceClassification" {
			dense, out = "pooler.dense", "classifier"
		}
		r.linear(spec.Global(spec.ClassDense), dense, m.Width, m.Width, true)
		r.linear(spec.Global(spec.ClassOut), out, r.labels(), m.Width, true)
		m.Pooling, m.Classifier = spec.PoolCLS, &spec.Classifier{Labels: r.labels(), Dense: true, Activation: spec.Tanh}
	},
})

// labels is the number of a classifier's scores; transformers makes two where
// the config names none.
func (r *reader) labels() int {
	if names := r.object("id2label"); names != nil {
		return len(names.fields)
	}
	return 2
}

// bert reads all but what is made of the hidden states.
func (r *reader) bert() {
	first := 0
	if !strings.HasPrefix(r.class, "Bert") {
		first = r.count("pad_token_id") + 1
	}
	r.only("position_embedding_type", "absolute")
	r.only("is_decoder", false)
	r.size()
	m := r.model
	r.embedding("embeddings.word_embeddings")
	norm := &spec.Norm{Kind: spec.LayerNorm, Eps: r.eps("layer_norm_eps", 1e-12)}
	r.bertEmbeddings(norm, r.dim("max_position_embeddings"), first)
	r.put(spec.Global(spec.TokenTypes), r.matrix("embeddings.token_type_embeddings", r.dim("type_vocab_size"), m.Width))
	attn := r.heads()
	attn.Causal = false
	act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
	r.layers("num_hidden_layers", "encoder.layer.%d.", func(l layer) spec.Block {
		l.projections(attn, "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense", true, true)
		l.streamNorm(spec.SumMix, "attention.output.LayerNorm", true)
		l.streamNorm(spec.SumFFN, "output.LayerNorm", true)
		return spec.Block{SumMix: norm, SumFFN: norm, Attention: attn, FFN: l.plainFFN("intermediate.dense", "output.dense", act, inner, true)}
	})
}

// bertEmbeddings gives the learned positions from row first on, and the
// embedding's norm, their places.
func (r *reader) bertEmbeddings(norm *spec.Norm, positions, first int) {
	m := r.model
	m.Context = positions - first
	if m.Context < 1 {
		r.fail("%s: %d positions, of which the first %d have no token", r.name, positions, first)
		return
	}
	if t := r.numeric("embeddings.position_embeddings.weight", positions, m.Width); t != nil {
		r.put(spec.Global(spec.PositionEmbd), dense(t, int64(first)*int64(m.Width), m.Context, m.Width))
	}
	m.Embedding.Norm = norm
	r.norm(spec.Global(spec.EmbdNorm), "embeddings.LayerNorm", m.Width, true)
}
