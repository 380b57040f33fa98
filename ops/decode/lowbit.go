// TQ1_0, TQ2_0, Q1_0 and Q2_0: signs, trits and two-bit levels with one scale.
// The layouts are in package quantize, ternary.go and bits.go.

package decode

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(gguf.TQ1_0, func(b *Node) *Node {
		levels := Concatenate([]*Node{trits(cut(b, 0, 32), 5), trits(cut(b, 32, 48), 5), trits(cut(b, 48, 52), 4)}, 1)
		return Mul(plus(floats(levels), -1), halves(b, 52, 54))
	})
	register(gguf.TQ2_0, func(b *Node) *Node {
		return Mul(plus(floats(in(pairs(cut(b, 0, 64)), 256)), -1), halves(b, 64, 66))
	})
	register(gguf.Q1_0, func(b *Node) *Node {
		bits := in(fields(in(cut(b, 2, 18), 16, 1), 2, 8, 1), 128)
		return Mul(plus(times(floats(bits), 2), -1), halves(b, 0, 2))
	})
	register(gguf.Q2_0, func(b *Node) *Node {
		levels := in(fields(in(cut(b, 2, 18), 16, 1), 2, 4, 2), 64)
		return Mul(plus(floats(levels), -1), halves(b, 0, 2))
	})
}

// trits are the first n of each byte's, all first ones first: multiplied by 3
// to the i modulo 256, a byte has trit i in the carry of one more
// multiplication by 3.
func trits(qs *Node, n int) *Node {
	width := qs.Shape().Dimensions[1]
	powers := make([]int32, n)
	for i, power := 0, int32(1); i < n; i, power = i+1, 3*power {
		powers[i] = power
	}
	moved := Mul(integers(in(qs, 1, width)), Reshape(Const(qs.Graph(), powers), 1, n, 1))
	return in(down(times(low(moved, 8), 3), 8), n*width)
}
