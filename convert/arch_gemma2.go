package convert

import "github.com/modelpipe/modelpipe/tokenizer"

// Gemma 2: four norms per block, soft caps, a window in every other block
// (conversion/gemma.py, Gemma2Model).
var _ = register(Architecture{
	Name:     "gemma2",
	Classes:  []string{"Gemma2ForCausalLM"},
	Prefixes: []string{"model."},
	Keys: keys(gemmaKeys, []Key{
		{"attn_logit_softcapping", f32, field("attn_logit_softcapping")},
		{"final_logit_softcapping", f32, field("final_logit_softcapping")},
		{"attention.sliding_window", u32, field("sliding_window")},
	}),
	Tensors: rules(embedding, plainAttention, sandwichNorms(plusOne), gatedFFN,
		norm("norm", "output_norm", "hidden", plusOne)),
	Drop:  []string{"lm_head.weight"},
	Vocab: tokenizer.Options{Flags: noSpacePrefix},
})
