//go:build !unix || solaris || aix

package hub

import (
	"context"
	"errors"
	"runtime"
)

// lockFile fails: without flock a second process could write the same blob.
func lockFile(context.Context, string) (unlock func(), err error) {
	return nil, errors.New("writing the Hub cache needs flock, which " + runtime.GOOS + " lacks: read from the Hub directly")
}
