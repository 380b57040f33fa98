package edge

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRealFullDisk syncs onto a file system that is too small by one percent
// although it says at first that it is not. It wants the right to mount.
func TestRealFullDisk(t *testing.T) {
	s := newShop(t, "alpha")
	data := modelFile("one", 1, 60, 0)
	s.offer("alpha", data)
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=5m"); err != nil {
		t.Skipf("mount: %v", err)
	}
	defer unix.Unmount(root, unix.MNT_DETACH)
	o := s.options(filepath.Join(root, "node"))
	fill := filepath.Join(root, "fill")
	n, err := open(o, nil, plenty)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	free, err := freeBytes(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fill, make([]byte, free-int64(len(data))*99/100), 0o644); err != nil {
		t.Fatal(err)
	}
	fails(t, n, ErrFull, "no space left on device")
	s.serves(o.Root, "alpha", nil)
	n.free = freeBytes
	fails(t, n, ErrFull)
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	synced(t, n)
	s.serves(o.Root, "alpha", data)
}
