package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// sums adds what of makes of the weights of eight runs side by side, each in
// index order: eight weights of each at a time are turned into eight registers
// of one of each.
func sums(name, what string, of func(t reg.Register)) {
	TEXT(name, NOSPLIT, "func(sums *[8]float32, runs *[8]*float32, n int)")
	Pragma("noescape")
	Doc(name + " sets sums to the sums of the " + what + " of eight runs of n weights, a multiple of 8, each added in index order.")
	sums, runs, n := Load(Param("sums"), GP64()), Load(Param("runs"), GP64()), Load(Param("n"), GP64())
	var p [8]reg.GPVirtual
	for i := range p {
		p[i] = GP64()
		MOVQ(Mem{Base: runs, Disp: 8 * i}, p[i])
	}
	const sum, row = 15, 14
	VXORPS(y(sum), y(sum), y(sum))
	at := GP64()
	XORQ(at, at)
	Label("loop")
	for i := range p {
		VMOVUPS(Mem{Base: p[i], Index: at, Scale: 4}, y(i))
		of(y(i))
	}
	// Pairs of runs, then quads, within 128 bits; then the halves. low[i] and
	// high[i] have runs 2i and 2i+1.
	low, high := [4]int{8, 1, 3, 5}, [4]int{0, 2, 4, 6}
	for i := range low {
		VUNPCKLPS(y(2*i+1), y(2*i), y(low[i]))
		VUNPCKHPS(y(2*i+1), y(2*i), y(high[i]))
	}
	quads := [2][4]int{{7, 8, 9, 0}, {1, 3, 2, 4}}
	for i, q := range quads {
		a, b := 2*i, 2*i+1
		VUNPCKLPD(y(low[b]), y(low[a]), y(q[0]))
		VUNPCKHPD(y(low[b]), y(low[a]), y(q[1]))
		VUNPCKLPD(y(high[b]), y(high[a]), y(q[2]))
		VUNPCKHPD(y(high[b]), y(high[a]), y(q[3]))
	}
	for half := range 2 {
		for k := range 4 {
			VPERM2F128(Imm(uint64(0x20+0x11*half)), y(quads[1][k]), y(quads[0][k]), y(row))
			VADDPS(y(row), y(sum), y(sum))
		}
	}
	ADDQ(Imm(8), at)
	CMPQ(at, n)
	JB(LabelRef("loop"))
	VMOVUPS(y(sum), Mem{Base: sums})
	VZEROUPPER()
	RET()
}

// y is 256-bit register i.
func y(i int) reg.VecPhysical {
	return []reg.VecPhysical{reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7,
		reg.Y8, reg.Y9, reg.Y10, reg.Y11, reg.Y12, reg.Y13, reg.Y14, reg.Y15}[i]
}

// shiftOr sets dst to a | b<<bits; b's bytes stay within their bytes.
func shiftOr(a, b, dst reg.Register, bits uint64) {
	VPSLLW(Imm(bits), b, b)
	VPOR(a, b, dst)
}

// packs writes the kernels that pack 256 levels, one per byte, into the bit
// fields of a super-block. They need no more than AVX2.
func packs() {
	begin := func(name, doc string) (dst, levels reg.Register) {
		TEXT(name, NOSPLIT, "func(dst, levels *byte)")
		Pragma("noescape")
		Doc(name + " " + doc)
		dst, levels = Load(Param("dst"), GP64()), Load(Param("levels"), GP64())
		for i := range 8 {
			VMOVDQU(Mem{Base: levels, Disp: 32 * i}, y(i))
		}
		return dst, levels
	}
	end := func() {
		VZEROUPPER()
		RET()
	}

	dst, _ := begin("PackPairs", "packs 256 levels of two bits as Q2_K does.")
	for half := range 2 {
		a := 4 * half
		for i := 1; i < 4; i++ {
			shiftOr(y(a), y(a+i), y(a), uint64(2*i))
		}
		VMOVDQU(y(a), Mem{Base: dst, Disp: 32 * half})
	}
	end()

	dst, _ = begin("PackNibbles", "packs 256 levels of four bits as Q4_K does.")
	for i := 0; i < 8; i += 2 {
		shiftOr(y(i), y(i+1), y(i), 4)
		VMOVDQU(y(i), Mem{Base: dst, Disp: 16 * i})
	}
	end()

	dst, _ = begin("PackFives", "packs 256 levels of five bits as Q5_K does: qh, then qs.")
	VMOVDQU(constant(0x01010101), y(8))
	VMOVDQU(constant(0x0f0f0f0f), y(9))
	for i := range 8 {
		VPSRLW(Imm(4), y(i), y(10))
		VPAND(y(8), y(10), y(10))
		if i == 0 {
			VMOVDQA(y(10), y(11))
		} else {
			shiftOr(y(11), y(10), y(11), uint64(i))
		}
		VPAND(y(9), y(i), y(i))
	}
	VMOVDQU(y(11), Mem{Base: dst})
	for i := 0; i < 8; i += 2 {
		shiftOr(y(i), y(i+1), y(i), 4)
		VMOVDQU(y(i), Mem{Base: dst, Disp: 32 + 16*i})
	}
	end()

	dst, _ = begin("PackThrees", "packs 256 levels of three bits as Q3_K does: hmask, then qs.")
	VMOVDQU(constant(0x01010101), y(8))
	VMOVDQU(constant(0x03030303), y(9))
	for i := range 8 {
		VPSRLW(Imm(2), y(i), y(10))
		VPAND(y(8), y(10), y(10))
		if i == 0 {
			VMOVDQA(y(10), y(11))
		} else {
			shiftOr(y(11), y(10), y(11), uint64(i))
		}
		VPAND(y(9), y(i), y(i))
	}
	VMOVDQU(y(11), Mem{Base: dst})
	for half := range 2 {
		a := 4 * half
		for i := 1; i < 4; i++ {
			shiftOr(y(a), y(a+i), y(a), uint64(2*i))
		}
		VMOVDQU(y(a), Mem{Base: dst, Disp: 32 + 32*half})
	}
	end()

	dst, _ = begin("PackSixes", "packs 256 levels of six bits as Q6_K does: ql, then qh.")
	VMOVDQU(constant(0x03030303), y(8))
	VMOVDQU(constant(0x0f0f0f0f), y(9))
	for half := range 2 {
		a := 4 * half
		for i := range 4 {
			VPSRLW(Imm(4), y(a+i), y(10))
			VPAND(y(8), y(10), y(10))
			if i == 0 {
				VMOVDQA(y(10), y(11))
			} else {
				shiftOr(y(11), y(10), y(11), uint64(2*i))
			}
			VPAND(y(9), y(a+i), y(a+i))
		}
		VMOVDQU(y(11), Mem{Base: dst, Disp: 128 + 32*half})
		for i := range 2 {
			shiftOr(y(a+i), y(a+i+2), y(a+i), 4)
			VMOVDQU(y(a+i), Mem{Base: dst, Disp: 64*half + 32*i})
		}
	}
	end()
}
