package validate

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/modelpipe/modelpipe/convert/converttest"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/internal/golden"
)

const goldens = "../convert/testdata/golden"

// goldenModel is a tiny model of the converter's tests, in memory.
func goldenModel(t testing.TB, name string) fstest.MapFS {
	t.Helper()
	return golden.Unzip(t, filepath.Join(goldens, name, "hf.zip"))
}

// stories is the bundled model with real weights.
func stories(t testing.TB) fs.FS {
	t.Helper()
	return os.DirFS("../testdata/stories260K")
}

// converted is the GGUF file of a source, in a type or preset.
func converted(t testing.TB, source fs.FS, name, preset string) []byte {
	t.Helper()
	_, view := converttest.View(t, source, name, preset)
	data, err := io.ReadAll(io.NewSectionReader(view, 0, view.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// openGGUF opens a file in memory.
func openGGUF(t testing.TB, data []byte) *gguf.File {
	t.Helper()
	f, err := gguf.OpenFS(fstest.MapFS{"m.gguf": {Data: data}}, "m.gguf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// tensorData is the bytes of a tensor within a file of one part.
func tensorData(t testing.TB, data []byte, name string) ([]byte, gguf.TensorInfo) {
	t.Helper()
	h, err := gguf.ReadHeader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	base, err := h.DataOffset()
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range h.Tensors {
		if info.Name == name {
			size, err := info.Size()
			if err != nil {
				t.Fatal(err)
			}
			return data[base+info.Offset : base+info.Offset+size], info
		}
	}
	t.Fatalf("no tensor %s", name)
	return nil, gguf.TensorInfo{}
}

// goldenNames are the converter's tiny models whose name matches none of the
// given prefixes.
func goldenNames(t testing.TB, but ...string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(goldens, "*", "hf.zip"))
	if err != nil || len(files) == 0 {
		t.Fatal("no models", err)
	}
	var names []string
next:
	for _, f := range files {
		name := filepath.Base(filepath.Dir(f))
		for _, prefix := range but {
			if strings.HasPrefix(name, prefix) {
				continue next
			}
		}
		names = append(names, name)
	}
	return names
}
