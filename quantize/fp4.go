// MXFP4 and NVFP4: weights as four-bit floating point numbers (E2M1: 0, 0.5,
// 1, 1.5, 2, 3, 4, 6 and their negatives) times a scale.
//
//	MXFP4  e uint8 (E8M0: 2^(e-127)), qs [16]uint8: 32 weights
//	NVFP4  d [4]uint8 (UE4M3, one per 16 weights), qs [32]uint8: 64 weights
//
// Within 32 weights (16 in NVFP4) the first half is in the low half of the
// bytes. The values here are doubled to be integers, and scales are halved.

package quantize

import (
	"math"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(Codec{Type: gguf.MXFP4, Encode: encodeMXFP4, Decode: decodeMXFP4})
	register(Codec{Type: gguf.NVFP4, Encode: encodeNVFP4, Decode: decodeNVFP4})
}

const (
	sizeMXFP4 = 17
	sizeNVFP4 = 36
)

// fp4Values are twice the values of E2M1 by code (kvalues_mxfp4 in
// ggml-common.h).
var fp4Values = [16]float32{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}

// nearestFP4 returns the first code whose value times scale is nearest to v.
func nearestFP4(v, scale float32) uint8 {
	nearest := uint8(0)
	least := absolute(float32(fp4Values[0]*scale) - v)
	for i := 1; i < 16; i++ {
		if e := absolute(float32(fp4Values[i]*scale) - v); e < least {
			nearest, least = uint8(i), e
		}
	}
	return nearest
}

// halfE8M0 returns half of 2^(e-127).
func halfE8M0(e uint8) float32 {
	if e < 2 {
		return math.Float32frombits(0x200000 << e)
	}
	return math.Float32frombits(uint32(e-1) << 23)
}

// exponentE8M0 returns the exponent with which the largest magnitude falls
// into E2M1's top binade: floor(log2(largest)) - 2. The logarithm is rounded to
// float32 first, as C's log2f does, so a value just below a power of two counts
// as that power.
func exponentE8M0(largest float32) uint8 {
	if !(largest > 0) {
		return 0
	}
	log := float32(math.Log2(float64(largest)))
	return uint8(truncate(float32(math.Floor(float64(log))) - 2 + 127))
}

// encodeMXFP4 is ggml-quants.c quantize_row_mxfp4_ref.
func encodeMXFP4(dst []byte, src []float32, _ int, _ []float32) {
	for ; len(src) > 0; dst, src = dst[sizeMXFP4:], src[32:] {
		x := src[:32]
		dst[0] = exponentE8M0(absolute(signedPeak(x)))
		packFP4(dst[1:17], x, halfE8M0(dst[0]))
	}
}

// packFP4 writes 2n weights into n bytes.
func packFP4(dst []byte, x []float32, scale float32) {
	n := len(dst)
	for i := range dst {
		dst[i] = nearestFP4(x[i], scale) | nearestFP4(x[i+n], scale)<<4
	}
}

func unpackFP4(dst []float32, src []byte, scale float32) {
	n := len(src)
	for i, q := range src {
		dst[i] = fp4Values[q&15] * scale
		dst[i+n] = fp4Values[q>>4] * scale
	}
}

func decodeMXFP4(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[sizeMXFP4:] {
		unpackFP4(dst[:32], src[1:17], halfE8M0(src[0]))
	}
}

// encodeUE4M3 rounds a scale to an unsigned E4M3, ties up: what is not
// positive is 0, and what rounds to 256 or more is 448, the largest there is
// (ggml_fp32_to_ue4m3 in ggml-impl.h).
func encodeUE4M3(f float32) uint8 {
	if !(f > 0) {
		return 0
	}
	if f >= 256 {
		return 0x7e
	}
	bits := math.Float32bits(f)
	exponent := int(bits>>23) - 127 + 7
	if exponent <= 0 {
		return uint8(min(7, int(float32(f*512)+0.5)))
	}
	// The mantissa's carry runs into the exponent.
	code := exponent<<3 + int(bits>>20&7) + int(bits>>19&1)
	if code >= 15<<3 {
		return 0x7e
	}
	return uint8(code)
}

// halfUE4M3 returns half of an unsigned E4M3's value; 0x7f, its NaN, is 0.
func halfUE4M3(u uint8) float32 {
	exponent, mantissa := int(u>>3&15), float64(u&7)
	switch {
	case u == 0x7f:
		return 0
	case exponent == 0:
		return float32(math.Ldexp(mantissa, -10))
	default:
		return float32(math.Ldexp(1+mantissa/8, exponent-8))
	}
}

// encodeNVFP4 is ggml-quants.c quantize_row_nvfp4_ref.
func encodeNVFP4(dst []byte, src []float32, _ int, _ []float32) {
	for ; len(src) > 0; dst, src = dst[sizeNVFP4:], src[64:] {
		for s := range 4 {
			x := src[16*s:][:16]
			dst[s] = encodeUE4M3(absolute(signedPeak(x)) / 6)
			packFP4(dst[4+8*s:][:8], x, halfUE4M3(dst[s]))
		}
	}
}

func decodeNVFP4(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[64:], src[sizeNVFP4:] {
		for s := range 4 {
			unpackFP4(dst[16*s:][:16], src[4+8*s:][:8], halfUE4M3(src[s]))
		}
	}
}
