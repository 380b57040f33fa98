package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Kernels in row order, for types whose encoding needs no search. They return
// how many blocks (or weights) they have done: they stop before one that holds
// what they do not round as the plain encoder does.

const (
	infinity    = 0x7f800000
	leastNormal = 0x0d800000 // 2^-100: from here on 1/d is finite
	belowHalf   = 0x3effffff // the float32 before 0.5
	halfFloat   = 0x3f000000
)

// x is the low 128 bits of vector register i.
func x(i int) reg.VecPhysical {
	return []reg.VecPhysical{reg.X0, reg.X1, reg.X2, reg.X3, reg.X4, reg.X5, reg.X6, reg.X7,
		reg.X8, reg.X9, reg.X10, reg.X11, reg.X12, reg.X13, reg.X14, reg.X15}[i]
}

// reduce folds register i into its lowest element with op, using register t.
func (g *gen) reduce(i, t int, op func(a, b, c Op)) {
	if g.wide() {
		VEXTRACTF64X4(Imm(1), g.v(i), y(t))
		op(y(t), y(i), y(i))
	}
	VEXTRACTF128(Imm(1), y(i), x(t))
	op(x(t), x(i), x(i))
	VPSHUFD(Imm(0x4e), x(i), x(t))
	op(x(t), x(i), x(i))
	VPSHUFD(Imm(0xb1), x(i), x(t))
	op(x(t), x(i), x(i))
}

// firstEqual sets at to the index of the first of 32 elements whose register,
// passed through prepare into register t, equals register want.
func (g *gen) firstEqual(want, t int, at reg.GPVirtual, prepare func(i int) reg.VecPhysical) {
	bits := GP32()
	for i := range 32 / g.lanes {
		if g.wide() {
			VPCMPEQD(g.v(want), prepare(i), reg.K1)
			KMOVW(reg.K1, bits)
		} else {
			VPCMPEQD(g.v(want), prepare(i), g.v(t))
			VMOVMSKPS(g.v(t), bits)
		}
		if i == 0 {
			MOVL(bits, at.As32())
		} else {
			SHLL(U8(i*g.lanes), bits)
			ORL(bits, at.As32())
		}
	}
	TZCNTL(at.As32(), at.As32())
}

// largest loads a number of registers, and sets x8 to the bits of the largest
// magnitude in them, which it returns; infinities and NaNs are the largest. abs
// is the mask of magnitudes, register 9 is changed.
func (g *gen) largest(src reg.Register, registers int, abs Op) reg.GPVirtual {
	v := g.v
	for i := range registers {
		VMOVUPS(Mem{Base: src, Disp: i * g.vector()}, v(i))
		if i == 0 {
			VANDPS(abs, v(0), v(8))
			continue
		}
		VANDPS(abs, v(i), v(9))
		VPMAXUD(v(9), v(8), v(8))
	}
	g.reduce(8, 9, func(a, b, c Op) { VPMAXUD(a, b, c) })
	bits := GP32()
	VMOVD(x(8), bits)
	return bits
}

// scalar is a 32-bit constant in memory.
func scalar(bits uint32) Mem { return constant(bits) }

// encodeBlocks writes a kernel for a type of 32 weights per block: bits per
// weight, a minimum or a symmetric range.
func (g *gen) encodeBlocks(name string, bits int, minimum bool) {
	g.begin(name, "func(dst *byte, src *float32, blocks int) int",
		"encodes blocks of 32 weights and returns how many it has done.")
	dst, src := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
	blocks := Load(Param("blocks"), GP64())
	left := GP64()
	MOVQ(blocks, left)
	v, registers := g.v, 32/g.lanes
	size, at := 2+4*bits, 2
	if minimum {
		size, at = size+2, 4
	}
	abs := g.c(magnitude)
	var top, offset, half Op
	switch {
	case bits == 8:
		offset, half = g.c(minusZero), g.c(belowHalf)
	case minimum:
		offset = g.c(halfFloat)
	case bits == 4:
		top, offset = g.c(15), g.c(0x41080000) // 8.5
	case bits == 5:
		top, offset = g.c(31), g.c(0x41840000) // 16.5
	}
	var nibble, byteMask, fifth Op
	if bits == 5 {
		nibble = g.c(15)
		if g.wide() {
			fifth = g.c(16)
		}
	}
	if bits < 8 && !g.wide() {
		byteMask = g.c(255)
	}

	loop, stop, zero, scaled := g.label("loop"), g.label("stop"), g.label("zero"), g.label("scaled")
	Label(loop)
	TESTQ(left, left)
	JZ(LabelRef(stop))
	largest := g.largest(src, registers, abs)
	CMPL(largest, U32(infinity))
	JAE(LabelRef(stop))

	// x10: scale, x11: its inverse, x12: minimum.
	index := GP64()
	if minimum {
		VMOVAPS(v(0), v(12))
		VMOVAPS(v(0), v(13))
		for i := 1; i < registers; i++ {
			VMINPS(v(i), v(12), v(12))
			VMAXPS(v(i), v(13), v(13))
		}
		g.reduce(12, 9, func(a, b, c Op) { VMINPS(a, b, c) })
		g.reduce(13, 9, func(a, b, c Op) { VMAXPS(a, b, c) })
		// Of zeros of either sign the first is the minimum.
		VBROADCASTSS(x(12), v(14))
		bits := GP32()
		for i := range registers {
			if g.wide() {
				g.equal(v(i), v(14), reg.K1)
				KMOVW(reg.K1, bits)
			} else {
				g.equal(v(i), v(14), v(9))
				VMOVMSKPS(v(9), bits)
			}
			if i == 0 {
				MOVL(bits, index.As32())
			} else {
				SHLL(U8(i*g.lanes), bits)
				ORL(bits, index.As32())
			}
		}
		TZCNTL(index.As32(), index.As32())
		VMOVSS(Mem{Base: src, Index: index, Scale: 4}, x(12))
		VSUBSS(x(12), x(13), x(10))
		VMOVD(x(10), largest)
	}
	// A range of zero has the scale zero; one whose inverse might overflow is
	// left to the plain encoder.
	TESTL(largest, largest)
	JZ(LabelRef(zero))
	CMPL(largest, U32(leastNormal))
	JB(LabelRef(stop))
	CMPL(largest, U32(infinity))
	JAE(LabelRef(stop))
	switch {
	case minimum:
		VDIVSS(scalar(map[int]uint32{4: 0x41700000, 5: 0x41f80000}[bits]), x(10), x(10)) // 15, 31
	case bits == 8:
		VDIVSS(scalar(0x42fe0000), x(8), x(10)) // 127
	default:
		VPBROADCASTD(x(8), v(14))
		g.firstEqual(14, 9, index, func(i int) reg.VecPhysical {
			VANDPS(abs, v(i), v(9))
			return v(9)
		})
		VMOVSS(Mem{Base: src, Index: index, Scale: 4}, x(10))
		VMULSS(scalar(map[int]uint32{4: 0xbe000000, 5: 0xbd800000}[bits]), x(10), x(10)) // -1/8, -1/16
	}
	VMOVSS(scalar(one), x(11))
	VDIVSS(x(10), x(11), x(11))
	JMP(LabelRef(scaled))
	Label(zero)
	VXORPS(x(11), x(11), x(11))
	if bits < 8 && !minimum {
		VMOVSS(scalar(minusZero), x(10)) // 0 / -8
	} else {
		VXORPS(x(10), x(10), x(10))
	}
	Label(scaled)
	VCVTPS2PH(Imm(0), x(10), x(10))
	word := GP32()
	VMOVD(x(10), word)
	MOVW(word.As16(), Mem{Base: dst})
	if minimum {
		VCVTPS2PH(Imm(0), x(12), x(10))
		VMOVD(x(10), word)
		MOVW(word.As16(), Mem{Base: dst, Disp: 2})
		VBROADCASTSS(x(12), v(12))
	}
	VBROADCASTSS(x(11), v(11))

	for i := range registers {
		if minimum {
			VSUBPS(v(12), v(i), v(i))
		}
		VMULPS(v(11), v(i), v(i))
		if bits == 8 {
			// Half away from zero: adding the float before one half, with the
			// sign of the value, reaches the next integer from one half on.
			VANDPS(offset, v(i), v(9))
			VORPS(half, v(9), v(9))
			VADDPS(v(9), v(i), v(i))
		} else {
			VADDPS(offset, v(i), v(i))
		}
		VCVTTPS2DQ(v(i), v(i))
		if top != nil {
			VPMINSD(top, v(i), v(i))
		}
	}
	if bits == 8 {
		if g.wide() {
			VPMOVDB(v(0), Mem{Base: dst, Disp: at})
			VPMOVDB(v(1), Mem{Base: dst, Disp: at + 16})
		} else {
			VPACKSSDW(v(1), v(0), v(0))
			VPACKSSDW(v(3), v(2), v(2))
			VPACKSSWB(v(2), v(0), v(0))
			VMOVDQU(interleave(), v(1))
			VPERMD(v(0), v(1), v(0))
			VMOVDQU(v(0), Mem{Base: dst, Disp: at})
		}
	} else {
		if bits == 5 {
			fifths, more := GP32(), GP32()
			for i := range registers {
				r := more
				if i == 0 {
					r = fifths
				}
				if g.wide() {
					VPTESTMD(fifth, v(i), reg.K1)
					KMOVW(reg.K1, r)
				} else {
					VPSLLD(Imm(27), v(i), v(9))
					VMOVMSKPS(v(9), r)
				}
				if i > 0 {
					SHLL(U8(i*g.lanes), more)
					ORL(more, fifths)
				}
			}
			MOVL(fifths, Mem{Base: dst, Disp: at})
			at += 4
		}
		for i := range registers / 2 {
			low, high := v(i), v(registers/2+i)
			if bits == 5 {
				if g.wide() {
					VPANDD(nibble, low, low)
				} else {
					VPAND(nibble, low, low)
				}
			}
			VPSLLD(Imm(4), high, high)
			if g.wide() {
				VPORD(high, low, low)
			} else {
				VPOR(high, low, low)
				VPAND(byteMask, low, low)
			}
		}
		if g.wide() {
			VPMOVDB(v(0), Mem{Base: dst, Disp: at})
		} else {
			VPACKSSDW(v(1), v(0), v(0))
			VPERMQ(Imm(0xd8), v(0), v(0))
			VEXTRACTI128(Imm(1), v(0), x(1))
			VPACKUSWB(x(1), x(0), x(0))
			VMOVDQU(x(0), Mem{Base: dst, Disp: at})
		}
	}
	ADDQ(Imm(uint64(size)), dst)
	SUBQ(I8(-128), src)
	DECQ(left)
	JMP(LabelRef(loop))
	Label(stop)
	SUBQ(left, blocks)
	Store(blocks, ReturnIndex(0))
	g.end()
}

var interleaved *Mem

// interleave is the order that undoes packing within 128 bits twice.
func interleave() Mem {
	if interleaved == nil {
		mem := GLOBL("interleave", RODATA|NOPTR)
		for i, index := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
			DATA(4*i, U32(index))
		}
		interleaved = &mem
	}
	return *interleaved
}

// floats writes a kernel over n floats, a multiple of sixteen; body handles
// one register of lanes at the offsets of source and destination, and may jump
// to stop, which ends the kernel before those lanes. The sizes are of one
// element.
func (g *gen) floats(name, doc, signature string, from, to int, body func(dst, src Mem, stop string)) {
	g.begin(name, signature, doc)
	dst, src := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
	n := Load(Param("n"), GP64())
	left := GP64()
	MOVQ(n, left)
	loop, stop := g.label("loop"), g.label("stop")
	Label(loop)
	CMPQ(left, U8(g.lanes))
	JB(LabelRef(stop))
	body(Mem{Base: dst}, Mem{Base: src}, stop)
	ADDQ(U8(g.lanes*from), src)
	ADDQ(U8(g.lanes*to), dst)
	SUBQ(U8(g.lanes), left)
	JMP(LabelRef(loop))
	Label(stop)
	SUBQ(left, n)
	Store(n, ReturnIndex(0))
	g.end()
}

// half is the register of half the width with number i.
func (g *gen) half(i int) reg.VecPhysical {
	if g.wide() {
		return y(i)
	}
	return x(i)
}

// conversions writes the kernels of F16 and BF16.
func (g *gen) conversions() {
	// unlessNaN goes to stop where any lane of register i is not a number.
	unlessNaN := func(i, t int, stop string) {
		bits := GP32()
		if g.wide() {
			VCMPPS(Imm(3), g.v(i), g.v(i), reg.K1)
			KMOVW(reg.K1, bits)
		} else {
			VCMPPS(Imm(3), g.v(i), g.v(i), g.v(t))
			VMOVMSKPS(g.v(t), bits)
		}
		TESTL(bits, bits)
		JNZ(LabelRef(stop))
	}
	const encode, decode = "func(dst *byte, src *float32, n int) int", "func(dst *float32, src *byte, n int) int"
	g.floats("EncodeHalves", "converts to binary16, returning how many it has done: it stops before NaNs.", encode, 4, 2,
		func(dst, src Mem, stop string) {
			VMOVUPS(src, g.v(0))
			unlessNaN(0, 1, stop)
			VCVTPS2PH(Imm(0), g.v(0), dst)
		})
	g.floats("DecodeHalves", "converts from binary16, returning how many it has done.", decode, 2, 4,
		func(dst, src Mem, _ string) {
			VCVTPH2PS(src, g.v(0))
			VMOVUPS(g.v(0), dst)
		})
	g.floats("EncodeBrains", "converts to bfloat16, returning how many it has done: it stops before NaNs.", encode, 4, 2,
		func(dst, src Mem, stop string) {
			v := g.v
			VMOVUPS(src, v(0))
			unlessNaN(0, 1, stop)
			VPSRLD(Imm(16), v(0), v(1))
			VANDPS(constant(1), v(1), v(1))
			VPADDD(v(1), v(0), v(0))
			VPADDD(constant(0x7fff), v(0), v(0))
			VPSRLD(Imm(16), v(0), v(0))
			if g.wide() {
				VPMOVDW(v(0), dst)
			} else {
				VPACKUSDW(v(0), v(0), v(0))
				VPERMQ(Imm(0xd8), v(0), v(0))
				VMOVDQU(x(0), dst)
			}
		})
	g.floats("DecodeBrains", "converts from bfloat16, returning how many it has done.", decode, 2, 4,
		func(dst, src Mem, _ string) {
			VPMOVZXWD(src, g.v(0))
			VPSLLD(Imm(16), g.v(0), g.v(0))
			VMOVUPS(g.v(0), dst)
		})
}
