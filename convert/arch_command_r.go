package convert

// Command R and Aya: attention and feed-forward part beside each other behind
// one norm (conversion/command_r.py, CommandR2Model).
var _ = register(Architecture{
	Name:     "command-r",
	Classes:  []string{"CohereForCausalLM"},
	Prefixes: []string{"model."},
	Dims:     map[string]Dim{"head_dim": {Expr: "hidden/heads"}},
	Keys: keys(layerNormKeys, []Key{
		{"rope.freq_base", f32, needFreqBase},
		// max_position_embeddings is less than what the model was trained on.
		{"context_length", u32, field("model_max_length", "max_position_embeddings")},
		{"logit_scale", f32, field("logit_scale")},
		{"rope.scaling.type", str, fixed("none")},
	}),
	Tensors: rules(embedding, plainAttention,
		norm("layers.{bid}.input_layernorm", block+"attn_norm", "hidden"),
		may("layers.{bid}.self_attn.q_norm.weight", block+"attn_q_norm.weight", "heads, head_dim"),
		may("layers.{bid}.self_attn.k_norm.weight", block+"attn_k_norm.weight", "kv_heads, head_dim"),
		gatedFFN, finalNorm, optional(head)),
})
