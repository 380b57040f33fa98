package convert

// Qwen3-30B-A3B and its kin: Qwen3 with routed experts in place of the
// feed-forward part (conversion/qwen.py, Qwen3MoeModel).
var _ = register(Architecture{
	Name:     "qwen3moe",
	Classes:  []string{"Qwen3MoeForCausalLM"},
	Prefixes: []string{"model."},
	Dims:     map[string]Dim{"expert_ff": {Fields: []string{"moe_intermediate_size"}}},
	Keys:     keys(decoderKeys, []Key{{"expert_feed_forward_length", u32, maybe("moe_intermediate_size")}}),
	Tensors: rules(embedding, plainAttention, headNorms, preNorms,
		needed(notEveryBlockSparse, gatedFFN),
		needed(everySparseStep, rules(router, experts("layers.{bid}.mlp.experts"))),
		finalNorm, head),
})
