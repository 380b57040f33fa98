package pipeline

import (
	"crypto/rand"
	"errors"
)

// What went wrong, for errors.Is.
var (
	// ErrUsage: what was asked for cannot be meant.
	ErrUsage = errors.New("wrong usage")
	// ErrLocked: another refresh works on the store.
	ErrLocked = errors.New("locked")
	// ErrLeaseLost: the lease on the store has passed to somebody else, or
	// could not be renewed in time. Nothing is written any more.
	ErrLeaseLost = errors.New("the lease on the store is lost")
)

// errWork is the class of errors of the work directory.
var errWork = errors.New("work directory")

// classed is an error that is of a class without saying so.
type classed struct {
	error
	class error
}

func (e classed) Is(target error) bool { return target == e.class }
func (e classed) Unwrap() error        { return e.error }

// usage says of an error that it is one of usage.
func usage(err error) error { return classed{err, ErrUsage} }

// newToken is 128 random bits as text.
func newToken() string { return rand.Text() }
