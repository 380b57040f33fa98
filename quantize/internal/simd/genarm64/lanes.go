package main

// Kernels over lanes. A row holds one element of sixteen sub-blocks, in four
// registers called quarters.

const (
	row      = 64 // bytes
	quarters = 4
)

// weights is where the weights of a search come from.
type weights int

const (
	weighted    weights = iota // given, in lanes
	byEnergy                   // root mean square + |x|
	byMagnitude                // |x|
	bySquare                   // x*x
)

// field is the offset of a quarter of field i of a state; fields are 32
// floats, of which sixteen are used.
func field(i, quarter int) int { return 128*i + 16*quarter }

// The fields of MinimumState.
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

// transpose turns sixteen sub-blocks into rows, four by four elements at a
// time.
func (a *assembler) transpose() {
	a.begin("TransposeNEON", "turns 16 sub-blocks of n elements, n a multiple of 16, into n rows of lanes.",
		"dst *float32", "src *float32", "n int")
	a.line("LSL $2, R2, R3") // bytes of a sub-block
	for q := range quarters {
		a.line("MOVD R0, R4")
		a.line("MOVD R2, R5")
		a.line("MOVD R1, R6")
		for i := 7; i <= 9; i++ {
			a.line("ADD R3, R%d, R%d", i-1, i)
		}
		a.line("ADD R3, R9, R1")
		a.repeat("R5", 16, func() {
			for i := range 4 {
				a.load(span(4*i, 4), []string{"R6", "R7", "R8", "R9"}[i], 0)
			}
			for g := range 4 {
				t := span(16, 4)
				a.v("TRN1_4S", regs{t[0]}, regs{g}, regs{4 + g})
				a.v("TRN2_4S", regs{t[1]}, regs{g}, regs{4 + g})
				a.v("TRN1_4S", regs{t[2]}, regs{8 + g}, regs{12 + g})
				a.v("TRN2_4S", regs{t[3]}, regs{8 + g}, regs{12 + g})
				a.v("TRN1_2D", span(20, 2), span(16, 2), span(18, 2))
				a.v("TRN2_2D", span(22, 2), span(16, 2), span(18, 2))
				for i := range 4 {
					a.store(regs{20 + i}, "R4", (4*g+i)*row+16*q)
				}
			}
			for i := 6; i <= 9; i++ {
				a.line("ADD $64, R%d, R%d", i, i)
			}
			a.line("ADD $%d, R4, R4", 16*row)
		})
	}
	a.end()
}

// rows runs body for every row, two rows in one turn: at is the offset from
// R9, R10 and R11, which run along x, w and l (R0, R1 and R2). R4 is the even
// number of rows.
func (a *assembler) rows(body func(at int)) {
	for i := range 3 {
		a.line("MOVD R%d, R%d", i, 9+i)
	}
	a.line("MOVD R4, R8")
	a.repeat("R8", 2, func() {
		body(0)
		body(row)
		for i := range 3 {
			a.line("ADD $%d, R%d, R%d", 2*row, 9+i, 9+i)
		}
	})
}

// inPairs runs body for two quarters at a time: shift makes their registers
// from the first of four.
func inPairs(body func(q int, pair func(first int) regs)) {
	for q := 0; q < quarters; q += 2 {
		body(q, func(first int) regs { return span(first+q, 2) })
	}
}

// searchMinimum is the plain encoder's searchScaleMin. Registers of the four
// quarters begin at these numbers.
func (a *assembler) searchMinimum(name string, from weights, magnitudes bool) {
	a.begin(name, "fits scale and minimum of 16 sub-blocks of n elements, n even.",
		"x *float32", "w *float32", "l *float32", "s *float32", "n int")
	const inverse, low, suml, suml2, sumxl = 0, 4, 8, 12, 16
	round, zero, top := regs{29}, regs{30}, regs{31}
	a.constant(round, rounder)
	a.zero(zero)
	a.load(top, "R3", field(minTop, 0))

	const mean = 0
	if from == byEnergy {
		a.zero(span(mean, 4))
		a.rows(func(at int) {
			t := span(20, 4)
			a.load(t, "R9", at)
			a.v("FMUL", t, t, t)
			a.v("FADD", span(mean, 4), span(mean, 4), t)
		})
		a.constant(regs{28}, thirtySecond)
		a.v("FMUL", span(mean, 4), span(mean, 4), regs{28})
		a.v("FSQRT", span(mean, 4), span(mean, 4))
	}
	const high, sumw, sumx = 8, 12, 16
	a.load(span(low, 4), "R0", 0)
	a.move(span(high, 4), span(low, 4))
	a.constant(append(span(sumw, 4), span(sumx, 4)...), minusZero)
	a.rows(func(at int) {
		inPairs(func(q int, pair func(int) regs) {
			x, w, m := span(20, 2), span(22, 2), span(24, 2)
			a.load(x, "R9", at+16*q)
			// A zero of the other sign does not replace a zero, as in Go.
			a.v("FCMGT", m, pair(low), x)
			a.take(m, x, pair(low))
			a.v("FCMGT", m, x, pair(high))
			a.take(m, x, pair(high))
			if from == weighted {
				a.load(w, "R10", at+16*q)
			} else {
				a.v("FABS", w, x)
				if from == byEnergy {
					a.v("FADD", w, pair(mean), w)
				}
				a.store(w, "R10", at+16*q)
			}
			a.v("FADD", pair(sumw), pair(sumw), w)
			a.v("FMUL", w, w, x)
			a.v("FADD", pair(sumx), pair(sumx), w)
		})
	})
	all := func(first int) regs { return span(first, 4) }
	t := all(20)
	a.v("FCMGT0", t, all(low))
	a.v("BIC", all(low), all(low), t)
	a.storeField(minLow, all(low))
	a.storeField(minFirst, all(low))
	a.storeField(minFrom, all(low))
	a.storeField(minHigh, all(high))
	a.storeField(minSums, all(sumw))
	a.storeField(minSumX, all(sumx))
	// What is not finite shows in the sums: worst becomes NaN.
	a.v("FSUB", all(sumw), all(sumw), all(sumw))
	a.v("FSUB", all(sumx), all(sumx), all(sumx))
	a.v("FADD", all(sumx), all(sumx), all(sumw))
	// The first levels span the whole range.
	a.v("FSUB", t, all(high), all(low))
	a.v("FDIV", all(inverse), top, t)
	a.storeField(minInverse, all(inverse))
	a.v("FMUL", t, t, all(inverse))
	a.v("FABS", t, t)
	a.v("FADD", all(sumx), all(sumx), t)
	a.storeField(minWorst, all(sumx))

	// levelsOf rounds the elements in x to levels in l.
	levelsOf := func(l, x regs, pair func(int) regs) {
		a.v("FSUB", l, x, pair(low))
		a.v("FMUL", l, l, pair(inverse))
		a.v("FADD", l, l, round)
		a.v("FSUB", l, l, round)
		a.v("FMAX", l, l, zero)
		a.v("FMIN", l, l, top)
	}
	const scale, loss = suml, suml2
	// losses sets loss to the weighted error of the levels with scale and low.
	losses := func() {
		a.zero(all(loss))
		a.rows(func(at int) {
			inPairs(func(q int, pair func(int) regs) {
				l, x, w := span(20, 2), span(22, 2), span(24, 2)
				a.load(l, "R11", at+16*q)
				a.load(x, "R9", at+16*q)
				a.load(w, "R10", at+16*q)
				a.v("FMUL", l, l, pair(scale))
				a.v("FADD", l, l, pair(low))
				if magnitudes {
					a.v("FABD", l, l, x)
				} else {
					a.v("FSUB", l, l, x)
					a.v("FMUL", l, l, l)
				}
				a.v("FMUL", l, l, w)
				a.v("FADD", pair(loss), pair(loss), l)
			})
		})
	}
	a.rows(func(at int) {
		inPairs(func(q int, pair func(int) regs) {
			x, l := span(20, 2), span(22, 2)
			a.load(x, "R9", at+16*q)
			levelsOf(l, x, pair)
			a.store(l, "R11", at+16*q)
		})
	})
	a.constant(all(scale), one)
	a.v("FDIV", all(scale), all(scale), all(inverse))
	a.storeField(minScale, all(scale))
	losses()
	a.storeField(minBest, all(loss))

	a.line("ADD $%d, R3, R5", field(minFields, 0)+8) // numerators
	a.line("MOVD %d(R3), R6", field(minFields, 0))   // trials left
	a.repeat("R6", 1, func() {
		u := all(24)
		a.loadField(all(low), minLow)
		a.loadField(t, minHigh)
		a.v("FSUB", t, t, all(low))
		a.broadcast(28, "R5")
		a.line("ADD $4, R5, R5")
		a.v("FDIV", all(inverse), regs{28}, t)
		a.storeField(minTrial, all(inverse))
		// The levels before clamping lie between those of the two ends.
		a.v("FMUL", t, t, all(inverse))
		a.v("FABS", t, t)
		a.loadField(u, minFirst)
		a.v("FSUB", u, u, all(low))
		a.v("FMUL", u, u, all(inverse))
		a.v("FABS", u, u)
		a.v("FADD", t, t, u)
		a.loadField(u, minWorst)
		a.v("FADD", t, t, u)
		a.storeField(minWorst, t)

		a.zero(span(suml, 12))
		a.rows(func(at int) {
			inPairs(func(q int, pair func(int) regs) {
				x, l, w := span(20, 2), span(22, 2), span(24, 2)
				a.load(x, "R9", at+16*q)
				a.load(w, "R10", at+16*q)
				levelsOf(l, x, pair)
				a.store(l, "R11", at+16*q)
				a.v("FMUL", w, w, l)
				a.v("FADD", pair(suml), pair(suml), w)
				a.v("FMUL", x, x, w)
				a.v("FADD", pair(sumxl), pair(sumxl), x)
				a.v("FMUL", l, l, w)
				a.v("FADD", pair(suml2), pair(suml2), l)
			})
		})
		// Least squares, a pair of quarters at a time.
		inPairs(func(q int, pair func(int) regs) {
			d, p, b, s := span(20, 2), span(22, 2), span(24, 2), span(26, 2)
			a.loadPair(p, minSums, q)
			a.v("FMUL", d, p, pair(suml2))
			a.v("FMUL", s, pair(suml), pair(suml))
			a.v("FSUB", d, d, s)
			a.storePair(minDeterminant, q, d)
			a.v("FMUL", p, p, pair(sumxl))
			a.loadPair(b, minSumX, q)
			a.v("FMUL", s, b, pair(suml))
			a.v("FSUB", p, p, s)
			a.v("FDIV", p, p, d) // scale
			a.v("FMUL", b, b, pair(suml2))
			a.v("FMUL", s, pair(suml), pair(sumxl))
			a.v("FSUB", b, b, s)
			a.v("FDIV", b, b, d) // low
			a.v("FDIV", s, pair(sumxl), pair(suml2))
			a.v("FCMGT0", d, b)
			a.take(d, s, p)
			a.v("BIC", pair(low), b, d)
			a.move(pair(scale), p)
		})
		losses()
		inPairs(func(q int, pair func(int) regs) {
			m, t, u := span(20, 2), span(22, 2), span(24, 2)
			a.loadPair(t, minBest, q)
			a.v("FCMGT", m, t, pair(loss))
			a.loadPair(u, minDeterminant, q)
			a.v("FCMGT0", u, u)
			a.v("AND", m, m, u)
			a.take(m, pair(loss), t)
			a.storePair(minBest, q, t)
			a.loadPair(t, minScale, q)
			a.take(m, pair(scale), t)
			a.storePair(minScale, q, t)
			a.loadPair(t, minLow, q)
			a.loadPair(u, minFrom, q)
			a.take(m, t, u)
			a.take(m, pair(low), t)
			a.storePair(minFrom, q, u)
			a.storePair(minLow, q, t)
			a.loadPair(t, minInverse, q)
			a.take(m, pair(inverse), t)
			a.storePair(minInverse, q, t)
		})
	})

	// A sub-block without a range has no scale, and its lowest value is that
	// of the data.
	first, m := all(0), all(4)
	a.loadField(first, minFirst)
	a.loadField(m, minHigh)
	a.v("FCMEQ", m, m, first)
	a.loadField(t, minLow)
	a.take(m, first, t)
	a.storeField(minLow, t)
	for _, f := range []int{minScale, minInverse, minWorst} {
		a.loadField(t, f)
		a.v("BIC", t, t, m)
		a.storeField(f, t)
	}
	a.end()
}

func (a *assembler) loadField(r regs, i int)       { a.load(r, "R3", field(i, 0)) }
func (a *assembler) storeField(i int, r regs)      { a.store(r, "R3", field(i, 0)) }
func (a *assembler) loadPair(r regs, i, q int)     { a.load(r, "R3", field(i, q)) }
func (a *assembler) storePair(i, q int, pair regs) { a.store(pair, "R3", field(i, q)) }

// The fields of ScaleState.
const (
	scaleScale = iota
	scaleInverse
	scaleSums
	scaleWorst
	scaleLow
	scaleHigh
	scaleFields
)

// searchScale is the plain encoder's searchScale, one quarter after the other:
// the trials do not depend on each other, and six run at once.
func (a *assembler) searchScale(name string, from weights) {
	a.begin(name, "fits the scale of 8 times registers sub-blocks of n elements.",
		"x *float32", "w *float32", "wx *float32", "s *float32", "n int", "registers int")
	a.line("LSL $1, R5, R5") // quarters left
	a.line("MOVD R3, R7")
	const (
		together     = 6
		trials       = 18
		lx, l2, tryV = 4, 10, 16 // sums and inverses of the trials
	)
	peak, scale, best, inverse := regs{0}, regs{1}, regs{2}, regs{3}
	x, wx, w := regs{22}, regs{23}, regs{24}
	round, low, high := regs{29}, regs{30}, regs{31}
	a.constant(round, rounder)
	a.load(low, "R3", field(scaleLow, 0))
	a.load(high, "R3", field(scaleHigh, 0))
	// each runs body for every element of this quarter; R9, R10 and R12 point
	// to its x, w and wx, and advance.
	each := func(body func()) {
		a.line("MOVD R0, R9")
		a.line("MOVD R1, R10")
		a.line("MOVD R2, R12")
		a.line("MOVD R4, R8")
		a.repeat("R8", 1, body)
	}
	fit := func(n int) {
		a.zero(append(span(lx, n), span(l2, n)...))
		each(func() {
			a.line("FMOVQ.P %d(R9), F%d", row, x[0])
			a.line("FMOVQ.P %d(R12), F%d", row, wx[0])
			a.line("FMOVQ.P %d(R10), F%d", row, w[0])
			for c := 0; c < n; c += 2 {
				k := min(2, n-c)
				t, u := span(25, k), span(27, k)
				sumlx, suml2 := span(lx+c, k), span(l2+c, k)
				a.v("FMUL", t, x, span(tryV+c, k))
				a.v("FADD", t, t, round)
				a.v("FSUB", t, t, round)
				a.v("FMAX", t, t, low)
				a.v("FMIN", t, t, high)
				a.v("FMUL", u, wx, t)
				a.v("FADD", sumlx, sumlx, u)
				a.v("FMUL", u, w, t)
				a.v("FMUL", u, u, t)
				a.v("FADD", suml2, suml2, u)
			}
		})
	}
	a.repeat("R5", 1, func() {
		// The peak; largest: its magnitude, sums: of w, worst: NaN where
		// anything is not finite.
		largest, sums, worst, t, m := regs{4}, regs{5}, regs{6}, regs{7}, regs{8}
		a.zero(regs{peak[0], largest[0], sums[0], worst[0]})
		each(func() {
			a.line("FMOVQ.P %d(R9), F%d", row, x[0])
			a.v("FABS", t, x)
			a.v("FCMGT", m, t, largest)
			a.take(m, x, peak)
			a.take(m, t, largest)
			if from == bySquare {
				a.v("FMUL", t, x, x)
				a.line("FMOVQ.P F%d, %d(R10)", t[0], row)
			} else {
				a.line("FMOVQ.P %d(R10), F%d", row, t[0])
			}
			a.v("FADD", sums, sums, t)
			a.v("FMUL", t, t, x)
			a.line("FMOVQ.P F%d, %d(R12)", t[0], row)
			a.v("FSUB", t, t, t)
			a.v("FADD", worst, worst, t)
		})
		a.store(sums, "R3", field(scaleSums, 0))
		a.store(worst, "R3", field(scaleWorst, 0))
		// The first trial needs no comparison.
		a.v("FDIV", regs{tryV}, low, peak)
		a.move(inverse, regs{tryV})
		fit(1)
		a.v("FDIV", scale, regs{lx}, regs{l2})
		a.v("FCMEQ0", m, regs{l2})
		a.v("BIC", scale, scale, m)
		a.v("FMUL", best, scale, regs{lx})

		// R3 has advanced by the quarters done, R7 has not.
		a.line("ADD $%d, R7, R6", field(scaleFields, 0)) // numerators
		for range trials / together {
			for c := range together {
				a.broadcast(tryV+c, "R6")
				a.line("ADD $4, R6, R6")
			}
			a.v("FDIV", span(tryV, together), span(tryV, together), peak)
			fit(together)
			for c := range together {
				lx, l2 := regs{lx + c}, regs{l2 + c}
				t, u, m := regs{25}, regs{26}, regs{27}
				a.v("FMUL", t, lx, lx)
				a.v("FMUL", u, best, l2)
				a.v("FCMGT", m, t, u)
				a.v("FCMGT0", u, l2)
				a.v("AND", m, m, u)
				a.v("FDIV", t, lx, l2)
				a.take(m, t, scale)
				a.v("FMUL", t, t, lx)
				a.take(m, t, best)
				a.take(m, regs{tryV + c}, inverse)
			}
		}
		// A sub-block of next to nothing has no scale.
		a.v("FABS", t, peak)
		a.constant(m, tiny)
		a.v("FCMGT", m, m, t)
		a.v("BIC", scale, scale, m)
		a.v("BIC", inverse, inverse, m)
		a.store(scale, "R3", field(scaleScale, 0))
		a.store(inverse, "R3", field(scaleInverse, 0))
		for i := range 4 {
			a.line("ADD $16, R%d, R%d", i, i)
		}
	})
	a.end()
}

// nearest rounds t as nearestInt does, whatever it is, and gives the integers
// as floats.
func (a *assembler) nearest(t, round, bits, half regs) {
	a.v("FADD", t, t, round)
	a.v("AND", t, t, bits)
	a.v("SUB", t, t, half)
	a.v("SCVTF", t, t)
}

// anyLane sets the flags to whether any lane of m is set, by way of t and
// R14: NE if so.
func (a *assembler) anyLane(m, t regs) {
	a.v("UMAXV", t, m)
	a.line("FMOVS F%d, R14", t[0])
	a.line("CMPW $0, R14")
}

// refineScale is the plain encoder's refineScale, one quarter after the other.
func (a *assembler) refineScale() {
	a.begin("RefineScaleNEON", "fits the scale of 16 sub-blocks of 16 elements, level by level; l has room for 48 rows.",
		"x *float32", "w *float32", "wx *float32", "l *float32", "s *float32")
	sumlx, suml2 := regs{0}, regs{1}
	x, w, wx, l := regs{2}, regs{3}, regs{4}, regs{5}
	round, low, high, bits, half := regs{27}, regs{28}, regs{29}, regs{30}, regs{31}
	a.constant(round, rounder)
	a.constant(bits, mantissaBits)
	a.constant(half, mantissaHalf)
	a.load(low, "R4", field(scaleLow, 0))
	a.load(high, "R4", field(scaleHigh, 0))
	each := func(body func()) {
		a.line("MOVD R0, R9")
		a.line("MOVD R1, R10")
		a.line("MOVD R2, R11")
		a.line("MOVD R3, R12")
		a.line("MOVD $16, R8")
		a.repeat("R8", 1, body)
	}
	a.line("MOVD $%d, R5", quarters)
	a.repeat("R5", 1, func() {
		peak, largest, worst, t, m := regs{6}, regs{7}, regs{8}, regs{9}, regs{10}
		a.zero(regs{6, 7, 8})
		each(func() {
			a.line("FMOVQ.P %d(R9), F%d", row, x[0])
			a.v("FABS", t, x)
			a.v("FCMGT", m, t, largest)
			a.take(m, x, peak)
			a.take(m, t, largest)
			a.v("FMUL", w, x, x)
			a.line("FMOVQ.P F%d, %d(R10)", w[0], row)
			a.v("FMUL", wx, w, x)
			a.line("FMOVQ.P F%d, %d(R11)", wx[0], row)
			a.v("FSUB", t, wx, wx)
			a.v("FADD", worst, worst, t)
		})
		a.store(worst, "R4", field(scaleWorst, 0))
		a.v("FDIV", peak, low, peak)
		a.zero(regs{0, 1})
		each(func() {
			a.line("FMOVQ.P %d(R9), F%d", row, x[0])
			a.line("FMOVQ.P %d(R10), F%d", row, w[0])
			a.line("FMOVQ.P %d(R11), F%d", row, wx[0])
			a.v("FMUL", l, x, peak)
			a.v("FADD", l, l, round)
			a.v("FSUB", l, l, round)
			a.v("FMAX", l, l, low)
			a.v("FMIN", l, l, high)
			a.line("FMOVQ.P F%d, %d(R12)", l[0], row)
			a.v("FMUL", t, wx, l)
			a.v("FADD", sumlx, sumlx, t)
			a.v("FMUL", t, w, l)
			a.v("FMUL", t, t, l)
			a.v("FADD", suml2, suml2, t)
		})
		done, round5 := a.label("done"), a.label("round")
		a.line("MOVD $5, R6")
		a.place(round5)
		changed := regs{11}
		a.zero(changed)
		each(func() {
			lx, l2, moved, m, n, p, q := regs{12}, regs{13}, regs{14}, regs{15}, regs{16}, regs{17}, regs{18}
			a.line("FMOVQ.P %d(R9), F%d", row, x[0])
			a.line("FMOVQ.P %d(R10), F%d", row, w[0])
			a.line("FMOVQ.P %d(R11), F%d", row, wx[0])
			a.line("FMOVQ (R12), F%d", l[0])
			a.v("FMUL", lx, wx, l)
			a.v("FSUB", lx, sumlx, lx)
			a.v("FMUL", l2, w, l)
			a.v("FMUL", l2, l2, l)
			a.v("FSUB", l2, suml2, l2)
			a.v("FMUL", moved, x, l2)
			a.v("FDIV", moved, moved, lx)
			a.nearest(moved, round, bits, half)
			a.v("FMIN", moved, moved, high)
			a.v("FMAX", moved, moved, low)
			a.v("FCMGT0", m, lx)
			a.v("FCMEQ", n, moved, l)
			a.v("BIC", m, m, n)
			a.v("FMUL", p, wx, moved)
			a.v("FADD", lx, lx, p)
			a.v("FMUL", p, w, moved)
			a.v("FMUL", p, p, moved)
			a.v("FADD", l2, l2, p)
			a.v("FCMGT0", n, l2)
			a.v("AND", m, m, n)
			a.v("FMUL", p, lx, lx)
			a.v("FMUL", p, p, suml2)
			a.v("FMUL", q, sumlx, sumlx)
			a.v("FMUL", q, q, l2)
			a.v("FCMGT", n, p, q)
			a.v("AND", m, m, n)
			a.take(m, lx, sumlx)
			a.take(m, l2, suml2)
			a.take(m, moved, l)
			a.v("ORR", changed, changed, m)
			a.line("FMOVQ.P F%d, %d(R12)", l[0], row)
		})
		a.anyLane(changed, t)
		a.line("BEQ %s", done)
		a.line("SUBS $1, R6, R6")
		a.line("BNE %s", round5)
		a.place(done)
		// A sub-block of next to nothing has no scale.
		a.v("FDIV", t, sumlx, suml2)
		a.v("FCMGT0", m, suml2)
		a.v("AND", t, t, m)
		a.constant(m, tiny)
		a.v("FCMGT", m, m, largest)
		a.v("BIC", t, t, m)
		a.store(t, "R4", field(scaleScale, 0))
		for i := range 5 {
			a.line("ADD $16, R%d, R%d", i, i)
		}
	})
	a.end()
}

// The fields of PositiveState.
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

// searchPositive is the plain encoder's searchPositive, one quarter after the
// other.
func (a *assembler) searchPositive() {
	a.begin("SearchPositiveNEON", "fits the scale of 16 groups of n values that are not negative.",
		"x *float32", "w *float32", "l *float32", "s *float32", "n int")
	sumlx, suml2 := regs{0}, regs{1}
	x, w, l := regs{2}, regs{3}, regs{5}
	largest, chosen, best, inverse, scale, e := regs{6}, regs{7}, regs{8}, regs{9}, regs{10}, regs{11}
	t, m, n := regs{12}, regs{13}, regs{14}
	byteMask, round, top, bits, half := regs{27}, regs{28}, regs{29}, regs{30}, regs{31}
	a.constant(round, rounder)
	a.constant(bits, mantissaBits)
	a.constant(half, mantissaHalf)
	a.constant(byteMask, 255)
	a.load(top, "R3", field(positiveTop, 0))
	a.line("MOVD R3, R7")
	each := func(body func()) {
		a.line("MOVD R0, R9")
		a.line("MOVD R1, R10")
		a.line("MOVD R2, R11")
		a.line("MOVD R4, R8")
		a.repeat("R8", 1, body)
	}
	// level rounds without clamping from below: what is searched is not
	// negative.
	level := func(l, inverse regs) {
		a.v("FMUL", l, x, inverse)
		a.v("FADD", l, l, round)
		a.v("FSUB", l, l, round)
		a.v("FMIN", l, l, top)
	}
	errors := func() {
		a.zero(e)
		each(func() {
			a.line("FMOVQ.P %d(R9), F%d", row, x[0])
			a.line("FMOVQ.P %d(R10), F%d", row, w[0])
			level(l, inverse)
			a.v("FMUL", l, l, scale)
			a.v("FSUB", l, x, l)
			a.v("FMUL", w, w, l)
			a.v("FMUL", w, w, l)
			a.v("FADD", e, e, w)
		})
	}
	a.line("MOVD $%d, R5", quarters)
	a.repeat("R5", 1, func() {
		// worst: NaN where anything is negative or not finite.
		worst := regs{15}
		a.zero(regs{largest[0], worst[0]})
		each(func() {
			a.line("FMOVQ.P %d(R9), F%d", row, x[0])
			a.v("FMAX", largest, largest, x)
			a.v("FSUB", t, x, x)
			a.v("FADD", worst, worst, t)
			// The root of what is negative is not a number; that of -0 is -0.
			a.v("FSQRT", t, x)
			a.v("FSUB", t, t, t)
			a.v("FADD", worst, worst, t)
		})
		a.store(worst, "R3", field(positiveWorst, 0))
		a.v("FDIV", inverse, top, largest)
		a.move(chosen, inverse)
		a.constant(scale, one)
		a.v("FDIV", scale, scale, inverse)
		errors()
		a.move(best, e)
		a.line("ADD $%d, R7, R6", field(positiveFields, 0)) // numerators
		a.line("MOVD $%d, R13", positiveTrials)
		a.repeat("R13", 1, func() {
			a.broadcast(inverse[0], "R6")
			a.line("ADD $4, R6, R6")
			a.v("FDIV", inverse, inverse, largest)
			a.constant(scale, one)
			a.v("FDIV", scale, scale, inverse)
			errors()
			a.v("FCMGT", m, best, e)
			a.take(m, e, best)
			a.take(m, inverse, chosen)
		})
		// Levels of the best trial. Where there is next to nothing, every level
		// is zero.
		a.constant(m, tiny)
		a.v("FCMGT", m, m, largest)
		a.v("BIC", chosen, chosen, m)
		a.zero(regs{0, 1})
		each(func() {
			a.line("FMOVQ.P %d(R9), F%d", row, x[0])
			a.line("FMOVQ.P %d(R10), F%d", row, w[0])
			level(l, chosen)
			a.line("FMOVQ.P F%d, %d(R11)", l[0], row)
			a.v("FMUL", t, w, x)
			a.v("FMUL", t, t, l)
			a.v("FADD", sumlx, sumlx, t)
			a.v("FMUL", t, w, l)
			a.v("FMUL", t, t, l)
			a.v("FADD", suml2, suml2, t)
		})
		done, again := a.label("done"), a.label("round")
		changed := regs{16}
		a.line("MOVD $5, R13")
		a.place(again)
		a.zero(changed)
		each(func() {
			lx, l2, moved, product, p, q := regs{17}, regs{18}, regs{19}, regs{20}, regs{21}, regs{22}
			a.line("FMOVQ.P %d(R9), F%d", row, x[0])
			a.line("FMOVQ.P %d(R10), F%d", row, w[0])
			a.line("FMOVQ (R11), F%d", l[0])
			a.v("FMUL", product, w, x)
			a.v("FMUL", lx, product, l)
			a.v("FSUB", lx, sumlx, lx)
			a.v("FMUL", l2, w, l)
			a.v("FMUL", l2, l2, l)
			a.v("FSUB", l2, suml2, l2)
			a.v("FMUL", moved, x, l2)
			a.v("FDIV", moved, moved, lx)
			a.nearest(moved, round, bits, half)
			a.v("FMIN", moved, moved, top)
			a.v("FCMGT0", m, lx)
			a.v("FCMGT0", n, l2)
			a.v("AND", m, m, n)
			a.v("FCMEQ", n, moved, l)
			a.v("BIC", m, m, n)
			a.v("FMUL", product, product, moved)
			a.v("FADD", lx, lx, product)
			a.v("FMUL", w, w, moved)
			a.v("FMUL", w, w, moved)
			a.v("FADD", l2, l2, w)
			a.v("FMUL", p, lx, lx)
			a.v("FMUL", p, p, suml2)
			a.v("FMUL", q, sumlx, sumlx)
			a.v("FMUL", q, q, l2)
			a.v("FCMGT", n, p, q)
			a.v("AND", m, m, n)
			a.take(m, lx, sumlx)
			a.take(m, l2, suml2)
			// Levels are bytes.
			a.v("FCVTNS", moved, moved)
			a.v("AND", moved, moved, byteMask)
			a.v("SCVTF", moved, moved)
			a.take(m, moved, l)
			a.v("ORR", changed, changed, m)
			a.line("FMOVQ.P F%d, %d(R11)", l[0], row)
		})
		a.anyLane(changed, t)
		a.line("BEQ %s", done)
		a.line("SUBS $1, R13, R13")
		a.line("BNE %s", again)
		a.place(done)
		a.v("FDIV", t, sumlx, suml2)
		a.v("FCMGT0", m, suml2)
		a.v("AND", t, t, m)
		a.store(t, "R3", field(positiveScale, 0))
		for i := range 4 {
			a.line("ADD $16, R%d, R%d", i, i)
		}
	})
	a.end()
}
