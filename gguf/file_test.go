package gguf

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

// model returns a header of four tensors and each tensor's data.
func model(t testing.TB) (*Header, map[string][]byte) {
	h := &Header{Version: 3, Alignment: 64, Metadata: Metadata{{"general.architecture", "llama"}, {"general.alignment", uint32(64)}}}
	data := map[string][]byte{}
	for i, name := range []string{"a", "b", "c", "d"} {
		ti := TensorInfo{Name: name, Type: I8, Shape: []int64{int64(10 + 7*i)}}
		h.Tensors = append(h.Tensors, ti)
		data[name] = bytes.Repeat([]byte(name), 10+7*i)
	}
	if _, err := h.Layout(); err != nil {
		t.Fatal(err)
	}
	return h, data
}

// file renders one part.
func file(t testing.TB, h *Header, data map[string][]byte) *fstest.MapFile {
	b := encode(t, h)
	start, err := h.DataOffset()
	if err != nil {
		t.Fatal(err)
	}
	for _, ti := range h.Tensors {
		copy(b[start+ti.Offset:], data[ti.Name])
	}
	return &fstest.MapFile{Data: b}
}

// split renders the model as three parts under dir/m.
func split(t testing.TB) (fstest.MapFS, *Header, map[string][]byte) {
	h, data := model(t)
	parts, err := Split(h, SplitLimit{MaxTensors: 2})
	if err != nil {
		t.Fatal(err)
	}
	fsys := fstest.MapFS{}
	for i, p := range parts {
		fsys[SplitName("dir/m", i, len(parts))] = file(t, p, data)
	}
	return fsys, h, data
}

func TestOpenSplit(t *testing.T) {
	fsys, h, data := split(t)
	fsys["whole.gguf"] = file(t, h, data)
	for _, name := range []string{"whole.gguf", "dir/m-00001-of-00002.gguf", "dir/m-00002-of-00002.gguf"} {
		f, err := OpenFS(fsys, name)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(f.Header, h) {
			t.Errorf("%s: got %+v, want %+v", name, f.Header, h)
		}
		for name, want := range data {
			i, ok := f.Find(name)
			if !ok {
				t.Fatalf("no tensor %s", name)
			}
			got, err := io.ReadAll(f.Data(i))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("tensor %s: %q, %v", name, got, err)
			}
			part, offset, size := f.Locate(i)
			raw := fsys[f.Parts[part].Name].Data[offset : offset+size]
			if !bytes.Equal(raw, want) {
				t.Errorf("tensor %s: located at %q", name, raw)
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenLocal(t *testing.T) {
	h, data := model(t)
	dir := t.TempDir()
	name := filepath.Join(dir, "m.gguf")
	if err := os.WriteFile(name, file(t, h, data).Data, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !reflect.DeepEqual(f.Header, h) {
		t.Errorf("got %+v", f.Header)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Errorf("a folder: %v", err)
	}
}

func TestBadSplits(t *testing.T) {
	const one, two = "dir/m-00001-of-00002.gguf", "dir/m-00002-of-00002.gguf"
	for _, c := range []struct {
		name   string
		change func(fsys fstest.MapFS, parts []*Header, data map[string][]byte)
		want   string
	}{
		{"missing part", func(f fstest.MapFS, _ []*Header, _ map[string][]byte) { delete(f, two) }, "part 2 of 2: open " + two + ": file does not exist"},
		{"truncated part", func(f fstest.MapFS, _ []*Header, _ map[string][]byte) {
			f[two].Data = f[two].Data[:len(f[two].Data)-64]
		}, `part 2 of 2: ` + two + `: tensor "d" at byte`},
		{"same part twice", func(f fstest.MapFS, _ []*Header, _ map[string][]byte) { f[two] = f[one] }, two + ": metadata says part 1 of 2, want part 2 of 2"},
		{"tensor in two parts", func(f fstest.MapFS, p []*Header, d map[string][]byte) {
			p[1].Tensors[0].Name = "a"
			f[two] = file(t, p[1], d)
		}, two + `: tensor "a" is also in ` + one},
		{"tensor missing", func(f fstest.MapFS, p []*Header, d map[string][]byte) {
			p[1].Tensors = p[1].Tensors[:1]
			f[two] = file(t, p[1], d)
		}, `metadata "split.tensors.count" says 4 tensors, but all parts have 3`},
		{"name without split", func(f fstest.MapFS, p []*Header, d map[string][]byte) {
			h, _ := model(t)
			f[one] = file(t, h, d)
		}, one + `: the name says part 1 of 2, but metadata "split.count" does not`},
		{"name of another part", func(f fstest.MapFS, _ []*Header, _ map[string][]byte) { f[one] = f[two] }, one + ": metadata says part 2 of 2: rename"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys, h, data := split(t)
			parts, err := Split(h, SplitLimit{MaxTensors: 2})
			if err != nil {
				t.Fatal(err)
			}
			c.change(fsys, parts, data)
			f, err := OpenFS(fsys, one)
			if err == nil {
				f.Close()
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
