//go:build (amd64 || arm64) && !purego

// Package simd holds the vector kernels of the quantizers. They are written
// for AVX-512 and for AVX2 by the generator in gen and for NEON by that in
// genarm64; the sets differ in how many sub-blocks they take at once, and in
// nothing they compute.
//
// A kernel works on lanes: the elements of many sub-blocks side by side, row i
// holding element i of each, in two registers, or in four of NEON. Every lane
// does the operations of the plain Go encoder in the same order, so results are
// equal bit for bit.
package simd

//go:generate go run -C gen . -out ../kernels_amd64.s -stubs ../kernels_amd64.go -pkg simd
//go:generate go run ./genarm64 -out kernels_arm64

// MaxLanes is the largest number of sub-blocks that a kernel takes at once.
const MaxLanes = 32

// Lanes holds one value per sub-block.
type Lanes [MaxLanes]float32

// Kernels are the functions for one instruction set; those that a set lacks
// are nil. Arguments point to as many values as the functions say; nothing is
// checked.
type Kernels struct {
	// Lanes is the number of sub-blocks that the kernels take at once.
	Lanes int

	// Transpose turns Lanes sub-blocks of n elements into n rows of lanes; n
	// is a multiple of 16.
	Transpose func(dst, src *float32, n int)

	// SearchMinimum* fit a scale and a lowest value to each of Lanes
	// sub-blocks of n elements. x and l hold n rows of lanes, w too: the
	// weights of the errors, which Weighted reads and the others compute. s
	// points to a MinimumState.
	SearchMinimumByEnergy    func(x, w, l, s *float32, n int) // n = 32
	SearchMinimumByMagnitude func(x, w, l, s *float32, n int)
	SearchMinimumWeighted    func(x, w, l, s *float32, n int)

	// SearchScale* fit a scale to each of Lanes sub-blocks of n elements,
	// likewise, or to half as many where registers is 1. s points to a
	// ScaleState.
	SearchScaleBySquare func(x, w, wx, s *float32, n, registers int)
	SearchScaleWeighted func(x, w, wx, s *float32, n, registers int)

	// RefineScale fits a scale to each of Lanes sub-blocks of 16 elements,
	// level by level, weighting errors by x*x; l has room for 80 rows. s
	// points to a ScaleState, of which it sets Scale and Worst.
	RefineScale func(x, w, wx, l, s *float32)

	// SearchPositive fits a scale to each of Lanes groups of n values that are
	// not negative; x, w and l hold n rows of lanes, and l gets the levels. s
	// points to a PositiveState.
	SearchPositive func(x, w, l, s *float32, n int)

	// DivideLevels writes the nearest integers of (x + m) / d, clamped to
	// [low, high], plus bias; MultiplyLevels those of (x - m) * d. d and m
	// hold one value per run of 16 weights.
	DivideLevels   func(levels *byte, x, d, m *float32, runs int, low, high, bias int32)
	MultiplyLevels func(levels *byte, x, d, m *float32, runs int, low, high, bias int32)

	// Weigh sets w to importance * sqrt(energy + x*x) for n weights, a
	// multiple of 16.
	Weigh func(w, importance, x *float32, energy float32, n int)

	// EncodeQ* encode blocks of 32 weights without importance, and return how
	// many they have done: they stop before a block with a value that is not
	// finite, or with a scale too small to invert.
	EncodeQ4_0, EncodeQ4_1, EncodeQ5_0, EncodeQ5_1, EncodeQ8_0 func(dst *byte, src *float32, blocks int) int

	// DecodeQ* decode blocks of 32 weights.
	DecodeQ4_0, DecodeQ4_1, DecodeQ5_0, DecodeQ5_1, DecodeQ8_0 func(dst *float32, src *byte, blocks int)

	// DecodeQ*_K decode super-blocks of 256 weights.
	DecodeQ2_K, DecodeQ4_K, DecodeQ5_K func(dst *float32, src *byte, blocks int)

	// The following hold one value of d and m per run of 16 weights.

	// ScaleLevels sets dst to (level - bias) * d - m.
	ScaleLevels func(dst *float32, levels *byte, d, m *float32, runs int, bias int32)
	// RoundLevels sets levels to 1 plus the integer nearest to x * d, ties
	// away from zero.
	RoundLevels func(levels *byte, src, d *float32, runs int)
	// Magnitudes sets dst to the bits of the largest magnitude of each run;
	// infinities and NaNs are the largest.
	Magnitudes func(dst *uint32, src *float32, runs int)
	// NearestFP4 sets levels to the E2M1 codes whose doubled values times d
	// are nearest, ValuesFP4 dst to those values.
	NearestFP4 func(levels *byte, src, d *float32, runs int)
	ValuesFP4  func(dst *float32, levels *byte, d *float32, runs int)
	// ValuesIQ4 is ValuesFP4 for the codes of IQ4_NL and IQ4_XS.
	ValuesIQ4 func(dst *float32, levels *byte, d *float32, runs int)

	// EncodeHalves and EncodeBrains convert n numbers to binary16 and
	// bfloat16, DecodeHalves and DecodeBrains back. They return how many they
	// have done, a multiple of half of Lanes: encoders stop before NaNs.
	EncodeHalves, EncodeBrains func(dst *byte, src *float32, n int) int
	DecodeHalves, DecodeBrains func(dst *float32, src *byte, n int) int
}

// Limit bounds Worst: a lane below it has met no value that the kernels round
// differently from the plain encoder; one that is not, a NaN included, must be
// encoded by that.
const Limit = 1 << 22

// MinimumState is the state of SearchMinimum. Its layout is known to the
// generator.
type MinimumState struct {
	Scale   Lanes // out: best scale
	Low     Lanes // out: best lowest value, the negative minimum
	Inverse Lanes // out: the levels of the best trial are those of
	From    Lanes // (x - From) * Inverse
	Sums    Lanes // out: sum of weights
	Worst   Lanes // out: see Limit
	Top     Lanes // in: the largest level, in every lane

	//lint:ignore U1000 the assembly keeps its state there
	high, first, sumX, best, determinant, trial Lanes

	Steps      int         // in: number of trials
	Numerators [40]float32 // in: of the inverse scale of each trial
}

// ScaleState is the state of SearchScale. Its layout is known to the
// generator.
type ScaleState struct {
	Scale   Lanes // out: best scale
	Inverse Lanes // out: the levels are those of x * Inverse, 0 where Inverse is
	Sums    Lanes // out: sum of weights
	Worst   Lanes // out: see Limit
	Low     Lanes // in: the least level, in every lane
	High    Lanes // in: the largest level, in every lane

	Numerators [18]float32 // in: of the inverse scale of each trial after the first
}

// PositiveState is the state of SearchPositive. Its layout is known to the
// generator.
type PositiveState struct {
	Scale Lanes // out: best scale
	Worst Lanes // out: see Limit
	Top   Lanes // in: the largest level, in every lane

	//lint:ignore U1000 the assembly keeps its state there
	largest, chosen, best Lanes

	Numerators [8]float32 // in: of the inverse scale of each trial after the first
}
