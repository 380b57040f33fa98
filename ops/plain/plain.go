// Package plain is the definition of what a spec.Model computes: float64, one
// loop per sum, no batching, no cache. Every other engine is held equal to it
// by tests. It is as slow as it looks, and its memory is the activations of
// one sequence, a block of rows of one matrix, and the logits.
//
// A matrix of activations is [][]float64, one row per token.
package plain

import (
	"context"
	"fmt"
	"math"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// Forward returns what the model gives for a sequence of token ids: for each
// position the logits of the next token, [len(ids)][Vocab], or where the model
// has no head the hidden states after the last norm, [len(ids)][Width].
func Forward(ctx context.Context, m *spec.Model, ids []int32) ([][]float64, error) {
	return Runner{Model: m}.Forward(ctx, ids)
}

// A Runner is a model and what to call while it runs. Callees must neither
// change nor keep the values that they are shown.
type Runner struct {
	Model *spec.Model

	// Input is called with what each matrix is multiplied by, before it is:
	// with experts, the rows of the tokens that chose the expert.
	Input func(s spec.Slot, x [][]float64)

	// Trace is called with the residual stream after the embedding (layer
	// spec.None, "embedding") and after each block ("block"), with what the
	// parts of a block add to it ("mix", "ffn"), and with the stream after the
	// last norm (layer spec.None, "final").
	Trace func(layer int, what string, x [][]float64)
}

// Forward is as the function Forward.
func (r Runner) Forward(ctx context.Context, ids []int32) ([][]float64, error) {
	m := r.Model
	if err := m.Check(); err != nil {
		return nil, err
	}
	for i, id := range ids {
		if id < 0 || int(id) >= m.Vocab {
			return nil, fmt.Errorf("%s: token %d at position %d: the vocabulary has %d", m.Family, id, i, m.Vocab)
		}
	}
	f := &forward{Runner: r, ctx: ctx, model: m}
	x := f.embed(ids)
	f.trace(spec.None, "embedding", x)
	for i := range m.Blocks {
		x = f.block(i, &m.Blocks[i], x)
		f.trace(i, "block", x)
	}
	x = f.norm(m.FinalNorm, spec.Global(spec.FinalNorm), x)
	f.trace(spec.None, "final", x)
	if h := m.Head; h != nil {
		x = f.mul(spec.Global(spec.Output), x)
		each(x, func(v float64) float64 { return softCap(v*float64(h.Scale), h.SoftCap) })
	}
	if f.err != nil {
		return nil, f.err
	}
	return x, nil
}

// forward is one pass. Its first error sticks: from then on weights read as
// zeros, hooks are not called, and Forward returns the error.
type forward struct {
	Runner
	ctx   context.Context
	model *spec.Model
	err   error
}

func (f *forward) trace(layer int, what string, x [][]float64) {
	if f.Trace != nil && f.err == nil {
		f.Trace(layer, what, x)
	}
}

// embed is Scale*TokenEmbd[ids] + PositionEmbd[positions] + TokenTypes[0],
// normed.
func (f *forward) embed(ids []int32) [][]float64 {
	e := f.model.Embedding
	x := zeros(len(ids), f.model.Width)
	for t, id := range ids {
		f.addRow(x[t], spec.Global(spec.TokenEmbd), int(id))
		for i := range x[t] {
			x[t][i] *= float64(e.Scale)
		}
		if f.has(spec.Global(spec.PositionEmbd)) {
			f.addRow(x[t], spec.Global(spec.PositionEmbd), t)
		}
		if f.has(spec.Global(spec.TokenTypes)) {
			f.addRow(x[t], spec.Global(spec.TokenTypes), 0)
		}
	}
	return f.norm(e.Norm, spec.Global(spec.EmbdNorm), x)
}

// block returns the residual stream after one block.
func (f *forward) block(layer int, b *spec.Block, x [][]float64) [][]float64 {
	at := func(r spec.Role) spec.Slot { return spec.At(layer, r) }
	r := float64(b.ResidualScale)

	in := f.norm(b.PreMix, at(spec.PreMix), x)
	var mixed [][]float64
	if b.Attention != nil {
		mixed = f.attention(layer, b.Attention, in)
	} else {
		mixed = f.shortConv(layer, b.Conv, in)
	}
	mixed = f.norm(b.PostMix, at(spec.PostMix), mixed)
	f.trace(layer, "mix", mixed)

	if b.Parallel {
		if b.PreFFN != nil {
			in = f.norm(b.PreFFN, at(spec.PreFFN), x)
		}
		out := f.ffn(layer, &b.FFN, in)
		f.trace(layer, "ffn", out)
		return add(add(x, mixed, r), out, r)
	}

	x = f.norm(b.SumMix, at(spec.SumMix), add(x, mixed, r))
	out := f.ffn(layer, &b.FFN, f.norm(b.PreFFN, at(spec.PreFFN), x))
	out = f.norm(b.PostFFN, at(spec.PostFFN), out)
	f.trace(layer, "ffn", out)
	return f.norm(b.SumFFN, at(spec.SumFFN), add(x, out, r))
}

// norm is x normed over each row, times the weight and plus the bias that the
// slot has. Without a norm it is x.
func (f *forward) norm(n *spec.Norm, s spec.Slot, x [][]float64) [][]float64 {
	if n == nil {
		return x
	}
	weight, bias := f.vector(s), f.vector(biasOf(s))
	y := make([][]float64, len(x))
	for t := range x {
		y[t] = normed(n, x[t], weight, bias)
	}
	return y
}

// normed is one row of a norm. The weight and the bias may be nil.
func normed(n *spec.Norm, x, weight, bias []float64) []float64 {
	mean, sum := 0.0, 0.0
	if n.Kind == spec.LayerNorm {
		for _, v := range x {
			mean += v
		}
		mean /= float64(len(x))
	}
	for _, v := range x {
		sum += (v - mean) * (v - mean)
	}
	if n.Kind != spec.L2Norm {
		sum /= float64(len(x))
	}
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = (v - mean) / math.Sqrt(sum+n.Eps)
		if weight != nil {
			y[i] *= weight[i] + float64(n.Offset)
		}
		if bias != nil {
			y[i] += bias[i]
		}
	}
	return y
}

// shortConv is ConvOut(c * conv(b*h)) of (b, c, h) = ConvIn x.
func (f *forward) shortConv(layer int, c *spec.ShortConv, x [][]float64) [][]float64 {
	width := f.model.Width
	bch := f.mul(spec.At(layer, spec.ConvIn), x)
	taps := f.matrix(spec.At(layer, spec.ConvTaps))
	bias := f.vector(spec.At(layer, spec.ConvTaps.Bias()))
	y := zeros(len(x), width)
	for t := range x {
		for i := range width {
			sum := 0.0
			for k := range c.Kernel {
				if from := t - (c.Kernel - 1) + k; from >= 0 {
					sum += taps[i][k] * bch[from][i] * bch[from][2*width+i]
				}
			}
			if bias != nil {
				sum += bias[i]
			}
			y[t][i] = bch[t][width+i] * sum
		}
	}
	return f.mul(spec.At(layer, spec.ConvOut), y)
}
