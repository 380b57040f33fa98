package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// minimumBlock is a type of super-blocks with scales and minimums.
type minimumBlock struct {
	name   string
	size   int // in bytes
	halves int // where the scales of scales and of minimums are
	bits   int // of a level in qs
	qs     int // where they are: 32 weights in 32 bytes, bits above bits
	qh     int // where a fifth bit is, or 0
	runs   int // scales per super-block
}

var minimumBlocks = []minimumBlock{
	{name: "DecodeQ2_K", size: 84, halves: 80, bits: 2, qs: 16, runs: 16},
	{name: "DecodeQ4_K", size: 144, halves: 0, bits: 4, qs: 16, runs: 8},
	{name: "DecodeQ5_K", size: 176, halves: 0, bits: 4, qs: 48, qh: 16, runs: 8},
}

// decodeMinimums writes the decoder of a type: (d * scale) * level - dmin *
// minimum, each product rounded.
func (g *gen) decodeMinimums(b minimumBlock) {
	g.begin(b.name, "func(dst *float32, src *byte, blocks int)", "decodes super-blocks of 256 weights.")
	dst, src := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
	blocks := Load(Param("blocks"), GP64())
	scales := AllocLocal(2 * 4 * b.runs) // then the minimums
	v := g.v
	keep := g.c(1<<b.bits - 1)
	var fifth Op
	if b.qh != 0 {
		fifth = g.c(16)
	}
	Label("loop")
	half := GP32()
	for i, to := range []reg.VecPhysical{x(8), x(9)} {
		MOVWLZX(Mem{Base: src, Disp: b.halves + 2*i}, half)
		VMOVD(half, to)
		VCVTPH2PS(to, to)
		VBROADCASTSS(to, y(8+i))
	}
	// From here on the levels of scales and minimums are bytes.
	multiply := func(at, levels, by int) {
		VPMOVZXBD(x(levels), y(levels))
		VCVTDQ2PS(y(levels), y(levels))
		VMULPS(y(by), y(levels), y(levels))
		VMOVUPS(y(levels), scales.Offset(4*at))
	}
	if b.runs == 16 {
		VMOVDQU(Mem{Base: src}, x(0))
		VPSRLW(Imm(4), x(0), x(1))
		for i := range 2 {
			VPAND(constant(0x0f0f0f0f), x(i), x(i))
			VPSRLDQ(Imm(8), x(i), x(2))
			multiply(16*i, i, 8+i)
			multiply(16*i+8, 2, 8+i)
		}
	} else {
		g.sixes(Mem{Base: src, Disp: 4})
		multiply(0, 0, 8)
		multiply(8, 1, 9)
	}
	perByte := 8 / b.bits
	for i := range 8 {
		for at := 0; at < 32; at += g.lanes {
			t, u := v(at/8), v(4+at/8)
			run := (32*i + at) * b.runs / 256
			VPMOVZXBD(Mem{Base: src, Disp: b.qs + 32*(i/perByte) + at}, t)
			if shift := i % perByte * b.bits; shift > 0 {
				VPSRLD(Imm(uint64(shift)), t, t)
			}
			if i%perByte < perByte-1 {
				VANDPS(keep, t, t)
			}
			if b.qh != 0 {
				VPMOVZXBD(Mem{Base: src, Disp: b.qh + at}, u)
				if i < 4 {
					VPSLLD(Imm(uint64(4-i)), u, u)
				} else if i > 4 {
					VPSRLD(Imm(uint64(i-4)), u, u)
				}
				VANDPS(fifth, u, u)
				VORPS(u, t, t)
			}
			VCVTDQ2PS(t, t)
			VBROADCASTSS(scales.Offset(4*run), u)
			VMULPS(u, t, t)
			VBROADCASTSS(scales.Offset(4*(b.runs+run)), u)
			VSUBPS(u, t, t)
			VMOVUPS(t, Mem{Base: dst, Disp: 4 * (32*i + at)})
		}
	}
	ADDQ(U32(1024), dst)
	ADDQ(U32(b.size), src)
	DECQ(blocks)
	JNZ(LabelRef("loop"))
	g.end()
}

// sixes sets registers 0 and 1 to the levels of eight scales and eight minimums
// of six bits, as Q4_K and Q5_K have them in twelve bytes: those of the first
// four in the low bits of four bytes each; of the others four bits in the last
// four bytes, and two bits on top of the first.
func (g *gen) sixes(packed Mem) {
	low := GP32()
	MOVL(packed.Offset(8), low)
	for i := range 2 {
		first, last, t := GP32(), GP32(), GP32()
		MOVL(packed.Offset(4*i), first)
		MOVL(first, last)
		ANDL(U32(0x3f3f3f3f), first)
		SHRL(Imm(2), last)
		ANDL(U32(0x30303030), last)
		MOVL(low, t)
		if i == 1 {
			SHRL(Imm(4), t)
		}
		ANDL(U32(0x0f0f0f0f), t)
		ORL(t, last)
		VMOVD(first, x(i))
		VPINSRD(Imm(1), last, x(i), x(i))
	}
}
