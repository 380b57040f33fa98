package fromhf

import (
	"math"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// rotary says what a family's modelling code does where the config says
// nothing.
type rotary struct {
	theta       float64 // rope_theta; 0: it must be there
	partial     float64 // partial_rotary_factor; 0: 1
	interleaved bool
}

// ropeOf returns the rotary embedding of a head of dim values, from
// rope_parameters, or from rope_theta and rope_scaling. layerType chooses
// among nested rope_parameters.
func (r *reader) ropeOf(layerType string, dim int, fam rotary) *spec.Rope {
	var def []float64
	if fam.theta > 0 {
		def = []float64{fam.theta}
	}
	theta, scaling := 0.0, (*config)(nil)
	if p := r.object("rope_parameters"); p != nil {
		if inner := p.object(layerType); inner != nil {
			p = inner
		}
		if p.err != nil {
			r.fail("%w", p.err)
			return nil
		}
		scaling = p
		if !p.has("rope_theta") && r.has("rope_theta") {
			theta = r.positive("rope_theta")
		} else {
			theta = p.positive("rope_theta", def...)
			if p.err != nil {
				r.fail("%w", p.err)
			}
		}
	} else {
		theta = r.positive("rope_theta", def...)
		scaling = r.object("rope_scaling")
	}
	return r.rope(theta, scaling, dim, fam)
}

// partialRotary is the share of a head's values that turn.
func (r *reader) partialRotary(scaling *config, def float64) float64 {
	if def == 0 {
		def = 1
	}
	p := r.number(r.either("partial_rotary_factor", "rotary_pct", "rope_pct"), def)
	if scaling != nil && scaling.has("partial_rotary_factor") {
		p = scaling.number("partial_rotary_factor")
	}
	if !(p > 0 && p <= 1) {
		r.fail("%s: partial_rotary_factor is %v: want more than 0 and at most 1", r.name, p)
		return 1
	}
	return p
}

// rope computes the frequencies of the rotary embedding as transformers'
// modeling_rope_utils.py does. scaling may be nil.
func (r *reader) rope(theta float64, scaling *config, dim int, fam rotary) *spec.Rope {
	dims := int(float64(dim) * r.partialRotary(scaling, fam.partial))
	if dims < 2 || dims%2 != 0 {
		r.fail("%s: %d of a head's %d values would turn: want an even number", r.name, dims, dim)
		return nil
	}
	rope := &spec.Rope{InvFreq: make([]float64, dims/2), Magnitude: 1, Interleaved: fam.interleaved}
	for i := range rope.InvFreq {
		rope.InvFreq[i] = math.Pow(theta, -2*float64(i)/float64(dims))
	}
	if scaling == nil {
		return rope
	}
	kind := "default"
	if scaling.has("rope_type") || scaling.has("type") {
		kind = scaling.text(scaling.either("rope_type", "type"))
	}
	switch kind {
	case "default", "mrope":
		// mrope's three positions are the same for text.
	case "linear":
		factor := scaling.positive("factor")
		for i := range rope.InvFreq {
			rope.InvFreq[i] /= factor
		}
	case "dynamic":
		// Sequences of up to max_position_embeddings turn as without scaling;
		// with an alpha, as HunYuan has it, the base is another one throughout.
		if scaling.has("alpha") && dims > 2 {
			base := theta * math.Pow(scaling.positive("alpha"), float64(dims)/float64(dims-2))
			for i := range rope.InvFreq {
				rope.InvFreq[i] = math.Pow(base, -2*float64(i)/float64(dims))
			}
		}
	case "llama3":
		r.llama3(rope, scaling)
	case "yarn":
		r.yarn(rope, scaling, theta, dims)
	case "longrope", "su":
		r.longRope(rope, scaling)
	default:
		r.fail("%s: unknown kind of rope %q", scaling.name, kind)
	}
	if scaling.err != nil {
		r.fail("%w", scaling.err)
	}
	return rope
}

// llama3 divides low frequencies by factor, keeps high ones, and interpolates
// in between (modeling_rope_utils.py, _compute_llama3_parameters).
func (r *reader) llama3(rope *spec.Rope, scaling *config) {
	factor := scaling.positive("factor")
	low, high := scaling.positive("low_freq_factor"), scaling.positive("high_freq_factor")
	context := scaling.positive("original_max_position_embeddings")
	if low >= high {
		scaling.fail("%s: low_freq_factor is %v, high_freq_factor %v", scaling.name, low, high)
		return
	}
	for i, f := range rope.InvFreq {
		turns := context * f / (2 * math.Pi)
		smooth := max(0, min((turns-low)/(high-low), 1))
		rope.InvFreq[i] = (1-smooth)*f/factor + smooth*f
	}
}

// yarn divides the frequencies that turn less than beta_slow times within the
// trained context by factor, keeps those that turn more than beta_fast times,
// and interpolates by index in between (_compute_yarn_parameters).
func (r *reader) yarn(rope *spec.Rope, scaling *config, theta float64, dims int) {
	context := 0.0
	if scaling.has("original_max_position_embeddings") {
		context = scaling.positive("original_max_position_embeddings")
	} else {
		context = float64(r.dim("max_position_embeddings"))
	}
	factor := scaling.positive("factor")
	fast, slow := scaling.positive("beta_fast", 32), scaling.positive("beta_slow", 1)

	index := func(turns float64) float64 {
		return float64(dims) * math.Log(context/(turns*2*math.Pi)) / (2 * math.Log(theta))
	}
	low, high := index(fast), index(slow)
	if scaling.flag("truncate", true) {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(dims-1))
	if low == high {
		high += 0.001
	}
	for i, f := range rope.InvFreq {
		ramp := max(0, min((float64(i)-low)/(high-low), 1))
		rope.InvFreq[i] = ramp*f/factor + (1-ramp)*f
	}

	if scaling.has("attention_factor") {
		rope.Magnitude = scaling.positive("attention_factor")
		return
	}
	m, all := scaling.number("mscale", 0), scaling.number("mscale_all_dim", 0)
	rope.Magnitude = yarnScale(factor, 1)
	if m != 0 && all != 0 {
		rope.Magnitude = yarnScale(factor, m) / yarnScale(factor, all)
	}
}

// yarnScale is how much attention is sharpened for a longer context.
func yarnScale(factor, m float64) float64 {
	if factor <= 1 {
		return 1
	}
	return 0.1*m*math.Log(factor) + 1
}

// longRope divides each frequency by a factor of its own, of which there is
// one list for sequences within the trained context and one for longer ones
// (_compute_longrope_parameters).
func (r *reader) longRope(rope *spec.Rope, scaling *config) {
	context, factor := 0.0, 0.0
	long := float64(r.dim("max_position_embeddings"))
	switch {
	case r.has("original_max_position_embeddings"):
		context = r.positive("original_max_position_embeddings")
		factor = long / context
	case scaling.has("original_max_position_embeddings"):
		context = scaling.positive("original_max_position_embeddings")
		factor = scaling.positive("factor", long/context)
	default:
		context = long
		factor = scaling.positive("factor")
	}
	if context > maxDim || context < 2 {
		r.fail("%s: original_max_position_embeddings is %v", scaling.name, context)
		return
	}
	magnitude := 1.0
	if factor > 1 {
		magnitude = math.Sqrt(1 + math.Log(factor)/math.Log(context))
	}
	magnitude = scaling.positive("attention_factor", magnitude)
	rope.Magnitude, rope.LongMagnitude = magnitude, magnitude
	rope.LongFrom = int(context)

	by := func(field string) []float64 {
		factors := scaling.numbers(field)
		if scaling.err == nil && len(factors) != len(rope.InvFreq) {
			scaling.fail("%s: %s has %d factors for %d pairs", scaling.name, field, len(factors), len(rope.InvFreq))
		}
		out := make([]float64, len(rope.InvFreq))
		if scaling.err != nil {
			return out
		}
		for i, f := range factors {
			if !(f > 0) {
				scaling.fail("%s: %s[%d] is %v", scaling.name, field, i, f)
			}
			out[i] = rope.InvFreq[i] / f
		}
		return out
	}
	rope.Long = by("long_factor")
	rope.InvFreq = by("short_factor")
}
