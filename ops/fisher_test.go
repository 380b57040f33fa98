package ops

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// TestFisherPredictsKLD adds independent noise to one matrix at a time and
// compares the divergence, on average over several draws, with what the
// information predicts for it.
func TestFisherPredictsKLD(t *testing.T) {
	const length, count, draws = 32, 24, 4
	for _, d := range testDevices(t) {
		m := llama(2, 96, 32, 48, 4, 2)
		var chunks [][]int32
		for i := range count {
			chunks = append(chunks, randomIDs(m, uint64(i), length))
		}
		var slots []spec.Slot
		noise := map[spec.Slot][draws][]float32{}
		for slot, w := range m.Weights {
			if w.Rows == 1 {
				continue
			}
			slots = append(slots, slot)
			var all [draws][]float32
			for k := range all {
				seed := fnv.New64a()
				fmt.Fprint(seed, slot, k)
				r := rand.New(rand.NewPCG(seed.Sum64(), 1))
				for range w.Rows * w.Cols {
					all[k] = append(all[k], float32(r.NormFloat64()*0.2/math.Sqrt(float64(w.Cols))))
				}
			}
			noise[slot] = all
		}
		predicted := map[spec.Slot]float64{}
		err := Fisher(t.Context(), d, m, chunks, 7, func(in Information) error {
			cols := m.Weights[in.Slot].Cols
			for _, n := range noise[in.Slot] {
				for k, row := range in.Rows {
					for j := range cols {
						x := float64(n[row*cols+j])
						predicted[in.Slot] += 0.5 * float64(in.F[k*cols+j]) * x * x / draws
					}
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
		slices.SortFunc(slots, func(a, b spec.Slot) int { return cmp.Compare(a.String(), b.String()) })
		for _, slot := range slots {
			var moved []*spec.Model
			for _, n := range noise[slot] {
				moved = append(moved, shifted(m, slot, n))
			}
			results, err := CompareAll(t.Context(), d, m, moved, chunks, Options{})
			if err != nil {
				t.Fatal(err)
			}
			kld := 0.0
			for _, c := range results {
				kld += c.KLD.Mean / draws
			}
			t.Logf("%s %v: KLD %.3g, predicted %.3g (%.2f)", d.Name(), slot, kld, predicted[slot], predicted[slot]/kld)
			if kld < 1e-6 && predicted[slot] < 1e-6 {
				continue // float32's own error
			}
			if ratio := predicted[slot] / kld; ratio < 0.6 || ratio > 1.6 {
				t.Errorf("%v: KLD %g, predicted %g", slot, kld, predicted[slot])
			}
		}
	}
}

// shifted is a model with n added to one matrix.
func shifted(m *spec.Model, slot spec.Slot, n []float32) *spec.Model {
	moved := *m
	moved.Weights = maps.Clone(m.Weights)
	w := m.Weights[slot]
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
	moved.Weights[slot] = w
	return &moved
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
