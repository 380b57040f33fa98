//go:build (amd64 || arm64) && !purego

// Codecs over the kernels of internal/simd that take weights in row order: the
// types whose encoding needs no search.

package quantize

import (
	"encoding/binary"
	"unsafe"
)

// copyF32 is encodeF32 on a little-endian machine.
func copyF32(dst []byte, src []float32, _ int, _ []float32) {
	copy(dst, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(src))), 4*len(src)))
}

// loadF32 is decodeF32 on a little-endian machine.
func loadF32(dst []float32, src []byte) {
	copy(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(dst))), 4*len(dst)), src)
}

// encodeFloats runs a kernel that converts to two bytes each; plain does the
// sixteen numbers that it stops before.
func encodeFloats(kernel func(dst *byte, src *float32, n int) int, plain func([]byte, []float32, int, []float32)) func([]byte, []float32, int, []float32) {
	return func(dst []byte, src []float32, _ int, _ []float32) {
		for len(src) > 0 {
			done := kernel(&dst[0], &src[0], len(src))
			dst, src = dst[2*done:], src[done:]
			n := min(16, len(src))
			plain(dst[:2*n], src[:n], n, nil)
			dst, src = dst[2*n:], src[n:]
		}
	}
}

func decodeFloats(kernel func(dst *float32, src *byte, n int) int, plain func([]float32, []byte)) func([]float32, []byte) {
	return func(dst []float32, src []byte) {
		if len(dst) == 0 {
			return
		}
		done := kernel(&dst[0], &src[0], len(dst))
		plain(dst[done:], src[2*done:])
	}
}

// encodeBlocks runs a kernel over blocks of 32 weights in size bytes; plain
// does the block that it stops before.
func encodeBlocks(kernel func(dst *byte, src *float32, blocks int) int, size int, plain func([]byte, []float32, int, []float32)) func([]byte, []float32, int, []float32) {
	return func(dst []byte, src []float32, _ int, _ []float32) {
		for len(src) > 0 {
			done := kernel(&dst[0], &src[0], len(src)/32)
			dst, src = dst[done*size:], src[done*32:]
			if len(src) == 0 {
				return
			}
			plain(dst[:size], src[:32], 32, nil)
			dst, src = dst[size:], src[32:]
		}
	}
}

// joinNibbles writes eight bytes: low codes with high ones above them.
func joinNibbles(dst, low, high []byte) {
	binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(low)|binary.LittleEndian.Uint64(high)<<4)
}
