//go:build amd64 && !purego

// Q1_0 and Q2_0 over the kernels of internal/simd, which are the same for
// every instruction set.

package quantize

import (
	"encoding/binary"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize/internal/simd"
)

func init() {
	for _, name := range []string{"avx512", "avx2"} {
		accelerate(name, Codec{Type: gguf.Q1_0, Encode: encodeQ1_0Kernels, Decode: decodeQ1_0Kernels})
		accelerate(name, Codec{Type: gguf.Q2_0, Encode: encodeQ2_0Kernels, Decode: decodeQ2_0Kernels})
	}
}

// encodeQ1_0Kernels sums the magnitudes of eight blocks at a time.
func encodeQ1_0Kernels(dst []byte, src []float32, _ int, _ []float32) {
	const block = 128
	for len(src) > 0 {
		blocks := min(8, len(src)/block)
		var runs [8]*float32
		for i := range runs {
			runs[i] = &src[min(i, blocks-1)*block]
		}
		var sums [8]float32
		simd.SumMagnitudes(&sums, &runs, block)
		for i := range blocks {
			binary.LittleEndian.PutUint16(dst, scaleBits(sums[i]/block))
			simd.Signs(&dst[2], &src[0], block)
			dst, src = dst[sizeQ1_0:], src[block:]
		}
	}
}

func decodeQ1_0Kernels(dst []float32, src []byte) {
	if len(dst) > 0 {
		simd.DecodeQ1_0(&dst[0], &src[0], len(dst)/128)
	}
}

// encodeQ2_0Kernels leaves the blocks that the kernel stops before to the plain
// encoder.
func encodeQ2_0Kernels(dst []byte, src []float32, _ int, _ []float32) {
	const block = 64
	for len(src) > 0 {
		done := simd.EncodeQ2_0(&dst[0], &src[0], len(src)/block)
		dst, src = dst[done*sizeQ2_0:], src[done*block:]
		if len(src) > 0 {
			encodeQ2_0(dst[:sizeQ2_0], src[:block], block, nil)
			dst, src = dst[sizeQ2_0:], src[block:]
		}
	}
}

func decodeQ2_0Kernels(dst []float32, src []byte) {
	if len(dst) > 0 {
		simd.DecodeQ2_0(&dst[0], &src[0], len(dst)/64)
	}
}
