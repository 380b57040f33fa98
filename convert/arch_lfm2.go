package convert

import "fmt"

// LFM2: short convolutions in most blocks, attention in some, which have
// key-value heads where the others have none (conversion/lfm2.py, LFM2Model).
var _ = register(Architecture{
	Name:     "lfm2",
	Classes:  []string{"Lfm2ForCausalLM", "LFM2ForCausalLM"},
	Prefixes: []string{"model.", "lfm."},
	Dims: map[string]Dim{
		"ff":      {Calc: lfm2FeedForward},
		"l_cache": {Fields: []string{"conv_L_cache"}},
	},
	Keys: keys(decoderKeys, []Key{
		{"attention.head_count_kv", u32, lfm2KVHeads},
		{"vocab_size", u32, size("vocab")},
		{"shortconv.l_cache", u32, field("conv_L_cache")},
		{"attention.layer_norm_rms_epsilon", f32, field("norm_eps")},
		{"feed_forward_length", u32, size("ff")},
	}),
	Tensors: rules(embedding,
		norm("layers.{bid}.operator_norm", block+"attn_norm", "hidden"),
		norm("layers.{bid}.ffn_norm", block+"ffn_norm", "hidden"),
		needed(lfm2Attention, rules(
			linear("layers.{bid}.self_attn.q_proj", block+"attn_q", "heads*head_dim, hidden"),
			linear("layers.{bid}.self_attn.k_proj", block+"attn_k", "kv_heads*head_dim, hidden"),
			linear("layers.{bid}.self_attn.v_proj", block+"attn_v", "kv_heads*head_dim, hidden"),
			one("layers.{bid}.self_attn.out_proj.weight", block+"attn_output.weight", "hidden, heads*head_dim"),
			norm("layers.{bid}.self_attn.q_layernorm", block+"attn_q_norm", "head_dim"),
			norm("layers.{bid}.self_attn.k_layernorm", block+"attn_k_norm", "head_dim"),
		)),
		needed(lfm2Convolution, rules(
			one("layers.{bid}.conv.in_proj.weight", block+"shortconv.in_proj.weight", "3*hidden, hidden"),
			one("layers.{bid}.conv.out_proj.weight", block+"shortconv.out_proj.weight", "hidden, hidden"),
			one("layers.{bid}.conv.conv.weight", block+"shortconv.conv.weight", "hidden, 1, l_cache", reshape{"hidden, l_cache"}),
		)),
		one("layers.{bid}.feed_forward.w1.weight", block+"ffn_gate.weight", "ff, hidden"),
		one("layers.{bid}.feed_forward.w2.weight", block+"ffn_down.weight", "hidden, ff"),
		one("layers.{bid}.feed_forward.w3.weight", block+"ffn_up.weight", "ff, hidden"),
		norm("embedding_norm", "token_embd_norm", "hidden"),
		head),
})

// lfm2FeedForward applies the config's adjustment to block_ff_dim.
func lfm2FeedForward(m *Model) (int64, error) {
	ff, err := m.Config.Int("block_ff_dim", "intermediate_size")
	if err != nil {
		return 0, err
	}
	adjust, err := m.Config.Bool("block_auto_adjust_ff_dim")
	if err != nil || !adjust {
		return ff, err
	}
	multiple, err := m.Config.Int("block_multiple_of")
	if err != nil {
		return 0, err
	}
	if multiple < 1 || multiple > maxDim || ff < 1 || ff > maxDim {
		return 0, fmt.Errorf("config.json: block_ff_dim %d, block_multiple_of %d are out of range", ff, multiple)
	}
	ff = 2 * ff / 3
	factor, err := m.Config.Float("block_ffn_dim_multiplier")
	switch {
	case err == nil:
		ff = int64(factor * float64(ff))
	case !isMissing(err):
		return 0, err
	}
	return multiple * ((ff + multiple - 1) / multiple), nil
}

// lfm2KVHeads is the number of key-value heads per block, 0 in convolutions.
func lfm2KVHeads(m *Model) (any, error) {
	n, err := m.Config.Int("num_key_value_heads")
	if err != nil {
		return nil, err
	}
	types, err := m.layerTypes()
	if err != nil {
		return nil, err
	}
	if types == nil {
		return nil, missing("layer_types")
	}
	heads := make([]int64, len(types))
	for i, t := range types {
		if t != "conv" {
			heads[i] = n
		}
	}
	return heads, nil
}

func lfm2Convolution(m *Model, bid int) bool {
	types, err := m.layerTypes()
	return err == nil && bid < len(types) && types[bid] == "conv"
}

func lfm2Attention(m *Model, bid int) bool { return !lfm2Convolution(m, bid) }
