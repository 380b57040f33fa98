package convert

import "github.com/modelpipe/modelpipe/tokenizer"

// Gemma 1: checkpoints store norms less one, and the head is the embedding
// (conversion/gemma.py, GemmaModel).
var _ = register(Architecture{
	Name:     "gemma",
	Classes:  []string{"GemmaForCausalLM"},
	Prefixes: []string{"model."},
	Keys:     gemmaKeys,
	Tensors: rules(embedding, plainAttention,
		norm("layers.{bid}.input_layernorm", block+"attn_norm", "hidden", plusOne),
		norm("layers.{bid}.post_attention_layernorm", block+"ffn_norm", "hidden", plusOne),
		gatedFFN,
		norm("norm", "output_norm", "hidden", plusOne)),
	Drop: []string{"lm_head.weight"},
	Vocab: tokenizer.Options{
		Special: []tokenizer.SpecialRule{{Role: "eot", ID: 107}},
		Flags:   noSpacePrefix,
	},
})

var gemmaKeys = []Key{
	{"context_length", u32, field("max_position_embeddings")},
	{"embedding_length", u32, size("hidden")},
	{"block_count", u32, size("layers")},
	{"feed_forward_length", u32, size("ff")},
	{"attention.head_count", u32, size("heads")},
	{"attention.head_count_kv", u32, size("kv_heads")},
	{"attention.layer_norm_rms_epsilon", f32, field("rms_norm_eps")},
	{"attention.key_length", u32, field("head_dim")},
	{"attention.value_length", u32, field("head_dim")},
	{"rope.freq_base", f32, otherFreqBase},
}

// noSpacePrefix: Gemma's text is not preceded by a space.
var noSpacePrefix = []tokenizer.FlagRule{{Name: "add_space_prefix", Value: false}}
