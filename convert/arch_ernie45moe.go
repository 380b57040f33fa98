package convert

import (
	"fmt"
	"strings"

	"github.com/modelpipe/modelpipe/tokenizer"
)

// ERNIE 4.5 MoE: experts in every moe_layer_interval-th block from
// moe_layer_start_index on, with shared ones (conversion/ernie.py,
// Ernie4_5MoeModel).
var _ = register(Architecture{
	Name:     "ernie4_5-moe",
	Classes:  []string{"Ernie4_5_MoeForCausalLM"},
	Prefixes: []string{"model.", "ernie."},
	Dims: map[string]Dim{
		"experts":   {Fields: []string{"moe_num_experts"}},
		"expert_ff": {Fields: []string{"moe_intermediate_size"}},
		"shared":    {Fields: []string{"moe_num_shared_experts"}},
		"shared_ff": {Expr: "shared*expert_ff"},
	},
	Keys: keys(decoderKeys, []Key{
		{"expert_count", u32, field("moe_num_experts")},
		{"expert_used_count", u32, field("moe_k")},
		{"interleave_moe_layer_step", u32, ernieInterval},
		{"leading_dense_block_count", u32, field("moe_layer_start_index")},
		{"expert_feed_forward_length", u32, maybe("moe_intermediate_size")},
		{"expert_shared_count", u32, maybe("moe_num_shared_experts")},
		{"expert_shared_feed_forward_length", u32, ernieSharedLength},
	}),
	Tensors: rules(embedding, plainAttention, preNorms,
		needed(ernieDense, gatedFFN),
		needed(ernieSparse, rules(
			one("layers.{bid}.mlp.gate.weight", block+"ffn_gate_inp.weight", "experts, hidden"),
			experts("layers.{bid}.mlp.experts"))),
		may("layers.{bid}.mlp.moe_statics.e_score_correction_bias", block+"exp_probs_b.bias", "1, experts", reshape{"1, experts"}),
		optional(sharedExpert("layers.{bid}.mlp.shared_experts")),
		finalNorm, head),
	Ignore: ernieIgnored,
	Vocab:  tokenizer.Options{SpacePrefixFromConfig: true},
})

// ernieSparse holds for the blocks with experts (modular_ernie4_5_moe.py,
// Ernie4_5_MoeDecoderLayer).
func ernieSparse(m *Model, bid int) bool {
	number := func(name string, otherwise int64) int64 {
		if n, err := m.Config.Int(name); err == nil {
			return n
		}
		return otherwise
	}
	n := int64(bid)
	step := max(number("moe_layer_interval", 1), 1)
	last := number("moe_layer_end_index", -1)
	if last < 0 {
		last = number("num_hidden_layers", 0) - 1
	}
	return (n+1)%step == 0 && n >= number("moe_layer_start_index", 0) && n <= last
}

func ernieDense(m *Model, bid int) bool { return !ernieSparse(m, bid) }

// ernieSharedLength is the width of the shared experts' one tensor. Upstream
// writes intermediate_size / num_key_value_heads, which is the same number in
// the published models and one that llama.cpp refuses in others.
func ernieSharedLength(m *Model) (any, error) {
	shared, err := m.Config.Int("moe_num_shared_experts")
	if isMissing(err) || err == nil && shared <= 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return wrapInt(m.dim("shared_ff", -1))
}

// ernieInterval is the distance of the blocks with experts; ggml knows them in
// every block only.
func ernieInterval(m *Model) (any, error) {
	n, err := m.Config.Int("moe_layer_interval")
	if err == nil && n != 1 {
		err = fmt.Errorf("config.json: moe_layer_interval: %d: want 1: ggml has experts in every block from moe_layer_start_index on", n)
	}
	return n, err
}

// ernieIgnored holds for what predicts further tokens.
func ernieIgnored(_ *Model, name string) bool { return strings.HasPrefix(name, "mtp_") }
