package ops

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"golang.org/x/sync/errgroup"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/decode"
	"github.com/modelpipe/modelpipe/ops/spec"
)

// A part is rows of a tensor, as the input of that name.
type part struct {
	name   string
	weight spec.Weight
	first  int
	rows   int
}

// A group is what is on the device together: a layer, an expert, a tile of the
// head.
type group struct {
	key   groupKey
	parts []part
}

type groupKey struct {
	model         *spec.Model
	layer, expert int
	tile          int
}

func (g group) bytes() int64 {
	n := int64(0)
	for _, p := range g.parts {
		n += 4 * int64(p.rows) * int64(p.weight.Cols)
	}
	return n
}

// weights are a group's tensors on the device.
type weights struct {
	group
	buffers map[string]compute.Buffer
	loader  *loader
	kept    bool
}

// with joins weights and other inputs of a program.
func (w *weights) with(inputs map[string]compute.Buffer) map[string]compute.Buffer {
	for name, b := range w.buffers {
		inputs[name] = b
	}
	return inputs
}

// sub is the weights whose names begin with a number and a space, without it.
func (w *weights) sub(n int) *weights {
	s := &weights{group: group{key: w.key}, buffers: map[string]compute.Buffer{}}
	prefix := fmt.Sprint(n, " ")
	for _, p := range w.parts {
		if name, ok := strings.CutPrefix(p.name, prefix); ok {
			s.buffers[name] = w.buffers[p.name]
			p.name = name
			s.parts = append(s.parts, p)
		}
	}
	return s
}

// drop ends the use of weights.
func (w *weights) drop() {
	if w != nil && !w.kept {
		w.loader.recycle(w)
	}
}

// A loader brings groups of weights to a device. On a device that shares the
// host's memory, dropped tensors are written anew.
type loader struct {
	device *Device
	bound  int64 // bytes that may be held for reading ahead
	keep   bool  // hold all groups until close

	mu    sync.Mutex
	kept  map[groupKey]*weights
	spare map[[2]int][]compute.Buffer
}

func newLoader(d *Device, bound int64) *loader {
	return &loader{device: d, bound: bound, kept: map[groupKey]*weights{},
		spare: map[[2]int][]compute.Buffer{}}
}

// each calls use with the groups one after the other, and reads the next one
// meanwhile where both are within the bound.
func (l *loader) each(ctx context.Context, groups []group, use func(i int, w *weights) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var next *future
	defer func() {
		cancel()
		if next != nil {
			if w, err := next.wait(); err == nil {
				w.drop()
			}
		}
	}()
	for i, g := range groups {
		if next == nil {
			next = l.start(ctx, g)
		}
		w, err := next.wait()
		next = nil
		if err != nil {
			return err
		}
		if i+1 < len(groups) && g.bytes()+groups[i+1].bytes() <= l.bound {
			next = l.start(ctx, groups[i+1])
		}
		err = use(i, w)
		w.drop()
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// A future is a group that is being read.
type future struct {
	done chan struct{}
	w    *weights
	err  error
}

func (f *future) wait() (*weights, error) {
	<-f.done
	return f.w, f.err
}

func (l *loader) start(ctx context.Context, g group) *future {
	f := &future{done: make(chan struct{})}
	go func() {
		defer close(f.done)
		f.w, f.err = l.load(ctx, g)
	}()
	return f
}

// readAtOnce is how many values of a tensor one goroutine reads at a time.
const readAtOnce = 1 << 19

// load reads a group in parallel.
func (l *loader) load(ctx context.Context, g group) (_ *weights, err error) {
	l.mu.Lock()
	kept := l.kept[g.key]
	l.mu.Unlock()
	if kept != nil {
		return kept, nil
	}
	w := &weights{group: g, buffers: map[string]compute.Buffer{}, loader: l}
	defer func() {
		err = panicked(recover(), err)
		if err != nil {
			l.recycle(w)
		}
	}()
	parts := make([]*staged, len(g.parts))
	for i, p := range g.parts {
		if parts[i], err = l.stage(p); err != nil {
			return nil, err
		}
		if l.device.shares {
			w.buffers[p.name] = parts[i].buffer
		}
	}
	readers, ctx := errgroup.WithContext(ctx)
	readers.SetLimit(runtime.GOMAXPROCS(0))
	var mu sync.Mutex // of w.buffers
	for _, p := range parts {
		step := max(1, readAtOnce/p.weight.Cols)
		var left atomic.Int64
		left.Store(int64((p.rows + step - 1) / step))
		for first := 0; first < p.rows; first += step {
			rows := min(step, p.rows-first)
			readers.Go(func() (err error) {
				defer recovered(&err)
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := p.read(ctx, first, rows); err != nil {
					return err
				}
				// Whoever reads the last rows uploads them all.
				if left.Add(-1) > 0 || l.device.shares {
					return nil
				}
				b, err := p.upload(l.device)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				w.buffers[p.name] = b
				return nil
			})
		}
	}
	if err := readers.Wait(); err != nil {
		return nil, err
	}
	if l.keep {
		l.mu.Lock()
		w.kept, l.kept[g.key] = true, w
		l.mu.Unlock()
	}
	return w, nil
}

// staged is a part on its way: its rows as they are stored, where the device
// decodes them, else in float32, which may be the device's own memory.
type staged struct {
	part
	stored []byte
	values []float32
	buffer compute.Buffer // that values lie in, on a device that shares memory
}

func (l *loader) stage(p part) (*staged, error) {
	s := &staged{part: p}
	if l.device.shares {
		b, err := l.take(p.rows, p.weight.Cols)
		if err != nil {
			return nil, err
		}
		flat, err := b.Data()
		if err != nil {
			free(b)
			return nil, err
		}
		s.buffer, s.values = b, flat.([]float32)
		return s, nil
	}
	if from := p.weight.Stored; l.device.decodes && from != nil && from.Type != gguf.F32 && decode.Can(from.Type) {
		row, err := from.Type.RowBytes(int64(p.weight.Cols))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		s.stored = make([]byte, int64(p.rows)*row)
		return s, nil
	}
	s.values = make([]float32, p.rows*p.weight.Cols)
	return s, nil
}

// read reads rows of the part from row first on.
func (s *staged) read(ctx context.Context, first, rows int) error {
	if s.stored != nil {
		row := len(s.stored) / s.rows
		return s.weight.Stored.Read(ctx, s.stored[first*row:(first+rows)*row], s.first+first)
	}
	cols := s.weight.Cols
	return s.weight.Read(ctx, s.values[first*cols:(first+rows)*cols], s.first+first)
}

// upload brings the whole part to a device that has memory of its own.
func (s *staged) upload(d *Device) (b compute.Buffer, err error) {
	if s.stored != nil {
		b, err = d.decoded(s.weight.Stored.Type, s.stored, s.rows, s.weight.Cols)
	} else {
		b, err = d.upload(s.values, s.rows, s.weight.Cols)
	}
	s.stored, s.values = nil, nil
	return b, err
}

// take returns a tensor in memory that the device shares.
func (l *loader) take(rows, cols int) (compute.Buffer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	shape := [2]int{rows, cols}
	if s := l.spare[shape]; len(s) > 0 {
		l.spare[shape] = s[:len(s)-1]
		return s[len(s)-1], nil
	}
	b, _, err := l.device.backend.NewSharedBuffer(0, shapes.Make(dtypes.Float32, rows, cols))
	return b, err
}

// recycle keeps the memory of weights for the next ones, or gives it back.
func (l *loader) recycle(w *weights) {
	for _, p := range w.parts {
		b := w.buffers[p.name]
		switch {
		case b == nil:
		case l.device.shares:
			shape := [2]int{p.rows, p.weight.Cols}
			l.mu.Lock()
			l.spare[shape] = append(l.spare[shape], b)
			l.mu.Unlock()
		default:
			free(b)
		}
	}
	w.buffers = nil
}

// trim gives back the memory that no weights use.
func (l *loader) trim() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.spare {
		free(s...)
	}
	clear(l.spare)
}

// close gives everything back.
func (l *loader) close() {
	for _, w := range l.kept {
		w.kept = false
		w.drop()
	}
	clear(l.kept)
	l.trim()
}
