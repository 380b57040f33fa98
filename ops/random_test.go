package ops

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// A draw makes random specifications, tiny and valid.
type draw struct {
	*rand.Rand
	m *spec.Model
}

func (d draw) coin() bool { return d.IntN(2) == 0 }

func (d draw) one(n int) bool { return d.IntN(n) == 0 }

func oneOf[T any](d draw, values ...T) T { return values[d.IntN(len(values))] }

// weight puts a random tensor into the model.
func (d draw) weight(s spec.Slot, rows, cols int) {
	data := make([]float32, rows*cols)
	scale := 1 / math.Sqrt(float64(cols))
	if rows == 1 {
		scale = 0.3
	}
	for i := range data {
		data[i] = float32(d.NormFloat64() * scale)
	}
	d.m.Weights[s] = memory(fmt.Sprint(s), rows, cols, data)
}

// memory is a weight that is held in memory.
func memory(name string, rows, cols int, data []float32) spec.Weight {
	return spec.Weight{Names: []string{name}, Rows: rows, Cols: cols, Type: "F32",
		Read: func(_ context.Context, dst []float32, first int) error {
			if len(dst)%cols != 0 || first*cols+len(dst) > len(data) {
				return fmt.Errorf("tensor %s: rows from %d on, %d values", name, first, len(dst))
			}
			copy(dst, data[first*cols:])
			return nil
		}}
}

func (d draw) matrix(s spec.Slot, rows, cols int) {
	d.weight(s, rows, cols)
	if d.one(3) {
		s.Role = s.Role.Bias()
		d.weight(s, 1, rows)
	}
}

// norm draws a norm of cols values, where it is one in n, with its weights.
func (d draw) norm(n int, s spec.Slot, cols int) *spec.Norm {
	if !d.one(n) {
		return nil
	}
	norm := &spec.Norm{Kind: oneOf(d, spec.RMSNorm, spec.RMSNorm, spec.LayerNorm, spec.L2Norm), Eps: oneOf(d, 1e-5, 1e-6, 1e-3)}
	if !d.one(5) {
		norm.Offset = oneOf[float32](d, 0, 1)
		d.weight(s, 1, cols)
	}
	if d.one(3) {
		s.Role = s.Role.Bias()
		d.weight(s, 1, cols)
	}
	return norm
}

// randomModel draws a specification whose every term may be there.
func randomModel(seed uint64, causal bool) *spec.Model {
	d := draw{rand.New(rand.NewPCG(seed, 5)), nil}
	m := &spec.Model{Family: fmt.Sprint("random", seed), Vocab: 20 + d.IntN(40), Width: 4 * (2 + d.IntN(6)), Weights: map[spec.Slot]spec.Weight{}}
	d.m = m
	m.Embedding.Scale = oneOf[float32](d, 1, 1, 3.5)
	d.weight(spec.Global(spec.TokenEmbd), m.Vocab, m.Width)
	if d.one(4) {
		d.weight(spec.Global(spec.PositionEmbd), 64, m.Width)
	}
	if d.one(4) {
		d.weight(spec.Global(spec.TokenTypes), 2, m.Width)
	}
	m.Embedding.Norm = d.norm(4, spec.Global(spec.EmbdNorm), m.Width)
	for i := range 1 + d.IntN(3) {
		m.Blocks = append(m.Blocks, d.block(i, causal))
	}
	m.FinalNorm = d.norm(1, spec.Global(spec.FinalNorm), m.Width)
	m.Head = &spec.Head{Scale: oneOf[float32](d, 1, 1, 0.25), SoftCap: oneOf[float32](d, 0, 0, 5)}
	d.matrix(spec.Global(spec.Output), m.Vocab, m.Width)
	m.Pooling = oneOf(d, spec.PoolMean, spec.PoolCLS, spec.PoolLast)
	return m
}

func (d draw) block(i int, causal bool) spec.Block {
	at := func(r spec.Role) spec.Slot { return spec.At(i, r) }
	w := d.m.Width
	b := spec.Block{ResidualScale: oneOf[float32](d, 1, 1, 0.3), Parallel: d.one(4)}
	b.PreMix = d.norm(2, at(spec.PreMix), w)
	b.PreFFN = d.norm(2, at(spec.PreFFN), w)
	if !b.Parallel {
		b.PostMix, b.SumMix = d.norm(3, at(spec.PostMix), w), d.norm(3, at(spec.SumMix), w)
		b.PostFFN, b.SumFFN = d.norm(3, at(spec.PostFFN), w), d.norm(3, at(spec.SumFFN), w)
	}
	if causal && d.one(6) {
		b.Conv = &spec.ShortConv{Kernel: 1 + d.IntN(4)}
		d.matrix(at(spec.ConvIn), 3*w, w)
		d.matrix(at(spec.ConvTaps), w, b.Conv.Kernel)
		d.matrix(at(spec.ConvOut), w, w)
	} else {
		b.Attention = d.attention(i, causal)
	}
	b.FFN = d.feedForward(i)
	return b
}

func (d draw) attention(i int, causal bool) *spec.Attention {
	at := func(r spec.Role) spec.Slot { return spec.At(i, r) }
	w := d.m.Width
	kv := 1 + d.IntN(3)
	a := &spec.Attention{Heads: kv * (1 + d.IntN(3)), KVHeads: kv, KeyDim: 2 * (2 + d.IntN(5)), ValueDim: 1 + d.IntN(9), Causal: causal}
	a.Scale = oneOf(d, 1/math.Sqrt(float64(a.KeyDim)), 0.5)
	a.SoftCap = oneOf[float32](d, 0, 0, 3)
	if d.one(3) {
		a.Window = 1 + d.IntN(6)
	}
	if d.one(5) {
		a.Chunk = 1 + d.IntN(7)
	}
	if d.one(5) {
		a.Temperature, a.TemperatureFloor = 0.1, float64(1+d.IntN(4))
	}
	if d.one(4) {
		a.ALiBi = 8
	}
	if d.one(5) {
		a.Clamp = 0.7
	}
	rotary := a.KeyDim
	if d.one(3) {
		a.KVHeads = a.Heads
		l := &spec.MLA{KVRank: 3 + d.IntN(8), Rope: 2 * (1 + d.IntN(2))}
		l.Nope = 1 + d.IntN(5)
		a.KeyDim = l.Nope + l.Rope
		rotary = l.Rope
		if d.coin() {
			l.QRank = 3 + d.IntN(8)
			d.matrix(at(spec.QA), l.QRank, w)
			l.QANorm = d.norm(2, at(spec.QANorm), l.QRank)
			d.matrix(at(spec.QB), a.Heads*a.KeyDim, l.QRank)
		} else {
			d.matrix(at(spec.Q), a.Heads*a.KeyDim, w)
		}
		d.matrix(at(spec.KVA), l.KVRank+l.Rope, w)
		l.KVANorm = d.norm(2, at(spec.KVANorm), l.KVRank)
		d.matrix(at(spec.KB), a.Heads*l.Nope, l.KVRank)
		d.matrix(at(spec.VB), a.Heads*a.ValueDim, l.KVRank)
		a.MLA = l
	} else {
		d.matrix(at(spec.Q), a.Heads*a.KeyDim, w)
		d.matrix(at(spec.K), a.KVHeads*a.KeyDim, w)
		d.matrix(at(spec.V), a.KVHeads*a.ValueDim, w)
	}
	if !d.one(4) {
		n := 1 + d.IntN(rotary/2)
		r := &spec.Rope{Magnitude: oneOf(d, 1, 1.2), Interleaved: d.coin(), Start: d.IntN(rotary - 2*n + 1)}
		for k := range n {
			r.InvFreq = append(r.InvFreq, math.Pow(100, -float64(k)/float64(n)))
		}
		if d.one(3) {
			r.LongFrom, r.LongMagnitude = 6+d.IntN(8), 0.8
			for _, f := range r.InvFreq {
				r.Long = append(r.Long, f/3)
			}
		}
		a.Rope = r
	}
	a.NormWhole, a.NormAfterRope = d.one(3), d.one(3)
	q, k := a.KeyDim, a.KeyDim
	if a.NormWhole {
		q, k = a.Heads*a.KeyDim, a.KVHeads*a.KeyDim
	}
	a.QNorm, a.KNorm = d.norm(3, at(spec.QNorm), q), d.norm(3, at(spec.KNorm), k)
	if a.QNorm != nil && !a.NormWhole && d.one(3) {
		d.weight(at(spec.QNorm), a.Heads, a.KeyDim) // a row per head
		delete(d.m.Weights, at(spec.QNorm.Bias()))
	}
	if d.one(3) {
		d.weight(at(spec.Sinks), 1, a.Heads)
	}
	a.InnerNorm = d.norm(4, at(spec.AttnInner), a.Heads*a.ValueDim)
	d.matrix(at(spec.AttnOut), w, a.Heads*a.ValueDim)
	return a
}

func (d draw) feedForward(i int) spec.FFN {
	at := func(r spec.Role) spec.Slot { return spec.At(i, r) }
	w := d.m.Width
	f := spec.FFN{Gated: d.coin(), Inner: 3 + d.IntN(30)}
	f.Activation = oneOf(d, spec.SiLU, spec.GELU, spec.GELUTanh, spec.ReLU, spec.ReLU2)
	if f.Gated && d.one(4) {
		f.Activation, f.Alpha, f.Limit = spec.SwiGLUClamped, 1.702, 0.8
	}
	part := func(gate, up, down spec.Slot, inner int) {
		if f.Gated {
			d.matrix(gate, inner, w)
		}
		d.matrix(up, inner, w)
		d.matrix(down, w, inner)
	}
	if !d.one(3) {
		part(at(spec.Gate), at(spec.Up), at(spec.Down), f.Inner)
		f.InnerNorm = d.norm(4, at(spec.FFNInner), f.Inner)
		return f
	}
	e := &spec.MoE{Experts: 8, Used: 1 + d.IntN(4), Inner: 3 + d.IntN(9), Scale: oneOf[float32](d, 1, 2.5),
		Scoring: oneOf(d, spec.ScoreSoftmax, spec.ScoreSigmoid, spec.ScoreSoftmaxSelected), Normalize: d.coin(), NormEps: oneOf(d, 0, 1e-20, 0.01),
		WeightInput: d.one(3)}
	if d.coin() {
		e.Groups, e.GroupsUsed, e.GroupTop2 = 4, 2+d.IntN(3), d.coin()
	}
	d.matrix(at(spec.Router), e.Experts, w)
	if d.coin() {
		d.weight(at(spec.RouterCorrection), 1, e.Experts)
	}
	for x := range e.Experts {
		slot := func(r spec.Role) spec.Slot { return spec.Slot{Layer: i, Role: r, Expert: x} }
		part(slot(spec.Gate), slot(spec.Up), slot(spec.Down), e.Inner)
	}
	if d.coin() {
		e.SharedInner = 3 + d.IntN(9)
		part(at(spec.SharedGate), at(spec.SharedUp), at(spec.SharedDown), e.SharedInner)
		if d.coin() {
			d.weight(at(spec.SharedRouter), 1, w)
		}
	}
	f.MoE = e
	return f
}

// randomIDs draws n tokens.
func randomIDs(m *spec.Model, seed uint64, n int) []int32 {
	r := rand.New(rand.NewPCG(seed, 7))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(r.IntN(m.Vocab))
	}
	return ids
}
