package publish

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// tries is how often a read that was cut goes on where it was.
const tries = 6

// stallAfter is how long a server that sends may say nothing.
const stallAfter = 2 * time.Minute

// readBack returns the digests of published content of size bytes. It goes on
// where a connection was cut.
func readBack(ctx context.Context, open func(ctx context.Context, from int64) (io.ReadCloser, int64, error), size int64) (*digests, error) {
	d := newDigests()
	at := int64(0)
	buf := make([]byte, pieceBytes)
	for try := 0; ; try++ {
		err := func() error {
			ctx, cancel := context.WithCancelCause(ctx)
			defer cancel(nil)
			watch := time.AfterFunc(stallAfter, func() { cancel(fmt.Errorf("no bytes for %v: %w", stallAfter, ErrUnavailable)) })
			defer watch.Stop()
			r, total, err := open(ctx, at)
			if err != nil {
				return err
			}
			defer r.Close()
			if total != size {
				return fmt.Errorf("read back: it has %d bytes: %d were sent: %w", total, size, ErrMismatch)
			}
			for {
				n, err := r.Read(buf)
				if err != nil && !errors.Is(err, io.EOF) && context.Cause(ctx) != nil {
					err = context.Cause(ctx)
				}
				watch.Reset(stallAfter)
				d.write(buf[:n])
				at += int64(n)
				switch {
				case at > size:
					return fmt.Errorf("read back: it has more than the %d bytes that were sent: %w", size, ErrMismatch)
				case errors.Is(err, io.EOF) && at < size:
					return io.ErrUnexpectedEOF
				case errors.Is(err, io.EOF):
					return nil
				case err != nil:
					return err
				case n > 0:
					try = 0
				}
			}
		}()
		if err == nil {
			return d, nil
		}
		final := errors.Is(err, ErrMismatch) || errors.Is(err, ErrRefused) || errors.Is(err, ErrProtocol)
		if final || try == tries || ctx.Err() != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("read back: it ends at byte %d of %d: %w", at, size, ErrMismatch)
			}
			return nil, err
		}
		if err := pause(ctx, try); err != nil {
			return nil, err
		}
	}
}

// pause waits before another try: a tenth of a second, then twice as long.
func pause(ctx context.Context, try int) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(min(100*time.Millisecond<<try, 5*time.Second)):
		return nil
	}
}

// filled returns opts with what was left out.
func (o Options) filled() Options {
	if o.Progress == nil {
		o.Progress = new(Progress)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	keep := o.Keep
	o.Keep = func(err error) bool { return errors.Is(err, ErrUnavailable) || keep != nil && keep(err) }
	return o
}

// randomText is 128 random bits.
func randomText() string { return rand.Text() }
