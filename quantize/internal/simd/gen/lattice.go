package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Lattices: cells of eight coordinates below 3 or of four below 8. Rounding
// and summing have the trial scales in lanes, the search for the nearest point
// the candidates: what a coordinate c of weight k loses is one of few numbers
// under a trial, so these go into registers once and each candidate looks them
// up. A candidate is 32 bits, four per coordinate: its value and, above it, the
// place of its weight within the register.

// latticeKind is a shape of cells.
type latticeKind struct {
	name    string
	cell    int // coordinates
	bits    int // of a coordinate in a key
	entries int // room for a coordinate's values in a register
	top     float32
}

var latticeKinds = []latticeKind{
	{"Eights", 8, 2, 4, 2},
	{"Fours", 4, 3, 8, 7},
}

// The fields of the kernels' state, in the order of the Go struct, in bytes.
const (
	latValue      = 0
	latNear       = latValue + 128
	latWeight     = latNear + 128
	latInverse    = latWeight + 128
	latScale      = latInverse + 128
	latSumQX      = latScale + 128
	latSumQ2      = latSumQX + 128
	latQ          = latSumQ2 + 128
	latKeys       = latQ + 8*64
	latChosen     = latKeys + 8*128
	latSpread     = latChosen + 8*128
	latPositions  = latSpread + 2*4*64
	latNumerators = latPositions + 64
)

func bitsOf(f float32) uint32 { return math.Float32bits(f) }

// latticeRound rounds the cells of a group with every trial's scale.
func (g *gen) latticeRound(kind latticeKind) {
	g.begin("Round"+kind.name, "func(s *float32, cells, trials int)", "sets the keys of cells under trials.")
	s, cells, trials := Load(Param("s"), GP64()), Load(Param("cells"), GP64()), Load(Param("trials"), GP64())
	SHLQ(U8(2), trials)
	v := g.v
	oneOp, half, top := g.c(one), g.c(halfFloat), g.c(bitsOf(kind.top))
	zero := g.c(0)
	value, keys, t := GP64(), GP64(), GP64()
	MOVQ(s, value)
	LEAQ(Mem{Base: s, Disp: latKeys}, keys)
	loop, inner := g.label("loop"), g.label("trials")
	Label(loop)
	XORQ(t, t)
	Label(inner)
	VMOVUPS(Mem{Base: s, Disp: latInverse, Index: t, Scale: 1}, v(0))
	for k := range kind.cell {
		level := v(1 + k%4)
		VBROADCASTSS(Mem{Base: value, Disp: 4 * k}, level)
		VMULPS(level, v(0), level)
		VSUBPS(oneOp, level, level)
		VMULPS(half, level, level)
		g.nearest(level)
		VMAXPS(zero, level, level)
		VMINPS(top, level, level)
		if k == 0 {
			VMOVAPS(level, v(6))
			continue
		}
		VMULPS(constant(bitsOf(float32(int(1)<<(kind.bits*k)))), level, level)
		VADDPS(level, v(6), v(6))
	}
	VCVTTPS2DQ(v(6), v(6))
	VMOVUPS(v(6), Mem{Base: keys, Index: t, Scale: 1})
	ADDQ(U8(g.vector()), t)
	CMPQ(t, trials)
	JB(LabelRef(inner))
	ADDQ(U8(4*kind.cell), value)
	SUBQ(I8(-128), keys)
	DECQ(cells)
	JNZ(LabelRef(loop))
	g.end()
}

// latticeNearest chooses a point for every cell and trial: the first of those
// that lose least.
func (g *gen) latticeNearest(kind latticeKind) {
	g.begin("Nearest"+kind.name, "func(s *float32, entries, points *uint32, cells, trials int)",
		"chooses a point for the keys of cells under trials.")
	s, entries, points := Load(Param("s"), GP64()), Load(Param("entries"), GP64()), Load(Param("points"), GP64())
	cells, trials := Load(Param("cells"), GP64()), Load(Param("trials"), GP64())
	v := g.v
	perRegister := g.lanes / kind.entries
	registers := kind.cell / perRegister
	const table, scaled, candidate, acc, place, best, position, current, least = 0, 4, 5, 6, 7, 8, 9, 10, 11
	stride, iota := g.c(uint32(g.lanes)), ascending()

	value, cell, t := GP64(), GP64(), GP64()
	MOVQ(s, value)
	MOVQ(s, cell)
	loop, inner, chosen := g.label("loop"), g.label("trials"), g.label("chosen")
	many, more, ties := g.label("many"), g.label("more"), g.label("ties")
	q := GP64()
	LEAQ(Mem{Base: s, Disp: latQ}, q)
	Label(loop)
	for i, field := range []int{latValue, latNear} {
		VMOVUPS(Mem{Base: value, Disp: field}, v(0))
		for r := range registers {
			VMOVUPS(spread(perRegister, kind.entries, r), v(1))
			VPERMPS(v(0), v(1), v(1))
			VMOVUPS(v(1), Mem{Base: s, Disp: latSpread + (4*i+r)*64})
		}
	}
	XORQ(t, t)
	Label(inner)
	// losses sets the tables to what each coordinate would lose.
	losses := func() {
		VBROADCASTSS(Mem{Base: s, Disp: latScale, Index: t, Scale: 4}, v(scaled))
		VMULPS(Mem{Base: q}, v(scaled), v(scaled))
		for r := range registers {
			VSUBPS(Mem{Base: s, Disp: latSpread + r*64}, v(scaled), v(acc))
			VMULPS(Mem{Base: s, Disp: latSpread + (4+r)*64}, v(acc), v(table+r))
			VMULPS(v(acc), v(table+r), v(table+r))
		}
	}
	// sum adds up what the candidates at p lose.
	p := GP64()
	sum := func() {
		VMOVUPS(Mem{Base: p}, v(candidate))
		VPERMPS(v(table), v(candidate), v(acc))
		for k := 1; k < kind.cell; k++ {
			VPSRLD(Imm(uint64(4*k)), v(candidate), v(place))
			VPERMPS(v(table+k/perRegister), v(place), v(place))
			VADDPS(v(place), v(acc), v(acc))
		}
	}
	key, chunks, lane := GP64(), GP64(), GP64()
	MOVL(Mem{Base: cell, Disp: latKeys, Index: t, Scale: 4}, key.As32())
	MOVL(Mem{Base: entries, Index: key, Scale: 4}, key.As32())
	MOVL(key.As32(), p.As32())
	SHRL(Imm(16), p.As32())
	SHLQ(Imm(6), p)
	ADDQ(points, p)
	first := GP64()
	MOVQ(p, first)
	if g.wide() {
		SHRL(Imm(8), key.As32())
	}
	// A cell on a point stays there.
	XORL(lane.As32(), lane.As32())
	MOVBQZX(key.As8(), chunks)
	TESTL(chunks.As32(), chunks.As32())
	JZ(LabelRef(chosen))
	losses()
	sum()
	lanes := GP64()
	// leastOf sets lanes to those of register i that hold the least.
	leastOf := func(i int) {
		VMOVAPS(v(i), v(least))
		g.reduce(least, 12, func(a, b, c Op) { VMINPS(a, b, c) })
		VBROADCASTSS(x(least), v(least))
		if g.wide() {
			g.equal(v(i), v(least), reg.K1)
			KMOVW(reg.K1, lanes.As32())
		} else {
			g.equal(v(i), v(least), v(12))
			VMOVMSKPS(v(12), lanes.As32())
		}
		TZCNTL(lanes.As32(), lane.As32())
	}
	DECQ(chunks)
	JNZ(LabelRef(many))
	leastOf(acc)
	Label(chosen)
	MOVL(Mem{Base: first, Index: lane, Scale: 4}, lane.As32())
	MOVL(lane.As32(), Mem{Base: cell, Disp: latChosen, Index: t, Scale: 4})
	INCQ(t)
	CMPQ(t, trials)
	JB(LabelRef(inner))
	ADDQ(U8(4*kind.cell), value)
	SUBQ(I8(-128), cell)
	ADDQ(U8(64), q)
	DECQ(cells)
	JNZ(LabelRef(loop))
	g.end()

	// More candidates than lanes: each lane keeps the first of its best.
	Label(many)
	VMOVAPS(v(acc), v(best))
	VMOVUPS(iota, v(position))
	VMOVUPS(iota, v(current))
	Label(more)
	ADDQ(U8(g.vector()), p)
	VPADDD(stride, v(current), v(current))
	sum()
	m := g.m(0, 12)
	g.less(v(acc), v(best), m)
	g.take(m, v(acc), v(best))
	g.take(m, v(current), v(position))
	DECQ(chunks)
	JNZ(LabelRef(more))
	leastOf(best)
	VMOVUPS(v(position), Mem{Base: s, Disp: latPositions})
	MOVL(Mem{Base: s, Disp: latPositions, Index: lane, Scale: 4}, lane.As32())
	other, low := GP64(), GP64()
	LEAL(Mem{Base: lanes, Disp: -1}, low.As32())
	ANDL(low.As32(), lanes.As32())
	JZ(LabelRef(chosen))
	// Of equal losses the lowest position counts.
	Label(ties)
	TZCNTL(lanes.As32(), other.As32())
	MOVL(Mem{Base: s, Disp: latPositions, Index: other, Scale: 4}, other.As32())
	CMPL(other.As32(), lane.As32())
	CMOVLCS(other.As32(), lane.As32())
	LEAL(Mem{Base: lanes, Disp: -1}, low.As32())
	ANDL(low.As32(), lanes.As32())
	JNZ(LabelRef(ties))
	JMP(LabelRef(chosen))
}

// latticeSum adds up weight * value * q and weight * q * q of the chosen points
// under every trial.
func (g *gen) latticeSum(kind latticeKind) {
	g.begin("Sum"+kind.name, "func(s *float32, cells, trials int)", "sets the sums of the points of cells under trials.")
	s, cells, trials := Load(Param("s"), GP64()), Load(Param("cells"), GP64()), Load(Param("trials"), GP64())
	SHLQ(U8(2), trials)
	v := g.v
	VMOVUPS(Mem{Base: s, Disp: latQ}, v(0))
	t, at, value, left := GP64(), GP64(), GP64(), GP64()
	XORQ(t, t)
	loop, inner := g.label("loop"), g.label("cells")
	Label(loop)
	g.zero(v(1))
	g.zero(v(2))
	MOVQ(s, value)
	LEAQ(Mem{Base: s, Disp: latChosen, Index: t, Scale: 1}, at)
	MOVQ(cells, left)
	Label(inner)
	VMOVUPS(Mem{Base: at}, v(3))
	for k := range kind.cell {
		q, w, wx := v(4+3*(k%2)), v(5+3*(k%2)), v(6+3*(k%2))
		if k == 0 {
			VPERMPS(v(0), v(3), q)
		} else {
			VPSRLD(Imm(uint64(4*k)), v(3), q)
			VPERMPS(v(0), q, q)
		}
		VBROADCASTSS(Mem{Base: value, Disp: latWeight + 4*k}, w)
		VBROADCASTSS(Mem{Base: value, Disp: latValue + 4*k}, wx)
		VMULPS(wx, w, wx)
		VMULPS(q, wx, wx)
		VADDPS(wx, v(1), v(1))
		VMULPS(q, w, w)
		VMULPS(q, w, w)
		VADDPS(w, v(2), v(2))
	}
	SUBQ(I8(-128), at)
	ADDQ(U8(4*kind.cell), value)
	DECQ(left)
	JNZ(LabelRef(inner))
	VMOVUPS(v(1), Mem{Base: s, Disp: latSumQX, Index: t, Scale: 1})
	VMOVUPS(v(2), Mem{Base: s, Disp: latSumQ2, Index: t, Scale: 1})
	ADDQ(U8(g.vector()), t)
	CMPQ(t, trials)
	JB(LabelRef(loop))
	g.end()
}

// latticeScales divides the numerators of the trials by what the highest level
// is mapped to.
func (g *gen) latticeScales() {
	g.begin("TrialScales", "func(s *float32, highest float32)", "sets the inverse scales and the scales of 32 trials.")
	s := Load(Param("s"), GP64())
	v := g.v
	arg, err := Param("highest").Resolve()
	if err != nil {
		panic(err)
	}
	VBROADCASTSS(arg.Addr, v(0))
	VMOVUPS(constant(one), v(1))
	for i := range 32 / g.lanes {
		VMOVUPS(Mem{Base: s, Disp: latNumerators + i*g.vector()}, v(2))
		VDIVPS(v(0), v(2), v(2))
		VMOVUPS(v(2), Mem{Base: s, Disp: latInverse + i*g.vector()})
		VDIVPS(v(2), v(1), v(2))
		VMOVUPS(v(2), Mem{Base: s, Disp: latScale + i*g.vector()})
	}
	g.end()
}

// splitSigns writes the kernel that takes the signs off a super-block, 32 times
// eight weights. It needs no more than AVX2.
func splitSigns() {
	TEXT("SplitSigns", NOSPLIT, "func(magnitude, x, weight *float32, signs *byte, largest, reach *float32, parity int) uint32")
	Pragma("noescape")
	Doc("SplitSigns sets magnitudes and signs of 256 weights, and the largest magnitude of every eight before (reach) and after parity.",
		"With parity 1 an odd number of minuses among eight is made even: the weight that loses least keeps its sign in its magnitude.",
		"It returns the largest weight's bits.")
	magnitudes, from, weight := Load(Param("magnitude"), GP64()), Load(Param("x"), GP64()), Load(Param("weight"), GP64())
	signs, largest, reach := Load(Param("signs"), GP64()), Load(Param("largest"), GP64()), Load(Param("reach"), GP64())
	parity := GP64()
	Load(Param("parity"), parity)
	left := GP64()
	MOVQ(U32(32), left)
	VMOVUPS(constant(magnitude), y(10))
	VMOVUPS(ascending(), y(11))
	VXORPS(y(12), y(12), y(12))
	VXORPS(y(13), y(13), y(13)) // largest bits of weights
	fold := func(i, t int, op func(a, b, c Op)) {
		VEXTRACTF128(Imm(1), y(i), x(t))
		op(x(t), x(i), x(i))
		VPSHUFD(Imm(0x4e), x(i), x(t))
		op(x(t), x(i), x(i))
		VPSHUFD(Imm(0xb1), x(i), x(t))
		op(x(t), x(i), x(i))
	}
	least := func(a, b, c Op) { VMINPS(a, b, c) }
	most := func(a, b, c Op) { VMAXPS(a, b, c) }
	minus, at, odd := GP64(), GP64(), GP64()
	Label("loop")
	VMOVUPS(Mem{Base: from}, y(0))
	VMOVUPS(Mem{Base: weight}, y(1))
	VPMAXUD(y(1), y(13), y(13))
	VCMPPS(Imm(17), y(12), y(0), y(2))
	VMOVMSKPS(y(2), minus.As32())
	VANDPS(y(10), y(0), y(0))
	VMOVAPS(y(0), y(3))
	fold(3, 4, most)
	VMOVSS(x(3), Mem{Base: reach})
	// The weight that loses least, the first of equals.
	VMULPS(y(0), y(1), y(1))
	VMULPS(y(0), y(1), y(1))
	VMOVAPS(y(1), y(3))
	fold(3, 4, least)
	VBROADCASTSS(x(3), y(3))
	VCMPPS(Imm(0), y(3), y(1), y(3))
	VMOVMSKPS(y(3), at.As32())
	TZCNTL(at.As32(), at.As32())
	POPCNTL(minus.As32(), odd.As32())
	ANDL(parity.As32(), odd.As32())
	VMOVD(at.As32(), x(3))
	VPBROADCASTD(x(3), y(3))
	VPCMPEQD(y(3), y(11), y(3))
	SHLXL(at.As32(), odd.As32(), at.As32())
	XORL(at.As32(), minus.As32())
	MOVB(minus.As8(), Mem{Base: signs})
	SHLL(Imm(31), odd.As32())
	VMOVD(odd.As32(), x(4))
	VPBROADCASTD(x(4), y(4))
	VPAND(y(3), y(4), y(4))
	VPXOR(y(4), y(0), y(0))
	VMOVUPS(y(0), Mem{Base: magnitudes})
	fold(0, 4, most)
	VMOVSS(x(0), Mem{Base: largest})
	ADDQ(Imm(32), from)
	ADDQ(Imm(32), weight)
	ADDQ(Imm(32), magnitudes)
	INCQ(signs)
	ADDQ(Imm(4), largest)
	ADDQ(Imm(4), reach)
	DECQ(left)
	JNZ(LabelRef("loop"))
	fold(13, 4, func(a, b, c Op) { VPMAXUD(a, b, c) })
	VMOVD(x(13), minus.As32())
	Store(minus.As32(), ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// roots writes a kernel of square roots.
func (g *gen) roots() {
	g.begin("Roots", "func(dst, src *float32, n int)", "sets dst to the square roots of n numbers, a multiple of 16.")
	dst, src, n := Load(Param("dst"), GP64()), Load(Param("src"), GP64()), Load(Param("n"), GP64())
	loop := g.label("loop")
	Label(loop)
	VSQRTPS(Mem{Base: src}, g.v(0))
	VMOVUPS(g.v(0), Mem{Base: dst})
	ADDQ(U8(g.vector()), src)
	ADDQ(U8(g.vector()), dst)
	SUBQ(U8(g.lanes), n)
	JNZ(LabelRef(loop))
	g.end()
}

var integers = map[string]Mem{}

// vectorOf is 64 bytes of memory holding sixteen integers.
func vectorOf(name string, at func(lane int) int) Mem {
	if mem, ok := integers[name]; ok {
		return mem
	}
	mem := GLOBL(name, RODATA|NOPTR)
	for i := range 16 {
		DATA(4*i, U32(at(i)))
	}
	integers[name] = mem
	return mem
}

// ascending is 0, 1, 2, ...
func ascending() Mem { return vectorOf("ascending", func(lane int) int { return lane }) }

// spread is the order that gives each weight of register r its lanes.
func spread(perRegister, entries, r int) Mem {
	return vectorOf(fmt.Sprintf("spread%dx%dfrom%d", perRegister, entries, r*perRegister), func(lane int) int {
		return min(r*perRegister+lane/entries, 15)
	})
}
