package convert

import "github.com/modelpipe/modelpipe/tokenizer"

// EmbeddingGemma: Gemma 3 whose attention sees both ways. The dense layers
// behind the pooling are not part of the file (conversion/gemma.py,
// EmbeddingGemma).
var _ = register(Architecture{
	Name:     "gemma-embedding",
	Classes:  []string{"Gemma3TextModel"},
	Prefixes: []string{"model."},
	Dims:     gemma3Dims,
	Keys: keys(gemma3Keys, []Key{
		{"attention.sliding_window", u32, field("sliding_window")},
		{"pooling_type", u32, poolingType},
	}),
	Tensors: gemma3Tensors,
	Vocab:   tokenizer.Options{Flags: noSpacePrefix, DropAdded: true},
})
