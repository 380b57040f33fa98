package fromhf

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/safetensors"
)

// chunkBytes is how much of a tensor is read at a time.
const chunkBytes = 1 << 20

// A tensor is one of the checkpoint's, and whether the model uses it.
type tensor struct {
	safetensors.Tensor
	file    *safetensors.File
	claimed bool
}

// plain reports whether the tensor holds plain numbers.
func (t *tensor) plain() bool {
	return t.DType == safetensors.F32 || t.DType == safetensors.F16 || t.DType == safetensors.BF16
}

// bytes reads stored bytes from an offset in the tensor's data on.
func (t *tensor) bytes(dst []byte, offset int64) error {
	n, err := t.file.Data(t.Tensor).ReadAt(dst, offset)
	if n == len(dst) {
		return nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s: tensor %s at offset %d: %w", t.file.Name, t.Name, t.file.DataOffset+t.Offset+offset, err)
}

// values reads len(dst) values from element first on.
func (t *tensor) values(ctx context.Context, dst []float32, first int64) error {
	decode := decoders[t.DType]
	if decode == nil {
		return fmt.Errorf("%s: tensor %s: values of type %s cannot be read as they are", t.file.Name, t.Name, t.DType)
	}
	size := t.DType.Bits() / 8
	buf := make([]byte, min(int64(len(dst))*size, chunkBytes))
	for len(dst) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(len(dst), chunkBytes/int(size))
		part := buf[:int64(n)*size]
		if err := t.bytes(part, first*size); err != nil {
			return err
		}
		decode(dst[:n], part)
		dst, first = dst[n:], first+int64(n)
	}
	return nil
}

// decoders make values of stored bytes, for each type that is a plain number.
var decoders = map[safetensors.DType]func(dst []float32, src []byte){
	safetensors.F32: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	},
	safetensors.BF16: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
	},
	safetensors.F16: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = half(binary.LittleEndian.Uint16(src[2*i:]))
		}
	},
	safetensors.F8E4M3: func(dst []float32, src []byte) {
		for i, b := range src {
			dst[i] = e4m3(b)
		}
	},
}

// half is the value of an IEEE binary16.
func half(h uint16) float32 {
	exp, frac := int(h>>10&31), float64(h&1023)
	var v float64
	switch exp {
	case 0:
		v = math.Ldexp(frac, -24)
	case 31:
		v = math.Inf(1)
		if frac != 0 {
			v = math.NaN()
		}
	default:
		v = math.Ldexp(1024+frac, exp-25)
	}
	if h&0x8000 != 0 {
		v = -v
	}
	return float32(v)
}

// e4m3 is the value of an OCP 8-bit float: bias 7, no infinities.
func e4m3(b byte) float32 {
	exp, frac := int(b>>3&15), float64(b&7)
	var v float64
	switch {
	case b&0x7f == 0x7f:
		v = math.NaN()
	case exp == 0:
		v = math.Ldexp(frac, -9)
	default:
		v = math.Ldexp(8+frac, exp-10)
	}
	if b&0x80 != 0 {
		v = -v
	}
	return float32(v)
}

// dense is rows x cols values of a tensor from element first on.
func dense(t *tensor, first int64, rows, cols int) spec.Weight {
	return spec.Weight{
		Names: []string{t.Name}, Rows: rows, Cols: cols, Type: t.DType.String(),
		Read: func(ctx context.Context, dst []float32, row int) error {
			return t.values(ctx, dst, first+int64(row)*int64(cols))
		},
	}
}

// transposed is the transpose of rows x cols values of a tensor.
func transposed(t *tensor, first int64, rows, cols int) spec.Weight {
	return spec.Weight{
		Names: []string{t.Name}, Rows: cols, Cols: rows, Type: t.DType.String(),
		Read: func(ctx context.Context, dst []float32, row int) error {
			n := len(dst) / rows // columns of what is stored
			if n == cols {
				return transposeAll(ctx, t, first, dst, rows, cols)
			}
			buf := make([]float32, n)
			for i := range rows {
				if err := t.values(ctx, buf, first+int64(i)*int64(cols)+int64(row)); err != nil {
					return err
				}
				for j, v := range buf {
					dst[j*rows+i] = v
				}
			}
			return nil
		},
	}
}

// transposeAll reads all of it, as many stored rows at a time as fit a chunk.
func transposeAll(ctx context.Context, t *tensor, first int64, dst []float32, rows, cols int) error {
	many := max(1, chunkBytes/4/cols)
	buf := make([]float32, min(many, rows)*cols)
	for i := 0; i < rows; i += many {
		n := min(many, rows-i)
		if err := t.values(ctx, buf[:n*cols], first+int64(i)*int64(cols)); err != nil {
			return err
		}
		for k, v := range buf[:n*cols] {
			dst[k%cols*rows+i+k/cols] = v
		}
	}
	return nil
}

// pick is the rows start to start+count-1 of each group of every rows.
func pick(w spec.Weight, every, start, count int) spec.Weight {
	p := w
	p.Rows = w.Rows / every * count
	p.Read = func(ctx context.Context, dst []float32, row int) error {
		if count == 1 && every > 1 {
			return pickSingle(ctx, w, dst, row, every, start)
		}
		for len(dst) > 0 {
			n := min(count-row%count, len(dst)/w.Cols)
			if err := w.Read(ctx, dst[:n*w.Cols], row/count*every+start+row%count); err != nil {
				return err
			}
			dst, row = dst[n*w.Cols:], row+n
		}
		return nil
	}
	return p
}

// pickSingle reads groups whole and keeps one row of each, as many groups at a
// time as fit a chunk.
func pickSingle(ctx context.Context, w spec.Weight, dst []float32, row, every, start int) error {
	group := every * w.Cols
	many := max(1, chunkBytes/4/group)
	if len(dst) == w.Rows/every*w.Cols {
		many = w.Rows / every // all of it: what is stored transposed is then read once
	}
	buf := make([]float32, min(many, len(dst)/w.Cols)*group)
	for len(dst) > 0 {
		n := min(many, len(dst)/w.Cols)
		if err := w.Read(ctx, buf[:n*group], row*every); err != nil {
			return err
		}
		for i := range n {
			copy(dst[i*w.Cols:(i+1)*w.Cols], buf[i*group+start*w.Cols:])
		}
		dst, row = dst[n*w.Cols:], row+n
	}
	return nil
}

// stack puts matrices of one row each below each other.
func stack(parts []spec.Weight) spec.Weight {
	s := parts[0]
	s.Names, s.Rows = nil, 0
	for _, p := range parts {
		s.Names = append(s.Names, p.Names...)
		s.Rows += p.Rows
	}
	s.Read = func(ctx context.Context, dst []float32, row int) error {
		for len(dst) > 0 {
			if err := parts[row].Read(ctx, dst[:s.Cols], 0); err != nil {
				return err
			}
			dst, row = dst[s.Cols:], row+1
		}
		return nil
	}
	return s
}

// checked is a weight whose Read checks its arguments.
func checked(w spec.Weight) spec.Weight {
	read := w.Read
	w.Names = slices.Clone(w.Names)
	w.Read = func(ctx context.Context, dst []float32, first int) error {
		if len(dst)%w.Cols != 0 || first < 0 || first+len(dst)/w.Cols > w.Rows {
			return fmt.Errorf("tensor %s: %d values from row %d on: it is [%d, %d]", w.Names[0], len(dst), first, w.Rows, w.Cols)
		}
		return read(ctx, dst, first)
	}
	return w
}
