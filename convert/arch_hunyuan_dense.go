package convert

import (
	"fmt"
	"math"
)

// Hunyuan dense: norms on the heads of q and k; its dynamic rotary scaling is a
// larger base (conversion/hunyuan.py, HunYuanModel).
var _ = register(Architecture{
	Name:     "hunyuan-dense",
	Classes:  []string{"HunYuanDenseV1ForCausalLM"},
	Prefixes: []string{"model."},
	Keys: keys(without(decoderKeys, "expert_count"), []Key{
		{"rope.freq_base", f32, hunyuanFreqBase},
		{"rope.scaling.type", str, when(hunyuanDynamic, fixed("none"))},
		{"rope.scaling.factor", f32, when(hunyuanDynamic, fixed(1.0))},
		{"rope.scaling.original_context_length", u32, when(hunyuanDynamic, fixed(int64(256<<10)))},
		{"context_length", u32, when(hunyuanDynamic, fixed(int64(256<<10)))},
	}),
	Tensors: rules(embedding, plainAttention,
		norm("layers.{bid}.self_attn.query_layernorm", block+"attn_q_norm", "head_dim"),
		norm("layers.{bid}.self_attn.key_layernorm", block+"attn_k_norm", "head_dim"),
		preNorms, gatedFFN, finalNorm, head),
	Ignore: tiedHead,
	VocabKeys: []Key{
		{"tokenizer.ggml.eos_token_id", u32, maybe("eod_token_id")},
		{"tokenizer.ggml.eot_token_id", u32, hunyuanEndOfTurn},
	},
})

// hunyuanDynamic holds where the context is stretched by a larger base; the
// configs then state a context length that the models exceed.
func hunyuanDynamic(m *Model) (bool, error) { return m.rope.kind() == "dynamic", nil }

// hunyuanFreqBase is base * alpha^(d/(d-2)): NTK-aware scaling.
func hunyuanFreqBase(m *Model) (any, error) {
	if m.rope.kind() != "dynamic" {
		return ropeFreqBase(m)
	}
	base, err := m.rope.need("rope_theta")
	if err != nil {
		return nil, err
	}
	alpha, ok, err := m.rope.number("alpha")
	if err != nil {
		return nil, err
	}
	if !ok {
		alpha = 50
	}
	dim, err := m.Config.Float("head_dim")
	if err != nil {
		return nil, err
	}
	if dim <= 2 || base <= 0 || alpha <= 0 {
		return nil, fmt.Errorf("config.json: dynamic rope with alpha %g, base %g and head_dim %g", alpha, base, dim)
	}
	return base * math.Pow(alpha, dim/(dim-2)), nil
}

// tiedHead holds for the head of a model that shares it with the embedding.
func tiedHead(m *Model, name string) bool {
	tied, err := m.Config.Bool("tie_word_embeddings")
	return err == nil && tied && name == "lm_head.weight"
}

// hunyuanEndOfTurn is the first of generation_config.json's ends, where there
// are several: the configs name another.
func hunyuanEndOfTurn(m *Model) (any, error) {
	fields, err := readFields(m.source, "generation_config.json")
	if fields == nil || err != nil {
		return nil, err
	}
	ends, ok := fields["eos_token_id"].([]any)
	if !ok || len(ends) < 2 {
		return nil, nil
	}
	return ends[0], nil
}
