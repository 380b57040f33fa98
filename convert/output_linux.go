package convert

import (
	"os"

	"golang.org/x/sys/unix"
)

// startWriting asks the kernel to begin taking f's pages to the disk, so that
// there is little left to wait for at the end. It promises nothing: Sync does.
func startWriting(f *os.File) {
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}
