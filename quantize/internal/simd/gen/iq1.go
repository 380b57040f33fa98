package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// IQ1: the search for two thresholds among sorted weights, low <= high. The
// lanes are successive places of high. Whether a candidate is taken depends on
// the best so far, so the kernel asks which lanes would be, takes the first,
// and asks again. Places beyond the last hold NaNs, which are never taken.

// The fields of the kernels' state, in the order of the Go struct, in bytes.
const (
	terX       = 0
	terRanks   = terX + 128
	terSumX    = terRanks + 128
	terSumW    = terSumX + 2*256
	terFound   = terSumW + 2*256
	terLow     = terFound + 4
	terHigh    = terFound + 8
	terMove    = terFound + 12
	terScale   = terFound + 16
	terFirst   = terFound + 20
	terStart   = terFound + 24
	terLeast   = terFound + 28
	terTrialQX = terFound + 64
	terTrialQ2 = terTrialQX + 4*64
	terFixed   = terTrialQ2 + 4*64
	terRows    = terFixed + 15*64
)

// The values of the coordinates under the two moves.
var movedValues = [2][3]float32{{-0.875, 0.125, 1.125}, {-1.125, -0.125, 0.875}}

// ranks writes the kernel that sorts.
func (g *gen) ranks() {
	g.begin("Ranks", "func(s *float32, n int)", "sets the ranks of 16 or 32 weights; equal ones keep their order.")
	s, n := Load(Param("s"), GP64()), Load(Param("n"), GP64())
	SHLQ(Imm(2), n)
	v := g.v
	const key, next, rank, lane, j, t = 0, 1, 2, 3, 4, 5
	oneInt := g.c(1)
	g.zero(v(6))
	at := GP64()
	keys := func(disp int, index reg.Register) Mem {
		return Mem{Base: s, Disp: terTrialQX + disp, Index: index, Scale: 1}
	}
	// Integers in the order of the numbers; minus zero is zero.
	loop := g.label("keys")
	XORQ(at, at)
	Label(loop)
	VADDPS(Mem{Base: s, Disp: terX, Index: at, Scale: 1}, v(6), v(key))
	VPSRAD(Imm(31), v(key), v(t))
	VANDPS(constant(magnitude), v(t), v(t))
	VXORPS(v(t), v(key), v(key))
	VMOVUPS(v(key), keys(0, at))
	ADDQ(U8(g.vector()), at)
	CMPQ(at, n)
	JB(LabelRef(loop))
	// The rank of a weight is the number of those below it, and of those equal
	// to it that come before it.
	VMOVUPS(ascending(), v(lane))
	loop, inner := g.label("loop"), g.label("others")
	other := GP64()
	XORQ(at, at)
	Label(loop)
	VMOVUPS(keys(0, at), v(key))
	VPADDD(oneInt, v(key), v(next))
	if g.wide() {
		VPXORD(v(rank), v(rank), v(rank))
		VPXORD(v(j), v(j), v(j))
	} else {
		VPXOR(v(rank), v(rank), v(rank))
		VPXOR(v(j), v(j), v(j))
	}
	XORQ(other, other)
	Label(inner)
	VPBROADCASTD(keys(0, other), v(t))
	if g.wide() {
		VPCMPGTD(v(j), v(lane), reg.K1)
		VPBLENDMD(v(next), v(key), reg.K1, v(7))
		VPCMPGTD(v(t), v(7), reg.K2)
		VPADDD(oneInt, v(rank), reg.K2, v(rank))
	} else {
		VPCMPGTD(v(j), v(lane), v(7))
		VPSUBD(v(7), v(key), v(7))
		VPCMPGTD(v(t), v(7), v(7))
		VPSUBD(v(7), v(rank), v(rank))
	}
	VPADDD(oneInt, v(j), v(j))
	ADDQ(Imm(4), other)
	CMPQ(other, n)
	JB(LabelRef(inner))
	VMOVUPS(v(rank), Mem{Base: s, Disp: terRanks, Index: at, Scale: 1})
	VPADDD(constant(uint32(g.lanes)), v(lane), v(lane))
	ADDQ(U8(g.vector()), at)
	CMPQ(at, n)
	JB(LabelRef(loop))
	g.end()
}

// thresholds is the frame of the two searches: n weights, a number of moves.
// group prepares what is fixed for the group, low what is fixed for a place of
// low (in bytes), and high computes a register of places of high; trial leaves
// the sums of a move in registers. Register 0 holds the best score; 11, 12
// and spare are free for the frame.
func (g *gen) thresholds(name string, n, moves, spare int, group func(s reg.Register), low, high func(s, at reg.Register), trial func(move int) (qx, q2 reg.VecPhysical)) {
	g.estimate(name, n, moves, group, low, high, trial)
	g.begin("Search"+name, "func(s *float32)", "finds the thresholds with the best score.")
	s := Load(Param("s"), GP64())
	v := g.v
	zero := g.c(0)
	MOVL(U32(0), Mem{Base: s, Disp: terFound})
	VBROADCASTSS(Mem{Base: s, Disp: terLeast}, v(0))
	VMOVUPS(v(0), fixed(s, leastSlot))
	VBROADCASTSS(Mem{Base: s, Disp: terStart}, v(0))
	group(s)
	atLow, atHigh := GP64(), GP64()
	row, any := GP64(), GP64()
	loop, inner, next, again := g.label("low"), g.label("high"), g.label("next"), g.label("again")
	nextLow := g.label("rows")
	XORQ(atLow, atLow)
	LEAQ(Mem{Base: s, Disp: terRows}, row)
	Label(loop)
	// Only where the estimate may be above Least. It is never below zero.
	VMOVUPS(Mem{Base: row}, v(11))
	some := g.m(2, spare)
	g.greater(v(11), fixed(s, leastSlot), some)
	g.bits(some, any.As32())
	TESTL(any.As32(), any.As32())
	JZ(LabelRef(nextLow))
	low(s, atLow)
	MOVQ(atLow, atHigh)
	Label(inner)
	high(s, atHigh)

	// taken sets bits to the lanes that move would take, plus what it held.
	taken := make([]reg.GPVirtual, moves)
	ask := func() {
		for move := range moves {
			taken[move] = GP64()
			qx, q2 := trial(move)
			t, u := v(11), v(12)
			if g.wide() {
				g.greater(q2, zero, reg.K2)
			}
			VMULPS(qx, qx, t)
			VMULPS(v(0), q2, u)
			if g.wide() {
				g.greater(t, u, reg.K1)
				KANDW(reg.K1, reg.K2, reg.K1)
				KMOVW(reg.K1, taken[move].As32())
			} else {
				g.greater(t, u, t)
				g.greater(q2, zero, u)
				VANDPS(t, u, t)
				VMOVMSKPS(t, taken[move].As32())
			}
		}
	}
	// First whether any might be taken, with sums that are not positive too.
	for move := range moves {
		qx, q2 := trial(move)
		t, u := v(11), v(12)
		VMULPS(qx, qx, t)
		VMULPS(v(0), q2, u)
		if move == 0 {
			g.greater(t, u, some)
			continue
		}
		m := g.m(0, 11)
		g.greater(t, u, m)
		if g.wide() {
			KORW(m, some, some)
		} else {
			VORPS(m, some, some)
		}
	}
	g.bits(some, any.As32())
	TESTL(any.As32(), any.As32())
	JZ(LabelRef(next))
	for move := range moves {
		qx, q2 := trial(move)
		VMOVUPS(qx, Mem{Base: s, Disp: terTrialQX + 64*move})
		VMOVUPS(q2, Mem{Base: s, Disp: terTrialQ2 + 64*move})
	}
	left := GP64()
	MOVQ(I32(-1), left)
	Label(again)
	ask()
	// Of all moves in order: lane by lane, move by move.
	pattern := uint64(0x5555555555555555)
	shift := uint64(1)
	if moves == 4 {
		pattern, shift = 0x1111111111111111, 2
	}
	order, spread, bits := GP64(), GP64(), GP64()
	XORL(order.As32(), order.As32())
	MOVQ(U64(pattern), spread)
	for move := range moves {
		PDEPQ(spread, taken[move], bits)
		if move > 0 {
			SHLQ(Imm(uint64(move)), bits)
		}
		ORQ(bits, order)
	}
	ANDQ(left, order)
	JZ(LabelRef(next))
	lane, move := GP64(), GP64()
	TZCNTQ(order, lane)
	MOVQ(lane, move)
	// What comes after this one is left.
	MOVQ(I32(-2), left)
	SHLXQ(lane, left, left)
	ANDL(Imm(uint64(moves-1)), move.As32())
	SHRL(Imm(shift), lane.As32())
	MOVL(move.As32(), Mem{Base: s, Disp: terMove})
	SHLL(Imm(4), move.As32())
	ADDL(lane.As32(), move.As32())
	VMOVSS(Mem{Base: s, Disp: terTrialQX, Index: move, Scale: 4}, x(11))
	VDIVSS(Mem{Base: s, Disp: terTrialQ2, Index: move, Scale: 4}, x(11), x(12))
	VMOVSS(x(12), Mem{Base: s, Disp: terScale})
	VMULSS(x(11), x(12), x(12))
	VBROADCASTSS(x(12), v(0))
	later := g.label("later")
	CMPL(Mem{Base: s, Disp: terFound}, Imm(0))
	JNE(LabelRef(later))
	VMOVSS(x(12), Mem{Base: s, Disp: terFirst})
	Label(later)
	MOVL(U32(1), Mem{Base: s, Disp: terFound})
	MOVL(atLow.As32(), move.As32())
	SHRL(Imm(2), move.As32())
	MOVL(move.As32(), Mem{Base: s, Disp: terLow})
	MOVL(atHigh.As32(), move.As32())
	SHRL(Imm(2), move.As32())
	ADDL(lane.As32(), move.As32())
	MOVL(move.As32(), Mem{Base: s, Disp: terHigh})
	JMP(LabelRef(again))

	Label(next)
	ADDQ(U8(g.vector()), atHigh)
	CMPQ(atHigh, U32(4*n))
	JBE(LabelRef(inner))
	Label(nextLow)
	ADDQ(Imm(64), row)
	ADDQ(Imm(4), atLow)
	CMPQ(atLow, U32(4*n))
	JBE(LabelRef(loop))
	g.end()
}

// leastSlot is the place of Least in fixed.
const leastSlot = 14

// bits sets bit i of r where lane i of m is set.
func (g *gen) bits(m mask, r reg.Register) {
	if g.wide() {
		KMOVW(m, r)
	} else {
		VMOVMSKPS(m, r)
	}
}

// estimate writes the kernel that leaves in First about the best score, and in
// the rows the best ones of each place of low.
func (g *gen) estimate(name string, n, moves int, group func(s reg.Register), low, high func(s, at reg.Register), trial func(move int) (qx, q2 reg.VecPhysical)) {
	g.begin("Estimate"+name, "func(s *float32)", "sets First to about the best score, and that of each place of low.")
	s := Load(Param("s"), GP64())
	v := g.v
	best := fixed(s, leastSlot)
	g.zero(v(0))
	VMOVUPS(v(0), best)
	group(s)
	atLow, atHigh, row := GP64(), GP64(), GP64()
	loop, inner := g.label("low"), g.label("high")
	XORQ(atLow, atLow)
	LEAQ(Mem{Base: s, Disp: terRows}, row)
	Label(loop)
	g.zero(v(0))
	low(s, atLow)
	MOVQ(atLow, atHigh)
	Label(inner)
	high(s, atHigh)
	for move := range moves {
		qx, q2 := trial(move)
		if g.wide() {
			VRCP14PS(q2, v(11))
		} else {
			VRCPPS(q2, v(11))
		}
		VMULPS(qx, qx, v(12))
		VMULPS(v(11), v(12), v(12))
		VMAXPS(v(0), v(12), v(0)) // keeps v0 where the other is NaN
	}
	ADDQ(U8(g.vector()), atHigh)
	CMPQ(atHigh, U32(4*n))
	JBE(LabelRef(inner))
	VMOVUPS(v(0), Mem{Base: row})
	VMAXPS(best, v(0), v(0))
	VMOVUPS(v(0), best)
	ADDQ(Imm(64), row)
	ADDQ(Imm(4), atLow)
	CMPQ(atLow, U32(4*n))
	JBE(LabelRef(loop))
	g.reduce(0, 11, func(a, b, c Op) { VMAXPS(a, b, c) })
	VMOVSS(x(0), Mem{Base: s, Disp: terFirst})
	g.end()
}

// fixed is memory for a register of what stays fixed for a while.
func fixed(s reg.Register, i int) Mem { return Mem{Base: s, Disp: terFixed + 64*i} }

// searchIQ1S is the plain encoder's searchIQ1_S.
func (g *gen) searchIQ1S() {
	const n = 32
	v := g.v
	value := func(move, level int) Op { return constant(bitsOf(movedValues[move][level])) }
	g.thresholds("IQ1S", n, 2, 13,
		func(s reg.Register) {
			VBROADCASTSS(Mem{Base: s, Disp: terSumX + 4*n}, v(1))
			VBROADCASTSS(Mem{Base: s, Disp: terSumW + 4*n}, v(2))
		},
		func(s, at reg.Register) {
			VBROADCASTSS(Mem{Base: s, Disp: terSumX, Index: at, Scale: 1}, v(3))
			VBROADCASTSS(Mem{Base: s, Disp: terSumW, Index: at, Scale: 1}, v(4))
			for move := range 2 {
				VMULPS(value(move, 0), v(3), v(5))
				VMOVUPS(v(5), fixed(s, move))
				VMULPS(value(move, 0), v(4), v(5))
				VMULPS(value(move, 0), v(5), v(5))
				VMOVUPS(v(5), fixed(s, 2+move))
			}
		},
		func(s, at reg.Register) {
			x1, x2, w1, w2, t := v(5), v(6), v(7), v(8), v(13)
			VMOVUPS(Mem{Base: s, Disp: terSumX, Index: at, Scale: 1}, t)
			VSUBPS(v(3), t, x1)
			VSUBPS(t, v(1), x2)
			VMOVUPS(Mem{Base: s, Disp: terSumW, Index: at, Scale: 1}, t)
			VSUBPS(v(4), t, w1)
			VSUBPS(t, v(2), w2)
			// Sums with the first move go to v9 and v10, with the second to v14
			// and v15.
			for move, q := range [][2]int{{9, 10}, {14, 15}} {
				qx, q2 := v(q[0]), v(q[1])
				VMULPS(value(move, 1), x1, qx)
				VADDPS(fixed(s, move), qx, qx)
				VMULPS(value(move, 2), x2, t)
				VADDPS(t, qx, qx)
				VMULPS(value(move, 1), w1, q2)
				VMULPS(value(move, 1), q2, q2)
				VADDPS(fixed(s, 2+move), q2, q2)
				VMULPS(value(move, 2), w2, t)
				VMULPS(value(move, 2), t, t)
				VADDPS(t, q2, q2)
			}
		},
		func(move int) (qx, q2 reg.VecPhysical) {
			if move == 0 {
				return v(9), v(10)
			}
			return v(14), v(15)
		})
}

// searchIQ1M is the plain encoder's searchIQ1_M.
func (g *gen) searchIQ1M() {
	const n = 16
	v := g.v
	sum := func(s, at reg.Register, field, half, disp int) Mem {
		m := Mem{Base: s, Disp: field + 256*half + disp}
		if at != nil {
			m.Index, m.Scale = at, 1
		}
		return m
	}
	// What is fixed: for the group sumx * top (0 to 3, by half and move) and
	// sumw * top * top (4 to 7), for low sumx below it (8, 9, by half) and the
	// sum of the latter and of what is below low (10 to 13).
	g.thresholds("IQ1M", n, 4, 15,
		func(s reg.Register) {
			for half := range 2 {
				for move, values := range movedValues {
					top := constant(bitsOf(values[2]))
					VBROADCASTSS(sum(s, nil, terSumX, half, 4*n), v(1))
					VMULPS(top, v(1), v(1))
					VMOVUPS(v(1), fixed(s, 2*half+move))
					VBROADCASTSS(sum(s, nil, terSumW, half, 4*n), v(1))
					VMULPS(top, v(1), v(1))
					VMULPS(top, v(1), v(1))
					VMOVUPS(v(1), fixed(s, 4+2*half+move))
				}
			}
		},
		func(s, at reg.Register) {
			for half := range 2 {
				VBROADCASTSS(sum(s, at, terSumX, half, 0), v(1))
				VMOVUPS(v(1), fixed(s, 8+half))
				VBROADCASTSS(sum(s, at, terSumW, half, 0), v(1))
				for move, values := range movedValues {
					VMULPS(constant(bitsOf(values[0]*values[0]-values[1]*values[1])), v(1), v(2))
					VADDPS(fixed(s, 4+2*half+move), v(2), v(2))
					VMOVUPS(v(2), fixed(s, 10+2*half+move))
				}
			}
		},
		func(s, at reg.Register) {
			// Sums by half and move: v1 to v4 of x, v5 to v8 of w.
			for half := range 2 {
				below, w := v(9), v(10)
				VMOVUPS(fixed(s, 8+half), below)
				VADDPS(sum(s, at, terSumX, half, 0), below, below)
				VMOVUPS(sum(s, at, terSumW, half, 0), w)
				for move, values := range movedValues {
					i := 2*half + move
					VMOVUPS(fixed(s, i), v(1+i))
					VSUBPS(below, v(1+i), v(1+i))
					VMULPS(constant(bitsOf(values[1]*values[1]-values[2]*values[2])), w, v(5+i))
					VADDPS(fixed(s, 10+i), v(5+i), v(5+i))
				}
			}
		},
		func(pair int) (qx, q2 reg.VecPhysical) {
			a, b := pair>>1, 2+pair&1
			VADDPS(v(1+b), v(1+a), v(13))
			VADDPS(v(5+b), v(5+a), v(14))
			return v(13), v(14)
		})
}
