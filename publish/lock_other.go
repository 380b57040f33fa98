//go:build !unix || solaris || aix

package publish

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
)

// lockFile fails: without flock a second process could write the same file.
func lockFile(_ context.Context, _ *os.Root, name string, _ bool) (*os.File, error) {
	return nil, fmt.Errorf("writing %s safely needs flock, which %s lacks: run in WSL or a container: %w", name, runtime.GOOS, errors.ErrUnsupported)
}

// As nothing can be locked nothing is written.

func locked(*os.File) bool           { return true }
func syncDir(*os.Root, string) error { return nil }
