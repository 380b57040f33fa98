package filelock

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestOneHolder lets one open file have the lock at a time.
func TestOneHolder(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	a, b := open(), open()
	defer b.Close()
	if err := Try(a); err != nil {
		t.Fatal(err)
	}
	if err := Try(b); !errors.Is(err, ErrHeld) {
		t.Errorf("got %v, want ErrHeld", err)
	}
	if !Held(b) {
		t.Error("the lock is not seen to be held")
	}
	if err := Release(a); err != nil {
		t.Fatal(err)
	}
	if Held(b) {
		t.Error("the lock is held by nobody")
	}
	if err := Try(b); err != nil {
		t.Error(err)
	}
}

// TestSharedWithChild gives the lock back although a child has the file open.
func TestSharedWithChild(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Try(f); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("sleep", "60")
	c.ExtraFiles = []*os.File{f}
	if err := c.Start(); err != nil {
		t.Skip(err)
	}
	defer c.Wait()
	defer c.Process.Kill()
	if err := Release(f); err != nil {
		t.Fatal(err)
	}
	again, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := Try(again); err != nil {
		t.Errorf("the child keeps the lock: %v", err)
	}
}

// TestTakeAgain opens a file anew that its last holder has removed meanwhile.
func TestTakeAgain(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	opened := 0
	f, err := Take(name, func() (*os.File, error) {
		opened++
		return os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	}, func() (os.FileInfo, error) {
		if opened == 1 {
			os.Remove(name)
		}
		return os.Stat(name)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer Release(f)
	if opened != 2 {
		t.Errorf("opened %d times, want 2", opened)
	}
	if _, err := TakePath(name); !errors.Is(err, ErrHeld) {
		t.Errorf("got %v, want ErrHeld", err)
	}
}
