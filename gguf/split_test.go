package gguf

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestSplitName(t *testing.T) {
	if got := SplitName("dir/m", 0, 12); got != "dir/m-00001-of-00012.gguf" {
		t.Error(got)
	}
	for name, want := range map[string]struct {
		prefix    string
		no, count int
		ok        bool
	}{
		"m-00001-of-00003.gguf":                  {"m", 0, 3, true},
		"a/b-00002-of-00002-00003-of-00003.gguf": {"a/b-00002-of-00002", 2, 3, true},
		"m-00004-of-00003.gguf":                  {},
		"m-00000-of-00003.gguf":                  {},
		"m-1-of-3.gguf":                          {},
		"m.gguf":                                 {},
		"m-00001-of-00003.gguf.partial":          {},
	} {
		prefix, no, count, ok := ParseSplitName(name)
		if prefix != want.prefix || no != want.no || count != want.count || ok != want.ok {
			t.Errorf("%s: %q %d %d %v", name, prefix, no, count, ok)
		}
	}
}

func TestSplit(t *testing.T) {
	h := &Header{Metadata: Metadata{{"general.architecture", "llama"}, {"general.alignment", uint32(64)}}}
	for _, n := range []int64{100, 100, 100, 900, 50, 50} { // 400, 400, 400, 3600, 200, 200 bytes
		name := string(rune('a' + len(h.Tensors)))
		h.Tensors = append(h.Tensors, TensorInfo{Name: name, Type: F32, Shape: []int64{n}})
	}
	if _, err := h.Layout(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		limit SplitLimit
		want  string
	}{
		{SplitLimit{}, "abcdef"},
		{SplitLimit{MaxBytes: 1 << 40}, "abcdef"},
		{SplitLimit{MaxBytes: 800}, "ab c d ef"},
		{SplitLimit{MaxBytes: 1}, "a b c d e f"},
		{SplitLimit{MaxBytes: 4000}, "abc def"}, // exactly 4000 bytes is within the limit
		{SplitLimit{MaxTensors: 4}, "abcd ef"},
		{SplitLimit{MaxTensors: 2, MaxBytes: 4200}, "ab cd ef"},
	} {
		parts, err := Split(h, c.limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for i, p := range parts {
			names := ""
			for _, ti := range p.Tensors {
				names += ti.Name
			}
			got = append(got, names)
			back, err := readBytes(encode(t, p))
			if err != nil {
				t.Fatalf("part %d: %v", i, err)
			}
			want := Metadata{{"general.alignment", uint32(64)}}
			if i == 0 {
				want = append(Metadata(nil), h.Metadata...)
			}
			if len(parts) > 1 {
				want = append(want, KV{"split.no", uint16(i)}, KV{"split.count", uint16(len(parts))}, KV{"split.tensors.count", int32(6)})
			}
			if !reflect.DeepEqual(back.Metadata, want) {
				t.Errorf("part %d has %v, want %v", i, back.Metadata, want)
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%+v: got %q, want %q", c.limit, s, c.want)
		}
	}
	if len(h.Metadata) != 2 {
		t.Error("Split changed its input")
	}
}

// TestUpstream reads files that upstream's writer made (testdata/gguf-py), and
// makes them again from the whole one, byte for byte.
func TestUpstream(t *testing.T) {
	const dir = "testdata/gguf-py/"
	whole, err := Open(dir + "whole.gguf")
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	if v, err := Value[Nested](whole.Header.Metadata, "nested"); err != nil || !reflect.DeepEqual(v, Nested{[]int32{1, 2}, []int32{3}}) {
		t.Errorf("nested array is %v, %v", v, err)
	}
	seen := 0
	for name, limit := range map[string]SplitLimit{"whole": {}, "tensors": {MaxTensors: 3}, "bytes": {MaxBytes: 800}} {
		parts, err := Split(whole.Header, limit)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range parts {
			file := dir + name + ".gguf"
			if len(parts) > 1 {
				file = SplitName(dir+name, i, len(parts))
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := encode(t, p)
			start, err := p.DataOffset()
			if err != nil {
				t.Fatal(err)
			}
			for _, ti := range p.Tensors {
				j, _ := whole.Find(ti.Name)
				if _, err := io.ReadFull(whole.Data(j), got[start+ti.Offset:][:whole.Data(j).Size()]); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes are not the %d of upstream", file, len(got), len(want))
			}
			seen++
		}
	}
	files, err := filepath.Glob(dir + "*.gguf")
	if err != nil || len(files) != seen {
		t.Errorf("%d files compared of %d, %v", seen, len(files), err)
	}
}
