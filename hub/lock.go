package hub

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/modelpipe/modelpipe/internal/filelock"
)

// lockFile takes the exclusive flock on path that huggingface_hub (filelock.UnixFileLock) takes, waiting for its holder.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
		if err != nil {
			return nil, err
		}
		err = filelock.Try(f)
		if err == nil && samePath(f, path) {
			return func() { filelock.Release(f) }, nil
		}
		filelock.Release(f)
		if err != nil && !errors.Is(err, filelock.ErrHeld) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return nil, fmt.Errorf("wait for another process that holds %s: %w", path, err)
		}
	}
}

// samePath reports whether path still names f: its holder may have removed it before letting go.
func samePath(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}
