//go:build arm64 && !purego

// The instruction set of arm64.

package simd

// NEON is what every arm64 processor has. It lacks the kernels of some types.
var NEON = Kernels{
	Lanes:                    16,
	Transpose:                TransposeNEON,
	SearchMinimumByEnergy:    SearchMinimumByEnergyNEON,
	SearchMinimumByMagnitude: SearchMinimumByMagnitudeNEON,
	SearchMinimumWeighted:    SearchMinimumWeightedNEON,
	SearchScaleBySquare:      SearchScaleBySquareNEON,
	SearchScaleWeighted:      SearchScaleWeightedNEON,
	RefineScale:              RefineScaleNEON,
	SearchPositive:           SearchPositiveNEON,
	DivideLevels:             DivideLevelsNEON,
	MultiplyLevels:           MultiplyLevelsNEON,
	Weigh:                    WeighNEON,
	EncodeQ4_0:               EncodeQ4_0NEON,
	EncodeQ8_0:               EncodeQ8_0NEON,
	EncodeHalves:             EncodeHalvesNEON,
	EncodeBrains:             EncodeBrainsNEON,
	DecodeHalves:             DecodeHalvesNEON,
	DecodeBrains:             DecodeBrainsNEON,
}
