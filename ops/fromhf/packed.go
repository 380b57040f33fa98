package fromhf

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// inputMajor is how GPTQ and AWQ pack integers: for each input (column of the
// matrix) the outputs (its rows), (q-zero)*scale, with a scale and a zero for
// each output and group of inputs. GPTQ packs the integers along the inputs,
// AWQ along the outputs; both pack zeros along the outputs.
type inputMajor struct {
	bits  int
	group int // inputs of a group; 0: all

	alongInputs bool

	// place is where output i of a word is among its integers.
	place []int

	// zeroLess is what zeros are stored less than they are.
	zeroLess uint32
}

// gptq reads GPTQ's settings. Version 1 of its format stores zeros less one.
func gptq(q *config, s *scheme) {
	p := newInputMajor(q, "bits")
	p.alongInputs = true
	switch format := q.text("checkpoint_format", "gptq"); format {
	case "gptq":
		p.zeroLess = 1
	case "gptq_v2":
	default:
		q.fail("%s: checkpoint_format %q has no reader", q.name, format)
	}
	s.packed = p.matrix
}

// awq reads AWQ's settings, of the format for its kernel gemm, which wants
// outputs 0, 2, 4, 6, 1, 3, 5, 7 in this order in a word.
func awq(q *config, s *scheme) {
	p := newInputMajor(q, q.either("bits", "w_bit"))
	if p.bits != 4 {
		q.fail("%s: bits is %d: want 4", q.name, p.bits)
	}
	if version := q.text("version", "gemm"); version != "gemm" && version != "GEMM" {
		q.fail("%s: version %q has no reader", q.name, version)
	}
	q.only("zero_point", true)
	p.place = []int{0, 4, 1, 5, 2, 6, 3, 7}
	s.packed = p.matrix
}

func newInputMajor(q *config, bits string) inputMajor {
	p := inputMajor{bits: q.dim(bits)}
	if p.bits != 4 && p.bits != 8 {
		q.fail("%s: %s is %d: want 4 or 8", q.name, bits, p.bits)
		p.bits = 4
	}
	size := q.either("group_size", "q_group_size")
	if q.number(size) != -1 {
		p.group = q.dim(size)
	}
	for i := range 32 / p.bits {
		p.place = append(p.place, i)
	}
	return p
}

func (p inputMajor) matrix(r *reader, name string, rows, cols int) spec.Weight {
	perWord := 32 / p.bits
	group := p.group
	if group == 0 {
		group = cols
	}
	groups := (cols + group - 1) / group
	if rows%perWord != 0 || cols%perWord != 0 {
		r.fail("%s is [%d, %d]: want multiples of %d", name, rows, cols, perWord)
		return spec.Weight{}
	}
	shape := []int{cols, rows / perWord}
	if p.alongInputs {
		shape = []int{cols / perWord, rows}
	}
	words := r.words(name+".qweight", shape...)
	zeros := r.words(name+".qzeros", groups, rows/perWord)
	scales := r.numeric(name+".scales", groups, rows)
	groupsOf := r.groupsOf(name+".g_idx", cols, group, groups)
	if r.err != nil {
		return spec.Weight{}
	}

	return spec.Weight{
		Names: []string{words.Name, zeros.Name, scales.Name}, Rows: rows, Cols: cols, Type: fmt.Sprintf("I%d", p.bits),
		Read: func(ctx context.Context, dst []float32, first int) error {
			n := len(dst) / cols
			if n == 0 {
				return nil
			}
			groupOf, err := groupsOf()
			if err != nil {
				return err
			}
			zero, scale := make([]uint32, groups*n), make([]float32, groups*n)
			for g := range groups {
				if err := p.outputs(zeros, zero[g*n:(g+1)*n], g, first, rows); err != nil {
					return err
				}
				if err := scales.values(ctx, scale[g*n:(g+1)*n], int64(g)*int64(rows)+int64(first)); err != nil {
					return err
				}
			}
			value := func(q uint32, i, j int) float32 {
				at := groupOf[j]*n + i
				return float32(int(q)-int((zero[at]+p.zeroLess)&(1<<p.bits-1))) * scale[at]
			}
			if !p.alongInputs {
				q := make([]uint32, n)
				for j := range cols {
					if err := p.outputs(words, q, j, first, rows); err != nil {
						return err
					}
					for i := range n {
						dst[i*cols+j] = value(q[i], i, j)
					}
				}
				return ctx.Err()
			}
			buf := make([]byte, 4*n)
			for w := range cols / perWord {
				if err := words.bytes(buf, 4*(int64(w)*int64(rows)+int64(first))); err != nil {
					return err
				}
				for i := range n {
					word := binary.LittleEndian.Uint32(buf[4*i:])
					for k := range perWord {
						dst[i*cols+w*perWord+k] = value(word>>(k*p.bits)&(1<<p.bits-1), i, w*perWord+k)
					}
				}
			}
			return ctx.Err()
		},
	}
}

// outputs reads the integers of outputs first to first+len(dst)-1 in a row of a
// tensor that is packed along the outputs.
func (p inputMajor) outputs(t *tensor, dst []uint32, row, first, outputs int) error {
	perWord := 32 / p.bits
	from, to := first/perWord, (first+len(dst)+perWord-1)/perWord
	buf := make([]byte, 4*(to-from))
	if err := t.bytes(buf, 4*(int64(row)*int64(outputs/perWord)+int64(from))); err != nil {
		return err
	}
	for i := range dst {
		out := first + i
		word := binary.LittleEndian.Uint32(buf[4*(out/perWord-from):])
		dst[i] = word >> (p.place[out%perWord] * p.bits) & (1<<p.bits - 1)
	}
	return nil
}
