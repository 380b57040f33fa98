package ops

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"

	"github.com/gomlx/compute"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// A place is a token in a batch, and how much an expert counts for it.
type place struct {
	batch, row int
	weight     float32
}

// largestBucket is how many tokens pass an expert together at most. Fewer are
// padded to a power of two, so that few graphs serve all counts.
const (
	smallestBucket = 16
	largestBucket  = 1024
)

// expertBlock takes a stream through a block with experts. The router's logits
// come to the host, which sends each expert the tokens that chose it; one
// expert's weights are on the device at a time, besides the one that is read.
func (e *evaluation) expertBlock(ctx context.Context, s *stream, layer int, w *weights) error {
	block := &s.model.Blocks[layer]
	moe, width := block.FFN.MoE, s.model.Width
	correction, err := s.correction(ctx, layer)
	if err != nil {
		return err
	}
	in := make([][]float32, len(s.batches))          // the experts' input
	sum := make([][]float32, len(s.batches))         // of the experts' outputs
	shared := make([]compute.Buffer, len(s.batches)) // the shared part's output, or nil
	routed := make([][][]place, len(s.batches))      // by expert
	defer func() { free(shared...) }()
	err = e.parallel(ctx, len(s.batches), func(i int) error {
		b := s.batches[i]
		p, err := e.blockProgram(s, layer, b, w, "router", (*blockGraph).beforeExperts)
		if err != nil {
			return err
		}
		inputs := map[string]compute.Buffer{"x": s.x[i]}
		if err := e.addTables(inputs, block.Attention, b); err != nil {
			return err
		}
		s.x[i] = nil
		out, err := p.run(w.with(inputs), "x")
		if err != nil {
			return err
		}
		s.x[i] = out[0]
		defer free(out[1], out[2])
		taps := out[3:]
		if moe.SharedInner > 0 {
			shared[i], taps = out[3], out[4:]
		}
		if err := s.give(layer, spec.None, p.roles, taps, b.count*b.real); err != nil {
			return err
		}
		if in[i], err = download(out[1]); err != nil {
			return err
		}
		logits, err := download(out[2])
		if err != nil {
			return err
		}
		sum[i] = make([]float32, len(in[i]))
		routed[i] = s.routed(i, moe, logits, correction)
		return nil
	})
	if err != nil {
		return err
	}
	groups, places := s.experts(layer, routed)
	if err := e.loader.each(ctx, groups, func(i int, w *weights) error {
		return e.expert(ctx, s, w, places[i], in, sum)
	}); err != nil {
		return err
	}

	return e.parallel(ctx, len(s.batches), func(i int) error {
		b := s.batches[i]
		p, err := e.blockProgram(s, layer, b, w, "experts", (*blockGraph).afterExperts)
		if err != nil {
			return err
		}
		inputs := map[string]compute.Buffer{"x": s.x[i]}
		if inputs["experts"], err = e.device.upload(sum[i], b.rows(), width); err != nil {
			return err
		}
		donated := []string{"x", "experts"}
		if shared[i] != nil {
			inputs["shared"], shared[i] = shared[i], nil
			donated = append(donated, "shared")
		}
		s.x[i] = nil
		out, err := p.run(w.with(inputs), donated...)
		if err != nil {
			return err
		}
		s.x[i] = out[0]
		return nil
	})
}

// correction is what helps to choose a layer's experts, nil where nothing does.
func (s *stream) correction(ctx context.Context, layer int) ([]float32, error) {
	c, ok := s.model.Weights[spec.At(layer, spec.RouterCorrection)]
	if !ok {
		return nil, nil
	}
	return c.Floats(ctx)
}

// routed says, by expert, which tokens of a batch choose it.
func (s *stream) routed(i int, moe *spec.MoE, logits, correction []float32) [][]place {
	b := s.batches[i]
	all := make([][]place, moe.Experts)
	for n := range b.count {
		for t := range s.seqs[b.first+n] {
			row := n*b.length + t
			chosen, shares := route(moe, logits[row*moe.Experts:][:moe.Experts], correction)
			for k, x := range chosen {
				all[x] = append(all[x], place{i, row, float32(shares[k])})
			}
		}
	}
	return all
}

// experts are the experts of a layer that tokens have chosen, and these tokens;
// routed is by batch and expert.
func (s *stream) experts(layer int, routed [][][]place) (groups []group, places [][]place) {
	for x := range s.model.Blocks[layer].FFN.MoE.Experts {
		var all []place
		for i := range routed {
			all = append(all, routed[i][x]...)
		}
		if len(all) > 0 {
			groups, places = append(groups, s.group(layer, x)), append(places, all)
		}
	}
	return groups, places
}

// expert adds what one expert makes of the tokens at places to sum.
func (e *evaluation) expert(ctx context.Context, s *stream, w *weights, places []place, in, sum [][]float32) error {
	key := w.key
	moe, width := s.model.Blocks[key.layer].FFN.MoE, s.model.Width
	var mu sync.Mutex // of taps: their sums are added up by slot
	pieces := slices.Collect(slices.Chunk(places, largestBucket))
	return e.parallel(ctx, len(pieces), func(n int) error {
		piece := pieces[n]
		rows := smallestBucket
		for rows < len(piece) {
			rows *= 2
		}
		x, valid := make([]float32, rows*width), make([]float32, rows)
		for k, at := range piece {
			valid[k] = 1
			to := x[k*width:][:width]
			copy(to, in[at.batch][at.row*width:])
			if moe.WeightInput {
				for j := range to {
					to[j] *= at.weight
				}
			}
		}
		p, err := e.blockProgram(s, key.layer, batch{count: 1, real: rows, length: rows}, w, "expert", (*blockGraph).expert)
		if err != nil {
			return err
		}
		inputs := map[string]compute.Buffer{}
		if inputs["x"], err = e.device.upload(x, rows, width); err != nil {
			return err
		}
		defer free(inputs["x"])
		if s.tap != nil {
			if inputs["valid"], err = e.device.upload(valid, rows, 1); err != nil {
				return err
			}
			defer free(inputs["valid"])
		}
		out, err := p.run(w.with(inputs))
		if err != nil {
			return err
		}
		defer free(out[0])
		mu.Lock()
		err = s.give(key.layer, key.expert, p.roles, out[1:], len(piece))
		mu.Unlock()
		if err != nil {
			return err
		}
		y, err := download(out[0])
		if err != nil {
			return err
		}
		for k, at := range piece {
			weight := at.weight
			if moe.WeightInput {
				weight = 1
			}
			to := sum[at.batch][at.row*width:][:width]
			for j, v := range y[k*width:][:width] {
				to[j] += weight * v
			}
		}
		return nil
	})
}

// route chooses a token's experts from the router's logits, and says how much
// each counts, as spec.MoE says. Of equal ones the first is chosen.
func route(e *spec.MoE, logits, correction []float32) (chosen []int, shares []float64) {
	scores := scored(e, logits)
	type ranked struct {
		index int
		score float64
	}
	descending := func(a, b ranked) int { return cmp.Or(cmp.Compare(b.score, a.score), a.index-b.index) }
	order := make([]ranked, len(scores))
	for i, s := range scores {
		order[i] = ranked{i, s}
		if correction != nil {
			order[i].score += float64(correction[i])
		}
	}
	if e.Groups > 1 {
		size := e.Experts / e.Groups
		groups := make([]ranked, e.Groups)
		for g := range groups {
			members := slices.Clone(order[g*size:][:size])
			slices.SortFunc(members, descending)
			groups[g] = ranked{g, members[0].score}
			if e.GroupTop2 {
				groups[g].score += members[1].score
			}
		}
		slices.SortFunc(groups, descending)
		var left []ranked
		for _, g := range groups[:e.GroupsUsed] {
			left = append(left, order[g.index*size:][:size]...)
		}
		order = left
	}
	slices.SortFunc(order, descending)
	for _, o := range order[:e.Used] {
		chosen, shares = append(chosen, o.index), append(shares, scores[o.index])
	}
	if e.Scoring == spec.ScoreSoftmaxSelected {
		softmax(shares)
	}
	sum := e.NormEps
	for _, s := range shares {
		sum += s
	}
	for i := range shares {
		if e.Normalize {
			shares[i] /= sum
		}
		shares[i] *= float64(e.Scale)
	}
	return chosen, shares
}

// scored are the experts' scores, by which they are chosen: the logits where
// only the chosen get a softmax.
func scored(e *spec.MoE, logits []float32) []float64 {
	scores := make([]float64, len(logits))
	for i, l := range logits {
		scores[i] = float64(l)
	}
	switch e.Scoring {
	case spec.ScoreSoftmax:
		softmax(scores)
	case spec.ScoreSigmoid:
		for i, s := range scores {
			scores[i] = sigmoid(s)
		}
	}
	return scores
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// softmax replaces scores by their softmax.
func softmax(s []float64) {
	top, sum := slices.Max(s), 0.0
	for i := range s {
		s[i] = math.Exp(s[i] - top)
		sum += s[i]
	}
	for i := range s {
		s[i] /= sum
	}
}
