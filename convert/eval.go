package convert

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

// sources is the files of a plan, each opened when it is first read.
type sources struct {
	fsys fs.FS

	mu   sync.Mutex
	open map[string]io.ReaderAt
	all  []fs.File
}

func (s *sources) readerAt(name string) (io.ReaderAt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.open[name]; ok {
		return r, nil
	}
	f, err := s.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	r, ok := f.(io.ReaderAt)
	if !ok {
		f.Close()
		return nil, fmt.Errorf("%s cannot be read at an offset", name)
	}
	if s.open == nil {
		s.open = map[string]io.ReaderAt{}
	}
	s.open[name], s.all = r, append(s.all, f)
	return r, nil
}

func (s *sources) close() {
	for _, f := range s.all {
		f.Close()
	}
}

// evaluator computes parts of matrices. It serves one goroutine and keeps
// its buffers from call to call.
type evaluator struct {
	src     *sources
	reading time.Duration // spent in ReadAt
	read    int64         // bytes

	floats [][]float32
	bytes  [][]byte
	nf, nb int
}

// float returns a buffer that is the caller's until it gives it back with
// freeFloat; buffers are given back in the reverse order.
func (e *evaluator) float(n int64) []float32 {
	if e.nf == len(e.floats) {
		e.floats = append(e.floats, nil)
	}
	if int64(cap(e.floats[e.nf])) < n {
		e.floats[e.nf] = make([]float32, n)
	}
	e.nf++
	return e.floats[e.nf-1][:n]
}

func (e *evaluator) freeFloat() { e.nf-- }

// raw is float for bytes.
func (e *evaluator) raw(n int64) []byte {
	if e.nb == len(e.bytes) {
		e.bytes = append(e.bytes, nil)
	}
	if int64(cap(e.bytes[e.nb])) < n {
		e.bytes[e.nb] = make([]byte, n)
	}
	e.nb++
	return e.bytes[e.nb-1][:n]
}

func (e *evaluator) freeRaw() { e.nb-- }

// readLeaf fills p from byte off of the tensor's data.
func (e *evaluator) readLeaf(l Leaf, p []byte, off int64) error {
	r, err := e.src.readerAt(l.File)
	if err != nil {
		return fmt.Errorf("tensor %s: %w", l.Name, err)
	}
	start := time.Now()
	n, err := r.ReadAt(p, l.Offset+off)
	e.reading += time.Since(start)
	e.read += int64(n)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("tensor %s: read %s at offset %d: %w", l.Name, l.File, l.Offset+off+int64(n), err)
}

// pieceElements bounds the scratch of a move whose rows do not lie together.
const pieceElements = 64 << 10

// tile computes rows [r0, r1) and columns [c0, c1) of m into dst, row after
// row. It is the definition of every Matrix.
func (e *evaluator) tile(m Matrix, r0, r1, c0, c1 int64, dst []float32) error {
	w := c1 - c0
	return moves(m, run{r0, 1, r1 - r0, 0, 1}, func(src Matrix, r run) error {
		if src == nil {
			for i := range r.n {
				at := (r.to + i*r.toStep) * w
				clear(dst[at : at+w])
			}
			return nil
		}
		if r.step == 1 && r.toStep == 1 {
			return e.node(src, r.row, r.row+r.n, c0, c1, dst[r.to*w:(r.to+r.n)*w])
		}
		// Rows that are near each other are computed with those between
		// them; rows far apart one by one.
		step := r.step
		per := int64(1)
		if step <= 4 {
			per = max(1, pieceElements/(w*step))
		}
		buf := e.float(((per-1)*step + 1) * w)
		defer e.freeFloat()
		for i := int64(0); i < r.n; i += per {
			n := min(per, r.n-i)
			first := r.row + i*step
			if err := e.node(src, first, first+(n-1)*step+1, c0, c1, buf[:((n-1)*step+1)*w]); err != nil {
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

// node is tile for what is not a move of rows.
func (e *evaluator) node(m Matrix, r0, r1, c0, c1 int64, dst []float32) error {
	switch m := m.(type) {
	case Leaf:
		return e.leaf(m, r0, r1, c0, c1, dst)
	case Transpose:
		return e.transpose(m, r0, r1, c0, c1, dst)
	case Reshape:
		if c0 == 0 && c1 == m.Cols {
			return e.flat(m.Of, r0*m.Cols, dst)
		}
		w := c1 - c0
		for r := r0; r < r1; r++ {
			if err := e.flat(m.Of, r*m.Cols+c0, dst[(r-r0)*w:(r-r0+1)*w]); err != nil {
				return err
			}
		}
		return nil
	case Affine:
		if err := e.tile(m.Of, r0, r1, c0, c1, dst); err != nil {
			return err
		}
		for i, v := range dst {
			dst[i] = float32(v*m.Scale) + m.Bias
		}
		if half(m.Of) {
			return e.roundHalf(dst)
		}
		return nil
	case Constant:
		w := c1 - c0
		for r := r0; r < r1; r++ {
			copy(dst[(r-r0)*w:(r-r0+1)*w], m.Values[r*m.Cols+c0:])
		}
		return nil
	case Unpack:
		return e.unpack(m, r0, r1, c0, c1, dst)
	case Scaled:
		return e.scaled(m, r0, r1, c0, c1, dst)
	case MXFP4:
		return e.mxfp4(m, r0, r1, c0, c1, dst)
	}
	return fmt.Errorf("unknown matrix %T", m)
}

// leaf reads and decodes part of a source tensor: whole rows with one read,
// the columns of narrower tiles row by row.
func (e *evaluator) leaf(l Leaf, r0, r1, c0, c1 int64, dst []float32) error {
	u, err := unitOf(l.DType)
	if err != nil {
		return fmt.Errorf("tensor %s: %w", l.Name, err)
	}
	_, cols := l.Dims()
	rowBytes := cols / u.elements * u.bytes
	w := c1 - c0
	b0, b1 := c0/u.elements, ceilDiv(c1, u.elements) // in units
	if w == cols {
		per := max(1, pieceElements/w)
		buf := e.raw(min(per, r1-r0) * rowBytes)
		defer e.freeRaw()
		for r := r0; r < r1; r += per {
			n := min(per, r1-r)
			if err := e.readLeaf(l, buf[:n*rowBytes], r*rowBytes); err != nil {
				return err
			}
			u.decode(dst[(r-r0)*w:(r-r0+n)*w], buf[:n*rowBytes])
		}
		return nil
	}
	buf := e.raw((b1 - b0) * u.bytes)
	defer e.freeRaw()
	whole := dst
	if aligned := c0%u.elements == 0 && c1%u.elements == 0; !aligned {
		whole = e.float((b1 - b0) * u.elements)
		defer e.freeFloat()
	}
	for r := r0; r < r1; r++ {
		if err := e.readLeaf(l, buf, r*rowBytes+b0*u.bytes); err != nil {
			return err
		}
		to := dst[(r-r0)*w : (r-r0+1)*w]
		if (b1-b0)*u.elements == w {
			u.decode(to, buf)
			continue
		}
		u.decode(whole, buf)
		copy(to, whole[c0-b0*u.elements:])
	}
	return nil
}

// transpose computes the tile of Of that lies under the one asked for, and
// turns it over in squares that fit the first cache.
func (e *evaluator) transpose(m Transpose, r0, r1, c0, c1 int64, dst []float32) error {
	rows, cols := m.Of.Dims()
	tall := rows / m.Batch
	w := c1 - c0
	for r := r0; r < r1; {
		batch, in := r/cols, r%cols
		n := min(r1-r, cols-in)
		buf := e.float(w * n)
		err := e.tile(m.Of, batch*tall+c0, batch*tall+c1, in, in+n, buf)
		if err == nil {
			to := dst[(r-r0)*w : (r-r0+n)*w]
			const square = 16
			for i := int64(0); i < n; i += square {
				for j := int64(0); j < w; j += square {
					for ii := i; ii < min(n, i+square); ii++ {
						for jj := j; jj < min(w, j+square); jj++ {
							to[ii*w+jj] = buf[jj*n+ii]
						}
					}
				}
			}
		}
		e.freeFloat()
		if err != nil {
			return err
		}
		r += n
	}
	return nil
}

// flat computes the elements of m from number at on, counted row after row.
func (e *evaluator) flat(m Matrix, at int64, dst []float32) error {
	_, cols := m.Dims()
	for len(dst) > 0 {
		r, c := at/cols, at%cols
		n := min(int64(len(dst)), cols-c)
		rows := int64(1)
		if c == 0 && n == cols {
			rows = int64(len(dst)) / cols
		}
		if err := e.tile(m, r, r+rows, c, c+n, dst[:rows*n]); err != nil {
			return err
		}
		at, dst = at+rows*n, dst[rows*n:]
	}
	return nil
}

// roundHalf rounds values to float16 and back.
func (e *evaluator) roundHalf(v []float32) error {
	codec, ok := quantize.Lookup(gguf.F16)
	if !ok {
		return fmt.Errorf("there is no codec for F16")
	}
	buf := e.raw(int64(len(v)) * 2)
	defer e.freeRaw()
	codec.Encode(buf, v, len(v), nil)
	codec.Decode(v, buf)
	return nil
}

// scaled computes the codes and then goes over them group by group.
func (e *evaluator) scaled(m Scaled, r0, r1, c0, c1 int64, dst []float32) error {
	if err := e.tile(m.Of, r0, r1, c0, c1, dst); err != nil {
		return err
	}
	w := c1 - c0
	g0, g1 := c0/m.GroupCols, (c1-1)/m.GroupCols+1
	gw := g1 - g0
	var index []float32
	if m.Index.Name != "" {
		index = e.float(r1 - r0)
		defer e.freeFloat()
		if err := e.flat(Reshape{m.Index, 1}, r0, index); err != nil {
			return err
		}
	}
	scale := e.float(gw)
	defer e.freeFloat()
	zero := e.float(gw)
	defer e.freeFloat()
	clear(zero)
	groups, _ := m.Scale.Dims()
	have := int64(-1)
	for r := r0; r < r1; r++ {
		group := r / m.GroupRows
		if index != nil {
			group = int64(index[r-r0])
			if group < 0 || group >= groups {
				return fmt.Errorf("tensor %s: row %d is of group %d: there are %d", m.Index.Name, r, group, groups)
			}
		}
		if group != have {
			if err := e.tile(m.Scale, group, group+1, g0, g1, scale); err != nil {
				return err
			}
			if m.Zero != nil {
				if err := e.tile(m.Zero, group, group+1, g0, g1, zero); err != nil {
					return err
				}
			}
			have = group
		}
		row := dst[(r-r0)*w : (r-r0+1)*w]
		for g := g0; g < g1; g++ {
			from, to := max(c0, g*m.GroupCols), min(c1, (g+1)*m.GroupCols)
			s, z := scale[g-g0], zero[g-g0]
			part := row[from-c0 : to-c0]
			if m.Inverse {
				for i, v := range part {
					part[i] = (v - z) / s
				}
				continue
			}
			for i, v := range part {
				part[i] = (v - z) * s
			}
		}
	}
	return nil
}

// unpack reads the integers under the tile and takes their slots apart.
func (e *evaluator) unpack(m Unpack, r0, r1, c0, c1 int64, dst []float32) error {
	u, err := unitOf(m.Of.DType)
	if err != nil {
		return fmt.Errorf("tensor %s: %w", m.Of.Name, err)
	}
	rows, cols := m.Of.Dims()
	slots := int64(len(m.Order))
	shift := make([]uint, slots) // of the value that is i places after the first
	for slot, place := range m.Order {
		shift[place] = uint(slot * m.Bits)
	}
	mask := uint64(1)<<m.Bits - 1
	w := c1 - c0
	p0, p1 := c0, c1 // columns of integers
	if !m.Down {
		p0, p1 = c0/slots, (c1-1)/slots+1
	}
	buf := e.raw((p1 - p0) * u.bytes)
	defer e.freeRaw()
	have := int64(-1)
	for r := r0; r < r1; r++ {
		from, s := r, uint(0)
		switch {
		case m.Planes:
			from, s = r%rows, shift[r/rows]
		case m.Down:
			from, s = r/slots, shift[r%slots]
		}
		if from != have {
			if err := e.readLeaf(m.Of, buf, (from*cols+p0)*u.bytes); err != nil {
				return err
			}
			have = from
		}
		row := dst[(r-r0)*w : (r-r0+1)*w]
		for i := range row {
			p := int64(i)
			if !m.Down {
				c := c0 + int64(i)
				p, s = c/slots-p0, shift[c%slots]
			}
			row[i] = float32(integer(buf[p*u.bytes:], u.bytes) >> s & mask)
		}
	}
	return nil
}

// integer returns the n bytes at p as a number.
func integer(p []byte, n int64) uint64 {
	switch n {
	case 1:
		return uint64(p[0])
	case 2:
		return uint64(binary.LittleEndian.Uint16(p))
	case 4:
		return uint64(binary.LittleEndian.Uint32(p))
	}
	return binary.LittleEndian.Uint64(p)
}

// mxfp4 decodes blocks of 4-bit floats.
func (e *evaluator) mxfp4(m MXFP4, r0, r1, c0, c1 int64, dst []float32) error {
	_, n := m.Scales.Dims()
	b0, b1 := c0/32, (c1-1)/32+1
	w := c1 - c0
	blocks, scales := e.raw((b1-b0)*16), e.raw(b1-b0)
	defer e.freeRaw()
	defer e.freeRaw()
	for r := r0; r < r1; r++ {
		if err := e.readLeaf(m.Blocks, blocks, (r*n+b0)*16); err != nil {
			return err
		}
		if err := e.readLeaf(m.Scales, scales, r*n+b0); err != nil {
			return err
		}
		row := dst[(r-r0)*w : (r-r0+1)*w]
		for i := range row {
			at := c0 + int64(i) - b0*32
			code := blocks[at/2] >> (at % 2 * 4) & 15
			row[i] = e2m1[code] * decodeE8M0(scales[at/32])
		}
	}
	return nil
}
