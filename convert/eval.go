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

	regions *regions // of a remote source, or nil
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

// leaf reads and decodes part of a source tensor.
func (e *evaluator) leaf(l Leaf, r0, r1, c0, c1 int64, dst []float32) error {
	u, err := unitOf(l.DType)
	if err != nil {
		return fmt.Errorf("tensor %s: %w", l.Name, err)
	}
	w := c1 - c0
	u0, u1 := c0/u.elements, ceilDiv(c1, u.elements)
	rowBytes := (u1 - u0) * u.bytes
	aligned := (u1-u0)*u.elements == w
	per := min(r1-r0, max(1, pieceElements/w))
	if _, cols := l.Dims(); w < cols {
		per = r1 - r0 // it is far from one row to the next anyhow
	}
	buf := e.raw(per * rowBytes)
	defer e.freeRaw()
	var whole []float32
	if !aligned {
		whole = e.float((u1 - u0) * u.elements)
		defer e.freeFloat()
	}
	for r := r0; r < r1; r += per {
		n := min(per, r1-r)
		if err := e.stored(l, u, r, r+n, u0, u1, buf[:n*rowBytes]); err != nil {
			return err
		}
		if aligned {
			u.decode(dst[(r-r0)*w:(r-r0+n)*w], buf[:n*rowBytes])
			continue
		}
		for i := range n {
			u.decode(whole, buf[i*rowBytes:(i+1)*rowBytes])
			copy(dst[(r-r0+i)*w:(r-r0+i+1)*w], whole[c0-u0*u.elements:])
		}
	}
	return nil
}

// stored reads rows [r0, r1), units [u0, u1) of a source tensor as they are:
// whole rows with one read, the columns of narrower tiles row by row.
func (e *evaluator) stored(l Leaf, u unit, r0, r1, u0, u1 int64, dst []byte) error {
	_, cols := l.Dims()
	rowBytes := cols / u.elements * u.bytes
	w := (u1 - u0) * u.bytes
	if w == rowBytes {
		return e.readLeaf(l, dst, r0*rowBytes)
	}
	var part *region
	if size := (r1 - r0) * rowBytes; e.src.regions != nil && r1-r0 > 1 && size <= regionBytes {
		var err error
		if part, err = e.src.regions.get(e, l, r0*rowBytes, size); err != nil {
			return err
		}
		defer e.src.regions.put(part)
	}
	for r := range r1 - r0 {
		to, at := dst[r*w:(r+1)*w], r*rowBytes+u0*u.bytes
		if part != nil {
			copy(to, part.data[at:])
		} else if err := e.readLeaf(l, to, r0*rowBytes+at); err != nil {
			return err
		}
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
			for j := int64(0); j < w; j += square {
				high := min(square, w-j)
				for i := range n {
					row, at := to[i*w+j:][:high], j*n+i
					for k := range row {
						row[k] = buf[at]
						at += n
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
	// The groups under the tile: [first, last] down, [g0, g1) across.
	first, last := r0/m.GroupRows, (r1-1)/m.GroupRows
	var index []float32
	if m.Index.Name != "" {
		index = e.float(r1 - r0)
		defer e.freeFloat()
		if err := e.flat(Reshape{m.Index, 1}, r0, index); err != nil {
			return err
		}
		groups, _ := m.Scale.Dims()
		first, last = groups, 0
		for i, v := range index {
			g := int64(v)
			if g < 0 || g >= groups {
				return fmt.Errorf("tensor %s: row %d is of group %d: there are %d", m.Index.Name, r0+int64(i), g, groups)
			}
			first, last = min(first, g), max(last, g)
		}
	}
	w := c1 - c0
	g0, g1 := c0/m.GroupCols, (c1-1)/m.GroupCols+1
	gw := g1 - g0
	scales := e.float((last - first + 1) * gw)
	defer e.freeFloat()
	if err := e.tile(m.Scale, first, last+1, g0, g1, scales); err != nil {
		return err
	}
	zeros := e.float(int64(len(scales)))
	defer e.freeFloat()
	if m.Zero == nil {
		clear(zeros)
	} else if err := e.tile(m.Zero, first, last+1, g0, g1, zeros); err != nil {
		return err
	}
	for r := r0; r < r1; r++ {
		group := r/m.GroupRows - first
		if index != nil {
			group = int64(index[r-r0]) - first
		}
		scale, zero := scales[group*gw:(group+1)*gw], zeros[group*gw:(group+1)*gw]
		row := dst[(r-r0)*w : (r-r0+1)*w]
		if m.GroupCols == 1 && !m.Inverse {
			for i, v := range row {
				row[i] = (v - zero[i]) * scale[i]
			}
			continue
		}
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
	w, slots := c1-c0, int64(len(m.Order))
	var shifts [64]uint // of the value that is i places after the first
	for slot, place := range m.Order {
		shifts[place] = uint(slot * m.Bits)
	}
	mask := uint64(1)<<m.Bits - 1
	if !m.Down {
		p0, p1 := c0/slots, (c1-1)/slots+1
		ints := e.raw((r1 - r0) * (p1 - p0) * u.bytes)
		defer e.freeRaw()
		if err := e.stored(m.Of, u, r0, r1, p0, p1, ints); err != nil {
			return err
		}
		for r := range r1 - r0 {
			row := dst[r*w : (r+1)*w]
			for p := p0; p < p1; p++ {
				word := integer(ints, u.bytes)
				ints = ints[u.bytes:]
				first := p*slots - c0
				if first >= 0 && first+slots <= w {
					out := row[first:][:slots]
					for k := range out {
						out[k] = float32(int32(word >> (shifts[k] & 63) & mask))
					}
					continue
				}
				for k := max(0, -first); k < min(slots, w-first); k++ {
					row[first+k] = float32(int32(word >> shifts[k] & mask))
				}
			}
		}
		return nil
	}
	rows, _ := m.Of.Dims()
	for r := r0; r < r1; {
		// The integers of one plane, or of all rows, follow each other.
		from, to, n := r/slots, (r1-1)/slots+1, r1-r
		if m.Planes {
			from = r % rows
			n = min(n, rows-from)
			to = from + n
		}
		ints := e.raw((to - from) * w * u.bytes)
		if err := e.stored(m.Of, u, from, to, c0, c1, ints); err != nil {
			e.freeRaw()
			return err
		}
		for i := range n {
			at, shift := (r+i)/slots-from, shifts[(r+i)%slots]
			if m.Planes {
				at, shift = i, shifts[r/rows]
			}
			row, words := dst[(r-r0+i)*w:(r-r0+i+1)*w], ints[at*w*u.bytes:]
			if u.bytes == 4 {
				for c := range row {
					row[c] = float32(int32(binary.LittleEndian.Uint32(words[4*c:]) >> (shift & 31) & uint32(mask)))
				}
				continue
			}
			for c := range row {
				row[c] = float32(int32(integer(words[int64(c)*u.bytes:], u.bytes) >> shift & mask))
			}
		}
		e.freeRaw()
		r += n
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
	w, per := c1-c0, b1-b0
	step := int64(1) // rows read at once
	if per == n {
		step = min(r1-r0, max(1, pieceElements/w))
	}
	blocks, scales := e.raw(step*per*16), e.raw(step*per)
	defer e.freeRaw()
	defer e.freeRaw()
	for r := r0; r < r1; r += step {
		rows := min(step, r1-r)
		if err := e.readLeaf(m.Blocks, blocks[:rows*per*16], (r*n+b0)*16); err != nil {
			return err
		}
		if err := e.readLeaf(m.Scales, scales[:rows*per], r*n+b0); err != nil {
			return err
		}
		for k := range rows {
			row := dst[(r-r0+k)*w : (r-r0+k+1)*w]
			for b := range per {
				scale := decodeE8M0(scales[k*per+b])
				if first := (b0+b)*32 - c0; first >= 0 && first+32 <= w {
					out, in := row[first:][:32], blocks[(k*per+b)*16:][:16]
					for i, v := range in {
						out[2*i], out[2*i+1] = e2m1[v&15]*scale, e2m1[v>>4]*scale
					}
					continue
				}
				for i := range int64(32) {
					if at := (b0+b)*32 + i - c0; at >= 0 && at < w {
						row[at] = e2m1[blocks[(k*per+b)*16+i/2]>>(i%2*4)&15] * scale
					}
				}
			}
		}
	}
	return nil
}
