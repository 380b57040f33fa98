package convert

import (
	"fmt"

	"github.com/modelpipe/modelpipe/tokenizer"
)

// Gemma 3 and the text part of its multimodal checkpoints: Gemma 2 with norms
// on the heads of q and k and without soft caps on the attention. Embedding
// rows beyond the vocabulary are cut off (conversion/gemma.py, Gemma3Model).
var _ = register(Architecture{
	Name:     "gemma3",
	Classes:  []string{"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"},
	Prefixes: []string{"model."},
	Dims:     gemma3Dims,
	Keys:     gemma3Keys,
	Tensors:  gemma3Tensors,
	Vocab:    tokenizer.Options{Flags: noSpacePrefix, DropAdded: true},
})

// gemma3Dims: the published multimodal configs leave out what their class sets.
var gemma3Dims = map[string]Dim{
	"vocab":    {Fields: []string{"vocab_size"}, Expr: "262208"},
	"heads":    {Fields: []string{"num_attention_heads"}, Expr: "8"},
	"kv_heads": {Fields: []string{"num_key_value_heads"}, Expr: "4"},
	"head_dim": {Fields: []string{"head_dim"}, Expr: "256"},
}

var gemma3Keys = keys(without(modelKeys, "context_length", "attention.head_count"), []Key{
	{"context_length", u32, fieldOr(int64(131072), "max_position_embeddings")},
	{"attention.head_count", u32, size("heads")},
	{"attention.head_count_kv", u32, size("kv_heads")},
	{"attention.layer_norm_rms_epsilon", f32, fieldOr(1e-6, "rms_norm_eps")},
	{"attention.key_length", u32, size("head_dim")},
	{"attention.value_length", u32, size("head_dim")},
	{"rope.freq_base", f32, gemma3FreqBase},
	{"rope.freq_base_swa", f32, gemma3LocalBase},
	{"final_logit_softcapping", f32, nonzero("final_logit_softcapping")},
	{"attn_logit_softcapping", f32, gemma3SoftCap},
	{"attention.sliding_window", u32, gemma3Window},
})

var gemma3Tensors = rules(
	embedding, plainAttention,
	norm("layers.{bid}.self_attn.q_norm", block+"attn_q_norm", "head_dim", plusOne),
	norm("layers.{bid}.self_attn.k_norm", block+"attn_k_norm", "head_dim", plusOne),
	sandwichNorms(plusOne), gatedFFN,
	norm("norm", "output_norm", "hidden", plusOne), optional(head),
)

func gemma3FreqBase(m *Model) (any, error) {
	if v := m.rope.Full["rope_theta"]; v != nil {
		return v, nil
	}
	return 1e6, nil
}

func gemma3LocalBase(m *Model) (any, error) {
	if v := m.rope.Sliding["rope_theta"]; v != nil {
		return v, nil
	}
	return 1e4, nil
}

// gemma3SoftCap refuses what Gemma 3 has no longer and ggml would not apply.
func gemma3SoftCap(m *Model) (any, error) {
	cap, err := m.Config.Float("attn_logit_softcapping")
	switch {
	case isMissing(err), err == nil && cap == 0:
		return nil, nil
	case err != nil:
		return nil, err
	}
	return nil, fmt.Errorf("config.json: attn_logit_softcapping: %g: want null: ggml's Gemma 3 does not cap attention", cap)
}

// gemma3Window is the window of the sliding blocks, where there are any.
func gemma3Window(m *Model) (any, error) {
	if n, err := m.Config.Int("sliding_window_pattern"); err == nil && n == 1 {
		return nil, nil
	}
	return field("sliding_window")(m)
}
