package ops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/modelpipe/modelpipe/ops/plain"
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
	headless, normed := *m, *m
	headless.Head = nil
	normed.Embedding.Norm = &spec.Norm{}
	for _, m := range []*spec.Model{&headless, &normed} {
		if err := Fisher(t.Context(), d, m, [][]int32{{1, 2, 3, 4}}, 0, use, Options{}); !errors.Is(err, ErrNoInformation) {
			t.Errorf("got %v", err)
		}
	}
}

// TestFisherIsSquaredGradient holds the information of one sequence to the
// square of the slope of its drawn tokens' log-likelihood, which the plain
// definition gives in float64 for models of all kinds, with experts and
// without.
func TestFisherIsSquaredGradient(t *testing.T) {
	const length, seed = 7, 5
	d := testDevices(t)[0]
	experts, models := 0, uint64(60)
	if testing.Short() {
		models = 15
	}
	for n := range models {
		m := randomModel(n, true)
		if m.Embedding.Norm != nil || !slices.ContainsFunc(m.Blocks, func(b spec.Block) bool { return b.FFN.MoE != nil }) && n%4 != 0 {
			continue
		}
		ids := randomIDs(m, n, length)
		logits, err := Logits(t.Context(), d, m, ids, Options{})
		if err != nil {
			t.Fatal(err)
		}
		first := length / 2
		drawn := make([]int, length-1-first)
		for k := range drawn {
			var s sample
			s.add(seed, k, 0, logits[(first+k)*m.Vocab:][:m.Vocab])
			drawn[k] = s.id
		}
		likelihood := func(m *spec.Model) float64 {
			rows, err := plain.Forward(t.Context(), m, ids)
			if err != nil {
				t.Fatal(err)
			}
			sum := 0.0
			for k, id := range drawn {
				row := rows[first+k]
				top, all := slices.Max(row), 0.0
				for _, l := range row {
					all += math.Exp(l - top)
				}
				sum += row[id] - top - math.Log(all)
			}
			return sum
		}
		if err := Fisher(t.Context(), d, m, [][]int32{ids}, seed, func(in Information) error {
			if in.Slot == spec.Global(spec.Output) || in.Slot == spec.Global(spec.TokenEmbd) {
				return nil // each prediction's is squared alone; the rows have both roles
			}
			cols := m.Weights[in.Slot].Cols
			// The largest: others are too small for a slope.
			at := 0
			for i, v := range in.F {
				if v > in.F[at] {
					at = i
				}
			}
			if in.F[at] < 1e-6 {
				return nil
			}
			if in.Slot.Expert >= 0 {
				experts++
			}
			const step = 1e-3
			move := make([]float32, len(in.F))
			slope := func(step float32) float64 {
				move[in.Rows[at/cols]*cols+at%cols] = step
				up := likelihood(shifted(m, in.Slot, move))
				move[in.Rows[at/cols]*cols+at%cols] = -step
				return (up - likelihood(shifted(m, in.Slot, move))) / float64(2*step)
			}
			got := float64(in.F[at]) * float64(len(drawn))
			want := slope(step)
			if rough := slope(step / 2); math.Abs(rough-want) > 0.02*math.Abs(want) {
				return nil // there is an edge: a token's experts change, or an activation's kink
			}
			if math.Abs(math.Sqrt(got)-math.Abs(want)) > 0.02*math.Abs(want)+1e-4 {
				t.Errorf("model %d, %v: the square root of the information is %g, the slope %g", n, in.Slot, math.Sqrt(got), want)
			}
			return nil
		}, Options{}); err != nil {
			t.Fatalf("model %d: %v", n, err)
		}
	}
	if experts < int(models)/2 {
		t.Errorf("%d experts of %d models were looked at", experts, models)
	}
}

// TestRouteBackward holds the derivative of routing to differences.
func TestRouteBackward(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, scoring := range []spec.Scoring{spec.ScoreSoftmax, spec.ScoreSigmoid, spec.ScoreSoftmaxSelected} {
		for _, normalize := range []bool{false, true} {
			e := &spec.MoE{Experts: 6, Used: 3, Scoring: scoring, Normalize: normalize, NormEps: 0.01, Scale: 2.5}
			logits, correction, dShares := make([]float32, 6), make([]float32, 6), make([]float32, 6)
			for i := range logits {
				logits[i], correction[i] = float32(r.NormFloat64()), float32(r.NormFloat64()/10)
			}
			chosen, _ := route(e, logits, correction)
			for _, x := range chosen {
				dShares[x] = float32(r.NormFloat64())
			}
			value := func() (sum float64) {
				chosen, shares := route(e, logits, correction)
				for k, x := range chosen {
					sum += float64(dShares[x]) * shares[k]
				}
				return sum
			}
			got := make([]float32, 6)
			routeBackward(e, logits, correction, dShares, got)
			for i := range logits {
				const step = 1.0 / 1024
				l := logits[i]
				logits[i] = l + step
				up := value()
				logits[i] = l - step
				want := (up - value()) / (2 * step)
				logits[i] = l
				if math.Abs(float64(got[i])-want) > 1e-3 {
					t.Errorf("%s, normalize %t: derivative %d is %g: want %g", scoring, normalize, i, got[i], want)
				}
			}
		}
	}
}
