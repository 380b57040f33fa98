package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Decoders of the types whose cells are points of a lattice. Each cell of eight
// weights is two look-ups, its points and its signs, so AVX2 is enough.
//
// Scales are d * (2 level + 1), times a power of two: d has eleven bits and the
// other factor five, so no product is rounded, in whatever order it is taken.

// pointDecoder writes the decoder of one type, group by group of 32 weights.
type pointDecoder struct {
	dst, src      reg.Register
	points, signs reg.Register  // signs are masks of eight, 32 bytes each
	odds          reg.Register  // 1, 3, 5, ...
	group         reg.GPVirtual // number of the group, 0 to 7
	cell          int           // of eight weights, within the group
}

// The vector registers that decoders keep.
const (
	pointScale = 8  // of the cell
	pointD     = 9  // scale of the super-block
	pointMove  = 10 // of the cell's coordinates
)

// decodePoints writes a kernel for super-blocks of size bytes. halfAt is where
// their scale is, which counts a number of times: a power of two. step is the
// number of groups that body writes.
func decodePoints(name string, size, halfAt int, times float32, signs bool, step int, body func(p *pointDecoder)) {
	g := &gen{lanes: 8}
	signature := "func(dst *float32, src *byte, blocks int, points *int8)"
	if signs {
		signature = "func(dst *float32, src *byte, blocks int, points *int8, signs *uint32)"
	}
	g.begin(name, signature, "decodes super-blocks of 256 weights.")
	p := &pointDecoder{dst: Load(Param("dst"), GP64()), src: Load(Param("src"), GP64())}
	blocks := Load(Param("blocks"), GP64())
	p.points = Load(Param("points"), GP64())
	if signs {
		p.signs = Load(Param("signs"), GP64())
	}
	p.odds, p.group = GP64(), GP64()
	LEAQ(vectorOf("odds", func(lane int) int { return int(bitsOf(float32(2*lane + 1))) }), p.odds)
	Label("block")
	half := GP32()
	if halfAt >= 0 {
		MOVWLZX(Mem{Base: p.src, Disp: halfAt}, half)
	} else {
		p.scatteredHalf(half)
	}
	VMOVD(half, x(pointD))
	VCVTPH2PS(x(pointD), x(pointD))
	VBROADCASTSS(x(pointD), y(pointD))
	if times != 1 {
		VMULPS(constant(bitsOf(times)), y(pointD), y(pointD))
	}
	XORL(p.group.As32(), p.group.As32())
	Label("group")
	p.cell = 0
	body(p)
	SUBQ(I32(-128*step), p.dst)
	ADDQ(U8(step), p.group)
	CMPQ(p.group, U8(8))
	JB(LabelRef("group"))
	ADDQ(U8(size), p.src)
	DECQ(blocks)
	JNZ(LabelRef("block"))
	g.end()
}

// scatteredHalf loads the scale of IQ1_M, four bits on top of each of four
// 16-bit words.
func (p *pointDecoder) scatteredHalf(half reg.GPVirtual) {
	words, nibble := GP64(), GP64()
	MOVQ(Mem{Base: p.src, Disp: 48}, words)
	XORL(half, half)
	for i := range 4 {
		MOVQ(words, nibble)
		SHRQ(U8(12*(i+1)), nibble)
		ANDL(U32(15<<(4*i)), nibble.As32())
		ORL(nibble.As32(), half)
	}
}

// at is memory of the block, scale bytes per group.
func (p *pointDecoder) at(disp, scale int) Mem {
	return Mem{Base: p.src, Disp: disp, Index: p.group, Scale: uint8(scale)}
}

// bits returns the bits of word that keep has, after moving it up by shift.
func bits(word reg.GPVirtual, shift int, keep uint32) reg.GPVirtual {
	t := GP32()
	MOVL(word.As32(), t)
	switch {
	case shift > 0:
		SHLL(U8(shift), t)
	case shift < 0:
		SHRL(U8(-shift), t)
	}
	ANDL(U32(keep), t)
	return t
}

// byteAt loads a byte.
func byteAt(m Mem) reg.GPVirtual {
	t := GP32()
	MOVBLZX(m, t)
	return t
}

// wordAt loads sixteen bits.
func wordAt(m Mem) reg.GPVirtual {
	t := GP32()
	MOVWLZX(m, t)
	return t
}

// longAt loads 32 bits.
func longAt(m Mem) reg.GPVirtual {
	t := GP32()
	MOVL(m, t)
	return t
}

// scale sets the scale to d * (2 level + 1); level is below sixteen.
func (p *pointDecoder) scale(level reg.GPVirtual) {
	VBROADCASTSS(Mem{Base: p.odds, Index: level.As64(), Scale: 4}, y(pointScale))
	VMULPS(y(pointD), y(pointScale), y(pointScale))
}

// next returns the number of a register to work in and where the cell goes.
func (p *pointDecoder) next() (int, Mem) {
	i := p.cell
	p.cell++
	return i % 8, Mem{Base: p.dst, Disp: 32 * i}
}

// eight writes a cell of one point: its number, and where its signs are among
// the masks, in bytes.
func (p *pointDecoder) eight(point, signs reg.GPVirtual) {
	i, dst := p.next()
	VPMOVSXBD(Mem{Base: p.points, Index: point.As64(), Scale: 8}, y(i))
	VCVTDQ2PS(y(i), y(i))
	VMULPS(y(pointScale), y(i), y(i))
	VXORPS(Mem{Base: p.signs, Index: signs.As64(), Scale: 1}, y(i), y(i))
	VMOVUPS(y(i), dst)
}

// fours writes a cell of two points of four weights.
func (p *pointDecoder) fours(first, second, signs reg.GPVirtual) {
	i, dst := p.next()
	VMOVD(Mem{Base: p.points, Index: first.As64(), Scale: 4}, x(i))
	VPINSRD(Imm(1), Mem{Base: p.points, Index: second.As64(), Scale: 4}, x(i), x(i))
	VPMOVSXBD(x(i), y(i))
	VCVTDQ2PS(y(i), y(i))
	VMULPS(y(pointScale), y(i), y(i))
	VXORPS(Mem{Base: p.signs, Index: signs.As64(), Scale: 1}, y(i), y(i))
	VMOVUPS(y(i), dst)
}

// move sets the move to 1/8, or -1/8 where the top bit of sign is set; its
// other bits are clear.
func (p *pointDecoder) move(sign reg.GPVirtual) {
	XORL(U32(bitsOf(0.125)), sign)
	VMOVD(sign, x(pointMove))
	VBROADCASTSS(x(pointMove), y(pointMove))
}

// moved writes a cell of one point with its move.
func (p *pointDecoder) moved(point reg.GPVirtual) {
	i, dst := p.next()
	VPMOVSXBD(Mem{Base: p.points, Index: point.As64(), Scale: 8}, y(i))
	VCVTDQ2PS(y(i), y(i))
	VADDPS(y(pointMove), y(i), y(i))
	VMULPS(y(pointScale), y(i), y(i))
	VMOVUPS(y(i), dst)
}

// with adds high bits to a point's number.
func with(point, high reg.GPVirtual) reg.GPVirtual {
	ORL(high, point)
	return point
}

// Masks of eight signs are 32 bytes apart, those of seven bits as well.
const maskBits, sevenMask, eightMask = 5, 127 << maskBits, 255 << maskBits

// quartered is where the masks of four times seven signs are.
func quartered(packed reg.GPVirtual, k int) reg.GPVirtual {
	return bits(packed, maskBits-7*k, sevenMask)
}

// pointDecoders writes the decoders of all types.
func pointDecoders() {
	decodePoints("DecodeIQ2_XXS", 66, 0, 0.125, true, 1, func(p *pointDecoder) {
		packed := longAt(p.at(6, 8))
		p.scale(bits(packed, -28, 15))
		for k := range 4 {
			p.eight(byteAt(p.at(2+k, 8)), quartered(packed, k))
		}
	})
	decodePoints("DecodeIQ2_XS", 74, 0, 0.125, true, 1, func(p *pointDecoder) {
		levels := byteAt(p.at(66, 1))
		for k := range 4 {
			if k%2 == 0 {
				p.scale(bits(levels, -2*k, 15))
			}
			code := wordAt(p.at(2+2*k, 8))
			p.eight(bits(code, 0, 511), bits(code, maskBits-9, sevenMask))
		}
	})
	decodePoints("DecodeIQ2_S", 82, 0, 0.125, true, 1, func(p *pointDecoder) {
		levels, high := byteAt(p.at(74, 1)), byteAt(p.at(66, 1))
		for k := range 4 {
			if k%2 == 0 {
				p.scale(bits(levels, -2*k, 15))
			}
			point := with(byteAt(p.at(2+k, 4)), bits(high, 8-2*k, 3<<8))
			p.eight(point, bits(byteAt(p.at(34+k, 4)), maskBits, eightMask))
		}
	})
	decodePoints("DecodeIQ3_XXS", 98, 0, 0.25, true, 1, func(p *pointDecoder) {
		packed := longAt(p.at(66, 4))
		p.scale(bits(packed, -28, 15))
		for k := range 4 {
			p.fours(byteAt(p.at(2+2*k, 8)), byteAt(p.at(3+2*k, 8)), quartered(packed, k))
		}
	})
	decodePoints("DecodeIQ3_S", 110, 0, 1, true, 2, func(p *pointDecoder) {
		pair := GP64() // of groups, which share a byte of levels
		MOVQ(p.group, pair)
		SHRQ(Imm(1), pair)
		levels := byteAt(Mem{Base: p.src, Disp: 106, Index: pair, Scale: 1})
		for j := range 2 {
			p.scale(bits(levels, -4*j, 15))
			high := byteAt(p.at(66+j, 1))
			point := func(k int) reg.GPVirtual {
				return with(byteAt(p.at(2+8*j+k, 8)), bits(high, 8-k, 1<<8))
			}
			for k := range 4 {
				p.fours(point(2*k), point(2*k+1), bits(byteAt(p.at(74+4*j+k, 4)), maskBits, eightMask))
			}
		}
	})
	decodePoints("DecodeIQ1_S", 50, 0, 1, false, 1, func(p *pointDecoder) {
		code := wordAt(p.at(34, 2))
		p.scale(bits(code, -12, 7))
		p.move(bits(code, 16, minusZero))
		for k := range 4 {
			p.moved(with(byteAt(p.at(2+k, 4)), bits(code, 8-3*k, 7<<8)))
		}
	})
	decodePoints("DecodeIQ1_M", 56, -1, 1, false, 2, func(p *pointDecoder) {
		levels := wordAt(p.at(48, 1)) // of two groups
		for j := range 4 {
			p.scale(bits(levels, -3*j, 7))
			high := byteAt(p.at(32+j, 2))
			for k := range 2 {
				p.move(bits(high, 28-4*k, minusZero))
				p.moved(with(byteAt(p.at(2*j+k, 4)), bits(high, 8-4*k, 7<<8)))
			}
		}
	})
}
