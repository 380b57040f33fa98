package convert

import "github.com/modelpipe/modelpipe/tokenizer"

// Phi-1, 1.5 and 2: one norm per block for both parts, biases everywhere, a
// part of each head rotated (conversion/phi.py, Phi2Model).
var _ = register(Architecture{
	Name:     "phi2",
	Classes:  []string{"PhiForCausalLM"},
	Prefixes: []string{"model."},
	Dims: map[string]Dim{
		"kv_heads": {Expr: "heads"},
		"ff":       {Expr: "4*hidden"},
	},
	Keys: []Key{
		{"context_length", u32, field("n_positions", "max_position_embeddings")},
		{"embedding_length", u32, size("hidden")},
		{"feed_forward_length", u32, size("ff")},
		{"block_count", u32, size("layers")},
		{"attention.head_count", u32, size("heads")},
		{"attention.head_count_kv", u32, size("heads")},
		{"attention.layer_norm_epsilon", f32, field("layer_norm_epsilon", "layer_norm_eps")},
		{"rope.dimension_count", u32, rotaryDims("hidden/heads", 0)},
		{"rope.freq_base", f32, otherFreqBase},
	},
	Tensors: rules(embedding,
		linear("layers.{bid}.self_attn.q_proj", block+"attn_q", "hidden, hidden"),
		linear("layers.{bid}.self_attn.k_proj", block+"attn_k", "hidden, hidden"),
		linear("layers.{bid}.self_attn.v_proj", block+"attn_v", "hidden, hidden"),
		complete(linear("layers.{bid}.self_attn.dense", block+"attn_output", "hidden, hidden")),
		norm("layers.{bid}.input_layernorm", block+"attn_norm", "hidden"),
		complete(plainFFN("fc1", "fc2")),
		complete(norm("final_layernorm", "output_norm", "hidden")),
		complete(head)),
	Vocab: tokenizer.Options{Flags: []tokenizer.FlagRule{{Name: "add_bos_token", Value: false}}},
})
