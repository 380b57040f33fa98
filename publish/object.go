package publish

import (
	"context"
	"iter"
	"time"
)

// A Store keeps small objects that change: catalogs, logs, metadata of trust.
// Names are as CheckName wants them. A reader sees an object as it was before
// a write or after it, never between.
type Store interface {
	// Get returns an object of at most limit bytes with its version. The
	// error wraps fs.ErrNotExist where there is none.
	Get(ctx context.Context, name string, limit int64) ([]byte, Version, error)

	// Put writes an object where its version is still prior, and returns the
	// new one. Otherwise the error wraps ErrChanged.
	Put(ctx context.Context, name string, data []byte, prior Version) (Version, error)

	// List yields the objects whose names begin with prefix, in the order of
	// their names. Those of unfinished uploads are not among them.
	List(ctx context.Context, prefix string) iter.Seq2[Entry, error]

	// Delete takes an object away; it is no error where there is none.
	Delete(ctx context.Context, name string) error
}

// Version names a state of an object. Other values than these are opaque.
type Version string

const (
	// Absent is the version of an object that is not there: Put creates it.
	Absent Version = ""
	// Any makes Put write whatever is there.
	Any Version = "*"
)

// Entry is an object in a list.
type Entry struct {
	Name     string
	Size     int64
	Modified time.Time
}
