package convert

// StableLM 3B and StableLM 2: LayerNorms, a part of each head rotated, on some
// a norm per head (conversion/stablelm.py, StableLMModel).
var _ = register(Architecture{
	Name:     "stablelm",
	Classes:  []string{"StableLmForCausalLM", "StableLMEpochForCausalLM"},
	Prefixes: []string{"model."},
	Keys: []Key{
		{"context_length", u32, field("max_position_embeddings")},
		{"embedding_length", u32, size("hidden")},
		{"block_count", u32, size("layers")},
		{"feed_forward_length", u32, size("ff")},
		{"rope.dimension_count", u32, rotaryDims("hidden/heads", 0)},
		{"attention.head_count", u32, size("heads")},
		{"attention.head_count_kv", u32, field("num_key_value_heads")},
		{"use_parallel_residual", boolean, fieldOr(true, "use_parallel_residual")},
		{"attention.layer_norm_epsilon", f32, field("layer_norm_eps", "norm_eps")},
		{"rope.freq_base", f32, otherFreqBase},
	},
	Tensors: rules(embedding, plainAttention,
		norm("layers.{bid}.input_layernorm", block+"attn_norm", "hidden"),
		optional(norm("layers.{bid}.post_attention_layernorm", block+"ffn_norm", "hidden")),
		[]Rule{
			{From: "layers.{bid}.self_attn.q_layernorm.norms.{eid}.weight", To: block + "attn_q_norm.weight", Shape: "head_dim", Count: "heads"},
			{From: "layers.{bid}.self_attn.k_layernorm.norms.{eid}.weight", To: block + "attn_k_norm.weight", Shape: "head_dim", Count: "kv_heads"},
		},
		gatedFFN, complete(finalNorm), ownHead),
})
