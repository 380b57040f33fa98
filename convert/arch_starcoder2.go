package convert

// StarCoder2: Llama's attention with biases, LayerNorms, no gate.
var _ = register(Architecture{
	Name:     "starcoder2",
	Classes:  []string{"Starcoder2ForCausalLM"},
	Prefixes: []string{"model."},
	Keys:     keys(layerNormKeys, []Key{{"rope.freq_base", f32, needFreqBase}}),
	Tensors:  rules(embedding, plainAttention, complete(outputBias), preNorms, complete(plainFFN("c_fc", "c_proj")), complete(finalNorm), head),
})
