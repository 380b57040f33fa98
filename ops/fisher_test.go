package ops

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// TestFisherPredictsKLD adds small independent noise to one matrix at a time
// and compares the divergence with what the information predicts for it.
func TestFisherPredictsKLD(t *testing.T) {
	for _, d := range testDevices(t) {
		m := llama(2, 96, 32, 48, 4, 2)
		const length, count = 32, 24
		var chunks [][]int32
		for i := range count {
			chunks = append(chunks, randomIDs(m, uint64(i), length))
		}
		predicted := map[spec.Slot]float64{}
		noise := map[spec.Slot][]float32{}
		for slot, w := range m.Weights {
			if w.Rows == 1 {
				continue
			}
			r := rand.New(rand.NewPCG(uint64(w.Rows), uint64(slot.Layer)))
			n := make([]float32, w.Rows*w.Cols)
			for i := range n {
				n[i] = float32(r.NormFloat64() * 0.2 / math.Sqrt(float64(w.Cols)))
			}
			noise[slot] = n
		}
		err := Fisher(t.Context(), d, m, chunks, 7, func(in Information) error {
			n, cols := noise[in.Slot], m.Weights[in.Slot].Cols
			for k, row := range in.Rows {
				for j := range cols {
					x := float64(n[row*cols+j])
					predicted[in.Slot] += 0.5 * float64(in.F[k*cols+j]) * x * x
				}
			}
			return nil
		}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(predicted) != len(noise) {
			t.Fatalf("%d matrices have an information: want %d", len(predicted), len(noise))
		}
		for slot, n := range noise {
			moved := *m
			moved.Weights = map[spec.Slot]spec.Weight{}
			for s, w := range m.Weights {
				if s == slot {
					read := w.Read
					w.Read = func(ctx context.Context, dst []float32, first int) error {
						if err := read(ctx, dst, first); err != nil {
							return err
						}
						for i := range dst {
							dst[i] += n[first*w.Cols+i]
						}
						return nil
					}
				}
				moved.Weights[s] = w
			}
			c, err := Compare(t.Context(), d, m, &moved, chunks, Options{})
			if err != nil {
				t.Fatal(err)
			}
			ratio := predicted[slot] / c.KLD.Mean
			t.Logf("%s %v: KLD %.3g, predicted %.3g (%.2f)", d.Name(), slot, c.KLD.Mean, predicted[slot], ratio)
			if c.KLD.Mean < 1e-6 && predicted[slot] < 1e-6 {
				continue // float32's own error
			}
			if ratio < 0.6 || ratio > 1.6 {
				t.Errorf("%v: KLD %g, predicted %g", slot, c.KLD.Mean, predicted[slot])
			}
		}
	}
}

// TestSampleFollowsDistribution draws from known probabilities.
func TestSampleFollowsDistribution(t *testing.T) {
	p := []float64{0.5, 0.2, 0.2, 0.06, 0.04}
	logits := make([]float32, len(p))
	for i, v := range p {
		logits[i] = float32(math.Log(v))
	}
	const n = 40000
	hits := make([]float64, len(p))
	for row := range n {
		var s sample
		s.add(1, row, 0, logits[:2])
		s.add(1, row, 2, logits[2:])
		hits[s.id] += 1. / n
	}
	for i, v := range p {
		if math.Abs(hits[i]-v) > 5*math.Sqrt(v*(1-v)/n) {
			t.Errorf("token %d is drawn with %.4f: want %.4f", i, hits[i], v)
		}
	}
}

// TestFisherRefuses names what it cannot do.
func TestFisherRefuses(t *testing.T) {
	d := testDevices(t)[0]
	m := llama(1, 32, 16, 16, 2, 2)
	use := func(Information) error { return nil }
	if err := Fisher(t.Context(), d, m, [][]int32{{1, 2}}, 0, use, Options{}); err == nil {
		t.Error("chunks of two tokens are accepted")
	}
	if err := Fisher(t.Context(), d, m, [][]int32{{1, 2, 3, 4}, {1, 2, 3, 4, 5}}, 0, use, Options{}); err == nil {
		t.Error("chunks of two lengths are accepted")
	}
	m.Blocks[0].FFN.MoE = &spec.MoE{}
	if err := Fisher(t.Context(), d, m, [][]int32{{1, 2, 3, 4}}, 0, use, Options{}); err == nil {
		t.Error("experts are accepted")
	}
}
