//go:build unix

package convert

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lock opens the file at path, creating it, and takes the lock on it. A
// process that is killed gives it back.
func lock(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
		if err != nil {
			return nil, fmt.Errorf("open journal: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("another process is writing this output: %s is locked", path)
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// The file may have been removed, with the work done, in between.
		mine, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("open journal: %w", err)
		}
		if named, err := os.Stat(path); err == nil && os.SameFile(mine, named) {
			return f, nil
		}
		f.Close()
	}
}

// freeBytes returns what an unprivileged process may still write under dir.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(min(uint64(st.Bavail)*uint64(st.Bsize), 1<<62)), nil
}

// allocatedBytes returns the room that f takes on its disk.
func allocatedBytes(f *os.File) int64 {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0
	}
	return int64(st.Blocks) * 512
}

// syncDir takes the names in dir to the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
