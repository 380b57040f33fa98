package ops

import (
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/modelpipe/modelpipe/ops/measure"
	"github.com/modelpipe/modelpipe/ops/spec"
)

// tileBytes is about how large the logits and the weights of a tile may be,
// which has at least leastTile rows. Variables: tests make small tiles.
var tileBytes, leastTile = 64 << 20, 256

// final calls use with the residual stream of each batch after the last norm,
// [rows, Width], and ends the stream.
func (e *evaluation) final(ctx context.Context, s *stream, use func(i int, x []float32) error) error {
	if err := e.loader.each(ctx, []group{s.norms()}, func(_ int, w *weights) error {
		for i := range s.batches {
			y := s.x[i]
			if n := s.model.FinalNorm; n != nil {
				var err error
				if y, err = e.normed(s, i, w, n, spec.FinalNorm); err != nil {
					return err
				}
				free(s.x[i])
				s.x[i] = y
			}
			x, err := download(y)
			if err != nil {
				return err
			}
			free(y)
			s.x[i] = nil
			if err := use(i, x); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("%s: last norm: %w", s.name, err)
	}
	return nil
}

// A headInput is what of a model's hidden states meets its head: rows in
// batches of one size, of which the last is padded with zeros.
type headInput struct {
	s     *stream
	rows  int // that count
	batch int
	x     []compute.Buffer // [batch, Width]
}

// headInput uploads rows of hidden states, [rows, Width].
func (e *evaluation) headInput(s *stream, hidden []float32) (*headInput, error) {
	width := s.model.Width
	h := &headInput{s: s, rows: len(hidden) / width}
	h.batch = min(e.device.batch, (h.rows+15)/16*16)
	for first := 0; first < h.rows; first += h.batch {
		rows := hidden[first*width : min(first+h.batch, h.rows)*width]
		if len(rows) < h.batch*width {
			rows = append(make([]float32, 0, h.batch*width), rows...)[:h.batch*width]
		}
		b, err := e.device.upload(rows, h.batch, width)
		if err != nil {
			h.close()
			return nil, err
		}
		h.x = append(h.x, b)
	}
	return h, nil
}

func (h *headInput) close() { free(h.x...) }

// tiles cuts the rows of models' heads into tiles, [first, end).
func (e *evaluation) tiles(m *spec.Model, batch int) [][2]int {
	most := max(leastTile, tileBytes/4/max(m.Width, batch))
	n := (m.Vocab + most - 1) / most
	size := (m.Vocab + n - 1) / n
	var tiles [][2]int
	for first := 0; first < m.Vocab; first += size {
		tiles = append(tiles, [2]int{first, min(first+size, m.Vocab)})
	}
	return tiles
}

// tile is the weights of a part of the head.
func (s *stream) tile(n int, tile [2]int) group {
	g := group{key: groupKey{model: s.model, layer: spec.None, expert: spec.None, tile: n}}
	rows := tile[1] - tile[0]
	g.parts = append(g.parts, part{string(spec.Output), s.model.Weights[spec.Global(spec.Output)], tile[0], rows})
	if w, ok := s.model.Weights[spec.Global(spec.Output.Bias())]; ok {
		// The bias is one row: its columns are read whole and cut.
		cut := w
		cut.Cols, cut.Stored = rows, nil
		cut.Read = func(ctx context.Context, dst []float32, _ int) error {
			all, err := w.Floats(ctx)
			if err == nil {
				copy(dst, all[tile[0]:tile[1]])
			}
			return err
		}
		g.parts = append(g.parts, part{string(spec.Output.Bias()), cut, 0, 1})
	}
	return g
}

// logits computes a tile of the logits, [batch, rows of the tile].
func (e *evaluation) logits(h *headInput, batch int, w *weights) (compute.Buffer, error) {
	head := *h.s.model.Head
	f := form{Width: h.s.model.Width, Roles: rolesOf(w.parts)}
	p, err := e.device.program(fmt.Sprintf("head %+v %d %d %v", head, h.batch, f.Width, f.Roles), func(b *builder) []*Node {
		g := &blockGraph{form: f, builder: b}
		y := g.mul(spec.Output, b.input("x", h.batch, f.Width))
		if head.Scale != 1 {
			y = MulScalar(y, head.Scale)
		}
		return []*Node{softCapped(y, head.SoftCap)}
	})
	if err != nil {
		return nil, err
	}
	out, err := p.run(w.with(map[string]compute.Buffer{"x": h.x[batch]}))
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// The statistics of a tile of logits l, by token: the largest, the sum of
// e = exp(l - largest), the column of the largest, the one of the target, the
// sum of l^2.
const (
	statTop = iota
	statSum
	statArg
	statTarget
	statSquares
	stats
)

// statistics of a tile's logits, [stats, batch], and e. The target of a token
// is a column of the tile.
func (e *evaluation) statistics(l compute.Buffer, rows, cols int, targets compute.Buffer) (sums []float32, exps compute.Buffer, err error) {
	p, err := e.device.program(fmt.Sprintf("statistics %d %d", rows, cols), func(b *builder) []*Node {
		l := b.input("logits", rows, cols)
		target := b.integers("targets", rows, 2)
		top := ReduceAndKeep(l, ReduceMax, -1)
		exps := Exp(Sub(l, top))
		row := func(x *Node) *Node { return Reshape(x, 1, rows) }
		return []*Node{Concatenate([]*Node{
			row(top),
			row(ReduceSum(exps, -1)),
			row(ConvertDType(ArgMax(l, -1, dtypes.Int32), dtypes.Float32)),
			row(Gather(l, target)),
			row(ReduceSum(Square(l), -1)),
		}, 0), exps}
	})
	if err != nil {
		return nil, nil, err
	}
	out, err := p.run(map[string]compute.Buffer{"logits": l, "targets": targets})
	if err != nil {
		return nil, nil, err
	}
	defer free(out[0])
	if sums, err = download(out[0]); err != nil {
		free(out[1])
		return nil, nil, err
	}
	return sums, out[1], nil
}

// differences gives by token the sums of e*(l-c) and of (c-l)^2, [2, batch].
func (e *evaluation) differences(l, exps, c compute.Buffer, rows, cols int) ([]float32, error) {
	p, err := e.device.program(fmt.Sprintf("differences %d %d", rows, cols), func(b *builder) []*Node {
		l, exps, c := b.input("logits", rows, cols), b.input("exps", rows, cols), b.input("other", rows, cols)
		d := Sub(l, c)
		row := func(x *Node) *Node { return Reshape(x, 1, rows) }
		return []*Node{Concatenate([]*Node{row(ReduceSum(Mul(exps, d), -1)), row(ReduceSum(Square(d), -1))}, 0)}
	})
	if err != nil {
		return nil, err
	}
	out, err := p.run(map[string]compute.Buffer{"logits": l, "exps": exps, "other": c})
	if err != nil {
		return nil, err
	}
	defer free(out[0])
	return download(out[0])
}

// A softmaxSum is a distribution over the vocabulary as it comes tile by tile:
// sum is that of exp(logit - top).
type softmaxSum struct {
	top, sum float64
	arg      int
	target   float64 // logit of the token that follows
}

// add takes a tile's statistics and returns by what sums that were relative to
// the old and to the tile's largest logit have to be multiplied.
func (s *softmaxSum) add(top, sum float64, arg int) (old, tile float64) {
	if s.sum == 0 || top > s.top {
		old, tile = math.Exp(s.top-top), 1
		if s.sum == 0 {
			old = 0
		}
		s.top, s.arg = top, arg
	} else {
		old, tile = 1, math.Exp(top-s.top)
	}
	s.sum = s.sum*old + sum*tile
	return old, tile
}

// log is the logarithm of the sum of exp(logit).
func (s *softmaxSum) log() float64 { return s.top + math.Log(s.sum) }

// A prediction is what the reference and the candidates say about one token.
type prediction struct {
	reference  softmaxSum
	candidates []softmaxSum
	difference []float64 // sum of exp(l - top)*(l - c), l the reference's logits
}

// predictions runs the heads of a reference and of candidates over hidden
// states, of which row i should predict next[i]. It returns a prediction for
// each row, and the sums over all logits of l^2 and, by candidate, (c-l)^2.
func (e *evaluation) predictions(ctx context.Context, ref *headInput, cands []*headInput, next []int32) ([]prediction, float64, []float64, error) {
	all := append([]*headInput{ref}, cands...)
	preds := make([]prediction, len(next))
	for i := range preds {
		preds[i].candidates, preds[i].difference = make([]softmaxSum, len(cands)), make([]float64, len(cands))
	}
	squares, differences := 0.0, make([]float64, len(cands))
	tiles := e.tiles(ref.s.model, ref.batch)
	// The tiles of all heads are held together: the reference's logits meet
	// those of each candidate.
	var groups []group
	for n, t := range tiles {
		g := group{key: groupKey{model: ref.s.model, layer: spec.None, expert: spec.None, tile: n}}
		for k, h := range all {
			for _, p := range h.s.tile(n, t).parts {
				p.name = fmt.Sprint(k, " ", p.name)
				g.parts = append(g.parts, p)
			}
		}
		groups = append(groups, g)
	}
	var mu sync.Mutex
	err := e.loader.each(ctx, groups, func(n int, w *weights) error {
		first, cols := tiles[n][0], tiles[n][1]-tiles[n][0]
		err := e.parallel(ctx, len(ref.x), func(i int) error {
			from := i * ref.batch
			rows := preds[from:min(from+ref.batch, len(preds))]
			columns := make([]int32, 2*ref.batch)
			for r := range ref.batch {
				columns[2*r] = int32(r)
				if r < len(rows) {
					columns[2*r+1] = min(max(next[from+r]-int32(first), 0), int32(cols-1))
				}
			}
			targets, err := e.device.upload(columns, ref.batch, 2)
			if err != nil {
				return err
			}
			defer free(targets)

			// add puts a tile of one model's logits into its sums; index says
			// where they are in a prediction.
			add := func(h *headInput, l compute.Buffer, index func(*prediction) *softmaxSum, scaled func(row int, old, tile float64)) (compute.Buffer, float64, error) {
				sums, exps, err := e.statistics(l, ref.batch, cols, targets)
				if err != nil {
					return nil, 0, err
				}
				squares := 0.0
				for r := range rows {
					stat := func(k int) float64 { return float64(sums[k*ref.batch+r]) }
					squares += stat(statSquares)
					s := index(&rows[r])
					if k := next[from+r] - int32(first); k >= 0 && int(k) < cols {
						s.target = stat(statTarget)
					}
					old, tile := s.add(stat(statTop), stat(statSum), first+int(stat(statArg)))
					if scaled != nil {
						scaled(r, old, tile)
					}
				}
				if math.IsNaN(squares) || math.IsInf(squares, 0) {
					free(exps)
					return nil, 0, fmt.Errorf("%s: logits of tokens %d to %d are not finite", h.s.name, first, first+cols-1)
				}
				return exps, squares, nil
			}

			l, err := e.logits(ref, i, w.sub(0))
			if err != nil {
				return err
			}
			defer free(l)
			type scale struct{ old, tile float64 }
			scales := make([]scale, len(rows))
			exps, sum, err := add(ref, l, func(p *prediction) *softmaxSum { return &p.reference },
				func(row int, old, tile float64) { scales[row] = scale{old, tile} })
			if err != nil {
				return err
			}
			defer free(exps)
			far := make([]float64, len(cands))
			for k, h := range cands {
				if err := func() error {
					c, err := e.logits(h, i, w.sub(k+1))
					if err != nil {
						return err
					}
					defer free(c)
					own, _, err := add(h, c, func(p *prediction) *softmaxSum { return &p.candidates[k] }, nil)
					if err != nil {
						return err
					}
					free(own)
					d, err := e.differences(l, exps, c, ref.batch, cols)
					if err != nil {
						return err
					}
					for r := range rows {
						p := &rows[r]
						p.difference[k] = p.difference[k]*scales[r].old + float64(d[r])*scales[r].tile
						far[k] += float64(d[ref.batch+r])
					}
					return nil
				}(); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			squares += sum
			for k := range far {
				differences[k] += far[k]
			}
			return nil
		})
		e.report("head", n+1, len(tiles))
		return err
	})
	return preds, squares, differences, err
}

// account makes tokens of predictions.
func account(preds []prediction, cand int) *measure.Accumulator {
	a := &measure.Accumulator{}
	for _, p := range preds {
		c := p.candidates[cand]
		lr, lc := p.reference.log(), c.log()
		r, q := p.reference.target-lr, c.target-lc
		a.Add(measure.Token{
			KLD:       p.difference[cand]/p.reference.sum - lr + lc,
			Reference: -r,
			Candidate: -q,
			SameTop:   p.reference.arg == c.arg,
			DeltaP:    math.Exp(q) - math.Exp(r),
		})
	}
	return a
}
