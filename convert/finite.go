package convert

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

// lanes describes how non-finite elements are found in eight bytes at once:
// masked to the exponent, an element of all ones carries into the top bit of
// its lane when one is added to its lowest exponent bit.
type lanes struct {
	mask, one, top uint64
	bytes          int
}

var exponents = map[gguf.Type]lanes{
	gguf.F32:  {0x7f800000_7f800000, 0x00800000_00800000, 0x80000000_80000000, 4},
	gguf.F16:  {0x7c00_7c00_7c00_7c00, 0x0400_0400_0400_0400, 0x8000_8000_8000_8000, 2},
	gguf.BF16: {0x7f80_7f80_7f80_7f80, 0x0080_0080_0080_0080, 0x8000_8000_8000_8000, 2},
}

// scanBlock is how many bytes are scanned before it is asked what was found.
const scanBlock = 32 * scanStep

// firstNonfinite returns the number of the first element of p, stored as
// type t, that is a NaN or an infinity, or -1. Types other than F32, F16,
// BF16 and MXFP4 are taken to be finite.
func firstNonfinite(t gguf.Type, p []byte) int64 {
	if t == gguf.MXFP4 {
		for i := 0; i < len(p); i += 17 {
			if p[i] == 0xff {
				return int64(i / 17 * 32)
			}
		}
		return -1
	}
	l, ok := exponents[t]
	if !ok {
		return -1
	}
	i := 0
	for ; scan != nil && i+scanBlock <= len(p) && !scan(p[i:i+scanBlock], l); i += scanBlock {
	}
	for ; i+64 <= len(p); i += 64 {
		q := p[i : i+64 : i+64]
		acc := binary.LittleEndian.Uint64(q)&l.mask + l.one
		acc |= binary.LittleEndian.Uint64(q[8:])&l.mask + l.one
		acc |= binary.LittleEndian.Uint64(q[16:])&l.mask + l.one
		acc |= binary.LittleEndian.Uint64(q[24:])&l.mask + l.one
		acc |= binary.LittleEndian.Uint64(q[32:])&l.mask + l.one
		acc |= binary.LittleEndian.Uint64(q[40:])&l.mask + l.one
		acc |= binary.LittleEndian.Uint64(q[48:])&l.mask + l.one
		acc |= binary.LittleEndian.Uint64(q[56:])&l.mask + l.one
		if acc&l.top != 0 {
			break
		}
	}
	for ; i < len(p); i += l.bytes {
		var word [8]byte
		copy(word[:], p[i:i+l.bytes])
		if (binary.LittleEndian.Uint64(word[:])&l.mask+l.one)&l.top&(1<<(8*l.bytes-1)) != 0 {
			return int64(i / l.bytes)
		}
	}
	return -1
}

// firstNonfiniteValue is firstNonfinite for values that are not encoded.
func firstNonfiniteValue(v []float32) int64 {
	i := 0
	for l := exponents[gguf.F32]; scan != nil && i+scanBlock/4 <= len(v); i += scanBlock / 4 {
		if scan(unsafe.Slice((*byte)(unsafe.Pointer(&v[i])), scanBlock), l) {
			break
		}
	}
	for ; i < len(v); i++ {
		if math.Float32bits(v[i])&0x7f800000 == 0x7f800000 {
			return int64(i)
		}
	}
	return -1
}

// countNonfinite returns how many elements of p, stored as type t, are NaNs
// or infinities; of MXFP4, how many are in a block with a scale of NaN.
func countNonfinite(t gguf.Type, p []byte) int64 {
	width, per := exponents[t].bytes, int64(1)
	if t == gguf.MXFP4 {
		width, per = 17, 32
	}
	n := int64(0)
	for {
		i := firstNonfinite(t, p)
		if i < 0 {
			return n
		}
		n += per
		p = p[(i/per+1)*int64(width):]
	}
}

// A NonfiniteError is a NaN or an infinity among the weights.
type NonfiniteError struct {
	Tensor string // in the output
	Source string // tensor of the source
	File   string
	Offset int64 // of the element in File
	Index  int64 // of the element in the source tensor
	Value  float32
}

func (e *NonfiniteError) Error() string {
	return fmt.Sprintf("tensor %s: %v at element %d of %s (offset %d of %s): give --allow-nonfinite to convert it all the same",
		e.Tensor, e.Value, e.Index, e.Source, e.Offset, e.File)
}

// An OverflowError is a weight that is finite in the source and not in the
// type asked for.
type OverflowError struct {
	Tensor string
	Type   gguf.Type
	Row    int64
	Col    int64
	Value  float32
}

func (e *OverflowError) Error() string {
	return fmt.Sprintf("tensor %s: %g in row %d, column %d is more than %s can hold: choose --type bf16 or f32, or give --allow-nonfinite",
		e.Tensor, e.Value, e.Row, e.Col, e.Type)
}

// locate follows one element of m down to the source tensor it is read from.
// It returns false where it comes from none.
func locate(m Matrix, row, col int64) (l Leaf, index, offset int64, ok bool) {
	_ = moves(m, run{row, 1, 1, 0, 1}, func(src Matrix, r run) error {
		row := r.row
		switch src := src.(type) {
		case Leaf:
			u, err := unitOf(src.DType)
			if err != nil {
				return err
			}
			_, cols := src.Dims()
			l, index, ok = src, row*cols+col, true
			offset = src.Offset + index/u.elements*u.bytes
		case Transpose:
			rows, cols := src.Of.Dims()
			l, index, offset, ok = locate(src.Of, row/cols*(rows/src.Batch)+col, row%cols)
		case Reshape:
			_, cols := src.Of.Dims()
			at := row*src.Cols + col
			l, index, offset, ok = locate(src.Of, at/cols, at%cols)
		case Affine:
			l, index, offset, ok = locate(src.Of, row, col)
		case Scaled:
			l, index, offset, ok = locate(src.Of, row, col)
		case Unpack:
			rows, _ := src.Of.Dims()
			slots := int64(len(src.Order))
			r, c := row, col/slots
			switch {
			case src.Planes:
				r, c = row%rows, col
			case src.Down:
				r, c = row/slots, col
			}
			l, index, offset, ok = locate(src.Of, r, c)
		case MXFP4:
			_, cols := src.Scales.Dims()
			l, index, offset, ok = locate(src.Scales, row, min(col/32, cols-1))
		}
		return nil
	})
	return l, index, offset, ok
}

// nonfinite describes an element of step that is not finite.
func nonfinite(s Step, row, col int64, value float32) error {
	err := &NonfiniteError{Tensor: s.Name, Source: s.From.String(), Value: value}
	if l, index, offset, ok := locate(s.From, row, col); ok {
		err.Source, err.File, err.Index, err.Offset = l.Name, l.File, index, offset
	}
	return err
}

// decodeOne returns element i of p, which holds scalars of type t.
func decodeOne(t gguf.Type, p []byte, i int64) float32 {
	codec, ok := quantize.Lookup(t)
	if !ok {
		return float32(math.NaN())
	}
	var v [1]float32
	codec.Decode(v[:], p[i*t.BlockBytes():(i+1)*t.BlockBytes()])
	return v[0]
}
