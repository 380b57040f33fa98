package convert

// OLMo 2 and 3: norms after the parts of a block, and over all of q and of k.
// OLMo 3 has windows (conversion/olmo.py, Olmo2Model).
var _ = register(Architecture{
	Name:     "olmo2",
	Classes:  []string{"Olmo2ForCausalLM", "Olmo3ForCausalLM"},
	Prefixes: []string{"model."},
	Keys: keys(decoderKeys, []Key{
		{"rope.freq_base_swa", f32, olmo3LocalBase},
		{"attention.sliding_window", u32, maybe("sliding_window")},
		{"attention.sliding_window_pattern", boolean, when(has("sliding_window"), olmo3Sliding)},
	}),
	Tensors: rules(embedding, plainAttention,
		norm("layers.{bid}.self_attn.q_norm", block+"attn_q_norm", "heads*head_dim"),
		norm("layers.{bid}.self_attn.k_norm", block+"attn_k_norm", "kv_heads*head_dim"),
		postNorms, gatedFFN, finalNorm, ownHead),
})

// olmo3Sliding is the blocks with a window: all but every fourth where the
// config does not list them.
func olmo3Sliding(m *Model) (any, error) {
	if v, err := slidingLayers(m); v != nil || err != nil {
		return v, err
	}
	layers, err := m.dim("layers", -1)
	if err != nil {
		return nil, err
	}
	return everyNth(layers, 4), nil
}

// everyNth is true but for every nth block.
func everyNth(layers, n int64) []bool {
	sliding := make([]bool, layers)
	for i := range sliding {
		sliding[i] = (int64(i)+1)%n != 0
	}
	return sliding
}

// olmo3LocalBase: OLMo 3 scales the rotation of the blocks without a window
// only, so its windows have a base of their own.
func olmo3LocalBase(m *Model) (any, error) {
	if m.Class != "Olmo3ForCausalLM" || m.rope.Sliding["rope_theta"] != nil {
		return nil, nil
	}
	return ropeFreqBase(m)
}
