// IQ3_XXS and IQ3_S: super-blocks of 256 weights in cells of four, each a
// point of a lattice with eight magnitudes per coordinate, and signs.
//
//	IQ3_XXS  d binary16, points [64]uint8, per 32 weights uint32: four times
//	         seven signs and in the top four bits the scale;
//	         weight = d * (0.5 + scale) / 2 * magnitude
//	IQ3_S    d binary16, points [64]uint8 (low bits), qh [8]uint8 (high bits),
//	         signs [32]uint8, scales [4]uint8 (four bits per 32 weights);
//	         weight = d * (1 + 2 scale) * magnitude
//
// Seven signs of eight are written where their number of minuses is even.

package quantize

import (
	"encoding/binary"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(Codec{Type: gguf.IQ3_XXS, Encode: encodeIQ3_XXS, Decode: decodeIQ3_XXS})
	register(Codec{Type: gguf.IQ3_S, Encode: encodeIQ3_S, Decode: decodeIQ3_S})
}

const (
	sizeIQ3_XXS = 98
	sizeIQ3_S   = 110

	// negligibleIQ3_XXS is GROUP_MAX_EPS_IQ3_XXS.
	negligibleIQ3_XXS = 1e-8
)

// The magnitudes of the eight coordinates in a decoded weight.
var (
	valuesIQ3_XXS = []float32{4, 12, 20, 28, 36, 44, 52, 62}
	valuesIQ3_S   = []float32{1, 3, 5, 7, 9, 11, 13, 15}
)

// weighIQ3 fills the weights of a group's errors; without importance they are
// the squares.
func weighIQ3(weights, importance, x []float32, energy float32) {
	if importance != nil {
		weigh(weights, importance, x, energy)
		return
	}
	for i, v := range x {
		weights[i] = float32(v * v)
	}
}

// part returns n columns from i on of a row's importance, nil where there is
// none.
func part(importance []float32, i, n int) []float32 {
	if importance == nil {
		return nil
	}
	return importance[i:][:n]
}

// encodeIQ3_XXS is quantize_row_iq3_xxs_impl (ggml-quants.c).
func encodeIQ3_XXS(dst []byte, src []float32, cols int, importance []float32) {
	l := latticeIQ3_XXS()
	search := latticeSearch{trials: 15, step: 0.2, again: offPoint}
	for at := 0; at < len(src); at += superBlock {
		x, block := src[at:][:superBlock], dst[:sizeIQ3_XXS]
		dst = dst[sizeIQ3_XXS:]
		clear(block)
		energy := float32(2*sumSquares(x)) / superBlock
		var scales [8]float32
		var highest float32
		for j := range scales {
			var g latticeGroup
			sub := x[32*j:][:32]
			weighIQ3(g.weight[:], part(importance, at%cols+32*j, 32), sub, energy)
			g.load(sub, true)
			largest := g.largest()
			if largest < negligibleIQ3_XXS {
				continue
			}
			scales[j] = g.positive(search.fit(l, &g, largest/15, largest))
			for k := range 8 {
				block[2+8*j+k] = uint8(g.at(l, 4*k))
			}
			var signs uint32
			for k, s := range g.signs {
				signs |= uint32(s&127) << (7 * k)
			}
			binary.LittleEndian.PutUint32(block[66+4*j:], signs)
			if !(highest > scales[j]) {
				highest = scales[j]
			}
		}
		if highest == 0 {
			clear(block)
			continue
		}
		d := highest / 31
		binary.LittleEndian.PutUint16(block, halfBits(float32(d*1.0125)))
		for j, scale := range scales {
			block[66+4*j+3] |= scaleLevel(scale, 1/d, 15) << 4
		}
	}
}

func decodeIQ3_XXS(dst []float32, src []byte) {
	l := latticeIQ3_XXS()
	for ; len(src) > 0; src = src[sizeIQ3_XXS:] {
		d := halfValue(binary.LittleEndian.Uint16(src))
		for j := range 8 {
			packed := binary.LittleEndian.Uint32(src[66+4*j:])
			scale := float32(d*(0.5+float32(packed>>28))) * 0.5
			for k := range 8 {
				signs := evenSigns(uint8(packed >> (7 * (k / 2)) & 127))
				putCell(dst[:4], &l.points[src[2+8*j+k]], valuesIQ3_XXS, scale, signs>>(4*(k%2)))
				dst = dst[4:]
			}
		}
	}
}

// encodeIQ3_S is quantize_row_iq3_s_impl (ggml-quants.c).
func encodeIQ3_S(dst []byte, src []float32, cols int, importance []float32) {
	l := latticeIQ3_S()
	search := latticeSearch{trials: 9, step: 0.2, again: allIfOffPoint}
	for at := 0; at < len(src); at += superBlock {
		x, block := src[at:][:superBlock], dst[:sizeIQ3_S]
		dst = dst[sizeIQ3_S:]
		clear(block)
		energy := float32(2*sumSquares(x)) / superBlock
		var scales [8]float32
		var highest float32
		for j := range scales {
			var g latticeGroup
			sub := x[32*j:][:32]
			weighIQ3(g.weight[:], part(importance, at%cols+32*j, 32), sub, energy)
			g.load(sub, false)
			largest := g.largest()
			if largest == 0 {
				continue
			}
			scales[j] = g.positive(search.fit(l, &g, largest/15, largest))
			for k := range 8 {
				point := g.at(l, 4*k)
				block[2+8*j+k] = uint8(point)
				block[66+j] |= uint8(point>>8) << k
			}
			copy(block[74+4*j:], g.signs[:])
			if !(highest > scales[j]) {
				highest = scales[j]
			}
		}
		if highest == 0 {
			continue
		}
		d := highest / 31
		binary.LittleEndian.PutUint16(block, halfBits(float32(d*1.033)))
		for j, scale := range scales {
			block[106+j/2] |= scaleLevel(scale, 1/d, 15) << (4 * (j % 2))
		}
	}
}

func decodeIQ3_S(dst []float32, src []byte) {
	l := latticeIQ3_S()
	for ; len(src) > 0; src = src[sizeIQ3_S:] {
		d := halfValue(binary.LittleEndian.Uint16(src))
		for j := range 8 {
			level := src[106+j/2] >> (4 * (j % 2)) & 15
			scale := float32(d * float32(1+2*int(level)))
			for k := range 8 {
				point := int(src[2+8*j+k]) | int(src[66+j]>>k&1)<<8
				putCell(dst[:4], &l.points[point], valuesIQ3_S, scale, src[74+4*j+k/2]>>(4*(k%2)))
				dst = dst[4:]
			}
		}
	}
}
