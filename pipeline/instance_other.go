//go:build !unix || solaris || aix

package pipeline

import "os"

// instance is of no use where no file can be locked.
func instance(*os.File) (string, error) { return "", nil }
