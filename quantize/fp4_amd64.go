//go:build amd64 && !purego

// MXFP4, NVFP4 and the ternary types over the kernels of internal/simd.

package quantize

import (
	"encoding/binary"
	"math"

	"github.com/modelpipe/modelpipe/quantize/internal/simd"
)

// levelCodec encodes and decodes types whose blocks need no search.
type levelCodec struct{ *simd.Kernels }

const (
	infinityBits   = 0x7f800000
	invertibleBits = 0x0d800000 // 2^-100: from here on 1/d is finite
)

// magnitudes sets ws.peaks to the bits of the largest magnitude of each run of
// sixteen weights.
func (c levelCodec) magnitudes(ws *workspace, x []float32) {
	c.Magnitudes(&ws.peaks[0], &x[0], len(x)/16)
}

func (c levelCodec) encodeMXFP4(dst []byte, src []float32, _ int, _ []float32) {
	ws := workspaces.Get().(*workspace)
	defer ws.release()
	for len(src) > 0 {
		x := src[:min(levelBatch, len(src))]
		src = src[len(x):]
		c.magnitudes(ws, x)
		for i := 0; i < len(x)/16; i += 2 {
			peak := max(ws.peaks[i], ws.peaks[i+1])
			dst[i/2*sizeMXFP4] = c.exponent(peak, x[16*i:][:32])
			ws.scales[i] = halfE8M0(dst[i/2*sizeMXFP4])
			ws.scales[i+1] = ws.scales[i]
		}
		c.NearestFP4(&ws.codes[0], &x[0], &ws.scales[0], len(x)/16)
		for i := 0; i < len(x); i += 32 {
			joinNibbles(dst[1:9], ws.codes[i:], ws.codes[i+16:])
			joinNibbles(dst[9:17], ws.codes[i+8:], ws.codes[i+24:])
			dst = dst[sizeMXFP4:]
		}
	}
}

// exponent is exponentE8M0 of the largest magnitude in x, whose bits are peak:
// the float's own exponent unless the logarithm may round up to the next.
func (c levelCodec) exponent(peak uint32, x []float32) uint8 {
	const margin = 64 // float32 steps below a power of two
	normal := peak > 0x800000 && peak < infinityBits
	if !normal || peak&0x7fffff >= 0x800000-margin {
		return exponentE8M0(absolute(signedPeak(x)))
	}
	return uint8(peak>>23) - 2
}

func (c levelCodec) encodeNVFP4(dst []byte, src []float32, _ int, _ []float32) {
	ws := workspaces.Get().(*workspace)
	defer ws.release()
	for len(src) > 0 {
		x := src[:min(levelBatch, len(src))]
		src = src[len(x):]
		c.magnitudes(ws, x)
		for i := range len(x) / 16 {
			largest := math.Float32frombits(ws.peaks[i])
			if ws.peaks[i] > infinityBits {
				largest = absolute(signedPeak(x[16*i:][:16]))
			}
			scale := encodeUE4M3(largest / 6)
			dst[i/4*sizeNVFP4+i%4] = scale
			ws.scales[i] = halfUE4M3Values[scale]
		}
		c.NearestFP4(&ws.codes[0], &x[0], &ws.scales[0], len(x)/16)
		for i := 0; i < len(x); i += 64 {
			for s := range 4 {
				joinNibbles(dst[4+8*s:], ws.codes[i+16*s:], ws.codes[i+16*s+8:])
			}
			dst = dst[sizeNVFP4:]
		}
	}
}

// halfUE4M3Values is halfUE4M3 by code; bit 7 is not looked at.
var halfUE4M3Values = func() (values [256]float32) {
	for u := range values {
		values[u] = halfUE4M3(uint8(u))
	}
	return values
}()

// splitNibbles is the inverse of joinNibbles.
func splitNibbles(low, high, src []byte) {
	const nibbles = 0x0f0f0f0f0f0f0f0f
	q := binary.LittleEndian.Uint64(src)
	binary.LittleEndian.PutUint64(low, q&nibbles)
	binary.LittleEndian.PutUint64(high, q>>4&nibbles)
}

func (c levelCodec) decodeMXFP4(dst []float32, src []byte) {
	ws := workspaces.Get().(*workspace)
	defer ws.release()
	for len(dst) > 0 {
		n := min(levelBatch, len(dst))
		for i := 0; i < n; i += 32 {
			ws.scales[i/16] = halfE8M0(src[0])
			ws.scales[i/16+1] = ws.scales[i/16]
			splitNibbles(ws.codes[i:], ws.codes[i+16:], src[1:9])
			splitNibbles(ws.codes[i+8:], ws.codes[i+24:], src[9:17])
			src = src[sizeMXFP4:]
		}
		c.ValuesFP4(&dst[0], &ws.codes[0], &ws.scales[0], n/16)
		dst = dst[n:]
	}
}

func (c levelCodec) decodeNVFP4(dst []float32, src []byte) {
	ws := workspaces.Get().(*workspace)
	defer ws.release()
	for len(dst) > 0 {
		n := min(levelBatch, len(dst))
		for i := 0; i < n; i += 64 {
			for s := range 4 {
				ws.scales[i/16+s] = halfUE4M3Values[src[s]]
				splitNibbles(ws.codes[i+16*s:], ws.codes[i+16*s+8:], src[4+8*s:])
			}
			src = src[sizeNVFP4:]
		}
		c.ValuesFP4(&dst[0], &ws.codes[0], &ws.scales[0], n/16)
		dst = dst[n:]
	}
}

// trits sets ws.levels to the levels of a block of a ternary type, and returns
// its scale; false says that the block is for the plain encoder.
func (c levelCodec) trits(ws *workspace, x []float32) (float32, bool) {
	c.magnitudes(ws, x[:superBlock])
	var peak uint32
	for _, p := range ws.peaks[:16] {
		peak = max(peak, p)
	}
	if peak >= infinityBits || peak < invertibleBits && peak != 0 {
		return 0, false
	}
	scale := math.Float32frombits(peak)
	inverse := inverseOrZero(scale)
	for i := range ws.divisors {
		ws.divisors[i] = inverse
	}
	c.RoundLevels(&ws.levels[0], &x[0], &ws.divisors[0], 16)
	return scale, true
}

func (c levelCodec) encodeTQ2_0(dst []byte, src []float32, _ int, _ []float32) {
	ws := workspaces.Get().(*workspace)
	defer ws.release()
	for ; len(src) > 0; dst, src = dst[sizeTQ2_0:], src[superBlock:] {
		scale, ok := c.trits(ws, src)
		if !ok {
			encodeTQ2_0(dst[:sizeTQ2_0], src[:superBlock], superBlock, nil)
			continue
		}
		simd.PackPairs(&dst[0], &ws.levels[0])
		binary.LittleEndian.PutUint16(dst[64:], scaleBits(scale))
	}
}

// fractions is the byte of five trits by their number in base three.
var fractions = func() (bytes [243]uint8) {
	for n := range bytes {
		bytes[n] = uint8((n*256 + 242) / 243)
	}
	return bytes
}()

func (c levelCodec) encodeTQ1_0(dst []byte, src []float32, _ int, _ []float32) {
	ws := workspaces.Get().(*workspace)
	defer ws.release()
	for ; len(src) > 0; dst, src = dst[sizeTQ1_0:], src[superBlock:] {
		scale, ok := c.trits(ws, src)
		if !ok {
			encodeTQ1_0(dst[:sizeTQ1_0], src[:superBlock], superBlock, nil)
			continue
		}
		// Eight bytes at a time: a number below 243 stays within its byte.
		l := &ws.levels
		eight := func(at int) uint64 { return binary.LittleEndian.Uint64(l[at:]) }
		var numbers [52]byte
		for m := 0; m < 32; m += 8 {
			n := (((eight(m)*3+eight(m+32))*3+eight(m+64))*3+eight(m+96))*3 + eight(m+128)
			binary.LittleEndian.PutUint64(numbers[m:], n)
		}
		for m := 160; m < 176; m += 8 {
			n := (((eight(m)*3+eight(m+16))*3+eight(m+32))*3+eight(m+48))*3 + eight(m+64)
			binary.LittleEndian.PutUint64(numbers[m-128:], n)
		}
		for m := range 4 {
			numbers[48+m] = (((l[240+m]*3+l[244+m])*3+l[248+m])*3 + l[252+m]) * 3
		}
		for i, n := range numbers {
			dst[i] = fractions[n]
		}
		binary.LittleEndian.PutUint16(dst[52:], scaleBits(scale))
	}
}
