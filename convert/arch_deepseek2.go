package convert

// DeepSeek-V2 and V3: latent attention. kv_b is split into k_b, transposed, and
// v_b, so that ggml can run it as attention with one key-value head; layers
// for multi-token prediction are left out (conversion/deepseek.py,
// DeepseekV2Model).
var _ = register(Architecture{
	Name:     "deepseek2",
	Classes:  []string{"DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"},
	Prefixes: []string{"model."},
	Dims: map[string]Dim{
		"kv_heads":  {Fields: []string{"num_key_value_heads"}, Expr: "heads"},
		"nope":      {Fields: []string{"qk_nope_head_dim"}},
		"rope_dim":  {Fields: []string{"qk_rope_head_dim"}},
		"v_dim":     {Fields: []string{"v_head_dim"}},
		"q_rank":    {Fields: []string{"q_lora_rank"}},
		"kv_rank":   {Fields: []string{"kv_lora_rank"}},
		"expert_ff": {Fields: []string{"moe_intermediate_size"}},
		"shared":    {Fields: []string{"n_shared_experts"}},
		"shared_ff": {Expr: "shared*expert_ff"},
		"experts":   {Fields: []string{"n_routed_experts"}},
	},
	Keys: keys(decoderKeys, []Key{
		{"attention.head_count_kv", u32, fixed(int64(1))},
		{"expert_used_count", u32, when(has("n_routed_experts"), field("num_experts_per_tok"))},
		{"leading_dense_block_count", u32, deepseekDenseBlocks},
		{"vocab_size", u32, size("vocab")},
		{"attention.q_lora_rank", u32, maybe("q_lora_rank")},
		{"attention.kv_lora_rank", u32, size("kv_rank")},
		{"attention.key_length", u32, size("kv_rank+rope_dim")},
		{"attention.value_length", u32, size("kv_rank")},
		{"attention.key_length_mla", u32, size("nope+rope_dim")},
		{"attention.value_length_mla", u32, size("v_dim")},
		{"expert_feed_forward_length", u32, field("moe_intermediate_size", "intermediate_size")},
		{"expert_shared_count", u32, fieldOr(int64(0), "n_shared_experts")},
		{"expert_weights_scale", f32, maybe("routed_scaling_factor")},
		{"expert_weights_norm", boolean, when(isTrue("norm_topk_prob"), fixed(true))},
		{"rope.dimension_count", u32, size("rope_dim")},
		{"rope.scaling.yarn_log_multiplier", f32, deepseekLogMultiplier},
	}),
	Tensors: rules(embedding,
		needed(hasQueryRank, rules(
			one("layers.{bid}.self_attn.q_a_proj.weight", block+"attn_q_a.weight", "q_rank, hidden"),
			norm("layers.{bid}.self_attn.q_a_layernorm", block+"attn_q_a_norm", "q_rank"),
			one("layers.{bid}.self_attn.q_b_proj.weight", block+"attn_q_b.weight", "heads*(nope+rope_dim), q_rank"),
		)),
		needed(lacksQueryRank, one("layers.{bid}.self_attn.q_proj.weight", block+"attn_q.weight", "heads*(nope+rope_dim), hidden")),
		one("layers.{bid}.self_attn.kv_a_proj_with_mqa.weight", block+"attn_kv_a_mqa.weight", "kv_rank+rope_dim, hidden"),
		norm("layers.{bid}.self_attn.kv_a_layernorm", block+"attn_kv_a_norm", "kv_rank"),
		one("layers.{bid}.self_attn.kv_b_proj.weight", block+"attn_k_b.weight", "kv_heads*(nope+v_dim), kv_rank",
			rows{Every: "nope+v_dim", Count: "nope"}, reshape{"kv_heads, nope, kv_rank"}, transpose{}),
		one("layers.{bid}.self_attn.kv_b_proj.weight", block+"attn_v_b.weight", "kv_heads*(nope+v_dim), kv_rank",
			rows{Every: "nope+v_dim", Start: "nope", Count: "v_dim"}, reshape{"kv_heads, v_dim, kv_rank"}),
		one("layers.{bid}.self_attn.o_proj.weight", block+"attn_output.weight", "hidden, heads*v_dim"),
		preNorms,
		needed(leadingDense, gatedFFN),
		needed(afterLeadingDense, rules(router, experts("layers.{bid}.mlp.experts"), sharedExpert("layers.{bid}.mlp.shared_experts"))),
		finalNorm, head),
	Ignore: deepseekIgnored,
})

// hasQueryRank holds for models whose queries are compressed too.
func hasQueryRank(m *Model, _ int) bool { return m.Config.Has("q_lora_rank") }

func lacksQueryRank(m *Model, _ int) bool { return !m.Config.Has("q_lora_rank") }

// deepseekDenseBlocks is the number of blocks without experts, which come
// first; a model without experts has only such.
func deepseekDenseBlocks(m *Model) (any, error) {
	if !m.Config.Has("first_k_dense_replace") && m.Config.Has("n_routed_experts") {
		return int64(0), nil
	}
	if !m.Config.Has("first_k_dense_replace") {
		return wrapInt(m.dim("layers", -1))
	}
	return wrapInt(m.Config.Int("first_k_dense_replace"))
}

// leadingDense holds for the first blocks, which have no experts.
func leadingDense(m *Model, bid int) bool {
	v, err := deepseekDenseBlocks(m)
	if err != nil {
		return false
	}
	n := v.(int64)
	return int64(bid) < n
}

func afterLeadingDense(m *Model, bid int) bool { return !leadingDense(m, bid) }

func deepseekLogMultiplier(m *Model) (any, error) {
	v, ok, err := m.rope.number("mscale_all_dim")
	if !ok || err != nil {
		return nil, err
	}
	return 0.1 * v, nil
}

// deepseekIgnored holds for the blocks after the last, which predict further
// tokens, and for the head of a model that shares it with the embedding.
func deepseekIgnored(m *Model, name string) bool {
	if tied, err := m.Config.Bool("tie_word_embeddings"); err == nil && tied && name == "lm_head.weight" {
		return true
	}
	return afterLastBlock(m, name)
}
