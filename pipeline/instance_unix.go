//go:build unix && !solaris && !aix

package pipeline

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// instance tells a file from its copies: by its number and by when its state
// last changed, which no copy keeps.
func instance(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	s, ns := st.Ctim.Unix()
	return fmt.Sprint(st.Ino, " ", s, " ", ns), nil
}
