package ops

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/gomlx/compute"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // a graph reads as a formula
	"golang.org/x/sync/errgroup"

	"github.com/modelpipe/modelpipe/ops/spec"
)

const defaultWeights = 8 << 30

// An evaluation is one run of models on a device.
type evaluation struct {
	device   *Device
	options  Options
	loader   *loader
	mu       sync.Mutex
	tables   map[string]compute.Buffer // masks and angles, by what they depend on
	progress sync.Mutex
}

func newEvaluation(d *Device, o Options) *evaluation {
	if o.Weights <= 0 {
		o.Weights = defaultWeights
	}
	return &evaluation{device: d, options: o, loader: newLoader(d, o.Weights), tables: map[string]compute.Buffer{}}
}

func (e *evaluation) close() {
	e.loader.close()
	for _, b := range e.tables {
		free(b)
	}
}

func (e *evaluation) report(stage string, done, total int) {
	if e.options.Progress != nil {
		e.progress.Lock()
		defer e.progress.Unlock()
		e.options.Progress(Progress{stage, done, total})
	}
}

// parallel calls f with 0 to n-1, several at a time where the device computes
// graphs side by side.
func (e *evaluation) parallel(ctx context.Context, n int, f func(i int) error) error {
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.SetLimit(e.device.concurrent)
	for i := range n {
		tasks.Go(func() (err error) {
			defer recovered(&err)
			if err := ctx.Err(); err != nil {
				return err
			}
			return f(i)
		})
	}
	return tasks.Wait()
}

// A batch is sequences that pass a block together.
type batch struct {
	first, count int // of the sequences
	real         int // tokens of each; with less, a causal one has padding
	length       int // with padding
}

func (b batch) rows() int { return b.count * b.length }

// batches groups neighbouring sequences of equal length. With a bucket above 1
// lengths are padded to its multiple.
func (e *evaluation) batches(seqs [][]int32, bucket int) []batch {
	atOnce := e.options.Batch
	if atOnce <= 0 {
		atOnce = e.device.batch
	}
	var all []batch
	for i := 0; i < len(seqs); {
		n := len(seqs[i])
		same := i + 1
		for same < len(seqs) && len(seqs[same]) == n {
			same++
		}
		length := (n + bucket - 1) / bucket * bucket
		most := max(1, atOnce/max(1, length))
		// As equal as they can be: each size needs a graph of its own.
		pieces := (same - i + most - 1) / most
		each := (same - i + pieces - 1) / pieces
		for ; i < same; i += each {
			all = append(all, batch{i, min(each, same-i), n, length})
		}
		i = same
	}
	return all
}

// A stream is a model's residual stream on the device.
type stream struct {
	model   *spec.Model
	name    string // for messages
	seqs    [][]int32
	batches []batch
	x       []compute.Buffer // [rows, Width] per batch
	slots   map[[2]int][]spec.Slot
	tap     func(slot spec.Slot, sums []float32, count int) // nil: no taps
}

// open checks a model and embeds the sequences.
func (e *evaluation) open(ctx context.Context, m *spec.Model, name string, seqs [][]int32, batches []batch) (*stream, error) {
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for i, s := range seqs {
		if len(s) == 0 {
			return nil, fmt.Errorf("sequence %d has no tokens", i)
		}
		for pos, id := range s {
			if id < 0 || int(id) >= m.Vocab {
				return nil, fmt.Errorf("%s: token %d at position %d of sequence %d: the vocabulary has %d", name, id, pos, i, m.Vocab)
			}
		}
		if w, ok := m.Weights[spec.Global(spec.PositionEmbd)]; ok && len(s) > w.Rows {
			return nil, fmt.Errorf("%s: a sequence of %d tokens: %v has %d rows", name, len(s), spec.PositionEmbd, w.Rows)
		}
	}
	s := &stream{model: m, name: name, seqs: seqs, batches: batches, x: make([]compute.Buffer, len(batches)), slots: map[[2]int][]spec.Slot{}}
	for slot := range m.Weights {
		at := [2]int{slot.Layer, slot.Expert}
		s.slots[at] = append(s.slots[at], slot)
	}
	for _, slots := range s.slots {
		slices.SortFunc(slots, func(a, b spec.Slot) int { return cmp.Compare(a.Role, b.Role) })
	}
	if err := e.embed(ctx, s); err != nil {
		s.close()
		return nil, fmt.Errorf("%s: embedding: %w", name, err)
	}
	return s, nil
}

func (s *stream) close() {
	free(s.x...)
	clear(s.x)
}

// group is the weights of a layer without its experts, or of one expert.
func (s *stream) group(layer, expert int) group {
	g := group{key: groupKey{model: s.model, layer: layer, expert: expert}}
	for _, slot := range s.slots[[2]int{layer, expert}] {
		w := s.model.Weights[slot]
		g.parts = append(g.parts, part{string(slot.Role), w, 0, w.Rows})
	}
	return g
}

// norms is the weights of the norms outside of layers.
func (s *stream) norms() group {
	g := group{key: groupKey{model: s.model, layer: spec.None, expert: spec.None, tile: -1}}
	for _, r := range []spec.Role{spec.EmbdNorm, spec.FinalNorm} {
		for _, r := range []spec.Role{r, r.Bias()} {
			if w, ok := s.model.Weights[spec.Global(r)]; ok {
				g.parts = append(g.parts, part{string(r), w, 0, w.Rows})
			}
		}
	}
	return g
}

// embed reads the rows of the sequences' tokens.
func (e *evaluation) embed(ctx context.Context, s *stream) error {
	m := s.model
	width := m.Width
	readRow := func(r spec.Role, row int) ([]float32, error) {
		values := make([]float32, width)
		return values, m.Weights[spec.Global(r)].Read(ctx, values, row)
	}
	var ids []int32
	for _, seq := range s.seqs {
		ids = append(ids, seq...)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	rows := make([][]float32, len(ids))
	readers, readCtx := errgroup.WithContext(ctx)
	readers.SetLimit(max(e.device.concurrent, 4))
	const atOnce = 64
	for i := 0; i < len(ids); i += atOnce {
		readers.Go(func() (err error) {
			for k := i; k < min(i+atOnce, len(ids)); k++ {
				if err := readCtx.Err(); err != nil {
					return err
				}
				if rows[k], err = readRow(spec.TokenEmbd, int(ids[k])); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := readers.Wait(); err != nil {
		return err
	}
	var tokenType []float32
	if _, ok := m.Weights[spec.Global(spec.TokenTypes)]; ok {
		var err error
		if tokenType, err = readRow(spec.TokenTypes, 0); err != nil {
			return err
		}
	}
	var positions [][]float32
	if _, ok := m.Weights[spec.Global(spec.PositionEmbd)]; ok {
		for _, seq := range s.seqs {
			for len(positions) < len(seq) {
				row, err := readRow(spec.PositionEmbd, len(positions))
				if err != nil {
					return err
				}
				positions = append(positions, row)
			}
		}
	}
	for i, b := range s.batches {
		x := make([]float32, b.rows()*width)
		for n := range b.count {
			for t, id := range s.seqs[b.first+n] {
				k, _ := slices.BinarySearch(ids, id)
				to := x[(n*b.length+t)*width:][:width]
				for j, v := range rows[k] {
					v *= m.Embedding.Scale
					if positions != nil {
						v += positions[t][j]
					}
					if tokenType != nil {
						v += tokenType[j]
					}
					to[j] = v
				}
			}
		}
		var err error
		if s.x[i], err = e.device.upload(x, b.rows(), width); err != nil {
			return err
		}
	}
	if m.Embedding.Norm == nil {
		return nil
	}
	return e.loader.each(ctx, []group{s.norms()}, func(_ int, w *weights) error {
		for i := range s.batches {
			y, err := e.normed(s, i, w, m.Embedding.Norm, spec.EmbdNorm)
			if err != nil {
				return err
			}
			free(s.x[i])
			s.x[i] = y
		}
		return nil
	})
}

// normed is a batch of the residual stream after a norm outside of layers.
func (e *evaluation) normed(s *stream, i int, w *weights, n *spec.Norm, r spec.Role) (compute.Buffer, error) {
	rows := s.batches[i].rows()
	f := form{Width: s.model.Width, Roles: rolesOf(w.parts)}
	p, err := e.device.program(fmt.Sprintf("norm %s %+v %d %d %v", r, *n, rows, f.Width, f.Roles), func(b *builder) []*Node {
		g := &blockGraph{form: f, builder: b}
		return []*Node{g.norm(n, r, b.input("x", rows, f.Width))}
	})
	if err != nil {
		return nil, err
	}
	out, err := p.run(w.with(map[string]compute.Buffer{"x": s.x[i]}))
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// layers takes streams through layers first to end-1, layer by layer, and
// calls after with each layer that all of them have passed.
func (e *evaluation) layers(ctx context.Context, streams []*stream, first, end int, after func(layer int) error) error {
	var groups []group
	for layer := first; layer < end; layer++ {
		for _, s := range streams {
			groups = append(groups, s.group(layer, spec.None))
		}
	}
	return e.loader.each(ctx, groups, func(i int, w *weights) error {
		layer, s := first+i/len(streams), streams[i%len(streams)]
		step := e.block
		if s.model.Blocks[layer].FFN.MoE != nil {
			step = e.expertBlock
		}
		if err := step(ctx, s, layer, w); err != nil {
			return fmt.Errorf("%s: layer %d: %w", s.name, layer, err)
		}
		if i%len(streams) < len(streams)-1 {
			return nil
		}
		if err := after(layer); err != nil {
			return err
		}
		e.report("layer", layer+1, end)
		return nil
	})
}

// blockProgram is one of a block's graphs for a batch.
func (e *evaluation) blockProgram(s *stream, layer int, b batch, w *weights, kind string, build func(*blockGraph) []*Node) (*program, error) {
	f := formOf(s.model, layer, rolesOf(w.parts), b.count, b.length, e.maskShape(s.model.Blocks[layer].Attention, b), s.tap != nil)
	key, err := f.key(kind)
	if err != nil {
		return nil, err
	}
	return e.device.program(key, func(b *builder) []*Node {
		return build(&blockGraph{form: f, builder: b})
	})
}

// block takes a stream through a block without experts.
func (e *evaluation) block(ctx context.Context, s *stream, layer int, w *weights) error {
	return e.parallel(ctx, len(s.batches), func(i int) error {
		b := s.batches[i]
		p, err := e.blockProgram(s, layer, b, w, "block", (*blockGraph).whole)
		if err != nil {
			return err
		}
		inputs := map[string]compute.Buffer{"x": s.x[i]}
		if err := e.addTables(inputs, s.model.Blocks[layer].Attention, b); err != nil {
			return err
		}
		s.x[i] = nil
		out, err := p.run(w.with(inputs), "x")
		if err != nil {
			return err
		}
		s.x[i] = out[0]
		return s.give(layer, spec.None, p.roles, out[1:], b.count*b.real)
	})
}

// give passes taps on and frees them.
func (s *stream) give(layer, expert int, roles []spec.Role, taps []compute.Buffer, count int) error {
	defer free(taps...)
	for i, r := range roles {
		sums, err := download(taps[i])
		if err != nil {
			return err
		}
		s.tap(spec.Slot{Layer: layer, Role: r, Expert: expert}, sums, count)
	}
	return nil
}

// spreadMask is how many bytes of a mask are repeated for all heads on a
// device that adds tensors of one shape faster.
const spreadMask = 64 << 20

// maskShape is the shape of the mask that a batch needs, nil where none.
func (e *evaluation) maskShape(a *spec.Attention, b batch) []int {
	switch {
	case a == nil || !masked(a, b.length, b.real):
		return nil
	case e.device.shares && b.count*a.Heads*b.length*b.length*4 <= spreadMask:
		return []int{b.count, a.Heads, b.length, b.length}
	case a.ALiBi != 0:
		return []int{1, a.Heads, b.length, b.length}
	}
	return []int{1, 1, b.length, b.length}
}

// addTables adds the inputs of a block that are not weights.
func (e *evaluation) addTables(inputs map[string]compute.Buffer, a *spec.Attention, b batch) error {
	if a == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	add := func(name, key string, dims []int, values func() []float32) error {
		if e.tables[key] == nil {
			t, err := e.device.upload(values(), dims...)
			if err != nil {
				return err
			}
			e.tables[key] = t
		}
		inputs[name] = e.tables[key]
		return nil
	}
	if shape := e.maskShape(a, b); shape != nil {
		key := fmt.Sprintf("mask %v %d %t %d %d %g %d", shape, b.real, a.Causal, a.Window, a.Chunk, a.ALiBi, a.Heads)
		if err := add("mask", key, shape, func() []float32 {
			own := 1
			if a.ALiBi != 0 {
				own = a.Heads
			}
			m := mask(a, b.length, b.real, own)
			return slices.Repeat(m, shape[0]*shape[1]/own)
		}); err != nil {
			return err
		}
	}
	if r := a.Rope; r != nil {
		dims := []int{b.length, len(r.InvFreq)}
		var cos, sin []float32
		turn := func() {
			if cos == nil {
				cos, sin = angles(r, b.length, b.real)
			}
		}
		key := fmt.Sprintf("%v %d %v", dims, b.real, *r)
		if err := add("cos", "cos "+key, dims, func() []float32 { turn(); return cos }); err != nil {
			return err
		}
		if err := add("sin", "sin "+key, dims, func() []float32 { turn(); return sin }); err != nil {
			return err
		}
	}
	if a.Temperature != 0 {
		key := fmt.Sprintf("temperature %d %g %g", b.length, a.Temperature, a.TemperatureFloor)
		return add("temperature", key, []int{b.length, 1}, func() []float32 { return temperatures(a, b.length) })
	}
	return nil
}

// energy is the sum of the squares of a stream on its tokens, and of another
// stream's difference from it where there is one. A stream with values that
// are not finite is an error.
func (e *evaluation) energy(ctx context.Context, layer int, s, other *stream) (squares, difference float64, err error) {
	var mu sync.Mutex
	err = e.parallel(ctx, len(s.batches), func(i int) error {
		b := s.batches[i]
		rows, width := b.rows(), s.model.Width
		inputs := map[string]compute.Buffer{"x": s.x[i]}
		if other != nil {
			inputs["y"] = other.x[i]
		}
		p, err := e.device.program(fmt.Sprintf("energy %d %d %t", rows, width, other != nil), func(g *builder) []*Node {
			x := g.input("x", rows, width)
			sums := []*Node{ReduceSum(Square(x), -1)}
			if other != nil {
				sums = append(sums, ReduceSum(Square(Sub(g.input("y", rows, width), x)), -1))
			}
			return sums
		})
		if err != nil {
			return err
		}
		out, err := p.run(inputs)
		if err != nil {
			return err
		}
		defer free(out...)
		var sums [2]float64
		for k := range out {
			values, err := download(out[k])
			if err != nil {
				return err
			}
			for n := range b.count {
				for _, v := range values[n*b.length:][:len(s.seqs[b.first+n])] {
					sums[k] += float64(v)
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		squares, difference = squares+sums[0], difference+sums[1]
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	for _, c := range []struct {
		s   *stream
		sum float64
	}{{s, squares}, {other, difference}} {
		if c.s != nil && (math.IsNaN(c.sum) || math.IsInf(c.sum, 0)) {
			return 0, 0, fmt.Errorf("%s: the residual stream after layer %d has values that are not finite", c.s.name, layer)
		}
	}
	return squares, difference, nil
}

// finite fails where a stream has values that are not finite.
func (e *evaluation) finite(ctx context.Context, layer int, s *stream) error {
	_, _, err := e.energy(ctx, layer, s, nil)
	return err
}
