//go:build !unix || solaris || aix

package pipeline

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// lockWork fails: without flock two processes could work in one directory.
func lockWork(name string) (*os.File, error) {
	return nil, fmt.Errorf("lock %s: a refresh needs flock, which %s lacks: run in WSL or a container: %w", name, runtime.GOOS, errors.ErrUnsupported)
}
