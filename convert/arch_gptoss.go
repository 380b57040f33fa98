package convert

// gpt-oss: attention sinks, windows in every other block, experts with biases
// whose gate and up rows alternate. The experts are MXFP4 in the published
// checkpoints and copied as they are (conversion/gpt_oss.py, GptOssModel).
var _ = register(Architecture{
	Name:     "gpt-oss",
	Classes:  []string{"GptOssForCausalLM"},
	Prefixes: []string{"model."},
	Rope: map[string]any{
		"rope_type": "yarn", "factor": 32.0, originalLength: int64(4096), "beta_fast": 32.0, "beta_slow": 1.0,
	},
	Keys: keys(decoderKeys, moeKeys, []Key{
		{"attention.sliding_window", u32, field("sliding_window")},
		{"expert_feed_forward_length", u32, size("ff")},
	}),
	Tensors: rules(embedding, plainAttention, complete(outputBias),
		one("layers.{bid}.self_attn.sinks", block+"attn_sinks.weight", "heads"),
		norm("layers.{bid}.input_layernorm", block+"attn_norm", "hidden"),
		norm("layers.{bid}.post_attention_layernorm", block+"post_attention_norm", "hidden"),
		one("layers.{bid}.mlp.router.weight", block+"ffn_gate_inp.weight", "experts, hidden"),
		one("layers.{bid}.mlp.router.bias", block+"ffn_gate_inp.bias", "experts"),
		gptossExperts("", "experts, hidden, 2*ff", "experts, ff, hidden", transpose{}),
		gptossExperts("MXFP4", "experts, 2*ff, hidden", "experts, hidden, ff"),
		one("layers.{bid}.mlp.experts.gate_up_proj_bias", block+"ffn_gate_exps.bias", "experts, 2*ff", alternate("0")...),
		one("layers.{bid}.mlp.experts.gate_up_proj_bias", block+"ffn_up_exps.bias", "experts, 2*ff", alternate("1")...),
		one("layers.{bid}.mlp.experts.down_proj_bias", block+"ffn_down_exps.bias", "experts, hidden"),
		finalNorm, ownHead),
})

// gptossExperts are the experts as stored in dtype ("" for what is not MXFP4).
func gptossExperts(dtype, gateUp, down string, do ...Transform) []Rule {
	const dir = "layers.{bid}.mlp.experts."
	list := rules(
		one(dir+"gate_up_proj", block+"ffn_gate_exps.weight", gateUp, append(do[:len(do):len(do)], rows{Every: "2", Count: "1"})...),
		one(dir+"gate_up_proj", block+"ffn_up_exps.weight", gateUp, append(do[:len(do):len(do)], rows{Every: "2", Start: "1", Count: "1"})...),
		one(dir+"down_proj", block+"ffn_down_exps.weight", down, do...),
	)
	for i := range list {
		list[i].DType = dtype
	}
	return list
}

// alternate takes every other value of the last dimension.
func alternate(start string) []Transform {
	return []Transform{reshape{"experts, 2*ff, 1"}, rows{Every: "2", Start: start, Count: "1"}, reshape{"experts, ff"}}
}
