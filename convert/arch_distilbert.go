package convert

import "github.com/modelpipe/modelpipe/tokenizer"

// DistilBERT: BERT without token types and with names of its own
// (conversion/bert.py, DistilBertModel).
var _ = register(Architecture{
	Name:     "bert",
	Classes:  []string{"DistilBertModel", "DistilBertForMaskedLM", "DistilBertForSequenceClassification"},
	Prefixes: []string{"distilbert."},
	Dims: map[string]Dim{
		"ff":        {Fields: []string{"hidden_dim"}},
		"positions": {Expr: "context"},
		"labels":    {Calc: countLabels},
	},
	Keys: keys(without(bertKeys, "attention.layer_norm_epsilon"), []Key{
		{"attention.layer_norm_epsilon", f32, fixed(1e-12)}, // not in the config
	}),
	Tensors: rules(
		one("embeddings.word_embeddings.weight", "token_embd.weight", "vocab, hidden"),
		one("embeddings.position_embeddings.weight", "position_embd.weight", "positions, hidden"),
		complete(norm("embeddings.LayerNorm", "token_embd_norm", "hidden")),
		complete(linear("transformer.layer.{bid}.attention.q_lin", block+"attn_q", "hidden, hidden")),
		complete(linear("transformer.layer.{bid}.attention.k_lin", block+"attn_k", "hidden, hidden")),
		complete(linear("transformer.layer.{bid}.attention.v_lin", block+"attn_v", "hidden, hidden")),
		complete(linear("transformer.layer.{bid}.attention.out_lin", block+"attn_output", "hidden, hidden")),
		complete(norm("transformer.layer.{bid}.sa_layer_norm", block+"attn_output_norm", "hidden")),
		complete(linear("transformer.layer.{bid}.ffn.lin1", block+"ffn_up", "ff, hidden")),
		complete(linear("transformer.layer.{bid}.ffn.lin2", block+"ffn_down", "hidden, ff")),
		complete(norm("transformer.layer.{bid}.output_layer_norm", block+"layer_output_norm", "hidden")),
		optional(linear("pre_classifier", "cls", "hidden, hidden")),
		optional(linear("classifier", "cls.output", "labels, hidden")),
	),
	Drop: []string{
		"vocab_transform.weight", "vocab_transform.bias", "vocab_layer_norm.weight", "vocab_layer_norm.bias",
		"vocab_projector.weight", "vocab_projector.bias",
	},
	Vocab: tokenizer.Options{Kinds: []tokenizer.Kind{tokenizer.KindWordPiece}},
})
