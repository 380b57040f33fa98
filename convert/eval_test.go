package convert

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"testing/fstest"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

// grower grows random trees over random tensors.
type grower struct {
	rnd  *rand.Rand
	data []byte // of the one file
	n    int
}

func (g *grower) leaf(dtype string, shape ...int64) Leaf {
	u, err := unitOf(dtype)
	if err != nil {
		panic(err)
	}
	size := product(shape) / u.elements * u.bytes
	l := Leaf{File: "f", Name: fmt.Sprintf("t%d", g.n), DType: dtype, Shape: shape, Offset: int64(len(g.data)), Size: size}
	g.n++
	random := make([]byte, size+8)
	for i := int64(0); i < size; i += 8 {
		binary.LittleEndian.PutUint64(random[i:], g.rnd.Uint64())
	}
	random = random[:size]
	for i, b := range random {
		if dtype == "F32" || dtype == "F16" || dtype == "BF16" || dtype == "F64" {
			b &= 0xbf // never an exponent of all ones
		}
		if dtype == "F8_E4M3" && b&0x7f == 0x7f || dtype == "F8_E5M2" && b&0x7c == 0x7c || dtype == "F8_E8M0" && b == 255 {
			b = 1
		}
		random[i] = b
	}
	g.data = append(g.data, random...)
	return l
}

// grow returns a tree of rows x cols; a tree for rawness has only moves of
// 16-bit leaves.
func (g *grower) grow(rows, cols int64, depth int, raw bool) Matrix {
	kinds := 12
	if raw {
		kinds = 6
	}
	if depth == 0 {
		kinds = 1
	}
	switch g.rnd.IntN(kinds) {
	case 1: // Stack
		if rows > 1 {
			a := 1 + g.rnd.Int64N(rows-1)
			return Stack{[]Matrix{g.grow(a, cols, depth-1, raw), g.grow(rows-a, cols, depth-1, raw)}}
		}
	case 2: // Rows
		count := g.divisor(rows)
		every := count + g.rnd.Int64N(4)
		start := g.rnd.Int64N(every - count + 1)
		return Rows{Of: g.grow(rows/count*every, cols, depth-1, raw), Every: every, Start: start, Count: count}
	case 3: // RopePermute
		if rows%2 == 0 {
			return RopePermute{g.grow(rows, cols, depth-1, raw), g.divisor(rows / 2)}
		}
	case 4: // Pad
		if rows > 1 {
			return Pad{g.grow(1+g.rnd.Int64N(rows-1), cols, depth-1, raw), rows}
		}
	case 5: // the same, read the same way
		return Reshape{g.grow(rows, cols, depth-1, raw), cols}
	case 6:
		batch := g.divisor(rows)
		return Transpose{g.grow(batch*cols, rows/batch, depth-1, raw), batch}
	case 7:
		of := g.divisor(rows * cols)
		return Reshape{g.grow(rows*cols/of, of, depth-1, raw), cols}
	case 8:
		return Affine{g.grow(rows, cols, depth-1, raw), 1, float32(g.rnd.IntN(3))}
	case 9:
		v := make([]float32, rows*cols)
		for i := range v {
			v[i] = g.rnd.Float32()
		}
		return Constant{cols, v}
	case 10:
		gr, gc := 1+g.rnd.Int64N(rows), 1+g.rnd.Int64N(cols)
		s := Scaled{
			Of:        g.leaf([]string{"F8_E4M3", "F8_E5M2", "I8"}[g.rnd.IntN(3)], rows, cols),
			Scale:     g.grow(ceilDiv(rows, gr), ceilDiv(cols, gc), 0, raw),
			GroupRows: gr, GroupCols: gc,
		}
		if g.rnd.IntN(2) == 0 {
			s.Zero = g.leaf("I8", ceilDiv(rows, gr), ceilDiv(cols, gc))
		}
		return s
	case 11:
		order := g.rnd.Perm(8)
		u := Unpack{Bits: 4, Order: order, Rows: rows, Cols: cols, Down: g.rnd.IntN(2) == 0}
		switch {
		case u.Down && rows%8 == 0 && g.rnd.IntN(2) == 0:
			u.Planes, u.Of = true, g.leaf("I32", rows/8, cols)
		case u.Down:
			u.Of = g.leaf("I32", ceilDiv(rows, 8), cols)
		default:
			u.Of = g.leaf("I32", rows, ceilDiv(cols, 8))
		}
		return u
	}
	if raw {
		return g.leaf("BF16", rows, cols)
	}
	return g.leaf([]string{"BF16", "F16", "F32", "F64", "I16", "U8", "F8_E8M0"}[g.rnd.IntN(7)], rows, cols)
}

func (g *grower) divisor(n int64) int64 {
	for {
		if d := 1 + g.rnd.Int64N(n); n%d == 0 {
			return d
		}
	}
}

// whole is what a tree means, worked out in memory element by element.
func whole(m Matrix, data []byte) [][]float32 {
	rows, cols := m.Dims()
	out := make([][]float32, rows)
	for r := range out {
		out[r] = make([]float32, cols)
	}
	each := func(f func(r, c int64) float32) [][]float32 {
		for r := range out {
			for c := range out[r] {
				out[r][c] = f(int64(r), int64(c))
			}
		}
		return out
	}
	switch m := m.(type) {
	case Leaf:
		u, _ := unitOf(m.DType)
		flat := make([]float32, rows*cols)
		u.decode(flat, data[m.Offset:m.Offset+m.Size])
		return each(func(r, c int64) float32 { return flat[r*cols+c] })
	case Stack:
		var all [][]float32
		for _, p := range m.Parts {
			all = append(all, whole(p, data)...)
		}
		return all
	case Rows:
		of, picked := whole(m.Of, data), [][]float32(nil)
		for g := int64(0); g < int64(len(of)); g += m.Every {
			picked = append(picked, of[g+m.Start:g+m.Start+m.Count]...)
		}
		return picked
	case RopePermute:
		of := whole(m.Of, data)
		d := rows / m.Heads
		for h := range m.Heads {
			for i := range d / 2 { // out[h][i][j] = in[h][j][i]
				for j := range int64(2) {
					out[h*d+i*2+j] = of[h*d+j*d/2+i]
				}
			}
		}
		return out
	case Transpose:
		of := whole(m.Of, data)
		tall := int64(len(of)) / m.Batch
		return each(func(r, c int64) float32 {
			per := rows / m.Batch
			return of[r/per*tall+c][r%per]
		})
	case Reshape:
		of := whole(m.Of, data)
		n := int64(len(of[0]))
		return each(func(r, c int64) float32 { at := r*cols + c; return of[at/n][at%n] })
	case Pad:
		copy(out, whole(m.Of, data))
		return out
	case Affine:
		of := whole(m.Of, data)
		return each(func(r, c int64) float32 {
			v := float32(of[r][c]*m.Scale) + m.Bias
			if half(m.Of) {
				var b [2]byte
				codec, _ := quantize.Definition(gguf.F16)
				codec.Encode(b[:], []float32{v}, 1, nil)
				v = halfOf(b)
			}
			return v
		})
	case Constant:
		return each(func(r, c int64) float32 { return m.Values[r*cols+c] })
	case Scaled:
		of, scale := whole(m.Of, data), whole(m.Scale, data)
		var zero [][]float32
		if m.Zero != nil {
			zero = whole(m.Zero, data)
		}
		return each(func(r, c int64) float32 {
			gr, gc := r/m.GroupRows, c/m.GroupCols
			z := float32(0)
			if zero != nil {
				z = zero[gr][gc]
			}
			return (of[r][c] - z) * scale[gr][gc]
		})
	case Unpack:
		r4, c4 := m.Of.Dims()
		word := func(r, c int64) uint32 { return binary.LittleEndian.Uint32(data[m.Of.Offset+4*(r*c4+c):]) }
		return each(func(r, c int64) float32 {
			var w uint32
			place := 0
			switch {
			case m.Planes:
				w, place = word(r%r4, c), int(r/r4)
			case m.Down:
				w, place = word(r/8, c), int(r%8)
			default:
				w, place = word(r, c/8), int(c%8)
			}
			for slot, p := range m.Order {
				if p == place {
					return float32(w >> (4 * slot) & 15)
				}
			}
			panic("no slot")
		})
	}
	panic(fmt.Sprintf("%T", m))
}

func halfOf(b [2]byte) float32 {
	codec, _ := quantize.Definition(gguf.F16)
	var v [1]float32
	codec.Decode(v[:], b[:])
	return v[0]
}

// FuzzTile holds any tile of a random tree equal to the same part of the
// tree worked out as a whole.
func FuzzTile(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed, seed*7)
	}
	f.Fuzz(func(t *testing.T, a, b uint64) {
		rnd := rand.New(rand.NewPCG(a, b))
		g := &grower{rnd: rnd}
		rows, cols := 1+rnd.Int64N(24), 1+rnd.Int64N(24)
		m := g.grow(rows, cols, rnd.IntN(5), false)
		if err := Check(m); err != nil {
			t.Fatalf("%v: %v", m, err)
		}
		if r, c := m.Dims(); r != rows || c != cols {
			t.Fatalf("%v: %d x %d: want %d x %d", m, r, c, rows, cols)
		}
		want := whole(m, g.data)
		e := &evaluator{src: &sources{fsys: fstest.MapFS{"f": {Data: g.data}}}}
		for range 4 {
			r0, c0 := rnd.Int64N(rows), rnd.Int64N(cols)
			r1, c1 := r0+1+rnd.Int64N(rows-r0), c0+1+rnd.Int64N(cols-c0)
			got := make([]float32, (r1-r0)*(c1-c0))
			if err := e.tile(m, r0, r1, c0, c1, got); err != nil {
				t.Fatal(err)
			}
			if e.nf != 0 || e.nb != 0 {
				t.Fatalf("%v: buffers kept", m)
			}
			for i, v := range got {
				r, c := r0+int64(i)/(c1-c0), c0+int64(i)%(c1-c0)
				if w := want[r][c]; math.Float32bits(v) != math.Float32bits(w) && !(v != v && w != w) {
					t.Fatalf("%#v: [%d][%d] of tile %d:%d %d:%d is %v: want %v", m, r, c, r0, r1, c0, c1, v, w)
				}
			}
		}
	})
}

// FuzzRaw holds moved bytes equal to decoded and encoded values.
func FuzzRaw(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed, seed*11)
	}
	f.Fuzz(func(t *testing.T, a, b uint64) {
		rnd := rand.New(rand.NewPCG(a, b))
		g := &grower{rnd: rnd}
		rows, cols := 1+rnd.Int64N(40), 1+rnd.Int64N(24)
		m := g.grow(rows, cols, rnd.IntN(6), true)
		if typ, ok := Native(m); !ok || typ != gguf.BF16 {
			t.Fatalf("%v is not BF16", m)
		}
		e := &evaluator{src: &sources{fsys: fstest.MapFS{"f": {Data: g.data}}}}
		r0, c0 := rnd.Int64N(rows), rnd.Int64N(cols)
		r1, c1 := r0+1+rnd.Int64N(rows-r0), c0+1+rnd.Int64N(cols-c0)
		n := (r1 - r0) * (c1 - c0)
		values, want, got := make([]float32, n), make([]byte, 2*n), make([]byte, 2*n)
		if err := e.tile(m, r0, r1, c0, c1, values); err != nil {
			t.Fatal(err)
		}
		codec, _ := quantize.Definition(gguf.BF16)
		codec.Encode(want, values, int(n), nil)
		if err := e.rawTile(m, gguf.BF16, r0, r1, 2*c0, 2*c1, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%#v: %d:%d %d:%d: %x: want %x", m, r0, r1, c0, c1, got, want)
		}
	})
}
