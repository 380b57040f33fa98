package plain

import (
	"cmp"
	"math"
	"slices"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// ffn is what a block's feed-forward part adds to the residual stream.
func (f *forward) ffn(layer int, p *spec.FFN, x [][]float64) [][]float64 {
	at := func(r spec.Role) spec.Slot { return spec.At(layer, r) }
	if p.MoE == nil {
		return f.gated(p, x, at(spec.Gate), at(spec.Up), at(spec.Down))
	}
	y := f.experts(layer, p, x)
	if p.MoE.SharedInner > 0 {
		shared := f.gated(p, x, at(spec.SharedGate), at(spec.SharedUp), at(spec.SharedDown))
		if s := at(spec.SharedRouter); f.has(s) {
			for t, logit := range f.mul(s, x) {
				for i := range shared[t] {
					shared[t][i] *= sigmoid(logit[0])
				}
			}
		}
		y = add(y, shared, 1)
	}
	return y
}

// gated is Down(act(Gate x) * Up x), or Down(act(Up x)) where there is no gate.
func (f *forward) gated(p *spec.FFN, x [][]float64, gate, up, down spec.Slot) [][]float64 {
	u := f.mul(up, x)
	switch {
	case p.Activation == spec.SwiGLUClamped:
		alpha, limit := float64(p.Alpha), float64(p.Limit)
		for t, row := range f.mul(gate, x) {
			for i, g := range row {
				g = min(g, limit)
				u[t][i] = g * sigmoid(alpha*g) * (max(-limit, min(u[t][i], limit)) + 1)
			}
		}
	case p.Gated:
		for t, row := range f.mul(gate, x) {
			for i, g := range row {
				u[t][i] *= activate(p.Activation, g)
			}
		}
	default:
		each(u, func(v float64) float64 { return activate(p.Activation, v) })
	}
	if p.InnerNorm != nil {
		u = f.norm(p.InnerNorm, spec.At(down.Layer, spec.FFNInner), u)
	}
	return f.mul(down, u)
}

func activate(a spec.Activation, x float64) float64 {
	switch a {
	case spec.SiLU:
		return x * sigmoid(x)
	case spec.GELU:
		return 0.5 * x * (1 + math.Erf(x/math.Sqrt2))
	case spec.GELUTanh:
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	case spec.ReLU:
		return max(x, 0)
	case spec.ReLU2:
		return max(x, 0) * max(x, 0)
	case spec.Tanh:
		return math.Tanh(x)
	}
	return math.NaN() // Check lets no other pass
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// experts is the sum of what the chosen experts make of each token.
func (f *forward) experts(layer int, p *spec.FFN, x [][]float64) [][]float64 {
	e := p.MoE
	correction := f.vector(spec.At(layer, spec.RouterCorrection))
	tokens := make([][]int, e.Experts)      // that chose the expert
	weights := make([][]float64, e.Experts) // of those tokens
	for t, logits := range f.mul(spec.At(layer, spec.Router), x) {
		chosen, weight := route(e, logits, correction)
		for i, expert := range chosen {
			tokens[expert] = append(tokens[expert], t)
			weights[expert] = append(weights[expert], weight[i])
		}
	}
	y := zeros(len(x), f.model.Width)
	for expert := range e.Experts {
		if len(tokens[expert]) == 0 {
			continue
		}
		in := zeros(len(tokens[expert]), f.model.Width)
		for n, t := range tokens[expert] {
			for i, v := range x[t] {
				if e.WeightInput {
					v *= weights[expert][n]
				}
				in[n][i] = v
			}
		}
		slot := func(r spec.Role) spec.Slot { return spec.Slot{Layer: layer, Role: r, Expert: expert} }
		for n, row := range f.gated(p, in, slot(spec.Gate), slot(spec.Up), slot(spec.Down)) {
			for i, v := range row {
				if !e.WeightInput {
					v *= weights[expert][n]
				}
				y[tokens[expert][n]][i] += v
			}
		}
	}
	return y
}

// route chooses the experts of one token and says how much each counts. Of
// equal experts and groups the first is chosen.
func route(e *spec.MoE, logits, correction []float64) (chosen []int, weights []float64) {
	scores := slices.Clone(logits)
	switch e.Scoring {
	case spec.ScoreSoftmax:
		scores = softmax(logits)
	case spec.ScoreSigmoid:
		for i := range scores {
			scores[i] = sigmoid(scores[i])
		}
	}
	choice := slices.Clone(scores)
	for i := range correction {
		choice[i] += correction[i]
	}

	candidates := indices(e.Experts)
	if e.Groups > 1 {
		size := e.Experts / e.Groups
		groups := make([]float64, e.Groups)
		for g := range groups {
			sorted := slices.Clone(choice[g*size : (g+1)*size])
			slices.SortFunc(sorted, func(a, b float64) int { return cmp.Compare(b, a) })
			groups[g] = sorted[0]
			if e.GroupTop2 {
				groups[g] += sorted[1]
			}
		}
		used := best(groups, indices(e.Groups), e.GroupsUsed)
		candidates = slices.DeleteFunc(candidates, func(i int) bool { return !slices.Contains(used, i/size) })
	}
	chosen = best(choice, candidates, e.Used)

	for _, i := range chosen {
		weights = append(weights, scores[i])
	}
	if e.Scoring == spec.ScoreSoftmaxSelected {
		weights = softmax(weights)
	}
	sum := e.NormEps
	for _, w := range weights {
		sum += w
	}
	for i := range weights {
		if e.Normalize {
			weights[i] /= sum
		}
		weights[i] *= float64(e.Scale)
	}
	return chosen, weights
}

// best returns the n of the candidates with the highest scores.
func best(scores []float64, candidates []int, n int) []int {
	sorted := slices.Clone(candidates)
	slices.SortStableFunc(sorted, func(a, b int) int { return cmp.Compare(scores[b], scores[a]) })
	return sorted[:n]
}

func indices(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}
