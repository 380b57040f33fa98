package plain

import (
	"context"
	"fmt"
	"math"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// Classify returns the scores that the model's classifier makes of pooled
// vectors, [len(x)][Labels].
func Classify(ctx context.Context, m *spec.Model, x [][]float64) ([][]float64, error) {
	k := m.Classifier
	if k == nil {
		return nil, fmt.Errorf("%s has no classifier", m.Family)
	}
	if err := m.Check(); err != nil {
		return nil, err
	}
	f := &forward{Runner: Runner{Model: m}, ctx: ctx, model: m}
	if k.Dense {
		x = f.mul(spec.Global(spec.ClassDense), x)
		each(x, func(v float64) float64 { return activate(k.Activation, v) })
		x = f.norm(k.Norm, spec.Global(spec.ClassNorm), x)
	}
	x = f.mul(spec.Global(spec.ClassOut), x)
	for i, scores := range x {
		if k.Softmax {
			x[i] = softmax(scores)
		}
		for j, v := range x[i] {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return nil, fmt.Errorf("%s: score %d of sequence %d is not finite", m.Family, j, i)
			}
		}
	}
	return x, f.err
}
