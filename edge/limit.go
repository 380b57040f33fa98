package edge

import (
	"context"
	"io"
	"sync"
	"time"
)

// A limiter holds what passes it to a number of bytes per second, over all
// who share it. It lets through a tenth of a second's bytes at once. A nil
// limiter, or one of rate 0, lets everything through.
type limiter struct {
	rate int64

	mu   sync.Mutex
	next time.Time // when the bytes so far are paid for
}

// wait waits until n bytes may pass.
func (l *limiter) wait(ctx context.Context, n int) error {
	if l == nil || l.rate <= 0 {
		return nil
	}
	const burst = 100 * time.Millisecond
	l.mu.Lock()
	now := time.Now()
	if earliest := now.Add(-burst); l.next.Before(earliest) {
		l.next = earliest
	}
	l.next = l.next.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	pause := l.next.Sub(now)
	l.mu.Unlock()
	if pause <= 0 {
		return nil
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// A watchdog cancels a transfer that has become too slow: fewer than its
// bytes within its time. What the reader's own limit takes does not count.
type watchdog struct {
	time  time.Duration
	bytes int64
	timer *time.Timer
	got   int64
}

// newWatchdog calls cancel when the transfer is too slow.
func newWatchdog(d time.Duration, bytes int64, cancel func()) *watchdog {
	return &watchdog{d, bytes, time.AfterFunc(d, cancel), 0}
}

// arrived notes bytes.
func (w *watchdog) arrived(n int) {
	if w.got += int64(n); w.got >= w.bytes {
		w.got = 0
		w.timer.Reset(w.time)
	}
}

// hold stops the time; the returned function lets it go on, from the start.
func (w *watchdog) hold() func() {
	if !w.timer.Stop() {
		return func() {}
	}
	return func() { w.timer.Reset(w.time) }
}

func (w *watchdog) stop() { w.timer.Stop() }

// counted counts what is read.
type counted struct {
	io.ReadCloser
	add func(int64)
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.add(int64(n))
	return n, err
}
