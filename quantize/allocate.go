// Allocation of bytes: a multiple-choice knapsack. Every tensor must get one
// of its offers, the bytes together must not pass a limit, and the loss
// together should be least.
//
// The relaxed problem, in which a tensor may have a mixture of two offers, is
// solved by taking the steps of all tensors' lower convex hulls in the order of
// loss saved per byte: that is the Lagrangian's answer for every multiplier at
// once. What it leaves of the limit, less than one step, is filled and then
// improved by exchanges.

package quantize

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/modelpipe/modelpipe/gguf"
)

// Offer is a type that a tensor can have, with what it costs and loses.
type Offer struct {
	Type  gguf.Type
	Bytes int64   // in the file, padding included
	Loss  float64 // finite, and additive over tensors
}

// A BudgetError says that a limit cannot be met.
type BudgetError struct {
	What         string  // "bytes" or "loss"
	Limit, Least float64 // what was asked for, and the least there is
}

func (e *BudgetError) Error() string {
	if e.What == "bytes" {
		return fmt.Sprintf("%.0f bytes of tensors are more than %.0f", e.Least, e.Limit)
	}
	return fmt.Sprintf("the least %s is %.4g: more than %.4g", e.What, e.Least, e.Limit)
}

// Allocate chooses one offer of each lot so that their bytes are at most limit
// and the sum of their losses is small: at most the relaxed optimum's plus one
// step, and in practice nearer. The choice depends on the arguments alone. A
// *BudgetError says that no choice fits.
func Allocate(lots [][]Offer, limit int64) ([]int, error) {
	a, err := newAllocation(lots)
	if err != nil {
		return nil, err
	}
	if a.bytes > limit {
		return nil, &BudgetError{"bytes", float64(limit), float64(a.bytes)}
	}
	for _, s := range a.steps() {
		// A step that does not fit is left out, and so are those that build
		// on it; smaller ones of other lots may still fit.
		if a.chosen[s.lot] == s.from && a.bytes+s.bytes <= limit {
			a.choose(s.lot, s.to)
		}
	}
	a.fill(limit)
	a.exchange(limit)
	return a.chosen, nil
}

// AllocateLoss chooses one offer of each lot so that the sum of their losses
// is at most limit and their bytes are few.
func AllocateLoss(lots [][]Offer, limit float64) ([]int, error) {
	a, err := newAllocation(lots)
	if err != nil {
		return nil, err
	}
	least := 0.0
	for _, offers := range lots {
		least += slices.MinFunc(offers, func(x, y Offer) int { return cmp.Compare(x.Loss, y.Loss) }).Loss
	}
	if least > limit {
		return nil, &BudgetError{"loss", limit, least}
	}
	for _, s := range a.steps() {
		if a.loss() <= limit {
			break
		}
		if a.chosen[s.lot] == s.from {
			a.choose(s.lot, s.to)
		}
	}
	// The last step overshoots: give back what is not needed, most bytes
	// first.
	for {
		lot, to, saved := -1, 0, int64(0)
		spare := limit - a.loss()
		for i, offers := range lots {
			now := offers[a.chosen[i]]
			for j, o := range offers {
				if b := now.Bytes - o.Bytes; b > saved && o.Loss-now.Loss <= spare {
					lot, to, saved = i, j, b
				}
			}
		}
		if lot < 0 {
			return a.chosen, nil
		}
		a.choose(lot, to)
	}
}

// allocation is a choice on its way.
type allocation struct {
	lots   [][]Offer
	chosen []int
	bytes  int64
}

// newAllocation checks the offers and starts with the smallest of each lot.
func newAllocation(lots [][]Offer) (*allocation, error) {
	a := &allocation{lots: lots, chosen: make([]int, len(lots))}
	for i, offers := range lots {
		if len(offers) == 0 {
			return nil, fmt.Errorf("allocate: lot %d has no offer", i)
		}
		for j, o := range offers {
			if o.Bytes < 0 || math.IsNaN(o.Loss) || math.IsInf(o.Loss, 0) {
				return nil, fmt.Errorf("allocate: lot %d: %v costs %d bytes and loses %g", i, o.Type, o.Bytes, o.Loss)
			}
			if c := offers[a.chosen[i]]; o.Bytes < c.Bytes || o.Bytes == c.Bytes && o.Loss < c.Loss {
				a.chosen[i] = j
			}
		}
		if a.bytes > math.MaxInt64-offers[a.chosen[i]].Bytes {
			return nil, errors.New("allocate: the bytes overflow")
		}
		a.bytes += offers[a.chosen[i]].Bytes
	}
	return a, nil
}

func (a *allocation) choose(lot, offer int) {
	a.bytes += a.lots[lot][offer].Bytes - a.lots[lot][a.chosen[lot]].Bytes
	a.chosen[lot] = offer
}

// loss sums in the order of the lots, so that it does not depend on the way.
func (a *allocation) loss() (sum float64) {
	for i, c := range a.chosen {
		sum += a.lots[i][c].Loss
	}
	return sum
}

// step goes from one corner of a lot's lower convex hull to the next.
type step struct {
	lot, from, to int
	bytes         int64
	saved         float64
}

func (s step) rate() float64 { return s.saved / float64(s.bytes) }

// steps returns the steps of all hulls, the best rate first. Within a lot the
// rates fall, so that its steps keep their order.
func (a *allocation) steps() []step {
	var all []step
	for lot, offers := range a.lots {
		order := make([]int, len(offers))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(i, j int) int {
			return cmp.Or(cmp.Compare(offers[i].Bytes, offers[j].Bytes), cmp.Compare(offers[i].Loss, offers[j].Loss))
		})
		between := func(from, to int) step {
			return step{lot, from, to, offers[to].Bytes - offers[from].Bytes, offers[from].Loss - offers[to].Loss}
		}
		hull := []int{a.chosen[lot]}
		for _, o := range order {
			if !(offers[o].Loss < offers[hull[len(hull)-1]].Loss) {
				continue // dominated
			}
			for len(hull) > 1 && between(hull[len(hull)-2], hull[len(hull)-1]).rate() <= between(hull[len(hull)-2], o).rate() {
				hull = hull[:len(hull)-1]
			}
			hull = append(hull, o)
		}
		for i := 1; i < len(hull); i++ {
			all = append(all, between(hull[i-1], hull[i]))
		}
	}
	slices.SortStableFunc(all, func(x, y step) int { return cmp.Compare(y.rate(), x.rate()) })
	return all
}

// fill spends what is left on single changes, the one that saves most first.
func (a *allocation) fill(limit int64) {
	for {
		lot, to, saved := -1, 0, 0.0
		for i, offers := range a.lots {
			now := offers[a.chosen[i]]
			for j, o := range offers {
				if s := now.Loss - o.Loss; s > saved && a.bytes+o.Bytes-now.Bytes <= limit {
					lot, to, saved = i, j, s
				}
			}
		}
		if lot < 0 {
			return
		}
		a.choose(lot, to)
	}
}

// exchanges bounds the rounds of exchange, each of which looks at all pairs.
const exchanges = 8

// exchange gives a better offer to one lot and pays with a worse one of
// another, the pair that saves most first.
func (a *allocation) exchange(limit int64) {
	for range exchanges {
		// What each lot could give back: bytes freed, and the least loss at
		// which as many are freed.
		type sale struct {
			lot, to int
			bytes   int64
			cost    float64
		}
		var sales []sale
		for i, offers := range a.lots {
			now := offers[a.chosen[i]]
			for j, o := range offers {
				if o.Bytes < now.Bytes {
					sales = append(sales, sale{i, j, now.Bytes - o.Bytes, o.Loss - now.Loss})
				}
			}
		}
		slices.SortStableFunc(sales, func(x, y sale) int { return cmp.Compare(x.cost, y.cost) })
		best, buyer, to, seller, give := 0.0, -1, 0, 0, 0
		for i, offers := range a.lots {
			now := offers[a.chosen[i]]
			for j, o := range offers {
				saved := now.Loss - o.Loss
				if saved <= best {
					continue
				}
				need := a.bytes + o.Bytes - now.Bytes - limit
				for _, s := range sales {
					if saved-s.cost <= best {
						break // the sales after it cost more
					}
					if s.lot != i && s.bytes >= need {
						best, buyer, to, seller, give = saved-s.cost, i, j, s.lot, s.to
						break
					}
				}
			}
		}
		if buyer < 0 {
			return
		}
		a.choose(seller, give)
		a.choose(buyer, to)
		a.fill(limit)
	}
}
