// Q1_0 and Q2_0: signs and two-bit levels with one scale.
//
//	Q1_0  d binary16, qs [16]uint8: 128 weights, bit i set for +d, clear for -d
//	Q2_0  d binary16, qs [16]uint8: 64 weights, (q - 1) * d

package quantize

import (
	"encoding/binary"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(Codec{Type: gguf.Q1_0, Encode: encodeQ1_0, Decode: decodeQ1_0})
	register(Codec{Type: gguf.Q2_0, Encode: encodeQ2_0, Decode: decodeQ2_0})
}

const (
	sizeQ1_0 = 18
	sizeQ2_0 = 18
)

// encodeQ1_0 is ggml-quants.c quantize_row_q1_0_ref: the scale is the mean
// magnitude.
func encodeQ1_0(dst []byte, src []float32, _ int, _ []float32) {
	for ; len(src) > 0; dst, src = dst[sizeQ1_0:], src[128:] {
		var sum float32
		clear(dst[2:sizeQ1_0])
		for i, v := range src[:128] {
			sum += absolute(v)
			if v >= 0 {
				dst[2+i/8] |= 1 << (i % 8)
			}
		}
		binary.LittleEndian.PutUint16(dst, scaleBits(sum/128))
	}
}

func decodeQ1_0(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[128:], src[sizeQ1_0:] {
		scale := halfValue(binary.LittleEndian.Uint16(src))
		for i := range 128 {
			if src[2+i/8]>>(i%8)&1 != 0 {
				dst[i] = scale
			} else {
				dst[i] = -scale
			}
		}
	}
}

// encodeQ2_0 is ggml-quants.c quantize_row_q2_0_ref: the scale is the largest
// magnitude.
func encodeQ2_0(dst []byte, src []float32, _ int, _ []float32) {
	for ; len(src) > 0; dst, src = dst[sizeQ2_0:], src[64:] {
		x := src[:64]
		scale := absolute(signedPeak(x))
		inverse := inverseOrZero(scale)
		binary.LittleEndian.PutUint16(dst, scaleBits(scale))
		clear(dst[2:sizeQ2_0])
		for i, v := range x {
			q := max(0, min(3, truncate(roundAway(float32(v*inverse)))+1))
			dst[2+i/4] |= uint8(q) << (i % 4 * 2)
		}
	}
}

func decodeQ2_0(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[64:], src[sizeQ2_0:] {
		scale := halfValue(binary.LittleEndian.Uint16(src))
		for i := range 64 {
			dst[i] = float32(int(src[2+i/4]>>(i%4*2)&3)-1) * scale
		}
	}
}
