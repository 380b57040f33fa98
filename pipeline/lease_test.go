package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/publish/publishtest"
)

// stores are a folder and a bucket.
func stores(t *testing.T) map[string]publish.Store {
	t.Helper()
	folder, err := publish.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
		"AWS_ENDPOINT_URL": publishtest.NewS3(t).URL,
	}
	bucket, err := publish.OpenEnv("s3://bucket/edge", func(key string) string { return env[key] })
	if err != nil {
		t.Fatal(err)
	}
	return map[string]publish.Store{"folder": folder, "bucket": bucket.(publish.Store)}
}

// clock is a clock that is set.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()).UTC() }
func (c *clock) forward(d time.Duration) { c.at.Add(int64(d)) }

func newClock() *clock {
	c := new(clock)
	c.at.Store(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

// TestLease takes, keeps, loses and gives back leases.
func TestLease(t *testing.T) {
	for kind, store := range stores(t) {
		t.Run(kind, func(t *testing.T) {
			c := newClock()
			take := func(holder, work string) (*Lease, context.Context, error) {
				return AcquireLease(t.Context(), LeaseOptions{Store: store, Holder: holder, Work: work, For: time.Hour, Skew: time.Minute, Now: c.now})
			}
			first, holding, err := take("first", "w1")
			if err != nil {
				t.Fatal(err)
			}
			guarded, err := guard(store, first)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := guarded.Put(t.Context(), "a.json", []byte("1"), publish.Any); err != nil {
				t.Error(err)
			}
			refused := func(after time.Duration) {
				t.Helper()
				c.forward(after)
				_, _, err := take("second", "w2")
				var locked *LockedError
				if !errors.As(err, &locked) || !errors.Is(err, ErrLocked) || locked.Holder != "first" {
					t.Fatalf("after %v: got %v", after, err)
				}
				if text := err.Error(); !strings.Contains(text, "is being refreshed by first, whose lease holds until 2026-05-01T13:00:00Z") {
					t.Errorf("got %s", text)
				}
			}
			refused(0)
			refused(time.Hour)        // it is over, but clocks differ
			refused(59 * time.Second) // within the skew
			c.forward(2 * time.Second)
			second, _, err := take("second", "w2")
			if err != nil {
				t.Fatal(err)
			}
			if second.TakenFrom() != "first" {
				t.Errorf("taken from %q", second.TakenFrom())
			}
			// The first one writes nothing any more.
			if _, err := guarded.Put(t.Context(), "a.json", []byte("2"), publish.Any); !errors.Is(err, ErrLeaseLost) || !strings.Contains(err.Error(), "second has taken it") {
				t.Errorf("got %v", err)
			}
			if err := guarded.Delete(t.Context(), "a.json"); !errors.Is(err, ErrLeaseLost) {
				t.Errorf("got %v", err)
			}
			if _, err := guarded.Publish(t.Context(), &publish.Artifact{Files: []publish.File{{Name: "b", Size: 1, Content: strings.NewReader("b")}}}, publish.Options{}); !errors.Is(err, ErrLeaseLost) {
				t.Errorf("got %v", err)
			}
			if err := guarded.Discard(t.Context(), publish.Rest{Name: "b", ID: "b.partial"}); !errors.Is(err, ErrLeaseLost) {
				t.Errorf("got %v", err)
			}
			if data, _, err := store.Get(t.Context(), "a.json", 10); err != nil || string(data) != "1" {
				t.Errorf("got %s, %v", data, err)
			}
			if cause := context.Cause(holding); !errors.Is(cause, ErrLeaseLost) {
				t.Errorf("the holder's context: %v", cause)
			}
			if err := first.Release(t.Context()); err != nil {
				t.Error(err)
			}
			if err := second.Check(t.Context()); err != nil {
				t.Errorf("the first one has given back what the second one has: %v", err)
			}
			// A process with the same work directory knows that the other is dead.
			third, _, err := take("third", "w2")
			if err != nil {
				t.Fatal(err)
			}
			if err := second.Check(t.Context()); !errors.Is(err, ErrLeaseLost) {
				t.Errorf("got %v", err)
			}
			second.Release(t.Context())
			if err := third.Release(t.Context()); err != nil {
				t.Error(err)
			}
			fourth, holding, err := take("fourth", "w4")
			if err != nil || fourth.TakenFrom() != "" {
				t.Fatalf("%v, from %q", err, fourth.TakenFrom())
			}
			if err := fourth.Release(t.Context()); err != nil || holding.Err() == nil || errors.Is(context.Cause(holding), ErrLeaseLost) {
				t.Errorf("%v, %v", err, context.Cause(holding))
			}
			if d, _, err := readLease(t.Context(), store); err != nil || d.Turn != 4 || !d.Released {
				t.Errorf("got %+v, %v", d, err)
			}
		})
	}
}

// TestLeaseRace lets many processes want a lease that is over: one gets it.
func TestLeaseRace(t *testing.T) {
	for kind, store := range stores(t) {
		t.Run(kind, func(t *testing.T) {
			var wg sync.WaitGroup
			var got, locked atomic.Int64
			for i := range 8 {
				wg.Go(func() {
					l, _, err := AcquireLease(t.Context(), LeaseOptions{Store: store, Holder: fmt.Sprint("process ", i), Work: fmt.Sprint(i)})
					var other *LockedError
					switch {
					case err == nil:
						got.Add(1)
						t.Cleanup(func() { l.Release(context.Background()) })
					case errors.As(err, &other) && strings.HasPrefix(other.Holder, "process "):
						locked.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if got.Load() != 1 || locked.Load() != 7 {
				t.Errorf("%d have it, %d were told", got.Load(), locked.Load())
			}
		})
	}
}

// TestLeaseClock takes over a lease that ends too late by any clock that could
// be right, but only where nobody renews it.
func TestLeaseClock(t *testing.T) {
	store, err := publish.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ahead := newClock()
	ahead.forward(365 * 24 * time.Hour)
	old, _, err := AcquireLease(t.Context(), LeaseOptions{Store: store, Holder: "ahead", Work: "w1", For: 10 * time.Minute, Now: ahead.now})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Release(context.Background())
	c := newClock()
	waited := time.Duration(0)
	alive := true
	o := LeaseOptions{Store: store, Holder: "right", Work: "w2", Now: c.now, Wait: func(ctx context.Context, d time.Duration) error {
		waited += d
		if alive {
			ahead.forward(time.Second)
			return old.renew(ctx)
		}
		return nil
	}}
	if _, _, err := AcquireLease(t.Context(), o); !errors.Is(err, ErrLocked) || waited != 10*time.Minute {
		t.Fatalf("got %v after %v", err, waited)
	}
	alive = false
	l, _, err := AcquireLease(t.Context(), o)
	if err != nil || l.TakenFrom() != "ahead" {
		t.Fatal(err)
	}
	if err := l.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

// deaf is a store that stops to take writes.
type deaf struct {
	publish.Store
	deaf atomic.Bool
}

func (s *deaf) Put(ctx context.Context, name string, data []byte, prior publish.Version) (publish.Version, error) {
	if s.deaf.Load() {
		return publish.Absent, publish.ErrUnavailable
	}
	return s.Store.Put(ctx, name, data, prior)
}

// TestLeaseNotRenewed ends the holder's context when the store takes no
// renewals for as long as the lease holds, and not before.
func TestLeaseNotRenewed(t *testing.T) {
	folder, err := publish.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	store := &deaf{Store: folder}
	const holds = 2 * time.Second
	began := time.Now()
	l, holding, err := AcquireLease(t.Context(), LeaseOptions{Store: store, Holder: "a", For: holds})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release(context.Background())
	time.Sleep(holds + holds/2)
	if err := l.Check(t.Context()); err != nil {
		t.Fatalf("it is not renewed: %v", err)
	}
	store.deaf.Store(true)
	select {
	case <-holding.Done():
	case <-time.After(20 * holds):
		t.Fatal("it is not lost")
	}
	if cause := context.Cause(holding); !errors.Is(cause, ErrLeaseLost) || !errors.Is(cause, publish.ErrUnavailable) {
		t.Errorf("got %v", cause)
	}
	if d := time.Since(began); d < 2*holds {
		t.Errorf("it was lost after %v", d)
	}
	if err := l.Check(t.Context()); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("got %v", err)
	}
}

// TestLeaseDamaged names an object that is not a lease.
func TestLeaseDamaged(t *testing.T) {
	store, err := publish.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(t.Context(), LeaseName, []byte("<html>"), publish.Any); err != nil {
		t.Fatal(err)
	}
	_, _, err = AcquireLease(t.Context(), LeaseOptions{Store: store})
	if err == nil || !strings.Contains(err.Error(), "lease: refresh/lease.json: invalid character '<'") {
		t.Errorf("got %v", err)
	}
}
