package convert

// Qwen1.5-MoE and Qwen2-57B-A14B: Qwen2 with routed experts and one shared
// expert behind a gate (conversion/qwen.py, Qwen2MoeModel). ggml wants experts in
// every block.
var _ = register(Architecture{
	Name:     "qwen2moe",
	Classes:  []string{"Qwen2MoeForCausalLM"},
	Prefixes: []string{"model."},
	Dims: map[string]Dim{
		"expert_ff": {Fields: []string{"moe_intermediate_size"}},
		"shared_ff": {Fields: []string{"shared_expert_intermediate_size"}},
	},
	Keys: keys(decoderKeys, moeKeys, []Key{
		{"expert_feed_forward_length", u32, size("expert_ff")},
		{"expert_shared_feed_forward_length", u32, size("shared_ff")},
	}),
	Tensors: rules(embedding, plainAttention, preNorms,
		router,
		experts("layers.{bid}.mlp.experts"),
		sharedExpert("layers.{bid}.mlp.shared_expert"),
		one("layers.{bid}.mlp.shared_expert_gate.weight", block+"ffn_gate_inp_shexp.weight", "1, hidden"),
		finalNorm, ownHead),
})
