package ops

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/ops/plain"
	"github.com/modelpipe/modelpipe/ops/spec"
)

// TestClassifier holds scores to what the specification says of the hidden
// states.
func TestClassifier(t *testing.T) {
	for seed, k := range []spec.Classifier{
		{Labels: 3, Dense: true, Activation: spec.Tanh},
		{Labels: 3, Dense: true, Activation: spec.GELU, Norm: &spec.Norm{Kind: spec.LayerNorm, Eps: 1e-5}},
		{Labels: 3, Softmax: true},
	} {
		m := randomModel(uint64(seed), false)
		m.Head, m.Pooling, m.Classifier = nil, spec.PoolCLS, &k
		delete(m.Weights, spec.Global(spec.Output))
		delete(m.Weights, spec.Global(spec.Output.Bias()))
		d := draw{rand.New(rand.NewPCG(uint64(seed), 9)), m}
		if k.Dense {
			d.weight(spec.Global(spec.ClassDense), m.Width, m.Width)
			d.weight(spec.Global(spec.ClassDense.Bias()), 1, m.Width)
		}
		if k.Norm != nil {
			d.weight(spec.Global(spec.ClassNorm), 1, m.Width)
		}
		d.weight(spec.Global(spec.ClassOut), 3, m.Width)
		d.weight(spec.Global(spec.ClassOut.Bias()), 1, 3)
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
		texts := [][]int32{randomIDs(m, 1, 9), randomIDs(m, 2, 5)}
		for _, dev := range testDevices(t) {
			got, err := Embed(t.Context(), dev, m, texts, Options{})
			if err != nil {
				t.Fatal(err)
			}
			for i, ids := range texts {
				x, err := plain.Forward(t.Context(), m, ids)
				if err != nil {
					t.Fatal(err)
				}
				v := x[0]
				through := func(r spec.Role, rows int) (y []float64) {
					w, _ := m.Weights[spec.Global(r)].Floats(t.Context())
					b, _ := m.Weights[spec.Global(r.Bias())].Floats(t.Context())
					for i := range rows {
						sum := float64(b[i])
						for j := range v {
							sum += float64(w[i*len(v)+j]) * v[j]
						}
						y = append(y, sum)
					}
					return y
				}
				if k.Dense {
					v = through(spec.ClassDense, m.Width)
				}
				switch k.Activation {
				case spec.Tanh:
					for j := range v {
						v[j] = math.Tanh(v[j])
					}
				case spec.GELU:
					mean, square := 0.0, 0.0
					for j := range v {
						v[j] *= math.Erfc(-v[j]/math.Sqrt2) / 2
						mean += v[j] / float64(len(v))
						square += v[j] * v[j] / float64(len(v))
					}
					w, err := m.Weights[spec.Global(spec.ClassNorm)].Floats(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					for j := range v {
						v[j] = (v[j] - mean) / math.Sqrt(square-mean*mean+1e-5) * float64(w[j])
					}
				}
				scores := through(spec.ClassOut, 3)
				if k.Softmax {
					sum := 0.0
					for _, s := range scores {
						sum += math.Exp(s)
					}
					for j, s := range scores {
						scores[j] = math.Exp(s) / sum
					}
				}
				for j, want := range scores {
					near(t, dev.Name()+": score", float64(got[i][j]), want, 1e-4)
				}
			}
		}
		m.Weights[spec.Global(spec.ClassOut)] = memory("out", 3, m.Width, append(make([]float32, 3*m.Width-1), float32(math.NaN())))
		if _, err := Embed(t.Context(), testDevices(t)[0], m, texts, Options{}); err == nil || !strings.Contains(err.Error(), " of sequence 0 is not finite") {
			t.Errorf("error %v: want one about a score", err)
		}
		m.Head = &spec.Head{Scale: 1}
		if err := m.Check(); err == nil || !strings.Contains(err.Error(), "a classifier without a pooled vector, or beside a head") {
			t.Errorf("error %v: want one about the classifier's head", err)
		}
	}
}
