package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const (
	mantissaBits  = 0x7fffff
	mantissaHalf  = 0x400000
	plusInfinity  = 0x7f800000
	minusInfinity = 0xff800000
	nearHalf      = 0x3efff2e5 // 0.4999
	minusNearHalf = 0xbefff2e5
	smallSum      = 0x17800000 // 2^-80
	refineLength  = 16
)

// refineScale is the plain encoder's refineScale for a pair of registers of
// sub-blocks of sixteen elements.
//
// A level moves where x*l2/lx rounds to another integer. Few do after the
// first round, so the kernel first asks whether any lane's can, without
// dividing: it cannot where x*l2 is within 0.4999*lx of l*lx, or beyond that
// on the side where l is at its limit. The room to one half is far more than
// the operations' rounding as long as lx is not close to the subnormals. Nor
// can it where lx is not positive, which holds for half of all sub-blocks: a
// positive peak has the level -top, and so a negative scale. Beside the levels
// the kernel keeps these bounds, minus and plus 0.4999 or an infinity, and what
// each level adds to the sums.
func (g *gen) refineScale() {
	g.begin("RefineScale", "func(x, w, wx, l, s *float32)",
		"fits the scale of two registers of sub-blocks of 16 elements, level by level; l has room for 80 rows.")
	x, w, wx := Load(Param("x"), GP64()), Load(Param("w"), GP64()), Load(Param("wx"), GP64())
	l, s := Load(Param("l"), GP64()), Load(Param("s"), GP64())
	end := GP64()
	MOVQ(U32(refineLength*g.row()), end)
	v := g.v
	abs := g.c(magnitude)
	low, high := Op(Mem{Base: s, Disp: 128 * scaleLow}), Op(Mem{Base: s, Disp: 128 * scaleHigh})
	for _, bits := range []uint32{rounder, mantissaBits, mantissaHalf, minusNearHalf, nearHalf, minusInfinity, plusInfinity, smallSum, 0} {
		g.c(bits)
	}
	if g.wide() {
		for _, op := range []*Op{&low, &high} {
			r := v(g.used)
			g.used--
			VMOVUPS(*op, r)
			*op = r
		}
	}
	// The rows behind the levels: the bounds, then w x l and w l l.
	behind := func(i int) func(at reg.Register, h int) Mem {
		return func(at reg.Register, h int) Mem {
			m := g.at(l, at, h)
			m.Disp += i * refineLength * g.row()
			return m
		}
	}
	lower, upper, partlx, partl2 := behind(1), behind(2), behind(3), behind(4)
	// keep writes the level in a register with its bounds.
	keep := func(at reg.Register, h int, level reg.Register, t int) {
		VMOVUPS(level, g.at(l, at, h))
		m := g.m(3, t+1)
		limit := func(at Op, bound, beyond Op, dst Mem) {
			VMOVUPS(bound, v(t))
			g.equal(level, at, m)
			if g.wide() {
				VMOVAPS(beyond, m, v(t))
			} else {
				VBLENDVPS(m, beyond, v(t), v(t))
			}
			VMOVUPS(v(t), dst)
		}
		limit(low, g.c(minusNearHalf), g.c(minusInfinity), lower(at, h))
		limit(high, g.c(nearHalf), g.c(plusInfinity), upper(at, h))
	}
	// v(h): sum of w x l, v(2+h): sum of w l l.
	for h := range 2 {
		peak := 4
		for _, r := range []int{peak, 5, 6} {
			g.zero(v(r))
		}
		g.each(end, func(at reg.Register) {
			t, a := v(7), v(8)
			VMOVUPS(g.at(x, at, h), t)
			VANDPS(abs, t, a)
			m := g.m(0, 9)
			g.greater(a, v(5), m)
			g.take(m, t, v(peak))
			VMAXPS(v(5), a, v(5))
			VMULPS(t, t, a)
			VMOVUPS(a, g.at(w, at, h))
			VMULPS(t, a, a)
			VMOVUPS(a, g.at(wx, at, h))
			VSUBPS(a, a, a)
			VADDPS(a, v(6), v(6))
		})
		VMOVUPS(v(6), g.field(s, scaleWorst, h))
		VMOVUPS(v(5), g.field(s, scaleSums, h))
		VMOVUPS(low, v(6))
		VDIVPS(v(peak), v(6), v(6))
		g.zero(v(h))
		g.zero(v(2 + h))
		g.each(end, func(at reg.Register) {
			t, u := v(7), v(8)
			VMULPS(g.at(x, at, h), v(6), t)
			g.round(t, low, high)
			VMULPS(g.at(wx, at, h), t, u)
			VMOVUPS(u, partlx(at, h))
			VADDPS(u, v(h), v(h))
			VMULPS(g.at(w, at, h), t, u)
			VMULPS(t, u, u)
			VMOVUPS(u, partl2(at, h))
			VADDPS(u, v(2+h), v(2+h))
			keep(at, h, t, 9)
		})
	}

	rounds, changed := GP64(), GP32()
	MOVQ(U32(5), rounds)
	round := g.label("round")
	Label(round)
	XORL(changed, changed)
	g.each(end, func(at reg.Register) {
		for h := range 2 {
			sumlx, suml2 := v(h), v(2+h)
			lx, l2, product, level := v(4), v(5), v(6), v(7)
			VMOVUPS(g.at(l, at, h), level)
			VSUBPS(partlx(at, h), sumlx, lx)
			VSUBPS(partl2(at, h), suml2, l2)
			VMULPS(g.at(x, at, h), l2, product)
			// May any lane's level move?
			VMULPS(level, lx, v(8))
			VSUBPS(v(8), product, v(8))
			VMULPS(lower(at, h), lx, v(9))
			VMULPS(upper(at, h), lx, v(10))
			may := GP32()
			if g.wide() {
				VCMPPS(Imm(30), v(9), v(8), reg.K1)
				VCMPPS(Imm(17), v(10), v(8), reg.K1, reg.K1)
				VCMPPS(Imm(30), g.c(smallSum), lx, reg.K1, reg.K1)
				VCMPPS(Imm(30), g.c(0), lx, reg.K2)
				KANDNW(reg.K2, reg.K1, reg.K1)
				KMOVW(reg.K1, may)
			} else {
				g.greater(v(8), v(9), v(9))
				g.less(v(8), v(10), v(10))
				VANDPS(v(9), v(10), v(10))
				g.greater(lx, g.c(smallSum), v(9))
				VANDPS(v(9), v(10), v(10))
				g.greater(lx, g.c(0), v(9))
				VANDNPS(v(9), v(10), v(10))
				VMOVMSKPS(v(10), may)
			}
			TESTL(may, may)
			skip := g.label("skip")
			JZ(LabelRef(skip))

			moved := v(8)
			VDIVPS(lx, product, moved)
			VADDPS(g.c(rounder), moved, moved)
			VANDPS(g.c(mantissaBits), moved, moved)
			VPSUBD(g.c(mantissaHalf), moved, moved)
			VCVTDQ2PS(moved, moved)
			VMINPS(high, moved, moved)
			VMAXPS(low, moved, moved)
			m, n := g.m(0, 9), g.m(1, 10)
			g.greater(lx, g.c(0), m)
			g.unequal(moved, level, n)
			g.both(n, m)
			newlx, newl2 := v(13), v(14)
			VMULPS(g.at(wx, at, h), moved, newlx)
			VADDPS(newlx, lx, lx)
			VMULPS(g.at(w, at, h), moved, newl2)
			VMULPS(moved, newl2, newl2)
			VADDPS(newl2, l2, l2)
			g.greater(l2, g.c(0), n)
			g.both(n, m)
			VMULPS(lx, lx, v(11))
			VMULPS(suml2, v(11), v(11))
			VMULPS(sumlx, sumlx, v(12))
			VMULPS(l2, v(12), v(12))
			g.greater(v(11), v(12), n)
			g.both(n, m)
			g.take(m, lx, sumlx)
			g.take(m, l2, suml2)
			g.take(m, moved, level)
			VMOVUPS(partlx(at, h), v(11))
			g.take(m, newlx, v(11))
			VMOVUPS(v(11), partlx(at, h))
			VMOVUPS(partl2(at, h), v(11))
			g.take(m, newl2, v(11))
			VMOVUPS(v(11), partl2(at, h))
			if g.wide() {
				KMOVW(m, may)
			} else {
				VMOVMSKPS(m, may)
			}
			ORL(may, changed)
			keep(at, h, level, 11)
			Label(skip)
		}
	})
	TESTL(changed, changed)
	done := g.label("done")
	JZ(LabelRef(done))
	DECQ(rounds)
	JNZ(LabelRef(round))
	Label(done)
	for h := range 2 {
		t := v(4)
		m := g.m(0, 5)
		VDIVPS(v(2+h), v(h), t)
		g.zero(v(6))
		g.greater(v(2+h), v(6), m)
		VMOVAPS(v(6), v(7))
		g.take(m, t, v(7))
		// A sub-block of next to nothing has no scale.
		VMOVUPS(g.field(s, scaleSums, h), t)
		VMOVUPS(constant(tiny), v(8))
		g.less(t, v(8), m)
		g.take(m, v(6), v(7))
		VMOVUPS(v(7), g.field(s, scaleScale, h))
	}
	g.end()
}
