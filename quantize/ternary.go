// TQ1_0 and TQ2_0: 256 weights of -1, 0 or 1 times one scale.
//
//	TQ1_0  qs [48]uint8, qh [4]uint8, d binary16: five trits per byte, four in qh
//	TQ2_0  qs [64]uint8, d binary16: two bits each
//
// A TQ1_0 byte holds its trits as a fraction of 256: ceil(n * 256 / 243), so
// that multiplying by 3 moves the next trit into the carry.

package quantize

import (
	"encoding/binary"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(Codec{Type: gguf.TQ1_0, Encode: encodeTQ1_0, Decode: decodeTQ1_0})
	register(Codec{Type: gguf.TQ2_0, Encode: encodeTQ2_0, Decode: decodeTQ2_0})
}

const (
	sizeTQ1_0 = 54
	sizeTQ2_0 = 66
)

// tritRun is a run of bytes of TQ1_0: byte at+m holds the weights from+m,
// from+m+width, from+m+2*width and so on, the first in the highest trit.
type tritRun struct{ at, from, width, trits int }

var tritRuns = [...]tritRun{{0, 0, 32, 5}, {32, 160, 16, 5}, {48, 240, 4, 4}}

// ternaryScale returns the largest magnitude in a block.
func ternaryScale(x []float32) float32 {
	var largest float32
	for _, v := range x {
		if a := absolute(v); !(largest > a) {
			largest = a
		}
	}
	return largest
}

// trit rounds v to the nearest integer, ties away from zero, and adds one, as
// lroundf does in quantize_row_tq1_0_ref (ggml-quants.c); infinities and NaNs
// count as zero.
func trit(v float32) uint8 {
	if v := roundAway(v); v > -0x1p31 && v < 0x1p31 {
		return uint8(int32(v) + 1)
	}
	return 1
}

func encodeTQ1_0(dst []byte, src []float32, _ int, _ []float32) {
	for ; len(src) > 0; dst, src = dst[sizeTQ1_0:], src[superBlock:] {
		x := src[:superBlock]
		scale := ternaryScale(x)
		inverse := inverseOrZero(scale)
		binary.LittleEndian.PutUint16(dst[52:], scaleBits(scale))
		for _, run := range tritRuns {
			for m := range run.width {
				var q uint8
				for n := range 5 {
					q *= 3
					if n < run.trits {
						q += trit(float32(x[run.from+m+n*run.width] * inverse))
					}
				}
				dst[run.at+m] = uint8((uint16(q)*256 + 242) / 243)
			}
		}
	}
}

func decodeTQ1_0(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[superBlock:], src[sizeTQ1_0:] {
		scale := halfValue(binary.LittleEndian.Uint16(src[52:]))
		for _, run := range tritRuns {
			for m := range run.width {
				q := src[run.at+m]
				for n := range run.trits {
					dst[run.from+m+n*run.width] = float32(int(uint16(q)*3>>8)-1) * scale
					q *= 3
				}
			}
		}
	}
}

// encodeTQ2_0 puts the weights l, l+32, l+64 and l+96 of each half into byte l
// of its 32 bytes.
func encodeTQ2_0(dst []byte, src []float32, _ int, _ []float32) {
	for ; len(src) > 0; dst, src = dst[sizeTQ2_0:], src[superBlock:] {
		x := src[:superBlock]
		scale := ternaryScale(x)
		inverse := inverseOrZero(scale)
		binary.LittleEndian.PutUint16(dst[64:], scaleBits(scale))
		var levels [superBlock]uint8
		for i, v := range x {
			levels[i] = trit(float32(v*inverse)) & 3
		}
		packPairs(dst[:64], &levels)
	}
}

func decodeTQ2_0(dst []float32, src []byte) {
	var levels [superBlock]uint8
	for ; len(dst) > 0; dst, src = dst[superBlock:], src[sizeTQ2_0:] {
		scale := halfValue(binary.LittleEndian.Uint16(src[64:]))
		unpackPairs(&levels, src[:64])
		for i, q := range levels {
			dst[i] = float32(int(q)-1) * scale
		}
	}
}
