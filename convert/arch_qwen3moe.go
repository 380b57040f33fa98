package convert

// Qwen3-30B-A3B and its kin: Qwen3 with routed experts in place of the
// feed-forward part of every block (conversion/qwen.py, Qwen3MoeModel).
var _ = register(Architecture{
	Name:     "qwen3moe",
	Classes:  []string{"Qwen3MoeForCausalLM"},
	Prefixes: []string{"model."},
	Dims:     map[string]Dim{"expert_ff": {Fields: []string{"moe_intermediate_size"}}},
	Keys:     keys(decoderKeys, moeKeys, []Key{{"expert_feed_forward_length", u32, size("expert_ff")}}),
	Tensors: rules(embedding, plainAttention, headNorms, preNorms,
		router, experts("layers.{bid}.mlp.experts"),
		finalNorm, head),
})
