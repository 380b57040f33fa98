package convert

import "github.com/modelpipe/modelpipe/tokenizer"

// GLM-4 0414 and GLM-Z1: norms before and after both parts, fused gate and up
// (conversion/glm.py, Glm4Model).
var _ = register(Architecture{
	Name:     "glm4",
	Classes:  []string{"Glm4ForCausalLM"},
	Prefixes: []string{"model."},
	Keys:     keys(decoderKeys, []Key{{"rope.dimension_count", u32, rotaryDims("head_dim", 0.5)}}),
	Tensors: rules(embedding, plainAttention, preNorms,
		norm("layers.{bid}.post_self_attn_layernorm", block+"post_attention_norm", "hidden"),
		norm("layers.{bid}.post_mlp_layernorm", block+"post_ffw_norm", "hidden"),
		fusedFFN, finalNorm, head),
	Vocab: glmVocab,
})

// glmVocab: GLM's files do not say which tokens begin and end a text.
var glmVocab = tokenizer.Options{Special: []tokenizer.SpecialRule{
	{Role: "eos", Text: "<|endoftext|>"},
	{Role: "eot", Text: "<|user|>"},
	{Role: "unk", Text: "<|endoftext|>"},
	{Role: "bos", Text: "<|endoftext|>"},
}}
