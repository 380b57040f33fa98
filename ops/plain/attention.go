package plain

import (
	"math"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// attention is what a block's attention adds to the residual stream.
func (f *forward) attention(layer int, a *spec.Attention, x [][]float64) [][]float64 {
	at := func(r spec.Role) spec.Slot { return spec.At(layer, r) }
	var q, k, v [][]float64
	if a.MLA != nil {
		q, k, v = f.latent(layer, a, x)
	} else {
		q, k, v = f.mul(at(spec.Q), x), f.mul(at(spec.K), x), f.mul(at(spec.V), x)
	}
	if c := float64(a.Clamp); c > 0 {
		for _, m := range [][][]float64{q, k, v} {
			each(m, func(s float64) float64 { return max(-c, min(s, c)) })
		}
	}
	if !a.NormAfterRope {
		q = f.headNorm(a, a.QNorm, at(spec.QNorm), q, a.Heads)
		k = f.headNorm(a, a.KNorm, at(spec.KNorm), k, a.KVHeads)
	}
	if a.Rope != nil {
		start := a.Rope.Start
		if a.MLA != nil {
			start += a.MLA.Nope
		}
		turn(a.Rope, q, a.Heads, start)
		turn(a.Rope, k, a.KVHeads, start)
	}
	if a.NormAfterRope {
		q = f.headNorm(a, a.QNorm, at(spec.QNorm), q, a.Heads)
		k = f.headNorm(a, a.KNorm, at(spec.KNorm), k, a.KVHeads)
	}
	if a.Temperature != 0 {
		for pos := range q {
			scale := math.Log(math.Floor(float64(pos+1)/a.TemperatureFloor)+1)*a.Temperature + 1
			for i := range q[pos] {
				q[pos][i] *= scale
			}
		}
	}

	sinks := f.vector(at(spec.Sinks))
	y := zeros(len(x), a.Heads*a.ValueDim)
	for h := range a.Heads {
		kv := h / (a.Heads / a.KVHeads)
		slope := slope(a, h)
		for i := range x {
			var seen []int
			var scores []float64
			for j := range x {
				if !sees(a, i, j) {
					continue
				}
				s := a.Scale * dot(head(q[i], h, a.KeyDim), head(k[j], kv, a.KeyDim))
				s = softCap(s, a.SoftCap) - slope*math.Abs(float64(i-j))
				seen, scores = append(seen, j), append(scores, s)
			}
			if sinks != nil {
				scores = append(scores, sinks[h])
			}
			p := softmax(scores)
			out := head(y[i], h, a.ValueDim)
			for n, j := range seen {
				for d, value := range head(v[j], kv, a.ValueDim) {
					out[d] += p[n] * value
				}
			}
		}
	}
	return f.mul(at(spec.AttnOut), f.norm(a.InnerNorm, at(spec.AttnInner), y))
}

// latent returns the queries, keys and values of DeepSeek's attention, each
// head with its own copy of the rotary part of the key.
func (f *forward) latent(layer int, a *spec.Attention, x [][]float64) (q, k, v [][]float64) {
	at := func(r spec.Role) spec.Slot { return spec.At(layer, r) }
	l := a.MLA
	if l.QRank > 0 {
		q = f.mul(at(spec.QB), f.norm(l.QANorm, at(spec.QANorm), f.mul(at(spec.QA), x)))
	} else {
		q = f.mul(at(spec.Q), x)
	}
	latents, rotary := make([][]float64, len(x)), make([][]float64, len(x))
	for t, row := range f.mul(at(spec.KVA), x) {
		latents[t], rotary[t] = row[:l.KVRank], row[l.KVRank:]
	}
	latents = f.norm(l.KVANorm, at(spec.KVANorm), latents)
	nope := f.mul(at(spec.KB), latents)
	k = zeros(len(x), a.Heads*a.KeyDim)
	for t := range x {
		for h := range a.Heads {
			key := head(k[t], h, a.KeyDim)
			copy(key, head(nope[t], h, l.Nope))
			copy(key[l.Nope:], rotary[t])
		}
	}
	return q, k, f.mul(at(spec.VB), latents)
}

// head is head h of a row of heads of dim values.
func head(row []float64, h, dim int) []float64 { return row[h*dim : (h+1)*dim] }

// headNorm norms queries or keys: each head, or all together.
func (f *forward) headNorm(a *spec.Attention, n *spec.Norm, s spec.Slot, x [][]float64, heads int) [][]float64 {
	if n == nil || a.NormWhole {
		return f.norm(n, s, x)
	}
	var weights [][]float64
	if f.has(s) {
		weights = f.matrix(s)
	}
	bias := f.vector(biasOf(s))
	y := zeros(len(x), heads*a.KeyDim)
	for t := range x {
		for h := range heads {
			var weight []float64
			switch len(weights) {
			case 0:
			case 1:
				weight = weights[0]
			default:
				weight = weights[h]
			}
			copy(head(y[t], h, a.KeyDim), normed(n, head(x[t], h, a.KeyDim), weight, bias))
		}
	}
	return y
}

// turn applies a rotary embedding to the values of each head that begin at
// start: pair i of the token at position pos turns by pos*InvFreq[i].
func turn(r *spec.Rope, x [][]float64, heads, start int) {
	freq, magnitude := r.InvFreq, r.Magnitude
	if r.Long != nil && len(x) > r.LongFrom {
		freq, magnitude = r.Long, r.LongMagnitude
	}
	for pos := range x {
		dim := len(x[pos]) / heads
		for h := range heads {
			values := head(x[pos], h, dim)[start:]
			for i, w := range freq {
				a, b := i, i+len(freq)
				if r.Interleaved {
					a, b = 2*i, 2*i+1
				}
				sin, cos := math.Sincos(float64(pos) * w)
				sin, cos = sin*magnitude, cos*magnitude
				values[a], values[b] = values[a]*cos-values[b]*sin, values[a]*sin+values[b]*cos
			}
		}
	}
}

// sees says whether the token at position i attends to the one at j.
func sees(a *spec.Attention, i, j int) bool {
	switch {
	case a.Causal && j > i,
		a.Causal && a.Window > 0 && i-j >= a.Window,
		!a.Causal && a.Window > 0 && max(i-j, j-i) > a.Window/2,
		a.Chunk > 0 && i/a.Chunk != j/a.Chunk:
		return false
	}
	return true
}

// slope is what ALiBi takes from head h's scores per position of distance.
func slope(a *spec.Attention, h int) float64 {
	if a.ALiBi == 0 {
		return 0
	}
	n := 1
	for 2*n <= a.Heads {
		n *= 2
	}
	if h < n {
		return math.Exp2(-a.ALiBi / float64(n) * float64(h+1))
	}
	return math.Exp2(-a.ALiBi / float64(2*n) * float64(2*(h-n)+1))
}

// softCap is c*tanh(s/c), or s where c is 0.
func softCap(s float64, c float32) float64 {
	if c == 0 {
		return s
	}
	return float64(c) * math.Tanh(s/float64(c))
}

func softmax(s []float64) []float64 {
	top, sum := math.Inf(-1), 0.0
	for _, v := range s {
		top = max(top, v)
	}
	p := make([]float64, len(s))
	for i, v := range s {
		p[i] = math.Exp(v - top)
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}
