package convert

import (
	"fmt"

	"github.com/modelpipe/modelpipe/tokenizer"
)

// GLM-4.5 and 4.6: experts after the first dense blocks. The blocks that
// predict further tokens are kept (conversion/glm.py, Glm4MoeModel).
var _ = register(Architecture{
	Name:     "glm4moe",
	Classes:  []string{"Glm4MoeForCausalLM"},
	Prefixes: []string{"model."},
	Dims: map[string]Dim{
		"layers":    {Calc: layersWithPrediction},
		"experts":   {Fields: []string{"n_routed_experts"}},
		"expert_ff": {Fields: []string{"moe_intermediate_size"}},
		"shared":    {Fields: []string{"n_shared_experts"}},
		"shared_ff": {Expr: "shared*expert_ff"},
	},
	Keys: keys(decoderKeys, moeKeys, []Key{
		{"rope.dimension_count", u32, rotaryDims("head_dim", 0.5)},
		{"expert_feed_forward_length", u32, maybe("moe_intermediate_size")},
		{"expert_shared_count", u32, maybe("n_shared_experts")},
		{"leading_dense_block_count", u32, maybe("first_k_dense_replace")},
		{"expert_gating_func", u32, fixed(int64(2))},
		{"expert_weights_scale", f32, maybe("routed_scaling_factor")},
		{"expert_weights_norm", boolean, maybe("norm_topk_prob")},
		{"nextn_predict_layers", u32, maybe("num_nextn_predict_layers")},
	}),
	Tensors: rules(embedding,
		needed(mainBlock, rules(
			plainAttention,
			norm("layers.{bid}.input_layernorm", block+"attn_norm", "hidden"),
			norm("layers.{bid}.post_attention_layernorm", block+"post_attention_norm", "hidden"),
		)),
		needed(mainBlock, flagged("use_qk_norm", optional(unbiased(headNorms)))),
		needed(leadingDense, gatedFFN),
		needed(glm4Sparse, rules(router, experts("layers.{bid}.mlp.experts"), sharedExpert("layers.{bid}.mlp.shared_experts"))),
		may("layers.{bid}.eh_proj.weight", block+"nextn.eh_proj.weight", "hidden, 2*hidden"),
		may("layers.{bid}.embed_tokens.weight", block+"nextn.embed_tokens.weight", "vocab, hidden"),
		may("layers.{bid}.enorm.weight", block+"nextn.enorm.weight", "hidden"),
		may("layers.{bid}.hnorm.weight", block+"nextn.hnorm.weight", "hidden"),
		may("layers.{bid}.shared_head.head.weight", block+"nextn.shared_head_head.weight", "vocab, hidden"),
		may("layers.{bid}.shared_head.norm.weight", block+"nextn.shared_head_norm.weight", "hidden"),
		finalNorm, head),
	Vocab: tokenizer.Options{Special: []tokenizer.SpecialRule{
		{Role: "eot", Text: "<|user|>"},
		{Role: "unk", Text: "<|endoftext|>"},
		{Role: "bos", Text: "[gMASK]"},
		{Role: "eom", Text: "<|observation|>"},
	}},
})

// layersWithPrediction counts the blocks that predict further tokens too.
func layersWithPrediction(m *Model) (int64, error) {
	n, err := m.Config.Int("num_hidden_layers")
	if err != nil {
		return 0, err
	}
	further, err := m.Config.Int("num_nextn_predict_layers")
	if isMissing(err) {
		return n, nil
	}
	if further < 0 || further > maxDim {
		return 0, fmt.Errorf("config.json: num_nextn_predict_layers: %d is out of range", further)
	}
	return n + further, err
}

// mainBlock holds for the blocks of the model proper. A checkpoint that
// transformers saved has no others.
func mainBlock(m *Model, bid int) bool {
	n, err := m.Config.Int("num_hidden_layers")
	return err == nil && int64(bid) < n
}

func glm4Sparse(m *Model, bid int) bool { return mainBlock(m, bid) && afterLeadingDense(m, bid) }
