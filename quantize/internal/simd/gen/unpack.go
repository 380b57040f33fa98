package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// unpacks writes the inverses of the kernels of packs.
func unpacks() {
	begin := func(name, doc string) (levels, src reg.Register) {
		TEXT(name, NOSPLIT, "func(levels, src *byte)")
		Pragma("noescape")
		Doc(name + " " + doc)
		return Load(Param("levels"), GP64()), Load(Param("src"), GP64())
	}
	end := func() {
		VZEROUPPER()
		RET()
	}
	// field sets dst to the bits of src from shift on, as many as keep has in
	// every byte.
	field := func(src, keep, dst reg.Register, shift int) {
		if shift == 0 {
			VPAND(keep, src, dst)
			return
		}
		VPSRLW(U8(shift), src, dst)
		VPAND(keep, dst, dst)
	}
	// high sets dst to the bits of src from shift on, moved up by up bits.
	high := func(src, keep, dst reg.Register, shift, up int) {
		field(src, keep, dst, shift)
		VPSLLW(U8(up), dst, dst)
	}
	const ones, threes, fifteens = 12, 13, 14
	constants := func() {
		VMOVDQU(constant(0x01010101), y(ones))
		VMOVDQU(constant(0x03030303), y(threes))
		VMOVDQU(constant(0x0f0f0f0f), y(fifteens))
	}

	levels, src := begin("UnpackPairs", "unpacks 256 levels of two bits as Q2_K has them.")
	constants()
	for half := range 2 {
		VMOVDQU(Mem{Base: src, Disp: 32 * half}, y(0))
		for i := range 4 {
			field(y(0), y(threes), y(1), 2*i)
			VMOVDQU(y(1), Mem{Base: levels, Disp: 128*half + 32*i})
		}
	}
	end()

	// Of a byte of trits 3q/256 is the first, and 3q, less what is above eight
	// bits, the byte of the others.
	levels, src = begin("UnpackTrits", "unpacks 256 levels of 0, 1 or 2 as TQ1_0 has them.")
	VMOVDQU(constant(0x56565656), y(ones))   // the least byte whose first trit is 1
	VMOVDQU(constant(0xabababab), y(threes)) // is 2
	VPXOR(y(fifteens), y(fifteens), y(fifteens))
	// trits writes the levels of size bytes in register 0.
	trits := func(at, size, count int) {
		for n := range count {
			if n > 0 {
				VPADDB(y(0), y(0), y(1))
				VPADDB(y(1), y(0), y(0))
			}
			// Each comparison that holds is -1.
			VPMAXUB(y(ones), y(0), y(1))
			VPCMPEQB(y(1), y(0), y(1))
			VPMAXUB(y(threes), y(0), y(2))
			VPCMPEQB(y(2), y(0), y(2))
			VPADDB(y(2), y(1), y(1))
			VPSUBB(y(1), y(fifteens), y(1))
			to := Mem{Base: levels, Disp: at + n*size}
			switch size {
			case 32:
				VMOVDQU(y(1), to)
			case 16:
				VMOVDQU(x(1), to)
			case 4:
				VMOVD(x(1), to)
			}
		}
	}
	VMOVDQU(Mem{Base: src}, y(0))
	trits(0, 32, 5)
	VMOVDQU(Mem{Base: src, Disp: 32}, x(0))
	trits(160, 16, 5)
	VMOVD(Mem{Base: src, Disp: 48}, x(0))
	trits(240, 4, 4)
	end()

	levels, src = begin("UnpackThrees", "unpacks 256 levels of three bits as Q3_K has them: hmask, then qs.")
	constants()
	VMOVDQU(Mem{Base: src}, y(2))
	for i := range 8 {
		if i%4 == 0 {
			VMOVDQU(Mem{Base: src, Disp: 32 + 8*i}, y(0))
		}
		field(y(0), y(threes), y(1), i%4*2)
		high(y(2), y(ones), y(3), i, 2)
		VPOR(y(3), y(1), y(1))
		VMOVDQU(y(1), Mem{Base: levels, Disp: 32 * i})
	}
	end()

	levels, src = begin("UnpackSixes", "unpacks 256 levels of six bits as Q6_K has them: ql, then qh.")
	constants()
	for half := range 2 {
		VMOVDQU(Mem{Base: src, Disp: 128 + 32*half}, y(2))
		for i := range 4 {
			VMOVDQU(Mem{Base: src, Disp: 64*half + 32*(i%2)}, y(0))
			field(y(0), y(fifteens), y(1), i/2*4)
			high(y(2), y(threes), y(3), 2*i, 4)
			VPOR(y(3), y(1), y(1))
			VMOVDQU(y(1), Mem{Base: levels, Disp: 128*half + 32*i})
		}
	}
	end()
}

// perRun writes a kernel over runs of sixteen weights: a loop around body,
// which is given the operands' addresses for each of the run's registers.
func (g *gen) perRun(name, signature, doc string, steps map[string]int, setup func(), body func(at map[string]reg.Register, h int), finish func(at map[string]reg.Register)) {
	g.begin(name, signature, doc)
	at := map[string]reg.Register{}
	for _, p := range []string{"dst", "levels", "src", "d", "m"} {
		if _, ok := steps[p]; ok {
			at[p] = Load(Param(p), GP64())
		}
	}
	runs := Load(Param("runs"), GP64())
	setup()
	loop := g.label("loop")
	Label(loop)
	for h := range 16 / g.lanes {
		body(at, h)
	}
	if finish != nil {
		finish(at)
	}
	for _, p := range []string{"dst", "levels", "src", "d", "m"} {
		if step := steps[p]; step != 0 {
			ADDQ(U8(step), at[p])
		}
	}
	DECQ(runs)
	JNZ(LabelRef(loop))
	g.end()
}

// storeBytes writes the low bytes of sixteen integers, 0 to 255, in register
// 0, or 0 and 1.
func (g *gen) storeBytes(dst Mem) {
	if g.wide() {
		VPMOVDB(reg.Z0, dst)
		return
	}
	VPACKSSDW(reg.Y1, reg.Y0, reg.Y0)
	VPERMQ(Imm(0xd8), reg.Y0, reg.Y0)
	VEXTRACTI128(Imm(1), reg.Y0, reg.X1)
	VPACKUSWB(reg.X1, reg.X0, reg.X0)
	VMOVDQU(reg.X0, dst)
}

// scaleLevels turns levels into weights.
func (g *gen) scaleLevels() {
	bias := g.v(4)
	g.perRun("ScaleLevels", "func(dst *float32, levels *byte, d, m *float32, runs int, bias int32)",
		"sets dst to (level - bias) * d - m; d and m hold one value per run of 16 weights.",
		map[string]int{"dst": 64, "levels": 16, "d": 4, "m": 4},
		func() {
			addr, err := Param("bias").Resolve()
			if err != nil {
				panic(err)
			}
			VBROADCASTSS(addr.Addr, bias)
		},
		func(at map[string]reg.Register, h int) {
			t, p := g.v(h), g.v(5)
			VPMOVZXBD(Mem{Base: at["levels"], Disp: h * g.lanes}, t)
			VPSUBD(bias, t, t)
			VCVTDQ2PS(t, t)
			VBROADCASTSS(Mem{Base: at["d"]}, p)
			VMULPS(p, t, t)
			VBROADCASTSS(Mem{Base: at["m"]}, p)
			VSUBPS(p, t, t)
			VMOVUPS(t, Mem{Base: at["dst"], Disp: h * g.vector()})
		}, nil)
}

// roundLevels rounds to integers, ties away from zero.
func (g *gen) roundLevels() {
	g.perRun("RoundLevels", "func(levels *byte, src, d *float32, runs int)",
		"sets levels to 1 plus the integer nearest to x * d, ties away from zero; d holds one value per run of 16 weights.",
		map[string]int{"levels": 16, "src": 64, "d": 4},
		func() {
			g.c(minusZero)
			g.c(belowHalf)
			g.c(1)
		},
		func(at map[string]reg.Register, h int) {
			t, u := g.v(h), g.v(4)
			VBROADCASTSS(Mem{Base: at["d"]}, u)
			VMULPS(Mem{Base: at["src"], Disp: h * g.vector()}, u, t)
			VANDPS(g.c(minusZero), t, u)
			VORPS(g.c(belowHalf), u, u)
			VADDPS(u, t, t)
			VCVTTPS2DQ(t, t)
			VPADDD(g.c(1), t, t)
		},
		func(at map[string]reg.Register) { g.storeBytes(Mem{Base: at["levels"]}) })
}

// magnitudes finds the largest of sixteen.
func (g *gen) magnitudes() {
	g.perRun("Magnitudes", "func(dst *uint32, src *float32, runs int)",
		"sets dst to the bits of the largest magnitude of each run of 16 weights; infinities and NaNs are the largest.",
		map[string]int{"dst": 4, "src": 64},
		func() { g.c(magnitude) },
		func(at map[string]reg.Register, h int) {
			VMOVUPS(Mem{Base: at["src"], Disp: h * g.vector()}, g.v(h))
			VANDPS(g.c(magnitude), g.v(h), g.v(h))
			if h > 0 {
				VPMAXUD(g.v(h), g.v(0), g.v(0))
			}
		},
		func(at map[string]reg.Register) {
			g.reduce(0, 4, func(a, b, c Op) { VPMAXUD(a, b, c) })
			VMOVD(x(0), Mem{Base: at["dst"]})
		})
}

// fp4 is twice the values of E2M1 by code.
var fp4 = [16]int8{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}

// fp4Bits are those that are not negative, as float32.
var fp4Bits = [8]uint32{0, 0x3f800000, 0x40000000, 0x40400000, 0x40800000, 0x40c00000, 0x41000000, 0x41400000}

// nearestFP4 is the plain encoder's, code by code. It looks at magnitudes: d is
// not negative, so a value of the other sign is never nearer than zero, and
// what rounds to zero has the code 0 on either side.
func (g *gen) nearestFP4() {
	g.perRun("NearestFP4", "func(levels *byte, src, d *float32, runs int)",
		"sets levels to the codes whose values times d are nearest; d holds one value per run of 16 weights.",
		map[string]int{"levels": 16, "src": 64, "d": 4},
		func() { g.c(magnitude) },
		func(at map[string]reg.Register, h int) {
			v := g.v
			code, weight, scale, least, t, index, sign := v(h), v(2), v(3), v(4), v(5), v(6), v(8)
			VMOVUPS(Mem{Base: at["src"], Disp: h * g.vector()}, sign)
			VANDPS(g.c(magnitude), sign, weight)
			VBROADCASTSS(Mem{Base: at["d"]}, scale)
			g.zero(code)
			for i, bits := range fp4Bits {
				VMULPS(constant(bits), scale, t)
				VSUBPS(weight, t, t)
				VANDPS(g.c(magnitude), t, t)
				if i == 0 {
					VMOVAPS(t, least)
					continue
				}
				m := g.m(0, 7)
				g.less(t, least, m)
				VMOVUPS(constant(uint32(i)), index)
				g.take(m, index, code)
				VMINPS(least, t, least)
			}
			// The sign is bit 3 of a code that is not zero.
			VPMINUD(constant(1), code, t)
			VPSLLD(Imm(3), t, t)
			VPSRAD(Imm(31), sign, sign)
			VANDPS(sign, t, t)
			VORPS(t, code, code)
		},
		func(at map[string]reg.Register) { g.storeBytes(Mem{Base: at["levels"]}) })
}

// decodeBlocks writes a kernel for a type of 32 weights per block: bits per
// weight, a minimum or a symmetric range.
func (g *gen) decodeBlocks(name string, bits int, minimum bool) {
	g.begin(name, "func(dst *float32, src *byte, blocks int)", "decodes blocks of 32 weights.")
	dst, src := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
	blocks := Load(Param("blocks"), GP64())
	v := g.v
	scale, low := v(8), v(9)
	size, at := 2+4*bits, 2
	if minimum {
		size, at = size+2, 4
	}
	var bias Op
	if bits < 8 && !minimum {
		bias = g.c(map[int]uint32{4: 8, 5: 16}[bits])
	}
	if bits == 5 {
		g.c(16)
	}
	VMOVDQU(constant(0x0f0f0f0f), x(10))
	loop := g.label("loop")
	Label(loop)
	half := func(disp int, to reg.Register, low reg.Register) {
		word := GP32()
		MOVWLZX(Mem{Base: src, Disp: disp}, word)
		VMOVD(word, low)
		VCVTPH2PS(low, low)
		VBROADCASTSS(low, to)
	}
	half(0, scale, x(8))
	if minimum {
		half(2, low, x(9))
	}
	if bits == 5 {
		VPBROADCASTD(Mem{Base: src, Disp: at}, v(11))
	}
	if bits < 8 {
		VMOVDQU(Mem{Base: src, Disp: size - 16}, x(12))
		VPSRLW(Imm(4), x(12), x(13))
		VPAND(x(10), x(12), x(12))
		VPAND(x(10), x(13), x(13))
	}
	for i := range 32 / g.lanes {
		t := v(i % 4)
		switch {
		case bits == 8:
			VPMOVSXBD(Mem{Base: src, Disp: at + i*g.lanes}, t)
		case g.wide():
			VPMOVZXBD(x(12+i), t)
		case i%2 == 0:
			VPMOVZXBD(x(12+i/2), t)
		default:
			VPSRLDQ(Imm(8), x(12+i/2), x(14))
			VPMOVZXBD(x(14), t)
		}
		if bits == 5 {
			// The fifth bit of weight n is bit n of qh: bring it to bit 4.
			if shift := i * g.lanes; shift > 0 {
				VPSRLD(U8(shift), v(11), v(15))
				VPSRLVD(lanes(), v(15), v(15))
			} else {
				VPSRLVD(lanes(), v(11), v(15))
			}
			VPSLLD(Imm(4), v(15), v(15))
			VANDPS(g.c(16), v(15), v(15))
			VORPS(v(15), t, t)
		}
		if bias != nil {
			VPSUBD(bias, t, t)
		}
		VCVTDQ2PS(t, t)
		VMULPS(scale, t, t)
		if minimum {
			VADDPS(low, t, t)
		}
		VMOVUPS(t, Mem{Base: dst, Disp: i * g.vector()})
	}
	SUBQ(I8(-128), dst)
	ADDQ(U8(size), src)
	DECQ(blocks)
	JNZ(LabelRef(loop))
	g.end()
}

var laneNumbers *Mem

// lanes holds the number of each lane.
func lanes() Mem {
	if laneNumbers == nil {
		mem := GLOBL("lanes", RODATA|NOPTR)
		for i := range 16 {
			DATA(4*i, U32(i))
		}
		laneNumbers = &mem
	}
	return *laneNumbers
}

var codeTables = map[string]Mem{}

// codeTable is sixteen bytes: the values of codes of four bits.
func codeTable(name string, values [16]int8) Mem {
	mem, ok := codeTables[name]
	if !ok {
		mem = GLOBL(name, RODATA|NOPTR)
		for i, value := range values {
			DATA(i, I8(value))
		}
		codeTables[name] = mem
	}
	return mem
}

// iq4 holds the values of IQ4_NL and IQ4_XS by code.
var iq4 = [16]int8{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// values turns codes of four bits into weights; table gives their values.
func (g *gen) values(name string, table Mem) {
	g.perRun(name, "func(dst *float32, levels *byte, d *float32, runs int)",
		"sets dst to the values of codes times d; d holds one value per run of 16 weights.",
		map[string]int{"dst": 64, "levels": 16, "d": 4},
		func() { VMOVDQU(table, x(11)) },
		func(at map[string]reg.Register, h int) {
			t, d := g.v(h), g.v(4)
			if h == 0 {
				VMOVDQU(Mem{Base: at["levels"]}, x(5))
				VPSHUFB(x(5), x(11), x(5))
			} else {
				VPSRLDQ(Imm(8), x(5), x(5))
			}
			VPMOVSXBD(x(5), t)
			VCVTDQ2PS(t, t)
			VBROADCASTSS(Mem{Base: at["d"]}, d)
			VMULPS(d, t, t)
			VMOVUPS(t, Mem{Base: at["dst"], Disp: h * g.vector()})
		}, nil)
}
