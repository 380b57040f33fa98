package convert

// Llama 4's language model: experts, of which one is shared, in every
// interleave_moe_layer_step-th block. The experts' gate and up are one stack
// with rows of outputs, which are transposed and split (conversion/llama.py,
// Llama4Model). Its config calls the dense blocks' width intermediate_size_mlp
// and the experts' intermediate_size.
var _ = register(Architecture{
	Name:     "llama4",
	Classes:  []string{"Llama4ForCausalLM", "Llama4ForConditionalGeneration"},
	Prefixes: []string{"model."},
	Dims: map[string]Dim{
		"ff":        {Fields: []string{"intermediate_size_mlp"}},
		"expert_ff": {Fields: []string{"intermediate_size"}},
		"shared_ff": {Expr: "expert_ff"},
		"experts":   {Fields: []string{"num_local_experts"}},
	},
	Keys: keys(llamaKeys, moeKeys, []Key{
		{"interleave_moe_layer_step", u32, field("interleave_moe_layer_step")},
		{"expert_feed_forward_length", u32, size("expert_ff")},
		{"attention.sliding_window", u32, llama4Window},
	}),
	Tensors: rules(embedding, plainAttention, preNorms,
		needed(llama4Dense, rules(
			linear("layers.{bid}.feed_forward.gate_proj", block+"ffn_gate", "ff, hidden"),
			linear("layers.{bid}.feed_forward.up_proj", block+"ffn_up", "ff, hidden"),
			linear("layers.{bid}.feed_forward.down_proj", block+"ffn_down", "hidden, ff"),
		)),
		needed(llama4Sparse, rules(
			one("layers.{bid}.feed_forward.router.weight", block+"ffn_gate_inp.weight", "experts, hidden"),
			one("layers.{bid}.feed_forward.experts.gate_up_proj", block+"ffn_gate_exps.weight", "experts, hidden, 2*expert_ff", transpose{}, rows{Count: "expert_ff"}),
			one("layers.{bid}.feed_forward.experts.gate_up_proj", block+"ffn_up_exps.weight", "experts, hidden, 2*expert_ff", transpose{}, rows{Start: "expert_ff", Count: "expert_ff"}),
			one("layers.{bid}.feed_forward.experts.down_proj", block+"ffn_down_exps.weight", "experts, expert_ff, hidden", transpose{}),
			sharedExpert("layers.{bid}.feed_forward.shared_expert"),
		)),
		finalNorm, head),
	Constants: ropeFreqs,
})

// llama4Window is zero for models all of whose blocks see everything.
func llama4Window(m *Model) (any, error) {
	types, err := m.layerTypes()
	if types == nil || err != nil {
		return nil, err
	}
	for _, t := range types {
		if t != "full_attention" {
			return nil, nil
		}
	}
	return int64(0), nil
}

// llama4Sparse holds for the blocks with experts (modeling_llama4.py,
// moe_layers).
func llama4Sparse(m *Model, bid int) bool {
	step, err := m.Config.Int("interleave_moe_layer_step")
	return err == nil && step > 0 && (int64(bid)+1)%step == 0
}

func llama4Dense(m *Model, bid int) bool { return !llama4Sparse(m, bid) }
