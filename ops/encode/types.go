package encode

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/modelpipe/modelpipe/gguf"
)

// encoders has one row per type. A graph sees the weights as [length, blocks]
// in float32, their importance likewise or nil, and where the type wants them
// the mean squares of the rows that the blocks are part of, [blocks]. Its
// result is [blocks, bytes of a block].
var encoders = map[gguf.Type]encoder{
	gguf.Q4_0: {length: 32, build: encodeQ4_0, weighted: true, rowEnergy: true},
	gguf.Q8_0: {length: 32, build: encodeQ8_0},
	gguf.Q4_K: {length: 256, build: kindQ4_K.encode, weighted: true},
	gguf.Q5_K: {length: 256, build: kindQ5_K.encode, weighted: true},
	gguf.Q6_K: {length: 256, build: encodeQ6_K, weighted: true},
}

type encoder struct {
	length    int // weights in a block
	build     func(x, importance, energy *Node) *Node
	weighted  bool // importance counts
	rowEnergy bool // with importance, the mean square of the row does too
}

// encodeQ8_0: 32 bytes times one scale.
func encodeQ8_0(x, _, _ *Node) *Node {
	scale := quotient(highest(Abs(x), 0), constant(x, 127))
	inverse := Where(Equal(scale, constant(x, 0)), zeros(scale), reciprocal(orOne(scale)))
	q := product(x, inverse)
	// Ties go away from zero. The fraction is exact, where adding one half
	// before cutting would round.
	whole := Floor(Abs(q))
	up := GreaterOrEqual(Sub(Abs(q), whole), constant(x, 0.5))
	magnitude := Add(whole, floats(up))
	level := Where(LessThan(q, constant(x, 0)), Neg(magnitude), magnitude)
	return Concatenate([]*Node{half(at(scale, 0)), tail(byteOf(level))}, 1)
}

// encodeQ4_0: 32 levels of four bits times one scale, weight (q-8)*d.
func encodeQ4_0(x, importance, energy *Node) *Node {
	var scale, levels *Node
	if importance == nil {
		scale = quotient(signedPeak(x, 0), constant(x, -8))
		inverse := Where(Equal(scale, constant(x, 0)), zeros(scale), reciprocal(orOne(scale)))
		levels = Min(Floor(Add(product(x, inverse), constant(x, 8.5))), constant(x, 15))
	} else {
		var inverse *Node
		scale, inverse = searchScale(8, x, weigh(importance, x, InsertAxes(energy, 0)), 0)
		levels = Add(within(nearest(product(inverse, x)), -8, 7), constant(x, 8))
		// Where the whole block counts as zero the levels are zero too.
		levels = choose(LessThan(highest(Abs(x), 0), constant(x, negligible)), zeros(levels), levels)
	}
	q := byteOf(levels)
	packed := either(SliceAxis(q, 0, AxisRange(0, 16)), shiftLeft(SliceAxis(q, 0, AxisRange(16, 32)), 4))
	return Concatenate([]*Node{half(at(scale, 0)), tail(packed)}, 1)
}

// minimumKind is what sets Q4_K and Q5_K apart.
type minimumKind struct {
	top           float32
	plain         steps
	clampWeighted bool
	fifth         bool // has fifth bits
}

var (
	kindQ4_K = minimumKind{top: 15, plain: steps{-1, 0.1, 20}}
	kindQ5_K = minimumKind{top: 31, plain: steps{-0.5, 0.1, 15}, clampWeighted: true, fifth: true}
)

// encode: eight sub-blocks of 32 with six-bit scales and minimums.
func (k minimumKind) encode(flat, importance, _ *Node) *Node {
	n := flat.Shape().Dimensions[1]
	x := Reshape(flat, 8, 32, n)

	var found scaleMin
	var d, dmin *Node            // [n]
	var scales, minimums []*Node // bytes, [n] each
	top := number(x, 63)
	if importance == nil {
		mean := root(quotient(over(product(x, x), 1), constant(x, 32)))
		found = searchScaleMin(k.top, x, Add(mean, Abs(x)), k.plain)
		d, scales = spread(Squeeze(found.scale, 1))
		dmin, minimums = spread(Squeeze(found.minimum, 1))
	} else {
		energy := quotient(product(constant(x, 2), at(over(product(flat, flat), 0), 0)), constant(x, 256))
		weights := weigh(Reshape(importance, 8, 32, n), x, Reshape(energy, 1, 1, n))
		found = searchScaleMin(k.top, x, weights, weightedSteps)
		sums := Squeeze(over(weights, 1), 1)
		// Scales and minimums side by side, as twice as many blocks.
		both, levels := searchPositive(63, Concatenate([]*Node{Squeeze(found.scale, 1), Squeeze(found.minimum, 1)}, 1),
			Concatenate([]*Node{sums, sums}, 1))
		d, dmin = SliceAxis(both, 0, AxisRange(0, n)), SliceAxis(both, 0, AxisRange(n, 2*n))
		for _, l := range levels {
			scales = append(scales, SliceAxis(l, 0, AxisRange(0, n)))
			minimums = append(minimums, SliceAxis(l, 0, AxisRange(n, 2*n)))
		}
	}
	if importance == nil || k.clampWeighted {
		for j := range scales {
			scales[j], minimums[j] = Min(scales[j], top), Min(minimums[j], top)
		}
	}
	packed, scales, minimums := packScales6(scales, minimums)
	scale := product(InsertAxes(rounded(d), 0, 0), InsertAxes(floats(Stack(scales, 0)), 1))
	minimum := product(InsertAxes(rounded(dmin), 0, 0), InsertAxes(floats(Stack(minimums, 0)), 1))
	again := within(nearest(quotient(Add(x, minimum), orOne(scale))), 0, k.top)
	levels := byteOf(choose(Equal(scale, constant(x, 0)), found.levels(x, k.top), again))

	pairs := Reshape(low(levels, 15), 4, 2, 32, n)
	nibbles := either(Squeeze(SliceAxis(pairs, 1, AxisElem(0)), 1), shiftLeft(Squeeze(SliceAxis(pairs, 1, AxisElem(1)), 1), 4))
	parts := []*Node{half(d), half(dmin), tail(Stack(packed, 0))}
	if k.fifth {
		high := shiftLeft(shiftRight(at(levels, 0), 4), 0)
		for j := 1; j < 8; j++ {
			high = either(high, shiftLeft(shiftRight(at(levels, j), 4), uint8(j)))
		}
		parts = append(parts, tail(high))
	}
	return Concatenate(append(parts, tail(Reshape(nibbles, 128, n))), 1)
}

// spread maps the largest of values, [groups, blocks], to the level 63: the
// scale, [blocks], and the levels.
func spread(values *Node) (scale *Node, levels []*Node) {
	zero := constant(values, 0)
	largest := Max(highest(values, 0), zero)
	some := GreaterThan(largest, zero)
	inverse := quotient(constant(values, 63), Where(some, largest, ones(largest)))
	all := byteOf(choose(some, nearest(product(inverse, values)), zeros(values)))
	levels = make([]*Node, values.Shape().Dimensions[0])
	for i := range levels {
		levels[i] = at(all, i)
	}
	return at(Where(some, quotient(largest, constant(values, 63)), zeros(largest)), 0), levels
}

// packScales6 packs eight six-bit scales and minimums into twelve bytes and
// returns what a decoder finds in them.
func packScales6(s, m []*Node) (packed, scales, minimums []*Node) {
	packed = make([]*Node, 12)
	for j := range 4 {
		packed[j] = either(s[j], shiftLeft(shiftRight(s[j+4], 4), 6))
		packed[j+4] = either(m[j], shiftLeft(shiftRight(m[j+4], 4), 6))
		packed[j+8] = either(low(s[j+4], 15), shiftLeft(m[j+4], 4))
	}
	scales, minimums = make([]*Node, 8), make([]*Node, 8)
	for j := range 4 {
		scales[j], minimums[j] = low(packed[j], 63), low(packed[j+4], 63)
		scales[j+4] = either(low(packed[j+8], 15), shiftLeft(shiftRight(packed[j], 6), 4))
		minimums[j+4] = either(shiftRight(packed[j+8], 4), shiftLeft(shiftRight(packed[j+4], 6), 4))
	}
	return packed, scales, minimums
}

// encodeQ6_K: sixteen sub-blocks of 16 with signed scales of eight bits.
func encodeQ6_K(x, importance, _ *Node) *Node {
	n := x.Shape().Dimensions[1]
	x = Reshape(x, 16, 16, n)
	var weights *Node
	if importance != nil {
		weights = Reshape(importance, 16, 16, n)
	}
	found, inverse := searchScale(32, x, weights, 1)
	scales := Squeeze(found, 1) // [16, n]
	peak := signedPeak(scales, 0)
	nothing := LessThan(Abs(peak), constant(x, negligible)) // [1, n]
	spread := quotient(constant(x, -128), Where(nothing, ones(peak), peak))
	d := at(reciprocal(spread), 0)
	bytes := Min(nearest(product(spread, scales)), constant(x, 127))
	scale := InsertAxes(product(InsertAxes(rounded(d), 0), bytes), 1)
	first := within(nearest(product(inverse, x)), -32, 31)
	first = Add(first, Where(LessThan(highest(Abs(x), 1), constant(x, negligible)), constant(x, -32), constant(x, 0)))
	again := within(nearest(quotient(x, orOne(scale))), -32, 31)
	levels := byteOf(Add(choose(Equal(scale, constant(x, 0)), first, again), constant(x, 32)))

	l := Reshape(levels, 2, 4, 32, n)
	part := func(i int) *Node { return Squeeze(SliceAxis(l, 1, AxisElem(i)), 1) } // [2, 32, n]
	a, b, c, e := part(0), part(1), part(2), part(3)
	ql := Stack([]*Node{either(low(a, 15), shiftLeft(c, 4)), either(low(b, 15), shiftLeft(e, 4))}, 1)
	qh := either(shiftRight(a, 4), shiftLeft(shiftRight(b, 4), 2), shiftLeft(shiftRight(c, 4), 4), shiftLeft(shiftRight(e, 4), 6))
	out := Concatenate([]*Node{
		tail(Reshape(ql, 128, n)), tail(Reshape(qh, 64, n)), tail(byteOf(bytes)), half(d),
	}, 1)
	empty := BroadcastToShape(InsertAxes(at(nothing, 0), -1), out.Shape())
	return Where(empty, zeros(out), out)
}
