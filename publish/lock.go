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
		f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666)
		if err != nil {
			return nil, err
		}
		err = filelock.Try(f)
		switch {
		case err == nil:
			// It may have been removed or renamed in between.
			mine, merr := f.Stat()
			if merr != nil {
				filelock.Release(f)
				return nil, merr
			}
			if named, nerr := root.Lstat(name); nerr == nil && os.SameFile(mine, named) {
				return f, nil
			}
			filelock.Release(f)
			continue
		case !errors.Is(err, filelock.ErrHeld):
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		f.Close()
		if !wait {
			return nil, fmt.Errorf("%s is locked: %w", name, ErrBusy)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the lock %s: %w", name, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}
