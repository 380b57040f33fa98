//go:build !unix || solaris || aix

package filelock

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

func try(f *os.File) error {
	return fmt.Errorf("writing %s safely needs flock, which %s lacks: run in WSL or a container: %w", f.Name(), runtime.GOOS, errors.ErrUnsupported)
}

func unlock(*os.File) error { return nil }
