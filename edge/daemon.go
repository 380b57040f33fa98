package edge

import (
	"context"
	"math/rand/v2"
	"time"
)

// Run does rounds until the context ends: the first at once, then one each
// interval, give or take a fifth, so that nodes that were started together do
// not poll together. After a failed round it waits a tenth of the interval,
// then twice as long each time, up to the interval. done is told of every
// round.
func (n *Node) Run(ctx context.Context, interval time.Duration, done func(*Result, error)) {
	failed := 0
	for {
		r, err := n.Sync(ctx)
		if ctx.Err() != nil {
			return
		}
		done(r, err)
		failed++
		if err == nil {
			failed = 0
		}
		wait := pause(interval, failed, rand.Float64())
		if r.More {
			wait = 0
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// pause is how long to wait for the next round, after so many that failed one
// behind the other. random is from [0, 1).
func pause(interval time.Duration, failed int, random float64) time.Duration {
	d := interval
	if failed > 0 {
		d = min(interval, interval/10<<min(failed-1, 10))
	}
	return time.Duration(float64(d) * (0.8 + 0.4*random))
}
