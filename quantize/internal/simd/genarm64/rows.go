package main

// Kernels in row order, and those that pack levels.

// levels writes the levels of runs of sixteen weights: the nearest integers of
// (x + m) / d or of (x - m) * d, clamped, plus a bias. It is exact for every
// value, like nearestInt.
func (a *assembler) levels(name string, divide bool) {
	a.begin(name, "writes the levels of runs of 16 weights; d and m hold one value per run.",
		"levels *byte", "x *float32", "d *float32", "m *float32", "runs int", "low int32", "high int32", "bias int32")
	low, high, bias := regs{16}, regs{17}, regs{18}
	for i, r := range []regs{low, high, bias} {
		a.line("VDUP R%d, V%d.S4", 5+i, r[0])
	}
	round, bits, half := regs{19}, regs{20}, regs{21}
	a.constant(round, rounder)
	a.constant(bits, mantissaBits)
	a.constant(half, mantissaHalf)
	d, m, t := regs{22}, regs{23}, span(0, 4)
	a.repeat("R4", 1, func() {
		a.line("VLD1R.P 4(R2), [V%d.S4]", d[0])
		a.line("VLD1R.P 4(R3), [V%d.S4]", m[0])
		a.load(t, "R1", 0)
		a.line("ADD $64, R1, R1")
		if divide {
			a.v("FADD", t, t, m)
			a.v("FDIV", t, t, d)
		} else {
			a.v("FSUB", t, t, m)
			a.v("FMUL", t, t, d)
		}
		a.v("FADD", t, t, round)
		a.v("AND", t, t, bits)
		a.v("SUB", t, t, half)
		a.v("SMIN", t, t, high)
		a.v("SMAX", t, t, low)
		a.v("ADD", t, t, bias)
		a.narrow(t)
		a.line("FMOVQ.P F%d, 16(R0)", t[0])
	})
	a.end()
}

// narrow makes bytes of sixteen integers in four registers; they go to the
// first.
func (a *assembler) narrow(t regs) {
	a.v("UZP1_8H", regs{t[0]}, regs{t[0]}, regs{t[1]})
	a.v("UZP1_8H", regs{t[2]}, regs{t[2]}, regs{t[3]})
	a.v("UZP1_16B", regs{t[0]}, regs{t[0]}, regs{t[2]})
}

// weigh multiplies importance by sqrt(energy + x*x).
func (a *assembler) weigh() {
	a.begin("WeighNEON", "sets w to importance * sqrt(energy + x*x) for n weights, a multiple of 16.",
		"w *float32", "importance *float32", "x *float32", "energy float32", "n int")
	energy, t, q := regs{16}, span(0, 4), span(4, 4)
	a.line("VDUP R3, V%d.S4", energy[0])
	a.repeat("R4", 16, func() {
		a.load(t, "R2", 0)
		a.load(q, "R1", 0)
		a.v("FMUL", t, t, t)
		a.v("FADD", t, energy, t)
		a.v("FSQRT", t, t)
		a.v("FMUL", t, q, t)
		a.store(t, "R0", 0)
		for i := range 3 {
			a.line("ADD $64, R%d, R%d", i, i)
		}
	})
	a.end()
}

// sumSquares adds the squares of eight runs side by side, each in index order:
// two registers hold the sums of four runs each.
func (a *assembler) sumSquares() {
	a.begin("SumSquares", "sets sums to the sums of squares of eight runs of n weights, n a multiple of 4, each added in index order.",
		"sums *[8]float32", "runs *[8]*float32", "n int")
	for i := range 8 {
		a.line("MOVD %d(R1), R%d", 8*i, 3+i)
	}
	sums := span(0, 2)
	a.zero(sums)
	a.repeat("R2", 4, func() {
		x, t, c := span(16, 8), span(24, 4), span(4, 8)
		for i := range 8 {
			a.line("FMOVQ.P 16(R%d), F%d", 3+i, x[i])
		}
		a.v("FMUL", x, x, x)
		for g := range 2 {
			x := x[4*g:]
			a.v("TRN1_4S", regs{t[0], t[2]}, regs{x[0], x[2]}, regs{x[1], x[3]})
			a.v("TRN2_4S", regs{t[1], t[3]}, regs{x[0], x[2]}, regs{x[1], x[3]})
			a.v("TRN1_2D", regs{c[g], c[2+g]}, regs{t[0], t[1]}, regs{t[2], t[3]})
			a.v("TRN2_2D", regs{c[4+g], c[6+g]}, regs{t[0], t[1]}, regs{t[2], t[3]})
		}
		for i := range 4 {
			a.v("FADD", sums, sums, c[2*i:2*i+2])
		}
	})
	a.store(sums, "R0", 0)
	a.end()
}

// packs writes the kernels that pack 256 levels, one per byte, into the bit
// fields of a super-block. SLI shifts in the next levels above those that lie
// in the bits below, and drops what a level has above its own bits.
func (a *assembler) packs() {
	begin := func(name, doc string) {
		a.begin(name, doc, "dst *byte", "levels *byte")
		a.load(span(0, 16), "R1", 0)
	}
	insert := func(d, n regs, bits int) { a.shift("SLI_16B", d, n, bits) }
	// Thirty-two levels are a pair of registers.
	levels := func(i int) regs { return span(2*i, 2) }
	high, t := span(16, 2), span(18, 2)

	begin("PackPairs", "packs 256 levels of two bits as Q2_K does.")
	pairs := func(at int) {
		for half := range 2 {
			for i := 1; i < 4; i++ {
				insert(levels(4*half), levels(4*half+i), 2*i)
			}
			a.store(levels(4*half), "R0", at+32*half)
		}
	}
	pairs(0)
	a.end()

	begin("PackNibbles", "packs 256 levels of four bits as Q4_K does.")
	nibbles := func(at int) {
		for i := range 4 {
			insert(levels(2*i), levels(2*i+1), 4)
			a.store(levels(2*i), "R0", at+32*i)
		}
	}
	nibbles(0)
	a.end()

	// above gathers what lies above the low bits of eight pairs of registers.
	above := func(low int) {
		a.shift("USHR_16B", high, levels(0), low)
		for i := 1; i < 8; i++ {
			a.shift("USHR_16B", t, levels(i), low)
			insert(high, t, i)
		}
		a.store(high, "R0", 0)
	}
	begin("PackFives", "packs 256 levels of five bits as Q5_K does: qh, then qs.")
	above(4)
	nibbles(32)
	a.end()

	begin("PackThrees", "packs 256 levels of three bits as Q3_K does: hmask, then qs.")
	above(2)
	pairs(32)
	a.end()

	begin("PackSixes", "packs 256 levels of six bits as Q6_K does: ql, then qh.")
	for half := range 2 {
		l := func(i int) regs { return levels(4*half + i) }
		a.shift("USHR_16B", high, l(0), 4)
		for i := 1; i < 4; i++ {
			a.shift("USHR_16B", t, l(i), 4)
			insert(high, t, 2*i)
		}
		a.store(high, "R0", 128+32*half)
		for i := range 2 {
			insert(l(i), l(i+2), 4)
			a.store(l(i), "R0", 64*half+32*i)
		}
	}
	a.end()
}

// encodeBlocks writes the kernel of a type of 32 weights per block with a
// symmetric range: Q4_0 or Q8_0.
func (a *assembler) encodeBlocks(name string, bits int) {
	a.begin(name, "encodes blocks of 32 weights and returns how many it has done.",
		"dst *byte", "src *float32", "blocks int", "ret int")
	x, magnitudes := span(0, 8), span(8, 8)
	offset, top := regs{24}, regs{25}
	if bits == 4 {
		a.constant(offset, eightAndAHalf)
		a.constant(top, 15)
	}
	scale, inverse, unit, divisor := regs{16}, regs{17}, regs{18}, regs{19}
	a.constant(unit, one)
	if bits == 8 {
		a.constant(divisor, 0x42fe0000) // 127
	} else {
		a.constant(divisor, 0x3e000000) // 1/8
	}
	loop, stop, zero, scaled := a.label("loop"), a.label("stop"), a.label("zero"), a.label("scaled")
	a.line("MOVD R2, R3") // blocks left
	a.place(loop)
	a.line("CBZ R3, %s", stop)
	// The largest magnitude, as bits: infinities and NaNs are the largest.
	a.load(x, "R1", 0)
	a.v("FABS", magnitudes, x)
	for n := 4; n > 0; n /= 2 {
		a.v("UMAX", magnitudes[:n], magnitudes[:n], magnitudes[n:2*n])
	}
	a.v("UMAXV", scale, magnitudes[:1])
	a.line("FMOVS F%d, R4", scale[0])
	a.line("MOVD $%#x, R5", infinity)
	a.line("CMPW R5, R4")
	a.line("BHS %s", stop)
	a.line("CBZW R4, %s", zero)
	// One whose inverse might overflow is left to the plain encoder.
	a.line("MOVD $%#x, R5", invertible)
	a.line("CMPW R5, R4")
	a.line("BLO %s", stop)
	if bits == 8 {
		a.v("FDIV_S", scale, scale, divisor)
	} else {
		// The scale has the other sign than the first weight of that
		// magnitude.
		search, positive := a.label("search"), a.label("positive")
		a.line("MOVD R1, R6")
		a.place(search)
		a.line("MOVWU.P 4(R6), R7")
		a.line("ANDW $0x7fffffff, R7, R8")
		a.line("CMPW R4, R8")
		a.line("BNE %s", search)
		a.v("FMUL_S", scale, scale, divisor)
		a.line("TBNZ $31, R7, %s", positive)
		a.v("FNEG_S", scale, scale)
		a.place(positive)
	}
	a.v("FDIV_S", inverse, unit, scale)
	a.line("JMP %s", scaled)
	a.place(zero)
	a.zero(inverse)
	a.zero(scale)
	if bits == 4 {
		a.v("FNEG_S", scale, scale) // 0 / -8
	}
	a.place(scaled)
	a.v("FCVT_HS", scale, scale)
	a.line("FMOVS F%d, R4", scale[0])
	a.line("MOVH R4, (R0)")
	a.v("DUP", inverse, inverse)
	a.v("FMUL", x, x, inverse)
	if bits == 8 {
		a.v("FCVTAS", x, x) // half away from zero
	} else {
		a.v("FADD", x, x, offset)
		a.v("FCVTZS", x, x)
		a.v("SMIN", x, x, top)
	}
	a.narrow(x[:4])
	a.narrow(x[4:])
	size := 2 + 4*bits
	if bits == 8 {
		a.line("FMOVQ F%d, 2(R0)", x[0])
		a.line("FMOVQ F%d, 18(R0)", x[4])
	} else {
		a.shift("SLI_16B", x[:1], x[4:5], 4)
		a.line("FMOVQ F%d, 2(R0)", x[0])
	}
	a.line("ADD $%d, R0, R0", size)
	a.line("ADD $128, R1, R1")
	a.line("SUB $1, R3, R3")
	a.line("JMP %s", loop)
	a.place(stop)
	a.line("SUB R3, R2, R2")
	a.line("MOVD R2, ret+24(FP)")
	a.end()
}

// floats writes a kernel that converts n numbers, sixteen at a time; body may
// jump to stop, which ends the kernel before those. The sizes are of one
// number.
func (a *assembler) floats(name, doc, dst, src string, from, to int, prepare func(), body func(stop string)) {
	a.begin(name, doc, "dst *"+dst, "src *"+src, "n int", "ret int")
	loop, stop := a.label("loop"), a.label("stop")
	prepare()
	a.line("MOVD R2, R3")
	a.place(loop)
	a.line("CMP $16, R3")
	a.line("BLT %s", stop)
	body(stop)
	a.line("ADD $%d, R0, R0", 16*to)
	a.line("ADD $%d, R1, R1", 16*from)
	a.line("SUB $16, R3, R3")
	a.line("JMP %s", loop)
	a.place(stop)
	a.line("SUB R3, R2, R2")
	a.line("MOVD R2, ret+24(FP)")
	a.end()
}

// conversions writes the kernels of F16 and BF16.
func (a *assembler) conversions() {
	x := span(0, 4)
	none := func() {}
	// loadUnlessNaN loads sixteen numbers, or goes to stop: the largest of
	// numbers with a NaN is a NaN.
	loadUnlessNaN := func(stop string) {
		a.load(x, "R1", 0)
		a.v("FMAX", span(16, 2), regs{0, 2}, regs{1, 3})
		a.v("FMAX", regs{16}, regs{16}, regs{17})
		a.v("FMAXV", regs{16}, regs{16})
		a.line("FCMPS F16, F16")
		a.line("BVS %s", stop)
	}
	a.floats("EncodeHalvesNEON", "converts to binary16, returning how many it has done: it stops before NaNs.", "byte", "float32", 4, 2, none,
		func(stop string) {
			loadUnlessNaN(stop)
			a.v("FCVTN", span(4, 2), regs{0, 2})
			a.v("FCVTN2", span(4, 2), regs{1, 3})
			a.store(span(4, 2), "R0", 0)
		})
	a.floats("DecodeHalvesNEON", "converts from binary16, returning how many it has done.", "float32", "byte", 2, 4, none,
		func(string) {
			a.load(span(4, 2), "R1", 0)
			a.v("FCVTL", regs{0, 2}, span(4, 2))
			a.v("FCVTL2", regs{1, 3}, span(4, 2))
			a.store(x, "R0", 0)
		})
	a.floats("EncodeBrainsNEON", "converts to bfloat16, returning how many it has done: it stops before NaNs.", "byte", "float32", 4, 2,
		func() {
			a.constant(regs{20}, 1)
			a.constant(regs{21}, 0x7fff)
		},
		func(stop string) {
			loadUnlessNaN(stop)
			odd := span(4, 4)
			a.shift("USHR_4S", odd, x, 16)
			a.v("AND", odd, odd, regs{20})
			a.v("ADD", x, x, regs{21})
			a.v("ADD", x, x, odd)
			a.v("UZP2_8H", regs{4, 5}, regs{0, 2}, regs{1, 3})
			a.store(span(4, 2), "R0", 0)
		})
	a.floats("DecodeBrainsNEON", "converts from bfloat16, returning how many it has done.", "float32", "byte", 2, 4,
		func() { a.zero(regs{20}) },
		func(string) {
			a.load(span(4, 2), "R1", 0)
			a.v("ZIP1_8H", regs{0, 2}, regs{20}, span(4, 2))
			a.v("ZIP2_8H", regs{1, 3}, regs{20}, span(4, 2))
			a.store(x, "R0", 0)
		})
}
