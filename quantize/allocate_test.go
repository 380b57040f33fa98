package quantize

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/gguf"
)

// randomLots makes lots whose offers lose less the more bytes they cost, with
// some noise that puts offers above the hull.
func randomLots(r *rand.Rand, n, offers int) [][]Offer {
	lots := make([][]Offer, n)
	for i := range lots {
		size, weight := 1000*(1+r.Int64N(50)), r.ExpFloat64()
		for k := range offers {
			bits := 1.5 + 0.7*float64(k) + 0.2*r.Float64()
			lots[i] = append(lots[i], Offer{gguf.Type(k), int64(float64(size) * bits), weight * math.Exp2(-2*bits) * (0.7 + 0.6*r.Float64())})
		}
	}
	return lots
}

// exhaustive tries every choice.
func exhaustive(lots [][]Offer, limit int64) float64 {
	best := math.Inf(1)
	var try func(i int, bytes int64, loss float64)
	try = func(i int, bytes int64, loss float64) {
		if bytes > limit || loss >= best {
			return
		}
		if i == len(lots) {
			best = loss
			return
		}
		for _, o := range lots[i] {
			try(i+1, bytes+o.Bytes, loss+o.Loss)
		}
	}
	try(0, 0, 0)
	return best
}

// TestAllocateNearOptimum compares with every choice there is.
func TestAllocateNearOptimum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	worse := 0.0
	for range 60 {
		lots := randomLots(r, 7, 5)
		least, most := int64(0), int64(0)
		for _, l := range lots {
			least += l[0].Bytes
			most += l[4].Bytes
		}
		limit := least + r.Int64N(most-least+1)
		chosen, err := Allocate(lots, limit)
		var over *BudgetError
		if errors.As(err, &over) {
			if !math.IsInf(exhaustive(lots, limit), 1) {
				t.Fatalf("%v: there is a choice", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		a := &allocation{lots: lots, chosen: chosen}
		bytes := int64(0)
		for i, c := range chosen {
			bytes += lots[i][c].Bytes
		}
		if bytes > limit {
			t.Fatalf("%d bytes: limit %d", bytes, limit)
		}
		worse += a.loss()/exhaustive(lots, limit) - 1
	}
	if worse /= 60; worse > 0.02 {
		t.Errorf("the losses are %.1f %% above the least there are", 100*worse)
	}
}

// TestAllocateLoss keeps to the limit and is the inverse of Allocate.
func TestAllocateLoss(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 1))
	lots := randomLots(r, 300, 8)
	bytes := func(chosen []int) (sum int64) {
		for i, c := range chosen {
			sum += lots[i][c].Bytes
		}
		return sum
	}
	for _, limit := range []int64{30_000_000, 40_000_000} {
		chosen, err := Allocate(lots, limit)
		if err != nil {
			t.Fatal(err)
		}
		loss := (&allocation{lots: lots, chosen: chosen}).loss()
		back, err := AllocateLoss(lots, loss)
		if err != nil {
			t.Fatal(err)
		}
		if got := (&allocation{lots: lots, chosen: back}).loss(); got > loss {
			t.Errorf("loss %g: limit %g", got, loss)
		}
		if b := bytes(back); float64(b) > 1.002*float64(bytes(chosen)) {
			t.Errorf("%d bytes for a loss that %d have", b, bytes(chosen))
		}
	}
	if _, err := AllocateLoss(lots, 0); err == nil {
		t.Error("no loss at all is met")
	}
}

// TestAllocateFills uses the limit up, and quickly, for the tensors of a 70B
// model.
func TestAllocateFills(t *testing.T) {
	lots := randomLots(rand.New(rand.NewPCG(3, 1)), 723, 14)
	start := time.Now()
	const limit = 100_000_000
	chosen, err := Allocate(lots, limit)
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("took %v", d)
	}
	bytes := int64(0)
	for i, c := range chosen {
		bytes += lots[i][c].Bytes
	}
	if bytes > limit || bytes < limit*999/1000 {
		t.Errorf("%d bytes of %d", bytes, limit)
	}
}

func TestAllocateRefuses(t *testing.T) {
	for _, lots := range [][][]Offer{
		{{}},
		{{{gguf.Q4_K, -1, 1}}},
		{{{gguf.Q4_K, 1, math.NaN()}}},
		{{{gguf.Q4_K, math.MaxInt64, 1}}, {{gguf.Q4_K, 1, 1}}},
	} {
		if _, err := Allocate(lots, math.MaxInt64); err == nil {
			t.Errorf("%v is accepted", lots)
		}
	}
	_, err := Allocate([][]Offer{{{gguf.Q4_K, 100, 1}, {gguf.Q2_K, 60, 2}}}, 50)
	var over *BudgetError
	if !errors.As(err, &over) || over.Least != 60 {
		t.Errorf("%v: want the least of 60 bytes", err)
	}
}
