// Command gen writes the assembly of package simd: every kernel once for
// AVX-512 and once for AVX2, from the same description.
//
// Kernels work on lanes: element i of many sub-blocks side by side, so that
// each lane does the operations of the plain Go encoder in the plain Go
// encoder's order. No fused multiply-add is used, and minimum, maximum and
// comparisons keep the operand order that gives C's result for signed zeros.
package main

import (
	"flag"
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func main() {
	lattices := flag.Bool("iq", false, "write the kernels of the IQ types, not the others")
	flag.Parse()
	ConstraintExpr("amd64,!purego")
	if *lattices {
		iq()
		Generate()
		return
	}
	for _, g := range []*gen{{name: "AVX512", lanes: 16}, {name: "AVX2", lanes: 8}} {
		g.transpose()
		g.searchMinimum("SearchMinimumByEnergy", byEnergy, false)
		g.searchMinimum("SearchMinimumByMagnitude", byMagnitude, true)
		g.searchMinimum("SearchMinimumWeighted", weighted, false)
		g.searchScale("SearchScaleBySquare", bySquare)
		g.searchScale("SearchScaleWeighted", weighted)
		g.refineScale()
		g.searchPositive()
		g.levels("DivideLevels", true)
		g.levels("MultiplyLevels", false)
		g.weigh()
		g.conversions()
		g.encodeBlocks("EncodeQ4_0", 4, false)
		g.encodeBlocks("EncodeQ4_1", 4, true)
		g.encodeBlocks("EncodeQ5_0", 5, false)
		g.encodeBlocks("EncodeQ5_1", 5, true)
		g.encodeBlocks("EncodeQ8_0", 8, false)
		g.decodeBlocks("DecodeQ4_0", 4, false)
		g.decodeBlocks("DecodeQ4_1", 4, true)
		g.decodeBlocks("DecodeQ5_0", 5, false)
		g.decodeBlocks("DecodeQ5_1", 5, true)
		g.decodeBlocks("DecodeQ8_0", 8, false)
		for _, b := range minimumBlocks {
			g.decodeMinimums(b)
		}
		g.scaleLevels()
		g.roundLevels()
		g.magnitudes()
		g.nearestFP4()
		g.values("ValuesFP4", codeTable("fp4", fp4))
		g.values("ValuesIQ4", codeTable("iq4", iq4))
	}
	lowBits()
	sums("SumSquares", "squares", func(t reg.Register) { VMULPS(t, t, t) })
	sums("SumMagnitudes", "magnitudes", func(t reg.Register) { VANDPS(constant(magnitude), t, t) })
	packs()
	unpacks()
	Generate()
}

// gen writes kernels for one width of register.
type gen struct {
	name   string
	lanes  int
	consts map[uint32]Op
	used   int
	labels int
}

// weights is where the weights of a search come from.
type weights int

const (
	weighted    weights = iota // given, in lanes
	byEnergy                   // root mean square + |x|
	byMagnitude                // |x|
	bySquare                   // x*x
)

// vector is the size of a register and row the distance of one element from
// the next in lanes: a kernel works on a pair of registers.
func (g *gen) vector() int { return 4 * g.lanes }
func (g *gen) row() int    { return 2 * g.vector() }

func (g *gen) wide() bool { return g.lanes == 16 }

// v is vector register i. Kernels use at most sixteen of them, so that AVX2
// can hold them, and leave the others to constants.
func (g *gen) v(i int) reg.VecPhysical {
	if g.wide() {
		return []reg.VecPhysical{reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7,
			reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
			reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23,
			reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31}[i]
	}
	return []reg.VecPhysical{reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7,
		reg.Y8, reg.Y9, reg.Y10, reg.Y11, reg.Y12, reg.Y13, reg.Y14, reg.Y15}[i]
}

// begin starts a kernel.
func (g *gen) begin(name, signature, doc string) {
	TEXT(name+g.name, NOSPLIT, signature)
	Pragma("noescape")
	Doc(name + g.name + " " + doc)
	g.consts = map[uint32]Op{}
	g.used = 31
}

// end finishes a kernel.
func (g *gen) end() {
	VZEROUPPER()
	RET()
}

// c is the constant with the given bits in every lane: a register of its own
// where there are enough, memory otherwise. AVX-512 kernels name theirs before
// their loops.
func (g *gen) c(bits uint32) Op {
	if op, ok := g.consts[bits]; ok {
		return op
	}
	mem := constant(bits)
	op := Op(mem)
	if g.wide() {
		r := g.v(g.used)
		g.used--
		VMOVUPS(mem, r)
		op = r
	}
	g.consts[bits] = op
	return op
}

var constants = map[uint32]Mem{}

// constant is 64 bytes of memory holding the same 32 bits.
func constant(bits uint32) Mem {
	if mem, ok := constants[bits]; ok {
		return mem
	}
	mem := GLOBL(fmt.Sprintf("bits%08x", bits), RODATA|NOPTR)
	for i := range 16 {
		DATA(4*i, U32(bits))
	}
	constants[bits] = mem
	return mem
}

const (
	magnitude = 0x7fffffff
	rounder   = 0x4b400000 // 1.5 * 2^23
	one       = 0x3f800000
	minusZero = 0x80000000
	eighth4   = 0x3d000000 // 1/32
	tiny      = 0x26901d7d // 1e-15
)

// label returns a name that is new to the kernel.
func (g *gen) label(what string) string {
	g.labels++
	return fmt.Sprintf("%s%d", what, g.labels)
}

// each runs body for every element: at is the offset of its lanes.
func (g *gen) each(end reg.Register, body func(at reg.Register)) {
	at := GP64()
	loop := g.label("loop")
	XORQ(at, at)
	Label(loop)
	body(at)
	ADDQ(U32(g.row()), at)
	CMPQ(at, end)
	JB(LabelRef(loop))
}

// mask is the result of a comparison: a mask register, or a vector of ones.
type mask = reg.Register

// less sets m where a < b, both ordered; b may be memory.
func (g *gen) less(a reg.Register, b Op, m mask) { VCMPPS(Imm(17), b, a, m) }

// greater sets m where a > b.
func (g *gen) greater(a reg.Register, b Op, m mask) { VCMPPS(Imm(30), b, a, m) }

// equal sets m where a == b.
func (g *gen) equal(a reg.Register, b Op, m mask) { VCMPPS(Imm(0), b, a, m) }

// unequal sets m where a != b or either is NaN, as C's !=.
func (g *gen) unequal(a reg.Register, b Op, m mask) { VCMPPS(Imm(4), b, a, m) }

// m is mask i, kept in vector register r where there are no mask registers.
func (g *gen) m(i, r int) mask {
	if g.wide() {
		return []mask{reg.K1, reg.K2, reg.K3, reg.K4}[i]
	}
	return g.v(r)
}

// both narrows m to n.
func (g *gen) both(n, m mask) {
	if g.wide() {
		KANDW(n, m, m)
	} else {
		VANDPS(n, m, m)
	}
}

// take replaces dst by src where m.
func (g *gen) take(m mask, src, dst reg.Register) {
	if g.wide() {
		VMOVAPS(src, m, dst)
	} else {
		VBLENDVPS(m, src, dst, dst)
	}
}

// zero clears r.
func (g *gen) zero(r reg.Register) {
	if g.wide() {
		VPXORD(r, r, r)
	} else {
		VXORPS(r, r, r)
	}
}

// nearest makes t the nearest integer, ties to even; where that is zero, its
// sign is that of t.
func (g *gen) nearest(t reg.Register) {
	if g.wide() {
		VRNDSCALEPS(Imm(0), t, t)
	} else {
		VROUNDPS(Imm(0), t, t)
	}
}

// round makes t the nearest integer within [low, high].
func (g *gen) round(t reg.Register, low, high Op) {
	g.nearest(t)
	VMAXPS(low, t, t)
	VMINPS(high, t, t)
}

// notBelowZero makes negative numbers zero. As integers the bits of floats that
// are not negative are in the floats' order and those of others below zero, and
// more units compare integers.
func (g *gen) notBelowZero(t reg.Register) { VPMAXSD(g.c(0), t, t) }

// notAbove makes numbers above top, which is not negative, top.
func (g *gen) notAbove(t reg.Register, top Op) { VPMINSD(top, t, t) }

// at is element memory: register half (0 or 1) of the pair.
func (g *gen) at(base, index reg.Register, half int) Mem {
	m := Mem{Base: base, Disp: half * g.vector()}
	if index != nil {
		m.Index, m.Scale = index, 1
	}
	return m
}

// field is register half of field i of a state; fields are 32 floats.
func (g *gen) field(state reg.Register, i, half int) Mem {
	return Mem{Base: state, Disp: 128*i + half*g.vector()}
}

// The fields of SearchMinimum's state, in the order of the Go struct.
const (
	minScale = iota
	minLow
	minInverse
	minFrom
	minSums
	minWorst
	minTop
	minHigh
	minFirst
	minSumX
	minBest
	minDeterminant
	minTrial
	minFields
)

// searchMinimum is the plain encoder's searchScaleMin for a pair of registers
// of sub-blocks.
func (g *gen) searchMinimum(name string, from weights, magnitudes bool) {
	g.begin(name, "func(x, w, l *float32, s *float32, n int)",
		"fits scale and minimum of two registers of sub-blocks of n elements.")
	x, w, l, s := Load(Param("x"), GP64()), Load(Param("w"), GP64()), Load(Param("l"), GP64()), Load(Param("s"), GP64())
	end := Load(Param("n"), GP64())
	IMUL3Q(U32(g.row()), end, end)
	v := g.v
	abs := g.c(magnitude)
	g.c(0)
	halves := []int{0, 1}

	// Weights. v0, v1: sums of squares, then means.
	if from == byEnergy {
		for _, h := range halves {
			g.zero(v(h))
		}
		g.each(end, func(at reg.Register) {
			for _, h := range halves {
				VMOVUPS(g.at(x, at, h), v(2+h))
				VMULPS(v(2+h), v(2+h), v(2+h))
				VADDPS(v(2+h), v(h), v(h))
			}
		})
		for _, h := range halves {
			VMULPS(g.c(eighth4), v(h), v(h))
			VSQRTPS(v(h), v(h))
		}
	}
	// Range and sums. v2: low, v4: high, v6: sum of w, v8: sum of w x.
	for _, h := range halves {
		VMOVUPS(g.at(x, nil, h), v(2+h))
		VMOVAPS(v(2+h), v(4+h))
		VMOVUPS(constant(minusZero), v(6+h))
		VMOVAPS(v(6+h), v(8+h))
	}
	g.each(end, func(at reg.Register) {
		for _, h := range halves {
			t, u := v(10+h), v(12+h)
			VMOVUPS(g.at(x, at, h), t)
			VMINPS(v(2+h), t, v(2+h))
			VMAXPS(v(4+h), t, v(4+h))
			if from == weighted {
				VMOVUPS(g.at(w, at, h), u)
			} else {
				VANDPS(abs, t, u)
				if from == byEnergy {
					VADDPS(u, v(h), u)
				}
				VMOVUPS(u, g.at(w, at, h))
			}
			VADDPS(u, v(6+h), v(6+h))
			VMULPS(t, u, u)
			VADDPS(u, v(8+h), v(8+h))
		}
	})
	for _, h := range halves {
		low, high := v(2+h), v(4+h)
		g.zero(v(10))
		VMINPS(low, v(10), low)
		VMOVUPS(low, g.field(s, minLow, h))
		VMOVUPS(low, g.field(s, minFirst, h))
		VMOVUPS(low, g.field(s, minFrom, h))
		VMOVUPS(high, g.field(s, minHigh, h))
		VMOVUPS(v(6+h), g.field(s, minSums, h))
		VMOVUPS(v(8+h), g.field(s, minSumX, h))
		// What is not finite shows in the sums: worst becomes NaN.
		VSUBPS(v(6+h), v(6+h), v(6+h))
		VSUBPS(v(8+h), v(8+h), v(8+h))
		VADDPS(v(6+h), v(8+h), v(8+h))
		// The first levels span the whole range. v0: inverse.
		VSUBPS(low, high, v(10))
		VMOVUPS(g.field(s, minTop, h), v(h))
		VDIVPS(v(10), v(h), v(h))
		VMOVUPS(v(h), g.field(s, minInverse, h))
		VMULPS(v(h), v(10), v(10))
		VANDPS(abs, v(10), v(10))
		VADDPS(v(10), v(8+h), v(8+h))
		VMOVUPS(v(8+h), g.field(s, minWorst, h))
	}
	top := Op(Mem{Base: s, Disp: 128 * minTop})
	if g.wide() {
		r := v(g.used)
		g.used--
		VMOVUPS(top, r)
		top = r
	}
	g.each(end, func(at reg.Register) {
		for _, h := range halves {
			t := v(10 + h)
			VMOVUPS(g.at(x, at, h), t)
			VSUBPS(v(2+h), t, t)
			VMULPS(v(h), t, t)
			g.nearest(t)
			g.notBelowZero(t)
			g.notAbove(t, top)
			VMOVUPS(t, g.at(l, at, h))
		}
	})
	for _, h := range halves {
		VMOVUPS(constant(one), v(4+h))
		VDIVPS(v(h), v(4+h), v(4+h))
		VMOVUPS(v(4+h), g.field(s, minScale, h))
	}
	for _, h := range halves {
		g.loss(x, w, l, end, h, magnitudes)
		VMOVUPS(v(6+h), g.field(s, minBest, h))
	}

	numerator, left := GP64(), GP64()
	LEAQ(Mem{Base: s, Disp: 128*minFields + 8}, numerator)
	MOVQ(Mem{Base: s, Disp: 128 * minFields}, left)
	// Trials whose numerators are below the bound reach no level above the top.
	bound := GP32()
	VMOVSS(Mem{Base: s, Disp: 128 * minTop}, reg.X0)
	VADDSS(constant(bitsOf(0.49)), reg.X0, reg.X0)
	VMOVD(reg.X0, bound)
	step := g.label("step")
	Label(step)
	// The two registers take turns, so that the divisions of one pass while the
	// other is summed.
	for _, h := range halves {
		// Levels of this trial. v0: inverse, v2: low, v4, v6, v8: sums of w l,
		// w l l, w l x.
		inverse, low, t, u := v(h), v(2+h), v(10), v(11)
		VMOVUPS(g.field(s, minLow, h), low)
		VMOVUPS(g.field(s, minHigh, h), t)
		VSUBPS(low, t, t)
		inverted := GP32() // lanes whose lowest value is above the highest
		if g.wide() {
			g.less(t, g.c(0), reg.K1)
			KMOVW(reg.K1, inverted)
		} else {
			VMOVMSKPS(t, inverted)
		}
		VBROADCASTSS(Mem{Base: numerator}, inverse)
		VDIVPS(t, inverse, inverse)
		VMOVUPS(inverse, g.field(s, minTrial, h))
		// The levels before clamping lie between those of the two ends.
		VMULPS(inverse, t, t)
		VANDPS(abs, t, t)
		VMOVUPS(g.field(s, minFirst, h), u)
		VSUBPS(low, u, u)
		VMULPS(inverse, u, u)
		VANDPS(abs, u, u)
		VADDPS(u, t, t)
		VADDPS(g.field(s, minWorst, h), t, t)
		VMOVUPS(t, g.field(s, minWorst, h))
		for i := 4; i <= 8; i += 2 {
			g.zero(v(i + h))
		}
		fit := func(clamp bool) {
			g.each(end, func(at reg.Register) {
				t, e, u := v(10), v(11), v(12)
				VMOVUPS(g.at(x, at, h), e)
				VSUBPS(v(2+h), e, t)
				VMULPS(v(h), t, t)
				g.nearest(t)
				g.notBelowZero(t)
				if clamp {
					g.notAbove(t, top)
				}
				VMOVUPS(t, g.at(l, at, h))
				VMULPS(g.at(w, at, h), t, u)
				VADDPS(u, v(4+h), v(4+h))
				VMULPS(e, u, e)
				VADDPS(e, v(8+h), v(8+h))
				VMULPS(t, u, t)
				VADDPS(t, v(6+h), v(6+h))
			})
		}
		above, fitted := g.label("above"), g.label("fitted")
		CMPL(bound, Mem{Base: numerator})
		JBE(LabelRef(above))
		TESTL(inverted, inverted)
		JNZ(LabelRef(above))
		fit(false)
		JMP(LabelRef(fitted))
		Label(above)
		fit(true)
		Label(fitted)
		// Least squares. The results go to v4 (scale) and v2 (low).
		sl, sl2, sxl := v(4+h), v(6+h), v(8+h)
		d, a, b := v(10), v(11), v(12)
		t = v(13)
		VMOVUPS(g.field(s, minSums, h), a)
		VMULPS(sl2, a, d)
		VMULPS(sl, sl, t)
		VSUBPS(t, d, d)
		VMOVUPS(d, g.field(s, minDeterminant, h))
		VMULPS(sxl, a, a)
		VMOVUPS(g.field(s, minSumX, h), b)
		VMULPS(sl, b, t)
		VSUBPS(t, a, a)
		VDIVPS(d, a, a)
		VMULPS(b, sl2, b)
		VMULPS(sxl, sl, t)
		VSUBPS(t, b, b)
		VDIVPS(d, b, b)
		// Data on both sides of zero seldom has its lowest value above it.
		m := g.m(0, 14)
		g.zero(v(15))
		g.greater(b, v(15), m)
		below, bits := g.label("below"), GP32()
		if g.wide() {
			KMOVW(m, bits)
		} else {
			VMOVMSKPS(m, bits)
		}
		TESTL(bits, bits)
		JZ(LabelRef(below))
		VDIVPS(sl2, sxl, t)
		g.take(m, t, a)
		g.take(m, v(15), b)
		Label(below)
		VMOVAPS(a, v(4+h))
		VMOVAPS(b, v(2+h))
	}
	for _, h := range halves {
		g.loss(x, w, l, end, h, magnitudes)
		m, n := g.m(0, 10), g.m(1, 11)
		t, u := v(12), v(13)
		VMOVUPS(g.field(s, minBest, h), t)
		g.less(v(6+h), t, m)
		g.zero(v(14))
		VMOVUPS(g.field(s, minDeterminant, h), u)
		g.greater(u, v(14), n)
		g.both(n, m)
		g.take(m, v(6+h), t)
		VMOVUPS(t, g.field(s, minBest, h))
		VMOVUPS(g.field(s, minScale, h), t)
		g.take(m, v(4+h), t)
		VMOVUPS(t, g.field(s, minScale, h))
		VMOVUPS(g.field(s, minLow, h), t)
		VMOVUPS(g.field(s, minFrom, h), u)
		g.take(m, t, u)
		g.take(m, v(2+h), t)
		VMOVUPS(u, g.field(s, minFrom, h))
		VMOVUPS(t, g.field(s, minLow, h))
		VMOVUPS(g.field(s, minInverse, h), t)
		VMOVUPS(g.field(s, minTrial, h), u)
		g.take(m, u, t)
		VMOVUPS(t, g.field(s, minInverse, h))
	}
	ADDQ(Imm(4), numerator)
	DECQ(left)
	JNZ(LabelRef(step))

	// A sub-block without a range has no scale, and its lowest value is that
	// of the data.
	for _, h := range halves {
		m := g.m(0, 0)
		first, t := v(1), v(2)
		VMOVUPS(g.field(s, minFirst, h), first)
		VMOVUPS(g.field(s, minHigh, h), t)
		g.equal(t, first, m)
		VMOVUPS(g.field(s, minLow, h), t)
		g.take(m, first, t)
		VMOVUPS(t, g.field(s, minLow, h))
		g.zero(v(3))
		for _, f := range []int{minScale, minInverse, minWorst} {
			VMOVUPS(g.field(s, f, h), t)
			g.take(m, v(3), t)
			VMOVUPS(t, g.field(s, f, h))
		}
	}
	g.end()
}

// loss sets v6 to the weighted error of the levels with scales v4 and lowest
// values v2, in half h.
func (g *gen) loss(x, w, l, end reg.Register, h int, magnitudes bool) {
	v := g.v
	g.zero(v(6 + h))
	g.each(end, func(at reg.Register) {
		t := v(10)
		VMULPS(g.at(l, at, h), v(4+h), t)
		VADDPS(v(2+h), t, t)
		VSUBPS(g.at(x, at, h), t, t)
		if magnitudes {
			VANDPS(g.c(magnitude), t, t)
		} else {
			VMULPS(t, t, t)
		}
		VMULPS(g.at(w, at, h), t, t)
		VADDPS(t, v(6+h), v(6+h))
	})
}

// The fields of SearchScale's state, in the order of the Go struct.
const (
	scaleScale = iota
	scaleInverse
	scaleSums
	scaleWorst
	scaleLow
	scaleHigh
	scaleFields
)

// scaleTrials are the scales tried after the first, in tenths of a level.
var scaleTrials = [18]int{-9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9}

// searchScale is the plain encoder's searchScale for a pair of registers of
// sub-blocks. The trials do not depend on each other, so several run at once.
func (g *gen) searchScale(name string, from weights) {
	g.begin(name, "func(x, w, wx, s *float32, n, registers int)",
		"fits the scale of one or two registers of sub-blocks of n elements.")
	x, w, wx, s := Load(Param("x"), GP64()), Load(Param("w"), GP64()), Load(Param("wx"), GP64()), Load(Param("s"), GP64())
	end := Load(Param("n"), GP64())
	IMUL3Q(U32(g.row()), end, end)
	registers := Load(Param("registers"), GP64())
	v := g.v
	abs := g.c(magnitude)
	low, high := Op(Mem{Base: s, Disp: 128 * scaleLow}), Op(Mem{Base: s, Disp: 128 * scaleHigh})
	together := 2
	if g.wide() {
		together = 3
		for _, op := range []*Op{&low, &high} {
			r := v(g.used)
			g.used--
			VMOVUPS(*op, r)
			*op = r
		}
	}
	// v0: peak, v1: scale, v2: best, v3: inverse. Trial c has the sums v(4+2c)
	// and v(5+2c), the inverse v(in+c) and two temporaries from v(tmp+2c).
	peak, scale, best, inverse := v(0), v(1), v(2), v(3)
	in := 4 + 2*together
	tmp := in + together

	// fit rounds with the inverses of some trials and sums w x l and w l l.
	// Trial i maps the peak to -(top + i/10), and everything else to what is
	// nearer to zero: only from 5 on can a level be below -top, and only from
	// -5 on above top-1.
	fit := func(h int, trials []int) {
		for i := range 2 * len(trials) {
			g.zero(v(4 + i))
		}
		g.each(end, func(at reg.Register) {
			for c, trial := range trials {
				t, u := v(tmp+2*c), v(tmp+2*c+1)
				VMULPS(g.at(x, at, h), v(in+c), t)
				g.nearest(t)
				if trial >= 5 {
					VMAXPS(low, t, t)
				}
				if trial >= -5 {
					VMINPS(high, t, t)
				}
				VMULPS(g.at(wx, at, h), t, u)
				VADDPS(u, v(4+2*c), v(4+2*c))
				VMULPS(g.at(w, at, h), t, u)
				VMULPS(t, u, t)
				VADDPS(t, v(5+2*c), v(5+2*c))
			}
		})
	}
	for h := range 2 {
		// The peak; v4: its magnitude, v5: sum of w, v6: NaN where anything is
		// not finite.
		for _, r := range []int{0, 4, 5, 6} {
			g.zero(v(r))
		}
		g.each(end, func(at reg.Register) {
			t, a := v(7), v(8)
			VMOVUPS(g.at(x, at, h), t)
			VANDPS(abs, t, a)
			m := g.m(0, 9)
			g.greater(a, v(4), m)
			g.take(m, t, peak)
			VMAXPS(v(4), a, v(4))
			if from == bySquare {
				VMULPS(t, t, a)
				VMOVUPS(a, g.at(w, at, h))
			} else {
				VMOVUPS(g.at(w, at, h), a)
			}
			VADDPS(a, v(5), v(5))
			VMULPS(t, a, a)
			VMOVUPS(a, g.at(wx, at, h))
			VSUBPS(a, a, a)
			VADDPS(a, v(6), v(6))
		})
		VMOVUPS(v(5), g.field(s, scaleSums, h))
		VMOVUPS(v(6), g.field(s, scaleWorst, h))
		// The first trial needs no comparison.
		VMOVUPS(low, v(in))
		VDIVPS(peak, v(in), v(in))
		VMOVAPS(v(in), inverse)
		fit(h, []int{0})
		VDIVPS(v(5), v(4), scale)
		g.zero(v(6))
		m := g.m(0, 7)
		g.equal(v(5), v(6), m)
		g.take(m, v(6), scale)
		VMULPS(v(4), scale, best)

		for first := 0; first < len(scaleTrials); first += together {
			trials := scaleTrials[first:][:together]
			for c := range trials {
				VBROADCASTSS(Mem{Base: s, Disp: 128*scaleFields + 4*(first+c)}, v(in+c))
				VDIVPS(peak, v(in+c), v(in+c))
			}
			fit(h, trials)
			for c := range trials {
				lx, l2 := v(4+2*c), v(5+2*c)
				t := v(tmp)
				m, n := g.m(0, tmp+1), g.m(1, tmp+2)
				VMULPS(lx, lx, t)
				VMULPS(l2, best, v(tmp+3))
				g.greater(t, v(tmp+3), m)
				g.zero(t)
				g.greater(l2, t, n)
				g.both(n, m)
				VDIVPS(l2, lx, t)
				g.take(m, t, scale)
				VMULPS(lx, t, t)
				g.take(m, t, best)
				g.take(m, v(in+c), inverse)
			}
		}

		// A sub-block of next to nothing has no scale.
		VANDPS(abs, peak, v(4))
		VMOVUPS(constant(tiny), v(5))
		m = g.m(0, 6)
		g.less(v(4), v(5), m)
		g.zero(v(5))
		g.take(m, v(5), scale)
		g.take(m, v(5), inverse)
		VMOVUPS(scale, g.field(s, scaleScale, h))
		VMOVUPS(inverse, g.field(s, scaleInverse, h))
		if h == 0 {
			CMPQ(registers, Imm(2))
			JNE(LabelRef("one"))
		}
	}
	Label("one")
	g.end()
}

// levels writes the levels of runs of sixteen weights, in row order: the
// nearest integers of (x + m) / d or of (x - m) * d, clamped, plus a bias. It
// is exact for every value, like the plain encoder's nearestInt.
func (g *gen) levels(name string, divide bool) {
	g.begin(name, "func(levels *byte, x, d, m *float32, runs int, low, high, bias int32)",
		"writes the levels of runs of 16 weights; d and m hold one value per run.")
	out, x, d, m := Load(Param("levels"), GP64()), Load(Param("x"), GP64()), Load(Param("d"), GP64()), Load(Param("m"), GP64())
	runs := Load(Param("runs"), GP64())
	v := g.v
	low, high, bias := v(10), v(11), v(12)
	for i, name := range []string{"low", "high", "bias"} {
		addr, err := Param(name).Resolve()
		if err != nil {
			panic(err)
		}
		VBROADCASTSS(addr.Addr, []reg.Register{low, high, bias}[i])
	}
	mantissa, offset := v(13), v(14)
	VMOVUPS(constant(0x7fffff), mantissa)
	VMOVUPS(constant(0x400000), offset)
	rounder := g.c(rounder)
	loop := g.label("loop")
	Label(loop)
	registers := 16 / g.lanes
	for h := range registers {
		t, p := v(h), v(4)
		VBROADCASTSS(Mem{Base: m}, p)
		VMOVUPS(Mem{Base: x, Disp: h * g.vector()}, t)
		if divide {
			VADDPS(p, t, t)
			VBROADCASTSS(Mem{Base: d}, p)
			VDIVPS(p, t, t)
		} else {
			VSUBPS(p, t, t)
			VBROADCASTSS(Mem{Base: d}, p)
			VMULPS(p, t, t)
		}
		VADDPS(rounder, t, t)
		VANDPS(mantissa, t, t)
		VPSUBD(offset, t, t)
		VPMINSD(high, t, t)
		VPMAXSD(low, t, t)
		VPADDD(bias, t, t)
	}
	g.storeBytes(Mem{Base: out})
	ADDQ(Imm(16), out)
	ADDQ(Imm(64), x)
	ADDQ(Imm(4), d)
	ADDQ(Imm(4), m)
	DECQ(runs)
	JNZ(LabelRef(loop))
	g.end()
}

// weigh multiplies importance by sqrt(energy + x*x), in row order.
func (g *gen) weigh() {
	g.begin("Weigh", "func(w, importance, x *float32, energy float32, n int)",
		"sets w to importance * sqrt(energy + x*x) for n weights, a multiple of 16.")
	w, q, x := Load(Param("w"), GP64()), Load(Param("importance"), GP64()), Load(Param("x"), GP64())
	n := Load(Param("n"), GP64())
	addr, err := Param("energy").Resolve()
	if err != nil {
		panic(err)
	}
	energy := g.v(0)
	VBROADCASTSS(addr.Addr, energy)
	SHLQ(Imm(2), n)
	at := GP64()
	XORQ(at, at)
	loop := g.label("loop")
	Label(loop)
	t := g.v(1)
	VMOVUPS(Mem{Base: x, Index: at, Scale: 1}, t)
	VMULPS(t, t, t)
	VADDPS(t, energy, t)
	VSQRTPS(t, t)
	VMULPS(Mem{Base: q, Index: at, Scale: 1}, t, t)
	VMOVUPS(t, Mem{Base: w, Index: at, Scale: 1})
	ADDQ(U32(g.vector()), at)
	CMPQ(at, n)
	JB(LabelRef(loop))
	g.end()
}

// transpose turns 2*lanes sub-blocks of n elements into n rows of lanes.
func (g *gen) transpose() {
	g.begin("Transpose", "func(dst, src *float32, n int)",
		fmt.Sprintf("turns %d sub-blocks of n elements, n a multiple of 16, into n rows of lanes.", 2*g.lanes))
	dst, src := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
	n := Load(Param("n"), GP64())
	stride := GP64() // bytes of a sub-block
	MOVQ(n, stride)
	SHLQ(Imm(2), stride)
	for h := range 2 {
		if h == 1 {
			// src has advanced by one sub-block's length: go to the sub-blocks
			// of the second register, and dst back to the first row.
			back := GP64()
			MOVQ(stride, back)
			IMUL3Q(U32(g.lanes-1), back, back)
			ADDQ(back, src)
			MOVQ(stride, back)
			IMUL3Q(U32(g.row()/4), back, back)
			SUBQ(back, dst)
			ADDQ(U32(g.vector()), dst)
		}
		left := GP64()
		MOVQ(n, left)
		loop := g.label("loop")
		Label(loop)
		if g.wide() {
			g.tile16(dst, src, stride)
		} else {
			g.tile8(dst, src, stride)
		}
		ADDQ(U32(g.vector()), src)
		ADDQ(U32(g.lanes*g.row()), dst)
		SUBQ(Imm(uint64(g.lanes)), left)
		JNZ(LabelRef(loop))
	}
	g.end()
}

// rows loads one register from each of g.lanes sub-blocks into v0 and up.
func (g *gen) rows(src, stride reg.Register) {
	p := GP64()
	MOVQ(src, p)
	for i := range g.lanes {
		VMOVUPS(Mem{Base: p}, g.v(i))
		if i < g.lanes-1 {
			ADDQ(stride, p)
		}
	}
}

func (g *gen) tile8(dst, src, stride reg.Register) {
	v := g.v
	g.rows(src, stride)
	// Pairs, then quads, within 128 bits; then the halves.
	for i := 0; i < 8; i += 2 {
		VUNPCKLPS(v(i+1), v(i), v(8+i))
		VUNPCKHPS(v(i+1), v(i), v(9+i))
	}
	for i := 0; i < 8; i += 4 {
		VUNPCKLPD(v(8+i+2), v(8+i), v(i))
		VUNPCKHPD(v(8+i+2), v(8+i), v(i+1))
		VUNPCKLPD(v(8+i+3), v(8+i+1), v(i+2))
		VUNPCKHPD(v(8+i+3), v(8+i+1), v(i+3))
	}
	for i := range 4 {
		VPERM2F128(Imm(0x20), v(4+i), v(i), v(8+i))
		VPERM2F128(Imm(0x31), v(4+i), v(i), v(12+i))
	}
	for i := range 8 {
		VMOVUPS(v(8+i), Mem{Base: dst, Disp: i * g.row()})
	}
}

func (g *gen) tile16(dst, src, stride reg.Register) {
	v := g.v
	g.rows(src, stride)
	for i := 0; i < 16; i += 2 {
		VUNPCKLPS(v(i+1), v(i), v(16+i))
		VUNPCKHPS(v(i+1), v(i), v(17+i))
	}
	// v(4k + c): column c of each 128 bits, rows 4k to 4k+3.
	for i := 0; i < 16; i += 4 {
		VUNPCKLPD(v(16+i+2), v(16+i), v(i))
		VUNPCKHPD(v(16+i+2), v(16+i), v(i+1))
		VUNPCKLPD(v(16+i+3), v(16+i+1), v(i+2))
		VUNPCKHPD(v(16+i+3), v(16+i+1), v(i+3))
	}
	for c := range 4 {
		a, b, d, e := v(c), v(4+c), v(8+c), v(12+c)
		VSHUFF32X4(Imm(0x88), b, a, v(16)) // columns c, 8+c of rows 0-7
		VSHUFF32X4(Imm(0xdd), b, a, v(17)) // columns 4+c, 12+c
		VSHUFF32X4(Imm(0x88), e, d, v(18))
		VSHUFF32X4(Imm(0xdd), e, d, v(19))
		VSHUFF32X4(Imm(0x88), v(18), v(16), v(20))
		VSHUFF32X4(Imm(0xdd), v(18), v(16), v(21))
		VSHUFF32X4(Imm(0x88), v(19), v(17), v(22))
		VSHUFF32X4(Imm(0xdd), v(19), v(17), v(23))
		VMOVUPS(v(20), Mem{Base: dst, Disp: c * g.row()})
		VMOVUPS(v(22), Mem{Base: dst, Disp: (4 + c) * g.row()})
		VMOVUPS(v(21), Mem{Base: dst, Disp: (8 + c) * g.row()})
		VMOVUPS(v(23), Mem{Base: dst, Disp: (12 + c) * g.row()})
	}
}
