package gguf

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/internal/golden"
)

func readBytes(b []byte) (*Header, error) {
	return ReadHeader(bytes.NewReader(b), int64(len(b)))
}

// TestMalformed judges every file of testdata/malformed as its expected.json
// says, with the message that malformed.golden has.
func TestMalformed(t *testing.T) {
	var want map[string]string
	b, err := os.ReadFile("testdata/malformed/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/malformed/*.gguf")
	if err != nil || len(files) != len(want) {
		t.Fatalf("%d files, %d expectations, err %v", len(files), len(want), err)
	}
	var got strings.Builder
	for _, file := range files {
		name := filepath.Base(file)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		h, err := readBytes(b)
		switch want[name] {
		case "accept":
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			fmt.Fprintf(&got, "%s: ok, %d keys, %d tensors\n", name, len(h.Metadata), len(h.Tensors))
		case "refuse":
			var format *FormatError
			if !errors.As(err, &format) {
				t.Errorf("%s: got %v, want a FormatError", name, err)
			}
			fmt.Fprintf(&got, "%s: %v\n", name, err)
		default:
			t.Errorf("%s: no expectation", name)
		}
	}
	golden.Check(t, "malformed.golden", got.String())
}

// everything returns a header with each metadata type, laid out.
func everything(t testing.TB) *Header {
	h := &Header{
		Metadata: Metadata{
			{"general.architecture", "llama"},
			{"general.alignment", uint32(64)},
			{"u8", uint8(1)}, {"i8", int8(-2)}, {"u16", uint16(3)}, {"i16", int16(-4)},
			{"u32", uint32(5)}, {"i32", int32(-6)}, {"u64", uint64(1 << 63)}, {"i64", int64(-8)},
			{"f32", float32(0.5)}, {"f64", 0.25}, {"yes", true}, {"no", false}, {"empty", ""},
			{"u8s", []uint8{1, 2}}, {"i8s", []int8{-1}}, {"u16s", []uint16{1}}, {"i16s", []int16{-1}},
			{"u32s", []uint32{7}}, {"i32s", []int32{-7}}, {"u64s", []uint64{7}}, {"i64s", []int64{-7}},
			{"f32s", []float32{1, 2}}, {"f64s", []float64{1}}, {"bools", []bool{true, false}},
			{"tokens", []string{"a", "", "\xff\xfe", "é"}}, {"none", []string{}},
			{"nested", Nested{[]int32{1, 2}, []string{"x"}, Nested{[]bool{}, Nested{}}}},
		},
		Tensors: []TensorInfo{
			{Name: "token_embd.weight", Type: Q4_K, Shape: []int64{256, 3}},
			{Name: "one", Type: F32, Shape: []int64{1}},
			{Name: strings.Repeat("n", MaxName), Type: Q8_0, Shape: []int64{32, 2, 3, 4}},
		},
	}
	if _, err := h.Layout(); err != nil {
		t.Fatal(err)
	}
	return h
}

// encode writes h and as many zeros as its data section needs.
func encode(t testing.TB, h *Header) []byte {
	b, err := h.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := h.DataOffset(); err != nil || n != int64(len(b)) {
		t.Fatalf("DataOffset is %d, %v; header has %d bytes", n, err, len(b))
	}
	size, err := h.Layout()
	if err != nil {
		t.Fatal(err)
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

func TestRoundTrip(t *testing.T) {
	h := everything(t)
	b := encode(t, h)
	got, err := readBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	h.Version, h.Alignment = 3, 64
	if !reflect.DeepEqual(got, h) {
		t.Errorf("got  %+v\nwant %+v", got, h)
	}
	again := encode(t, got)
	var w bytes.Buffer
	if n, err := got.WriteTo(&w); err != nil || n != int64(w.Len()) || !bytes.HasPrefix(b, w.Bytes()) {
		t.Errorf("WriteTo wrote %d bytes, %v", n, err)
	}
	if !bytes.Equal(again, b) {
		t.Error("written again, the bytes differ")
	}
}

// TestTruncated cuts a file at every byte: never accepted, never a panic.
func TestTruncated(t *testing.T) {
	b := encode(t, everything(t))
	data := len(b) - 64 // the padding of the last tensor is not needed
	for n := range data {
		var format *FormatError
		if _, err := readBytes(b[:n]); !errors.As(err, &format) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

// TestReadError keeps an error of the source apart from one of the format.
func TestReadError(t *testing.T) {
	b := encode(t, everything(t))
	broken := errors.New("broken pipe")
	_, err := ReadHeader(faulty{broken}, int64(len(b)))
	var format *FormatError
	if !errors.Is(err, broken) || errors.As(err, &format) {
		t.Errorf("got %v", err)
	}
	if _, err = ReadHeader(bytes.NewReader(b[:100]), int64(len(b))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a source shorter than it says: %v", err)
	}
}

type faulty struct{ err error }

func (f faulty) ReadAt([]byte, int64) (int, error) { return 0, f.err }

// counting counts reads.
type counting struct {
	io.ReaderAt
	reads int
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	c.reads++
	return c.ReaderAt.ReadAt(p, off)
}

func TestFewReads(t *testing.T) {
	tokens := make([]string, 300_000)
	for i := range tokens {
		tokens[i] = fmt.Sprintf("token %d of many", i)
	}
	b := encode(t, &Header{Metadata: Metadata{{"tokens", tokens}, {"long", strings.Repeat("x", 9<<20)}}})
	c := &counting{ReaderAt: bytes.NewReader(b)}
	h, err := ReadHeader(c, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := h.Metadata.Strings("tokens"); err != nil || !slices.Equal(got, tokens) {
		t.Errorf("tokens differ: %v", err)
	}
	if s, err := h.Metadata.String("long"); err != nil || len(s) != 9<<20 {
		t.Errorf("long string has %d bytes, %v", len(s), err)
	}
	if c.reads > 10 {
		t.Errorf("%d reads for a header of %d bytes", c.reads, len(b))
	}
}

// zeros is a source of any size that holds a header and zeros after it.
type zeros struct{ head []byte }

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(z.head)) {
		copy(p, z.head[off:])
	}
	return len(p), nil
}

// TestHugeCounts reads headers with absurd counts from a file of a terabyte,
// whose size would justify any allocation.
func TestHugeCounts(t *testing.T) {
	le64 := func(n uint64) string {
		return string([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24), byte(n >> 32), byte(n >> 40), byte(n >> 48), byte(n >> 56)})
	}
	start := "GGUF\x03\x00\x00\x00"
	key := le64(1) + "k"
	for name, head := range map[string]string{
		"tensors":      start + le64(1<<30) + le64(0),
		"keys":         start + le64(0) + le64(1<<30),
		"string":       start + le64(0) + le64(1) + key + "\x08\x00\x00\x00" + le64(1<<35),
		"strings":      start + le64(0) + le64(1) + key + "\x09\x00\x00\x00\x08\x00\x00\x00" + le64(1<<35),
		"u8s":          start + le64(0) + le64(1) + key + "\x09\x00\x00\x00\x00\x00\x00\x00" + le64(1<<38),
		"nested":       start + le64(0) + le64(1) + key + "\x09\x00\x00\x00\x09\x00\x00\x00" + le64(1<<33),
		"deep":         start + le64(0) + le64(1) + key + "\x09\x00\x00\x00" + strings.Repeat("\x09\x00\x00\x00"+le64(1), 100),
		"some tensors": start + le64(1<<22) + le64(0),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := ReadHeader(zeros{[]byte(head)}, 1<<40)
			runtime.ReadMemStats(&after)
			var format *FormatError
			if !errors.As(err, &format) {
				t.Errorf("got %v", err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
				t.Errorf("allocated %d bytes", n)
			}
		})
	}
}

func TestRefusesToWrite(t *testing.T) {
	tensor := func(name string, offset int64) TensorInfo {
		return TensorInfo{Name: name, Type: F32, Shape: []int64{8}, Offset: offset}
	}
	for _, c := range []struct {
		name string
		h    Header
		want string
	}{
		{"version", Header{Version: 4}, "version 4"},
		{"empty key", Header{Metadata: Metadata{{"", uint8(1)}}}, "key is empty"},
		{"key twice", Header{Metadata: Metadata{{"a", uint8(1)}, {"a", uint8(1)}}}, `key "a": key is there twice`},
		{"Go int", Header{Metadata: Metadata{{"a", 1}}}, "Go type int"},
		{"nil", Header{Metadata: Metadata{{"a", nil}}}, "Go type <nil>"},
		{"scalar in nested", Header{Metadata: Metadata{{"a", Nested{uint8(1)}}}}, "element 0 of a nested array is of uint8"},
		{"alignment", Header{Metadata: Metadata{{"general.alignment", uint32(33)}}}, "33 is not a power of two"},
		{"two alignments", Header{Alignment: 64}, "alignment is 64 but"},
		{"architecture", Header{Metadata: Metadata{{"general.architecture", uint32(1)}}}, "want string"},
		{"split.no", Header{Metadata: Metadata{{"split.no", uint32(1)}}}, "want uint16"},
		{"long name", Header{Tensors: []TensorInfo{tensor(strings.Repeat("a", 64), 0)}}, "64 bytes is longer than the 63"},
		{"tensor twice", Header{Tensors: []TensorInfo{tensor("a", 0), tensor("a", 32)}}, `tensor "a": tensor is there twice`},
		{"no layout", Header{Tensors: []TensorInfo{tensor("a", 0), tensor("b", 0)}}, "offset 0 overlaps"},
		{"gap", Header{Tensors: []TensorInfo{tensor("a", 0), tensor("b", 64)}}, "leaves a gap"},
		{"dimension", Header{Tensors: []TensorInfo{{Name: "a", Shape: []int64{4, 0}}}}, "not positive"},
		{"no dimension", Header{Tensors: []TensorInfo{{Name: "a"}}}, "0 dimensions"},
		{"type", Header{Tensors: []TensorInfo{{Name: "a", Type: 31, Shape: []int64{32}}}}, "unknown tensor type 31"},
		{"row", Header{Tensors: []TensorInfo{{Name: "a", Type: Q4_K, Shape: []int64{32}}}}, "row of 32 weights"},
	} {
		b, err := c.h.AppendBinary([]byte("x"))
		if err == nil || !strings.Contains(err.Error(), c.want) || string(b) != "x" {
			t.Errorf("%s: got %q, %v, want an error with %q", c.name, b, err, c.want)
		}
	}
}

func TestGetters(t *testing.T) {
	m := everything(t).Metadata
	if v, err := m.Uint32("u32"); v != 5 || err != nil {
		t.Error(v, err)
	}
	for key, want := range map[string]int64{"u8": 1, "i8": -2, "u16": 3, "i16": -4, "u32": 5, "i32": -6, "i64": -8} {
		if v, err := m.Int(key); v != want || err != nil {
			t.Errorf("%s: %d, %v", key, v, err)
		}
	}
	if v, err := m.Float32("f32"); v != 0.5 || err != nil {
		t.Error(v, err)
	}
	if v, err := m.Bool("yes"); !v || err != nil {
		t.Error(v, err)
	}
	if v, err := m.Int32s("i32s"); !slices.Equal(v, []int32{-7}) || err != nil {
		t.Error(v, err)
	}
	if v, err := m.Float32s("f32s"); !slices.Equal(v, []float32{1, 2}) || err != nil {
		t.Error(v, err)
	}
	m.Set("f32", float32(2))
	if v, err := m.Float32("f32"); v != 2 || err != nil {
		t.Error(v, err)
	}
	for _, c := range []struct {
		get  func() error
		want string
	}{
		{func() error { _, err := m.Uint32("tokens"); return err }, `metadata "tokens" is array of 4 string, want uint32`},
		{func() error { _, err := m.Strings("u8"); return err }, `metadata "u8" is uint8, want array of string`},
		{func() error { _, err := Value[Nested](m, "u8"); return err }, `metadata "u8" is uint8, want array of array`},
		{func() error { _, err := m.Int("f32"); return err }, `metadata "f32" is float32, want an integer`},
		{func() error { _, err := m.Int("u64"); return err }, `metadata "u64" is 9223372036854775808, more than an int64 holds`},
		{func() error { _, err := m.String("nope"); return err }, `metadata "nope": key is missing`},
	} {
		if err := c.get(); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	if _, err := m.Int("nope"); !errors.Is(err, ErrNoKey) {
		t.Errorf("got %v", err)
	}
}

// FuzzReadHeader: no input makes the reader panic or allocate much more than
// its own size, and what is read is written and read again unchanged.
func FuzzReadHeader(f *testing.F) {
	files, err := filepath.Glob("testdata/malformed/*.gguf")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(encode(f, everything(f)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		h, err := readBytes(b)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20+32*uint64(len(b)) {
			t.Fatalf("allocated %d bytes for a file of %d", n, len(b))
		}
		if err != nil {
			return
		}
		out, err := h.AppendBinary(nil)
		if err != nil {
			t.Fatalf("read but not written: %v", err)
		}
		if n := min(len(out), len(b)); len(h.Tensors) > 0 && len(out) > len(b) {
			t.Fatalf("header of %d bytes from a file of %d", len(out), n)
		}
		size, err := h.Layout()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ReadHeader(zeros{out}, size)
		if err != nil {
			t.Fatalf("written but not read: %v", err)
		}
		third, err := again.AppendBinary(nil)
		if err != nil || !bytes.Equal(third, out) {
			t.Fatalf("a second pass writes other bytes: %v", err)
		}
	})
}

// raw puts a header together from 32-bit numbers (uint32), 64-bit numbers
// (int), strings with their length (string) and single bytes (byte).
func raw(parts ...any) []byte {
	b := []byte("GGUF")
	for _, p := range parts {
		switch p := p.(type) {
		case uint32:
			b = binary.LittleEndian.AppendUint32(b, p)
		case int:
			b = binary.LittleEndian.AppendUint64(b, uint64(p))
		case string:
			b = binary.LittleEndian.AppendUint64(b, uint64(len(p)))
			b = append(b, p...)
		case byte:
			b = append(b, p)
		}
	}
	return append(b, make([]byte, 256)...)
}

func TestRefusesToRead(t *testing.T) {
	type u32 = uint32
	v3 := u32(3)
	for _, c := range []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "4 bytes of magic cannot fit"},
		{"other magic", []byte("GGML\x03\x00\x00\x00"), `not a GGUF file: it starts with "GGML"`},
		{"version 1", raw(u32(1), 0, 0), "GGUF version 1 is not supported: convert the model again"},
		{"big-endian version 2", raw(u32(2<<24), 0, 0), "big-endian GGUF version 2"},
		{"too many keys", raw(v3, 0, 1000), "1000 metadata keys cannot fit"},
		{"empty key", raw(v3, 0, 1, "", u32(0), byte(1)), "key is empty"},
		{"NUL in a key", raw(v3, 0, 1, "a\x00b", u32(0), byte(1)), "key is not UTF-8 text"},
		{"key that is not UTF-8", raw(v3, 0, 1, "a\xff", u32(0), byte(1)), "key is not UTF-8 text"},
		{"long key", raw(v3, 0, 1, strings.Repeat("k", 1<<16), u32(0), byte(1)), "key of 65536 bytes is longer than 65535"},
		{"value type", raw(v3, 0, 1, "a", u32(13), 0), `key "a" at byte 33: unknown value type 13`},
		{"bool", raw(v3, 0, 1, "a", u32(Bool), byte(2)), "bool is 2, want 0 or 1"},
		{"bool in an array", raw(v3, 0, 1, "a", u32(Array), u32(Bool), 2, byte(1), byte(7)), "bool is 7, want 0 or 1"},
		{"long string", raw(v3, 0, 1, "a", u32(String), 1000), "1000 bytes of string cannot fit"},
		{"long string in an array", raw(v3, 0, 1, "a", u32(Array), u32(String), 1, 1000), "1000 bytes of string cannot fit"},
		{"alignment type", raw(v3, 0, 1, "general.alignment", u32(Uint64), 32), "is uint64, want uint32"},
		{"large alignment", raw(v3, 0, 1, "general.alignment", u32(Uint32), u32(1<<31)), "alignment 2147483648 is more than"},
		{"empty architecture", raw(v3, 0, 1, "general.architecture", u32(String), ""), "is empty"},
		{"split.no", raw(v3, 0, 1, "split.no", u32(Uint32), u32(0)), "is uint32, want uint16"},
		{"split.tensors.count", raw(v3, 0, 1, "split.tensors.count", u32(Int32), u32(1<<31)), "is negative"},
		{"no name", raw(v3, 1, 0, "", u32(1), 8, u32(F32), 0), "name is empty"},
		{"NUL in a name", raw(v3, 1, 0, "a\x00", u32(1), 8, u32(F32), 0), "name is not UTF-8 text"},
		{"no dimensions", raw(v3, 1, 0, "a", u32(0), u32(F32), 0), "0 dimensions, want 1 to 4"},
		{"five dimensions", raw(v3, 1, 0, "a", u32(5), 1, 1, 1, 1, 1, u32(F32), 0), "5 dimensions, want 1 to 4"},
		{"negative dimension", raw(v3, 1, 0, "a", u32(1), -8, u32(F32), 0), "dimension 0 is 18446744073709551608: too large"},
		{"withdrawn type", raw(v3, 1, 0, "a", u32(1), 32, u32(4), 0), "tensor type 4 is unknown or was withdrawn by ggml"},
		{"offset", raw(v3, 1, 0, "a", u32(1), 8, u32(F32), -32), "offset 18446744073709551584 is too large"},
		{"first offset", raw(v3, 1, 0, "a", u32(1), 8, u32(F32), 32), "offset 32 leaves a gap"},
		{"data beyond the end", raw(v3, 1, 0, "a", u32(1), 1<<40, u32(F32), 0), "data of 4398046511104 bytes at offset 0 is cut off"},
		{"bytes that overflow", raw(v3, 1, 0, "a", u32(2), 1<<31, 1<<31, u32(F64), 0), "overflows in bytes"},
	} {
		_, err := readBytes(c.b)
		var format *FormatError
		if !errors.As(err, &format) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}
