package convert

import "github.com/modelpipe/modelpipe/tokenizer"

// Llama 1 to 3, Mistral and Mixtral. ggml runs them with interleaved rotary
// pairs, so q and k are permuted; Llama 3.1's frequency scaling becomes the
// tensor rope_freqs (llama.cpp conversion/llama.py, LlamaModel).
var _ = register(Architecture{
	Name:     "llama",
	Classes:  []string{"LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "LlamaModel"},
	Prefixes: []string{"model.", "text_model."},
	Keys:     llamaKeys,
	Tensors: rules(
		embedding, permutedAttention, outputBias, preNorms,
		needed(dense, gatedFFN), ffnBiases,
		needed(sparse, mixtralExperts),
		finalNorm, head,
	),
	Constants: ropeFreqs,
	Vocab:     llamaVocab,
})

var llamaKeys = keys(without(decoderKeys, "rope.freq_base"), []Key{
	{"attention.head_count_kv", u32, size("kv_heads")},
	{"rope.freq_base", f32, llamaFreqBase},
	{"expert_used_count", u32, when(has("num_local_experts"), field("num_experts_per_tok"))},
	{"attention.key_length", u32, size("head_dim")},
	{"attention.value_length", u32, size("head_dim")},
	{"vocab_size", u32, size("vocab")},
	{"rope.dimension_count", u32, size("head_dim")},
})

// mixtralExperts are stacked into one tensor per projection.
var mixtralExperts = []Rule{
	{From: "layers.{bid}.block_sparse_moe.gate.weight", To: block + "ffn_gate_inp.weight", Shape: "experts, hidden", Need: all},
	{From: "layers.{bid}.block_sparse_moe.experts.{eid}.w1.weight", To: block + "ffn_gate_exps.weight", Shape: "ff, hidden", Count: "experts", Need: all},
	{From: "layers.{bid}.block_sparse_moe.experts.{eid}.w2.weight", To: block + "ffn_down_exps.weight", Shape: "hidden, ff", Count: "experts", Need: all},
	{From: "layers.{bid}.block_sparse_moe.experts.{eid}.w3.weight", To: block + "ffn_up_exps.weight", Shape: "ff, hidden", Count: "experts", Need: all},
}

// sparse holds in models with experts.
func sparse(m *Model, _ int) bool {
	return m.Config.Has("num_local_experts", "num_experts", "n_routed_experts")
}

func dense(m *Model, bid int) bool { return !sparse(m, bid) }

// ropeFreqs is the tensor of Llama 3.1's frequency divisors.
func ropeFreqs(m *Model) ([]output, error) {
	if m.rope.kind() != "llama3" {
		return nil, nil
	}
	dim, err := m.dim("head_dim", -1)
	if err != nil {
		return nil, err
	}
	factors, err := llama3Factors(m.rope, dim)
	if err != nil {
		return nil, err
	}
	return []output{constant("rope_freqs.weight", factors)}, nil
}

func constant(name string, values []float32) output {
	n := int64(len(values))
	return output{name: name, dtype: "F32", shape: []int64{n}, from: Constant{Cols: n, Values: values}}
}

// llamaVocab: CodeLlama has an end-of-turn token that its files do not name,
// and the small Granite code models must not get a first token.
var llamaVocab = tokenizer.Options{
	SpacePrefixFromConfig: true,
	Special:               []tokenizer.SpecialRule{{Role: "eot", ID: 32010, OnlySize: 32016}},
	Flags:                 []tokenizer.FlagRule{{Name: "add_bos_token", Value: false, OnlySize: 49152}},
}

// llamaFreqBase: the configs of the first two Llamas leave out the base, which
// was 10000 for all models then.
func llamaFreqBase(m *Model) (any, error) {
	if v := m.rope.Full["rope_theta"]; v != nil {
		return v, nil
	}
	return 1e4, nil
}
