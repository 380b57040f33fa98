package convert

// Granite 3: Llama with four multipliers (conversion/granite.py,
// GraniteModel).
var _ = register(Architecture{
	Name:      "granite",
	Classes:   []string{"GraniteForCausalLM"},
	Prefixes:  []string{"model."},
	Dims:      graniteDims,
	Keys:      graniteKeys,
	Tensors:   rules(embedding, permutedAttention, outputBias, preNorms, gatedFFN, ffnBiases, finalNorm, head),
	Constants: ropeFreqs,
	Vocab:     llamaVocab,
})

// graniteDims: Granite does not have a head_dim of its own.
var graniteDims = map[string]Dim{"head_dim": {Expr: "hidden/heads"}}

var graniteKeys = keys(without(decoderKeys, "attention.key_length", "attention.value_length"), []Key{
	{"vocab_size", u32, size("vocab")},
	{"rope.dimension_count", u32, size("head_dim")},
	{"attention.scale", f32, nonzero("attention_multiplier")},
	{"embedding_scale", f32, nonzero("embedding_multiplier")},
	{"residual_scale", f32, nonzero("residual_multiplier")},
	{"logit_scale", f32, nonzero("logits_scaling")},
})
