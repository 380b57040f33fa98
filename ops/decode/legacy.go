// Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: blocks of 32 weights. The layouts are in
// package quantize, legacy.go and q8_0.go.

package decode

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(gguf.Q4_0, func(b *Node) *Node {
		return Mul(plus(floats(nibbles(b, 2)), -8), halves(b, 0, 2))
	})
	register(gguf.Q4_1, func(b *Node) *Node {
		return Add(Mul(floats(nibbles(b, 4)), halves(b, 0, 2)), halves(b, 2, 4))
	})
	register(gguf.Q5_0, func(b *Node) *Node {
		return Mul(plus(floats(fives(b, 2)), -16), halves(b, 0, 2))
	})
	register(gguf.Q5_1, func(b *Node) *Node {
		return Add(Mul(floats(fives(b, 4)), halves(b, 0, 2)), halves(b, 2, 4))
	})
	register(gguf.Q8_0, func(b *Node) *Node {
		return Mul(signed(cut(b, 2, 34)), halves(b, 0, 2))
	})
}

// nibbles are 32 levels of four bits in 16 bytes, the first half low.
func nibbles(b *Node, from int) *Node {
	return in(fields(in(cut(b, from, from+16), 1, 16), 1, 2, 4), 32)
}

// fives are 32 levels whose fifth bits are in the four bytes before the others.
func fives(b *Node, from int) *Node {
	fifth := in(fields(in(cut(b, from, from+4), 4, 1), 2, 8, 1), 32)
	return BitwiseOr(nibbles(b, from+4), up(fifth, 4))
}
