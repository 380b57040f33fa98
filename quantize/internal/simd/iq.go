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
	Scale      Lanes
	best       Lanes
	peak       Lanes
	Numerators [15]float32
}

// AVX512IQ needs what AVX512 needs.
var AVX512IQ = IQKernels{
	Kernels:           &AVX512,
	SearchIQ4BySquare: SearchIQ4BySquareAVX512,
	SearchIQ4Weighted: SearchIQ4WeightedAVX512,
	PackIQ4:           PackIQ4AVX512,
}

// AVX2IQ needs what AVX2 needs.
var AVX2IQ = IQKernels{
	Kernels:           &AVX2,
	SearchIQ4BySquare: SearchIQ4BySquareAVX2,
	SearchIQ4Weighted: SearchIQ4WeightedAVX2,
	PackIQ4:           PackIQ4AVX2,
}
