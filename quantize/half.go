// Scalar number formats: binary16, bfloat16, and the roundings that ggml's
// quantizers are built from. Every function is defined for every input,
// infinities and NaNs included, and gives the same bits on every platform.

package quantize

import "math"

// halfBits returns the binary16 nearest to f, ties to even. Values from 65520
// up become infinite; every NaN becomes the quiet NaN 0x7e00 with f's sign, as
// in ggml_compute_fp32_to_fp16 (ggml-impl.h). A processor's own conversion
// keeps NaN payloads and so differs there.
func halfBits(f float32) uint16 {
	bits := math.Float32bits(f)
	sign := uint16(bits>>16) & 0x8000
	magnitude := bits & 0x7fffffff
	switch {
	case magnitude > 0x7f800000:
		return sign | 0x7e00
	case magnitude >= 0x47800000: // 2^16 and more
		return sign | 0x7c00
	case magnitude >= 0x38800000: // normal: 2^-14 and more
		// Drop 13 bits of the mantissa; a carry runs into the exponent and,
		// above 65504, makes an infinity, as it should.
		odd := magnitude >> 13 & 1
		return sign | uint16((magnitude-0x38000000+0xfff+odd)>>13)
	default:
		// Adding 0.5 leaves the subnormal's ten bits, rounded to even, at the
		// bottom of the mantissa.
		sum := math.Float32frombits(magnitude) + 0.5
		return sign | uint16(math.Float32bits(sum)-0x3f000000)
	}
}

// halfValue returns the value of a binary16. A NaN keeps its payload and
// becomes quiet.
func halfValue(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exponent := uint32(h>>10) & 0x1f
	mantissa := uint32(h & 0x3ff)
	switch exponent {
	case 0:
		value := float32(mantissa) * 0x1p-24
		return math.Float32frombits(sign | math.Float32bits(value))
	case 0x1f:
		if mantissa != 0 {
			mantissa |= 0x200
		}
		return math.Float32frombits(sign | 0x7f800000 | mantissa<<13)
	default:
		return math.Float32frombits(sign | (exponent+112)<<23 | mantissa<<13)
	}
}

// scaleBits returns a block's scale as binary16. Only a block with a value
// that is not finite, or whose sums overflow, has a NaN for a scale; it is
// always 0xfe00, the NaN that x86-64 makes, because other processors make
// others and the bytes must not tell where they were written.
func scaleBits(f float32) uint16 {
	if f != f {
		return 0xfe00
	}
	return halfBits(f)
}

// brainBits returns the bfloat16 nearest to f, ties to even. NaNs are made
// quiet and keep the upper bits of their payload, as in
// ggml_compute_fp32_to_bf16 (ggml-impl.h).
func brainBits(f float32) uint16 {
	bits := math.Float32bits(f)
	if bits&0x7fffffff > 0x7f800000 {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// brainValue returns the value of a bfloat16, bit for bit.
func brainValue(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }

// nearestInt rounds f to the nearest integer, ties to even, for |f| < 2^22:
// adding 1.5 * 2^23 leaves the integer in the low bits of the mantissa. Beyond
// that it returns what those bits hold, as ggml's nearest_int does.
func nearestInt(f float32) int32 {
	bits := math.Float32bits(f + 0x1.8p23)
	return int32(bits&0x7fffff) - 0x400000
}

// truncate converts f to an integer, dropping the fraction. NaN and values
// outside int32 give the least int32: what C's cast, undefined there, compiles
// to on x86-64.
func truncate(f float32) int32 {
	if f >= -0x1p31 && f < 0x1p31 {
		return int32(f)
	}
	return math.MinInt32
}

// roundAway rounds f to the nearest integer, ties away from zero, as C's
// roundf does. NaN and infinities are returned as they are.
func roundAway(f float32) float32 {
	bits := math.Float32bits(f)
	switch exponent := bits >> 23 & 0xff; {
	case exponent < 126: // below one half
		return math.Float32frombits(bits & 0x80000000)
	case exponent == 126:
		return math.Float32frombits(bits&0x80000000 | 0x3f800000)
	case exponent < 127+23:
		shift := 127 + 23 - exponent
		half := uint32(1) << (shift - 1)
		return math.Float32frombits((bits + half) &^ (half<<1 - 1))
	default:
		return f
	}
}

// absolute clears the sign of f.
func absolute(f float32) float32 {
	return math.Float32frombits(math.Float32bits(f) &^ (1 << 31))
}

// root is the correctly rounded square root. Rounding twice, from float64's
// root, gives the same result for a float32 argument.
func root(f float32) float32 { return float32(math.Sqrt(float64(f))) }
