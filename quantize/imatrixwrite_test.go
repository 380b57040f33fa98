package quantize

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestWriteImatrix reads matrices that llama-imatrix wrote and writes them
// again: the bytes are the same.
func TestWriteImatrix(t *testing.T) {
	files, err := filepath.Glob("../ops/calibrate/testdata/*.gguf")
	if err != nil || len(files) == 0 {
		t.Fatalf("no matrices (%v)", err)
	}
	for _, file := range files {
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		f := rewrite(t, want)
		slices.Reverse(f.Entries) // their order does not matter
		var got bytes.Buffer
		if err := f.Write(&got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: the bytes differ", file)
		}
	}
}

func rewrite(t *testing.T, data []byte) *ImatrixFile {
	t.Helper()
	m, err := ReadImatrix(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	f := &ImatrixFile{Datasets: m.Datasets, Chunks: int(m.Chunks), ChunkSize: 48}
	if m.Chunks == 5 {
		f.ChunkSize = 128
	}
	for _, name := range m.Names() {
		s, ok, err := m.Sums(name)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		f.Entries = append(f.Entries, s)
	}
	return f
}

func TestWriteImatrixErrors(t *testing.T) {
	good := ImatrixSums{Name: "blk.0.attn_q.weight", Sums: []float32{1, 2}, Counts: []float32{3}}
	for want, f := range map[string]ImatrixFile{
		"it holds no data":                {},
		"-1 chunks of 512 tokens":         {Chunks: -1, ChunkSize: 512, Entries: []ImatrixSums{good}},
		"want one entry":                  {Entries: []ImatrixSums{good, good}},
		"want a name of 1 to 55 bytes":    {Entries: []ImatrixSums{{Name: strings.Repeat("x", 56), Sums: good.Sums, Counts: good.Counts}}},
		"2 counts, not 3 in all":          {Entries: []ImatrixSums{{Name: "x", Sums: []float32{1, 2, 3}, Counts: []float32{1, 1}}}},
		"want a token that was counted":   {Entries: []ImatrixSums{{Name: "x", Sums: []float32{1}, Counts: []float32{0}}}},
		"numbers of at least 0, not -1":   {Entries: []ImatrixSums{{Name: "x", Sums: []float32{-1}, Counts: []float32{1}}}},
		"numbers of at least 0, not +Inf": {Entries: []ImatrixSums{{Name: "x", Sums: []float32{float32(math.Inf(1))}, Counts: []float32{1}}}},
	} {
		path := filepath.Join(t.TempDir(), "imatrix.gguf")
		err := f.Save(path)
		if err == nil || !strings.HasPrefix(err.Error(), "write imatrix: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v: want %q", err, want)
		}
		if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
			t.Errorf("%q left %v behind", want, left)
		}
	}
	f := ImatrixFile{Entries: []ImatrixSums{good}}
	if err := f.Save(filepath.Join(t.TempDir(), "no", "folder")); err == nil {
		t.Error("a file is written into a folder that is not there")
	}
}
