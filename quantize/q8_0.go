// Q8_0: 32 weights as bytes times one scale.
//
//	d   binary16     scale
//	qs  [32]int8     weight = qs * d

package quantize

import (
	"encoding/binary"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(Codec{Type: gguf.Q8_0, Encode: encodeQ8_0, Decode: decodeQ8_0})
}

// encodeQ8_0 is ggml-quants.c quantize_row_q8_0_ref.
func encodeQ8_0(dst []byte, src []float32, _ int, _ []float32) {
	for ; len(src) > 0; dst, src = dst[34:], src[32:] {
		x := (*[32]float32)(src)
		var largest float32
		for _, v := range x {
			if a := absolute(v); !(largest > a) {
				largest = a
			}
		}
		scale := largest / 127
		inverse := inverseOrZero(scale)
		binary.LittleEndian.PutUint16(dst, scaleBits(scale))
		for i, v := range x {
			dst[2+i] = byte(truncate(roundAway(float32(v * inverse))))
		}
	}
}

func decodeQ8_0(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[34:] {
		scale := halfValue(binary.LittleEndian.Uint16(src))
		for i, q := range src[2:34] {
			dst[i] = float32(int8(q)) * scale
		}
	}
}

// inverseOrZero returns 1/f, or 0 where f is zero.
func inverseOrZero(f float32) float32 {
	if f == 0 {
		return 0
	}
	return 1 / f
}
