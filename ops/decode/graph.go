// What the decoders' graphs are made of. The blocks come first and the
// positions inside of a block after them, in the order of the weights: no
// decoder transposes, and a compiler makes one kernel of it that writes the
// weights in order.

package decode

import (
	. "github.com/gomlx/gomlx/core/graph" //nolint — a graph reads as formulas

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// cut is bytes from to end-1 of each block.
func cut(b *Node, from, end int) *Node { return SliceAxis(b, 1, AxisRange(from, end)) }

// in gives each block's elements the dimensions dims.
func in(x *Node, dims ...int) *Node {
	return Reshape(x, append([]int{x.Shape().Dimensions[0]}, dims...)...)
}

// floats is x in float32.
func floats(x *Node) *Node { return ConvertDType(x, dtypes.Float32) }

// integers is x in int32.
func integers(x *Node) *Node { return ConvertDType(x, dtypes.Int32) }

// signed is bytes as int8, in float32.
func signed(x *Node) *Node { return floats(Bitcast(x, dtypes.Int8)) }

// constant is v as an element of x's type.
func constant(x *Node, v int) *Node { return ConstAs(x, v) }

func plus(x *Node, v int) *Node  { return Add(x, constant(x, v)) }
func times(x *Node, v int) *Node { return Mul(x, constant(x, v)) }
func low(x *Node, bits int) *Node {
	return BitwiseAnd(x, constant(x, 1<<bits-1))
}
func up(x *Node, n int) *Node   { return BitwiseShiftLeft(x, constant(x, n)) }
func down(x *Node, n int) *Node { return BitwiseShiftRightLogical(x, constant(x, n)) }

// halves are the binary16 numbers in the given bytes of a block, low byte
// first, in float32: [blocks, (end-from)/2].
func halves(b *Node, from, end int) *Node {
	return floats(Bitcast(in(cut(b, from, end), (end-from)/2, 2), dtypes.Float16))
}

// words are the 16-bit numbers in the last axis, low byte first, as int32.
func words(x *Node) *Node {
	dims := x.Shape().Dimensions
	last := len(dims) - 1
	pairs := append(append([]int{}, dims[:last]...), dims[last]/2, 2)
	return integers(Bitcast(Reshape(x, pairs...), dtypes.Uint16))
}

// fields spreads an axis of one element into n: the element's bit fields of a
// width, the lowest first.
func fields(x *Node, axis, n, bits int) *Node {
	ones := make([]int, x.Rank())
	for i := range ones {
		ones[i] = 1
	}
	ones[axis] = n
	shifts := times(Iota(x.Graph(), shapes.Make(x.DType(), ones...), axis), bits)
	dims := append([]int{}, x.Shape().Dimensions...)
	dims[axis] = n
	return low(BitwiseShiftRightLogical(BroadcastToDims(x, dims...), BroadcastToDims(shifts, dims...)), bits)
}
