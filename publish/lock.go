package publish

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/modelpipe/modelpipe/internal/filelock"
)

// lockFile opens the file at name below root, creating it, and takes the lock
// on it. A process that is killed gives it back. It fails with ErrBusy where
// another one has it, or waits for it.
func lockFile(ctx context.Context, root *os.Root, name string, wait bool) (*os.File, error) {
	for {
		f, err := filelock.Take(name,
			func() (*os.File, error) { return root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666) },
			func() (os.FileInfo, error) { return root.Lstat(name) })
		switch {
		case !errors.Is(err, filelock.ErrHeld):
			return f, err
		case !wait:
			return nil, fmt.Errorf("%s is locked: %w", name, ErrBusy)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the lock %s: %w", name, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}
