package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// IQ4: sixteen values, not evenly spaced. The borders between their nearest
// neighbourhoods are multiples of 1/2, so the floor of 2v decides, and a table
// over it, of 1024 entries that wrap around, replaces the search.

const (
	tableMask = 1023
	minus127  = 0xc2fe0000
	two       = 0x40000000
)

// The fields of SearchIQ4's state, in the order of the Go struct.
const (
	iq4Scale = iota
	iq4Best
	iq4Peak
	iq4Fields
)

// gather loads the entries of a table with 32-bit elements that the integers
// in register i choose into register j, using register m as a mask.
func (g *gen) gather(table reg.Register, i, j, m int) {
	from := Mem{Base: table, Index: g.v(i), Scale: 4}
	if g.wide() {
		KXNORW(reg.K4, reg.K4, reg.K4)
		VGATHERDPS(from, reg.K4, g.v(j))
		return
	}
	VPCMPEQD(g.v(m), g.v(m), g.v(m))
	VGATHERDPS(g.v(m), from, g.v(j))
}

// floorIndex turns register i from twice a value into an index of the table.
func (g *gen) floorIndex(i int) {
	v := g.v(i)
	if g.wide() {
		VRNDSCALEPS(Imm(1), v, v)
		VCVTTPS2DQ(v, v)
		VPANDD(g.c(tableMask), v, v)
		return
	}
	VROUNDPS(Imm(1), v, v)
	VCVTTPS2DQ(v, v)
	VPAND(g.c(tableMask), v, v)
}

// searchIQ4 is the plain encoder's searchIQ4 for a pair of registers of
// sub-blocks of 32.
func (g *gen) searchIQ4(name string, from weights) {
	g.begin(name, "func(x, w, table, s *float32)", "fits the scale of two registers of sub-blocks of 32 weights.")
	x, w, table, s := Load(Param("x"), GP64()), Load(Param("w"), GP64()), Load(Param("table"), GP64()), Load(Param("s"), GP64())
	end := GP64()
	MOVQ(U32(32*g.row()), end)
	v := g.v
	abs := g.c(magnitude)
	g.c(tableMask)
	halves := []int{0, 1}

	// The first element of the largest magnitude. v0: magnitude, v2: element.
	for _, h := range halves {
		g.zero(v(h))
		g.zero(v(2 + h))
	}
	g.each(end, func(at reg.Register) {
		for _, h := range halves {
			t, u, m := v(4+h), v(6+h), g.m(h, 8+h)
			VMOVUPS(g.at(x, at, h), t)
			VANDPS(abs, t, u)
			g.greater(u, v(h), m)
			g.take(m, u, v(h))
			g.take(m, t, v(2+h))
			if from == bySquare {
				VMULPS(t, t, t)
				VMOVUPS(t, g.at(w, at, h))
			}
		}
	})
	for _, h := range halves {
		VMOVUPS(v(h), g.field(s, iq4Best, h)) // for a while the largest magnitude
		VMOVUPS(v(2+h), g.field(s, iq4Peak, h))
	}

	// fit sets v2 to the sums of weight * value * x and v4 to those of weight
	// * value * value for the inverse scales v0.
	fit := func() {
		for _, h := range halves {
			VADDPS(v(h), v(h), v(h))
			g.zero(v(2 + h))
			g.zero(v(4 + h))
		}
		g.each(end, func(at reg.Register) {
			for _, h := range halves {
				e, i, q := v(6+4*h), 7+4*h, v(8+4*h)
				VMOVUPS(g.at(x, at, h), e)
				VMULPS(v(h), e, v(i))
				g.floorIndex(i)
				g.gather(table, i, 8+4*h, 9+4*h)
				VMULPS(g.at(w, at, h), q, v(i))
				VMULPS(e, v(i), e)
				VADDPS(e, v(2+h), v(2+h))
				VMULPS(q, v(i), q)
				VADDPS(q, v(4+h), v(4+h))
			}
		})
	}
	for _, h := range halves {
		// -peak / -127 is peak / 127 in every bit.
		VMOVUPS(g.field(s, iq4Peak, h), v(h))
		VXORPS(constant(minusZero), v(h), v(h))
		VDIVPS(constant(minus127), v(h), v(h))
		VMOVUPS(constant(one), v(6))
		VDIVPS(v(h), v(6), v(h))
	}
	fit()
	for _, h := range halves {
		m, zero, t := g.m(0, 6), v(7), v(8)
		g.zero(zero)
		g.greater(v(4+h), zero, m)
		VDIVPS(v(4+h), v(2+h), t)
		g.take(m, t, zero)
		// Where the whole sub-block is negligible the scale is 0; the best
		// becomes infinite, so that no trial is taken.
		VMULPS(v(2+h), zero, t)
		VMOVUPS(g.field(s, iq4Best, h), v(9))
		g.less(v(9), constant(tiny), m)
		g.zero(v(9))
		g.take(m, v(9), zero)
		VMOVUPS(constant(infinity), v(9))
		g.take(m, v(9), t)
		VMOVUPS(zero, g.field(s, iq4Scale, h))
		VMOVUPS(t, g.field(s, iq4Best, h))
	}

	numerator, left := GP64(), GP64()
	LEAQ(Mem{Base: s, Disp: 128 * iq4Fields}, numerator)
	MOVQ(U32(15), left)
	step := g.label("step")
	Label(step)
	for _, h := range halves {
		VBROADCASTSS(Mem{Base: numerator}, v(h))
		VDIVPS(g.field(s, iq4Peak, h), v(h), v(h))
	}
	fit()
	for _, h := range halves {
		m, n := g.m(0, 6), g.m(1, 7)
		t, u := v(8), v(9)
		VMULPS(v(2+h), v(2+h), t)
		VMOVUPS(g.field(s, iq4Best, h), u)
		VMULPS(v(4+h), u, v(10))
		g.greater(t, v(10), m)
		g.zero(t)
		g.greater(v(4+h), t, n)
		g.both(n, m)
		VDIVPS(v(4+h), v(2+h), t)
		VMULPS(v(2+h), t, v(10))
		g.take(m, v(10), u)
		VMOVUPS(u, g.field(s, iq4Best, h))
		VMOVUPS(g.field(s, iq4Scale, h), u)
		g.take(m, t, u)
		VMOVUPS(u, g.field(s, iq4Scale, h))
	}
	ADDQ(Imm(4), numerator)
	DECQ(left)
	JNZ(LabelRef(step))
	g.end()
}

// packIQ4 writes the codes of groups of 32 weights, sixteen bytes each, and
// moves on by stride bytes from group to group.
func (g *gen) packIQ4() {
	g.begin("PackIQ4", "func(dst *byte, stride int, x, inverses *float32, table *int32, groups int)",
		"writes the codes of groups of 32 weights, each sixteen bytes, stride bytes apart.")
	dst, stride := Load(Param("dst"), GP64()), Load(Param("stride"), GP64())
	from, inverses := Load(Param("x"), GP64()), Load(Param("inverses"), GP64())
	table, groups := Load(Param("table"), GP64()), Load(Param("groups"), GP64())
	v, registers := g.v, 32/g.lanes
	g.c(tableMask)
	low, high := g.c(0xc3800000), g.c(0x43800000) // -256, 256
	loop := g.label("loop")
	Label(loop)
	VBROADCASTSS(Mem{Base: inverses}, v(12))
	for i := range registers {
		// Doubling the product is exact; NaNs take the highest code.
		VMULPS(Mem{Base: from, Disp: i * g.vector()}, v(12), v(8))
		VADDPS(v(8), v(8), v(8))
		VMINPS(high, v(8), v(8))
		VMAXPS(low, v(8), v(8))
		g.floorIndex(8)
		g.gather(table, 8, i, 9)
	}
	for i := range registers / 2 {
		VPSLLD(Imm(4), v(registers/2+i), v(8))
		if g.wide() {
			VPORD(v(8), v(i), v(i))
		} else {
			VPOR(v(8), v(i), v(i))
		}
	}
	if g.wide() {
		VPMOVDB(v(0), Mem{Base: dst})
	} else {
		VPACKSSDW(v(1), v(0), v(0))
		VPERMQ(Imm(0xd8), v(0), v(0))
		VEXTRACTI128(Imm(1), v(0), x(1))
		VPACKUSWB(x(1), x(0), x(0))
		VMOVDQU(x(0), Mem{Base: dst})
	}
	ADDQ(stride, dst)
	SUBQ(I8(-128), from)
	ADDQ(Imm(4), inverses)
	DECQ(groups)
	JNZ(LabelRef(loop))
	g.end()
}
