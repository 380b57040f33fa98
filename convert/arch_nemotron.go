package convert

// Nemotron 3 and 4 (Minitron): LayerNorms stored less one, no gate, a part of
// each head rotated (conversion/nemotron.py, NemotronModel).
var _ = register(Architecture{
	Name:     "nemotron",
	Classes:  []string{"NemotronForCausalLM"},
	Prefixes: []string{"model."},
	Keys: keys(modelKeys, []Key{
		{"rope.freq_base", f32, needFreqBase},
		{"attention.key_length", u32, size("head_dim")},
		{"attention.value_length", u32, size("head_dim")},
		{"vocab_size", u32, size("vocab")},
		{"attention.layer_norm_epsilon", f32, field("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")},
		{"rope.dimension_count", u32, rotaryDims("hidden/heads", 0)},
		{"rope.scaling.type", str, nemotronScaling},
		{"rope.scaling.factor", f32, nemotronFactor},
	}),
	Tensors: rules(embedding, plainAttention, outputBias,
		norm("layers.{bid}.input_layernorm", block+"attn_norm", "hidden", plusOne),
		norm("layers.{bid}.post_attention_layernorm", block+"ffn_norm", "hidden", plusOne),
		plainFFN("up_proj", "down_proj"),
		complete(norm("norm", "output_norm", "hidden", plusOne)), ownHead),
	VocabKeys: []Key{
		{"tokenizer.ggml.padding_token_id", u32, fixed(int64(0))},
		{"tokenizer.ggml.unknown_token_id", u32, fixed(int64(1))},
	},
})

func nemotronFactor(m *Model) (any, error) {
	if v, _, ok := m.Config.Raw("factor"); ok {
		return v, nil
	}
	return m.rope.Full["factor"], nil
}

func nemotronScaling(m *Model) (any, error) {
	if v, err := nemotronFactor(m); v == nil || err != nil {
		return "none", err
	}
	return "linear", nil
}
