package decode

import (
	"encoding/binary"
	"sync"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

// A table is the values that codes of a type stand for, some to a code. It is
// read out of the type's decoder in package quantize, by a block for each code.
type table struct {
	codes, width int // a code stands for so many values
	values       func() []float32
}

// binary16 numbers.
const (
	halfOne   = 0x3c00
	halfFour  = 0x4400
	halfEight = 0x4800
)

// newTable returns the table of codes that put writes into otherwise empty
// blocks of type t, so that the blocks' first values are the code's.
func newTable(t gguf.Type, codes, width int, put func(block []byte, code int)) table {
	return table{codes, width, sync.OnceValue(func() []float32 {
		codec, _ := quantize.Definition(t)
		block, weights := make([]byte, t.BlockBytes()), make([]float32, t.BlockElements())
		values := make([]float32, 0, codes*width)
		for code := range codes {
			clear(block)
			put(block, code)
			codec.Decode(weights, block)
			values = append(values, weights[:width]...)
		}
		return values
	})}
}

// of is the values of codes, int32, along a further axis.
func (t table) of(codes *Node) *Node {
	values := ConstTensor(codes.Graph(), tensors.FromFlatDataAndDimensions(t.values(), t.codes, t.width))
	return Gather(values, InsertAxes(codes, -1))
}

// putHalf writes a binary16 number at the start of a block.
func putHalf(block []byte, bits uint16) { binary.LittleEndian.PutUint16(block, bits) }
