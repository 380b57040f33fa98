package quantize

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
)

// goldenCols is the row length of testdata/ggml/input.f32.
const goldenCols = 2048

// readFloats returns a file of little-endian float32.
func readFloats(t testing.TB, name string) []float32 {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]float32, len(raw)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return out
}

// firstDifference returns the offset of the first byte in which got and want
// differ, or -1.
func firstDifference(got, want []byte) int {
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			return i
		}
	}
	if len(got) != len(want) {
		return len(want)
	}
	return -1
}

// forEachCodec runs f for every type's definition and for its faster codecs,
// one per instruction set that this processor can run.
func forEachCodec(t *testing.T, f func(t *testing.T, c Codec)) {
	for _, typ := range registered() {
		definition, _ := Definition(typ)
		t.Run(typ.String()+"/plain", func(t *testing.T) { f(t, definition) })
		for _, set := range instructionSets {
			if _, ok := set.codecs[typ]; ok {
				t.Run(typ.String()+"/"+set.name, func(t *testing.T) { f(t, set.apply(definition)) })
			}
		}
	}
}

// registered returns every type with a codec, by id.
func registered() []gguf.Type {
	var out []gguf.Type
	for typ := gguf.Type(0); typ < 64; typ++ {
		if _, ok := Definition(typ); ok {
			out = append(out, typ)
		}
	}
	return out
}

// TestGolden compares with the bytes that ggml d99724f2 wrote for 48 rows of
// sixteen kinds of data; testdata/ggml/TYPE.bin was made without importance,
// TYPE.imatrix.bin with imatrix.f32.
func TestGolden(t *testing.T) {
	input := readFloats(t, "testdata/ggml/input.f32")
	importance := readFloats(t, "testdata/ggml/imatrix.f32")
	forEachCodec(t, func(t *testing.T, c Codec) {
		files, err := filepath.Glob("testdata/ggml/" + c.Type.String() + ".*bin")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			weights := importance
			if !strings.Contains(name, ".imatrix.") {
				weights = nil
			}
			got := make([]byte, len(want))
			c.Encode(got, input, goldenCols, weights)
			if at := firstDifference(got, want); at >= 0 {
				block := int64(at) / c.Type.BlockBytes()
				t.Errorf("%s: byte %d of block %d differs: %#x, want %#x", name, int64(at)%c.Type.BlockBytes(), block, got[at], want[at])
			}
		}
	})
}

// TestShortRows encodes the golden rows one by one and block by block:
// without importance every type gives the same bytes however the rows are cut.
func TestShortRows(t *testing.T) {
	input := readFloats(t, "testdata/ggml/input.f32")
	forEachCodec(t, func(t *testing.T, c Codec) {
		want, err := os.ReadFile("testdata/ggml/" + c.Type.String() + ".bin")
		if err != nil {
			t.Skip("this type is only encoded with importance")
		}
		for _, blocks := range []int64{1, 3, 7} {
			n, size := blocks*c.Type.BlockElements(), blocks*c.Type.BlockBytes()
			got := make([]byte, size)
			for i := int64(0); (i+1)*n <= int64(len(input)) && i < 97; i++ {
				c.Encode(got, input[i*n:(i+1)*n], int(n), nil)
				if !bytes.Equal(got, want[i*size:(i+1)*size]) {
					t.Fatalf("rows of %d weights: row %d differs from the whole", n, i)
				}
			}
		}
	})
}
