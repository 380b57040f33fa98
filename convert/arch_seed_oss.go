package convert

// Seed-OSS: Qwen2's blocks with a head_dim of its own; the second norm of a
// block is called post_attention_norm by ggml.
var _ = register(Architecture{
	Name:     "seed_oss",
	Classes:  []string{"SeedOssForCausalLM"},
	Prefixes: []string{"model."},
	Keys:     decoderKeys,
	Tensors: rules(embedding, plainAttention,
		norm("layers.{bid}.input_layernorm", block+"attn_norm", "hidden"),
		norm("layers.{bid}.post_attention_layernorm", block+"post_attention_norm", "hidden"),
		gatedFFN, finalNorm, head),
})
