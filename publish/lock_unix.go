//go:build unix && !solaris && !aix

package publish

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
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
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			// It may have been removed or renamed in between.
			mine, merr := f.Stat()
			if merr != nil {
				f.Close()
				return nil, merr
			}
			if named, nerr := root.Lstat(name); nerr == nil && os.SameFile(mine, named) {
				return f, nil
			}
			f.Close()
			continue
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
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

// locked says whether a process holds the lock on a file.
func locked(f *os.File) bool {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return true
	}
	unix.Flock(int(f.Fd()), unix.LOCK_UN)
	return false
}

// syncDir takes the names in a folder to the disk.
func syncDir(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
