package fromgguf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/quantize"
)

// tensor is one of the file's tensors. Its rows lie one after the other,
// matrices of a stack too.
type tensor struct {
	gguf.TensorInfo
	place

	rows, cols int
	decode     func(dst []float32, src []byte)
	used       bool
}

// prepare checks that t has the shape ne, in ggml's order with trailing ones
// left out or not, and that its type can be decoded.
func (t *tensor) prepare(ne []int) error {
	want := make([]int64, len(ne))
	for i, n := range ne {
		want[i] = int64(n)
	}
	if !slices.Equal(trim(t.Shape), trim(want)) {
		return fmt.Errorf("%s: tensor %s: shape %v: want %v", t.file, t.Name, t.Shape, want)
	}
	codec, ok := quantize.Lookup(t.Type)
	if !ok || codec.Decode == nil {
		return fmt.Errorf("%s: tensor %s: type %s cannot be decoded", t.file, t.Name, t.Type)
	}
	t.decode, t.used = codec.Decode, true
	t.cols, t.rows = ne[0], 1
	for _, n := range ne[1:] {
		t.rows *= n // of a tensor whose bytes are in the file
	}
	return nil
}

func trim(shape []int64) []int64 {
	for len(shape) > 1 && shape[len(shape)-1] == 1 {
		shape = shape[:len(shape)-1]
	}
	return shape
}

// pieceBytes is how much of a tensor is read at a time.
const pieceBytes = 256 << 10

// bytes fills dst from offset at of the tensor's data on.
func (t *tensor) bytes(dst []byte, at int64) error {
	got, err := t.r.ReadAt(dst, at)
	if got == len(dst) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s: tensor %s at offset %d: %w", t.file, t.Name, t.offset+at, err)
}

// read decodes len(dst)/cols rows from row first on.
func (t *tensor) read(ctx context.Context, dst []float32, first int) error {
	if t.cols == 0 || len(dst)%t.cols != 0 || first < 0 || len(dst)/t.cols > t.rows-first {
		return fmt.Errorf("%s: tensor %s: %d values from row %d on: it has %d rows of %d", t.file, t.Name, len(dst), first, t.rows, t.cols)
	}
	elements, bytes := t.Type.BlockElements(), t.Type.BlockBytes()
	at := int64(first) * int64(t.cols) / elements * bytes
	per := max(1, pieceBytes/bytes) * elements
	buf := make([]byte, min(per, int64(len(dst)))/elements*bytes)
	for len(dst) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(per, int64(len(dst)))
		piece := buf[:n/elements*bytes]
		if err := t.bytes(piece, at); err != nil {
			return err
		}
		t.decode(dst[:n], piece)
		dst, at = dst[n:], at+int64(len(piece))
	}
	return nil
}

// part is rows of t from row first on, as a weight.
func (t *tensor) part(first, rows int) spec.Weight {
	return spec.Weight{
		Names: []string{t.Name}, Rows: rows, Cols: t.cols, Type: t.Type.String(),
		Read: func(ctx context.Context, dst []float32, from int) error {
			if from < 0 || from > rows || len(dst) > (rows-from)*t.cols {
				return fmt.Errorf("%s: tensor %s: %d values from row %d on of a part of %d rows of %d", t.file, t.Name, len(dst), from, rows, t.cols)
			}
			return t.read(ctx, dst, first+from)
		},
		Stored: &spec.Stored{Type: t.Type, Read: func(ctx context.Context, dst []byte, from int) error {
			row := int64(t.cols) / t.Type.BlockElements() * t.Type.BlockBytes()
			if from < 0 || from > rows || int64(len(dst))%row != 0 || int64(len(dst))/row > int64(rows-from) {
				return fmt.Errorf("%s: tensor %s: %d bytes from row %d on of a part of %d rows of %d", t.file, t.Name, len(dst), from, rows, row)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			return t.bytes(dst, int64(first+from)*row)
		}},
	}
}

// vector is t as one row.
func (t *tensor) vector() spec.Weight {
	n := t.rows * t.cols
	return spec.Weight{
		Names: []string{t.Name}, Rows: 1, Cols: n, Type: t.Type.String(),
		Read: func(ctx context.Context, dst []float32, from int) error {
			if from != 0 || len(dst) != n {
				return fmt.Errorf("%s: tensor %s: %d values from row %d on: it is one row of %d", t.file, t.Name, len(dst), from, n)
			}
			return t.read(ctx, dst, 0)
		},
	}
}

// gathered is the matrix whose row i is row of(i) of t.
func (t *tensor) gathered(rows int, of func(int) int) spec.Weight {
	return spec.Weight{
		Names: []string{t.Name}, Rows: rows, Cols: t.cols, Type: t.Type.String(),
		Read: func(ctx context.Context, dst []float32, from int) error {
			if from < 0 || from > rows || len(dst) > (rows-from)*t.cols {
				return fmt.Errorf("%s: tensor %s: %d values from row %d on of %d rows of %d", t.file, t.Name, len(dst), from, rows, t.cols)
			}
			for i := 0; i*t.cols < len(dst); i++ {
				if err := t.read(ctx, dst[i*t.cols:(i+1)*t.cols], of(from+i)); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// transposed is a stack of matrices [rows, cols] of which each is turned: row
// k*cols+j of the result is column j of matrix k. A matrix is decoded whole.
func (t *tensor) transposed(matrices int) spec.Weight {
	height, width := t.rows/matrices, t.cols // of one matrix in the file
	rows := matrices * width
	return spec.Weight{
		Names: []string{t.Name}, Rows: rows, Cols: height, Type: t.Type.String(),
		Read: func(ctx context.Context, dst []float32, from int) error {
			if len(dst)%height != 0 || from < 0 || from > rows || len(dst) > (rows-from)*height {
				return fmt.Errorf("%s: tensor %s: %d values from row %d on of %d rows of %d", t.file, t.Name, len(dst), from, rows, height)
			}
			one := make([]float32, height*width)
			for row, end := from, from+len(dst)/height; row < end; {
				k := row / width
				if err := t.read(ctx, one, k*height); err != nil {
					return err
				}
				for ; row < end && row/width == k; row++ {
					j, to := row%width, dst[(row-from)*height:]
					for i := range height {
						to[i] = one[i*width+j]
					}
				}
			}
			return nil
		},
	}
}

// scaled is w with all values times by, which another tensor holds.
func scaled(w spec.Weight, by float32, name string) spec.Weight {
	of := w.Read
	w.Names, w.Stored = append(slices.Clone(w.Names), name), nil
	w.Read = func(ctx context.Context, dst []float32, from int) error {
		err := of(ctx, dst, from)
		for i := range dst {
			dst[i] *= by
		}
		return err
	}
	return w
}

// span is n values of a tensor of biases from value first on, as one row.
func (t *tensor) span(first, n int) spec.Weight {
	return spec.Weight{
		Names: []string{t.Name}, Rows: 1, Cols: n, Type: t.Type.String(),
		Read: func(ctx context.Context, dst []float32, from int) error {
			if from != 0 || len(dst) != n {
				return fmt.Errorf("%s: tensor %s: %d values from row %d on: it is one row of %d", t.file, t.Name, len(dst), from, n)
			}
			all := make([]float32, t.cols)
			row := first / t.cols
			if err := t.read(ctx, all, row); err != nil {
				return err
			}
			copy(dst, all[first-row*t.cols:])
			return nil
		},
	}
}
