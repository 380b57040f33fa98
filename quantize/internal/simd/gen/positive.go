package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The fields of SearchPositive's state, in the order of the Go struct.
const (
	positiveScale = iota
	positiveWorst
	positiveTop
	positiveLargest
	positiveChosen
	positiveBest
	positiveFields
)

// positiveTrials is the number of scales tried after the first.
const positiveTrials = 8

// searchPositive is the plain encoder's searchPositive for a pair of registers
// of groups of n values.
func (g *gen) searchPositive() {
	g.begin("SearchPositive", "func(x, w, l, s *float32, n int)",
		"fits the scale of two registers of groups of n values that are not negative.")
	x, w := Load(Param("x"), GP64()), Load(Param("w"), GP64())
	l, s := Load(Param("l"), GP64()), Load(Param("s"), GP64())
	end := Load(Param("n"), GP64())
	IMUL3Q(U32(g.row()), end, end)
	v := g.v
	halves := []int{0, 1}
	for _, bits := range []uint32{rounder, mantissaBits, mantissaHalf, 0, 255} {
		g.c(bits)
	}
	top := Op(Mem{Base: s, Disp: 128 * positiveTop})
	if g.wide() {
		r := v(g.used)
		g.used--
		VMOVUPS(top, r)
		top = r
	}
	// nearest rounds without clamping from below, as the plain encoder does.
	nearest := func(t reg.Register) {
		VADDPS(g.c(rounder), t, t)
		VSUBPS(g.c(rounder), t, t)
		VMINPS(top, t, t)
	}
	// wrap makes a level a byte.
	wrap := func(level reg.Register) {
		VCVTPS2DQ(level, level)
		VANDPS(g.c(255), level, level)
		VCVTDQ2PS(level, level)
	}
	// errors sets v4 and v5 to the weighted errors with the inverse scales v0
	// and v1 and the scales v2 and v3; round leaves levels.
	errors := func(round func(t reg.Register)) {
		for _, h := range halves {
			g.zero(v(4 + h))
		}
		g.each(end, func(at reg.Register) {
			for _, h := range halves {
				t, u := v(6+h), v(8+h)
				VMOVUPS(g.at(x, at, h), u)
				VMULPS(u, v(h), t)
				round(t)
				VMULPS(t, v(2+h), t)
				VSUBPS(t, u, t)
				VMULPS(g.at(w, at, h), t, u)
				VMULPS(t, u, u)
				VADDPS(u, v(4+h), v(4+h))
			}
		})
	}
	// The largest; v2: NaN where anything is negative or not finite.
	for _, h := range halves {
		g.zero(v(h))
		g.zero(v(2 + h))
	}
	g.each(end, func(at reg.Register) {
		for _, h := range halves {
			t, u := v(4+h), v(6+h)
			VMOVUPS(g.at(x, at, h), t)
			VMAXPS(t, v(h), v(h))
			VSUBPS(t, t, u)
			VADDPS(u, v(2+h), v(2+h))
			// The root of what is negative is not a number; that of -0 is -0.
			VSQRTPS(t, t)
			VSUBPS(t, t, t)
			VADDPS(t, v(2+h), v(2+h))
		}
	})
	for _, h := range halves {
		VMOVUPS(v(h), g.field(s, positiveLargest, h))
		VMOVUPS(v(2+h), g.field(s, positiveWorst, h))
		VMOVAPS(v(h), v(6+h))
		VMOVUPS(top, v(h))
		if !g.wide() {
			VMOVUPS(Mem{Base: s, Disp: 128 * positiveTop}, v(h))
		}
		VDIVPS(v(6+h), v(h), v(h))
		VMOVUPS(v(h), g.field(s, positiveChosen, h))
		VMOVUPS(constant(one), v(2+h))
		VDIVPS(v(h), v(2+h), v(2+h))
	}
	errors(func(t reg.Register) {
		nearest(t)
		wrap(t)
	})
	for _, h := range halves {
		VMOVUPS(v(4+h), g.field(s, positiveBest, h))
	}
	numerator, left := GP64(), GP64()
	LEAQ(Mem{Base: s, Disp: 128 * positiveFields}, numerator)
	MOVQ(U32(positiveTrials), left)
	step := g.label("step")
	Label(step)
	for _, h := range halves {
		VBROADCASTSS(Mem{Base: numerator}, v(h))
		VDIVPS(g.field(s, positiveLargest, h), v(h), v(h))
		VMOVUPS(constant(one), v(2+h))
		VDIVPS(v(h), v(2+h), v(2+h))
	}
	errors(nearest)
	for _, h := range halves {
		m := g.m(0, 8)
		VMOVUPS(g.field(s, positiveBest, h), v(6))
		VMOVUPS(g.field(s, positiveChosen, h), v(7))
		g.less(v(4+h), v(6), m)
		g.take(m, v(4+h), v(6))
		g.take(m, v(h), v(7))
		VMOVUPS(v(6), g.field(s, positiveBest, h))
		VMOVUPS(v(7), g.field(s, positiveChosen, h))
	}
	ADDQ(Imm(4), numerator)
	DECQ(left)
	JNZ(LabelRef(step))

	// Levels of the best trial. v0, v1: sums of w x l, v2, v3: of w l l. Where
	// there is next to nothing, every level is zero.
	for _, h := range halves {
		m := g.m(0, 8)
		VMOVUPS(g.field(s, positiveLargest, h), v(6))
		VMOVUPS(constant(tiny), v(7))
		g.less(v(6), v(7), m)
		VMOVUPS(g.field(s, positiveChosen, h), v(4+h))
		g.zero(v(7))
		g.take(m, v(7), v(4+h))
		g.zero(v(h))
		g.zero(v(2 + h))
	}
	g.each(end, func(at reg.Register) {
		for _, h := range halves {
			t, e, u := v(6+h), v(8+h), v(10+h)
			VMOVUPS(g.at(x, at, h), e)
			VMULPS(e, v(4+h), t)
			nearest(t)
			VMOVAPS(t, u)
			wrap(u)
			VMOVUPS(u, g.at(l, at, h))
			VMOVUPS(g.at(w, at, h), u)
			VMULPS(e, u, e)
			VMULPS(t, e, e)
			VADDPS(e, v(h), v(h))
			VMULPS(t, u, u)
			VMULPS(t, u, u)
			VADDPS(u, v(2+h), v(2+h))
		}
	})
	rounds, changed := GP64(), GP32()
	MOVQ(U32(5), rounds)
	round := g.label("round")
	Label(round)
	XORL(changed, changed)
	g.each(end, func(at reg.Register) {
		for _, h := range halves {
			sumlx, suml2 := v(h), v(2+h)
			lx, l2, moved, level, weight, product := v(4), v(5), v(6), v(7), v(8), v(9)
			VMOVUPS(g.at(l, at, h), level)
			VMOVUPS(g.at(w, at, h), weight)
			VMULPS(g.at(x, at, h), weight, product)
			VMULPS(level, product, lx)
			VSUBPS(lx, sumlx, lx)
			VMULPS(level, weight, l2)
			VMULPS(level, l2, l2)
			VSUBPS(l2, suml2, l2)
			VMULPS(g.at(x, at, h), l2, moved)
			VDIVPS(lx, moved, moved)
			VADDPS(g.c(rounder), moved, moved)
			VANDPS(g.c(mantissaBits), moved, moved)
			VPSUBD(g.c(mantissaHalf), moved, moved)
			VCVTDQ2PS(moved, moved)
			VMINPS(top, moved, moved)
			m, n := g.m(0, 10), g.m(1, 11)
			g.greater(lx, g.c(0), m)
			g.greater(l2, g.c(0), n)
			g.both(n, m)
			g.unequal(moved, level, n)
			g.both(n, m)
			bits := GP32()
			test := func() {
				if g.wide() {
					KMOVW(m, bits)
				} else {
					VMOVMSKPS(m, bits)
				}
			}
			test()
			TESTL(bits, bits)
			skip := g.label("skip")
			JZ(LabelRef(skip))
			VMULPS(moved, product, product)
			VADDPS(product, lx, lx)
			VMULPS(moved, weight, weight)
			VMULPS(moved, weight, weight)
			VADDPS(weight, l2, l2)
			VMULPS(lx, lx, product)
			VMULPS(suml2, product, product)
			VMULPS(sumlx, sumlx, weight)
			VMULPS(l2, weight, weight)
			g.greater(product, weight, n)
			g.both(n, m)
			g.take(m, lx, sumlx)
			g.take(m, l2, suml2)
			wrap(moved)
			g.take(m, moved, level)
			VMOVUPS(level, g.at(l, at, h))
			test()
			ORL(bits, changed)
			Label(skip)
		}
	})
	TESTL(changed, changed)
	done := g.label("done")
	JZ(LabelRef(done))
	DECQ(rounds)
	JNZ(LabelRef(round))
	Label(done)
	for _, h := range halves {
		m := g.m(0, 5)
		VDIVPS(v(2+h), v(h), v(4))
		g.zero(v(6))
		g.greater(v(2+h), v(6), m)
		g.take(m, v(4), v(6))
		VMOVUPS(v(6), g.field(s, positiveScale, h))
	}
	g.end()
}
