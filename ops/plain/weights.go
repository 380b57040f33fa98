package plain

import (
	"fmt"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// rowsAtOnce is how many rows of a matrix are in memory at a time.
const rowsAtOnce = 64

func biasOf(s spec.Slot) spec.Slot {
	s.Role = s.Role.Bias()
	return s
}

func (f *forward) fail(err error) {
	if f.err == nil {
		f.err = err
	}
}

func (f *forward) has(s spec.Slot) bool {
	_, ok := f.model.Weights[s]
	return ok
}

// rows returns rows first to first+n-1 of a tensor.
func (f *forward) rows(s spec.Slot, first, n int) [][]float64 {
	w := f.model.Weights[s] // Check has seen to it
	x := zeros(n, w.Cols)
	f.fail(f.ctx.Err())
	if f.err != nil {
		return x
	}
	buf := make([]float32, n*w.Cols)
	if f.err = w.Read(f.ctx, buf, first); f.err != nil {
		return x
	}
	for i, v := range buf {
		x[i/w.Cols][i%w.Cols] = float64(v)
	}
	return x
}

// matrix returns the whole of a small tensor.
func (f *forward) matrix(s spec.Slot) [][]float64 {
	return f.rows(s, 0, f.model.Weights[s].Rows)
}

// vector returns a tensor of one row, nil where the model has none.
func (f *forward) vector(s spec.Slot) []float64 {
	if !f.has(s) {
		return nil
	}
	return f.rows(s, 0, 1)[0]
}

// addRow adds one row of a tensor to x.
func (f *forward) addRow(x []float64, s spec.Slot, row int) {
	if n := f.model.Weights[s].Rows; row >= n {
		f.fail(fmt.Errorf("%s: a sequence of more than %d tokens: %v has no more rows", f.model.Family, n, s))
		return
	}
	for i, v := range f.rows(s, row, 1)[0] {
		x[i] += v
	}
}

// mul is x times the transpose of a matrix, plus its bias where it has one:
// y[t][r] = sum over c of W[r][c]*x[t][c], plus bias[r].
func (f *forward) mul(s spec.Slot, x [][]float64) [][]float64 {
	if f.Input != nil && f.err == nil {
		f.Input(s, x)
	}
	rows := f.model.Weights[s].Rows
	y := zeros(len(x), rows)
	if len(x) == 0 {
		return y
	}
	for first := 0; first < rows && f.err == nil; first += rowsAtOnce {
		for i, w := range f.rows(s, first, min(rowsAtOnce, rows-first)) {
			for t := range x {
				y[t][first+i] = dot(w, x[t])
			}
		}
	}
	if bias := f.vector(biasOf(s)); bias != nil {
		for t := range y {
			for r := range y[t] {
				y[t][r] += bias[r]
			}
		}
	}
	return y
}

func dot(a, b []float64) float64 {
	sum := 0.0
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}

// add is a + scale*b.
func add(a, b [][]float64, scale float64) [][]float64 {
	y := make([][]float64, len(a))
	for t := range a {
		y[t] = make([]float64, len(a[t]))
		for i := range a[t] {
			y[t][i] = a[t][i] + scale*b[t][i]
		}
	}
	return y
}

// each replaces every value of x.
func each(x [][]float64, by func(float64) float64) {
	for t := range x {
		for i := range x[t] {
			x[t][i] = by(x[t][i])
		}
	}
}

func zeros(rows, cols int) [][]float64 {
	x := make([][]float64, rows)
	for t := range x {
		x[t] = make([]float64, cols)
	}
	return x
}
