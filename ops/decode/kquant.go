// Q2_K to Q6_K: super-blocks of 256 weights in sub-blocks of 16 or 32 with a
// scale each. The layouts are in package quantize, kquant_minimum.go and
// kquant_symmetric.go.

package decode

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(gguf.Q2_K, func(b *Node) *Node {
		both := cut(b, 0, 16)
		return withMinimums(in(pairs(cut(b, 16, 80)), 16, 16), halves(b, 80, 84), low(both, 4), down(both, 4))
	})
	register(gguf.Q3_K, func(b *Node) *Node {
		third := fields(in(cut(b, 0, 32), 1, 32), 1, 8, 1) // [blocks, 8, 32]
		levels := BitwiseOr(in(pairs(cut(b, 32, 96)), 8, 32), up(third, 2))
		scales := BitwiseOr(
			in(fields(in(cut(b, 96, 104), 1, 8), 1, 2, 4), 16),
			up(in(fields(in(cut(b, 104, 108), 1, 4), 1, 4, 2), 16), 4))
		return symmetric(in(levels, 16, 16), 4, halves(b, 108, 110), plus(floats(scales), -32))
	})
	register(gguf.Q4_K, func(b *Node) *Node {
		scales, minimums := sixBits(b)
		return withMinimums(quarters(cut(b, 16, 144)), halves(b, 0, 4), scales, minimums)
	})
	register(gguf.Q5_K, func(b *Node) *Node {
		scales, minimums := sixBits(b)
		fifth := fields(in(cut(b, 16, 48), 1, 32), 1, 8, 1)
		levels := BitwiseOr(quarters(cut(b, 48, 176)), up(fifth, 4))
		return withMinimums(levels, halves(b, 0, 4), scales, minimums)
	})
	register(gguf.Q6_K, func(b *Node) *Node {
		four := fields(in(cut(b, 0, 128), 2, 1, 2, 32), 2, 2, 4) // [blocks, 2, 2, 2, 32]
		two := fields(in(cut(b, 128, 192), 2, 1, 32), 2, 4, 2)   // [blocks, 2, 4, 32]
		levels := BitwiseOr(in(four, 16, 16), up(in(two, 16, 16), 4))
		return symmetric(levels, 32, halves(b, 208, 210), signed(cut(b, 192, 208)))
	})
}

// withMinimums is d*scale*level - dmin*minimum, with levels [blocks,
// sub-blocks, length], d and dmin together [blocks, 2], and the other two
// [blocks, sub-blocks].
func withMinimums(levels, d, scales, minimums *Node) *Node {
	scale := Mul(floats(scales), cut(d, 0, 1))
	minimum := Mul(floats(minimums), cut(d, 1, 2))
	return Sub(Mul(floats(levels), InsertAxes(scale, -1)), InsertAxes(minimum, -1))
}

// symmetric is d*scale*(level-half), with levels [blocks, sub-blocks, length],
// d [blocks, 1] and scales [blocks, sub-blocks].
func symmetric(levels *Node, half int, d, scales *Node) *Node {
	return Mul(plus(floats(levels), -half), InsertAxes(Mul(scales, d), -1))
}

// pairs are 256 levels of two bits, 128 in 32 bytes.
func pairs(qs *Node) *Node { return fields(in(qs, 2, 1, 32), 2, 4, 2) }

// quarters are 256 levels of four bits, 64 in 32 bytes: [blocks, 8, 32].
func quarters(qs *Node) *Node { return in(fields(in(qs, 4, 1, 32), 2, 2, 4), 8, 32) }

// sixBits are the eight scales and minimums that Q4_K and Q5_K pack into
// twelve bytes.
func sixBits(b *Node) (scales, minimums *Node) {
	s, m, both := cut(b, 4, 8), cut(b, 8, 12), cut(b, 12, 16)
	join := func(first, low4 *Node) *Node {
		return Concatenate([]*Node{low(first, 6), BitwiseOr(low4, up(down(first, 6), 4))}, 1)
	}
	return join(s, low(both, 4)), join(m, down(both, 4))
}
