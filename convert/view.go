package convert

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"sort"
	"sync"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

// A View is the finished file of a plan, computed where it is read: any byte
// range alone, in any order, by any number of goroutines. Render copies it to
// a disk; an upload can read its parts from it.
type View struct {
	plan  *Plan
	head  []byte
	steps []prepared
	src   *sources
	pool  sync.Pool // of *evaluator
	opts  RenderOptions
}

// prepared is a step with what is needed to render it.
type prepared struct {
	Step
	rows, cols int64
	rowBytes   int64
	raw        bool // stored blocks are moved
	turned     bool // a transposition reads across the rows of the source
	encode     func(dst []byte, src []float32, cols int, importance []float32)
	needs      bool  // importance
	tall       int64 // rows of each of a stack of experts

	device      bool      // the rows are encoded by RenderOptions.Encoder
	stored      gguf.Type // of the rows that it is given
	storedBytes int64     // of each
}

// NewView checks the plan against itself and prepares to render it from the
// files of src, which must implement io.ReaderAt. They are opened when they
// are first read.
func NewView(plan *Plan, src fs.FS, opts RenderOptions) (*View, error) {
	head, err := plan.Header.AppendBinary(nil)
	if err != nil {
		return nil, fmt.Errorf("render: %w", err)
	}
	if int64(len(head)) > plan.HeaderSize {
		return nil, fmt.Errorf("render: header is %d bytes: the plan has %d", len(head), plan.HeaderSize)
	}
	v := &View{plan: plan, head: head, src: &sources{fsys: src}, opts: opts}
	if opts.SourceOrder {
		v.src.regions = new(regions)
	}
	v.pool.New = func() any { return &evaluator{src: v.src} }
	end := plan.HeaderSize
	for _, s := range plan.Steps {
		p, err := prepare(s)
		if d := opts.Encoder; err == nil && d != nil && !p.raw {
			// A source's MXFP4 has a scale that is NaN, which ggml takes for a
			// number.
			if p.stored, p.device = Native(s.From); p.device && p.stored != gguf.MXFP4 {
				p.device = d.Can(s.Type, p.stored)
			} else {
				p.device = false
			}
			if p.device {
				p.storedBytes, err = p.stored.RowBytes(p.cols)
			}
		}
		if err == nil && (s.Offset < end || s.Offset > (1<<63-1)-s.Size) {
			err = fmt.Errorf("offset %d: the bytes before it end at %d", s.Offset, end)
		}
		if err != nil {
			return nil, fmt.Errorf("render: tensor %s: %w", s.Name, err)
		}
		v.steps = append(v.steps, p)
		end = s.Offset + s.Size
	}
	if plan.Size < end {
		return nil, fmt.Errorf("render: the last tensor ends at %d: the plan has %d bytes", end, plan.Size)
	}
	return v, nil
}

func prepare(s Step) (prepared, error) {
	if err := Check(s.From); err != nil {
		return prepared{}, err
	}
	p := prepared{Step: s}
	p.rows, p.cols = s.From.Dims()
	if len(s.Shape) == 0 || s.Shape[0] != p.cols || product(s.Shape[1:]) != p.rows {
		return p, fmt.Errorf("shape %v: %v is %d rows of %d", s.Shape, s.From, p.rows, p.cols)
	}
	var err error
	if p.rowBytes, err = s.Type.RowBytes(p.cols); err != nil {
		return p, err
	}
	if s.Size != p.rows*p.rowBytes {
		return p, fmt.Errorf("%d bytes: want %d for %v %s", s.Size, p.rows*p.rowBytes, s.Shape, s.Type)
	}
	if t, ok := Native(s.From); ok && t == s.Type {
		p.raw = true
		return p, nil
	}
	codec, ok := quantize.Lookup(s.Type)
	if !ok || codec.Encode == nil {
		return p, fmt.Errorf("there is no encoder for %s", s.Type)
	}
	p.encode, p.turned = codec.Encode, turned(s.From)
	p.needs = codec.NeedsImportance
	p.tall = p.rows
	if len(s.Shape) > 2 {
		p.tall = s.Shape[1]
	}
	return p, nil
}

// turned says whether m reads a column of the source for each row.
func turned(m Matrix) bool {
	switch m := m.(type) {
	case Transpose:
		rows, cols := m.Of.Dims()
		return rows > m.Batch && cols > 1
	case Stack:
		for _, p := range m.Parts {
			if turned(p) {
				return true
			}
		}
	case Rows:
		return turned(m.Of)
	case RopePermute:
		return turned(m.Of)
	case Reshape:
		return turned(m.Of)
	case Pad:
		return turned(m.Of)
	case Affine:
		return turned(m.Of)
	case Scaled:
		return turned(m.Of)
	}
	return false
}

// Size is the length of the file.
func (v *View) Size() int64 { return v.plan.Size }

// Close closes the files of the source. No read may be under way.
func (v *View) Close() error {
	v.src.close()
	return nil
}

// ReadAt computes len(p) bytes of the file from off on.
func (v *View) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("render: negative offset")
	}
	if off >= v.plan.Size {
		return 0, io.EOF
	}
	var err error
	if left := v.plan.Size - off; int64(len(p)) > left {
		p, err = p[:left], io.EOF
	}
	e := v.pool.Get().(*evaluator)
	defer v.pool.Put(e)
	clear(p)
	if off < int64(len(v.head)) {
		copy(p, v.head[off:])
	}
	end := off + int64(len(p))
	first := sort.Search(len(v.steps), func(i int) bool { return v.steps[i].Offset+v.steps[i].Size > off })
	for i := first; i < len(v.steps) && v.steps[i].Offset < end; i++ {
		s := &v.steps[i]
		from, to := max(off, s.Offset), min(end, s.Offset+s.Size)
		if err := v.stepRange(e, s, from-s.Offset, p[from-off:to-off]); err != nil {
			e.nf, e.nb = 0, 0
			return int(from - off), err
		}
	}
	return len(p), err
}

// stepRange computes bytes of one tensor's data from off on.
func (v *View) stepRange(e *evaluator, s *prepared, off int64, p []byte) error {
	for len(p) > 0 {
		r, in := off/s.rowBytes, off%s.rowBytes
		if in == 0 && int64(len(p)) >= s.rowBytes {
			// Whole rows, a bounded number at a time.
			n := min(int64(len(p))/s.rowBytes, max(1, v.usualChunk(s)/s.rowBytes))
			if err := v.region(e, s, r, r+n, 0, s.cols, p[:n*s.rowBytes], nil); err != nil {
				return err
			}
			off, p = off+n*s.rowBytes, p[n*s.rowBytes:]
			continue
		}
		// Part of a row: its numbers where they stand alone, all of it
		// where the encoding of a block may depend on the whole row.
		c0, c1, size := int64(0), s.cols, s.rowBytes
		n := min(int64(len(p)), s.rowBytes-in)
		if alone(s.Type) {
			width := s.Type.BlockBytes()
			c0, c1 = in/width, ceilDiv(in+n, width)
			size, in = (c1-c0)*width, in-c0*width
		}
		buf := e.raw(size)
		err := v.region(e, s, r, r+1, c0, c1, buf, nil)
		copy(p[:n], buf[in:])
		e.freeRaw()
		if err != nil {
			return err
		}
		off, p = off+n, p[n:]
	}
	return nil
}

// region computes the encoded rows [r0, r1), columns [c0, c1) of a tensor.
// Narrower rows than all columns are only asked of types of single numbers.
// count is called with the number of non-finite elements that were let pass.
func (v *View) region(e *evaluator, s *prepared, r0, r1, c0, c1 int64, dst []byte, count func(int64)) error {
	width := c1 - c0
	rowBytes := int64(len(dst)) / (r1 - r0)
	if s.raw {
		b0 := c0 / s.Type.BlockElements() * s.Type.BlockBytes()
		if err := e.rawTile(s.From, s.Type, r0, r1, b0, b0+rowBytes, dst); err != nil {
			return err
		}
		i := firstNonfinite(s.Type, dst)
		if i < 0 {
			return nil
		}
		if !v.opts.AllowNonfinite {
			value := float32(math.NaN())
			if alone(s.Type) {
				value = decodeOne(s.Type, dst, i)
			}
			return nonfinite(s.Step, r0+i/width, c0+i%width, value)
		}
		if count != nil {
			count(countNonfinite(s.Type, dst))
		}
		// Encoding quiets signalling NaNs, so that moving them must too.
		if codec, ok := quantize.Lookup(s.Type); ok && alone(s.Type) {
			values := e.float(int64(len(dst)) / s.Type.BlockBytes())
			codec.Decode(values, dst)
			codec.Encode(dst, values, len(values), nil)
			e.freeFloat()
		}
		return nil
	}
	per := max(1, pieceElements/width)
	if s.turned || s.device {
		per = r1 - r0
	}
	weigh := v.opts.Imatrix != nil && !alone(s.Type)
	var weights, importance []float32
	expert := int64(-1)
	if weigh {
		weights = e.float(s.cols)
		defer e.freeFloat()
	}
	var buf []float32
	var stored []byte
	if s.device {
		stored = e.raw((r1 - r0) * s.storedBytes)
		defer e.freeRaw()
	} else {
		buf = e.float(min(per, r1-r0) * width)
		defer e.freeFloat()
	}
	for r := r0; r < r1; {
		n := min(per, r1-r)
		if weigh {
			n = min(n, s.tall-r%s.tall)
			if r/s.tall != expert {
				expert = r / s.tall
				ok, err := v.opts.Imatrix.Values(weights, s.Name, expert)
				if err != nil {
					return fmt.Errorf("tensor %s: %w", s.Name, err)
				}
				if importance = nil; ok {
					importance = weights
				}
			}
		}
		if s.needs && importance == nil {
			return fmt.Errorf("tensor %s: %s cannot be encoded without importance: give --imatrix", s.Name, s.Type)
		}
		out := dst[(r-r0)*rowBytes : (r-r0+n)*rowBytes]
		if s.device {
			if err := v.encodeOnDevice(e, s, r, n, out, stored[:n*s.storedBytes], importance, count); err != nil {
				return err
			}
			r += n
			continue
		}
		values := buf[:n*width]
		if err := e.tile(s.From, r, r+n, c0, c1, values); err != nil {
			return err
		}
		s.encode(out, values, int(width), importance)
		if err := v.checkFinite(s, values, out, r, c0, width, count); err != nil {
			return err
		}
		r += n
	}
	return nil
}

// encodeOnDevice reads n rows from row r on as they are stored and has them
// encoded by RenderOptions.Encoder.
func (v *View) encodeOnDevice(e *evaluator, s *prepared, r, n int64, out, stored []byte, importance []float32, count func(int64)) error {
	if err := e.rawTile(s.From, s.stored, r, r+n, 0, s.storedBytes, stored); err != nil {
		return err
	}
	if !alone(s.stored) {
		if err := v.checkStored(e, s, r, n, stored, count); err != nil {
			return err
		}
	} else if i := firstNonfinite(s.stored, stored); i >= 0 {
		if !v.opts.AllowNonfinite {
			return nonfinite(s.Step, r+i/s.cols, i%s.cols, decodeOne(s.stored, stored, i))
		}
		if count != nil {
			count(countNonfinite(s.stored, stored))
		}
	}
	if err := v.opts.Encoder.Encode(out, s.Type, s.stored, stored, int(s.cols), importance); err != nil {
		return fmt.Errorf("tensor %s, rows %d to %d: %w", s.Name, r, r+n-1, err)
	}
	return nil
}

// checkStored looks for values that are not finite in n stored rows, from row r
// of the step on, which it decodes for that piece by piece.
func (v *View) checkStored(e *evaluator, s *prepared, r, n int64, stored []byte, count func(int64)) error {
	codec, ok := quantize.Lookup(s.stored)
	if !ok {
		return fmt.Errorf("tensor %s: there is no decoder for %s", s.Name, s.stored)
	}
	per := max(1, pieceElements/s.cols)
	values := e.float(min(per, n) * s.cols)
	defer e.freeFloat()
	for i := int64(0); i < n; i += per {
		rows := min(per, n-i)
		piece := values[:rows*s.cols]
		codec.Decode(piece, stored[i*s.storedBytes:(i+rows)*s.storedBytes])
		if err := v.checkFinite(s, piece, nil, r+i, 0, s.cols, count); err != nil {
			return err
		}
	}
	return nil
}

// usualChunk is the size of the output that is rendered at once.
func (v *View) usualChunk(s *prepared) int64 {
	if !s.device {
		return chunkBytes
	}
	return max(1, v.opts.Encoder.Batch()/s.cols) * s.rowBytes
}

// checkFinite looks at the encoded numbers where they show what was
// encoded, which is fewer bytes and finds overflows too, and at the values
// where they do not.
func (v *View) checkFinite(s *prepared, values []float32, out []byte, r, c0, width int64, count func(int64)) error {
	i := int64(-1)
	if _, ok := exponents[s.Type]; ok {
		i = firstNonfinite(s.Type, out)
	} else {
		i = firstNonfiniteValue(values)
	}
	if i < 0 {
		return nil
	}
	if !v.opts.AllowNonfinite {
		row, col := r+i/width, c0+i%width
		if value := values[i]; !math.IsNaN(float64(value)) && !math.IsInf(float64(value), 0) {
			return &OverflowError{s.Name, s.Type, row, col, value}
		}
		return nonfinite(s.Step, row, col, values[i])
	}
	if count != nil {
		n := int64(0)
		for _, x := range values {
			if math.Float32bits(x)&0x7f800000 == 0x7f800000 {
				n++
			}
		}
		if _, ok := exponents[s.Type]; ok {
			n = countNonfinite(s.Type, out)
		}
		count(n)
	}
	return nil
}

// alone says whether the rows of t can be encoded in parts.
func alone(t gguf.Type) bool { return t.BlockElements() == 1 }
