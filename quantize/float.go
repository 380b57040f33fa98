// F32, F16 and BF16: one number per block.

package quantize

import (
	"encoding/binary"
	"math"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(Codec{Type: gguf.F32, Encode: encodeF32, Decode: decodeF32})
	register(Codec{Type: gguf.F16, Encode: encodeF16, Decode: decodeF16})
	register(Codec{Type: gguf.BF16, Encode: encodeBF16, Decode: decodeBF16})
}

func encodeF32(dst []byte, src []float32, _ int, _ []float32) {
	dst = dst[:4*len(src)]
	for i, v := range src {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
}

func decodeF32(dst []float32, src []byte) {
	src = src[:4*len(dst)]
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

func encodeF16(dst []byte, src []float32, _ int, _ []float32) {
	dst = dst[:2*len(src)]
	for i, v := range src {
		binary.LittleEndian.PutUint16(dst[2*i:], halfBits(v))
	}
}

func decodeF16(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	for i := range dst {
		dst[i] = halfValue(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

func encodeBF16(dst []byte, src []float32, _ int, _ []float32) {
	dst = dst[:2*len(src)]
	for i, v := range src {
		binary.LittleEndian.PutUint16(dst[2*i:], brainBits(v))
	}
}

func decodeBF16(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	for i := range dst {
		dst[i] = brainValue(binary.LittleEndian.Uint16(src[2*i:]))
	}
}
