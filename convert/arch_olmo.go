package convert

// OLMo 1: Llama whose norms have no weights; some models clamp q, k and v
// (conversion/olmo.py, OlmoModel).
var _ = register(Architecture{
	Name:     "olmo",
	Classes:  []string{"OlmoForCausalLM", "OLMoForCausalLM"},
	Prefixes: []string{"model."},
	Keys: keys(modelKeys, []Key{
		{"rope.freq_base", f32, needFreqBase},
		{"attention.layer_norm_epsilon", f32, fixed(1e-5)}, // not in the config
		{"attention.clamp_kqv", f32, maybe("clip_qkv")},
	}),
	Tensors: rules(embedding, permutedAttention, gatedFFN, head),
})
