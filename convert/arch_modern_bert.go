package convert

import "fmt"

// ModernBERT: rotary positions with windows, no biases, and a gate beside the
// values in one projection (conversion/bert.py, ModernBertModel).
var _ = register(Architecture{
	Name:     "modern-bert",
	Classes:  []string{"ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"},
	Prefixes: []string{"model."},
	Dims:     map[string]Dim{"labels": {Calc: countLabels}},
	Keys: keys(layerNormKeys, []Key{
		{"rope.freq_base", f32, needFreqBase},
		{"attention.causal", boolean, fixed(false)},
		{"pooling_type", u32, poolingType},
		{"classifier.pooling_type", u32, classifierPooling},
		{"classifier.output_labels", str, classLabels},
		{"attention.sliding_window", u32, field("local_attention")},
		{"attention.sliding_window_pattern", u32, maybe("global_attn_every_n_layers")},
		{"rope.scaling.type", str, fixed("none")},
		{"vocab_size", u32, size("vocab")},
		{"hidden_activation", str, maybe("hidden_activation")},
		{"tokenizer.ggml.add_bos_token", boolean, fixed(true)},
		{"tokenizer.ggml.add_eos_token", boolean, fixed(true)},
		{"tokenizer.ggml.add_sep_token", boolean, fixed(true)}, // unless the tokenizer says otherwise
	}),
	Tensors: rules(
		one("embeddings.tok_embeddings.weight", "token_embd.weight", "vocab, hidden"),
		norm("embeddings.norm", "token_embd_norm", "hidden"),
		one("layers.{bid}.attn.Wqkv.weight", block+"attn_qkv.weight", "3*hidden, hidden"),
		one("layers.{bid}.attn.Wo.weight", block+"attn_output.weight", "hidden, hidden"),
		// The first block has the embedding's norm before it.
		needed(notFirst, norm("layers.{bid}.attn_norm", block+"attn_norm", "hidden")),
		one("layers.{bid}.mlp.Wi.weight", block+"ffn_up.weight", "2*ff, hidden"),
		one("layers.{bid}.mlp.Wo.weight", block+"ffn_down.weight", "hidden, ff"),
		norm("layers.{bid}.mlp_norm", block+"ffn_norm", "hidden"),
		norm("final_norm", "output_norm", "hidden"),
		may("head.dense.weight", "cls.weight", "hidden, hidden"),
		may("head.norm.weight", "cls.norm.weight", "hidden"),
		may("classifier.weight", "cls.output.weight", "labels, hidden"),
		may("classifier.bias", "cls.output.bias", "labels"),
	),
	Drop: []string{"decoder.weight", "decoder.bias"},
})

func notFirst(_ *Model, bid int) bool { return bid > 0 }

// classifierPooling is which embedding a classifier's head sees.
func classifierPooling(m *Model) (any, error) {
	v, _, ok := m.Config.Raw("classifier_pooling")
	switch {
	case !ok:
		return nil, nil
	case v == "mean":
		return int64(1), nil
	case v == "cls":
		return int64(2), nil
	}
	return nil, fmt.Errorf("config.json: classifier_pooling: want cls or mean, got %v", v)
}
