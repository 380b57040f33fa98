package convert

// Granite-MoE, with and without a shared expert: the experts' gate and up are
// one stack, split here (conversion/granite.py, GraniteMoeModel).
var _ = register(Architecture{
	Name:     "granitemoe",
	Classes:  []string{"GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"},
	Prefixes: []string{"model."},
	Dims: map[string]Dim{
		"head_dim":  {Expr: "hidden/heads"},
		"shared_ff": {Fields: []string{"shared_intermediate_size"}},
	},
	Keys: keys(graniteKeys, moeKeys, []Key{{"expert_shared_feed_forward_length", u32, nonzero("shared_intermediate_size")}}),
	Tensors: rules(embedding, permutedAttention, outputBias, preNorms,
		one("layers.{bid}.block_sparse_moe.router.layer.weight", block+"ffn_gate_inp.weight", "experts, hidden"),
		one("layers.{bid}.block_sparse_moe.input_linear.weight", block+"ffn_gate_exps.weight", "experts, 2*ff, hidden", rows{Count: "ff"}),
		one("layers.{bid}.block_sparse_moe.input_linear.weight", block+"ffn_up_exps.weight", "experts, 2*ff, hidden", rows{Start: "ff", Count: "ff"}),
		one("layers.{bid}.block_sparse_moe.output_linear.weight", block+"ffn_down_exps.weight", "experts, hidden, ff"),
		may("layers.{bid}.shared_mlp.input_linear.weight", block+"ffn_gate_shexp.weight", "2*shared_ff, hidden", rows{Count: "shared_ff"}),
		may("layers.{bid}.shared_mlp.input_linear.weight", block+"ffn_up_shexp.weight", "2*shared_ff, hidden", rows{Start: "shared_ff", Count: "shared_ff"}),
		may("layers.{bid}.shared_mlp.output_linear.weight", block+"ffn_down_shexp.weight", "hidden, shared_ff"),
		finalNorm, head),
	Constants: ropeFreqs,
	Vocab:     llamaVocab,
})
