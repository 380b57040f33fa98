package publishtest

import (
	"context"

	"github.com/modelpipe/modelpipe/publish"
)

// Racing is a store in which something else happens before each write: Before
// is called with the name of what is going to be written.
type Racing struct {
	publish.Store
	Before func(name string)
}

// Put writes as the store does, after Before.
func (r Racing) Put(ctx context.Context, name string, data []byte, prior publish.Version) (publish.Version, error) {
	r.Before(name)
	return r.Store.Put(ctx, name, data, prior)
}
