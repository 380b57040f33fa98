package ops

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // a graph reads as a formula

	"github.com/modelpipe/modelpipe/ops/spec"
)

// Information is the diagonal of the Fisher information of some rows of a
// matrix, per prediction. Where a matrix W is replaced by W+D, the mean
// Kullback-Leibler divergence of the predictions is to second order
//
//	KLD = 1/2 * sum over i, j of F[i][j] * D[i][j]^2
//
// plus what the products of different elements of D contribute, which is
// nothing on average where these are independent, as rounding errors nearly
// are. See Amari, Natural Gradient Works Efficiently in Learning (1998), for
// the metric, and Martens, New Insights and Perspectives on the Natural
// Gradient Method (2020), section 9, for the estimate.
type Information struct {
	Slot spec.Slot
	Rows []int     // their numbers in the matrix
	F    []float32 // [len(Rows), columns]
}

// ErrNoInformation says that Fisher does not estimate the information of such a
// model, whatever the text.
var ErrNoInformation = errors.New("the information of its weights is not estimated")

// Fisher estimates the information of a model's matrices: for one token drawn
// from the model's own prediction at each position that counts in Compare, it
// takes the gradient of the log-likelihood of a chunk at every matrix, and adds
// up the squares. use is called with the head's rows, then with the layers
// from the last to the first, then with the rows of the embedding that occur;
// a matrix that is both head and embedding comes as both. Of experts it is
// called with those that a token chose; that a change makes tokens choose others
// is left out. Seed fixes the draws.
func Fisher(ctx context.Context, d *Device, m *spec.Model, chunks [][]int32, seed uint64, use func(Information) error, o Options) (err error) {
	defer recovered(&err)
	if m.Head == nil {
		return fmt.Errorf("%s has no head that predicts tokens: %w", m.Family, ErrNoInformation)
	}
	if m.Embedding.Norm != nil {
		return fmt.Errorf("%s: the embedding is normed: %w", m.Family, ErrNoInformation)
	}
	if len(chunks) == 0 || len(chunks[0]) < 4 {
		return errors.New("no text: want chunks of at least 4 tokens")
	}
	for i, c := range chunks {
		if len(c) != len(chunks[0]) {
			return fmt.Errorf("chunk %d has %d tokens, the first has %d", i, len(c), len(chunks[0]))
		}
	}
	e := newEvaluation(d, o)
	defer e.close()
	s, err := e.open(ctx, m, m.Family, chunks, e.batches(chunks, 1))
	if err != nil {
		return err
	}
	defer s.close()
	f := &fisher{e: e, s: s, use: use, seed: seed}
	return f.run(ctx)
}

// fisher is one run of Fisher.
type fisher struct {
	e    *evaluation
	s    *stream
	use  func(Information) error
	seed uint64
	n    int // predictions
}

func (f *fisher) run(ctx context.Context) error {
	m := f.s.model
	// Forward, keeping what goes into each layer.
	inputs := make([][][]float32, len(m.Blocks)+1) // by layer and batch
	keep := func(layer int) error {
		for _, x := range f.s.x {
			values, err := download(x)
			if err != nil {
				return err
			}
			inputs[layer] = append(inputs[layer], values)
		}
		return nil
	}
	if err := keep(0); err != nil {
		return err
	}
	if err := f.e.layers(ctx, []*stream{f.s}, 0, len(m.Blocks), func(layer int) error {
		if err := f.e.finite(ctx, layer, f.s); err != nil {
			return err
		}
		return keep(layer + 1)
	}); err != nil {
		return err
	}
	grads, err := f.headBackward(ctx, inputs[len(m.Blocks)])
	if err != nil {
		return err
	}
	var groups []group
	for layer := len(m.Blocks) - 1; layer >= 0; layer-- {
		groups = append(groups, f.s.group(layer, spec.None))
	}
	if err := f.e.loader.each(ctx, groups, func(i int, w *weights) error {
		layer := len(m.Blocks) - 1 - i
		step := f.blockBackward
		if f.s.model.Blocks[layer].FFN.MoE != nil {
			step = f.expertsBackward
		}
		if err := step(ctx, layer, w, inputs[layer], grads); err != nil {
			return fmt.Errorf("%s: layer %d: %w", f.s.name, layer, err)
		}
		inputs[layer+1] = nil
		f.e.report("information", i+1, len(groups))
		return nil
	}); err != nil {
		return err
	}
	return f.embedding(grads)
}

// headBackward drawn the targets and returns the gradient of their
// log-likelihood at the residual stream before the last norm, by batch.
func (f *fisher) headBackward(ctx context.Context, before [][]float32) ([][]float32, error) {
	m := f.s.model
	length := len(f.s.seqs[0])
	first, count := length/2, length-1-length/2
	var hidden []float32
	if err := f.e.final(ctx, f.s, func(i int, x []float32) error {
		for k := range f.s.batches[i].count {
			hidden = append(hidden, x[(k*length+first)*m.Width:][:count*m.Width]...)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	f.n = len(hidden) / m.Width
	sums := make([]softmaxSum, f.n)
	drawn := make([]sample, f.n)
	if err := f.e.allLogits(ctx, f.s, hidden, func(row, at int, l []float32) {
		top := slices.Max(l)
		sum := 0.0
		for _, v := range l {
			sum += math.Exp(float64(v - top))
		}
		sums[row].add(float64(top), sum, 0)
		drawn[row].add(f.seed, row, at, l)
	}); err != nil {
		return nil, err
	}

	h, err := f.e.headInput(f.s, hidden)
	if err != nil {
		return nil, err
	}
	defer h.close()
	gradient := make([]float32, len(hidden))
	tiles := f.e.tiles(m, h.batch)
	var groups []group
	for n, t := range tiles {
		groups = append(groups, f.s.tile(n, t))
	}
	if err := f.e.loader.each(ctx, groups, func(n int, w *weights) error {
		at, cols := tiles[n][0], tiles[n][1]-tiles[n][0]
		info := Information{Slot: spec.Global(spec.Output), Rows: numbers(at, cols), F: make([]float32, cols*m.Width)}
		var mu sync.Mutex
		if err := f.e.parallel(ctx, len(h.x), func(i int) error {
			from := i * h.batch
			logs, targets := make([]float32, h.batch), make([]int32, h.batch)
			for r := range h.batch {
				// Rows of padding have no mass and no target.
				logs[r], targets[r] = math.MaxFloat32, -1
				if from+r < f.n {
					logs[r], targets[r] = float32(sums[from+r].log()), int32(drawn[from+r].id-at)
				}
			}
			dx, info2, err := f.headTile(h, i, w, logs, targets)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			rows := min(h.batch, f.n-from)
			for k, v := range dx[:rows*m.Width] {
				gradient[from*m.Width+k] += v
			}
			for k, v := range info2 {
				info.F[k] += v / float32(f.n)
			}
			return nil
		}); err != nil {
			return err
		}
		f.e.report("head", n+1, len(tiles))
		return f.use(info)
	}); err != nil {
		return nil, err
	}

	// Back to whole sequences, and through the last norm.
	grads := make([][]float32, len(f.s.batches))
	err = f.e.loader.each(ctx, []group{f.s.norms()}, func(_ int, w *weights) error {
		for i, b := range f.s.batches {
			full := make([]float32, b.rows()*m.Width)
			for k := range b.count {
				copy(full[(k*length+first)*m.Width:][:count*m.Width], gradient[(b.first+k)*count*m.Width:])
			}
			grads[i] = full
			if m.FinalNorm == nil {
				continue
			}
			var err error
			if grads[i], err = f.normBackward(b, w, before[i], full); err != nil {
				return err
			}
		}
		return nil
	})
	return grads, err
}

// headTile gives, for a batch of hidden states and a tile of the vocabulary,
// the gradient at the hidden states and the sums of squares for the tile's
// rows.
func (f *fisher) headTile(h *headInput, i int, w *weights, logs []float32, targets []int32) (dx, squares []float32, err error) {
	head := *f.s.model.Head
	form := form{Width: f.s.model.Width, Roles: rolesOf(w.parts)}
	p, err := f.e.device.program(fmt.Sprintf("headBackward %+v %d %d %v", head, h.batch, form.Width, form.Roles), func(b *builder) []*Node {
		g := &blockGraph{form: form, builder: b}
		x := b.input("x", h.batch, form.Width)
		y := g.mul(spec.Output, x)
		if head.Scale != 1 {
			y = MulScalar(y, head.Scale)
		}
		y = softCapped(y, head.SoftCap)
		log := b.input("log", h.batch, 1)
		target := b.integers("target", h.batch, 1)
		hit := ConvertDType(Equal(Iota(b.graph, y.Shape(), 1), ConvertDType(target, dtypes.Float32)), dtypes.Float32)
		// The gradient of -ln p(target) at the logits is p - [target].
		dy := StopGradient(Sub(Exp(Sub(y, log)), hit))
		u := g.used[0]
		grads := Gradient(ReduceAllSum(Mul(dy, y)), x, u.y)
		return []*Node{grads[0], squaredOuter(grads[1], x)}
	})
	if err != nil {
		return nil, nil, err
	}
	own, err := f.uploads(map[string]any{"log": logs, "target": targets}, h.batch, 1)
	if err != nil {
		return nil, nil, err
	}
	defer freeAll(own)
	all := maps.Clone(own)
	all["x"] = h.x[i]
	out, err := p.run(w.with(all))
	if err != nil {
		return nil, nil, err
	}
	defer free(out...)
	if dx, err = download(out[0]); err != nil {
		return nil, nil, err
	}
	squares, err = download(out[1])
	return dx, squares, err
}

// squaredOuter is the sum over rows t of (g[t][i]*x[t][j])^2.
func squaredOuter(g, x *Node) *Node {
	return DotGeneral(Square(g), []int{0}, nil, Square(x), []int{0}, nil)
}

func (f *fisher) normBackward(b batch, w *weights, x, dy []float32) ([]float32, error) {
	n, rows := f.s.model.FinalNorm, b.rows()
	form := form{Width: f.s.model.Width, Roles: rolesOf(w.parts)}
	p, err := f.e.device.program(fmt.Sprintf("normBackward %+v %d %d %v", *n, rows, form.Width, form.Roles), func(b *builder) []*Node {
		g := &blockGraph{form: form, builder: b}
		x := b.input("x", rows, form.Width)
		y := g.norm(n, spec.FinalNorm, x)
		return Gradient(ReduceAllSum(Mul(b.input("dy", rows, form.Width), y)), x)
	})
	if err != nil {
		return nil, err
	}
	own, err := f.uploads(map[string]any{"x": x, "dy": dy}, rows, form.Width)
	if err != nil {
		return nil, err
	}
	defer freeAll(own)
	all := maps.Clone(own)
	out, err := p.run(w.with(all))
	if err != nil {
		return nil, err
	}
	defer free(out...)
	return download(out[0])
}

// blockBackward turns the gradients after a layer into those before it, and
// gives out the information of its matrices.
func (f *fisher) blockBackward(ctx context.Context, layer int, w *weights, inputs, grads [][]float32) error {
	var sums roleSums
	if err := f.e.parallel(ctx, len(f.s.batches), func(i int) error {
		b := f.s.batches[i]
		p, err := f.e.blockProgram(f.s, layer, b, w, "blockBackward", (*blockGraph).backward)
		if err != nil {
			return err
		}
		own, err := f.uploads(map[string]any{"x": inputs[i], "dy": grads[i]}, b.rows(), f.s.model.Width)
		if err != nil {
			return err
		}
		defer freeAll(own)
		all := maps.Clone(own)
		if err := f.e.addTables(all, f.s.model.Blocks[layer].Attention, b); err != nil {
			return err
		}
		out, err := p.run(w.with(all))
		if err != nil {
			return err
		}
		defer free(out...)
		dx, err := download(out[0])
		if err != nil {
			return err
		}
		grads[i] = dx
		return sums.add(p.roles, out[1:])
	}); err != nil {
		return err
	}
	return f.give(layer, spec.None, &sums)
}

// roleSums adds up the sums of squares of a layer's matrices.
type roleSums struct {
	mu   sync.Mutex
	sums map[spec.Role][]float32
}

// add takes the squares of roles from the device.
func (s *roleSums) add(roles []spec.Role, squares []compute.Buffer) error {
	for k, r := range roles {
		values, err := download(squares[k])
		if err != nil {
			return err
		}
		s.mu.Lock()
		if s.sums == nil {
			s.sums = map[spec.Role][]float32{}
		}
		if sum := s.sums[r]; sum == nil {
			s.sums[r] = values
		} else {
			for j, v := range values {
				sum[j] += v
			}
		}
		s.mu.Unlock()
	}
	return nil
}

// give gives out the information of a layer's matrices.
func (f *fisher) give(layer, expert int, s *roleSums) error {
	for _, r := range slices.Sorted(maps.Keys(s.sums)) {
		sum := s.sums[r]
		for j := range sum {
			sum[j] /= float32(f.n)
		}
		slot := spec.Slot{Layer: layer, Role: r, Expert: expert}
		if err := f.use(Information{slot, numbers(0, f.s.model.Weights[slot].Rows), sum}); err != nil {
			return err
		}
	}
	return nil
}

// squaredGradient is the sum over sequences of the square of the gradient of a
// matrix. The tokens of a sequence are not taken apart as the head's are: each
// prediction reaches a matrix through many of them.
func (g *blockGraph) squaredGradient(dy, x *Node) *Node {
	dy, x = Reshape(dy, g.Sequences, g.Length, -1), Reshape(x, g.Sequences, g.Length, -1)
	return ReduceSum(Square(DotGeneral(dy, []int{1}, []int{0}, x, []int{1}, []int{0})), 0)
}

// derivatives are the gradients of y at nodes, and after them the sums of
// squares of the matrices that were multiplied by.
func (g *blockGraph) derivatives(y *Node, at ...*Node) []*Node {
	n := len(at)
	for _, u := range g.used {
		at = append(at, u.y)
	}
	grads := Gradient(y, at...)
	outputs := slices.Clone(grads[:n])
	for i, u := range g.used {
		g.roles = append(g.roles, u.role)
		outputs = append(outputs, g.squaredGradient(grads[n+i], u.x))
	}
	return outputs
}

// backward builds a block and its derivative: the gradient at its input, given
// the one at its output, and the sums of squares of its matrices.
func (g *blockGraph) backward() []*Node {
	out := g.whole()[0]
	dy := g.input("dy", g.Sequences*g.Length, g.Width)
	return g.derivatives(ReduceAllSum(Mul(dy, out)), g.in)
}

// embedding gives out the information of the embedding's rows that occur.
func (f *fisher) embedding(grads [][]float32) error {
	m := f.s.model
	rows := map[int]int{}
	info := Information{Slot: spec.Global(spec.TokenEmbd)}
	scale := m.Embedding.Scale * m.Embedding.Scale / float32(f.n)
	sum := map[int][]float32{} // of a sequence, by token
	for i, b := range f.s.batches {
		for k := range b.count {
			clear(sum)
			for t, id := range f.s.seqs[b.first+k] {
				g := grads[i][(k*b.length+t)*m.Width:][:m.Width]
				if all := sum[int(id)]; all == nil {
					sum[int(id)] = slices.Clone(g)
				} else {
					for j, v := range g {
						all[j] += v
					}
				}
			}
			for _, id := range slices.Sorted(maps.Keys(sum)) {
				at, ok := rows[id]
				if !ok {
					at = len(info.Rows)
					rows[id] = at
					info.Rows = append(info.Rows, id)
					info.F = append(info.F, make([]float32, m.Width)...)
				}
				for j, g := range sum[id] {
					info.F[at*m.Width+j] += g * g * scale
				}
			}
		}
	}
	return f.use(info)
}

// uploads makes buffers of one shape.
func (f *fisher) uploads(values map[string]any, dims ...int) (map[string]compute.Buffer, error) {
	out := map[string]compute.Buffer{}
	for name, v := range values {
		b, err := f.e.device.upload(v, dims...)
		if err != nil {
			freeAll(out)
			return nil, err
		}
		out[name] = b
	}
	return out, nil
}

func freeAll(buffers map[string]compute.Buffer) {
	for _, b := range buffers {
		free(b)
	}
}

// numbers are n numbers from first on.
func numbers(first, n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = first + i
	}
	return all
}

// sample is a token drawn from a distribution as its logits come: the one with
// the largest logit plus Gumbel noise.
type sample struct {
	id   int
	best float64
	any  bool
}

// noise bounds Gumbel noise: more than 30 has a chance of 1e-13.
const noise = 30

// add takes the logits of the tokens from first on.
func (d *sample) add(seed uint64, row, first int, logits []float32) {
	for i, l := range logits {
		if d.any && float64(l)+noise < d.best {
			continue
		}
		u := uniform(seed, uint64(row), uint64(first+i))
		if v := float64(l) - math.Log(-math.Log(u)); !d.any || v > d.best {
			*d = sample{first + i, v, true}
		}
	}
}

// uniform is a number between 0 and 1 that depends on its arguments alone
// (splitmix64's finalizer; Steele, Lea, Flood 2014).
func uniform(seed, row, col uint64) float64 {
	z := seed ^ row*0x9e3779b97f4a7c15 ^ (col+1)*0xd1b54a32d192ed03
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	return (float64(z>>11) + 0.5) / (1 << 53)
}
