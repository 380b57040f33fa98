// IQ1, IQ2 and IQ3: super-blocks of 256 weights in cells of four or eight, each
// a point of a lattice. The layouts are in package quantize, iq1.go to iq3.go.

package decode

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"

	"github.com/modelpipe/modelpipe/gguf"
)

// The points' coordinates. In IQ1 a twelfth bit says how they are moved.
var (
	pointsIQ1 = newTable(gguf.IQ1_S, 4096, 8, func(block []byte, code int) {
		putHalf(block, halfOne)
		block[2] = byte(code)
		putHalf(block[34:], uint16(code>>8&7|code>>11<<15))
	})
	pointsIQ2_XXS = newTable(gguf.IQ2_XXS, 256, 8, func(block []byte, code int) {
		putHalf(block, halfEight)
		block[2] = byte(code)
	})
	pointsIQ2_XS = newTable(gguf.IQ2_XS, 512, 8, func(block []byte, code int) {
		putHalf(block, halfEight)
		putHalf(block[2:], uint16(code))
	})
	pointsIQ2_S = newTable(gguf.IQ2_S, 1024, 8, func(block []byte, code int) {
		putHalf(block, halfEight)
		block[2], block[66] = byte(code), byte(code>>8)
	})
	pointsIQ3_XXS = newTable(gguf.IQ3_XXS, 256, 4, func(block []byte, code int) {
		putHalf(block, halfFour)
		block[2] = byte(code)
	})
	pointsIQ3_S = newTable(gguf.IQ3_S, 512, 4, func(block []byte, code int) {
		putHalf(block, halfOne)
		block[2], block[66] = byte(code), byte(code>>8)
	})
)

func init() {
	register(gguf.IQ1_S, func(b *Node) *Node {
		codes := in(words(cut(b, 34, 50)), 8, 1)
		high := BitwiseOr(fields(codes, 2, 4, 3), up(down(codes, 15), 3))
		points := join(cut(b, 2, 34), in(high, 32))
		return cells(pointsIQ1.of(points), odd(low(down(codes, 12), 3)), halves(b, 0, 2))
	})
	register(gguf.IQ1_M, func(b *Node) *Node {
		packed := in(words(cut(b, 48, 56)), 4, 1)
		high := fields(in(cut(b, 32, 48), 16, 1), 2, 2, 4)
		points := join(cut(b, 0, 32), integers(in(high, 32)))
		// The scale's bits are spread over the top of four words.
		top := down(packed, 12)
		bits := SliceAxis(top, 1, AxisElem(0))
		for i := 1; i < 4; i++ {
			bits = BitwiseOr(bits, up(SliceAxis(top, 1, AxisElem(i)), 4*i))
		}
		d := floats(Bitcast(ConvertDType(in(bits, 1), dtypes.Uint16), dtypes.Float16))
		return cells(pointsIQ1.of(points), odd(fields(packed, 2, 4, 3)), d)
	})
	register(gguf.IQ2_XXS, func(b *Node) *Node {
		groups := in(cut(b, 2, 66), 8, 8)
		points := integers(in(SliceAxis(groups, 2, AxisRange(0, 4)), 32))
		signs, scales := evenSigns(SliceAxis(groups, 2, AxisRange(4, 8)))
		return cells(negated(pointsIQ2_XXS.of(points), signs), eighths(scales), halves(b, 0, 2))
	})
	register(gguf.IQ2_XS, func(b *Node) *Node {
		codes := words(cut(b, 2, 66))
		return cells(negated(pointsIQ2_XS.of(low(codes, 9)), even(down(codes, 9))), eighths(nibblePairs(cut(b, 66, 74))), halves(b, 0, 2))
	})
	register(gguf.IQ2_S, func(b *Node) *Node {
		high := in(fields(in(cut(b, 66, 74), 8, 1), 2, 4, 2), 32)
		points := join(cut(b, 2, 34), integers(high))
		return cells(negated(pointsIQ2_S.of(points), cut(b, 34, 66)), eighths(nibblePairs(cut(b, 74, 82))), halves(b, 0, 2))
	})
	register(gguf.IQ3_XXS, func(b *Node) *Node {
		signs, scales := evenSigns(in(cut(b, 66, 98), 8, 4))
		quarter := Mul(odd(scales), Const(b.Graph(), float32(0.25)))
		return cells(negated(pointsIQ3_XXS.of(integers(cut(b, 2, 66))), signs), quarter, halves(b, 0, 2))
	})
	register(gguf.IQ3_S, func(b *Node) *Node {
		high := in(fields(in(cut(b, 66, 74), 8, 1), 2, 8, 1), 64)
		points := join(cut(b, 2, 66), integers(high))
		return cells(negated(pointsIQ3_S.of(points), cut(b, 74, 106)), odd(nibblePairs(cut(b, 106, 110))), halves(b, 0, 2))
	})
}

// join puts the high bits of points, int32, on their low bytes.
func join(lowest, high *Node) *Node { return BitwiseOr(integers(lowest), up(high, 8)) }

// odd is 2*scale + 1, in float32.
func odd(scale *Node) *Node { return plus(times(floats(scale), 2), 1) }

// eighths is (scale + 1/2) / 4.
func eighths(scale *Node) *Node { return Mul(odd(scale), Const(scale.Graph(), float32(0.125))) }

// nibblePairs are the two levels in each byte, [blocks, 2*bytes].
func nibblePairs(x *Node) *Node {
	n := x.Shape().Dimensions[1]
	return in(fields(in(x, n, 1), 2, 2, 4), 2*n)
}

// even adds to seven signs, int32, the eighth that makes the number of minuses
// even.
func even(seven *Node) *Node {
	parity := seven
	for _, n := range []int{4, 2, 1} {
		parity = BitwiseXor(parity, down(parity, n))
	}
	return BitwiseOr(seven, up(low(parity, 1), 7))
}

// evenSigns are what IQ2_XXS and IQ3_XXS have for 32 weights, [blocks, 8, 4
// bytes]: four times seven signs, [blocks, 32], and four bits of scale,
// [blocks, 8].
func evenSigns(x *Node) (signs, scales *Node) {
	packed := in(Bitcast(x, dtypes.Uint32), 8, 1)
	return even(integers(in(fields(packed, 2, 4, 7), 32))), in(integers(down(packed, 28)), 8)
}

// negated gives values, [blocks, cells, length], minuses where bits are set in
// signs, [blocks, bytes], a bit to a value.
func negated(values, signs *Node) *Node {
	n := signs.Shape().Dimensions[1]
	bits := fields(in(signs, n, 1), 2, 8, 1)
	sign := plus(times(floats(bits), -2), 1)
	return Mul(values, in(sign, values.Shape().Dimensions[1:]...))
}

// cells is d*scale*value, with values [blocks, ...], as many values to a scale
// in scales, [blocks, ...], as there are, and d [blocks, 1].
func cells(values, scales, d *Node) *Node {
	blocks := d.Shape().Dimensions[0]
	n := scales.Shape().Size() / blocks
	return Mul(in(values, n, 256/n), InsertAxes(Mul(in(scales, n), d), -1))
}
