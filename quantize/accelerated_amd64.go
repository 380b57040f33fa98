//go:build amd64 && !purego

package quantize

import (
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize/internal/simd"
)

// init adds the faster functions of both instruction sets, one row per type.
func init() {
	for name, k := range map[string]*simd.Kernels{"avx512": &simd.AVX512, "avx2": &simd.AVX2} {
		var (
			q2, q4, q5 = &minimumEncoder{kindQ2_K, k, k.SearchMinimumByMagnitude, simd.PackPairs, 16},
				&minimumEncoder{kindQ4_K, k, k.SearchMinimumByEnergy, simd.PackNibbles, 16},
				&minimumEncoder{kindQ5_K, k, k.SearchMinimumByEnergy, simd.PackFives, 16}
			scales = scaleEncoder{k}
			levels = levelCodec{k}
			decode = decoders(k)
		)
		rows := []Codec{
			{Type: gguf.F32, Encode: copyF32, Decode: loadF32},
			{Type: gguf.F16, Encode: encodeFloats(k.EncodeHalves, encodeF16), Decode: decodeFloats(k.DecodeHalves, decodeF16)},
			{Type: gguf.BF16, Encode: encodeFloats(k.EncodeBrains, encodeBF16), Decode: decodeFloats(k.DecodeBrains, decodeBF16)},
			{Type: gguf.Q4_0, Encode: newLegacyEncoder(gguf.Q4_0, k, k.EncodeQ4_0)},
			{Type: gguf.Q4_1, Encode: newLegacyEncoder(gguf.Q4_1, k, k.EncodeQ4_1)},
			{Type: gguf.Q5_0, Encode: newLegacyEncoder(gguf.Q5_0, k, k.EncodeQ5_0)},
			{Type: gguf.Q5_1, Encode: newLegacyEncoder(gguf.Q5_1, k, k.EncodeQ5_1)},
			{Type: gguf.Q8_0, Encode: encodeBlocks(k.EncodeQ8_0, 34, encodeQ8_0)},
			{Type: gguf.Q2_K, Encode: q2.encode},
			{Type: gguf.Q3_K, Encode: scales.encodeQ3_K},
			{Type: gguf.Q4_K, Encode: q4.encode},
			{Type: gguf.Q5_K, Encode: q5.encode},
			{Type: gguf.Q6_K, Encode: scales.encodeQ6_K},
			{Type: gguf.TQ1_0, Encode: levels.encodeTQ1_0},
			{Type: gguf.TQ2_0, Encode: levels.encodeTQ2_0},
			{Type: gguf.MXFP4, Encode: levels.encodeMXFP4, Decode: levels.decodeMXFP4},
			{Type: gguf.NVFP4, Encode: levels.encodeNVFP4, Decode: levels.decodeNVFP4},
		}
		for _, c := range rows {
			if c.Decode == nil {
				c.Decode = decode[c.Type]
			}
			accelerate(name, c)
		}
	}
}
