package convert

// Qwen2 and Qwen2.5: Llama's blocks with biases on q, k and v, in ggml's
// rotary order (conversion/qwen.py, Qwen2Model).
var _ = register(Architecture{
	Name:     "qwen2",
	Classes:  []string{"Qwen2ForCausalLM", "Qwen2Model"},
	Prefixes: []string{"model."},
	Keys:     keys(decoderKeys, []Key{{"pooling_type", u32, poolingType}}),
	Tensors:  rules(embedding, biasedAttention, preNorms, gatedFFN, finalNorm, head),
})
