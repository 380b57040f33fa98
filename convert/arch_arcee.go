package convert

// Arcee AFM: Llama's attention with a feed-forward part without a gate
// (conversion/llama.py, ArceeModel).
var _ = register(Architecture{
	Name:     "arcee",
	Classes:  []string{"ArceeForCausalLM"},
	Prefixes: []string{"model."},
	Keys: keys(llamaKeys, []Key{
		{"pooling_type", u32, poolingType},
	}),
	Tensors:   rules(embedding, permutedAttention, preNorms, unbiased(plainFFN("up_proj", "down_proj")), finalNorm, head),
	Constants: ropeFreqs,
	Vocab:     llamaVocab,
})
