//go:build unix && !solaris && !aix

package publish

import (
	"os"
)

// syncDir takes the names in a folder to the disk.
func syncDir(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
