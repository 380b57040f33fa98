package ops

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/gomlx/compute"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // a graph reads as a formula

	"github.com/modelpipe/modelpipe/ops/spec"
)

// expertsBackward is blockBackward for a layer with experts: forward again up
// to their sum, then back through what follows it, through each expert and the
// router, and through what is before. Values are kept on the host, by batch and
// row, while one expert's weights at a time are on the device.
func (f *fisher) expertsBackward(ctx context.Context, layer int, w *weights, inputs, grads [][]float32) error {
	s := f.s
	moe, n := s.model.Blocks[layer].FFN.MoE, len(s.batches)
	correction, err := s.correction(ctx, layer)
	if err != nil {
		return err
	}
	x := &expertPass{
		fisher: f, layer: layer, moe: moe, correction: correction,
		mixed: make([][]float32, n), in: make([][]float32, n), logits: make([][]float32, n), shared: make([][]float32, n), sum: make([][]float32, n),
		dSum: make([][]float32, n), dMixed: make([][]float32, n), dIn: make([][]float32, n), dShares: make([][]float32, n),
	}
	routed := make([][][]place, n)
	if err := f.e.parallel(ctx, n, func(i int) error {
		if err := x.before(w, i, inputs[i]); err != nil {
			return err
		}
		x.sum[i], x.dIn[i] = make([]float32, len(x.in[i])), make([]float32, len(x.in[i]))
		x.dShares[i] = make([]float32, len(x.logits[i]))
		routed[i] = s.routed(i, moe, x.logits[i], correction)
		return nil
	}); err != nil {
		return err
	}
	groups, places := s.experts(layer, routed)
	if err := f.e.loader.each(ctx, groups, func(i int, w *weights) error {
		return f.e.expert(ctx, s, w, places[i], x.in, x.sum)
	}); err != nil {
		return err
	}
	if err := f.e.parallel(ctx, n, func(i int) error { return x.after(w, i, grads[i]) }); err != nil {
		return err
	}
	if err := f.e.loader.each(ctx, groups, func(i int, w *weights) error { return x.expert(ctx, w, places[i]) }); err != nil {
		return err
	}
	var sums roleSums
	if err := f.e.parallel(ctx, n, func(i int) (err error) {
		grads[i], err = x.first(w, i, inputs[i], &sums)
		return err
	}); err != nil {
		return err
	}
	return f.give(layer, spec.None, &sums)
}

// expertPass is a layer with experts on its way back. Slices are by batch.
type expertPass struct {
	*fisher
	layer      int
	moe        *spec.MoE
	correction []float32

	mixed, in, logits, shared [][]float32 // what beforeExperts gives
	sum                       [][]float32 // of the experts' outputs

	// Gradients: at the sum of the experts and the shared part, at the residual
	// stream before it, at the experts' input, and at how much an expert counts,
	// [rows, experts].
	dSum, dMixed, dIn, dShares [][]float32
}

// run computes a graph of the layer for a batch; inputs hold rows of values.
// use gets its roles and outputs.
func (x *expertPass) run(w *weights, i int, kind string, build func(*blockGraph) []*Node, inputs map[string][]float32, use func([]spec.Role, []compute.Buffer) error) error {
	b := x.s.batches[i]
	p, err := x.e.blockProgram(x.s, x.layer, b, w, kind, build)
	if err != nil {
		return err
	}
	own := map[string]compute.Buffer{}
	defer func() { freeAll(own) }()
	for name, v := range inputs {
		if own[name], err = x.e.device.upload(v, b.rows(), len(v)/b.rows()); err != nil {
			return err
		}
	}
	all := maps.Clone(own)
	if err := x.e.addTables(all, x.s.model.Blocks[x.layer].Attention, b); err != nil {
		return err
	}
	out, err := p.run(w.with(all))
	if err != nil {
		return err
	}
	defer free(out...)
	return use(p.roles, out)
}

// downloads copies the first buffers to dst.
func downloads(out []compute.Buffer, dst ...*[]float32) (err error) {
	for k, to := range dst {
		if *to, err = download(out[k]); err != nil {
			return err
		}
	}
	return nil
}

// before computes the layer up to its experts.
func (x *expertPass) before(w *weights, i int, input []float32) error {
	return x.run(w, i, "router", (*blockGraph).beforeExperts, map[string][]float32{"x": input}, func(_ []spec.Role, out []compute.Buffer) error {
		to := []*[]float32{&x.mixed[i], &x.in[i], &x.logits[i]}
		if x.moe.SharedInner > 0 {
			to = append(to, &x.shared[i])
		}
		return downloads(out, to...)
	})
}

// after goes back through what follows the experts.
func (x *expertPass) after(w *weights, i int, dy []float32) error {
	inputs := map[string][]float32{"x": x.mixed[i], "experts": x.sum[i], "dy": dy}
	if x.moe.SharedInner > 0 {
		inputs["shared"] = x.shared[i]
	}
	return x.run(w, i, "expertsBackward", (*blockGraph).afterExpertsBackward, inputs, func(_ []spec.Role, out []compute.Buffer) error {
		return downloads(out, &x.dMixed[i], &x.dSum[i])
	})
}

// afterExpertsBackward builds the gradients at the residual stream before the
// experts' sum and at the sum.
func (g *blockGraph) afterExpertsBackward() []*Node {
	rows := g.Sequences * g.Length
	x, out := g.input("x", rows, g.Width), g.input("experts", rows, g.Width)
	sum := out
	if g.Block.FFN.MoE.SharedInner > 0 {
		sum = Add(sum, g.input("shared", rows, g.Width))
	}
	y := g.afterFeedForward(x, sum)
	return Gradient(ReduceAllSum(Mul(g.input("dy", rows, g.Width), y)), x, out)
}

// expertRows is how many rows an expert goes back through together, at least
// one sequence's.
const expertRows = 512

// expert goes back through one expert. The tokens of a sequence go together,
// since their gradients add up before they are squared; rows that are missing
// are zero, and so is what they add.
func (x *expertPass) expert(ctx context.Context, w *weights, places []place) error {
	// The places of each sequence; they come in the order of batches and rows.
	var seqs [][]place
	for k, at := range places {
		if k > 0 && at.batch == places[k-1].batch && at.row/x.s.batches[at.batch].length == places[k-1].row/x.s.batches[at.batch].length {
			seqs[len(seqs)-1] = append(seqs[len(seqs)-1], at)
		} else {
			seqs = append(seqs, []place{at})
		}
	}
	// Few graphs serve all numbers of tokens: lengths are padded to a power of
	// two, and the sequences of one are padded to a number.
	byLength := map[int][][]place{}
	for _, s := range seqs {
		length := smallestBucket
		for length < len(s) {
			length *= 2
		}
		byLength[length] = append(byLength[length], s)
	}
	type piece struct {
		length, count int
		seqs          [][]place
	}
	var pieces []piece
	for _, length := range slices.Sorted(maps.Keys(byLength)) {
		count := max(1, expertRows/length)
		for part := range slices.Chunk(byLength[length], count) {
			pieces = append(pieces, piece{length, count, part})
		}
	}
	var sums roleSums
	var mu sync.Mutex // of dIn and dShares
	if err := x.e.parallel(ctx, len(pieces), func(n int) error {
		p, width := pieces[n], x.s.model.Width
		rows := p.count * p.length
		in, dy := make([]float32, rows*width), make([]float32, rows*width)
		for k, seq := range p.seqs {
			for t, at := range seq {
				into, outOf := float32(1), at.weight
				if x.moe.WeightInput {
					into, outOf = at.weight, 1
				}
				row := (k*p.length + t) * width
				for j := range width {
					in[row+j] = into * x.in[at.batch][at.row*width+j]
					dy[row+j] = outOf * x.dSum[at.batch][at.row*width+j]
				}
			}
		}
		program, err := x.e.blockProgram(x.s, x.layer, batch{count: p.count, real: p.length, length: p.length}, w, "expertBackward", (*blockGraph).expertBackward)
		if err != nil {
			return err
		}
		own, err := x.uploads(map[string]any{"x": in, "dy": dy}, rows, width)
		if err != nil {
			return err
		}
		defer freeAll(own)
		out, err := program.run(w.with(maps.Clone(own)))
		if err != nil {
			return err
		}
		defer free(out...)
		var dx, y []float32
		if err := downloads(out, &dx, &y); err != nil {
			return err
		}
		mu.Lock()
		for k, seq := range p.seqs {
			for t, at := range seq {
				row, to := (k*p.length+t)*width, at.row*width
				share := float32(0)
				for j := range width {
					if x.moe.WeightInput {
						x.dIn[at.batch][to+j] += at.weight * dx[row+j]
						share += dx[row+j] * x.in[at.batch][to+j]
					} else {
						x.dIn[at.batch][to+j] += dx[row+j]
						share += x.dSum[at.batch][to+j] * y[row+j]
					}
				}
				x.dShares[at.batch][at.row*x.moe.Experts+w.key.expert] = share
			}
		}
		mu.Unlock()
		return sums.add(program.roles, out[2:])
	}); err != nil {
		return err
	}
	return x.give(x.layer, w.key.expert, &sums)
}

// expertBackward builds one expert and its derivative: the gradient at its
// input, its output, and the sums of squares.
func (g *blockGraph) expertBackward() []*Node {
	rows := g.Sequences * g.Length
	x := g.input("x", rows, g.Width)
	out := g.feedForward(x, spec.Gate, spec.Up, spec.Down)
	all := g.derivatives(ReduceAllSum(Mul(g.input("dy", rows, g.Width), out)), x)
	return append([]*Node{all[0], Identity(out)}, all[1:]...)
}

// first goes back through the router and what is before the experts; it
// returns the gradient at the layer's input.
func (x *expertPass) first(w *weights, i int, input []float32, sums *roleSums) (dx []float32, err error) {
	n := x.moe.Experts
	dLogits := make([]float32, len(x.logits[i]))
	for row := 0; row < len(dLogits); row += n {
		routeBackward(x.moe, x.logits[i][row:][:n], x.correction, x.dShares[i][row:][:n], dLogits[row:][:n])
	}
	inputs := map[string][]float32{"x": input, "dMixed": x.dMixed[i], "dIn": x.dIn[i], "dLogits": dLogits}
	if x.moe.SharedInner > 0 {
		inputs["dShared"] = x.dSum[i]
	}
	err = x.run(w, i, "routerBackward", (*blockGraph).beforeExpertsBackward, inputs, func(roles []spec.Role, out []compute.Buffer) error {
		if err := downloads(out, &dx); err != nil {
			return err
		}
		return sums.add(roles, out[1:])
	})
	return dx, err
}

// beforeExpertsBackward builds a block up to its experts and its derivative, as
// backward does, given the gradients at what beforeExperts gives.
func (g *blockGraph) beforeExpertsBackward() []*Node {
	rows := g.Sequences * g.Length
	out := g.toExperts()
	names := []string{"dMixed", "dIn", "dLogits", "dShared"}
	var y *Node
	for k, o := range out {
		term := ReduceAllSum(Mul(g.input(names[k], rows, o.Shape().Dim(-1)), o))
		if y == nil {
			y = term
		} else {
			y = Add(y, term)
		}
	}
	return g.derivatives(y, g.in)
}

// routeBackward is the derivative of route for one token: dShares is the
// gradient at how much each of the experts counts, 0 for those that were not
// chosen, and dLogits becomes that at the logits. The choice itself has no
// derivative.
func routeBackward(e *spec.MoE, logits, correction, dShares, dLogits []float32) {
	chosen, _ := route(e, logits, correction)
	scores := scored(e, logits)
	if e.Scoring == spec.ScoreSoftmaxSelected { // of the chosen; the others have none
		selected := make([]float64, len(chosen))
		for k, x := range chosen {
			selected[k] = scores[x]
		}
		softmax(selected)
		clear(scores)
		for k, x := range chosen {
			scores[x] = selected[k]
		}
	}
	g := make([]float64, len(logits))
	sum, mean := e.NormEps, 0.0
	for _, x := range chosen {
		g[x] = float64(dShares[x]) * float64(e.Scale)
		sum += scores[x]
	}
	if e.Normalize { // s/sum
		for _, x := range chosen {
			mean += g[x] * scores[x] / sum
		}
		for _, x := range chosen {
			g[x] = (g[x] - mean) / sum
		}
	}
	mean = 0
	for i, s := range scores {
		mean += g[i] * s
	}
	for i, s := range scores {
		if e.Scoring == spec.ScoreSigmoid {
			dLogits[i] = float32(g[i] * s * (1 - s))
		} else { // a softmax
			dLogits[i] = float32(s * (g[i] - mean))
		}
	}
}
