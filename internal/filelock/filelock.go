// Package filelock takes exclusive locks on open files, which the end of a
// process gives back however it ends.
package filelock

import (
	"errors"
	"os"
)

// ErrHeld is returned where another open file has the lock.
var ErrHeld = errors.New("another process holds the lock")

// Try takes the lock on f, without waiting for its holder.
func Try(f *os.File) error { return try(f) }

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
