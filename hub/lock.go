package hub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/modelpipe/modelpipe/internal/filelock"
)

// lockFile takes the exclusive flock on path that huggingface_hub (filelock.UnixFileLock) takes, waiting for its holder.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	for {
		f, err := filelock.TakePath(path)
		if err == nil {
			return func() { filelock.Release(f) }, nil
		}
		if !errors.Is(err, filelock.ErrHeld) {
			return nil, err
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return nil, fmt.Errorf("wait for another process that holds %s: %w", path, err)
		}
	}
}
