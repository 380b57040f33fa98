// Package filelock takes exclusive locks on open files, which the end of a
// process gives back however it ends.
package filelock

import (
	"errors"
	"fmt"
	"os"
)

// ErrHeld is returned where another open file has the lock.
var ErrHeld = errors.New("another process holds the lock")

// Try takes the lock on f, without waiting for its holder.
func Try(f *os.File) error { return try(f) }

// Take takes the lock on the file that open opens, without waiting for its
// holder. It opens again where stat, which looks the name up, finds another file
// or none: a holder may have removed or renamed it before letting go. name is
// for errors.
func Take(name string, open func() (*os.File, error), stat func() (os.FileInfo, error)) (*os.File, error) {
	for {
		f, err := open()
		if err != nil {
			return nil, err
		}
		if err := Try(f); err != nil {
			f.Close()
			if !errors.Is(err, ErrHeld) {
				err = fmt.Errorf("lock %s: %w", name, err)
			}
			return nil, err
		}
		mine, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, Release(f))
		}
		if named, err := stat(); err == nil && os.SameFile(mine, named) {
			return f, nil
		}
		Release(f)
	}
}

// TakePath is Take of the file at path, which it creates.
func TakePath(path string) (*os.File, error) {
	return Take(path,
		func() (*os.File, error) { return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666) },
		func() (os.FileInfo, error) { return os.Stat(path) })
}

// Release gives the lock on f back and closes f. Closing alone would not do: a
// child that another goroutine has forked, and that has not begun its own
// program yet, shares the lock until it does.
func Release(f *os.File) error { return errors.Join(unlock(f), f.Close()) }

// Held says whether another open file has the lock that f would have.
func Held(f *os.File) bool {
	if Try(f) != nil {
		return true
	}
	unlock(f)
	return false
}
