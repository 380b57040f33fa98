package convert

// Qwen3, its embedding models and its rerankers: Qwen2 without biases and with
// a norm on each head of q and k (conversion/qwen.py, Qwen3Model).
var _ = register(Architecture{
	Name:     "qwen3",
	Classes:  []string{"Qwen3ForCausalLM", "Qwen3Model"},
	Prefixes: []string{"model."},
	Keys:     keys(decoderKeys, []Key{{"pooling_type", u32, poolingType}}),
	Tensors:  rules(embedding, plainAttention, headNorms, preNorms, gatedFFN, finalNorm, head),
})
