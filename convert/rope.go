package convert

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Rope is the rotary embedding's settings, which configs have in three forms:
// rope_theta beside rope_scaling (transformers 4), rope_parameters
// (transformers 5), and rope_parameters with one entry per layer type. It has
// Full for the layers that attend to everything, Sliding for those with a
// window, which is empty where the model makes no difference.
type Rope struct {
	Full    map[string]any
	Sliding map[string]any
	// All is what applies to every layer; where the settings are nested it is
	// the outer object.
	All map[string]any
}

var (
	ropeBase       = []string{"global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta", "rotary_emb_base"}
	ropeLocalBase  = []string{"local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta", "rope_local_base_freq"}
	partialRotary  = []string{"partial_rotary_factor", "rope_pct", "rope_percent", "rotary_pct"}
	originalLength = "original_max_position_embeddings"
)

// Rope returns the rotary settings.
func (c *Config) Rope() (Rope, error) {
	all := map[string]any{}
	for _, name := range []string{"rope_parameters", "rope_scaling"} {
		given, err := c.Object(name)
		if err != nil {
			return Rope{}, err
		}
		if given == nil {
			continue
		}
		for k, v := range given {
			if v != nil {
				all[k] = v
			}
		}
		break
	}
	full, isFull := all["full_attention"].(map[string]any)
	sliding, isSliding := all["sliding_attention"].(map[string]any)
	if isFull || isSliding {
		if full == nil {
			full = all
		}
		return Rope{Full: full, Sliding: sliding, All: all}, nil
	}
	set := func(key string, names ...string) {
		if _, ok := all[key]; ok {
			return
		}
		if v, _, ok := c.Raw(names...); ok {
			all[key] = v
		}
	}
	set("rope_theta", ropeBase...)
	set("partial_rotary_factor", partialRotary...)
	set(originalLength, originalLength)
	if v, ok := all["type"]; ok && all["rope_type"] == nil {
		all["rope_type"] = v
	}
	rope := Rope{Full: all, All: all}
	if v, _, ok := c.Raw(ropeLocalBase...); ok {
		rope.Sliding = map[string]any{"rope_theta": v}
	}
	return rope, nil
}

// scalings are the kinds of rotary scaling that transformers has; those that
// ggml does not compute act beyond the context length of the training only.
var scalings = []string{"default", "linear", "dynamic", "yarn", "longrope", "su", "llama3", "mrope"}

// check refuses settings that would be lost without a word.
func (r Rope) check() error {
	for _, settings := range []map[string]any{r.Full, r.Sliding} {
		kind := settings["rope_type"]
		switch {
		case kind == nil && settings["factor"] != nil:
			return errors.New("config.json: rope settings: rope_type is missing beside factor")
		case kind == nil:
			continue
		}
		name, ok := kind.(string)
		if !ok || !slices.Contains(scalings, name) {
			return fmt.Errorf("config.json: rope settings: rope_type: want %s, got %v", strings.Join(scalings, ", "), kind)
		}
		if (name == "linear" || name == "yarn") && settings["factor"] == nil {
			return fmt.Errorf("config.json: rope settings of type %q: factor is missing", name)
		}
	}
	return nil
}

// kind returns the scaling's name, or "" where there is none.
func (r Rope) kind() string {
	s, _ := r.Full["rope_type"].(string)
	return s
}

// number returns a setting of the full-attention layers.
func (r Rope) number(name string) (float64, bool, error) {
	v := r.Full[name]
	if v == nil {
		return 0, false, nil
	}
	f, err := toFloat(v)
	if err != nil {
		return 0, false, fmt.Errorf("config.json: rope settings: %s: %w", name, err)
	}
	return f, true, nil
}

// need is number for a setting that the scaling's formula cannot do without.
func (r Rope) need(name string) (float64, error) {
	f, ok, err := r.number(name)
	if err == nil && !ok {
		err = fmt.Errorf("config.json: rope settings of type %q: %s is missing", r.kind(), name)
	}
	return f, err
}

// llama3Factors returns the divisors of Llama 3.1's rotary frequencies, one
// per pair of dimensions: high frequencies stay, low ones are divided by
// factor, those between are blended (transformers
// modeling_rope_utils._compute_llama3_parameters). The float32 steps are
// torch's, which divides a number by a tensor as the tensor's reciprocal times
// the number, so that the values are upstream's to the bit.
func llama3Factors(r Rope, dim int64) ([]float32, error) {
	base, err := r.need("rope_theta")
	if err != nil {
		return nil, err
	}
	factor, err := r.need("factor")
	if err != nil {
		return nil, err
	}
	low, err := r.need("low_freq_factor")
	if err != nil {
		return nil, err
	}
	high, err := r.need("high_freq_factor")
	if err != nil {
		return nil, err
	}
	length, err := r.need(originalLength)
	if err != nil {
		return nil, err
	}
	if low <= 0 || high <= 0 || factor <= 0 || base <= 0 || length <= 0 {
		return nil, fmt.Errorf("config.json: rope settings of type %q: want positive numbers", r.kind())
	}
	factors := make([]float32, dim/2)
	for i := range factors {
		exponent := float32(2*i) / float32(dim)
		freq := 1 / float32(math.Pow(base, float64(exponent)))
		wavelength := float32(float32(1/freq) * float32(2*math.Pi))
		switch {
		case wavelength < float32(length/high):
			factors[i] = 1
		case wavelength > float32(length/low):
			factors[i] = float32(factor)
		default:
			turns := float32(float32(1/wavelength) * float32(length))
			smooth := (turns - float32(low)) / float32(high-low)
			factors[i] = 1 / ((1-smooth)/float32(factor) + smooth)
		}
	}
	return factors, nil
}
