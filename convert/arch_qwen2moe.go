package convert

// Qwen1.5-MoE and Qwen2-57B-A14B: Qwen2 with routed experts and one shared
// expert behind a gate (conversion/qwen.py, Qwen2MoeModel).
var _ = register(Architecture{
	Name:     "qwen2moe",
	Classes:  []string{"Qwen2MoeForCausalLM"},
	Prefixes: []string{"model."},
	Dims: map[string]Dim{
		"expert_ff": {Fields: []string{"moe_intermediate_size"}},
		"shared_ff": {Fields: []string{"shared_expert_intermediate_size"}},
	},
	Keys: keys(decoderKeys, []Key{
		{"expert_feed_forward_length", u32, maybe("moe_intermediate_size")},
		{"expert_shared_feed_forward_length", u32, maybe("shared_expert_intermediate_size")},
	}),
	Tensors: rules(embedding, plainAttention, preNorms,
		needed(notEveryBlockSparse, gatedFFN),
		needed(everySparseStep, rules(
			router,
			experts("layers.{bid}.mlp.experts"),
			sharedExpert("layers.{bid}.mlp.shared_expert"),
			one("layers.{bid}.mlp.shared_expert_gate.weight", block+"ffn_gate_inp_shexp.weight", "1, hidden"),
		)),
		finalNorm, head),
})

// everySparseStep holds for the blocks with experts: every decoder_sparse_step,
// but for those that mlp_only_layers lists.
func everySparseStep(m *Model, bid int) bool {
	only, err := m.Config.Ints("mlp_only_layers")
	if err == nil {
		for _, n := range only {
			if int64(bid) == n {
				return false
			}
		}
	}
	step, err := m.Config.Int("decoder_sparse_step")
	return err != nil || step < 1 || (int64(bid)+1)%step == 0
}

func notEveryBlockSparse(m *Model, bid int) bool { return !everySparseStep(m, bid) }
