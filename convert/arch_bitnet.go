package convert

import (
	"errors"
	"fmt"

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
	Vocab:   tokenizer.Options{SpacePrefixFromConfig: true},
	Differs: squaredReLU,
})

// squaredReLU is a note about models with that activation, the default of
// transformers' class, in whose place llama.cpp computes the SiLU of the first
// models (docs/architectures.md).
func squaredReLU(m *Model) (string, error) {
	act := "relu2"
	if m.Config.Has("hidden_act") {
		var err error
		if act, err = m.Config.Text("hidden_act"); err != nil {
			return "", err
		}
	}
	if act == "silu" {
		return "", nil
	}
	return fmt.Sprintf("the model's activation is %s, and llama.cpp computes SiLU for every BitNet: it will not predict what the source predicts", act), nil
}

// ternary lets only weights pass that are stored as three values.
type ternary struct{}

func (ternary) apply(_ *Model, _ int, x operand) (operand, error) {
	if _, ok := x.from.(Scaled); ok {
		return x, nil
	}
	return x, errors.New("BitNet weights that are not packed are rounded when the model runs: convert the packed checkpoint (quantization_config with quant_method bitnet)")
}
