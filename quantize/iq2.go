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

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(Codec{Type: gguf.IQ2_XXS, Encode: encodeIQ2_XXS, Decode: decodeIQ2_XXS, NeedsImportance: true})
	register(Codec{Type: gguf.IQ2_XS, Encode: encodeIQ2_XS, Decode: decodeIQ2_XS, NeedsImportance: true})
	register(Codec{Type: gguf.IQ2_S, Encode: encodeIQ2_S, Decode: decodeIQ2_S})
}

const (
	sizeIQ2_XXS = 66
	sizeIQ2_XS  = 74
	sizeIQ2_S   = 82

	// negligibleIQ2_S is GROUP_MAX_EPS_IQ2_S.
	negligibleIQ2_S = 1e-8
)

// valuesIQ2 are the magnitudes of the three coordinates in a decoded weight.
var valuesIQ2 = []float32{8, 25, 43}

// encodeIQ2_XXS is quantize_row_iq2_xxs_impl (ggml-quants.c).
func encodeIQ2_XXS(dst []byte, src []float32, cols int, importance []float32) {
	l := latticeIQ2_XXS()
	search := latticeSearch{trials: 6, step: 0.1, again: always}
	for at := 0; at < len(src); at += superBlock {
		x, block := src[at:][:superBlock], dst[:sizeIQ2_XXS]
		dst = dst[sizeIQ2_XXS:]
		clear(block)
		energy := sumSquares(x) / superBlock
		var scales [8]float32
		var highest float32
		for j := range scales {
			var g latticeGroup
			sub := x[32*j:][:32]
			weigh(g.weight[:], importance[at%cols+32*j:][:32], sub, energy)
			g.load(sub, true)
			if g.largest() < negligible {
				continue
			}
			var levels [32]uint8
			start := searchPositive(4, g.magnitude[:], levels[:], g.weight[:])
			reach := float32(start * 3)
			if !(reach > 0) {
				continue
			}
			for i, level := range levels {
				g.levels[i] = int8(min(level, 2))
			}
			scales[j] = g.positive(search.fit(l, &g, start, reach))
			var signs uint32
			for k := range 4 {
				block[2+8*j+k] = uint8(g.at(l, 8*k))
				signs |= uint32(g.signs[k]&127) << (7 * k)
			}
			binary.LittleEndian.PutUint32(block[2+8*j+4:], signs)
			if !(highest > scales[j]) {
				highest = scales[j]
			}
		}
		if highest == 0 {
			clear(block)
			continue
		}
		d := highest / 31
		binary.LittleEndian.PutUint16(block, halfBits(d))
		for j, scale := range scales {
			block[2+8*j+7] |= scaleLevel(scale, 1/d, 15) << 4
		}
	}
}

func decodeIQ2_XXS(dst []float32, src []byte) {
	l := latticeIQ2_XXS()
	for ; len(src) > 0; src = src[sizeIQ2_XXS:] {
		d := halfValue(binary.LittleEndian.Uint16(src))
		for j := range 8 {
			part := src[2+8*j:]
			packed := binary.LittleEndian.Uint32(part[4:])
			scale := float32(d*(0.5+float32(packed>>28))) * 0.25
			for k := range 4 {
				signs := evenSigns(uint8(packed >> (7 * k) & 127))
				putCell(dst[:8], &l.points[part[k]], valuesIQ2, scale, signs)
				dst = dst[8:]
			}
		}
	}
}

// encodeHalves is the search that IQ2_XS and IQ2_S share: sixteen groups of
// two cells. put takes each group as it is done. It returns the groups' scales
// and the largest of them.
func encodeHalves(l *lattice, x []float32, weigh func(g *latticeGroup, j int), parity bool, least float32,
	put func(g *latticeGroup, j int)) (scales [16]float32, highest float32) {
	search := latticeSearch{trials: 9, step: 0.1, again: offPoint}
	for j := range scales {
		var g latticeGroup
		weigh(&g, j)
		g.load(x[16*j:][:16], parity)
		largest := g.largest()
		if largest < least {
			continue
		}
		scales[j] = g.positive(search.fit(l, &g, largest/5, largest))
		put(&g, j)
		if !(highest > scales[j]) {
			highest = scales[j]
		}
	}
	return scales, highest
}

// putHalfScales writes sixteen scales of four bits.
func putHalfScales(dst []byte, scales *[16]float32, inverse float32) {
	for j, scale := range scales {
		dst[j/2] |= scaleLevel(scale, inverse, 15) << (4 * (j % 2))
	}
}

// encodeIQ2_XS is quantize_row_iq2_xs_impl (ggml-quants.c).
func encodeIQ2_XS(dst []byte, src []float32, cols int, importance []float32) {
	l := latticeIQ2_XS()
	for at := 0; at < len(src); at += superBlock {
		x, block := src[at:][:superBlock], dst[:sizeIQ2_XS]
		dst = dst[sizeIQ2_XS:]
		clear(block)
		energy := sumSquares(x) / superBlock
		scales, highest := encodeHalves(l, x, func(g *latticeGroup, j int) {
			weigh(g.weight[:16], importance[at%cols+16*j:], x[16*j:][:16], energy)
		}, true, negligible, func(g *latticeGroup, j int) {
			for k := range 2 {
				code := uint16(g.at(l, 8*k)) | uint16(g.signs[k]&127)<<9
				binary.LittleEndian.PutUint16(block[2+4*j+2*k:], code)
			}
		})
		if highest == 0 {
			clear(block)
			continue
		}
		d := highest / 31
		binary.LittleEndian.PutUint16(block, halfBits(d))
		putHalfScales(block[66:], &scales, 1/d)
	}
}

// halfScale returns what the coordinates of half a group of 32 are multiplied
// by.
func halfScale(d float32, scales []byte, half int) float32 {
	level := scales[half/2] >> (4 * (half % 2)) & 15
	return float32(d*(0.5+float32(level))) * 0.25
}

func decodeIQ2_XS(dst []float32, src []byte) {
	l := latticeIQ2_XS()
	for ; len(src) > 0; src = src[sizeIQ2_XS:] {
		d := halfValue(binary.LittleEndian.Uint16(src))
		for c := range 32 {
			code := binary.LittleEndian.Uint16(src[2+2*c:])
			putCell(dst[:8], &l.points[code&511], valuesIQ2, halfScale(d, src[66:], c/2), evenSigns(uint8(code>>9)))
			dst = dst[8:]
		}
	}
}

// encodeIQ2_S is quantize_row_iq2_s_impl (ggml-quants.c).
func encodeIQ2_S(dst []byte, src []float32, cols int, importance []float32) {
	l := latticeIQ2_S()
	for at := 0; at < len(src); at += superBlock {
		x, block := src[at:][:superBlock], dst[:sizeIQ2_S]
		dst = dst[sizeIQ2_S:]
		clear(block)
		energy := float32(2*sumSquares(x)) / superBlock
		scales, highest := encodeHalves(l, x, func(g *latticeGroup, j int) {
			sub := x[16*j:][:16]
			if importance != nil {
				weigh(g.weight[:16], importance[at%cols+16*j:], sub, energy)
				return
			}
			for i, v := range sub {
				g.weight[i] = float32(0.25*energy) + float32(v*v)
			}
		}, false, negligibleIQ2_S, func(g *latticeGroup, j int) {
			for k := range 2 {
				c, point := 2*j+k, g.at(l, 8*k)
				block[2+c] = uint8(point)
				block[34+c] = g.signs[k]
				block[66+c/4] |= uint8(point>>8) << (2 * (c % 4))
			}
		})
		if highest == 0 {
			continue
		}
		d := highest / 31
		binary.LittleEndian.PutUint16(block, halfBits(float32(d*0.9875)))
		putHalfScales(block[74:], &scales, 1/d)
	}
}

func decodeIQ2_S(dst []float32, src []byte) {
	l := latticeIQ2_S()
	for ; len(src) > 0; src = src[sizeIQ2_S:] {
		d := halfValue(binary.LittleEndian.Uint16(src))
		for c := range 32 {
			point := int(src[2+c]) | int(src[66+c/4]>>(2*(c%4))&3)<<8
			putCell(dst[:8], &l.points[point], valuesIQ2, halfScale(d, src[74:], c/2), src[34+c])
			dst = dst[8:]
		}
	}
}
