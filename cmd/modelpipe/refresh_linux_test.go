package main

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRefreshFullDisk fills the disk of the work directory: the model is named,
// the store stays as it was, and the next run makes it. It wants the right to
// mount.
func TestRefreshFullDisk(t *testing.T) {
	c := newCuration(t, 1)
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mount: %v", err)
	}
	defer unix.Unmount(small, unix.MNT_DETACH)
	args := []string{"refresh", "-f", c.path("catalog.toml"), "--store", c.path("store"), "--work", filepath.Join(small, "work"), "--chunks", "1", "--ctx", "64", "--canaries", c.canaries(t)}
	fill := filepath.Join(small, "fill")
	write(t, fill, make([]byte, 970<<10))
	denied(t, exitFailed, "failed: tiny-00: Q8_0: no space for the output in "+filepath.Join(small, "work"), args...)
	write(t, fill, make([]byte, 1))
	if out := must(t, args...); !strings.Contains(out, "tiny-00: released, release 1 of stable") {
		t.Errorf("got %s", out)
	}
}
