package convert

// SmolLM3: Llama, some of whose blocks have no rotary positions, which
// llama.cpp knows (conversion/llama.py, SmolLM3Model).
var _ = register(Architecture{
	Name:     "smollm3",
	Classes:  []string{"SmolLM3ForCausalLM"},
	Prefixes: []string{"model."},
	Keys: keys(decoderKeys, []Key{
		{"vocab_size", u32, size("vocab")},
		{"rope.dimension_count", u32, size("head_dim")},
	}),
	Tensors:   rules(embedding, permutedAttention, preNorms, gatedFFN, finalNorm, head),
	Constants: ropeFreqs,
	Vocab:     llamaVocab,
})
