// Package ops runs the models that ops/spec describes, as graphs of gomlx on
// its Go backend or through XLA, and measures what they predict.
//
// Weights come one layer at a time: a layer's matrices are read as float32,
// all sequences pass through it, and it is dropped while the next one is being
// read. So a model is judged on a machine that holds two layers and the
// activations. Graphs have their weights as parameters: one is compiled for
// each distinct form of block, and serves all layers of that form.
//
// All arithmetic is float32. Package ops/plain computes the same in float64
// and is the definition; tests hold the two equal.
//
// Every function here returns an error where the graph library panics, and
// stops between batches when its context is cancelled.
package ops

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/modelpipe/modelpipe/ops/measure"
	"github.com/modelpipe/modelpipe/ops/plain"
	"github.com/modelpipe/modelpipe/ops/spec"
)

// Options bound and report an evaluation. The zero value is ready.
type Options struct {
	// Batch is how many tokens pass a block together, at least one sequence.
	// 0: what suits the device.
	Batch int

	// Weights bounds the bytes of float32 weights that are held at a time.
	// Below that bound the next layer is read while one is computed, and
	// Greedy keeps the whole model; a layer that is larger alone is held
	// nevertheless. 0: 8 GiB.
	Weights int64

	// Progress, where set, is called by one goroutine at a time as work is done.
	Progress func(Progress)
}

// Progress is how far an evaluation has come.
type Progress struct {
	Stage string // "layer", "head", "token"
	Done  int
	Total int
}

// Compare runs a reference and a candidate over chunks of token ids, all of
// the same length, and says how far the candidate's predictions are from the
// reference's: see package measure for the method. A caller whose vocabulary
// says so has put the beginning-of-sequence token in each chunk's first place.
func Compare(ctx context.Context, d *Device, ref, cand *spec.Model, chunks [][]int32, o Options) (*measure.Comparison, error) {
	all, err := CompareAll(ctx, d, ref, []*spec.Model{cand}, chunks, o)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// CompareAll is Compare for several candidates, for which the reference is
// computed once. The results are in the order of the candidates.
func CompareAll(ctx context.Context, d *Device, ref *spec.Model, cands []*spec.Model, chunks [][]int32, o Options) (_ []*measure.Comparison, err error) {
	defer recovered(&err)
	if len(cands) == 0 {
		return nil, errors.New("no candidates to compare")
	}
	for i, c := range cands {
		if err := comparable(ref, c); err != nil {
			return nil, fmt.Errorf("%s: %w", candidateName(i, len(cands), c), err)
		}
	}
	r, err := compare(ctx, d, ref, cands, chunks, o)
	if err != nil {
		return nil, err
	}
	all := make([]*measure.Comparison, len(cands))
	for i := range cands {
		c := account(r.predictions, i).Result()
		c.Chunks, c.Ctx = len(chunks), len(chunks[0])
		c.NMSE, c.Layers = r.differences[i]/r.squares, r.layers[i]
		all[i] = &c
	}
	return all, nil
}

// Perplexity is exp of the mean negative log-likelihood of the predictions
// that count in Compare.
func Perplexity(ctx context.Context, d *Device, m *spec.Model, chunks [][]int32, o Options) (_ float64, err error) {
	defer recovered(&err)
	r, err := compare(ctx, d, m, nil, chunks, o)
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, p := range r.predictions {
		sum += p.reference.log() - p.reference.target
	}
	return math.Exp(sum / float64(len(r.predictions))), nil
}

// comparable says why a candidate is of another model than the reference.
func comparable(ref, cand *spec.Model) error {
	switch {
	case ref.Head == nil || cand.Head == nil:
		return errors.New("a model without a head has no predictions to compare")
	case cand.Vocab != ref.Vocab:
		return fmt.Errorf("a vocabulary of %d: the reference has %d", cand.Vocab, ref.Vocab)
	case len(cand.Blocks) != len(ref.Blocks):
		return fmt.Errorf("%d layers: the reference has %d", len(cand.Blocks), len(ref.Blocks))
	case cand.Width != ref.Width:
		return fmt.Errorf("a width of %d: the reference has %d", cand.Width, ref.Width)
	}
	return nil
}

func candidateName(i, n int, m *spec.Model) string {
	if n == 1 {
		return "candidate " + m.Family
	}
	return fmt.Sprintf("candidate %d %s", i, m.Family)
}

// comparison is what compare has summed up.
type comparison struct {
	predictions []prediction
	squares     float64     // of the reference's logits
	differences []float64   // of each candidate's logits from them, squared
	layers      [][]float64 // by candidate and layer, NMSE of the residual stream
}

// compare runs a reference and any number of candidates over chunks.
func compare(ctx context.Context, d *Device, ref *spec.Model, cands []*spec.Model, chunks [][]int32, o Options) (*comparison, error) {
	if ref.Head == nil {
		return nil, fmt.Errorf("%s has no head that predicts tokens", ref.Family)
	}
	if len(chunks) == 0 || len(chunks[0]) < 4 {
		return nil, errors.New("no text: want chunks of at least 4 tokens")
	}
	n := len(chunks[0])
	for i, c := range chunks {
		if len(c) != n {
			return nil, fmt.Errorf("chunk %d has %d tokens, the first has %d", i, len(c), n)
		}
	}
	e := newEvaluation(d, o)
	defer e.close()
	batches := e.batches(chunks, 1)
	var streams []*stream
	defer func() {
		for _, s := range streams {
			s.close()
		}
	}()
	for i, m := range append([]*spec.Model{ref}, cands...) {
		name := "reference " + m.Family
		if i > 0 {
			name = candidateName(i-1, len(cands), m)
		}
		s, err := e.open(ctx, m, name, chunks, batches)
		if err != nil {
			return nil, err
		}
		streams = append(streams, s)
	}
	r := &comparison{layers: make([][]float64, len(cands))}
	if err := e.layers(ctx, streams, 0, len(ref.Blocks), func(layer int) error {
		if len(cands) == 0 {
			return e.finite(ctx, layer, streams[0])
		}
		for i, s := range streams[1:] {
			squares, difference, err := e.energy(ctx, layer, streams[0], s)
			if err != nil {
				return err
			}
			r.layers[i] = append(r.layers[i], difference/squares)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	e.loader.trim()

	first, count := n/2, n-1-n/2
	var next []int32
	for _, c := range chunks {
		next = append(next, c[first+1:]...)
	}
	var inputs []*headInput
	defer func() {
		for _, h := range inputs {
			h.close()
		}
	}()
	for _, s := range streams {
		width := s.model.Width
		hidden := make([]float32, 0, len(next)*width)
		if err := e.final(ctx, s, func(i int, x []float32) error {
			for k := range batches[i].count {
				hidden = append(hidden, x[(k*n+first)*width:][:count*width]...)
			}
			return nil
		}); err != nil {
			return nil, err
		}
		h, err := e.headInput(s, hidden)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, h)
	}
	var err error
	r.predictions, r.squares, r.differences, err = e.predictions(ctx, inputs[0], inputs[1:], next)
	return r, err
}

// hidden runs a model over sequences and calls use with each one's residual
// stream after the last norm, [len(sequence), Width], in order.
func hidden(ctx context.Context, e *evaluation, m *spec.Model, seqs [][]int32, batches []batch, use func(i int, x []float32) error) (*stream, error) {
	s, err := e.open(ctx, m, m.Family, seqs, batches)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := e.layers(ctx, []*stream{s}, 0, len(m.Blocks), func(layer int) error { return e.finite(ctx, layer, s) }); err != nil {
		return nil, err
	}
	return s, e.final(ctx, s, func(i int, x []float32) error {
		b := batches[i]
		for k := range b.count {
			seq := b.first + k
			if err := use(seq, x[k*b.length*m.Width:][:len(seqs[seq])*m.Width]); err != nil {
				return err
			}
		}
		return nil
	})
}

// Logits returns a sequence's logits, [len(ids), m.Vocab].
func Logits(ctx context.Context, d *Device, m *spec.Model, ids []int32, o Options) (_ []float32, err error) {
	defer recovered(&err)
	if m.Head == nil {
		return nil, fmt.Errorf("%s has no head that predicts tokens", m.Family)
	}
	e := newEvaluation(d, o)
	defer e.close()
	seqs := [][]int32{ids}
	var rows []float32
	s, err := hidden(ctx, e, m, seqs, e.batches(seqs, 1), func(_ int, x []float32) error {
		rows = append(rows, x...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	all := make([]float32, len(ids)*m.Vocab)
	return all, e.allLogits(ctx, s, rows, func(row, first int, l []float32) {
		copy(all[row*m.Vocab+first:], l)
	})
}

// allLogits calls use with the logits of each row of hidden states, tile by
// tile: those of the tokens from first on. It may be called for several rows
// at a time.
func (e *evaluation) allLogits(ctx context.Context, s *stream, rows []float32, use func(row, first int, l []float32)) error {
	h, err := e.headInput(s, rows)
	if err != nil {
		return err
	}
	defer h.close()
	var groups []group
	tiles := e.tiles(s.model, h.batch)
	for n, t := range tiles {
		groups = append(groups, s.tile(n, t))
	}
	return e.loader.each(ctx, groups, func(n int, w *weights) error {
		cols := tiles[n][1] - tiles[n][0]
		return e.parallel(ctx, len(h.x), func(i int) error {
			b, err := e.logits(h, i, w)
			if err != nil {
				return err
			}
			defer free(b)
			l, err := download(b)
			if err != nil {
				return err
			}
			for row := i * h.batch; row < min((i+1)*h.batch, h.rows); row++ {
				values := l[(row-i*h.batch)*cols:][:cols]
				for _, v := range values {
					if v-v != 0 {
						return fmt.Errorf("%s: logits of tokens %d to %d are not finite", s.name, tiles[n][0], tiles[n][1]-1)
					}
				}
				use(row, tiles[n][0], values)
			}
			return nil
		})
	})
}

// Hidden returns a sequence's residual stream after the last norm,
// [len(ids), m.Width].
func Hidden(ctx context.Context, d *Device, m *spec.Model, ids []int32, o Options) (_ []float32, err error) {
	defer recovered(&err)
	e := newEvaluation(d, o)
	defer e.close()
	seqs := [][]int32{ids}
	var rows []float32
	_, err = hidden(ctx, e, m, seqs, e.batches(seqs, 1), func(_ int, x []float32) error {
		rows = append(rows, x...)
		return nil
	})
	return rows, err
}

// Embed returns a vector for each sequence, pooled as the model says; it is
// not normalized to unit length. Where the model has a classifier, the vector
// is the classifier's scores.
func Embed(ctx context.Context, d *Device, m *spec.Model, seqs [][]int32, o Options) (_ [][]float32, err error) {
	defer recovered(&err)
	e := newEvaluation(d, o)
	defer e.close()
	vectors := make([][]float32, len(seqs))
	if _, err = hidden(ctx, e, m, seqs, e.batches(seqs, 1), func(i int, x []float32) (err error) {
		vectors[i], err = pooled(m, x)
		return err
	}); err != nil || m.Classifier == nil {
		return vectors, err
	}
	return classified(ctx, m, vectors)
}

// classified makes a classifier's scores of pooled vectors. There is one vector
// for each sequence, so that no graph is worth its compilation.
func classified(ctx context.Context, m *spec.Model, vectors [][]float32) ([][]float32, error) {
	x := make([][]float64, len(vectors))
	for i, v := range vectors {
		for _, f := range v {
			x[i] = append(x[i], float64(f))
		}
	}
	scores, err := plain.Classify(ctx, m, x)
	for i := range scores {
		vectors[i] = vectors[i][:0]
		for _, v := range scores[i] {
			vectors[i] = append(vectors[i], float32(v))
		}
	}
	return vectors, err
}

// pooled makes one vector of a sequence's hidden states.
func pooled(m *spec.Model, x []float32) ([]float32, error) {
	switch m.Pooling {
	case spec.PoolCLS:
		return slices.Clone(x[:m.Width]), nil
	case spec.PoolLast:
		return slices.Clone(x[len(x)-m.Width:]), nil
	case spec.PoolMean:
		v := make([]float32, m.Width)
		for j := range v {
			sum := 0.0
			for t := j; t < len(x); t += m.Width {
				sum += float64(x[t])
			}
			v[j] = float32(sum * float64(m.Width) / float64(len(x)))
		}
		return v, nil
	}
	return nil, fmt.Errorf("%s does not say how to pool hidden states (%q)", m.Family, m.Pooling)
}

// bucket is what Greedy pads the lengths of sequences to.
const bucket = 32

// Greedy continues each prompt by its n most probable tokens, one after the
// other; of equally probable ones, the lowest id. A continuation ends early
// after a token for which stop, where it is not nil, says so; that token is
// part of it. Prompts run side by side.
func Greedy(ctx context.Context, d *Device, m *spec.Model, prompts [][]int32, n int, stop func(id int32) bool, o Options) (_ [][]int32, err error) {
	defer recovered(&err)
	if m.Head == nil {
		return nil, fmt.Errorf("%s has no head that predicts tokens", m.Family)
	}
	padding := bucket
	for _, b := range m.Blocks {
		if a := b.Attention; a != nil && !a.Causal {
			return nil, fmt.Errorf("%s does not predict the next token: its attention is not causal", m.Family)
		} else if a != nil && a.Rope != nil && a.Rope.Long != nil {
			padding = 1 // angles depend on a sequence's length
		}
	}
	e := newEvaluation(d, o)
	defer e.close()
	total := int64(0)
	for _, w := range m.Weights {
		total += 4 * int64(w.Rows) * int64(w.Cols)
	}
	e.loader.keep = total <= e.options.Weights

	texts := make([][]int32, len(prompts))
	var running []int
	for i, p := range prompts {
		texts[i] = slices.Clone(p)
		running = append(running, i)
	}
	for step := 0; step < n && len(running) > 0; step++ {
		// Neighbours in length share a batch.
		slices.SortStableFunc(running, func(a, b int) int { return len(texts[a]) - len(texts[b]) })
		var seqs [][]int32
		for _, i := range running {
			seqs = append(seqs, texts[i])
		}
		last := make([]float32, len(seqs)*m.Width)
		s, err := hidden(ctx, e, m, seqs, e.batches(seqs, padding), func(i int, x []float32) error {
			copy(last[i*m.Width:], x[len(x)-m.Width:])
			return nil
		})
		if err != nil {
			return nil, err
		}
		type best struct {
			id    int32
			logit float32
		}
		top := make([]best, len(seqs))
		var mu sync.Mutex
		if err := e.allLogits(ctx, s, last, func(row, first int, l []float32) {
			mu.Lock()
			defer mu.Unlock()
			for i, v := range l {
				id := int32(first + i)
				if t := &top[row]; first+i == 0 || v > t.logit {
					*t = best{id, v}
				}
			}
		}); err != nil {
			return nil, err
		}
		var still []int
		for k, i := range running {
			texts[i] = append(texts[i], top[k].id)
			if stop == nil || !stop(top[k].id) {
				still = append(still, i)
			}
		}
		running = still
		e.report("token", step+1, n)
	}
	for i, p := range prompts {
		texts[i] = texts[i][len(p):]
	}
	return texts, nil
}

// Layers are the blocks from First up to, but without, End, and with Output
// the head.
type Layers struct {
	First, End int
	Output     bool
}

// A Tap gets, for the matrix at slot, the sum of the squares of each column of
// its input over count tokens; sums is its own. Matrices with the same input
// have one slot: Q stands for Q, K and V, Gate for Gate and Up (Up where there
// is no gate), SharedGate for SharedGate and SharedUp, likewise. The others
// stand for themselves: AttnOut, Down, Router, SharedDown, SharedRouter, QA,
// QB, KVA, KB, VB, AbsorbedKB, AbsorbedVB, ConvIn, ConvOut, Output. An expert's slots have its number,
// and the tokens that reached it as count; those of experts that no token
// reached are left out.
type Tap func(slot spec.Slot, sums []float64, count int) error

// Calibrate runs chunks through a model and calls tap for each matrix of the
// layers, layer by layer in order and once per slot. Layers before the first
// are computed without taps, those after the last are not computed, so a run
// is resumed by asking for the layers that are missing: their results are the
// same.
func Calibrate(ctx context.Context, d *Device, m *spec.Model, chunks [][]int32, layers Layers, tap Tap, o Options) (err error) {
	defer recovered(&err)
	if layers.First < 0 || layers.End < layers.First || layers.End > len(m.Blocks) {
		return fmt.Errorf("layers %d to %d: %s has %d", layers.First, layers.End-1, m.Family, len(m.Blocks))
	}
	if layers.Output && m.Head == nil {
		return fmt.Errorf("%s has no head that predicts tokens", m.Family)
	}
	if len(chunks) == 0 {
		return errors.New("no text to calibrate with")
	}
	e := newEvaluation(d, o)
	defer e.close()
	s, err := e.open(ctx, m, m.Family, chunks, e.batches(chunks, 1))
	if err != nil {
		return err
	}
	defer s.close()
	check := func(layer int) error { return e.finite(ctx, layer, s) }
	if err := e.layers(ctx, []*stream{s}, 0, layers.First, check); err != nil {
		return err
	}
	taps := newTaps()
	s.tap = taps.add
	if err := e.layers(ctx, []*stream{s}, layers.First, layers.End, func(layer int) error {
		if err := check(layer); err != nil {
			return err
		}
		return taps.give(tap)
	}); err != nil || !layers.Output {
		return err
	}
	s.tap = nil
	if err := e.layers(ctx, []*stream{s}, layers.End, len(m.Blocks), check); err != nil {
		return err
	}
	s.tap = taps.add
	if err := e.final(ctx, s, func(i int, x []float32) error {
		sums, n := make([]float64, m.Width), s.batches[i].rows()
		for j, v := range x {
			sums[j%m.Width] += float64(v) * float64(v)
		}
		taps.addFloats(spec.Global(spec.Output), sums, n)
		return nil
	}); err != nil {
		return err
	}
	return taps.give(tap)
}
