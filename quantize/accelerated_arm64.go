//go:build arm64 && !purego

package quantize

import (
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize/internal/simd"
)

// init adds the faster functions, one row per type. The other types, and the
// decoders that are not here, are those of the definitions.
func init() {
	var (
		k          = &simd.NEON
		q2, q4, q5 = &minimumEncoder{kindQ2_K, k, k.SearchMinimumByMagnitude, simd.PackPairs, 16},
			&minimumEncoder{kindQ4_K, k, k.SearchMinimumByEnergy, simd.PackNibbles, 16},
			&minimumEncoder{kindQ5_K, k, k.SearchMinimumByEnergy, simd.PackFives, 16}
		scales = scaleEncoder{k}
	)
	for _, c := range []Codec{
		{Type: gguf.F32, Encode: copyF32, Decode: loadF32},
		{Type: gguf.F16, Encode: encodeFloats(k.EncodeHalves, encodeF16), Decode: decodeFloats(k.DecodeHalves, decodeF16)},
		{Type: gguf.BF16, Encode: encodeFloats(k.EncodeBrains, encodeBF16), Decode: decodeFloats(k.DecodeBrains, decodeBF16)},
		{Type: gguf.Q4_0, Encode: newLegacyEncoder(gguf.Q4_0, k, k.EncodeQ4_0)},
		{Type: gguf.Q4_1, Encode: newLegacyEncoder(gguf.Q4_1, k, nil)},
		{Type: gguf.Q5_0, Encode: newLegacyEncoder(gguf.Q5_0, k, nil)},
		{Type: gguf.Q5_1, Encode: newLegacyEncoder(gguf.Q5_1, k, nil)},
		{Type: gguf.Q8_0, Encode: encodeBlocks(k.EncodeQ8_0, 34, encodeQ8_0)},
		{Type: gguf.Q2_K, Encode: q2.encode},
		{Type: gguf.Q3_K, Encode: scales.encodeQ3_K},
		{Type: gguf.Q4_K, Encode: q4.encode},
		{Type: gguf.Q5_K, Encode: q5.encode},
		{Type: gguf.Q6_K, Encode: scales.encodeQ6_K},
	} {
		accelerate("neon", c)
	}
}
