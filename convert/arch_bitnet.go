package convert

import (
	"errors"

	"github.com/modelpipe/modelpipe/tokenizer"
)

// BitNet b1.58: weights of three values and a norm inside both parts of a
// block (conversion/bitnet.py, BitnetModel). Packed weights are read as the
// values they stand for; upstream rounds them once more to the mean of their
// magnitudes, which counts the zeros and so makes them smaller.
var _ = register(Architecture{
	Name:     "bitnet",
	Classes:  []string{"BitNetForCausalLM", "BitnetForCausalLM"},
	Prefixes: []string{"model."},
	Keys: keys(decoderKeys, []Key{
		{"rope.scaling.type", str, fixed("linear")},
		{"rope.scaling.factor", f32, fixed(1.0)},
	}),
	Tensors: rules(embedding,
		attention([]Transform{ternary{}}, []Transform{ternary{}}),
		norm("layers.{bid}.self_attn.attn_sub_norm", block+"attn_sub_norm", "hidden"),
		may("layers.{bid}.self_attn.inner_attn_ln.weight", block+"attn_sub_norm.weight", "hidden"), // of the first models
		preNorms, gatedFFN,
		norm("layers.{bid}.mlp.ffn_sub_norm", block+"ffn_sub_norm", "ff"),
		may("layers.{bid}.mlp.ffn_layernorm.weight", block+"ffn_sub_norm.weight", "ff"),
		finalNorm, head),
	Vocab: tokenizer.Options{SpacePrefixFromConfig: true},
})

// ternary lets only weights pass that are stored as three values.
type ternary struct{}

func (ternary) apply(_ *Model, _ int, x operand) (operand, error) {
	if _, ok := x.from.(Scaled); ok {
		return x, nil
	}
	return x, errors.New("BitNet weights that are not packed are rounded when the model runs: convert the packed checkpoint (quantization_config with quant_method bitnet)")
}
