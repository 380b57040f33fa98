// What the encoders' graphs are made of. All of them see the weights with the
// position inside of a block first and the blocks last, [... positions,
// blocks]: every step is the same for many neighbouring lanes, and a kernel
// reads memory in rows. The formulas, and the order of every sum, are those of
// package quantize.

package encode

import (
	"fmt"
	"math"

	. "github.com/gomlx/gomlx/core/graph" //nolint — a graph reads as formulas

	"github.com/gomlx/compute/dtypes"
)

// negligible is the magnitude under which a whole group counts as zero.
const negligible = 1e-15

// floats is x in float32, doubles in float64.
func floats(x *Node) *Node  { return ConvertDType(x, dtypes.Float32) }
func doubles(x *Node) *Node { return ConvertDType(x, dtypes.Float64) }

// quotient is a/b as IEEE 754 rounds it. Compilers for GPUs divide to within
// two units in the last place, and any compiler multiplies by the inverse of
// what it knows to be constant or makes one division of two. A quotient in
// float64 is near enough that its rounding to float32 is the right one
// (Figueroa, "When is double rounding innocuous?", 1995: 53 >= 2*24+2 bits).
func quotient(a, b *Node) *Node { return narrowed(Div(doubles(a), doubles(b))) }

// root is the square root as IEEE 754 rounds it, by the same argument.
func root(x *Node) *Node { return narrowed(Sqrt(doubles(x))) }

// narrowed is x of float64 in float32. LLVM knows the argument too, and would
// compute in float32 what is converted to it at once: the minimum, which
// changes no finite number, stands in between.
func narrowed(x *Node) *Node { return floats(Min(x, Const(x.Graph(), math.MaxFloat64))) }

func reciprocal(x *Node) *Node { return quotient(constant(x, 1), x) }

// constant is v as a float32 of x's graph.
//
// The library keeps scalars that it has made for a graph, and would use one of
// a loop's body outside of it; a Const is made each time.
func constant(x *Node, v float32) *Node { return Const(x.Graph(), v) }

func like(x *Node, v float32) *Node {
	return BroadcastToDims(ConvertDType(constant(x, v), x.DType()), x.Shape().Dimensions...)
}

func zeros(x *Node) *Node { return like(x, 0) }
func ones(x *Node) *Node  { return like(x, 1) }

// repeat runs body for each number from 0 to n-1, as one loop of the graph, and returns the state that the last run leaves. fixed is what body
// needs of outside, since a loop sees nothing else. Unrolled, a search would
// be ten thousand nodes, which take minutes to compile.
func repeat(n int, fixed, state []*Node, body func(i *Node, fixed, state []*Node) []*Node) []*Node {
	g := state[0].Graph()
	carried := append(append([]*Node{Const(g, int32(0))}, fixed...), state...)
	parameters := func(g *Graph) []*Node {
		in := make([]*Node, len(carried))
		for n, c := range carried {
			in[n] = Parameter(g, fmt.Sprint("carried", n), c.Shape())
		}
		return in
	}
	more := NewClosure(g, func(g *Graph) []*Node {
		return []*Node{LessThan(parameters(g)[0], Const(g, int32(n)))}
	})
	run := NewClosure(g, func(g *Graph) []*Node {
		in := parameters(g)
		out := append([]*Node{Add(in[0], Const(g, int32(1)))}, in[1:1+len(fixed)]...)
		return append(out, body(floats(in[0]), in[1:1+len(fixed)], in[1+len(fixed):])...)
	})
	return While(more, run, carried...)[1+len(fixed):]
}

// pick is values[i]. A compiler would reorder the sums that make a trial's
// range, so the ranges are constants.
func pick(values []float32, i *Node) *Node {
	picked := constant(i, values[0])
	for n, v := range values[1:] {
		picked = Where(Equal(i, constant(i, float32(n+1))), constant(i, v), picked)
	}
	return picked
}

// product is a times b, rounded by itself: the minimum keeps a compiler from
// fusing it with a sum that follows, which would round once where ggml's
// encoders round twice. It changes no finite product.
func product(a, b *Node) *Node { return Min(Mul(a, b), constant(a, math.MaxFloat32)) }

// over sums x over an axis, which stays with one element: one after the other,
// since a reduction may take them in any order.
func over(x *Node, axis int) *Node {
	var sum *Node
	for i := range x.Shape().Dimensions[axis] {
		v := SliceAxis(x, axis, AxisRange(i, i+1))
		if sum == nil {
			sum = v
		} else {
			sum = Add(sum, v)
		}
	}
	return sum
}

func lowest(x *Node, axis int) *Node  { return InsertAxes(ReduceMin(x, axis), axis) }
func highest(x *Node, axis int) *Node { return InsertAxes(ReduceMax(x, axis), axis) }

// nearest rounds to integers, ties to even, and keeps the type.
func nearest(x *Node) *Node { return Round(x) }

// within clamps x to [low, high].
func within(x *Node, low, high float32) *Node {
	return Max(Min(x, constant(x, high)), constant(x, low))
}

// choose is Where with operands that need not have the same extent.
func choose(condition, yes, no *Node) *Node {
	shape := Add(yes, no).Shape()
	full := func(x *Node) *Node { return BroadcastToDims(x, shape.Dimensions...) }
	return Where(full(condition), full(yes), full(no))
}

// orOne is x, or 1 where it is zero, for divisors whose quotient is not used.
func orOne(x *Node) *Node { return Where(Equal(x, constant(x, 0)), ones(x), x) }

// signedPeak is the first element of the largest magnitude along axis.
func signedPeak(x *Node, axis int) *Node {
	largest := highest(Abs(x), axis)
	at := Iota(x.Graph(), x.Shape(), axis)
	far := constant(x, 1e9)
	first := func(match *Node) *Node { return lowest(Where(match, at, far), axis) }
	return Where(LessOrEqual(first(Equal(x, largest)), first(Equal(x, Neg(largest)))), largest, Neg(largest))
}

// byteOf is the low byte of an integer-valued float32, as C's cast through an
// int gives it.
func byteOf(x *Node) *Node {
	i := ConvertDType(x, dtypes.Int32)
	return ConvertDType(BitwiseAnd(i, Const(x.Graph(), int32(255))), dtypes.Uint8)
}

// half is the two bytes of x as binary16, low byte first: [...] to [..., 2].
func half(x *Node) *Node {
	return Bitcast(ConvertDType(x, dtypes.Float16), dtypes.Uint8)
}

// rounded is x through binary16 and back: what a decoder will see.
func rounded(x *Node) *Node {
	return ConvertDType(ConvertDType(x, dtypes.Float16), dtypes.Float32)
}

func number(x *Node, v uint8) *Node { return Const(x.Graph(), v) }

func low(x *Node, mask uint8) *Node     { return BitwiseAnd(x, number(x, mask)) }
func shiftLeft(x *Node, n uint8) *Node  { return BitwiseShiftLeft(x, number(x, n)) }
func shiftRight(x *Node, n uint8) *Node { return BitwiseShiftRightLogical(x, number(x, n)) }
func either(x *Node, more ...*Node) *Node {
	for _, y := range more {
		x = BitwiseOr(x, y)
	}
	return x
}

// at is element i of axis 0, which goes.
func at(x *Node, i int) *Node { return Squeeze(SliceAxis(x, 0, AxisElem(i)), 0) }

// tail turns bytes laid out [n, blocks] into [blocks, n].
func tail(x *Node) *Node { return Transpose(x, 0, 1) }

// steps is the range of trial scales of searchScaleMin, as in package quantize.
type steps struct {
	first, delta float32
	last         int
}

var weightedSteps = steps{-0.9, 0.05, 36}

// scaleMin is what searchScaleMin found, [groups, 1, blocks] each. Levels says
// how the weights are rounded where they are not rounded again: by
// inverse*(x-floor).
type scaleMin struct{ scale, minimum, inverse, floor *Node }

// levels rounds x, [groups, length, blocks], as the kept trial did.
func (s scaleMin) levels(x *Node, top float32) *Node {
	return within(nearest(product(s.inverse, Sub(x, s.floor))), 0, top)
}

// searchScaleMin is quantize.searchScaleMin with squared errors, for every
// group at once: x and weights are [groups, length, blocks].
func searchScaleMin(top float32, x, weights *Node, s steps) scaleMin {
	const axis = 1
	loss := func(x, weights, levels, scale, floor *Node) *Node {
		diff := Sub(Add(product(scale, levels), floor), x)
		return over(product(weights, product(diff, diff)), axis)
	}
	floor := Min(lowest(x, axis), constant(x, 0))
	high := highest(x, axis)
	flat := Equal(high, floor)
	// The levels of flat groups are not used: any divisor does.
	high = Where(flat, Add(floor, ones(floor)), high)
	kept := scaleMin{inverse: quotient(constant(x, top), Sub(high, floor)), floor: floor}
	kept.scale = reciprocal(kept.inverse)
	var reaches []float32
	for step := 0; step <= s.last; step++ {
		reaches = append(reaches, s.first+float32(s.delta*float32(step))+top)
	}
	fixed := []*Node{x, weights, high, over(weights, axis), over(product(weights, x), axis)}
	state := []*Node{loss(x, weights, kept.levels(x, top), kept.scale, floor), kept.scale, kept.inverse, kept.floor, floor}
	state = repeat(len(reaches), fixed, state, func(i *Node, fixed, state []*Node) []*Node {
		x, weights, high, sumw, sumx := fixed[0], fixed[1], fixed[2], fixed[3], fixed[4]
		best, floor := state[0], state[4]
		trial := scaleMin{inverse: quotient(pick(reaches, i), Sub(high, floor)), floor: floor}
		l := trial.levels(x, top)
		wl := product(weights, l)
		suml := over(wl, axis)
		suml2 := over(product(wl, l), axis)
		sumxl := over(product(wl, x), axis)
		determinant := Sub(product(sumw, suml2), product(suml, suml))
		zero := constant(x, 0)
		solvable := GreaterThan(determinant, zero)
		divisor := Where(solvable, determinant, ones(determinant))
		scale := quotient(Sub(product(sumw, sumxl), product(sumx, suml)), divisor)
		newFloor := quotient(Sub(product(suml2, sumx), product(suml, sumxl)), divisor)
		above := GreaterThan(newFloor, zero)
		scale = Where(above, quotient(sumxl, orOne(suml2)), scale)
		newFloor = Where(above, zeros(newFloor), newFloor)
		e := loss(x, weights, l, scale, newFloor)
		better := And(solvable, LessThan(e, best))
		found := []*Node{e, scale, trial.inverse, floor, newFloor}
		for n := range found {
			found[n] = Where(better, found[n], state[n])
		}
		return found
	})
	kept.scale, kept.inverse, kept.floor, floor = state[1], state[2], state[3], state[4]
	kept.minimum = Neg(floor)
	kept.scale = Where(flat, zeros(kept.scale), kept.scale)
	kept.inverse = Where(flat, zeros(kept.inverse), kept.inverse)
	return kept
}

// searchScale is quantize.searchScale for every group along axis: the scale,
// and the inverse scale by which levels are rounded. A nil weights means x
// squared.
func searchScale(top float32, x, weights *Node, axis int) (scale, inverse *Node) {
	if weights == nil {
		weights = product(x, x)
	}
	peak := signedPeak(x, axis)
	nothing := LessThan(Abs(peak), constant(x, negligible))
	peak = Where(nothing, ones(peak), peak)
	fit := func(x, weights, inverse *Node) (sumlx, suml2 *Node) {
		l := within(nearest(product(inverse, x)), -top, top-1)
		return over(product(product(weights, x), l), axis), over(product(product(weights, l), l), axis)
	}
	zero := constant(x, 0)
	inverse = quotient(constant(x, -top), peak)
	sumlx, suml2 := fit(x, weights, inverse)
	scale = Where(Equal(suml2, zero), zeros(suml2), quotient(sumlx, orOne(suml2)))
	var reaches []float32
	for step := -9; step <= 9; step++ {
		if step != 0 { // where the search starts
			reaches = append(reaches, -(top + float32(0.1*float32(step))))
		}
	}
	state := []*Node{product(scale, sumlx), scale, inverse}
	state = repeat(len(reaches), []*Node{x, weights, peak}, state, func(i *Node, fixed, state []*Node) []*Node {
		x, weights, peak := fixed[0], fixed[1], fixed[2]
		best := state[0]
		trial := quotient(pick(reaches, i), peak)
		sumlx, suml2 := fit(x, weights, trial)
		better := And(GreaterThan(suml2, constant(x, 0)), GreaterThan(product(sumlx, sumlx), product(best, suml2)))
		scale := quotient(sumlx, orOne(suml2))
		return []*Node{Where(better, product(scale, sumlx), best), Where(better, scale, state[1]), Where(better, trial, state[2])}
	})
	scale, inverse = state[1], state[2]
	return Where(nothing, zeros(scale), scale), Where(nothing, zeros(inverse), inverse)
}

// searchPositive is quantize.searchPositive over axis 0 of x, [groups,
// blocks]: the scale [blocks] and the levels, as bytes.
func searchPositive(top float32, x, weights *Node) (scale *Node, levels []*Node) {
	n := x.Shape().Dimensions[0]
	zero := constant(x, 0)
	largest := Max(highest(x, 0), zero)
	nothing := LessThan(largest, constant(x, negligible))
	largest = Where(nothing, ones(largest), largest)
	loss := func(x, weights, scale, l *Node) *Node {
		diff := Sub(x, product(scale, l))
		return over(product(product(weights, diff), diff), 0)
	}
	chosen := quotient(constant(x, top), largest)
	best := loss(x, weights, reciprocal(chosen), floats(byteOf(nearest(product(chosen, x)))))
	atMost := func(l *Node) *Node { return Min(nearest(l), constant(l, top)) }
	var reaches []float32
	for step := -4; step <= 4; step++ {
		if step != 0 {
			reaches = append(reaches, float32(0.1*float32(step))+top)
		}
	}
	state := repeat(len(reaches), []*Node{x, weights, largest}, []*Node{best, chosen}, func(i *Node, fixed, state []*Node) []*Node {
		x, weights, largest := fixed[0], fixed[1], fixed[2]
		trial := quotient(pick(reaches, i), largest)
		e := loss(x, weights, reciprocal(trial), atMost(product(trial, x)))
		better := LessThan(e, state[0])
		return []*Node{Where(better, e, state[0]), Where(better, trial, state[1])}
	})
	first := atMost(product(state[1], x))
	// From here on a level is what its byte holds.
	state = []*Node{
		at(over(product(product(weights, x), first), 0), 0),
		at(over(product(product(weights, first), first), 0), 0),
	}
	for i := range n {
		state = append(state, floats(byteOf(at(first, i))))
	}
	state = repeat(5, []*Node{x, weights}, state, func(_ *Node, fixed, state []*Node) []*Node {
		x, weights := fixed[0], fixed[1]
		sumlx, suml2, l := state[0], state[1], state[2:]
		zero := constant(x, 0)
		for i := range l {
			v, w := at(x, i), at(weights, i)
			lx := Sub(sumlx, product(product(w, v), l[i]))
			l2 := Sub(suml2, product(product(w, l[i]), l[i]))
			possible := And(GreaterThan(lx, zero), GreaterThan(l2, zero))
			level := atMost(quotient(product(v, l2), Where(possible, lx, ones(lx))))
			movedX := Add(lx, product(product(w, v), level))
			moved2 := Add(l2, product(product(w, level), level))
			better := And(possible, And(NotEqual(level, l[i]),
				GreaterThan(product(product(movedX, movedX), suml2), product(product(sumlx, sumlx), moved2))))
			l[i] = Where(better, floats(byteOf(level)), l[i])
			sumlx, suml2 = Where(better, movedX, sumlx), Where(better, moved2, suml2)
		}
		return append([]*Node{sumlx, suml2}, l...)
	})
	sumlx, suml2, l := state[0], state[1], state[2:]
	none := at(nothing, 0)
	scale = Where(GreaterThan(suml2, zero), quotient(sumlx, orOne(suml2)), zeros(suml2))
	scale = Where(none, zeros(scale), scale)
	levels = make([]*Node, n)
	for i := range l {
		levels[i] = byteOf(Where(none, zeros(l[i]), l[i]))
	}
	return scale, levels
}

// weigh is importance * sqrt(energy + x squared).
func weigh(importance, x, energy *Node) *Node {
	return product(importance, root(Add(energy, product(x, x))))
}
