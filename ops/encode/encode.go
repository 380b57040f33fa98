// Package encode writes ggml's blocks on an accelerator: the encoders as
// graphs over weights that are uploaded as they are stored. The codecs of
// package quantize are canonical; a graph computes the same formulas in the
// same order, but its compiler may fuse a product and a sum, so that a small
// share of the blocks differs in a level or a scale that fits as well.
//
//	e := encode.New(backend, encode.Options{})
//	err := e.Encode(ctx, dst, gguf.Q4_K, encode.Rows{Type: gguf.BF16, Data: raw, Cols: cols}, importance)
package encode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

// Types returns the types that can be encoded, in the order of their ids.
func Types() []gguf.Type {
	var types []gguf.Type
	for t := range encoders {
		types = append(types, t)
	}
	slices.Sort(types)
	return types
}

// Can reports whether a type can be encoded.
func Can(t gguf.Type) bool {
	_, ok := encoders[t]
	return ok
}

// Rows are whole rows of weights as a source stores them: F32, F16 or BF16,
// little-endian, Cols to a row.
type Rows struct {
	Type gguf.Type
	Data []byte
	Cols int
}

// Count is the number of rows.
func (r Rows) Count() int { return len(r.Data) / (r.Cols * int(r.Type.BlockBytes())) }

// Stats counts what an Encoder has done.
type Stats struct {
	Blocks int64
	// Canonical blocks were encoded by package quantize: those with a value
	// that is not finite, or with a range in which a graph's arithmetic
	// would under- or overflow.
	Canonical int64
}

// Encoder encodes on one backend. It is safe for concurrent use: calls overlap
// in the upload of one and the work of another.
type Encoder struct {
	backend compute.Backend

	mu    sync.Mutex
	execs map[kind]*graph.Exec
	stats Stats
}

// kind is what a graph is built for; its shapes are the executor's matter.
type kind struct {
	typ      gguf.Type
	weighted bool
}

// New returns an encoder on a backend.
func New(backend compute.Backend) *Encoder {
	return &Encoder{backend: backend, execs: map[kind]*graph.Exec{}}
}

// Stats returns the counts so far.
func (e *Encoder) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stats
}

// storedAs gives the graph's type of what Rows can hold.
var storedAs = map[gguf.Type]dtypes.DType{gguf.F32: dtypes.Float32, gguf.F16: dtypes.Float16, gguf.BF16: dtypes.BFloat16}

// Encode writes the blocks of rows to dst, which has exactly their size.
// importance holds one weight per column, or is nil. Each number of rows and
// columns compiles a graph of its own, so callers should keep to few.
func (e *Encoder) Encode(ctx context.Context, dst []byte, t gguf.Type, rows Rows, importance []float32) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("encode %v: %v", t, r)
		}
	}()
	row, ok := encoders[t]
	stored, known := storedAs[rows.Type]
	switch {
	case !ok:
		return fmt.Errorf("encode %v: no encoder on %s", t, e.backend.Name())
	case !known:
		return fmt.Errorf("encode %v: cannot read %v", t, rows.Type)
	case rows.Cols <= 0 || rows.Cols%row.length != 0:
		return fmt.Errorf("encode %v: rows of %d weights: want a multiple of %d", t, rows.Cols, row.length)
	case len(rows.Data)%(rows.Cols*int(rows.Type.BlockBytes())) != 0:
		return fmt.Errorf("encode %v: %d bytes are not whole rows of %d", t, len(rows.Data), rows.Cols)
	case importance != nil && len(importance) != rows.Cols:
		return fmt.Errorf("encode %v: importance of %d columns: want %d", t, len(importance), rows.Cols)
	}
	n := rows.Count()
	if size := n * rows.Cols / row.length * int(t.BlockBytes()); len(dst) != size {
		return fmt.Errorf("encode %v: destination of %d bytes: want %d", t, len(dst), size)
	}
	if n == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	exec, err := e.exec(kind{t, importance != nil})
	if err != nil {
		return fmt.Errorf("encode %v: %w", t, err)
	}
	x, err := tensors.FromRaw(e.backend, 0, shapes.Make(stored, n, rows.Cols), rows.Data)
	if err != nil {
		return fmt.Errorf("encode %v: upload: %w", t, err)
	}
	defer x.FinalizeAll()
	args := []any{x}
	if importance != nil {
		w := tensors.FromFlatDataAndDimensions(importance, rows.Cols)
		defer w.FinalizeAll()
		args = append(args, w)
	}
	out, err := exec.Call(args...)
	if err != nil {
		return fmt.Errorf("encode %v on %s: %w", t, e.backend.Name(), err)
	}
	defer func() {
		for _, o := range out {
			o.FinalizeAll()
		}
	}()
	if len(out) != 2 {
		return errors.New("encode: the graph has lost a result")
	}
	if err := tensors.ConstFlatData(out[0], func(flat []uint8) { copy(dst, flat) }); err != nil {
		return fmt.Errorf("encode %v: download: %w", t, err)
	}
	var odd []int
	if err := tensors.ConstFlatData(out[1], func(flat []uint8) {
		for i, f := range flat {
			if f != 0 {
				odd = append(odd, i)
			}
		}
	}); err != nil {
		return fmt.Errorf("encode %v: download: %w", t, err)
	}
	e.canonical(dst, t, row.length, rows, importance, odd)
	e.mu.Lock()
	e.stats.Blocks += int64(n * rows.Cols / row.length)
	e.stats.Canonical += int64(len(odd))
	e.mu.Unlock()
	return nil
}

// exec returns the executor of a kind of graph.
func (e *Encoder) exec(k kind) (*graph.Exec, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if exec, ok := e.execs[k]; ok {
		return exec, nil
	}
	row := encoders[k.typ]
	build := func(nodes []*graph.Node) []*graph.Node {
		x := nodes[0]
		var importance *graph.Node
		if k.weighted {
			importance = nodes[1]
		}
		return []*graph.Node{row.build(x, importance), oddities(x, row.length)}
	}
	exec, err := graph.NewExec(e.backend, build)
	if err != nil {
		return nil, err
	}
	exec.SetMaxCache(-1)
	e.execs[k] = exec
	return exec, nil
}

// The magnitudes of a block between which the graphs are used: sums of sixth
// powers stay normal numbers there.
const (
	smallest = 0x1p-20
	largest  = 0x1p20
)

// oddities marks the blocks that a graph does not encode: with a value that is
// not finite, or too small or too large throughout.
func oddities(x *graph.Node, length int) *graph.Node {
	a := graph.ReduceMax(graph.Abs(blocks(x, length)), 0)
	// A NaN among the values fails every comparison, and need not come
	// through a maximum: it is looked for by itself.
	nan := graph.ReduceLogicalOr(graph.NotEqual(blocks(x, length), blocks(x, length)), 0)
	fine := graph.Or(graph.Equal(a, constant(a, 0)),
		graph.And(graph.GreaterOrEqual(a, constant(a, smallest)), graph.LessOrEqual(a, constant(a, largest))))
	return graph.ConvertDType(graph.Or(nan, graph.Not(fine)), dtypes.Uint8)
}

// canonical encodes the given blocks by package quantize.
func (e *Encoder) canonical(dst []byte, t gguf.Type, length int, rows Rows, importance []float32, which []int) {
	if len(which) == 0 {
		return
	}
	codec, _ := quantize.Lookup(t)
	read, _ := quantize.Lookup(rows.Type)
	per, size, width := rows.Cols/length, int(t.BlockBytes()), int(rows.Type.BlockBytes())
	x := make([]float32, rows.Cols)
	row := make([]byte, per*size)
	for i := 0; i < len(which); {
		// A weighted legacy block depends on its whole row.
		r := which[i] / per
		read.Decode(x, rows.Data[r*rows.Cols*width:][:rows.Cols*width])
		codec.Encode(row, x, rows.Cols, importance)
		for ; i < len(which) && which[i]/per == r; i++ {
			b := which[i]
			copy(dst[b*size:(b+1)*size], row[b%per*size:])
		}
	}
}
