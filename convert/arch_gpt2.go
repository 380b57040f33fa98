package convert

// GPT-2: its linear layers are Conv1D, whose weights lie transposed; learned
// positions (conversion/gpt2.py, GPT2Model).
var _ = register(Architecture{
	Name:     "gpt2",
	Classes:  []string{"GPT2LMHeadModel", "GPT2Model"},
	Prefixes: []string{"transformer."},
	Dims:     map[string]Dim{"ff": {Fields: []string{"n_inner"}, Expr: "4*hidden"}},
	Keys: []Key{
		{"block_count", u32, size("layers")},
		{"context_length", u32, field("n_ctx", "n_positions")},
		{"embedding_length", u32, size("hidden")},
		{"feed_forward_length", u32, size("ff")},
		{"attention.head_count", u32, size("heads")},
		{"attention.layer_norm_epsilon", f32, field("layer_norm_epsilon")},
	},
	Tensors: rules(
		one("wte.weight", "token_embd.weight", "vocab, hidden"),
		one("wpe.weight", "position_embd.weight", "context, hidden"),
		conv1D("h.{bid}.attn.c_attn", block+"attn_qkv", "3*hidden", "hidden"),
		conv1D("h.{bid}.attn.c_proj", block+"attn_output", "hidden", "hidden"),
		conv1D("h.{bid}.mlp.c_fc", block+"ffn_up", "ff", "hidden"),
		conv1D("h.{bid}.mlp.c_proj", block+"ffn_down", "hidden", "ff"),
		norm("h.{bid}.ln_1", block+"attn_norm", "hidden"),
		norm("h.{bid}.ln_2", block+"ffn_norm", "hidden"),
		complete(norm("ln_f", "output_norm", "hidden")),
		may("lm_head.weight", "output.weight", "vocab, hidden"),
	),
	Drop: []string{"h.{bid}.attn.bias", "h.{bid}.attn.masked_bias"},
})

// conv1D is a linear layer whose weight is stored [in, out].
func conv1D(from, to, out, in string) []Rule {
	return rules(
		one(from+".weight", to+".weight", in+", "+out, transpose{}),
		one(from+".bias", to+".bias", out),
	)
}
