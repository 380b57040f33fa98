package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Q1_0 and Q2_0. Reading the weights bounds these kernels, so AVX2 is enough.

// bytes64 is a constant of 64 bytes: pattern over and over.
func bytes64(name string, pattern ...uint8) Mem {
	mem := GLOBL(name, RODATA|NOPTR)
	for i := range 64 {
		DATA(i, U8(pattern[i%len(pattern)]))
	}
	return mem
}

// words32 is a constant of eight 32-bit words.
func words32(name string, words ...uint32) Mem {
	mem := GLOBL(name, RODATA|NOPTR)
	for i, w := range words {
		DATA(4*i, U32(w))
	}
	return mem
}

func lowBits() {
	g := &gen{lanes: 8}
	g.signs()
	g.encodeQ2_0()
	g.decodeQ1_0()
	g.decodeQ2_0()
}

// signs writes one bit per weight.
func (g *gen) signs() {
	g.begin("Signs", "func(dst *byte, src *float32, n int)",
		"sets a bit for every weight that is not below zero, none for NaNs; n is a multiple of 32.")
	dst, src := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
	n := Load(Param("n"), GP64())
	VXORPS(y(0), y(0), y(0))
	Label("loop")
	word, bits := GP32(), GP32()
	for i := range 4 {
		// src >= 0, ordered.
		VMOVUPS(Mem{Base: src, Disp: 32 * i}, y(1))
		VCMPPS(Imm(29), y(0), y(1), y(1))
		if i == 0 {
			VMOVMSKPS(y(1), word)
			continue
		}
		VMOVMSKPS(y(1), bits)
		SHLL(U8(8*i), bits)
		ORL(bits, word)
	}
	MOVL(word, Mem{Base: dst})
	ADDQ(Imm(4), dst)
	SUBQ(I8(-128), src)
	SUBQ(Imm(32), n)
	JNZ(LabelRef("loop"))
	g.end()
}

// encodeQ2_0 stops like the kernels of encodeBlocks.
func (g *gen) encodeQ2_0() {
	g.begin("EncodeQ2_0", "func(dst *byte, src *float32, blocks int) int",
		"encodes blocks of 64 weights and returns how many it has done.")
	dst, src := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
	blocks := Load(Param("blocks"), GP64())
	left := GP64()
	MOVQ(blocks, left)
	const registers = 8
	abs, sign := y(15), y(14)
	VMOVUPS(constant(magnitude), abs)
	VMOVUPS(constant(minusZero), sign)
	fours, sixteens := bytes64("weigh1_4", 1, 4), bytes64("weigh1_16", 1, 0, 16, 0)
	Label("loop")
	TESTQ(left, left)
	JZ(LabelRef("stop"))
	for i := range registers {
		VMOVUPS(Mem{Base: src, Disp: 32 * i}, y(i))
		if i == 0 {
			VANDPS(abs, y(0), y(8))
			continue
		}
		VANDPS(abs, y(i), y(9))
		VPMAXUD(y(9), y(8), y(8))
	}
	g.reduce(8, 9, func(a, b, c Op) { VPMAXUD(a, b, c) })
	largest := GP32()
	VMOVD(x(8), largest)
	VXORPS(x(10), x(10), x(10))
	TESTL(largest, largest)
	JZ(LabelRef("scaled"))
	CMPL(largest, U32(leastNormal))
	JB(LabelRef("stop"))
	CMPL(largest, U32(infinity))
	JAE(LabelRef("stop"))
	VMOVSS(scalar(one), x(10))
	VDIVSS(x(8), x(10), x(10))
	Label("scaled")
	VCVTPS2PH(Imm(0), x(8), x(8))
	VPEXTRW(Imm(0), x(8), Mem{Base: dst})
	VBROADCASTSS(x(10), y(10))
	for i := range registers {
		// Half away from zero, as in encodeBlocks.
		VMULPS(y(10), y(i), y(i))
		VANDPS(sign, y(i), y(9))
		VORPS(constant(belowHalf), y(9), y(9))
		VADDPS(y(9), y(i), y(i))
		VCVTTPS2DQ(y(i), y(i))
	}
	// Bytes of levels: of register 4k+j those at 4j in each 128 bits.
	for k := range 2 {
		a := 4 * k
		VPACKSSDW(y(a+1), y(a), y(a))
		VPACKSSDW(y(a+3), y(a+2), y(a+2))
		VPACKSSWB(y(a+2), y(a), y(a))
		VPADDB(constant(0x01010101), y(a), y(a))
		// Four levels to a byte, each 32 bits on its own.
		VPMADDUBSW(fours, y(a), y(a))
		VPMADDWD(sixteens, y(a), y(a))
	}
	VPACKUSDW(y(4), y(0), y(0))
	VPACKUSWB(y(0), y(0), y(0))
	VEXTRACTI128(Imm(1), y(0), x(1))
	VPUNPCKLBW(x(1), x(0), x(0))
	VMOVDQU(x(0), Mem{Base: dst, Disp: 2})
	ADDQ(Imm(18), dst)
	ADDQ(U32(256), src)
	DECQ(left)
	JMP(LabelRef("loop"))
	Label("stop")
	SUBQ(left, blocks)
	Store(blocks, ReturnIndex(0))
	g.end()
}

// scaleOf broadcasts the binary16 at the start of a block to register 8.
func (g *gen) scaleOf(block reg.Register) {
	word := GP32()
	MOVWLZX(Mem{Base: block}, word)
	VMOVD(word, x(8))
	VCVTPH2PS(x(8), x(8))
	VBROADCASTSS(x(8), y(8))
}

func (g *gen) decodeQ1_0() {
	g.begin("DecodeQ1_0", "func(dst *float32, src *byte, blocks int)", "decodes blocks of 128 weights.")
	dst, src := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
	blocks := Load(Param("blocks"), GP64())
	// Weight i of eight has its bit moved to the top.
	VMOVDQU(words32("toTop", 31, 30, 29, 28, 27, 26, 25, 24), y(10))
	VMOVDQU(constant(minusZero), y(11))
	Label("loop")
	g.scaleOf(src)
	VXORPS(y(11), y(8), y(8)) // -d, and a bit changes the sign
	for i := range 16 {
		bits := GP32()
		MOVBLZX(Mem{Base: src, Disp: 2 + i}, bits)
		VMOVD(bits, x(i%4))
		VPBROADCASTD(x(i%4), y(i%4))
		VPSLLVD(y(10), y(i%4), y(i%4))
		VPAND(y(11), y(i%4), y(i%4))
		VXORPS(y(8), y(i%4), y(i%4))
		VMOVUPS(y(i%4), Mem{Base: dst, Disp: 32 * i})
	}
	ADDQ(U32(512), dst)
	ADDQ(Imm(18), src)
	DECQ(blocks)
	JNZ(LabelRef("loop"))
	g.end()
}

func (g *gen) decodeQ2_0() {
	g.begin("DecodeQ2_0", "func(dst *float32, src *byte, blocks int)", "decodes blocks of 64 weights.")
	dst, src := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
	blocks := Load(Param("blocks"), GP64())
	VMOVDQU(words32("byPairs", 0, 2, 4, 6, 8, 10, 12, 14), y(10))
	VMOVDQU(constant(3), y(11))
	VMOVDQU(constant(1), y(12))
	Label("loop")
	g.scaleOf(src)
	for i := range 8 {
		pairs := GP32()
		t := y(i % 4)
		MOVWLZX(Mem{Base: src, Disp: 2 + 2*i}, pairs)
		VMOVD(pairs, x(i%4))
		VPBROADCASTD(x(i%4), t)
		VPSRLVD(y(10), t, t)
		VPAND(y(11), t, t)
		VPSUBD(y(12), t, t)
		VCVTDQ2PS(t, t)
		VMULPS(y(8), t, t)
		VMOVUPS(t, Mem{Base: dst, Disp: 32 * i})
	}
	ADDQ(U32(256), dst)
	ADDQ(Imm(18), src)
	DECQ(blocks)
	JNZ(LabelRef("loop"))
	g.end()
}
