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
	"math"
	"sync"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(Codec{Type: gguf.IQ3_XXS, Encode: typeIQ3_XXS.encode, Decode: decodeIQ3_XXS})
	register(Codec{Type: gguf.IQ3_S, Encode: typeIQ3_S.encode, Decode: decodeIQ3_S})
}

const (
	sizeIQ3_XXS = 98
	sizeIQ3_S   = 110

	// negligibleIQ3_XXS is GROUP_MAX_EPS_IQ3_XXS.
	negligibleIQ3_XXS = 1e-8
)

// What the points stand for in a decoded weight.
var (
	valuesIQ3_XXS = sync.OnceValue(func() [][8]float32 {
		return pointValues(pointsIQ3_XXS[:], 4, 3, []float32{4, 12, 20, 28, 36, 44, 52, 62})
	})
	valuesIQ3_S = sync.OnceValue(func() [][8]float32 {
		return pointValues(pointsIQ3_S[:], 4, 3, []float32{1, 3, 5, 7, 9, 11, 13, 15})
	})
)

// weighIQ3 fills the weights of a group's errors; without importance they are
// the squares.
func weighIQ3(weights, importance, x []float32, energy float32) {
	if importance != nil {
		weigh(weights, importance, x, energy)
		return
	}
	squares(weights, x, energy)
}

// squares fills the weights of errors with x squared.
func squares(weights, x []float32, _ float32) {
	for i, v := range x {
		weights[i] = float32(v * v)
	}
}

// startThird begins with the largest magnitude at the highest level of eight.
func startThird(g *latticeGroup, largest float32) { g.start, g.highest = largest/15, largest }

// part returns n columns from i on of a row's importance, nil where there is
// none.
func part(importance []float32, i, n int) []float32 {
	if importance == nil {
		return nil
	}
	return importance[i:][:n]
}

// typeIQ3_XXS is quantize_row_iq3_xxs_impl (ggml-quants.c).
var typeIQ3_XXS = &latticeType{
	typ: gguf.IQ3_XXS, points: latticeIQ3_XXS, group: 32, parity: true, energy: 2, least: negligibleIQ3_XXS,
	unweighted: squares,
	start:      startThird, search: latticeSearch{trials: 15, step: 0.2, again: offPoint},
	put: func(block []byte, j, _ int, g *latticeGroup) {
		for k, point := range g.points {
			block[2+8*j+k] = uint8(point)
		}
		var signs uint32
		for k, s := range g.signs {
			signs |= uint32(s&127) << (7 * k)
		}
		binary.LittleEndian.PutUint32(block[66+4*j:], signs)
	},
	finish: func(block []byte, scales []float32, highest float32) {
		d := highest / 31
		binary.LittleEndian.PutUint16(block, scaleBits(float32(d*1.0125)))
		for j, scale := range scales {
			block[66+4*j+3] |= scaleLevel(scale, 1/d, 15) << 4
		}
	},
}

func decodeIQ3_XXS(dst []float32, src []byte) {
	values := valuesIQ3_XXS()
	for ; len(src) > 0; src = src[sizeIQ3_XXS:] {
		d := halfValue(binary.LittleEndian.Uint16(src))
		for j := range 8 {
			packed := binary.LittleEndian.Uint32(src[66+4*j:])
			scale := float32(d*(0.5+float32(packed>>28))) * 0.5
			for k := range 8 {
				signs := evenSigns(uint8(packed >> (7 * (k / 2)) & 127))
				putFour(dst, &values[src[2+8*j+k]], scale, signs>>(4*(k%2)))
				dst = dst[4:]
			}
		}
	}
}

// typeIQ3_S is quantize_row_iq3_s_impl (ggml-quants.c).
var typeIQ3_S = &latticeType{
	typ: gguf.IQ3_S, points: latticeIQ3_S, group: 32, energy: 2, least: math.SmallestNonzeroFloat32,
	unweighted: squares,
	start:      startThird, search: latticeSearch{trials: 9, step: 0.2, again: allIfOffPoint},
	// ggml moves on in the points and signs, but not in the points' high bits,
	// only after groups that it fits.
	put: func(block []byte, j, fitted int, g *latticeGroup) {
		for k, point := range g.points {
			block[2+8*fitted+k] = uint8(point)
			block[66+j] |= uint8(point>>8) << k
		}
		copy(block[74+4*fitted:], g.signs[:])
	},
	finish: func(block []byte, scales []float32, highest float32) {
		d := highest / 31
		binary.LittleEndian.PutUint16(block, scaleBits(float32(d*1.033)))
		for j, scale := range scales {
			block[106+j/2] |= scaleLevel(scale, 1/d, 15) << (4 * (j % 2))
		}
	},
}

func decodeIQ3_S(dst []float32, src []byte) {
	values := valuesIQ3_S()
	for ; len(src) > 0; src = src[sizeIQ3_S:] {
		d := halfValue(binary.LittleEndian.Uint16(src))
		for j := range 8 {
			level := src[106+j/2] >> (4 * (j % 2)) & 15
			scale := float32(d * float32(1+2*int(level)))
			for k := range 8 {
				point := int(src[2+8*j+k]) | int(src[66+j]>>k&1)<<8
				putFour(dst, &values[point], scale, src[74+4*j+k/2]>>(4*(k%2)))
				dst = dst[4:]
			}
		}
	}
}
