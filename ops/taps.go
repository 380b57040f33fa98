package ops

import (
	"cmp"
	"slices"
	"sync"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// taps adds up what batches say about the inputs of a layer's matrices.
type taps struct {
	mu    sync.Mutex
	slots map[spec.Slot]*tapped
}

type tapped struct {
	sums  []float64
	count int
}

func newTaps() *taps { return &taps{slots: map[spec.Slot]*tapped{}} }

// add takes the sums of the squares of the columns over count rows.
func (t *taps) add(slot spec.Slot, sums []float32, count int) {
	wide := make([]float64, len(sums))
	for i, v := range sums {
		wide[i] = float64(v)
	}
	t.addFloats(slot, wide, count)
}

func (t *taps) addFloats(slot spec.Slot, sums []float64, count int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.slots[slot]
	if s == nil {
		t.slots[slot] = &tapped{sums, count}
		return
	}
	for i, v := range sums {
		s.sums[i] += v
	}
	s.count += count
}

// give passes on what has been added, in a fixed order, and forgets it.
func (t *taps) give(to Tap) error {
	slots := make([]spec.Slot, 0, len(t.slots))
	for s := range t.slots {
		slots = append(slots, s)
	}
	slices.SortFunc(slots, func(a, b spec.Slot) int {
		return cmp.Or(cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Expert, b.Expert), cmp.Compare(a.Role, b.Role))
	})
	for _, s := range slots {
		if err := to(s, t.slots[s].sums, t.slots[s].count); err != nil {
			return err
		}
	}
	clear(t.slots)
	return nil
}
