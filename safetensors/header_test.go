package safetensors

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
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/internal/golden"
)

func readBytes(b []byte) (*Header, error) {
	return ReadHeader(bytes.NewReader(b), int64(len(b)))
}

// file puts a file together from the header's JSON and n bytes of data.
func file(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
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
	files, err := filepath.Glob("testdata/malformed/*.safetensors")
	if err != nil || len(files) != len(want) {
		t.Fatalf("%d files, %d expectations, err %v", len(files), len(want), err)
	}
	var got strings.Builder
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		name = filepath.Base(name)
		h, err := readBytes(b)
		if strings.HasPrefix(want[name], "OK") {
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			fmt.Fprintf(&got, "%s: ok, %d tensors\n", name, len(h.Tensors))
			continue
		}
		var format *FormatError
		if !errors.As(err, &format) {
			t.Errorf("%s: got %v, want a FormatError", name, err)
		}
		fmt.Fprintf(&got, "%s: %v\n", name, err)
	}
	golden.Check(t, "malformed.golden", got.String())
}

// TestSamples reads the sample files, whose headers are not padded.
func TestSamples(t *testing.T) {
	files, err := filepath.Glob("testdata/samples/*.safetensors")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var got strings.Builder
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		h, err := readBytes(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		fmt.Fprintf(&got, "%s: %v\n", filepath.Base(name), h.Metadata)
		for _, ti := range h.Tensors {
			fmt.Fprintf(&got, "  %s %s %d at %d, %d bytes: % x\n", ti.Name, ti.DType, ti.Shape, ti.Offset, ti.Size, b[h.DataOffset+ti.Offset:][:ti.Size])
		}
	}
	golden.Check(t, "samples.golden", got.String())
}

// TestJSON is about headers whose JSON is wrong, or unusual and right.
func TestJSON(t *testing.T) {
	tensor := func(fields string) string { return `{"a":{` + fields + `}}` }
	const good = `"dtype":"F32","shape":[2],"data_offsets":[0,8]`
	for _, c := range []struct {
		header string
		want   string // part of the error; empty where there is none
	}{
		{tensor(good), ""},
		{" \r\n\t{ \"a\" : { \"shape\" : [ 2 ] , \"data_offsets\" : [ 0 , 8 ] , \"dtype\" : \"F32\" } } ", ""},
		{`{"\u0061\n\ud83d\ude00":{` + good + `}}`, ""},
		{`{"":{` + good + `}}`, ""},
		{`{"__metadata__":{},"a":{` + good + `}}`, ""},
		{``, `the end where '{' should be`},
		{`[]`, `'[' where '{' should be`},
		{`{"a"}`, `'}' where ':' should be`},
		{tensor(good) + `x`, `'x' after the end`},
		{tensor(good) + "\x00", `after the end`},
		{`{"a":{` + good + `},}`, `'}' where '"' should be`},
		{`{"a":{` + good + `} "b"}`, `'"' where ',' or '}' should be`},
		{`{"a":{` + good + `},"a":{` + good + `}}`, `tensor "a" is there twice`},
		{`{"__metadata__":{},"__metadata__":{}}`, `tensor "__metadata__" is there twice`},
		{`{"__metadata__":{"k":"1","k":"2"}}`, `key "k" of __metadata__ is there twice`},
		{`{"__metadata__":{"k":1}}`, `'1' where '"' should be`},
		{`{"__metadata__":[]}`, `'[' where '{' should be`},
		{tensor(good + `,"dtype":"F32"`), `field "dtype" is there twice`},
		{tensor(good + `,"strides":[1]`), `unknown field "strides"`},
		{tensor(`"shape":[2],"data_offsets":[0,8]`), `field "dtype" is missing`},
		{tensor(`"dtype":"F32","data_offsets":[0,8]`), `field "shape" is missing`},
		{tensor(`"dtype":"F32","shape":[2]`), `field "data_offsets" is missing`},
		{tensor(`"dtype":"f32","shape":[2],"data_offsets":[0,8]`), `unknown dtype "f32"`},
		{tensor(`"dtype":"","shape":[2],"data_offsets":[0,8]`), `unknown dtype ""`},
		{tensor(`"dtype":"F32","shape":[2],"data_offsets":[8,0]`), `data ends at 0 before it begins at 8`},
		{tensor(`"dtype":"F32","shape":[2],"data_offsets":[0]`), `']' where ',' should be`},
		{tensor(`"dtype":"F32","shape":[2],"data_offsets":[0,8,9]`), `',' where ']' should be`},
		{tensor(`"dtype":"F32","shape":[2.0],"data_offsets":[0,8]`), `number is not whole`},
		{tensor(`"dtype":"F32","shape":[2e0],"data_offsets":[0,8]`), `number is not whole`},
		{tensor(`"dtype":"F32","shape":[-2],"data_offsets":[0,8]`), `'-' where a whole number should be`},
		{tensor(`"dtype":"F32","shape":[02],"data_offsets":[0,8]`), `leading zero`},
		{tensor(`"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8]`), `overflows 63 bits`},
		{tensor(`"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]`), `shape [4294967296 4294967296] overflows`},
		{tensor(`"dtype":"F4","shape":[3],"data_offsets":[0,2]`), `does not fill whole bytes`},
		{tensor(`"dtype":"F32","shape":[2],"data_offsets":[4,12]`), `leaves a hole after offset 0`},
		{`{"a":{"dtype":"U8","shape":[6],"data_offsets":[0,6]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}`, `tensor "b": data at offset 4 overlaps tensor "a"`},
		{`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, `4 bytes after the last tensor`},
		{`{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}`, `cut off: the data section has 8 bytes`},
		{"{\"a\xff\":{" + good + `}}`, `not UTF-8`},
		{"{\"a\n\":{" + good + `}}`, `control character`},
		{`{"\x":{` + good + `}}`, `unknown escape`},
		{`{"\u12":{` + good + `}}`, `four hexadecimal digits`},
		{`{"\ud83d":{` + good + `}}`, `half a surrogate pair`},
		{`{"\ud83d\u0061":{` + good + `}}`, `half a surrogate pair`},
		{`{"a`, `string is cut off`},
	} {
		h, err := readBytes(file(c.header, 8))
		var format *FormatError
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.header, err)
		case c.want == "":
			if len(h.Tensors) != 1 || h.Tensors[0].Size != 8 {
				t.Errorf("%s: got %+v", c.header, h)
			}
		case !errors.As(err, &format) || !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: got %v, want %s", c.header, err, c.want)
		}
	}
	h, err := readBytes(file(`{"\u0061\n\ud83d\ude00":{`+good+`}}`, 8))
	if err != nil || h.Tensors[0].Name != "a\n\U0001f600" {
		t.Errorf("escapes: %+v, %v", h, err)
	}
}

func TestDTypes(t *testing.T) {
	for d := DType(1); d.Valid(); d++ {
		back, err := ParseDType(d.String())
		if err != nil || back != d || d.Bits() == 0 {
			t.Errorf("%s: %v, %v, %d bits", d, back, err, d.Bits())
		}
		h := &Header{Tensors: []Tensor{{Name: "a", DType: d, Shape: []int64{4, 2}}}}
		b, err := h.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readBytes(append(b, make([]byte, d.Bits())...))
		if err != nil || got.Tensors[0].Size != d.Bits() {
			t.Errorf("%s: %+v, %v", d, got, err)
		}
	}
}

func TestRefusesToWrite(t *testing.T) {
	ok := Tensor{Name: "a", DType: F32, Shape: []int64{2}}
	for _, c := range []struct {
		h    Header
		want string
	}{
		{Header{Tensors: []Tensor{ok, ok}}, `tensor "a" is there twice`},
		{Header{Tensors: []Tensor{{Name: "__metadata__", DType: F32}}}, "twice"},
		{Header{Tensors: []Tensor{{Name: "a"}}}, "no dtype"},
		{Header{Tensors: []Tensor{{Name: "a", DType: F32, Shape: []int64{-1}}}}, "negative"},
		{Header{Tensors: []Tensor{{Name: "\xff", DType: F32}}}, "not UTF-8"},
		{Header{Metadata: map[string]string{"a": "\xff"}}, "not UTF-8"},
	} {
		if _, err := c.h.AppendBinary(nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %s", c.h, err, c.want)
		}
	}
}

// zeros is a source of any size that holds a header and zeros after it.
type zeros struct {
	head  []byte
	reads *int
}

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	if z.reads != nil {
		*z.reads++
	}
	clear(p)
	if off < int64(len(z.head)) {
		copy(p, z.head[off:])
	}
	return len(p), nil
}

// TestLarge reads the header of a checkpoint of 1.3 TB with 134,000 tensors.
func TestLarge(t *testing.T) {
	h := &Header{}
	for layer := range 58 {
		for expert := range 256 {
			for _, name := range []string{"gate_proj", "up_proj", "down_proj"} {
				prefix := fmt.Sprintf("model.layers.%d.mlp.experts.%d.%s.", layer, expert, name)
				h.Tensors = append(h.Tensors,
					Tensor{Name: prefix + "weight", DType: F8E4M3, Shape: []int64{2048, 7168}},
					Tensor{Name: prefix + "weight_scale_inv", DType: F32, Shape: []int64{16, 56}},
					Tensor{Name: prefix + "bias", DType: BF16, Shape: []int64{2048}})
			}
		}
	}
	b, err := h.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	size, err := h.Layout()
	if err != nil {
		t.Fatal(err)
	}
	reads := 0
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := ReadHeader(zeros{b, &reads}, int64(len(b))+size)
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	got.DataOffset = 0
	if !reflect.DeepEqual(got, h) {
		t.Error("what was read is not what was written")
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 8*uint64(len(b)) {
		t.Errorf("allocated %d bytes for a header of %d", n, len(b))
	}
	if reads > 6+len(b)/lastBlock {
		t.Errorf("%d reads for a header of %d bytes", reads, len(b))
	}
}

// TestManyDimensions: an error shows a few dimensions of a tensor, however
// many there are.
func TestManyDimensions(t *testing.T) {
	dims := strings.TrimSuffix(strings.Repeat("3,", 100_000), ",")
	_, err := readBytes(file(`{"t":{"dtype":"U8","shape":[`+dims+`],"data_offsets":[0,1]}}`, 1))
	if err == nil || !strings.Contains(err.Error(), "(100000 dimensions) overflows") || len(err.Error()) > 500 {
		t.Errorf("got an error of %d bytes", len(fmt.Sprint(err)))
	}
}

func TestReadError(t *testing.T) {
	b := file(`{}`, 0)
	if _, err := ReadHeader(bytes.NewReader(b[:9]), int64(len(b))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a source shorter than it says: %v", err)
	}
}

// FuzzReadHeader: no input makes the reader panic or allocate much more than
// its own size, and what is read is written and read again unchanged.
func FuzzReadHeader(f *testing.F) {
	for _, pattern := range []string{"testdata/malformed/*.safetensors", "testdata/samples/*.safetensors"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
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
		again, err := readBytes(append(out, b[h.DataOffset:]...))
		if err != nil {
			t.Fatalf("written but not read: %v", err)
		}
		again.DataOffset = h.DataOffset
		if !reflect.DeepEqual(again, h) {
			t.Fatalf("got  %+v\nwant %+v", again, h)
		}
	})
}
