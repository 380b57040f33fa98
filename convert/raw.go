package convert

import (
	"fmt"

	"github.com/modelpipe/modelpipe/gguf"
)

// rawTile writes rows [r0, r1) of a matrix whose Native type is t, of each
// row the bytes [b0, b1), without decoding a value. It gives the bytes that
// encoding the values of tile would give.
func (e *evaluator) rawTile(m Matrix, t gguf.Type, r0, r1, b0, b1 int64, dst []byte) error {
	w := b1 - b0
	return moves(m, run{r0, 1, r1 - r0, 0, 1}, func(src Matrix, r run) error {
		if src == nil {
			for i := range r.n {
				at := (r.to + i*r.toStep) * w
				clear(dst[at : at+w])
			}
			return nil
		}
		if r.step == 1 && r.toStep == 1 {
			return e.rawNode(src, t, r.row, r.row+r.n, b0, b1, dst[r.to*w:(r.to+r.n)*w])
		}
		step, per := r.step, int64(1)
		if step <= 4 {
			per = max(1, 2*pieceElements/(w*step))
		}
		per = min(per, r.n)
		buf := e.raw(((per-1)*step + 1) * w)
		defer e.freeRaw()
		for i := int64(0); i < r.n; i += per {
			n := min(per, r.n-i)
			first := r.row + i*step
			if err := e.rawNode(src, t, first, first+(n-1)*step+1, b0, b1, buf[:((n-1)*step+1)*w]); err != nil {
				return err
			}
			for j := range n {
				to := (r.to + (i+j)*r.toStep) * w
				copy(dst[to:to+w], buf[j*step*w:])
			}
		}
		return nil
	})
}

// rawNode is rawTile for what is not a move of rows.
func (e *evaluator) rawNode(m Matrix, t gguf.Type, r0, r1, b0, b1 int64, dst []byte) error {
	switch m := m.(type) {
	case Leaf:
		_, cols := m.Dims()
		rowBytes, err := t.RowBytes(cols)
		if err != nil {
			return fmt.Errorf("tensor %s: %w", m.Name, err)
		}
		if b0 == 0 && b1 == rowBytes {
			return e.readLeaf(m, dst, r0*rowBytes)
		}
		for r := r0; r < r1; r++ {
			if err := e.readLeaf(m, dst[(r-r0)*(b1-b0):(r-r0+1)*(b1-b0)], r*rowBytes+b0); err != nil {
				return err
			}
		}
		return nil
	case MXFP4:
		return e.repack(m, r0, r1, b0, b1, dst)
	}
	return fmt.Errorf("%v cannot be moved without decoding it", m)
}

// repack writes gpt-oss blocks as ggml's: the power of two, then 16 bytes
// of which byte i holds elements i and i+16 where the source has 2i and 2i+1.
func (e *evaluator) repack(m MXFP4, r0, r1, b0, b1 int64, dst []byte) error {
	const block = 17
	if b0%block != 0 || b1%block != 0 {
		return fmt.Errorf("%v: bytes %d to %d are not whole blocks", m, b0, b1)
	}
	_, n := m.Scales.Dims()
	first, per := b0/block, (b1-b0)/block
	rows := r1 - r0
	step := rows // rows read at once
	if per != n {
		step = 1
	}
	blocks, scales := e.raw(step*per*16), e.raw(step*per)
	defer e.freeRaw()
	defer e.freeRaw()
	for r := r0; r < r1; r += step {
		if err := e.readLeaf(m.Blocks, blocks, (r*n+first)*16); err != nil {
			return err
		}
		if err := e.readLeaf(m.Scales, scales, r*n+first); err != nil {
			return err
		}
		to := dst[(r-r0)*(b1-b0):]
		for i, scale := range scales {
			in, out := blocks[i*16:i*16+16], to[i*block:i*block+block]
			out[0] = scale
			for j := range 8 {
				// Source bytes 2j.. of the low half of the block and the
				// ones eight further on of the high half.
				lo, hi := in[j], in[j+8]
				out[1+2*j] = lo&15 | hi<<4
				out[2+2*j] = lo>>4 | hi&0xf0
			}
		}
	}
	return nil
}
