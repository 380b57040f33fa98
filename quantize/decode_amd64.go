//go:build amd64 && !purego

// Decoders over the kernels of internal/simd.

package quantize

import (
	"encoding/binary"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize/internal/simd"
)

// blockDecoder decodes super-blocks: unpack writes the levels of a block, and
// scales the scale and the minimum of every run of sixteen weights.
type blockDecoder struct {
	*simd.Kernels
	size     int
	unpack   func(levels, src *byte)
	unpackAt int // where in the block
	bias     int32
	scales   func(divisors, offsets *[16]float32, block []byte)
}

func (d *blockDecoder) decode(dst []float32, src []byte) {
	ws := workspaces.Get().(*workspace)
	defer ws.release()
	clear(ws.offsets[:])
	for ; len(dst) > 0; dst, src = dst[superBlock:], src[d.size:] {
		d.scales(&ws.divisors, &ws.offsets, src[:d.size])
		d.unpack(&ws.levels[0], &src[d.unpackAt])
		d.ScaleLevels(&dst[0], &ws.levels[0], &ws.divisors[0], &ws.offsets[0], 16, d.bias)
	}
}

func (k *minimumKind) runScales(divisors, offsets *[16]float32, block []byte) {
	d := halfValue(binary.LittleEndian.Uint16(block[k.halves:]))
	dmin := halfValue(binary.LittleEndian.Uint16(block[k.halves+2:]))
	runs := k.length / 16
	for j := range superBlock / k.length {
		scaleLevel, minimumLevel := k.scaleLevels(block, j)
		scale, minimum := d*float32(scaleLevel), dmin*float32(minimumLevel)
		for run := j * runs; run < (j+1)*runs; run++ {
			divisors[run], offsets[run] = scale, minimum
		}
	}
}

func runScalesQ3_K(divisors, _ *[16]float32, block []byte) {
	d := halfValue(binary.LittleEndian.Uint16(block[108:]))
	for j := range divisors {
		divisors[j] = d * float32(scaleQ3_K(block, j))
	}
}

func runScalesQ6_K(divisors, _ *[16]float32, block []byte) {
	d := halfValue(binary.LittleEndian.Uint16(block[208:]))
	for j := range divisors {
		divisors[j] = d * float32(int8(block[192+j]))
	}
}

// runScalesTQ2_0 has one scale for the whole block.
func runScalesTQ2_0(divisors, _ *[16]float32, block []byte) {
	d := halfValue(binary.LittleEndian.Uint16(block[64:]))
	for j := range divisors {
		divisors[j] = d
	}
}

// decoders returns the decoders of every type that has one.
func decoders(k *simd.Kernels) map[gguf.Type]func(dst []float32, src []byte) {
	blocks := func(kernel func(dst *float32, src *byte, blocks int)) func(dst []float32, src []byte) {
		return func(dst []float32, src []byte) {
			if len(dst) > 0 {
				kernel(&dst[0], &src[0], len(dst)/32)
			}
		}
	}
	out := map[gguf.Type]func(dst []float32, src []byte){
		gguf.Q4_0: blocks(k.DecodeQ4_0),
		gguf.Q4_1: blocks(k.DecodeQ4_1),
		gguf.Q5_0: blocks(k.DecodeQ5_0),
		gguf.Q5_1: blocks(k.DecodeQ5_1),
		gguf.Q8_0: blocks(k.DecodeQ8_0),
	}
	for typ, d := range map[gguf.Type]*blockDecoder{
		gguf.Q2_K:  {unpack: simd.UnpackPairs, unpackAt: 16, scales: kindQ2_K.runScales},
		gguf.Q3_K:  {unpack: simd.UnpackThrees, bias: 4, scales: runScalesQ3_K},
		gguf.Q4_K:  {unpack: simd.UnpackNibbles, unpackAt: 16, scales: kindQ4_K.runScales},
		gguf.Q5_K:  {unpack: simd.UnpackFives, unpackAt: 16, scales: kindQ5_K.runScales},
		gguf.Q6_K:  {unpack: simd.UnpackSixes, bias: 32, scales: runScalesQ6_K},
		gguf.TQ2_0: {unpack: simd.UnpackPairs, bias: 1, scales: runScalesTQ2_0},
	} {
		d.Kernels, d.size = k, int(typ.BlockBytes())
		out[typ] = d.decode
	}
	return out
}
