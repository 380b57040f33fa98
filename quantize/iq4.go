// IQ4_NL and IQ4_XS: four bits per weight that choose one of sixteen values
// spaced like a bell curve's quantiles.
//
//	IQ4_NL  32 weights: d binary16, qs [16]uint8; weight = d * value
//	IQ4_XS  256 weights: d binary16, scales_h uint16 (two high bits per 32
//	        weights), scales_l [4]uint8 (four low bits), qs [128]uint8;
//	        weight = d * (scale - 32) * value
//
// Byte j of a group's 16 holds weight j low and weight 16 + j high.

package quantize

import (
	"encoding/binary"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(Codec{Type: gguf.IQ4_NL, Encode: encodeIQ4_NL, Decode: decodeIQ4_NL})
	register(Codec{Type: gguf.IQ4_XS, Encode: encodeIQ4_XS, Decode: decodeIQ4_XS})
}

const (
	sizeIQ4_NL = 18
	sizeIQ4_XS = 136
)

// valuesIQ4 are the values of the sixteen codes (kvalues_iq4nl).
var valuesIQ4 = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// nearestIQ4 returns the code of the value nearest to x, of two equally near
// the upper one.
func nearestIQ4(x float32) uint8 {
	if x <= valuesIQ4[0] {
		return 0
	}
	if x >= valuesIQ4[15] {
		return 15
	}
	low, high := 0, 15
	for high-low > 1 {
		if mid := (low + high) / 2; x < valuesIQ4[mid] {
			high = mid
		} else {
			low = mid
		}
	}
	if x-valuesIQ4[high-1] < valuesIQ4[high]-x {
		return uint8(high - 1)
	}
	return uint8(high)
}

// searchIQ4 returns the scale that loses least for a group of 32: it tries the
// one that maps the element of the largest magnitude to 127 and fifteen that
// map it to the values -127 - 7 to -127 + 7. The energy is what an element's
// square is added to for its weight (quantize_row_iq4_nl_impl).
func searchIQ4(x, importance []float32, energy float32) float32 {
	var weights [32]float32
	weighIQ3(weights[:], importance, x, energy)
	peak := signedPeak(x)
	if absolute(peak) < negligible {
		return 0
	}
	fit := func(inverse float32) (sumqx, sumq2 float32) {
		for i, v := range x {
			w, q := weights[i], valuesIQ4[nearestIQ4(float32(inverse*v))]
			sumqx += float32(float32(w*q) * v)
			sumq2 += float32(float32(w*q) * q)
		}
		return sumqx, sumq2
	}
	var scale float32
	sumqx, sumq2 := fit(1 / (-peak / valuesIQ4[0]))
	if sumq2 > 0 {
		scale = sumqx / sumq2
	}
	best := float32(scale * sumqx)
	for trial := -7; trial <= 7; trial++ {
		sumqx, sumq2 := fit((float32(trial) + valuesIQ4[0]) / peak)
		if sumq2 > 0 && float32(sumqx*sumqx) > float32(best*sumq2) {
			scale = sumqx / sumq2
			best = float32(scale * sumqx)
		}
	}
	return scale
}

// inverseOf returns 1/v, or 0 for 0.
func inverseOf(v float32) float32 {
	if v == 0 {
		return 0
	}
	return 1 / v
}

// packIQ4 writes the codes of 32 weights.
func packIQ4(dst []byte, x []float32, inverse float32) {
	for j := range 16 {
		dst[j] = nearestIQ4(float32(inverse*x[j])) | nearestIQ4(float32(inverse*x[16+j]))<<4
	}
}

func encodeIQ4_NL(dst []byte, src []float32, cols int, importance []float32) {
	for at := 0; at < len(src); at += 32 {
		x := src[at:][:32]
		energy := float32(sumSquares(x) * (2.0 / 32))
		scale := searchIQ4(x, part(importance, at%cols, 32), energy)
		binary.LittleEndian.PutUint16(dst, scaleBits(scale))
		packIQ4(dst[2:sizeIQ4_NL], x, inverseOf(scale))
		dst = dst[sizeIQ4_NL:]
	}
}

func decodeIQ4_NL(dst []float32, src []byte) {
	for ; len(src) > 0; src = src[sizeIQ4_NL:] {
		unpackIQ4(dst, src[2:], halfValue(binary.LittleEndian.Uint16(src)))
		dst = dst[32:]
	}
}

// unpackIQ4 writes 32 weights.
func unpackIQ4(dst []float32, codes []byte, scale float32) {
	for j, code := range codes[:16] {
		dst[j] = float32(scale * valuesIQ4[code&15])
		dst[16+j] = float32(scale * valuesIQ4[code>>4])
	}
}

func encodeIQ4_XS(dst []byte, src []float32, cols int, importance []float32) {
	for at := 0; at < len(src); at += superBlock {
		x, block := src[at:][:superBlock], dst[:sizeIQ4_XS]
		dst = dst[sizeIQ4_XS:]
		energy := float32(sumSquares(x) * (2.0 / superBlock))
		var scales, inverses [8]float32
		for j := range scales {
			scales[j] = searchIQ4(x[32*j:][:32], part(importance, at%cols+32*j, 32), energy)
		}
		putScalesIQ4_XS(block, &scales, &inverses)
		for j, inverse := range inverses {
			packIQ4(block[8+16*j:][:16], x[32*j:], inverse)
		}
	}
}

// putScalesIQ4_XS quantizes and writes the scales of a super-block; it sets
// inverses to the inverse scales of its groups.
func putScalesIQ4_XS(block []byte, scales, inverses *[8]float32) {
	clear(block[:8])
	d := -signedPeak(scales[:]) / 32
	binary.LittleEndian.PutUint16(block, scaleBits(d))
	inverse := inverseOf(d)
	var high uint16
	for j, scale := range scales {
		level := max(-32, min(31, nearestInt(float32(inverse*scale))))
		inverses[j] = inverseOf(float32(d * float32(level)))
		code := uint8(level + 32)
		block[4+j/2] |= code & 15 << (4 * (j % 2))
		high |= uint16(code>>4) << (2 * j)
	}
	binary.LittleEndian.PutUint16(block[2:], high)
}

func decodeIQ4_XS(dst []float32, src []byte) {
	for ; len(src) > 0; src = src[sizeIQ4_XS:] {
		for j, scale := range groupScalesIQ4_XS(src) {
			unpackIQ4(dst, src[8+16*j:], scale)
			dst = dst[32:]
		}
	}
}

// groupScalesIQ4_XS returns the scales of the groups of a super-block.
func groupScalesIQ4_XS(block []byte) (scales [8]float32) {
	d := halfValue(binary.LittleEndian.Uint16(block))
	high := binary.LittleEndian.Uint16(block[2:])
	for j := range scales {
		code := block[4+j/2]>>(4*(j%2))&15 | uint8(high>>(2*j)&3)<<4
		scales[j] = float32(d * float32(int(code)-32))
	}
	return scales
}
