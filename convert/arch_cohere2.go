package convert

// Command R7B: attention and feed-forward part beside each other behind one
// norm, windows in three of four blocks (conversion/command_r.py,
// Cohere2Model).
var _ = register(Architecture{
	Name:     "cohere2",
	Classes:  []string{"Cohere2ForCausalLM"},
	Prefixes: []string{"model."},
	Dims:     map[string]Dim{"head_dim": {Expr: "hidden/heads"}},
	Keys: keys(layerNormKeys, []Key{
		{"rope.freq_base", f32, needFreqBase},
		{"attention.key_length", u32, size("head_dim")},
		{"attention.value_length", u32, size("head_dim")},
		{"logit_scale", f32, field("logit_scale")},
		{"attention.sliding_window", u32, field("sliding_window")},
		{"vocab_size", u32, size("vocab")},
		{"rope.dimension_count", u32, rotaryDims("hidden/heads", 1)},
		{"rope.scaling.type", str, fixed("none")},
	}),
	Tensors: rules(embedding, plainAttention,
		norm("layers.{bid}.input_layernorm", block+"attn_norm", "hidden"),
		gatedFFN, finalNorm, optional(head)),
})
