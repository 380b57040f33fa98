//go:build !unix

package convert

import (
	"os"
)

// As nothing can be locked nothing is written: there is room enough, and
// nothing to take to the disk.

func freeBytes(string) (int64, error) { return 1 << 62, nil }
func allocatedBytes(*os.File) int64   { return 0 }
func syncDir(string) error            { return nil }
