package fromhf

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// A scheme reads the matrices of a quantized checkpoint as the values that
// they stand for.
type scheme struct {
	// scaled reads a matrix that is stored under its usual name in a type that
	// is no plain number; nil: there are none.
	scaled func(r *reader, t *tensor, name string, rows, cols int) spec.Weight

	// shape is the shape of a matrix that scaled reads; nil: the matrix's own.
	shape func(rows, cols int) (int, int)

	// packed reads a matrix that has no tensor of its usual name; nil: there
	// are none.
	packed func(r *reader, name string, rows, cols int) spec.Weight

	// mxfp4: experts are in blocks of 32 values with a common exponent.
	mxfp4 bool
}

// quantization returns the scheme that quantization_config names, nil where
// the checkpoint is not quantized.
func (c *config) quantization() (*scheme, error) {
	q := c.object("quantization_config")
	if c.err != nil || q == nil {
		return nil, c.err
	}
	s := &scheme{}
	switch method := q.text("quant_method"); method {
	case "fp8":
		height, width := 0, 0
		if q.has("weight_block_size") {
			size := q.numbers("weight_block_size")
			if len(size) != 2 || !(size[0] >= 1 && size[0] <= maxDim && size[1] >= 1 && size[1] <= maxDim) {
				q.fail("%s: weight_block_size is %v: want two dimensions", q.name, size)
				return nil, q.err
			}
			height, width = int(size[0]), int(size[1])
		}
		s.scaled = func(r *reader, t *tensor, name string, rows, cols int) spec.Weight {
			return scaledFP8(r, t, name, rows, cols, height, width)
		}
	case "fbgemm_fp8":
		s.scaled = func(r *reader, t *tensor, name string, rows, cols int) spec.Weight {
			return scaledFP8(r, t, name, rows, cols, 0, 0)
		}
	case "mxfp4":
		s.mxfp4 = true
	case "bitnet":
		q.bitNet(s)
	case "compressed-tensors":
		q.compressedTensors(s)
	default:
		q.fail("%s: quant_method %q has no reader", q.name, method)
	}
	return s, q.err
}

// compressedTensors reads the one group of a compressed-tensors config, whose
// matrices are packed integers or scaled 8-bit floats.
func (q *config) compressedTensors(s *scheme) {
	format := q.text("format")
	groups := q.object("config_groups")
	if groups == nil || len(groups.fields) != 1 {
		q.fail("%s: want one group in config_groups", q.name)
		return
	}
	for name := range groups.fields {
		group := groups.object(name)
		if group == nil {
			break
		}
		w := group.object("weights")
		if w == nil {
			group.fail("%s: no weights", group.name)
		} else {
			switch format {
			case "pack-quantized":
				w.packQuantized(s)
			case "float-quantized":
				w.only("num_bits", 8.0)
				w.only("type", "float")
				w.only("strategy", "channel", "tensor")
				s.scaled = func(r *reader, t *tensor, name string, rows, cols int) spec.Weight {
					return scaledFP8(r, t, name, rows, cols, 0, 0)
				}
			default:
				q.fail("%s: format %q has no reader", q.name, format)
			}
			if w.err != nil {
				group.fail("%w", w.err)
			}
		}
		if group.err != nil {
			groups.fail("%w", group.err)
		}
	}
	if groups.err != nil {
		q.fail("%w", groups.err)
	}
}

// packQuantized reads integers of 4 or 8 bits.
func (w *config) packQuantized(s *scheme) {
	w.only("type", "int")
	p := packing{bits: w.dim("num_bits"), symmetric: w.flag("symmetric", true)}
	if p.bits != 4 && p.bits != 8 {
		w.fail("%s: num_bits is %d: want 4 or 8", w.name, p.bits)
	}
	switch strategy := w.text("strategy"); strategy {
	case "group":
		p.group = w.dim("group_size")
	case "channel":
	default:
		w.fail("%s: strategy %q has no reader", w.name, strategy)
	}
	s.packed = p.matrix
}

// scaledFP8 is a matrix of 8-bit floats times scales: one for each block of
// height x width in NAME.weight_scale_inv, or without blocks one for each row
// or one in all in NAME.weight_scale.
func scaledFP8(r *reader, t *tensor, name string, rows, cols, height, width int) spec.Weight {
	if t.DType.String() != "F8_E4M3" {
		r.fail("%s: tensor %s is of type %s: want F8_E4M3", t.file.Name, t.Name, t.DType)
		return spec.Weight{}
	}
	r.drop(name + ".input_scale") // of activations
	var scales *tensor
	if height > 0 {
		scales = r.numeric(name+".weight_scale_inv", (rows+height-1)/height, (cols+width-1)/width)
	} else {
		height, width = rows, cols
		scale := name + ".weight_scale"
		switch s := r.tensors[scale]; {
		case s != nil && len(s.Shape) == 0:
			scales = r.numeric(scale)
		case s != nil && len(s.Shape) == 1 && s.Shape[0] == 1:
			scales = r.numeric(scale, 1)
		default:
			scales = r.numeric(scale, rows, 1)
			height = 1
		}
	}
	if scales == nil {
		return spec.Weight{}
	}
	across := (cols + width - 1) / width
	w := dense(t, 0, rows, cols)
	w.Names = append(w.Names, scales.Name)
	read := w.Read
	w.Read = func(ctx context.Context, dst []float32, first int) error {
		if err := read(ctx, dst, first); err != nil {
			return err
		}
		var row []float32 // of scales
		last := -1
		for i := range len(dst) / cols {
			if at := (first + i) / height; at != last {
				row, last = make([]float32, across), at
				if err := scales.values(ctx, row, int64(at)*int64(across)); err != nil {
					return err
				}
			}
			for j := range cols {
				dst[i*cols+j] *= row[j/width]
			}
		}
		return nil
	}
	return w
}

// packing is how compressed-tensors packs integers: each row's values, plus
// 2^(bits-1), into words of 32 bits, the first in the lowest bits; a scale for
// each group of a row, and where they are not symmetric a zero point, packed in
// the same way down the columns.
type packing struct {
	bits      int
	group     int // 0: a row is one group
	symmetric bool
}

func (p packing) matrix(r *reader, name string, rows, cols int) spec.Weight {
	perWord := 32 / p.bits
	group := p.group
	if group == 0 {
		group = cols
	}
	groups := (cols + group - 1) / group
	words := (cols + perWord - 1) / perWord
	packed := r.claim(name+".weight_packed", rows, words)
	scales := r.numeric(name+".weight_scale", rows, groups)
	r.drop(name + ".weight_shape")
	if packed == nil || scales == nil {
		return spec.Weight{}
	}
	w := spec.Weight{
		Names: []string{packed.Name, scales.Name},
		Rows:  rows, Cols: cols, Type: fmt.Sprintf("I%d", p.bits),
	}
	tensors := []*tensor{packed}
	var zeros *tensor
	if !p.symmetric {
		zeros = r.claim(name+".weight_zero_point", (rows+perWord-1)/perWord, groups)
		if zeros == nil {
			return spec.Weight{}
		}
		tensors = append(tensors, zeros)
		w.Names = append(w.Names, zeros.Name)
	}
	for _, t := range tensors {
		if t.DType.String() != "I32" {
			r.fail("%s: tensor %s is of type %s: want I32", t.file.Name, t.Name, t.DType)
			return spec.Weight{}
		}
	}
	groupOf := make([]int, cols)
	for j := range groupOf {
		groupOf[j] = j / group
	}
	if index := r.tensors[name+".weight_g_idx"]; index != nil {
		groupOf = r.groupIndex(r.claim(name+".weight_g_idx", cols), groups)
		if groupOf == nil {
			return spec.Weight{}
		}
	}

	mask := uint32(1)<<p.bits - 1
	w.Read = func(ctx context.Context, dst []float32, first int) error {
		word, scale, zero := make([]byte, 4*words), make([]float32, groups), make([]byte, 4*groups)
		for i := range len(dst) / cols {
			if err := ctx.Err(); err != nil {
				return err
			}
			row := first + i
			if err := packed.bytes(word, int64(row)*int64(len(word))); err != nil {
				return err
			}
			if err := scales.values(ctx, scale, int64(row)*int64(groups)); err != nil {
				return err
			}
			if zeros != nil {
				if err := zeros.bytes(zero, int64(row/perWord)*int64(len(zero))); err != nil {
					return err
				}
			}
			for j := range cols {
				q := binary.LittleEndian.Uint32(word[j/perWord*4:]) >> (j % perWord * p.bits) & mask
				z := uint32(1) << (p.bits - 1)
				if zeros != nil {
					z = binary.LittleEndian.Uint32(zero[4*groupOf[j]:]) >> (row % perWord * p.bits) & mask
				}
				dst[i*cols+j] = float32(int(q)-int(z)) * scale[groupOf[j]]
			}
		}
		return nil
	}
	return w
}

// groupIndex reads which group each column belongs to.
func (r *reader) groupIndex(t *tensor, groups int) []int {
	if t == nil {
		return nil
	}
	if t.DType.String() != "I32" {
		r.fail("%s: tensor %s is of type %s: want I32", t.file.Name, t.Name, t.DType)
		return nil
	}
	data := make([]byte, t.Size)
	if err := t.bytes(data, 0); err != nil {
		r.fail("%w", err)
		return nil
	}
	out := make([]int, len(data)/4)
	for j := range out {
		out[j] = int(int32(binary.LittleEndian.Uint32(data[4*j:])))
		if out[j] < 0 || out[j] >= groups {
			r.fail("%s: tensor %s: column %d is of group %d: there are %d", t.file.Name, t.Name, j, out[j], groups)
			return nil
		}
	}
	return out
}

// fp4 are the values of a 4-bit float, E2M1.
var fp4 = [16]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6}

// mxfp4Matrices returns the matrix [rows, cols] of each expert in OCP's MXFP4:
// NAME_blocks [experts, rows, cols/32, 16] has two values a byte, the first in
// the lower half; NAME_scales [experts, rows, cols/32] their exponents, less
// 127.
func (l layer) mxfp4Matrices(name string, experts, rows, cols int) func(x int) spec.Weight {
	if cols%32 != 0 {
		l.fail("%s%s: rows of %d values are no blocks of 32", l.prefix, name, cols)
	}
	blocks := l.claim(l.prefix+name+"_blocks", experts, rows, cols/32, 16)
	scales := l.claim(l.prefix+name+"_scales", experts, rows, cols/32)
	for _, t := range []*tensor{blocks, scales} {
		if t != nil && t.DType.String() != "U8" {
			l.fail("%s: tensor %s is of type %s: want U8", t.file.Name, t.Name, t.DType)
		}
	}
	return func(x int) spec.Weight {
		return spec.Weight{
			Names: []string{blocks.Name, scales.Name}, Rows: rows, Cols: cols, Type: "MXFP4",
			Read: func(ctx context.Context, dst []float32, first int) error {
				block, scale := make([]byte, cols/2), make([]byte, cols/32)
				for i := range len(dst) / cols {
					if err := ctx.Err(); err != nil {
						return err
					}
					row := int64(x)*int64(rows) + int64(first+i)
					if err := blocks.bytes(block, row*int64(len(block))); err != nil {
						return err
					}
					if err := scales.bytes(scale, row*int64(len(scale))); err != nil {
						return err
					}
					for j, b := range block {
						e := int(scale[j/16]) - 127
						dst[i*cols+2*j] = float32(math.Ldexp(float64(fp4[b&15]), e))
						dst[i*cols+2*j+1] = float32(math.Ldexp(float64(fp4[b>>4]), e))
					}
				}
				return nil
			},
		}
	}
}
