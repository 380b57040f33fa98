// IQ4_NL, IQ4_XS, MXFP4 and NVFP4: four bits per weight that choose one of
// sixteen values. The layouts are in package quantize, iq4.go and fp4.go.

package decode

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/modelpipe/modelpipe/gguf"
)

var (
	valuesIQ4 = newTable(gguf.IQ4_NL, 16, 1, func(block []byte, code int) {
		putHalf(block, halfOne)
		block[2] = byte(code)
	})
	// A scale of eight bits and a value: their products are in the table too,
	// since the smallest are subnormal, which a device may take for zero.
	productsMXFP4 = newTable(gguf.MXFP4, 4096, 1, func(block []byte, code int) {
		block[0], block[1] = byte(code>>4), byte(code&15)
	})
	productsNVFP4 = newTable(gguf.NVFP4, 4096, 1, func(block []byte, code int) {
		block[0], block[4] = byte(code>>4), byte(code&15)
	})
)

func init() {
	register(gguf.IQ4_NL, func(b *Node) *Node {
		return Mul(in(valuesIQ4.of(integers(nibbles(b, 2))), 32), halves(b, 0, 2))
	})
	register(gguf.IQ4_XS, func(b *Node) *Node {
		codes := in(fields(in(cut(b, 8, 136), 8, 1, 16), 2, 2, 4), 256)
		high := fields(in(words(cut(b, 2, 4)), 1), 1, 8, 2)
		scales := plus(floats(BitwiseOr(integers(nibblePairs(cut(b, 4, 8))), up(high, 4))), -32)
		return cells(valuesIQ4.of(integers(codes)), scales, halves(b, 0, 2))
	})
	register(gguf.MXFP4, func(b *Node) *Node {
		return products(productsMXFP4, cut(b, 0, 1), in(nibbles(b, 1), 1, 32))
	})
	register(gguf.NVFP4, func(b *Node) *Node {
		codes := in(fields(in(cut(b, 4, 36), 4, 1, 8), 2, 2, 4), 4, 16)
		return products(productsNVFP4, cut(b, 0, 4), codes)
	})
}

// products looks up codes, [blocks, groups, length], under scales, [blocks,
// groups].
func products(t table, scales, codes *Node) *Node {
	return t.of(BitwiseOr(up(InsertAxes(integers(scales), -1), 4), integers(codes)))
}
