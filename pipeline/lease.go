package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"sync"
	"time"

	"github.com/modelpipe/modelpipe/publish"
)

// LeaseName is the object of a store that says who refreshes it.
const LeaseName = "refresh/lease.json"

// maxLease bounds the object, in bytes.
const maxLease = 64 << 10

// DefaultLease is how long a lease holds that is not renewed.
const DefaultLease = 2 * time.Minute

// leaseSkew is how far the clocks of two machines may differ: a lease is taken
// over when it has been over for so long by the taker's clock.
const leaseSkew = time.Minute

// leaseDocument is the content of LeaseName. Its holder replaces it by
// compare-and-swap, each time with a later Renewed, so that nobody else can do
// so without the holder's next renewal failing.
type leaseDocument struct {
	Holder   string    `json:"holder"`             // for people: who, and where
	Token    string    `json:"token"`              // of one run
	Work     string    `json:"work"`               // of the work directory that the run has locked
	Turn     int64     `json:"turn"`               // counts up with each holder
	Renewed  time.Time `json:"renewed"`            // by the holder's clock
	Expires  time.Time `json:"expires"`            // by the holder's clock
	Seconds  float64   `json:"seconds"`            // from renewed to expires
	Released bool      `json:"released,omitempty"` // nobody holds it
}

// LockedError says who works on the store.
type LockedError struct {
	Store   string
	Holder  string
	Expires time.Time
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("%s: is being refreshed by %s, whose lease holds until %s unless it is renewed", e.Store, e.Holder, e.Expires.UTC().Format(time.RFC3339))
}

func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// LeaseOptions is how to take a lease.
type LeaseOptions struct {
	Store  publish.Store
	Holder string        // for people
	Work   string        // identity of a work directory whose lock the caller holds
	For    time.Duration // 0: DefaultLease
	Skew   time.Duration // 0: leaseSkew

	Now  func() time.Time                           // nil: time.Now
	Wait func(context.Context, time.Duration) error // nil: sleeps
}

// Lease is the right to write to a store, which one process has at a time.
//
// The holder renews it three times in its duration. It counts as lost for the
// holder when it could not be renewed for its duration, by the monotonic clock
// and from before the renewal was sent; for others only when it has been over
// for the skew besides. So two clocks may differ by the skew. Where they differ
// more, each write still asks first whether the object is as the holder has
// left it.
//
// A lease that a killed process has left is taken over at once by a process
// with the same work directory: that has the directory's lock, so the other one
// is dead. Others wait until it is over.
type Lease struct {
	o       LeaseOptions
	taken   string // from whom it was taken over, or empty
	stop    context.CancelFunc
	stopped chan struct{}

	mu      sync.Mutex
	doc     leaseDocument
	version publish.Version
	good    time.Time // when the last good renewal began
	err     error     // why it is lost
	lost    context.CancelCauseFunc
}

// AcquireLease takes the lease of a store and keeps it until Release. The
// context that it returns ends when the lease is lost. Where somebody else has
// the lease the error is a *LockedError.
func AcquireLease(ctx context.Context, o LeaseOptions) (*Lease, context.Context, error) {
	if o.For <= 0 {
		o.For = DefaultLease
	}
	if o.Skew <= 0 {
		o.Skew = leaseSkew
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Wait == nil {
		o.Wait = sleep
	}
	l := &Lease{o: o, stopped: make(chan struct{})}
	old, version, err := readLease(ctx, o.Store)
	if err != nil {
		return nil, nil, err
	}
	if old != nil && !old.Released {
		if err := l.mayTake(ctx, old, version); err != nil {
			return nil, nil, err
		}
		l.taken = old.Holder
	}
	l.doc = leaseDocument{Holder: o.Holder, Token: newToken(), Work: o.Work, Turn: 1}
	if old != nil {
		l.doc.Turn = old.Turn + 1
	}
	l.version = version
	if err := l.renew(ctx); err != nil {
		if errors.Is(err, publish.ErrChanged) {
			return nil, nil, l.locked(ctx)
		}
		return nil, nil, err
	}
	holding, lost := context.WithCancelCause(ctx)
	l.lost = lost
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	go l.keep(renewing)
	return l, holding, nil
}

// mayTake says whether the lease that somebody has left may be taken.
func (l *Lease) mayTake(ctx context.Context, old *leaseDocument, version publish.Version) error {
	locked := &LockedError{Store: fmt.Sprint(l.o.Store), Holder: old.Holder, Expires: old.Expires}
	now := l.o.Now()
	duration := time.Duration(old.Seconds * float64(time.Second))
	switch {
	case l.o.Work != "" && old.Work == l.o.Work:
		return nil
	case now.After(old.Expires.Add(l.o.Skew)):
		return nil
	case now.Add(duration + l.o.Skew).After(old.Expires):
		return locked
	}
	// By our clock it holds for longer than any lease: one of the clocks is
	// wrong. Whoever lives renews it within its duration.
	const longest = time.Hour
	if duration <= 0 || duration > longest {
		duration = longest
	}
	if err := l.o.Wait(ctx, duration); err != nil {
		return err
	}
	_, again, err := readLease(ctx, l.o.Store)
	if err != nil {
		return err
	}
	if again != version {
		return locked
	}
	return nil
}

// locked is the error that names who was faster.
func (l *Lease) locked(ctx context.Context) error {
	e := &LockedError{Store: fmt.Sprint(l.o.Store), Holder: "another process"}
	if now, _, err := readLease(ctx, l.o.Store); err == nil && now != nil {
		e.Holder, e.Expires = now.Holder, now.Expires
	}
	return e
}

// TakenFrom is who held the lease before and did not release it, or empty.
func (l *Lease) TakenFrom() string { return l.taken }

// renew writes the document anew. It must not be called concurrently.
func (l *Lease) renew(ctx context.Context) error {
	began := time.Now()
	doc := l.doc
	doc.Renewed = l.o.Now().UTC()
	doc.Expires, doc.Seconds = doc.Renewed.Add(l.o.For), l.o.For.Seconds()
	version, err := putLease(ctx, l.o.Store, doc, l.version)
	if errors.Is(err, publish.ErrChanged) {
		// The answer to an earlier try of this request may have been lost.
		if now, v, rerr := readLease(ctx, l.o.Store); rerr == nil && now != nil && now.Token == doc.Token {
			doc, version, err = *now, v, nil
		}
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doc, l.version, l.good = doc, version, began
	return nil
}

// keep renews the lease until ctx ends.
func (l *Lease) keep(ctx context.Context) {
	defer close(l.stopped)
	tick := time.NewTicker(l.o.For / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		l.mu.Lock()
		left := l.o.For - time.Since(l.good)
		l.mu.Unlock()
		trying, cancel := context.WithTimeout(ctx, max(left, time.Millisecond))
		err := l.renew(trying)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, publish.ErrChanged):
			l.lose(fmt.Errorf("%w: %s has taken it", ErrLeaseLost, l.successor(ctx)))
			return
		case err != nil && l.over():
			l.lose(fmt.Errorf("%w: it could not be renewed for %v: %w", ErrLeaseLost, l.o.For, err))
			return
		}
	}
}

// successor is who holds the lease now.
func (l *Lease) successor(ctx context.Context) string {
	if now, _, err := readLease(ctx, l.o.Store); err == nil && now != nil {
		return now.Holder
	}
	return "another process"
}

func (l *Lease) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.good) >= l.o.For
}

// lose ends the context of the holder.
func (l *Lease) lose(err error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	l.mu.Unlock()
	l.lost(err)
}

// Check fails where the lease is not held any more. It asks the store.
func (l *Lease) Check(ctx context.Context) error {
	l.mu.Lock()
	err, token, over := l.err, l.doc.Token, time.Since(l.good) >= l.o.For
	l.mu.Unlock()
	if err != nil {
		return err
	}
	if over {
		err := fmt.Errorf("%w: it could not be renewed for %v", ErrLeaseLost, l.o.For)
		l.lose(err)
		return err
	}
	now, _, err := readLease(ctx, l.o.Store)
	if err != nil {
		return err
	}
	if now == nil || now.Token != token {
		holder := "somebody has removed it"
		if now != nil {
			holder = now.Holder + " has taken it"
		}
		err := fmt.Errorf("%w: %s", ErrLeaseLost, holder)
		l.lose(err)
		return err
	}
	return nil
}

// Release gives the lease back, where it is still held.
func (l *Lease) Release(ctx context.Context) error {
	l.stop()
	<-l.stopped
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost(nil)
	if l.err != nil {
		return nil
	}
	l.doc.Released = true
	l.doc.Renewed = l.o.Now().UTC()
	l.doc.Expires, l.doc.Seconds = l.doc.Renewed, 0
	_, err := putLease(ctx, l.o.Store, l.doc, l.version)
	if errors.Is(err, publish.ErrChanged) {
		return nil
	}
	return err
}

// readLease returns nil where there is none.
func readLease(ctx context.Context, s publish.Store) (*leaseDocument, publish.Version, error) {
	data, version, err := s.Get(ctx, LeaseName, maxLease)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, publish.Absent, nil
	}
	if err != nil {
		return nil, version, fmt.Errorf("lease: %w", err)
	}
	var d leaseDocument
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, version, fmt.Errorf("lease: %s: %w: remove it when no refresh is running", LeaseName, err)
	}
	return &d, version, nil
}

func putLease(ctx context.Context, s publish.Store, d leaseDocument, prior publish.Version) (publish.Version, error) {
	data, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return prior, err
	}
	version, err := s.Put(ctx, LeaseName, append(data, '\n'), prior)
	if err != nil {
		return prior, fmt.Errorf("lease: %w", err)
	}
	return version, nil
}

// sleep waits for a time or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// leased is a store that writes only while the lease is held.
type leased struct {
	publish.Store
	sink  publish.Sink
	lease *Lease
}

// guard returns a store that asks the lease before each write.
func guard(s publish.Store, l *Lease) (*leased, error) {
	sink, ok := s.(publish.Sink)
	if !ok {
		return nil, usage(fmt.Errorf("store %v: takes no files", s))
	}
	return &leased{s, sink, l}, nil
}

// String implements publish.Sink.
func (s *leased) String() string { return s.sink.String() }

// Put implements publish.Store.
func (s *leased) Put(ctx context.Context, name string, data []byte, prior publish.Version) (publish.Version, error) {
	if err := s.lease.Check(ctx); err != nil {
		return publish.Absent, fmt.Errorf("put %s: %w", name, err)
	}
	return s.Store.Put(ctx, name, data, prior)
}

// Delete implements publish.Store.
func (s *leased) Delete(ctx context.Context, name string) error {
	if err := s.lease.Check(ctx); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return s.Store.Delete(ctx, name)
}

// List implements publish.Store.
func (s *leased) List(ctx context.Context, prefix string) iter.Seq2[publish.Entry, error] {
	return s.Store.List(ctx, prefix)
}

// Publish implements publish.Sink.
func (s *leased) Publish(ctx context.Context, a *publish.Artifact, opts publish.Options) (*publish.Receipt, error) {
	if err := s.lease.Check(ctx); err != nil {
		return nil, err
	}
	before := opts.BeforeNaming
	opts.BeforeNaming = func(ctx context.Context) error {
		if before != nil {
			if err := before(ctx); err != nil {
				return err
			}
		}
		return s.lease.Check(ctx)
	}
	return s.sink.Publish(ctx, a, opts)
}

// Open implements publish.Sink.
func (s *leased) Open(ctx context.Context, name string, from int64) (io.ReadCloser, int64, error) {
	return s.sink.Open(ctx, name, from)
}

// Abandoned implements publish.Sink.
func (s *leased) Abandoned(ctx context.Context) ([]publish.Rest, error) { return s.sink.Abandoned(ctx) }

// Discard implements publish.Sink.
func (s *leased) Discard(ctx context.Context, r publish.Rest) error {
	if err := s.lease.Check(ctx); err != nil {
		return err
	}
	return s.sink.Discard(ctx, r)
}
