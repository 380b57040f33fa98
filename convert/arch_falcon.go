package convert

import "errors"

// Falcon: q, k and v are fused by key-value group, and reordered to all q, all
// k, all v (conversion/falcon.py, FalconModel).
var _ = register(Architecture{
	Name:     "falcon",
	Classes:  []string{"FalconForCausalLM", "RWForCausalLM"},
	Prefixes: []string{"transformer."},
	Dims: map[string]Dim{
		"kv_heads": {Calc: falconKVHeads},
		"ff":       {Fields: []string{"ffn_hidden_size"}, Expr: "4*hidden"},
		"group":    {Expr: "heads/kv_heads+2"},
	},
	Keys: []Key{
		{"context_length", u32, fixed(int64(2048))}, // not in the config
		{"tensor_data_layout", str, fixed("jploski")},
		{"embedding_length", u32, size("hidden")},
		{"feed_forward_length", u32, size("ff")},
		{"block_count", u32, size("layers")},
		{"attention.head_count", u32, size("heads")},
		{"attention.head_count_kv", u32, size("kv_heads")},
		{"attention.layer_norm_epsilon", f32, field("layer_norm_epsilon")},
		{"rope.freq_base", f32, otherFreqBase},
	},
	Tensors: rules(
		one("word_embeddings.weight", "token_embd.weight", "vocab, hidden"),
		one("h.{bid}.self_attention.query_key_value.weight", block+"attn_qkv.weight", "kv_heads*group*head_dim, hidden",
			ungroup{Every: "group*head_dim", Parts: []string{"(group-2)*head_dim", "head_dim", "head_dim"}}),
		one("h.{bid}.self_attention.dense.weight", block+"attn_output.weight", "hidden, hidden"),
		one("h.{bid}.mlp.dense_h_to_4h.weight", block+"ffn_up.weight", "ff, hidden"),
		one("h.{bid}.mlp.dense_4h_to_h.weight", block+"ffn_down.weight", "hidden, ff"),
		needed(falconOneNorm, norm("h.{bid}.input_layernorm", block+"attn_norm", "hidden")),
		needed(falconTwoNorms, norm("h.{bid}.ln_mlp", block+"attn_norm", "hidden")),
		needed(falconTwoNorms, norm("h.{bid}.ln_attn", block+"attn_norm_2", "hidden")),
		complete(norm("ln_f", "output_norm", "hidden")),
		may("lm_head.weight", "output.weight", "vocab, hidden"),
	),
})

// falconKVHeads is 1 in the old multi-query models, whatever num_kv_heads says
// there (modeling_falcon.py, FalconAttention).
func falconKVHeads(m *Model) (int64, error) {
	newDecoder, err := m.Config.Bool("new_decoder_architecture")
	if err != nil {
		return 0, err
	}
	alibi, err := m.Config.Bool("alibi")
	if err != nil {
		return 0, err
	}
	if alibi {
		return 0, errors.New("config.json: alibi: ggml's Falcon has rotary positions only")
	}
	if newDecoder || m.Config.Has("n_head_kv") { // the first 40B's config
		return m.Config.Int("num_kv_heads", "n_head_kv")
	}
	if multi, err := m.Config.Bool("multi_query"); multi || err != nil {
		return 1, err
	}
	return m.dim("heads", -1)
}

// falconTwoNorms holds for models with a norm for each of the parallel parts.
func falconTwoNorms(m *Model, _ int) bool {
	newDecoder, _ := m.Config.Bool("new_decoder_architecture")
	norms, err := m.Config.Int("num_ln_in_parallel_attn")
	return (newDecoder || m.Config.Has("n_head_kv")) && (err != nil || norms == 2)
}

func falconOneNorm(m *Model, bid int) bool { return !falconTwoNorms(m, bid) }
