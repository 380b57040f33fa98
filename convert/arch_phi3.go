package convert

import (
	"errors"
	"fmt"
	"math"

	"github.com/modelpipe/modelpipe/tokenizer"
)

// Phi-3, 3.5 and 4-mini: fused q, k and v and fused gate and up, kept so. Long
// contexts have two sets of rotary factors, which become tensors
// (conversion/phi.py, Phi3MiniModel).
var _ = register(Architecture{
	Name:     "phi3",
	Classes:  []string{"Phi3ForCausalLM"},
	Prefixes: []string{"model."},
	Keys: []Key{
		{"rope.scaling.attn_factor", f32, phi3AttentionFactor},
		{"context_length", u32, field("n_positions", "max_position_embeddings")},
		{"rope.scaling.original_context_length", u32, phi3OriginalLength},
		{"embedding_length", u32, size("hidden")},
		{"feed_forward_length", u32, size("ff")},
		{"block_count", u32, size("layers")},
		{"attention.head_count", u32, size("heads")},
		{"attention.head_count_kv", u32, size("kv_heads")},
		{"attention.layer_norm_rms_epsilon", f32, field("rms_norm_eps")},
		{"rope.dimension_count", u32, rotaryDims("hidden/heads", 1)},
		{"rope.freq_base", f32, needFreqBase},
		// Zero tells Phi-4, which has no window, from its elders.
		{"attention.sliding_window", u32, fieldOr(int64(0), "sliding_window")},
	},
	Tensors: rules(embedding,
		linear("layers.{bid}.self_attn.qkv_proj", block+"attn_qkv", "(heads+2*kv_heads)*head_dim, hidden"),
		one("layers.{bid}.self_attn.o_proj.weight", block+"attn_output.weight", "hidden, heads*head_dim"),
		preNorms, fusedFFN, finalNorm, head),
	Constants: phi3Factors,
	Vocab:     tokenizer.Options{AddedFromDefinition: true},
})

// phi3OriginalLength is the context the model was first trained on; transformers
// takes 4096 where a Phi-3 config does not say.
func phi3OriginalLength(m *Model) (any, error) {
	if v := m.rope.Full[originalLength]; v != nil {
		return v, nil
	}
	return int64(4096), nil
}

// phi3AttentionFactor scales the attention for the longer context.
func phi3AttentionFactor(m *Model) (any, error) {
	if long, err := m.ropeFactors("long_factor"); long == nil || err != nil {
		return nil, err
	}
	context, err := m.Config.Float("n_positions", "max_position_embeddings")
	if err != nil {
		return nil, err
	}
	v, _ := phi3OriginalLength(m)
	original, err := asFloat(v)
	if err != nil {
		return nil, err
	}
	if original <= 1 {
		return nil, fmt.Errorf("config.json: %s: %g is out of range", originalLength, original)
	}
	scale := context / original
	switch kind := m.rope.kind(); kind {
	case "su", "longrope":
		if scale <= 1 {
			return 1.0, nil
		}
		return math.Sqrt(1 + math.Log(scale)/math.Log(original)), nil
	case "yarn":
		if scale <= 1 {
			return 1.0, nil
		}
		return 0.1*math.Log(scale) + 1, nil
	default:
		return nil, fmt.Errorf("config.json: rope settings: type %q with long_factor is not supported", kind)
	}
}

// ropeFactors reads a list of factors of the rotary settings.
func (m *Model) ropeFactors(name string) ([]float32, error) {
	given := m.rope.Full[name]
	if given == nil {
		if kind := m.rope.kind(); kind == "longrope" || kind == "su" {
			return nil, fmt.Errorf("config.json: rope settings of type %q: %s is missing", kind, name)
		}
		return nil, nil
	}
	list, ok := given.([]any)
	if !ok {
		return nil, fmt.Errorf("config.json: rope settings: %s: want a list, got %v", name, given)
	}
	v, err := convertList(f32, list)
	if err != nil {
		return nil, fmt.Errorf("config.json: rope settings: %s: %w", name, err)
	}
	return v.([]float32), nil
}

func phi3Factors(m *Model) ([]output, error) {
	long, err := m.ropeFactors("long_factor")
	if long == nil || err != nil {
		return nil, err
	}
	short, err := m.ropeFactors("short_factor")
	if err != nil {
		return nil, err
	}
	v, err := rotaryDims("hidden/heads", 1)(m)
	if err != nil {
		return nil, err
	}
	if short == nil {
		return nil, errors.New("config.json: rope settings: long_factor without short_factor")
	}
	if want := v.(int64) / 2; int64(len(long)) != want || len(short) != len(long) {
		return nil, fmt.Errorf("config.json: rope settings: %d long and %d short factors: want %d of each", len(long), len(short), want)
	}
	return []output{constant("rope_factors_long.weight", long), constant("rope_factors_short.weight", short)}, nil
}
