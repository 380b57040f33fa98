package convert

// EXAONE 4: norms after both parts of a block and on the heads of q and k; the
// larger model has windows (conversion/exaone.py, Exaone4Model).
var _ = register(Architecture{
	Name:     "exaone4",
	Classes:  []string{"Exaone4ForCausalLM"},
	Prefixes: []string{"model."},
	Keys: keys(decoderKeys, []Key{
		{"vocab_size", u32, size("vocab")},
		{"attention.sliding_window", u32, maybe("sliding_window")},
		{"attention.sliding_window_pattern", boolean, when(has("sliding_window"), exaone4Sliding)},
	}),
	Tensors:   rules(embedding, plainAttention, headNorms, postNorms, gatedFFN, finalNorm, head),
	Constants: ropeFreqs,
})

// exaone4Sliding reads the blocks with a window from their list, from a
// pattern such as "LLLG", or from the distance of those without.
func exaone4Sliding(m *Model) (any, error) {
	if v, err := slidingLayers(m); v != nil || err != nil {
		return v, err
	}
	layers, err := m.dim("layers", -1)
	if err != nil {
		return nil, err
	}
	v, _, ok := m.Config.Raw("sliding_window_pattern")
	if pattern, isText := v.(string); isText && pattern != "" {
		sliding := make([]bool, layers)
		for i := range sliding {
			sliding[i] = pattern[i%len(pattern)] == 'L'
		}
		return sliding, nil
	}
	if !ok {
		return nil, nil
	}
	n, err := m.Config.Int("sliding_window_pattern")
	if err != nil || n < 1 {
		return nil, err
	}
	return everyNth(layers, n), nil
}
