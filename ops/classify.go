package ops

import (
	"context"
	"fmt"
	"math"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// classified makes a classifier's scores of pooled vectors, in float64: there
// is one vector for each sequence, so that no graph is worth its compilation.
func classified(ctx context.Context, m *spec.Model, vectors [][]float32) ([][]float32, error) {
	x := make([][]float64, len(vectors))
	for i, v := range vectors {
		for _, f := range v {
			x[i] = append(x[i], float64(f))
		}
	}
	var err error
	if m.Classifier.Dense {
		if x, err = affine(ctx, m, spec.ClassDense, x); err != nil {
			return nil, err
		}
		for _, row := range x {
			for j, v := range row {
				row[j] = math.Tanh(v)
			}
		}
	}
	if x, err = affine(ctx, m, spec.ClassOut, x); err != nil {
		return nil, err
	}
	scores := make([][]float32, len(x))
	for i, row := range x {
		if m.Classifier.Softmax {
			softmax(row)
		}
		for j, v := range row {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return nil, fmt.Errorf("%s: score %d of sequence %d is not finite", m.Family, j, i)
			}
			scores[i] = append(scores[i], float32(v))
		}
	}
	return scores, nil
}

// affine multiplies vectors by a matrix outside of blocks and adds its bias,
// where it has one.
func affine(ctx context.Context, m *spec.Model, role spec.Role, x [][]float64) ([][]float64, error) {
	w, err := m.Weight(spec.Global(role))
	if err != nil {
		return nil, err
	}
	values, err := w.Floats(ctx)
	if err != nil {
		return nil, err
	}
	bias := make([]float32, w.Rows)
	if b, ok := m.Weights[spec.Global(role.Bias())]; ok {
		if bias, err = b.Floats(ctx); err != nil {
			return nil, err
		}
	}
	y := make([][]float64, len(x))
	for i := range x {
		for r := range w.Rows {
			sum := float64(bias[r])
			for c, v := range values[r*w.Cols:][:w.Cols] {
				sum += float64(v) * x[i][c]
			}
			y[i] = append(y[i], sum)
		}
	}
	return y, nil
}
