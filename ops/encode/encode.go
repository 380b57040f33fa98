// Package encode writes ggml's blocks on an accelerator: the encoders as
// graphs over weights that are uploaded as they are stored. The codecs of
// package quantize are canonical; a graph computes the same formulas in the
// same order, but what compiles it may still choose otherwise between two
// scales that fit equally well, so that a small share of the blocks differs.
//
//	e := encode.New(backend)
//	err := e.Encode(dst, gguf.Q4_K, gguf.BF16, raw, cols, importance)
package encode

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/decode"
	"github.com/modelpipe/modelpipe/quantize"
)

// Types returns the types that can be encoded, in the order of their ids.
func Types() []gguf.Type { return slices.Sorted(maps.Keys(encoders)) }

// rows are whole rows of weights as a source stores them, cols to a row.
type rows struct {
	typ  gguf.Type
	data []byte
	cols int
}

// bytes is the size of n weights that are whole blocks of the source.
func (r rows) bytes(n int) int { return n / int(r.typ.BlockElements()) * int(r.typ.BlockBytes()) }

// Stats counts what an Encoder has done.
type Stats struct {
	Blocks int64
	// Canonical blocks were encoded by package quantize: those with a value
	// that is not finite, or of a range in which a graph's arithmetic would
	// under- or overflow.
	Canonical int64

	// What batches took, added up. They overlap, so that the sum is more than
	// the time that passed where there were several calls at once. Compute
	// holds the compiling of each graph too.
	Upload, Compute, Download time.Duration
}

// The sizes of graphs, in weights. Each compiles by itself, so there are two:
// what does not fill a small one is filled up with zeros.
const (
	smallBatch = 1 << 20
	largeBatch = 1 << 24

	// inFlight bounds the batches that are on the device at once: one is
	// uploaded and one downloaded while another is encoded.
	inFlight = 4
)

// Encoder encodes on one backend. It is safe for concurrent use: the upload of
// one call overlaps with the work of others.
type Encoder struct {
	backend compute.Backend
	device  chan struct{} // one token per batch in flight

	mu    sync.Mutex
	execs map[kind]*Exec
	stats Stats
}

// kind is what a graph is built for; its shapes are the executor's matter.
type kind struct {
	typ      gguf.Type
	stored   gguf.Type
	weighted bool
}

// New returns an encoder on a backend.
func New(backend compute.Backend) *Encoder {
	return &Encoder{backend: backend, device: make(chan struct{}, inFlight), execs: map[kind]*Exec{}}
}

// Can reports whether rows stored as one type can be encoded as another.
func (e *Encoder) Can(t, stored gguf.Type) bool {
	_, ok := encoders[t]
	return ok && decode.Can(stored)
}

// Batch is the number of weights that a call should bring for the device to
// be well used.
func (e *Encoder) Batch() int64 { return largeBatch }

// Calls is the number of calls under way that keep the device busy.
func (e *Encoder) Calls() int { return inFlight }

// Stats returns the counts so far.
func (e *Encoder) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stats
}

// numbers gives the graph's type of what a source stores number by number; all
// else is uploaded as bytes, and decoded on the device.
var numbers = map[gguf.Type]dtypes.DType{gguf.F32: dtypes.Float32, gguf.F16: dtypes.Float16, gguf.BF16: dtypes.BFloat16}

// Encode writes the blocks of whole rows of cols weights to dst, which has
// exactly their size. The rows are stored as any type that can be decoded.
// importance holds one weight per column, or is nil; a type without a use for
// it ignores it, as the canonical one does.
func (e *Encoder) Encode(dst []byte, t, stored gguf.Type, data []byte, cols int, importance []float32) error {
	row, ok := encoders[t]
	rows := rows{stored, data, cols}
	switch {
	case !ok || !e.Can(t, stored):
		return fmt.Errorf("encode %v from %v: %s has no graph for it", t, stored, e.backend.Name())
	case cols <= 0 || cols%row.length != 0:
		return fmt.Errorf("encode %v: rows of %d weights: want a multiple of %d", t, rows.cols, row.length)
	case cols%int(stored.BlockElements()) != 0:
		return fmt.Errorf("encode %v: rows of %d weights: want a multiple of %d for %v", t, cols, stored.BlockElements(), stored)
	case len(rows.data)%rows.bytes(cols) != 0:
		return fmt.Errorf("encode %v: %d bytes are not whole rows of %d", t, len(rows.data), rows.cols)
	case importance != nil && len(importance) != rows.cols:
		return fmt.Errorf("encode %v: importance of %d columns: want %d", t, len(importance), rows.cols)
	}
	blocks, size := len(rows.data)/rows.bytes(cols)*cols/row.length, int(t.BlockBytes())
	if len(dst) != blocks*size {
		return fmt.Errorf("encode %v: destination of %d bytes: want %d", t, len(dst), blocks*size)
	}
	if !row.weighted {
		importance = nil
	}
	var odd []int
	for first := 0; first < blocks; {
		batch := largeBatch / row.length
		if blocks-first <= batch/2 {
			batch = smallBatch / row.length
		}
		n := min(batch, blocks-first)
		found, err := e.batch(dst[first*size:(first+n)*size], t, row, rows, importance, first, n, batch)
		if err != nil {
			return fmt.Errorf("encode %v on %s: %w", t, e.backend.Name(), err)
		}
		for _, b := range found {
			odd = append(odd, first+b)
		}
		first += n
	}
	canonical(dst, t, row.length, rows, importance, odd)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stats.Blocks += int64(blocks)
	e.stats.Canonical += int64(len(odd))
	return nil
}

// batch encodes n blocks from number first on, in a graph for size blocks, and
// returns those of them that it could not.
func (e *Encoder) batch(dst []byte, t gguf.Type, row encoder, rows rows, importance []float32, first, n, size int) (odd []int, err error) {
	e.device <- struct{}{}
	defer func() {
		<-e.device
		// The library reports some failures by panicking.
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	exec, err := e.exec(kind{t, rows.typ, importance != nil})
	if err != nil {
		return nil, err
	}
	start := time.Now()
	data := rows.data[rows.bytes(first*row.length):rows.bytes((first+n)*row.length)]
	whole := rows.bytes(size * row.length)
	if n < size {
		data = append(make([]byte, 0, whole), data...)[:whole]
	}
	shape := shapes.Make(numbers[rows.typ], size, row.length)
	if numbers[rows.typ] == dtypes.InvalidDType {
		shape = shapes.Make(dtypes.Uint8, whole/int(rows.typ.BlockBytes()), int(rows.typ.BlockBytes()))
	}
	x, err := tensors.FromRaw(e.backend, 0, shape, data)
	if err != nil {
		return nil, fmt.Errorf("upload: %w", err)
	}
	defer x.FinalizeAll()
	args := []any{x}
	if importance != nil {
		weights, beyond := weightArguments(row, rows, importance, first, n, size)
		odd = beyond
		for _, a := range weights {
			defer a.FinalizeAll()
			args = append(args, a)
		}
	}
	uploaded := time.Now()
	out, err := exec.Call(args...)
	if err != nil {
		return nil, err
	}
	computed := time.Now()
	for _, o := range out {
		defer o.FinalizeAll()
	}
	if err := tensors.ConstFlatData(out[0], func(flat []uint8) { copy(dst, flat) }); err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	if err := tensors.ConstFlatData(out[1], func(flat []uint8) {
		for i, f := range flat[:n] {
			if f != 0 {
				odd = append(odd, i)
			}
		}
	}); err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stats.Upload += uploaded.Sub(start)
	e.stats.Compute += computed.Sub(uploaded)
	e.stats.Download += time.Since(computed)
	slices.Sort(odd)
	return slices.Compact(odd), nil
}

// weightArguments makes the further arguments of a weighted graph: the
// importance of a row in blocks, which of them belongs to each block, and
// where the type wants it the mean square of each block's row. beyond are the
// blocks for which that is not finite, which no graph encodes.
func weightArguments(row encoder, rows rows, importance []float32, first, n, size int) (args []*tensors.Tensor, beyond []int) {
	per := rows.cols / row.length
	padded := 1
	for padded < per { // few shapes, so that few graphs are compiled
		padded *= 2
	}
	table := append(make([]float32, 0, padded*row.length), importance...)[:padded*row.length]
	which := make([]int32, size)
	for i := range which {
		which[i] = int32((first + i) % per)
	}
	args = []*tensors.Tensor{
		tensors.FromFlatDataAndDimensions(table, padded, row.length),
		tensors.FromFlatDataAndDimensions(which, size, 1),
	}
	if row.rowEnergy {
		energy := make([]float32, size)
		last := -1
		for i := range n {
			if r := (first + i) / per; r != last {
				last, energy[i] = r, meanSquare(rows, r)
			} else {
				energy[i] = energy[i-1]
			}
			if !(energy[i] <= math.MaxFloat32) {
				beyond = append(beyond, i)
			}
		}
		args = append(args, tensors.FromFlatDataAndDimensions(energy, size))
	}
	return args, beyond
}

// meanSquare is that of a row, summed in index order.
func meanSquare(rows rows, r int) float32 {
	x := rows.row(r)
	var sum float32
	for _, v := range x {
		sum += float32(v * v)
	}
	return sum / float32(len(x))
}

// row decodes one row.
func (r rows) row(i int) []float32 {
	codec, _ := quantize.Lookup(r.typ)
	size := r.bytes(r.cols)
	x := make([]float32, r.cols)
	codec.Decode(x, r.data[i*size:(i+1)*size])
	return x
}

// exec returns the executor of a kind of graph.
func (e *Encoder) exec(k kind) (*Exec, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if exec, ok := e.execs[k]; ok {
		return exec, nil
	}
	row := encoders[k.typ]
	exec, err := NewExec(e.backend, func(nodes []*Node) []*Node {
		x := nodes[0]
		if x.DType() == dtypes.Uint8 {
			x = decode.Weights(k.stored, x, int(k.stored.BlockElements()))
			x = Reshape(x, x.Shape().Size()/row.length, row.length)
		}
		x = floats(tail(x))
		var importance, energy *Node
		if k.weighted {
			importance = tail(Gather(nodes[1], nodes[2]))
			if row.rowEnergy {
				energy = nodes[3]
			}
		}
		return []*Node{row.build(x, importance, energy), oddities(x)}
	})
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

// oddities marks the blocks of x that a graph does not encode: those with a
// value that is not finite, or too small or too large throughout.
func oddities(x *Node) *Node {
	a := ReduceMax(Abs(x), 0)
	fine := Or(Equal(a, constant(a, 0)), And(GreaterOrEqual(a, constant(a, smallest)), LessOrEqual(a, constant(a, largest))))
	// A NaN need not come through a maximum.
	nan := ReduceMax(ConvertDType(NotEqual(x, x), dtypes.Uint8), 0)
	return BitwiseOr(nan, ConvertDType(Not(fine), dtypes.Uint8))
}

// canonical encodes the given blocks by package quantize.
func canonical(dst []byte, t gguf.Type, length int, rows rows, importance []float32, which []int) {
	codec, _ := quantize.Lookup(t)
	per, size := rows.cols/length, int(t.BlockBytes())
	encoded := make([]byte, per*size)
	for i := 0; i < len(which); {
		// A weighted block can depend on its whole row.
		r := which[i] / per
		codec.Encode(encoded, rows.row(r), rows.cols, importance)
		for ; i < len(which) && which[i]/per == r; i++ {
			b := which[i]
			copy(dst[b*size:(b+1)*size], encoded[b%per*size:])
		}
	}
}
