//go:build amd64 && !purego

// Decoders over the kernels of internal/simd.

package quantize

import (
	"encoding/binary"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize/internal/simd"
)

// blockDecoder decodes super-blocks: unpack writes the levels of a block, and
// scales the scale of every run of sixteen weights.
type blockDecoder struct {
	*simd.Kernels
	size   int
	unpack func(levels, src *byte)
	bias   int32
	scales func(divisors *[16]float32, block []byte)
}

func (d *blockDecoder) decode(dst []float32, src []byte) {
	ws := workspaces.Get().(*workspace)
	defer ws.release()
	clear(ws.offsets[:])
	for ; len(dst) > 0; dst, src = dst[superBlock:], src[d.size:] {
		d.scales(&ws.divisors, src[:d.size])
		d.unpack(&ws.levels[0], &src[0])
		d.ScaleLevels(&dst[0], &ws.levels[0], &ws.divisors[0], &ws.offsets[0], 16, d.bias)
	}
}

func runScalesQ3_K(divisors *[16]float32, block []byte) {
	d := halfValue(binary.LittleEndian.Uint16(block[108:]))
	for j := range divisors {
		divisors[j] = d * float32(scaleQ3_K(block, j))
	}
}

func runScalesQ6_K(divisors *[16]float32, block []byte) {
	d := halfValue(binary.LittleEndian.Uint16(block[208:]))
	for j := range divisors {
		divisors[j] = d * float32(int8(block[192+j]))
	}
}

// runScalesTernary has one scale for the whole block, at its end.
func runScalesTernary(divisors *[16]float32, block []byte) {
	d := halfValue(binary.LittleEndian.Uint16(block[len(block)-2:]))
	for j := range divisors {
		divisors[j] = d
	}
}

// decoders returns the decoders of every type that has one.
func decoders(k *simd.Kernels) map[gguf.Type]func(dst []float32, src []byte) {
	blocks := func(kernel func(dst *float32, src *byte, blocks int), length int) func(dst []float32, src []byte) {
		return func(dst []float32, src []byte) {
			if len(dst) > 0 {
				kernel(&dst[0], &src[0], len(dst)/length)
			}
		}
	}
	out := map[gguf.Type]func(dst []float32, src []byte){
		gguf.Q4_0: blocks(k.DecodeQ4_0, 32),
		gguf.Q4_1: blocks(k.DecodeQ4_1, 32),
		gguf.Q5_0: blocks(k.DecodeQ5_0, 32),
		gguf.Q5_1: blocks(k.DecodeQ5_1, 32),
		gguf.Q8_0: blocks(k.DecodeQ8_0, 32),
		gguf.Q2_K: blocks(k.DecodeQ2_K, superBlock),
		gguf.Q4_K: blocks(k.DecodeQ4_K, superBlock),
		gguf.Q5_K: blocks(k.DecodeQ5_K, superBlock),
	}
	for typ, d := range map[gguf.Type]*blockDecoder{
		gguf.Q3_K:  {unpack: simd.UnpackThrees, bias: 4, scales: runScalesQ3_K},
		gguf.Q6_K:  {unpack: simd.UnpackSixes, bias: 32, scales: runScalesQ6_K},
		gguf.TQ1_0: {unpack: simd.UnpackTrits, bias: 1, scales: runScalesTernary},
		gguf.TQ2_0: {unpack: simd.UnpackPairs, bias: 1, scales: runScalesTernary},
	} {
		d.Kernels, d.size = k, int(typ.BlockBytes())
		out[typ] = d.decode
	}
	return out
}
