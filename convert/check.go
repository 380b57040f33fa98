package convert

import (
	"fmt"
	"slices"

	"github.com/modelpipe/modelpipe/gguf"
)

// Check says what is wrong with a tree: a shape that does not match its
// size, parts of different widths, a selection past the end. Everything that
// evaluates a tree relies on it having passed.
func Check(m Matrix) error {
	switch m := m.(type) {
	case Leaf:
		return m.check()
	case Stack:
		if len(m.Parts) == 0 {
			return fmt.Errorf("stack of nothing")
		}
		_, cols := m.Parts[0].Dims()
		for _, p := range m.Parts {
			if err := Check(p); err != nil {
				return err
			}
			if _, c := p.Dims(); c != cols {
				return fmt.Errorf("stack: %v has %d columns: want %d as in %v", p, c, cols, m.Parts[0])
			}
		}
		return nil
	case Rows:
		if err := Check(m.Of); err != nil {
			return err
		}
		rows, _ := m.Of.Dims()
		if m.Every < 1 || m.Start < 0 || m.Count < 1 || m.Start > m.Every-m.Count || rows%m.Every != 0 {
			return fmt.Errorf("rows %d to %d of every %d do not fit %v, which has %d", m.Start, m.Start+m.Count, m.Every, m.Of, rows)
		}
		return nil
	case RopePermute:
		if err := Check(m.Of); err != nil {
			return err
		}
		if rows, _ := m.Of.Dims(); m.Heads < 1 || rows%m.Heads != 0 || rows/m.Heads%2 != 0 {
			return fmt.Errorf("%d rows of %v are not %d heads of an even size", rows, m.Of, m.Heads)
		}
		return nil
	case Transpose:
		if err := Check(m.Of); err != nil {
			return err
		}
		if rows, _ := m.Of.Dims(); m.Batch < 1 || rows%m.Batch != 0 {
			return fmt.Errorf("%d rows of %v are not %d equal parts", rows, m.Of, m.Batch)
		}
		return nil
	case Reshape:
		if err := Check(m.Of); err != nil {
			return err
		}
		if rows, cols := m.Of.Dims(); m.Cols < 1 || rows*cols%m.Cols != 0 {
			return fmt.Errorf("%d elements of %v are not rows of %d", rows*cols, m.Of, m.Cols)
		}
		return nil
	case Pad:
		if err := Check(m.Of); err != nil {
			return err
		}
		if rows, _ := m.Of.Dims(); m.Count < rows {
			return fmt.Errorf("%d rows of %v do not fit %d", rows, m.Of, m.Count)
		}
		return nil
	case Affine:
		return Check(m.Of)
	case Constant:
		if m.Cols < 1 || len(m.Values) == 0 || int64(len(m.Values))%m.Cols != 0 {
			return fmt.Errorf("%d constants are not rows of %d", len(m.Values), m.Cols)
		}
		return nil
	case Unpack:
		return m.check()
	case Scaled:
		return m.check()
	case MXFP4:
		return m.check()
	case nil:
		return fmt.Errorf("a matrix is missing")
	}
	return fmt.Errorf("unknown matrix %T", m)
}

func (m Leaf) check() error {
	n := int64(1)
	for _, d := range m.Shape {
		if d < 1 || n > (1<<62)/d {
			return fmt.Errorf("tensor %s: shape %v is empty or too large", m.Name, m.Shape)
		}
		n *= d
	}
	u, err := unitOf(m.DType)
	if err != nil {
		return fmt.Errorf("tensor %s: %w", m.Name, err)
	}
	_, cols := m.Dims()
	if cols%u.elements != 0 {
		return fmt.Errorf("tensor %s: rows of %d are not whole blocks of %d of %s", m.Name, cols, u.elements, m.DType)
	}
	if m.Offset < 0 || m.Size != n/u.elements*u.bytes || m.Offset > (1<<63-1)-m.Size {
		return fmt.Errorf("tensor %s: %d bytes at offset %d of %s: want %d for %s %v", m.Name, m.Size, m.Offset, m.File, n/u.elements*u.bytes, m.DType, m.Shape)
	}
	return nil
}

func (m Unpack) check() error {
	if err := m.Of.check(); err != nil {
		return err
	}
	u, _ := unitOf(m.Of.DType)
	if !isInteger(m.Of.DType) || m.Bits < 1 || m.Bits > 8 || m.Rows < 1 || m.Cols < 1 {
		return fmt.Errorf("tensor %s: cannot hold packed values of %d bits in %s", m.Of.Name, m.Bits, m.Of.DType)
	}
	slots := int64(len(m.Order))
	if slots != u.bytes*8/int64(m.Bits) {
		return fmt.Errorf("tensor %s: %d values of %d bits in %s", m.Of.Name, slots, m.Bits, m.Of.DType)
	}
	seen := slices.Clone(m.Order)
	slices.Sort(seen)
	for i, o := range seen {
		if i != o {
			return fmt.Errorf("tensor %s: order %v of packed values is not a permutation", m.Of.Name, m.Order)
		}
	}
	rows, cols := m.Of.Dims()
	long, packed, across, same := m.Cols, cols, rows, m.Rows
	if m.Down {
		long, packed, across, same = m.Rows, rows, cols, m.Cols
	}
	if across != same || long > packed*slots || packed*slots-long >= slots || m.Planes && (long != packed*slots || !m.Down) {
		return fmt.Errorf("tensor %s: %v holds %d values in each: it is not %d x %d of them", m.Of.Name, m.Of.Shape, slots, m.Rows, m.Cols)
	}
	return nil
}

func (m Scaled) check() error {
	if err := Check(m.Of); err != nil {
		return err
	}
	if err := Check(m.Scale); err != nil {
		return err
	}
	rows, cols := m.Of.Dims()
	if m.GroupRows < 1 || m.GroupCols < 1 {
		return fmt.Errorf("%v: groups of %d x %d", m, m.GroupRows, m.GroupCols)
	}
	gr, gc := ceilDiv(rows, m.GroupRows), ceilDiv(cols, m.GroupCols)
	sr, sc := m.Scale.Dims()
	if m.Index.Name != "" {
		if err := m.Index.check(); err != nil {
			return err
		}
		if n := product(m.Index.Shape); n != rows || !isInteger(m.Index.DType) {
			return fmt.Errorf("tensor %s: %s %v: want an integer for each of %d rows", m.Index.Name, m.Index.DType, m.Index.Shape, rows)
		}
		gr = sr // any number of groups may be named
	}
	if sr != gr || sc != gc {
		return fmt.Errorf("%v: scales are %d x %d: want %d x %d", m, sr, sc, gr, gc)
	}
	if m.Zero == nil {
		return nil
	}
	if err := Check(m.Zero); err != nil {
		return err
	}
	if zr, zc := m.Zero.Dims(); zr != sr || zc != sc {
		return fmt.Errorf("%v: zero points are %d x %d: want %d x %d as the scales", m, zr, zc, sr, sc)
	}
	return nil
}

func (m MXFP4) check() error {
	for _, l := range []Leaf{m.Blocks, m.Scales} {
		if err := l.check(); err != nil {
			return err
		}
		if u, _ := unitOf(l.DType); u.bytes != 1 || u.elements != 1 {
			return fmt.Errorf("tensor %s: MXFP4 is bytes: got %s", l.Name, l.DType)
		}
	}
	n := len(m.Blocks.Shape)
	if n < 2 || m.Blocks.Shape[n-1] != 16 || !slices.Equal(m.Blocks.Shape[:n-1], m.Scales.Shape) {
		return fmt.Errorf("tensor %s: %v: want the shape %v of %s and 16 bytes for each", m.Blocks.Name, m.Blocks.Shape, m.Scales.Shape, m.Scales.Name)
	}
	return nil
}

// Native returns the type in which m can be written by moving stored blocks,
// without a value being decoded.
func Native(m Matrix) (gguf.Type, bool) {
	switch m := m.(type) {
	case Leaf:
		t, err := gguf.ParseType(m.DType)
		return t, err == nil
	case MXFP4:
		return gguf.MXFP4, true
	case Stack:
		t, ok := Native(m.Parts[0])
		for _, p := range m.Parts[1:] {
			if u, also := Native(p); !also || u != t {
				return 0, false
			}
		}
		return t, ok
	case Rows:
		return Native(m.Of)
	case RopePermute:
		return Native(m.Of)
	case Pad:
		t, ok := Native(m.Of)
		return t, ok && t.BlockElements() == 1
	case Reshape:
		if _, cols := m.Of.Dims(); cols == m.Cols {
			return Native(m.Of)
		}
	case Transpose:
		if of, ok := m.Of.(Transpose); ok && of.Batch == m.Batch {
			return Native(of.Of)
		}
	}
	return 0, false
}

// half says whether every element of m is a float16 as stored.
func half(m Matrix) bool {
	switch m := m.(type) {
	case Leaf:
		return m.DType == "F16"
	case Stack:
		for _, p := range m.Parts {
			if !half(p) {
				return false
			}
		}
		return true
	case Rows:
		return half(m.Of)
	case RopePermute:
		return half(m.Of)
	case Transpose:
		return half(m.Of)
	case Reshape:
		return half(m.Of)
	case Pad:
		return half(m.Of)
	case Affine:
		return half(m.Of)
	}
	return false
}

// Leaves calls f for each source tensor of m, companions included.
func Leaves(m Matrix, f func(Leaf)) {
	switch m := m.(type) {
	case Leaf:
		f(m)
	case Stack:
		for _, p := range m.Parts {
			Leaves(p, f)
		}
	case Rows:
		Leaves(m.Of, f)
	case RopePermute:
		Leaves(m.Of, f)
	case Transpose:
		Leaves(m.Of, f)
	case Reshape:
		Leaves(m.Of, f)
	case Pad:
		Leaves(m.Of, f)
	case Affine:
		Leaves(m.Of, f)
	case Unpack:
		f(m.Of)
	case Scaled:
		Leaves(m.Of, f)
		Leaves(m.Scale, f)
		if m.Zero != nil {
			Leaves(m.Zero, f)
		}
		if m.Index.Name != "" {
			f(m.Index)
		}
	case MXFP4:
		f(m.Blocks)
		f(m.Scales)
	}
}

func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }
