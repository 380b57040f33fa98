package quantize

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
)

// forEachAccelerated runs f for every type with faster codecs: its definition,
// and the codecs by instruction set, which must equal it.
func forEachAccelerated(f func(definition Codec, fast map[string]Codec)) {
	for _, typ := range registered() {
		if definition, fast := withAccelerated(typ); len(fast) > 0 {
			f(definition, fast)
		}
	}
}

func withAccelerated(typ gguf.Type) (definition Codec, fast map[string]Codec) {
	definition, _ = Definition(typ)
	fast = map[string]Codec{}
	for _, set := range instructionSets {
		if _, ok := set.codecs[typ]; ok {
			fast[set.name] = set.apply(definition)
		}
	}
	return definition, fast
}

// compareEncoders encodes rows with the definition and with each of the faster
// codecs, and reports the first difference of each.
func compareEncoders(t *testing.T, what string, definition Codec, fast map[string]Codec, rows []float32, cols int, importance []float32) {
	t.Helper()
	blockBytes := definition.Type.BlockBytes()
	size := int64(len(rows)) / definition.Type.BlockElements() * blockBytes
	got, want := make([]byte, size), make([]byte, size)
	definition.Encode(want, rows, cols, importance)
	for name, c := range fast {
		for i := range got {
			got[i] = 0xa5 // every byte must be written
		}
		c.Encode(got, rows, cols, importance)
		if at := firstDifference(got, want); at >= 0 {
			t.Errorf("%s with %s, %s: byte %d of block %d is %#x, want %#x", definition.Type, name, what,
				int64(at)%blockBytes, int64(at)/blockBytes, got[at], want[at])
		}
	}
}

// TestAcceleratedRows compares every faster encoder with its definition on all
// kinds of rows, those with NaNs included, as long rows and as short ones.
func TestAcceleratedRows(t *testing.T) {
	weights := importances()
	forEachAccelerated(func(definition Codec, fast map[string]Codec) {
		t.Run(definition.Type.String(), func(t *testing.T) {
			t.Parallel()
			for _, kind := range rowKinds {
				rows := kind.rows()
				for name, importance := range weights {
					what := fmt.Sprintf("%s rows, %s importance", kind.name, name)
					switch {
					case importance == nil && definition.NeedsImportance:
					case importance == nil || name == "usual":
						compareEncoders(t, what, definition, fast, rows[:3*rowCols], rowCols, importance)
					default:
						compareEncoders(t, what, definition, fast, rows[3*rowCols:][:512], 256, importance[:256])
					}
				}
			}
		})
	})
}

// TestAcceleratedDecoders compares every faster decoder with its definition on
// random bytes, and on blocks that hold one byte over and over.
func TestAcceleratedDecoders(t *testing.T) {
	r := seeded("decoders")
	forEachAccelerated(func(definition Codec, fast map[string]Codec) {
		for _, blocks := range []int64{1, 2, 3, 5, 64, 67, 130} {
			src := make([]byte, blocks*definition.Type.BlockBytes())
			for i := range src {
				src[i] = byte(r.Uint32())
			}
			compareDecoders(t, definition, fast, src)
		}
		var same []byte
		for b := range 256 {
			same = append(same, bytes.Repeat([]byte{byte(b)}, int(definition.Type.BlockBytes()))...)
		}
		compareDecoders(t, definition, fast, same)
		for _, c := range fast {
			c.Decode(nil, nil)
			c.Encode(nil, nil, int(definition.Type.BlockElements()), nil)
		}
	})
}

// compareDecoders decodes src with the definition and with each of the faster
// codecs, and reports the first difference of each.
func compareDecoders(t *testing.T, definition Codec, fast map[string]Codec, src []byte) {
	t.Helper()
	n := int64(len(src)) / definition.Type.BlockBytes() * definition.Type.BlockElements()
	got, want := make([]float32, n), make([]float32, n)
	definition.Decode(want, src)
	for name, c := range fast {
		for i := range got {
			got[i] = math.Float32frombits(0x7fa5a5a5) // every weight must be written
		}
		c.Decode(got, src)
		for i := range want {
			if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
				t.Errorf("%s with %s: weight %d of %d is %v (%#x), want %v (%#x)", definition.Type, name, i, n,
					got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
				break
			}
		}
	}
}

// FuzzDecode holds every faster decoder to its definition, one type at a time,
// on three blocks made of the bytes.
func FuzzDecode(f *testing.F) {
	types := registered()
	for typ := range types {
		f.Add(uint8(typ), []byte{0, 0x3c, 0x7f, 0xff, 0x81})
		f.Add(uint8(typ), []byte{0xff, 0x7c, 0x01, 0x80, 0xfc, 0x55, 0xaa})
	}
	f.Fuzz(func(t *testing.T, typ uint8, pattern []byte) {
		definition, fast := withAccelerated(types[int(typ)%len(types)])
		src := make([]byte, 3*definition.Type.BlockBytes())
		if len(pattern) > 0 {
			for i := range src {
				src[i] = pattern[i%len(pattern)]
			}
		}
		compareDecoders(t, definition, fast, src)
	})
}

// FuzzEncode holds every faster encoder to its definition, one type at a time.
// Rows are made from raw bits, numbers of like size, or both, as shape says.
func FuzzEncode(f *testing.F) {
	for typ := range 20 {
		f.Add(uint64(1), uint8(typ), uint8(0), []byte{1, 2, 3, 4})
		f.Add(uint64(2), uint8(typ), uint8(1), []byte{0, 0, 0x80, 0x7f, 0, 0, 0x80, 0xff})
		f.Add(uint64(3), uint8(typ), uint8(6), []byte{0xff, 0xff, 0x7f, 0x7f, 0, 0, 0, 0x80, 1, 0, 0, 0})
	}
	types := registered()
	f.Fuzz(func(t *testing.T, seed uint64, typ, shape uint8, patterns []byte) {
		definition, fast := withAccelerated(types[int(typ)%len(types)])
		r := rand.New(rand.NewPCG(seed, uint64(shape)))
		const cols = 256
		rows, importance := make([]float32, 3*cols), make([]float32, cols)
		scale := math.Pow(10, float64(r.IntN(60)-30)*float64(shape&1))
		for i := range rows {
			rows[i] = float32(r.NormFloat64() * scale)
			if n := len(patterns) / 4; n > 0 && (shape&2 != 0 || r.IntN(50) == 0) {
				rows[i] = math.Float32frombits(binary.LittleEndian.Uint32(patterns[r.IntN(n)*4:]))
			}
		}
		for i := range importance {
			importance[i] = float32(r.ExpFloat64())
			if shape&4 != 0 && r.IntN(2) == 0 {
				importance[i] = 0
			}
		}
		if shape&8 == 0 && !definition.NeedsImportance {
			importance = nil
		}
		compareEncoders(t, "fuzzed rows", definition, fast, rows, cols, importance)
	})
}

// TestEveryHalf runs the conversions over every binary16 and bfloat16, and over
// the float32 around each of them.
func TestEveryHalf(t *testing.T) {
	forEachAccelerated(func(definition Codec, fast map[string]Codec) {
		if definition.Type.BlockBytes() != 2 {
			return
		}
		src := make([]byte, 2<<16)
		for i := range 1 << 16 {
			binary.LittleEndian.PutUint16(src[2*i:], uint16(i))
		}
		compareDecoders(t, definition, fast, src)
		values := make([]float32, 1<<16)
		definition.Decode(values, src)
		var around []float32
		for i, v := range values {
			bits := math.Float32bits(v)
			next := math.Float32bits(values[(i+1)&0xffff])
			middle := bits/2 + next/2
			for _, b := range []uint32{bits - 1, bits, bits + 1, middle - 1, middle, middle + 1} {
				around = append(around, math.Float32frombits(b))
			}
		}
		around = append(around, values[:13]...)
		compareEncoders(t, "numbers around its own", definition, fast, around, len(around), nil)
	})
}
