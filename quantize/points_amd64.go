//go:build amd64 && !purego

// Decoders of the types whose cells are points of a lattice, over the kernels
// of internal/simd, which are the same for every instruction set.

package quantize

import (
	"sync"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize/internal/simd"
)

// pointDecoders has the decoder of each of these types.
var pointDecoders = func() map[gguf.Type]func(dst []float32, src []byte) {
	eights := func(keys []uint16, values ...int8) func() []int8 {
		return sync.OnceValue(func() []int8 { return pointBytes(keys, 8, 2, values) })
	}
	fours := func(keys []uint16, values ...int8) func() []int8 {
		return sync.OnceValue(func() []int8 { return pointBytes(keys, 4, 3, values) })
	}
	out := map[gguf.Type]func(dst []float32, src []byte){}
	for typ, d := range map[gguf.Type]struct {
		kernel func(dst *float32, src *byte, blocks int, points *int8, signs *uint32)
		points func() []int8
		signs  func() *signMasks
	}{
		gguf.IQ2_XXS: {simd.DecodeIQ2_XXS, eights(pointsIQ2_XXS[:], 8, 25, 43), evenSignMasks},
		gguf.IQ2_XS:  {simd.DecodeIQ2_XS, eights(pointsIQ2_XS[:], 8, 25, 43), evenSignMasks},
		gguf.IQ2_S:   {simd.DecodeIQ2_S, eights(pointsIQ2_S[:], 8, 25, 43), allSignMasks},
		gguf.IQ3_XXS: {simd.DecodeIQ3_XXS, fours(pointsIQ3_XXS[:], 4, 12, 20, 28, 36, 44, 52, 62), evenSignMasks},
		gguf.IQ3_S:   {simd.DecodeIQ3_S, fours(pointsIQ3_S[:], 1, 3, 5, 7, 9, 11, 13, 15), allSignMasks},
	} {
		out[typ] = func(dst []float32, src []byte) {
			if len(dst) > 0 {
				d.kernel(&dst[0], &src[0], len(dst)/superBlock, &d.points()[0], &d.signs()[0][0])
			}
		}
	}
	points := eights(pointsIQ1[:], -1, 0, 1)
	for typ, kernel := range map[gguf.Type]func(dst *float32, src *byte, blocks int, points *int8){
		gguf.IQ1_S: simd.DecodeIQ1_S,
		gguf.IQ1_M: simd.DecodeIQ1_M,
	} {
		out[typ] = func(dst []float32, src []byte) {
			if len(dst) > 0 {
				kernel(&dst[0], &src[0], len(dst)/superBlock, &points()[0])
			}
		}
	}
	return out
}()

// pointBytes is pointValues for integers, point after point.
func pointBytes(keys []uint16, cell, bits int, values []int8) []int8 {
	l := lattice{cell: cell, bits: bits}
	out := make([]int8, 0, cell*len(keys))
	for _, key := range keys {
		at := l.coordinates(int(key))
		for _, c := range at[:cell] {
			out = append(out, values[c])
		}
	}
	return out
}

// signMasks are for every eight signs what changes those of eight numbers.
type signMasks [256][8]uint32

// masksOf returns the masks of count codes that sign turns into eight signs.
func masksOf(count int, sign func(code uint8) uint8) func() *signMasks {
	return sync.OnceValue(func() *signMasks {
		masks := new(signMasks)
		for code := range count {
			for i := range masks[code] {
				masks[code][i] = uint32(sign(uint8(code))>>i) << 31
			}
		}
		return masks
	})
}

var (
	evenSignMasks = masksOf(128, evenSigns)
	allSignMasks  = masksOf(256, func(code uint8) uint8 { return code })
)
