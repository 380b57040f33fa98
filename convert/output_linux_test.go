package convert

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// filling is a source whose first read takes the room that the output needs.
type filling struct {
	fs.FS
	once *sync.Once
	fill func()
}

type fillingFile struct {
	fs.File
	f filling
}

func (f filling) Open(name string) (fs.File, error) {
	file, err := f.FS.Open(name)
	return fillingFile{file, f}, err
}

func (f fillingFile) ReadAt(p []byte, off int64) (int, error) {
	f.f.once.Do(f.f.fill)
	return f.File.(io.ReaderAt).ReadAt(p, off)
}

// TestDiskFills has another process take the room after it was checked, on a
// real file system of its own.
func TestDiskFills(t *testing.T) {
	p, src, _ := sample(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"); err != nil {
		t.Skipf("no file system of its own: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	fill := func() {
		f, err := os.Create(filepath.Join(dir, "other"))
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		for err == nil { // until there is no room
			_, err = f.Write(make([]byte, 1<<20))
		}
	}
	_, err := WriteFiles(t.Context(), []Output{{filepath.Join(dir, "o.gguf"), p}}, filling{src, new(sync.Once), fill}, FileOptions{})
	if err == nil || !strings.Contains(err.Error(), "write output at offset ") && !strings.Contains(err.Error(), "write journal") || !strings.HasSuffix(err.Error(), "no space left on device") {
		t.Errorf("error %v", err)
	}
	if l := left(t, dir); l != "other" {
		t.Errorf("left: %s", l)
	}
}
