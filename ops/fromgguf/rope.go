package fromgguf

import (
	"math"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// YaRN's turns at which frequencies are kept and interpolated; no architecture
// of the table reads keys for them.
const betaFast, betaSlow = 32, 1

// turning is what ggml_rope_ext is called with.
type turning struct {
	base, scale float64
	extrapolate bool // ext_factor is 1, else 0
	attnFactor  float64
}

// turning is what the context of llama.cpp makes of the metadata
// (llama-context.cpp).
func (p *hparams) turning() turning {
	t := turning{p.base, p.scale, p.scaling == "yarn", 1}
	if p.scaling == "none" {
		t.scale = 1
	}
	if t.extrapolate {
		factor := 1 / t.scale
		mscale := func(m float64) float64 {
			if factor <= 1 {
				return 1
			}
			return 0.1*m*math.Log(factor) + 1
		}
		t.attnFactor = mscale(1)
		if p.logMultiplier != 0 {
			// The quotient of mscale and mscale_all_dim, where DeepSeek-V2 has
			// the two equal and others have an mscale of 1.
			m := 1.0
			if p.arch == "deepseek2" && p.logMultiplier != 1 {
				m = p.logMultiplier
			}
			t.attnFactor = mscale(m) / mscale(p.logMultiplier)
		}
		t.attnFactor /= 1 + 0.1*math.Log(factor) // which ggml multiplies by
	}
	t.attnFactor *= p.attnFactor
	return t
}

// rope is the rotary embedding of a layer; nil where it has none.
func (p *hparams) rope(layer int, pairs pairing) *spec.Rope {
	if pairs == unturned || p.noRope[layer] || p.rot == 0 {
		return nil
	}
	t := p.turning()
	switch {
	case p.windowed[layer] && p.swaPlain:
		t.scale, t.extrapolate, t.attnFactor = 1, false, 1
	case p.windowed[layer] && p.swaRope:
		t.base, t.scale = p.baseSWA, p.scaleSWA
	}
	r := &spec.Rope{Interleaved: pairs == neighbours, InvFreq: t.frequencies(p.rot, p.originalContext, p.rotaryFactors), Magnitude: t.magnitude()}
	if p.longSet {
		r.Long, r.LongMagnitude, r.LongFrom = t.frequencies(p.rot, p.originalContext, p.long), t.magnitude(), p.originalContext
	}
	return r
}

// frequencies is the angle per position of each pair (ggml's rope_yarn and
// ggml_rope_yarn_corr_dims, whose angles are linear in the position).
func (t turning) frequencies(dims, originalContext int, factors []float32) []float64 {
	corr := func(turns float64) float64 {
		return float64(dims) * math.Log(float64(originalContext)/(turns*2*math.Pi)) / (2 * math.Log(t.base))
	}
	low := max(0, math.Floor(corr(betaFast)))
	high := min(float64(dims-1), math.Ceil(corr(betaSlow)))
	f := make([]float64, dims/2)
	for i := range f {
		turn := math.Pow(t.base, -2*float64(i)/float64(dims))
		if factors != nil {
			turn /= float64(factors[i])
		}
		mix := 0.0
		if t.extrapolate {
			mix = 1 - min(1, max(0, (float64(i)-low)/max(0.001, high-low)))
		}
		f[i] = t.scale*turn*(1-mix) + turn*mix
	}
	return f
}

func (t turning) magnitude() float64 {
	if t.extrapolate {
		return t.attnFactor * (1 + 0.1*math.Log(1/t.scale))
	}
	return t.attnFactor
}
