package hub

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Retry bounds how a failing exchange is repeated: waits of Base, 2 Base, 4 Base ... up to Cap, each with jitter, or what
// the server asks for (Retry-After, ratelimit) up to MaxWait. Received bytes are progress and start the count again.
type Retry struct {
	Attempts int           // tries without progress before giving up; default 6
	Base     time.Duration // default 500 ms
	Cap      time.Duration // default 20 s
	MaxWait  time.Duration // longest pause that a server may ask for; default 5 min, the Hub's rate window
}

func (r Retry) withDefaults() Retry {
	if r.Attempts <= 0 {
		r.Attempts = 6
	}
	if r.Base <= 0 {
		r.Base = 500 * time.Millisecond
	}
	if r.Cap <= 0 {
		r.Cap = 20 * time.Second
	}
	if r.MaxWait <= 0 {
		r.MaxWait = 5 * time.Minute
	}
	return r
}

// transient is a failure worth another try.
type transient struct {
	err      error
	after    time.Duration // the server's wish; 0 if it has none
	limited  bool          // status 429
	progress bool          // bytes arrived before the failure
	again    bool          // nothing is wrong with the server: no pause is needed
	at       *Error        // the answer, if there was one
}

func (t *transient) Error() string { return t.err.Error() }
func (t *transient) Unwrap() error { return t.err }

// do calls f until it succeeds, fails for good, or the bounds are reached. op words the error and the log.
func (r Retry) do(ctx context.Context, log *slog.Logger, op string, f func() error) error {
	for failures := 0; ; {
		err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var t *transient
		if !errors.As(err, &t) {
			return err
		}
		if t.progress {
			failures = 0
		}
		failures++
		if t.after > r.MaxWait {
			return giveUp(op, t, "the server asks for a pause of "+t.after.Round(time.Second).String()+": try again then")
		}
		if failures >= r.Attempts {
			return giveUp(op, t, "gave up after "+strconv.Itoa(failures)+" tries: check the network and try again")
		}
		if t.again {
			log.DebugContext(ctx, "retry at once", "op", op, "error", t.err)
			continue
		}
		wait := r.backoff(failures)
		if t.after > 0 {
			wait = t.after + rand.N(r.Base)
		}
		level := slog.LevelDebug
		if wait >= 5*time.Second {
			level = slog.LevelWarn
		}
		log.Log(ctx, level, "retry", "op", op, "error", t.err, "wait", wait.Round(time.Millisecond))
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// backoff is the wait after the n-th failure (from 1): exponential, of which the upper half is random.
func (r Retry) backoff(n int) time.Duration {
	d := r.Base
	for i := 1; i < n && d < r.Cap; i++ {
		d *= 2
	}
	d = min(d, r.Cap)
	return d/2 + rand.N(d/2+1)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func giveUp(op string, t *transient, hint string) error {
	e := &Error{Op: op, Hint: hint}
	if t.at != nil {
		*e = *t.at
		e.Op, e.Hint = op, hint
	}
	kind := ErrUnavailable
	if t.limited {
		kind = ErrRateLimited
	}
	if t.at != nil {
		e.Err = kind
	} else {
		e.Err = &wrapped{text: t.err, kind: kind}
	}
	return e
}

// wrapped prints one error and is two.
type wrapped struct{ text, kind error }

func (w *wrapped) Error() string   { return w.kind.Error() + ": " + w.text.Error() }
func (w *wrapped) Unwrap() []error { return []error{w.text, w.kind} }

// retryStatus reports whether an HTTP status says "again later".
func retryStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return code >= 500
}

// retryAfter reads the pause that a server asks for: Retry-After in seconds or as a date, else the reset time of an
// exhausted budget in the ratelimit header (draft-ietf-httpapi-ratelimit-headers: `"api";r=0;t=55`).
func retryAfter(h http.Header, now time.Time) time.Duration {
	const longest = 30 * 24 * time.Hour
	seconds := func(s string) (time.Duration, bool) {
		n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		if err != nil || n < 0 {
			return 0, false
		}
		return time.Duration(min(n, int64(longest/time.Second))) * time.Second, true
	}
	if v := h.Get("Retry-After"); v != "" {
		if d, ok := seconds(v); ok {
			return d
		}
		if t, err := http.ParseTime(v); err == nil {
			return min(max(t.Sub(now), 0), longest)
		}
	}
	var wait time.Duration
	for _, item := range strings.Split(h.Get("ratelimit"), ",") {
		var left, reset time.Duration
		var hasLeft, hasReset bool
		for _, param := range strings.Split(item, ";") {
			key, value, _ := strings.Cut(strings.TrimSpace(param), "=")
			switch key {
			case "r":
				left, hasLeft = seconds(value)
			case "t":
				reset, hasReset = seconds(value)
			}
		}
		if hasLeft && hasReset && left == 0 {
			wait = max(wait, reset)
		}
	}
	return wait
}
