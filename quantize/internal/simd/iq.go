//go:build amd64 && !purego

package simd

//go:generate go run -C gen . -iq -out ../iq_amd64.s -stubs ../iq_amd64.go -pkg simd

// IQKernels are the functions of the IQ types for one instruction set. As
// with Kernels, nothing is checked.
type IQKernels struct {
	*Kernels

	// SearchIQ4* fit a scale to each of Lanes sub-blocks of 32 weights. x
	// holds 32 rows of lanes, and w those of the weights of the errors, which
	// Weighted reads and BySquare writes. values points to an IQ4Values, s to
	// an IQ4State.
	SearchIQ4BySquare func(x, w, values, s *float32)
	SearchIQ4Weighted func(x, w, values, s *float32)

	// PackIQ4 writes the codes of groups of 32 weights times an inverse scale
	// each: sixteen bytes, stride bytes apart. codes points to an IQ4Codes.
	PackIQ4 func(dst *byte, stride int, x, inverses *float32, codes *int32, groups int)

	// Eights and Fours are for lattices whose cells have eight coordinates
	// below 4, two bits of a key each, or four below 8, three bits each.
	Eights, Fours LatticeKernels

	// TrialScales sets the inverse scales of 32 trials to Numerators /
	// highest, and the scales to their inverses. s points to a LatticeState.
	TrialScales func(s *float32, highest float32)

	// Ranks sets the ranks of n weights, 16 or 32. SearchIQ1S and SearchIQ1M
	// find the thresholds among 32 or 16 sorted weights. s points to a
	// TernaryState.
	// EstimateIQ1S and EstimateIQ1M set First to about the best score, a
	// positive one within 2^-11 of it.
	Ranks        func(s *float32, n int)
	SearchIQ1S   func(s *float32)
	SearchIQ1M   func(s *float32)
	EstimateIQ1S func(s *float32)
	EstimateIQ1M func(s *float32)

	// Roots sets dst to the square roots of n numbers, a multiple of 16.
	Roots func(dst, src *float32, n int)
}

// LatticeKernels move the cells of a group to points of a lattice under a
// number of trial scales. s points to a LatticeState; numbers of trials count
// as the next multiple of 16 but in Nearest.
type LatticeKernels struct {
	// Round sets the keys of the levels nearest to (value * inverse - 1) / 2.
	Round func(s *float32, cells, trials int)

	// Nearest chooses for each key the first of its points that lose least:
	// the sums, in order, of near * diff * diff, where diff is scale * q less
	// the value. entries has for each key the number of the first sixteen
	// points in the upper 16 bits, then eight bits each how many sixteens and
	// how many eights of points there are. A point is four bits per
	// coordinate, see Place. Keys with no eights have one point. Losses are
	// finite.
	Nearest func(s *float32, entries, points *uint32, cells, trials int)

	// Sum sets the sums of weight * value * q and of weight * q * q.
	Sum func(s *float32, cells, trials int)
}

// LatticeState is what LatticeKernels work on, by weight, by trial, or by
// cell.
type LatticeState struct {
	Value, Near, Weight [32]float32    // by weight
	Inverse, Scale      [32]float32    // by trial
	SumQX, SumQ2        [32]float32    // by trial
	Q                   [8][16]float32 // by cell, what a coordinate stands for, over and over
	Keys                [8][32]int32   // by cell and trial
	Chosen              [8][32]uint32  // by cell and trial
	//lint:ignore U1000 the assembly keeps its state there
	spread [8][16]float32
	//lint:ignore U1000 the assembly keeps its state there
	positions  [16]int32
	Numerators [32]float32 // by trial, of inverse scales
}

// TernaryState is what Ranks and SearchIQ1* work on.
type TernaryState struct {
	X     [32]float32
	Ranks [32]int32

	// SumX and SumW hold the sums of weight * x and of weight over the first
	// 0, 1, 2, ... sorted weights of all, or of each half; after the last there
	// are NaNs.
	SumX, SumW [2][64]float32

	// What was found: the thresholds, the move or pair of moves and the scale.
	Found           int32
	Low, High, Move int32
	Scale           float32

	First float32 // score that was taken first, or estimated
	Start float32 // score to begin with
	Least float32 // places of low with no estimate above it are left out
	_     [8]int32
	//lint:ignore U1000 the assembly keeps its state there
	trials [8][16]float32
	//lint:ignore U1000 the assembly keeps its state there
	fixed [15][16]float32
	//lint:ignore U1000 the assembly keeps its state there
	rows [33][16]float32 // estimates of the best scores by place of low
}

// Place adds to coordinate k of a point of a cell of eight, or four, what
// Nearest wants above it.
func Place(coordinate, k, cell int) uint32 {
	if cell == 8 {
		return uint32(coordinate | k%4*4)
	}
	return uint32(coordinate | k%2*8)
}

// IQ4Values and IQ4Codes hold the value and the code for numbers v at
// floor(2v), which wraps around.
type (
	IQ4Values [1024]float32
	IQ4Codes  [1024]int32
)

// IQ4State is what SearchIQ4* works on: it returns Scale, and tries the
// inverse scales Numerators / the element of the largest magnitude.
type IQ4State struct {
	Scale Lanes
	//lint:ignore U1000 the assembly keeps its state there
	best Lanes
	//lint:ignore U1000 the assembly keeps its state there
	peak       Lanes
	Numerators [15]float32
}

// AVX512IQ needs what AVX512 needs.
var AVX512IQ = IQKernels{
	Kernels:           &AVX512,
	SearchIQ4BySquare: SearchIQ4BySquareAVX512,
	SearchIQ4Weighted: SearchIQ4WeightedAVX512,
	PackIQ4:           PackIQ4AVX512,
	Eights:            LatticeKernels{RoundEightsAVX512, NearestEightsAVX512, SumEightsAVX512},
	Fours:             LatticeKernels{RoundFoursAVX512, NearestFoursAVX512, SumFoursAVX512},
	Roots:             RootsAVX512,
	TrialScales:       TrialScalesAVX512,
	Ranks:             RanksAVX512, SearchIQ1S: SearchIQ1SAVX512, EstimateIQ1S: EstimateIQ1SAVX512,
	// Seventeen places fill eight lanes better than sixteen.
	SearchIQ1M: SearchIQ1MAVX2, EstimateIQ1M: EstimateIQ1MAVX2,
}

// AVX2IQ needs what AVX2 needs.
var AVX2IQ = IQKernels{
	Kernels:           &AVX2,
	SearchIQ4BySquare: SearchIQ4BySquareAVX2,
	SearchIQ4Weighted: SearchIQ4WeightedAVX2,
	PackIQ4:           PackIQ4AVX2,
	Eights:            LatticeKernels{RoundEightsAVX2, NearestEightsAVX2, SumEightsAVX2},
	Fours:             LatticeKernels{RoundFoursAVX2, NearestFoursAVX2, SumFoursAVX2},
	Roots:             RootsAVX2,
	TrialScales:       TrialScalesAVX2,
	Ranks:             RanksAVX2, SearchIQ1S: SearchIQ1SAVX2, SearchIQ1M: SearchIQ1MAVX2,
	EstimateIQ1S: EstimateIQ1SAVX2, EstimateIQ1M: EstimateIQ1MAVX2,
}
