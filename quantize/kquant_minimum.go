// Q2_K, Q4_K and Q5_K: super-blocks of 256 weights, cut into sub-blocks that
// each have a scale and a minimum, themselves quantized by two scales of the
// super-block: weight = d * scale * q - dmin * minimum.
//
//	Q2_K  scales [16]uint8 (scale | minimum<<4), qs [64]uint8, d, dmin binary16
//	Q4_K  d, dmin binary16, scales [12]uint8, qs [128]uint8
//	Q5_K  d, dmin binary16, scales [12]uint8, qh [32]uint8, qs [128]uint8
//
// Q2_K has 16 sub-blocks of 16 weights, the others 8 of 32 with six-bit
// scales and minimums packed into twelve bytes.

package quantize

import (
	"encoding/binary"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	for _, k := range minimumKinds {
		register(Codec{Type: k.typ, Encode: k.encode, Decode: k.decode})
	}
}

// superBlock is the number of weights in a super-block of every k-quant.
const superBlock = 256

// minimumKind is what sets the three types apart.
type minimumKind struct {
	typ    gguf.Type
	length int   // of a sub-block
	top    int32 // largest level of a weight

	scaleTop int32 // largest level of a scale or minimum
	// ggml clamps the levels of scales from above in some encoders only; it
	// matters where a fitted scale is negative and its level wraps around.
	clampPlain, clampWeighted bool

	plain       steps // trials without importance
	byMagnitude bool  // weights and errors are magnitudes, without importance
	energyScale float32

	halves int // offset of d and dmin
	// packScales writes the levels of scales and minimums, scaleLevels reads
	// those of sub-block j, pack writes the levels of the weights, unpack
	// reads them.
	packScales  func(block []byte, scales, minimums *[16]uint8)
	scaleLevels func(block []byte, j int) (scale, minimum uint8)
	pack        func(block []byte, levels *[superBlock]uint8)
	unpack      func(levels *[superBlock]uint8, block []byte)
}

var minimumKinds = [...]*minimumKind{kindQ2_K, kindQ4_K, kindQ5_K}

var (
	kindQ2_K = &minimumKind{
		typ: gguf.Q2_K, length: 16, top: 3, scaleTop: 15,
		plain: steps{-0.5, 0.1, 15}, byMagnitude: true, energyScale: 1,
		halves: 80, packScales: packScales4, scaleLevels: scaleLevels4, pack: packQ2_K, unpack: unpackQ2_K,
	}
	kindQ4_K = &minimumKind{
		typ: gguf.Q4_K, length: 32, top: 15, scaleTop: 63, clampPlain: true,
		plain: steps{-1, 0.1, 20}, energyScale: 2,
		halves: 0, packScales: packScales6, scaleLevels: scaleLevels6, pack: packQ4_K, unpack: unpackQ4_K,
	}
	kindQ5_K = &minimumKind{
		typ: gguf.Q5_K, length: 32, top: 31, scaleTop: 63, clampPlain: true, clampWeighted: true,
		plain: steps{-0.5, 0.1, 15}, energyScale: 2,
		halves: 0, packScales: packScales6, scaleLevels: scaleLevels6, pack: packQ5_K, unpack: unpackQ5_K,
	}
)

// minimumBlock is a super-block on its way: what the search found, sub-block
// by sub-block.
type minimumBlock struct {
	scales, minimums [16]float32
	sums             [16]float32 // of the weights of the errors, with importance
	levels           [superBlock]uint8

	scaleLevels, minimumLevels [16]uint8
}

func (k *minimumKind) encode(dst []byte, src []float32, cols int, importance []float32) {
	size := int(k.typ.BlockBytes())
	var b minimumBlock
	for at := 0; at < len(src); at += superBlock {
		x := (*[superBlock]float32)(src[at:])
		if importance == nil {
			k.search(&b, x, 0, superBlock/k.length)
		} else {
			k.searchWeighted(&b, x, importance[at%cols:][:superBlock])
		}
		k.finish(dst[:size], &b, x, importance != nil)
		dst = dst[size:]
	}
}

// search fits sub-blocks from up to end, without importance: the first half
// of quantize_row_q4_K_ref and its siblings in ggml-quants.c.
func (k *minimumKind) search(b *minimumBlock, x *[superBlock]float32, from, end int) {
	var weights [32]float32
	n := k.length
	for j := from; j < end; j++ {
		sub := x[j*n:][:n]
		var mean float32
		if !k.byMagnitude {
			mean = root(sumSquares(sub) / float32(n))
		}
		for i, v := range sub {
			weights[i] = mean + absolute(v)
		}
		b.scales[j], b.minimums[j] = searchScaleMin(k.top, sub, weights[:n], b.levels[j*n:], k.plain, k.byMagnitude)
	}
}

// searchWeighted fits every sub-block with importance: the first half of
// quantize_row_q4_K_impl and its siblings in ggml-quants.c.
func (k *minimumKind) searchWeighted(b *minimumBlock, x *[superBlock]float32, importance []float32) {
	energy := k.energy(x)
	for j := range superBlock / k.length {
		k.searchWeightedAt(b, x, importance, energy, j)
	}
}

// energy is what an element's own square is added to for its weight.
func (k *minimumKind) energy(x *[superBlock]float32) float32 {
	return float32(k.energyScale*sumSquares(x[:])) / superBlock
}

// searchWeightedAt fits sub-block j.
func (k *minimumKind) searchWeightedAt(b *minimumBlock, x *[superBlock]float32, importance []float32, energy float32, j int) {
	var weights [32]float32
	n := k.length
	weigh(weights[:n], importance[j*n:], x[j*n:][:n], energy)
	b.sums[j] = 0
	for _, w := range weights[:n] {
		b.sums[j] += w
	}
	b.scales[j], b.minimums[j] = searchScaleMin(k.top, x[j*n:][:n], weights[:n], b.levels[j*n:], weightedSteps, false)
}

// finish quantizes the scales and minimums of a searched super-block and
// writes it.
func (k *minimumKind) finish(dst []byte, b *minimumBlock, x *[superBlock]float32, weighted bool) {
	var d, dmin float32
	n := superBlock / k.length
	if weighted {
		d = searchPositive(k.scaleTop, b.scales[:n], b.scaleLevels[:], b.sums[:n])
		dmin = searchPositive(k.scaleTop, b.minimums[:n], b.minimumLevels[:], b.sums[:n])
	} else {
		d = k.spread(b.scales[:n], &b.scaleLevels)
		dmin = k.spread(b.minimums[:n], &b.minimumLevels)
	}
	d, dmin = k.writeScales(dst, b, d, dmin, weighted)
	k.requantize(dst, b, x, d, dmin)
	k.pack(dst, &b.levels)
}

// writeScales writes the levels of scales and minimums with their own scales,
// and returns these as a decoder will see them.
func (k *minimumKind) writeScales(dst []byte, b *minimumBlock, d, dmin float32, weighted bool) (float32, float32) {
	if !weighted && k.clampPlain || weighted && k.clampWeighted {
		top := uint8(k.scaleTop)
		for j := range b.scaleLevels {
			b.scaleLevels[j] = min(b.scaleLevels[j], top)
			b.minimumLevels[j] = min(b.minimumLevels[j], top)
		}
	}
	k.packScales(dst, &b.scaleLevels, &b.minimumLevels)
	halfD, halfMin := scaleBits(d), scaleBits(dmin)
	binary.LittleEndian.PutUint16(dst[k.halves:], halfD)
	binary.LittleEndian.PutUint16(dst[k.halves+2:], halfMin)
	return halfValue(halfD), halfValue(halfMin)
}

// spread maps the largest of values to the largest level and returns the
// scale.
func (k *minimumKind) spread(values []float32, levels *[16]uint8) float32 {
	var largest float32
	for _, v := range values {
		if v > largest {
			largest = v
		}
	}
	if !(largest > 0) {
		clear(levels[:])
		return 0
	}
	inverse := float32(k.scaleTop) / largest
	for j, v := range values {
		levels[j] = uint8(nearestInt(float32(inverse * v)))
	}
	return largest / float32(k.scaleTop)
}

// requantize rounds every weight again with the scales that dst now holds. A
// sub-block whose scale has become zero keeps the levels of the search.
func (k *minimumKind) requantize(dst []byte, b *minimumBlock, x *[superBlock]float32, d, dmin float32) {
	n := k.length
	for j := range superBlock / n {
		scaleLevel, minimumLevel := k.scaleLevels(dst, j)
		scale := d * float32(scaleLevel)
		if scale == 0 {
			continue
		}
		minimum := float32(dmin * float32(minimumLevel))
		levels := b.levels[j*n:][:n]
		for i, v := range x[j*n:][:n] {
			levels[i] = uint8(max(0, min(k.top, nearestInt((v+minimum)/scale))))
		}
	}
}

func (k *minimumKind) decode(dst []float32, src []byte) {
	size, n := int(k.typ.BlockBytes()), k.length
	var levels [superBlock]uint8
	for ; len(dst) > 0; dst, src = dst[superBlock:], src[size:] {
		block := src[:size]
		d := halfValue(binary.LittleEndian.Uint16(block[k.halves:]))
		dmin := halfValue(binary.LittleEndian.Uint16(block[k.halves+2:]))
		k.unpack(&levels, block)
		for j := range superBlock / n {
			scaleLevel, minimumLevel := k.scaleLevels(block, j)
			scale := d * float32(scaleLevel)
			minimum := float32(dmin * float32(minimumLevel))
			out := dst[j*n:][:n]
			for i, q := range levels[j*n:][:n] {
				out[i] = float32(scale*float32(q)) - minimum
			}
		}
	}
}

// packScales4 is Q2_K's: four bits each, the minimum above the scale.
func packScales4(block []byte, scales, minimums *[16]uint8) {
	for j := range scales {
		block[j] = scales[j] | minimums[j]<<4
	}
}

func scaleLevels4(block []byte, j int) (scale, minimum uint8) {
	return block[j] & 15, block[j] >> 4
}

// packScales6 is Q4_K's and Q5_K's: the first four sub-blocks have their six
// bits in the low part of bytes 0-3 (scales) and 4-7 (minimums), the last four
// have their low four bits in bytes 8-11 and their high two on top of the
// bytes of the first four.
func packScales6(block []byte, scales, minimums *[16]uint8) {
	packed := (*[12]uint8)(block[4:])
	for j := range 4 {
		packed[j] = scales[j] | scales[j+4]>>4<<6
		packed[j+4] = minimums[j] | minimums[j+4]>>4<<6
		packed[j+8] = scales[j+4]&15 | minimums[j+4]<<4
	}
}

func scaleLevels6(block []byte, j int) (scale, minimum uint8) {
	packed := (*[12]uint8)(block[4:])
	if j < 4 {
		return packed[j] & 63, packed[j+4] & 63
	}
	return packed[j+4]&15 | packed[j-4]>>6<<4, packed[j+4]>>4 | packed[j]>>6<<4
}

// packQ2_K puts the weights l, l+32, l+64 and l+96 of each half into byte l of
// its 32 bytes, two bits each.
func packQ2_K(block []byte, levels *[superBlock]uint8) { packPairs(block[16:80], levels) }

func unpackQ2_K(levels *[superBlock]uint8, block []byte) { unpackPairs(levels, block[16:80]) }

// packPairs packs the low two bits of 256 levels into 64 bytes.
func packPairs(qs []byte, levels *[superBlock]uint8) {
	for half := range 2 {
		l := levels[half*128:][:128]
		for i := range 32 {
			qs[half*32+i] = l[i] | l[i+32]<<2 | l[i+64]<<4 | l[i+96]<<6
		}
	}
}

func unpackPairs(levels *[superBlock]uint8, qs []byte) {
	for half := range 2 {
		l := levels[half*128:][:128]
		for i := range 32 {
			q := qs[half*32+i]
			l[i], l[i+32], l[i+64], l[i+96] = q&3, q>>2&3, q>>4&3, q>>6
		}
	}
}

// packQ4_K puts the weights l and l+32 of each quarter into byte l of its 32
// bytes.
func packQ4_K(block []byte, levels *[superBlock]uint8) { packNibbles(block[16:144], levels) }

func unpackQ4_K(levels *[superBlock]uint8, block []byte) { unpackNibbles(levels, block[16:144]) }

func packNibbles(qs []byte, levels *[superBlock]uint8) {
	for quarter := range 4 {
		l := levels[quarter*64:][:64]
		for i := range 32 {
			qs[quarter*32+i] = l[i]&15 | l[i+32]<<4
		}
	}
}

func unpackNibbles(levels *[superBlock]uint8, qs []byte) {
	for quarter := range 4 {
		l := levels[quarter*64:][:64]
		for i := range 32 {
			q := qs[quarter*32+i]
			l[i], l[i+32] = q&15, q>>4
		}
	}
}

// packQ5_K packs as Q4_K does, and puts the fifth bit of weight 32*j + l into
// bit j of byte l of qh.
func packQ5_K(block []byte, levels *[superBlock]uint8) {
	qh := block[16:48]
	clear(qh)
	for i, l := range levels {
		qh[i%32] |= l >> 4 << (i / 32)
	}
	packNibbles(block[48:176], levels)
}

func unpackQ5_K(levels *[superBlock]uint8, block []byte) {
	unpackNibbles(levels, block[48:176])
	qh := block[16:48]
	for i := range levels {
		levels[i] |= qh[i%32] >> (i / 32) & 1 << 4
	}
}
