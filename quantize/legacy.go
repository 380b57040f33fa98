// Q4_0, Q4_1, Q5_0 and Q5_1: 32 weights of four or five bits with one scale,
// and for the _1 types a minimum.
//
//	d   binary16     scale
//	m   binary16     minimum (Q4_1, Q5_1)
//	qh  uint32       fifth bits, weight i at bit i (Q5_0, Q5_1)
//	qs  [16]uint8    low four bits: weight i in the low half of byte i,
//	                 weight i+16 in its high half
//
// A _0 type's weight is (q - 8) * d or (q - 16) * d, a _1 type's q * d + m.

package quantize

import (
	"encoding/binary"
	"math"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	for _, k := range legacyKinds {
		register(Codec{Type: k.typ, Encode: k.encode, Decode: k.decode})
	}
}

// legacyKind is what sets the four types apart.
type legacyKind struct {
	typ       gguf.Type
	bits      int
	minimum   bool // has a minimum: levels start there and not at -2^(bits-1)
	wrapsLast bool // see encodeBlock
}

var legacyKinds = [...]legacyKind{
	{typ: gguf.Q4_0, bits: 4},
	{typ: gguf.Q4_1, bits: 4, minimum: true},
	{typ: gguf.Q5_0, bits: 5},
	{typ: gguf.Q5_1, bits: 5, minimum: true, wrapsLast: true},
}

// head is the number of bytes before the fifth bits.
func (k *legacyKind) head() int {
	if k.minimum {
		return 4
	}
	return 2
}

func (k *legacyKind) encode(dst []byte, src []float32, cols int, importance []float32) {
	size := int(k.typ.BlockBytes())
	if importance == nil {
		for ; len(src) > 0; dst, src = dst[size:], src[32:] {
			k.encodeBlock(dst[:size], (*[32]float32)(src))
		}
		return
	}
	for ; len(src) > 0; src = src[cols:] {
		row := src[:cols]
		energy := sumSquares(row) / float32(cols)
		for at := 0; at < cols; at += 32 {
			k.encodeWeighted(dst[:size], row[at:at+32], importance[at:at+32], energy)
			dst = dst[size:]
		}
	}
}

// encodeBlock spreads the levels over the range of the data: quantize_row_q4_0
// _ref and its siblings in ggml-quants.c.
func (k *legacyKind) encodeBlock(dst []byte, x *[32]float32) {
	var scale, low, offset float32
	if k.minimum {
		low = math.MaxFloat32
		high := float32(-math.MaxFloat32)
		for _, v := range x {
			if v < low {
				low = v
			}
			if v > high {
				high = v
			}
		}
		scale = (high - low) / float32(int(1)<<k.bits-1)
		offset = 0.5
		binary.LittleEndian.PutUint16(dst[2:], scaleBits(low))
	} else {
		half := float32(int(1) << (k.bits - 1))
		scale = signedPeak(x[:]) / -half
		offset = half + 0.5
	}
	inverse := inverseOrZero(scale)
	binary.LittleEndian.PutUint16(dst, scaleBits(scale))

	var levels [32]uint8
	top := int32(1)<<k.bits - 1
	for i, v := range x {
		if k.minimum {
			v -= low
		}
		// ggml converts through a byte: a level out of range, which takes an
		// infinity or a NaN, keeps its low bits.
		q := truncate(float32(v*inverse) + offset)
		if k.wrapsLast {
			levels[i] = uint8(q)
		} else {
			levels[i] = uint8(min(top, int32(int8(q))))
		}
	}
	k.pack(dst, &levels)
}

// encodeWeighted searches for the scale that loses the least, weighted by
// importance: quantize_row_q4_0_impl and its siblings in ggml-quants.c. energy
// is the mean square of the row.
func (k *legacyKind) encodeWeighted(dst []byte, x, importance []float32, energy float32) {
	var weights [32]float32
	weigh(weights[:], importance, x, energy)
	var levels [32]uint8
	if k.minimum {
		scale, minimum := searchScaleMin(int32(1)<<k.bits-1, x, weights[:], levels[:], weightedSteps, false)
		binary.LittleEndian.PutUint16(dst, scaleBits(scale))
		binary.LittleEndian.PutUint16(dst[2:], scaleBits(-minimum))
	} else {
		var signed [32]int8
		scale := searchScale(int32(1)<<(k.bits-1), x, signed[:], weights[:])
		binary.LittleEndian.PutUint16(dst, scaleBits(scale))
		for i, l := range signed {
			levels[i] = uint8(l)
		}
	}
	k.pack(dst, &levels)
}

// pack writes the levels behind the block's head.
func (k *legacyKind) pack(dst []byte, levels *[32]uint8) {
	dst = dst[k.head():]
	if k.bits == 4 {
		for i := range 16 {
			dst[i] = levels[i] | levels[i+16]<<4
		}
		return
	}
	var fifth uint32
	for i, l := range levels {
		fifth |= uint32(l>>4&1) << i
	}
	binary.LittleEndian.PutUint32(dst, fifth)
	for i := range 16 {
		dst[4+i] = levels[i]&15 | levels[i+16]<<4
	}
}

func (k *legacyKind) decode(dst []float32, src []byte) {
	size, head := int(k.typ.BlockBytes()), k.head()
	for ; len(dst) > 0; dst, src = dst[32:], src[size:] {
		block, out := src[:size], (*[32]float32)(dst)
		scale := halfValue(binary.LittleEndian.Uint16(block))
		var low float32
		if k.minimum {
			low = halfValue(binary.LittleEndian.Uint16(block[2:]))
		}
		qs := block[size-16:]
		var fifth uint32
		if k.bits == 5 {
			fifth = binary.LittleEndian.Uint32(block[head:])
		}
		for i := range out {
			q := int(qs[i&15]) >> (i >> 4 * 4) & 15
			q |= int(fifth>>i&1) << 4
			if k.minimum {
				out[i] = float32(float32(q)*scale) + low
			} else {
				out[i] = float32(q-1<<(k.bits-1)) * scale
			}
		}
	}
}
