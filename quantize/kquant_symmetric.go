// Q3_K and Q6_K: super-blocks of 256 weights in 16 sub-blocks of 16, each with
// a signed scale quantized by one scale of the super-block:
// weight = d * scale * (q - 4 or 32).
//
//	Q3_K  hmask [32]uint8 (third bits), qs [64]uint8 (low two bits),
//	      scales [12]uint8 (six bits each), d binary16
//	Q6_K  ql [128]uint8 (low four bits), qh [64]uint8 (high two bits),
//	      scales [16]int8, d binary16

package quantize

import (
	"encoding/binary"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(Codec{Type: gguf.Q3_K, Encode: encodeQ3_K, Decode: decodeQ3_K})
	register(Codec{Type: gguf.Q6_K, Encode: encodeQ6_K, Decode: decodeQ6_K})
}

const (
	sizeQ3_K = 110
	sizeQ6_K = 210
)

// symmetricBlock is a super-block on its way: what the search found, sub-block
// by sub-block.
type symmetricBlock struct {
	scales [16]float32
	sums   [16]float32 // of the weights of the errors, with importance (Q3_K)
	levels [superBlock]int8

	scaleLevels [16]int8 // of Q3_K, from 0 to 63
}

func encodeQ3_K(dst []byte, src []float32, cols int, importance []float32) {
	var b symmetricBlock
	for at := 0; at < len(src); at += superBlock {
		x := (*[superBlock]float32)(src[at:])
		if importance == nil {
			for j := range 16 {
				b.scales[j] = refineScale(4, x[16*j:][:16], b.levels[16*j:])
			}
		} else {
			energy := energyQ3_K(x)
			for j := range 16 {
				searchWeightedQ3_K(&b, x, importance[at%cols:][:superBlock], energy, j)
			}
		}
		finishQ3_K(dst[:sizeQ3_K], &b, x, importance != nil)
		dst = dst[sizeQ3_K:]
	}
}

// energyQ3_K is what an element's own square is added to for its weight.
func energyQ3_K(x *[superBlock]float32) float32 { return float32(2*sumSquares(x[:])) / superBlock }

// searchWeightedQ3_K fits sub-block j with importance: from
// quantize_row_q3_K_impl in ggml-quants.c.
func searchWeightedQ3_K(b *symmetricBlock, x *[superBlock]float32, importance []float32, energy float32, j int) {
	var weights [16]float32
	sub := x[16*j:][:16]
	weigh(weights[:], importance[16*j:], sub, energy)
	b.sums[j] = 0
	for _, w := range weights {
		b.sums[j] += w
	}
	b.scales[j] = searchScale(4, sub, b.levels[16*j:], weights[:])
}

// finishQ3_K quantizes the scales of a searched super-block and writes it: the
// second half of quantize_row_q3_K_ref and _impl in ggml-quants.c.
func finishQ3_K(dst []byte, b *symmetricBlock, x *[superBlock]float32, weighted bool) {
	var d float32
	if weighted {
		d = searchScale(32, b.scales[:], b.scaleLevels[:], b.sums[:])
	} else {
		d = b.spreadQ3_K()
	}
	b.writeQ3_K(dst, x, b.writeScalesQ3_K(dst, d))
}

// writeQ3_K rounds every weight again with the scales that dst now holds and
// writes the levels. A sub-block whose scale has become zero keeps the levels
// of the search.
func (b *symmetricBlock) writeQ3_K(dst []byte, x *[superBlock]float32, d float32) {
	for j, level := range b.scaleLevels {
		if scale := d * float32(level-32); scale != 0 {
			requantize(b.levels[16*j:][:16], x[16*j:], scale, 4)
		}
	}
	packQ3_K(dst, &b.levels)
}

// spreadQ3_K maps the scale of the largest magnitude to the level 0 and
// returns the scale of the scales.
func (b *symmetricBlock) spreadQ3_K() float32 {
	peak := signedPeak(b.scales[:])
	if peak == 0 {
		clear(b.scaleLevels[:])
		return 0
	}
	inverse := -32 / peak
	for j, scale := range b.scales {
		level := int8(nearestInt(float32(inverse * scale)))
		b.scaleLevels[j] = max(-32, min(31, level)) + 32
	}
	return 1 / inverse
}

// writeScalesQ3_K writes the levels of the scales, the low four bits first,
// and their own scale d, which it returns as a decoder will see it.
func (b *symmetricBlock) writeScalesQ3_K(dst []byte, d float32) float32 {
	packed, l := (*[12]uint8)(dst[96:]), &b.scaleLevels
	for j := range 8 {
		packed[j] = uint8(l[j])&15 | uint8(l[j+8])<<4
	}
	for j := range 4 {
		packed[8+j] = uint8(l[j])>>4 | uint8(l[j+4])>>4<<2 | uint8(l[j+8])>>4<<4 | uint8(l[j+12])>>4<<6
	}
	half := scaleBits(d)
	binary.LittleEndian.PutUint16(dst[108:], half)
	return halfValue(half)
}

// scaleQ3_K returns the level of sub-block j's scale, from -32 to 31.
func scaleQ3_K(block []byte, j int) int {
	packed := block[96:108]
	low := packed[j%8] >> (j / 8 * 4) & 15
	high := packed[8+j%4] >> (j / 4 * 2) & 3
	return int(low|high<<4) - 32
}

// requantize rounds x/scale to levels in [0, 2 half).
func requantize(levels []int8, x []float32, scale float32, half int32) {
	for i := range levels {
		levels[i] = int8(half + max(-half, min(half-1, nearestInt(x[i]/scale))))
	}
}

// packQ3_K puts the third bit of weight 32*j + l into bit j of byte l of hmask
// and the low two bits where Q2_K has them.
func packQ3_K(dst []byte, levels *[superBlock]int8) {
	hmask := dst[:32]
	clear(hmask)
	var low [superBlock]uint8
	for i, l := range levels {
		hmask[i%32] |= uint8(l) >> 2 << (i / 32)
		low[i] = uint8(l) & 3
	}
	packPairs(dst[32:96], &low)
}

func decodeQ3_K(dst []float32, src []byte) {
	var levels [superBlock]uint8
	for ; len(dst) > 0; dst, src = dst[superBlock:], src[sizeQ3_K:] {
		block := src[:sizeQ3_K]
		d := halfValue(binary.LittleEndian.Uint16(block[108:]))
		unpackPairs(&levels, block[32:96])
		hmask := block[:32]
		for j := range 16 {
			scale := d * float32(scaleQ3_K(block, j))
			for i := 16 * j; i < 16*j+16; i++ {
				q := int(levels[i] | hmask[i%32]>>(i/32)&1<<2)
				dst[i] = scale * float32(q-4)
			}
		}
	}
}

func encodeQ6_K(dst []byte, src []float32, cols int, importance []float32) {
	var b symmetricBlock
	for at := 0; at < len(src); at += superBlock {
		x := (*[superBlock]float32)(src[at:])
		for j := range 16 {
			var weights []float32
			if importance != nil {
				weights = importance[at%cols+16*j:][:16]
			}
			b.scales[j] = searchScale(32, x[16*j:][:16], b.levels[16*j:], weights)
		}
		finishQ6_K(dst[:sizeQ6_K], &b, x)
		dst = dst[sizeQ6_K:]
	}
}

// finishQ6_K quantizes the scales of a searched super-block and writes it: the
// second half of quantize_row_q6_K_ref in ggml-quants.c.
func finishQ6_K(dst []byte, b *symmetricBlock, x *[superBlock]float32) {
	d, ok := writeScalesQ6_K(dst, b)
	if !ok {
		clear(dst)
		return
	}
	for j := range 16 {
		scale := d * float32(int8(dst[192+j]))
		if scale == 0 {
			continue
		}
		requantize(b.levels[16*j:][:16], x[16*j:], scale, 32)
	}
	packQ6_K(dst, &b.levels)
}

// writeScalesQ6_K quantizes the scales, writes them with their own scale, and
// returns this as a decoder will see it; false says that the whole super-block
// is zero.
func writeScalesQ6_K(dst []byte, b *symmetricBlock) (float32, bool) {
	peak := signedPeak(b.scales[:])
	if absolute(peak) < negligible {
		return 0, false
	}
	inverse := -128 / peak
	half := scaleBits(1 / inverse)
	binary.LittleEndian.PutUint16(dst[208:], half)
	for j, scale := range b.scales {
		dst[192+j] = byte(min(127, nearestInt(float32(inverse*scale))))
	}
	return halfValue(half), true
}

// packQ6_K puts, for each half, the weights l and l+64 into byte l of ql, l+32
// and l+96 into byte l+32, and the high bits of all four into byte l of qh.
func packQ6_K(dst []byte, levels *[superBlock]int8) {
	for half := range 2 {
		l := levels[half*128:][:128]
		ql, qh := dst[half*64:][:64], dst[128+half*32:][:32]
		for i := range 32 {
			a, b, c, d := uint8(l[i]), uint8(l[i+32]), uint8(l[i+64]), uint8(l[i+96])
			ql[i] = a&15 | c<<4
			ql[i+32] = b&15 | d<<4
			qh[i] = a>>4 | b>>4<<2 | c>>4<<4 | d>>4<<6
		}
	}
}

func decodeQ6_K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[superBlock:], src[sizeQ6_K:] {
		block := src[:sizeQ6_K]
		d := halfValue(binary.LittleEndian.Uint16(block[208:]))
		for half := range 2 {
			out := dst[half*128:][:128]
			ql, qh, scales := block[half*64:][:64], block[128+half*32:][:32], block[192+half*8:][:8]
			for i := range 32 {
				j, low, low32, high := i/16, ql[i], ql[i+32], qh[i]
				out[i] = d * float32(int8(scales[j])) * float32(int(low&15|high&3<<4)-32)
				out[i+32] = d * float32(int8(scales[j+2])) * float32(int(low32&15|high>>2&3<<4)-32)
				out[i+64] = d * float32(int8(scales[j+4])) * float32(int(low>>4|high>>4&3<<4)-32)
				out[i+96] = d * float32(int8(scales[j+6])) * float32(int(low32>>4|high>>6<<4)-32)
			}
		}
	}
}
