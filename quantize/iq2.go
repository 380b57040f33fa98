// IQ2_XXS, IQ2_XS and IQ2_S: super-blocks of 256 weights in cells of eight,
// each a point of a lattice with coordinates 8, 25 or 43 times the scale, and
// signs. weight = d * (0.5 + scale) / 4 * coordinate.
//
//	IQ2_XXS  d binary16, per 32 weights: point [4]uint8, then uint32 with
//	         four times seven signs and in the top four bits the scale
//	IQ2_XS   d binary16, per cell uint16: point 9 bits, seven signs;
//	         scales [8]uint8 (four bits per 16 weights)
//	IQ2_S    d binary16, points [32]uint8 (low bits), signs [32]uint8,
//	         qh [8]uint8 (two high bits per point), scales [8]uint8
//
// Seven signs of eight are written where their number of minuses is even.

package quantize

import (
	"encoding/binary"
	"sync"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(Codec{Type: gguf.IQ2_XXS, Encode: typeIQ2_XXS.encode, Decode: decodeIQ2_XXS, NeedsImportance: true})
	register(Codec{Type: gguf.IQ2_XS, Encode: typeIQ2_XS.encode, Decode: decodeIQ2_XS, NeedsImportance: true})
	register(Codec{Type: gguf.IQ2_S, Encode: typeIQ2_S.encode, Decode: decodeIQ2_S})
}

const (
	sizeIQ2_XXS = 66
	sizeIQ2_XS  = 74
	sizeIQ2_S   = 82

	// negligibleIQ2_S is GROUP_MAX_EPS_IQ2_S.
	negligibleIQ2_S = 1e-8
)

// What the points stand for in a decoded weight: coordinates of 8, 25 and 43.
var (
	valuesIQ2_XXS = sync.OnceValue(func() [][8]float32 { return pointValues(pointsIQ2_XXS[:], 8, 2, magnitudesIQ2) })
	valuesIQ2_XS  = sync.OnceValue(func() [][8]float32 { return pointValues(pointsIQ2_XS[:], 8, 2, magnitudesIQ2) })
	valuesIQ2_S   = sync.OnceValue(func() [][8]float32 { return pointValues(pointsIQ2_S[:], 8, 2, magnitudesIQ2) })

	magnitudesIQ2 = []float32{8, 25, 43}
)

// typeIQ2_XXS is quantize_row_iq2_xxs_impl (ggml-quants.c).
var typeIQ2_XXS = &latticeType{
	typ: gguf.IQ2_XXS, points: latticeIQ2_XXS, group: 32, parity: true, energy: 1, least: negligible,
	start: func(g *latticeGroup, _ float32) {
		var levels [32]uint8
		g.startAt(searchPositive(4, g.magnitude[:], levels[:], g.weight[:]))
		for i, level := range levels {
			g.levels[i] = int8(min(level, 2))
		}
	},
	search: latticeSearch{trials: 6, step: 0.1, again: always},
	put: func(block []byte, j, _ int, g *latticeGroup) {
		var signs uint32
		for k := range 4 {
			block[2+8*j+k] = uint8(g.points[k])
			signs |= uint32(g.signs[k]&127) << (7 * k)
		}
		binary.LittleEndian.PutUint32(block[2+8*j+4:], signs)
	},
	finish: func(block []byte, scales []float32, highest float32) {
		d := highest / 31
		binary.LittleEndian.PutUint16(block, scaleBits(d))
		for j, scale := range scales {
			block[2+8*j+7] |= scaleLevel(scale, 1/d, 15) << 4
		}
	},
}

// startAt begins with a scale whose level 3 is the highest of the lattice.
func (g *latticeGroup) startAt(scale float32) {
	g.start, g.highest = scale, float32(scale*3)
	g.skip = !(g.highest > 0)
}

func decodeIQ2_XXS(dst []float32, src []byte) {
	values := valuesIQ2_XXS()
	for ; len(src) > 0; src = src[sizeIQ2_XXS:] {
		d := halfValue(binary.LittleEndian.Uint16(src))
		for j := range 8 {
			part := src[2+8*j:]
			packed := binary.LittleEndian.Uint32(part[4:])
			scale := float32(d*(0.5+float32(packed>>28))) * 0.25
			for k := range 4 {
				signs := evenSigns(uint8(packed >> (7 * k) & 127))
				putEight(dst, &values[part[k]], scale, signs)
				dst = dst[8:]
			}
		}
	}
}

// startHalf begins with the largest magnitude at the highest level of three.
func startHalf(g *latticeGroup, largest float32) { g.start, g.highest = largest/5, largest }

// halfSearch is the search of IQ2_XS and IQ2_S: sixteen groups of two cells.
var halfSearch = latticeSearch{trials: 9, step: 0.1, again: offPoint}

// putHalfScales writes sixteen scales of four bits.
func putHalfScales(dst []byte, scales []float32, inverse float32) {
	for j, scale := range scales {
		dst[j/2] |= scaleLevel(scale, inverse, 15) << (4 * (j % 2))
	}
}

// typeIQ2_XS is quantize_row_iq2_xs_impl (ggml-quants.c).
var typeIQ2_XS = &latticeType{
	typ: gguf.IQ2_XS, points: latticeIQ2_XS, group: 16, parity: true, energy: 1, least: negligible,
	start: startHalf, search: halfSearch,
	put: func(block []byte, j, _ int, g *latticeGroup) {
		for k := range 2 {
			code := g.points[k] | uint16(g.signs[k]&127)<<9
			binary.LittleEndian.PutUint16(block[2+4*j+2*k:], code)
		}
	},
	finish: func(block []byte, scales []float32, highest float32) {
		d := highest / 31
		binary.LittleEndian.PutUint16(block, scaleBits(d))
		putHalfScales(block[66:], scales, 1/d)
	},
}

// halfScale returns what the coordinates of half a group of 32 are multiplied
// by.
func halfScale(d float32, scales []byte, half int) float32 {
	level := scales[half/2] >> (4 * (half % 2)) & 15
	return float32(d*(0.5+float32(level))) * 0.25
}

func decodeIQ2_XS(dst []float32, src []byte) {
	values := valuesIQ2_XS()
	for ; len(src) > 0; src = src[sizeIQ2_XS:] {
		d := halfValue(binary.LittleEndian.Uint16(src))
		for c := range 32 {
			code := binary.LittleEndian.Uint16(src[2+2*c:])
			putEight(dst, &values[code&511], halfScale(d, src[66:], c/2), evenSigns(uint8(code>>9)))
			dst = dst[8:]
		}
	}
}

// typeIQ2_S is quantize_row_iq2_s_impl (ggml-quants.c).
var typeIQ2_S = &latticeType{
	typ: gguf.IQ2_S, points: latticeIQ2_S, group: 16, energy: 2, least: negligibleIQ2_S,
	unweighted: func(weights, x []float32, energy float32) {
		for i, v := range x {
			weights[i] = float32(0.25*energy) + float32(v*v)
		}
	},
	start: startHalf, search: halfSearch,
	put: func(block []byte, j, _ int, g *latticeGroup) {
		for k := range 2 {
			c, point := 2*j+k, g.points[k]
			block[2+c] = uint8(point)
			block[34+c] = g.signs[k]
			block[66+c/4] |= uint8(point>>8) << (2 * (c % 4))
		}
	},
	finish: func(block []byte, scales []float32, highest float32) {
		d := highest / 31
		binary.LittleEndian.PutUint16(block, scaleBits(float32(d*0.9875)))
		putHalfScales(block[74:], scales, 1/d)
	},
}

func decodeIQ2_S(dst []float32, src []byte) {
	values := valuesIQ2_S()
	for ; len(src) > 0; src = src[sizeIQ2_S:] {
		d := halfValue(binary.LittleEndian.Uint16(src))
		for c := range 32 {
			point := int(src[2+c]) | int(src[66+c/4]>>(2*(c%4))&3)<<8
			putEight(dst, &values[point], halfScale(d, src[74:], c/2), src[34+c])
			dst = dst[8:]
		}
	}
}
