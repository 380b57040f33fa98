package convert

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

// unit is the smallest part of a row that can be read alone.
type unit struct {
	elements int64
	bytes    int64
	decode   func(dst []float32, src []byte) // whole units
}

// stored is every safetensors dtype whose elements have a value as float32.
// F16, BF16, F32 and the block types of GGUF files are not here: they are
// decoded by the codec of that name.
var stored = map[string]unit{
	"F64": {1, 8, func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
		}
	}},
	"F8_E4M3": {1, 1, byTable(decodeE4M3)},
	"F8_E5M2": {1, 1, byTable(decodeE5M2)},
	"F8_E8M0": {1, 1, byTable(decodeE8M0)},
	"F4": {2, 1, func(dst []float32, src []byte) {
		for i, b := range src {
			dst[2*i], dst[2*i+1] = e2m1[b&15], e2m1[b>>4]
		}
	}},
	"BOOL": {1, 1, byTable(func(b byte) float32 { return float32(b) })},
	"U8":   {1, 1, byTable(func(b byte) float32 { return float32(b) })},
	"I8":   {1, 1, byTable(func(b byte) float32 { return float32(int8(b)) })},
	"U16": {1, 2, func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(binary.LittleEndian.Uint16(src[2*i:]))
		}
	}},
	"I16": {1, 2, func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(int16(binary.LittleEndian.Uint16(src[2*i:])))
		}
	}},
	"U32": {1, 4, func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(binary.LittleEndian.Uint32(src[4*i:]))
		}
	}},
	"I32": {1, 4, func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(int32(binary.LittleEndian.Uint32(src[4*i:])))
		}
	}},
	"U64": {1, 8, func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(binary.LittleEndian.Uint64(src[8*i:]))
		}
	}},
	"I64": {1, 8, func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(int64(binary.LittleEndian.Uint64(src[8*i:])))
		}
	}},
}

// unitOf returns how rows of dtype are read.
func unitOf(dtype string) (unit, error) {
	if u, ok := stored[dtype]; ok {
		return u, nil
	}
	t, err := gguf.ParseType(dtype)
	if err != nil {
		return unit{}, fmt.Errorf("dtype %s has no values that can be converted", dtype)
	}
	codec, ok := quantize.Lookup(t)
	if !ok {
		return unit{}, fmt.Errorf("there is no decoder for %s", t)
	}
	return unit{t.BlockElements(), t.BlockBytes(), codec.Decode}, nil
}

// isInteger says whether dtype is a signed or unsigned integer.
func isInteger(dtype string) bool {
	_, ok := stored[dtype]
	return ok && (strings.HasPrefix(dtype, "I") || strings.HasPrefix(dtype, "U"))
}

// byTable decodes bytes through the table of all 256 values of f.
func byTable(f func(byte) float32) func(dst []float32, src []byte) {
	var table [256]float32
	for i := range table {
		table[i] = f(byte(i))
	}
	return func(dst []float32, src []byte) {
		for i, b := range src {
			dst[i] = table[b]
		}
	}
}

// decodeE4M3 is the float8_e4m3fn of OCP 8-bit floating point: bias 7, no
// infinity, NaN at S.1111.111.
func decodeE4M3(b byte) float32 {
	exp, man := int(b>>3&15), float64(b&7)
	var v float64
	switch {
	case exp == 15 && man == 7:
		return float32(math.NaN())
	case exp == 0:
		v = math.Ldexp(man/8, -6)
	default:
		v = math.Ldexp(1+man/8, exp-7)
	}
	return float32(math.Copysign(v, float64(int8(b)|1)))
}

// decodeE5M2 is the float8_e5m2 of the same: bias 15, infinities and NaNs as
// in IEEE 754.
func decodeE5M2(b byte) float32 {
	exp, man := int(b>>2&31), float64(b&3)
	var v float64
	switch {
	case exp == 31 && man != 0:
		return float32(math.NaN())
	case exp == 31:
		v = math.Inf(1)
	case exp == 0:
		v = math.Ldexp(man/4, -14)
	default:
		v = math.Ldexp(1+man/4, exp-15)
	}
	return float32(math.Copysign(v, float64(int8(b)|1)))
}

// decodeE8M0 is the power of two of OCP microscaling: bias 127, NaN at 255.
func decodeE8M0(b byte) float32 {
	if b == 255 {
		return float32(math.NaN())
	}
	return float32(math.Ldexp(1, int(b)-127))
}

// e2m1 is the 4-bit float of OCP microscaling: bias 1, no NaN.
var e2m1 = [16]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6, negZero, -0.5, -1, -1.5, -2, -3, -4, -6}

var negZero = float32(math.Copysign(0, -1))
