package plain

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// matrix is a weight of given values.
func matrix(rows ...[]float32) spec.Weight {
	return spec.Weight{
		Names: []string{"test"}, Rows: len(rows), Cols: len(rows[0]), Type: "F32",
		Read: func(_ context.Context, dst []float32, first int) error {
			for len(dst) > 0 {
				n := copy(dst, rows[first])
				dst, first = dst[n:], first+1
			}
			return nil
		},
	}
}

// scaled is factor times the unit matrix.
func scaled(n int, factor float32) spec.Weight {
	rows := make([][]float32, n)
	for i := range rows {
		rows[i] = make([]float32, n)
		rows[i][i] = factor
	}
	return matrix(rows...)
}

// tiny is a model of width 2 with one head of two values, whose matrices are
// all unit matrices but the last of each part, which are zero: it adds nothing
// to the embedding, [1 0], [0 1] or [3 4] for tokens 0 to 2.
func tiny() *spec.Model {
	return &spec.Model{
		Family: "tiny", Vocab: 3, Width: 2, Embedding: spec.Embedding{Scale: 1},
		Blocks: []spec.Block{{
			ResidualScale: 1,
			Attention:     &spec.Attention{Heads: 1, KVHeads: 1, KeyDim: 2, ValueDim: 2, Scale: 1, Causal: true},
			FFN:           spec.FFN{Activation: spec.ReLU, Inner: 2},
		}},
		Weights: map[spec.Slot]spec.Weight{
			spec.Global(spec.TokenEmbd): matrix([]float32{1, 0}, []float32{0, 1}, []float32{3, 4}),
			spec.At(0, spec.Q):          scaled(2, 1),
			spec.At(0, spec.K):          scaled(2, 1),
			spec.At(0, spec.V):          scaled(2, 1),
			spec.At(0, spec.AttnOut):    scaled(2, 0),
			spec.At(0, spec.Up):         scaled(2, 1),
			spec.At(0, spec.Down):       scaled(2, 0),
		},
	}
}

func run(t *testing.T, m *spec.Model, ids ...int32) [][]float64 {
	t.Helper()
	x, err := Forward(context.Background(), m, ids)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func near(a, b []float64) bool {
	return slices.EqualFunc(a, b, func(a, b float64) bool { return math.Abs(a-b) <= 1e-12 })
}

func wantRow(t *testing.T, what string, got []float64, want ...float64) {
	t.Helper()
	if !near(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestStream(t *testing.T) {
	wantRow(t, "nothing added", run(t, tiny(), 2)[0], 3, 4)

	m := tiny()
	m.Embedding.Scale = 2
	m.Weights[spec.Global(spec.PositionEmbd)] = matrix([]float32{0, 0}, []float32{10, 20})
	m.Weights[spec.Global(spec.TokenTypes)] = matrix([]float32{0.5, 0.25}, []float32{100, 100})
	wantRow(t, "scale, position and type", run(t, m, 0, 2)[1], 16.5, 28.25)

	m = tiny()
	m.Head = &spec.Head{Scale: 0.5, SoftCap: 2}
	m.Weights[spec.Global(spec.Output)] = matrix([]float32{1, 0}, []float32{0, 1}, []float32{1, 1})
	m.Weights[spec.Global(spec.Output.Bias())] = matrix([]float32{0, 0, -7})
	wantRow(t, "head", run(t, m, 2)[0], 2*math.Tanh(1.5/2), 2*math.Tanh(2./2), 0)

	// The feed-forward part doubles, residuals count half.
	m = tiny()
	m.Weights[spec.At(0, spec.Down)] = scaled(2, 2)
	m.Weights[spec.At(0, spec.AttnOut)] = scaled(2, 1)
	m.Blocks[0].ResidualScale = 0.5
	wantRow(t, "sequential", run(t, m, 2)[0], 4.5+4.5, 6+6)
	m.Blocks[0].Parallel = true
	wantRow(t, "parallel", run(t, m, 2)[0], 3+1.5+3, 4+2+4)

	// Each norm of a block, where it is the only one: [3 4]/sqrt(12.5).
	for role, want := range map[spec.Role][]float64{
		spec.PreMix:  {(3 + 3/math.Sqrt(12.5)) * 3, (4 + 4/math.Sqrt(12.5)) * 3},
		spec.PostMix: {(3 + 3/math.Sqrt(12.5)) * 3, (4 + 4/math.Sqrt(12.5)) * 3},
		spec.SumMix:  {9 / math.Sqrt(12.5), 12 / math.Sqrt(12.5)},
		spec.PreFFN:  {6 + 2*3/math.Sqrt(12.5), 8 + 2*4/math.Sqrt(12.5)},
		spec.PostFFN: {6 + 3/math.Sqrt(12.5), 8 + 4/math.Sqrt(12.5)},
		spec.SumFFN:  {3 / math.Sqrt(12.5), 4 / math.Sqrt(12.5)},
	} {
		m := tiny()
		m.Weights[spec.At(0, spec.Down)] = scaled(2, 2)
		m.Weights[spec.At(0, spec.AttnOut)] = scaled(2, 1)
		b, n := &m.Blocks[0], &spec.Norm{Kind: spec.RMSNorm}
		*map[spec.Role]**spec.Norm{
			spec.PreMix: &b.PreMix, spec.PostMix: &b.PostMix, spec.SumMix: &b.SumMix,
			spec.PreFFN: &b.PreFFN, spec.PostFFN: &b.PostFFN, spec.SumFFN: &b.SumFFN,
		}[role] = n
		wantRow(t, string(role), run(t, m, 2)[0], want...)
	}
}

func TestNorms(t *testing.T) {
	weight, bias := []float64{1, 2}, []float64{10, 20}
	for _, test := range []struct {
		norm         spec.Norm
		x            []float64
		weight, bias []float64
		want         []float64
	}{
		{spec.Norm{Kind: spec.RMSNorm}, []float64{3, 4}, nil, nil, []float64{3 / math.Sqrt(12.5), 4 / math.Sqrt(12.5)}},
		{spec.Norm{Kind: spec.L2Norm}, []float64{3, 4}, nil, nil, []float64{0.6, 0.8}},
		{spec.Norm{Kind: spec.LayerNorm}, []float64{3, 5}, weight, bias, []float64{9, 22}},
		{spec.Norm{Kind: spec.LayerNorm, Offset: 1}, []float64{3, 5}, weight, nil, []float64{-2, 3}},
		{spec.Norm{Kind: spec.RMSNorm, Eps: 0.5}, []float64{1, 0}, nil, nil, []float64{1, 0}},
	} {
		wantRow(t, fmt.Sprintf("%+v of %v", test.norm, test.x), normed(&test.norm, test.x, test.weight, test.bias), test.want...)
	}
}

func TestAttention(t *testing.T) {
	// With no queries all scores are 0: a mean of the values that are seen.
	mean := func(change func(m *spec.Model, a *spec.Attention)) [][]float64 {
		m := tiny()
		m.Weights[spec.At(0, spec.Q)] = scaled(2, 0)
		m.Weights[spec.At(0, spec.AttnOut)] = scaled(2, 1)
		change(m, m.Blocks[0].Attention)
		out := run(t, m, 0, 1, 2)
		embd := [][]float64{{1, 0}, {0, 1}, {3, 4}}
		return add(out, embd, -1)
	}
	none := func(*spec.Model, *spec.Attention) {}
	wantRow(t, "causal", mean(none)[1], 0.5, 0.5)
	wantRow(t, "causal", mean(none)[2], 4./3, 5./3)
	wantRow(t, "both ways", mean(func(_ *spec.Model, a *spec.Attention) { a.Causal = false })[0], 4./3, 5./3)
	wantRow(t, "window", mean(func(_ *spec.Model, a *spec.Attention) { a.Window = 2 })[2], 1.5, 2.5)
	wantRow(t, "window both ways", mean(func(_ *spec.Model, a *spec.Attention) { a.Causal, a.Window = false, 2 })[0], 0.5, 0.5)
	wantRow(t, "chunk", mean(func(_ *spec.Model, a *spec.Attention) { a.Chunk = 2 })[2], 3, 4)
	wantRow(t, "sink", mean(func(m *spec.Model, _ *spec.Attention) {
		m.Weights[spec.At(0, spec.Sinks)] = matrix([]float32{0})
	})[2], 1, 1.25)
	wantRow(t, "clamp", mean(func(_ *spec.Model, a *spec.Attention) { a.Clamp = 2 })[2], 1, 1)
	wantRow(t, "inner norm", mean(func(_ *spec.Model, a *spec.Attention) {
		a.InnerNorm = &spec.Norm{Kind: spec.L2Norm}
	})[1], math.Sqrt2/2, math.Sqrt2/2)
	// ALiBi of one head: 2^-ALiBi for each position.
	wantRow(t, "alibi", mean(func(_ *spec.Model, a *spec.Attention) { a.ALiBi = 1 })[1], 1/(1+math.Exp(0.5)), math.Exp(0.5)/(1+math.Exp(0.5)))

	// Scores of token 1 are q.k = 0 with itself's predecessor and 1 with itself.
	scores := func(change func(m *spec.Model, a *spec.Attention)) float64 {
		m := tiny()
		m.Weights[spec.At(0, spec.AttnOut)] = scaled(2, 1)
		change(m, m.Blocks[0].Attention)
		p := run(t, m, 0, 1)[1][0]
		return math.Log(1/p - 1) // p = 1/(1+exp(score))
	}
	for _, test := range []struct {
		what   string
		change func(m *spec.Model, a *spec.Attention)
		want   float64
	}{
		{"plain", none, 1},
		{"scale", func(_ *spec.Model, a *spec.Attention) { a.Scale = 3 }, 3},
		{"soft cap", func(_ *spec.Model, a *spec.Attention) { a.SoftCap = 0.5 }, 0.5 * math.Tanh(2)},
		{"temperature", func(_ *spec.Model, a *spec.Attention) { a.Temperature, a.TemperatureFloor = 0.5, 1 }, math.Log(3)*0.5 + 1},
		{"norm of queries", func(_ *spec.Model, a *spec.Attention) { a.QNorm = &spec.Norm{Kind: spec.RMSNorm} }, math.Sqrt2},
		{"norm with weights", func(m *spec.Model, a *spec.Attention) {
			a.KNorm = &spec.Norm{Kind: spec.L2Norm}
			m.Weights[spec.At(0, spec.KNorm)] = matrix([]float32{5, 7})
		}, 7},
	} {
		if got := scores(test.change); math.Abs(got-test.want) > 1e-12 {
			t.Errorf("%s: score %v, want %v", test.what, got, test.want)
		}
	}
}

func TestHeads(t *testing.T) {
	// Four query heads of one value share two key heads.
	m := tiny()
	m.Blocks[0].Attention = &spec.Attention{Heads: 4, KVHeads: 2, KeyDim: 1, ValueDim: 1, Causal: true, Scale: 1}
	m.Weights[spec.At(0, spec.Q)] = matrix([]float32{1, 0}, []float32{1, 0}, []float32{1, 0}, []float32{1, 0})
	m.Weights[spec.At(0, spec.AttnOut)] = matrix([]float32{1, 10, 100, 1000}, []float32{0, 0, 0, 0})
	wantRow(t, "grouped heads", run(t, m, 2)[0], 3+11*3+1100*4, 4)

	// Weights of a norm for each head.
	f := &forward{model: m, ctx: context.Background()}
	a := &spec.Attention{Heads: 2, KeyDim: 2}
	m.Weights[spec.At(0, spec.QNorm)] = matrix([]float32{1, 1}, []float32{10, 100})
	got := f.headNorm(a, &spec.Norm{Kind: spec.L2Norm}, spec.At(0, spec.QNorm), [][]float64{{3, 4, 6, 8}}, 2)
	wantRow(t, "norm per head", got[0], 0.6, 0.8, 6, 80)
	a.NormWhole = true
	m.Weights[spec.At(0, spec.QNorm)] = matrix([]float32{1, 1, 1, 2})
	got = f.headNorm(a, &spec.Norm{Kind: spec.L2Norm}, spec.At(0, spec.QNorm), [][]float64{{1, 1, 1, 1}}, 2)
	wantRow(t, "norm of all heads", got[0], 0.5, 0.5, 0.5, 1)
}

func TestRope(t *testing.T) {
	x := func() [][]float64 { return [][]float64{{1, 2, 3, 4, 5}, {1, 2, 3, 4, 5}} }
	turned := func(a, b, angle float64) (float64, float64) {
		return a*math.Cos(angle) - b*math.Sin(angle), a*math.Sin(angle) + b*math.Cos(angle)
	}
	half := x()
	turn(&spec.Rope{InvFreq: []float64{1, 0.1}, Magnitude: 1}, half, 1, 0)
	wantRow(t, "position 0", half[0], 1, 2, 3, 4, 5)
	a, c := turned(1, 3, 1)
	b, d := turned(2, 4, 0.1)
	wantRow(t, "halves", half[1], a, b, c, d, 5)

	pairs := x()
	turn(&spec.Rope{InvFreq: []float64{1, 0.1}, Magnitude: 2, Interleaved: true}, pairs, 1, 1)
	a, b = turned(2, 3, 1)
	c, d = turned(4, 5, 0.1)
	wantRow(t, "pairs from 1 on, twice as long", pairs[1], 1, 2*a, 2*b, 2*c, 2*d)

	long := &spec.Rope{InvFreq: []float64{1}, Magnitude: 1, Long: []float64{0.5}, LongMagnitude: 3, LongFrom: 1}
	y := x()
	turn(long, y, 1, 0)
	a, b = turned(1, 2, 0.5)
	wantRow(t, "long", y[1], 3*a, 3*b, 3, 4, 5)
	long.LongFrom = 2
	y = x()
	turn(long, y, 1, 0)
	a, b = turned(1, 2, 1)
	wantRow(t, "not yet long", y[1], a, b, 3, 4, 5)
}

func TestSlopes(t *testing.T) {
	// ggml_soft_max_ext with max_bias 8.
	for heads, want := range map[int][]float64{
		4:  {-2, -4, -6, -8},
		12: {-1, -2, -3, -4, -5, -6, -7, -8, -0.5, -1.5, -2.5, -3.5},
	} {
		var got []float64
		for h := range heads {
			got = append(got, math.Log2(slope(&spec.Attention{Heads: heads, ALiBi: 8}, h)))
		}
		wantRow(t, fmt.Sprint(heads, " heads"), got, want...)
	}
}

func TestLatentAttention(t *testing.T) {
	// One latent, one value without position and two rotary ones.
	m := tiny()
	m.Blocks[0].Attention = &spec.Attention{
		Heads: 1, KVHeads: 1, KeyDim: 3, ValueDim: 1, Causal: true, Scale: 1,
		MLA:  &spec.MLA{KVRank: 1, Nope: 1, Rope: 2},
		Rope: &spec.Rope{InvFreq: []float64{math.Pi / 2}, Magnitude: 1},
	}
	w := m.Weights
	delete(w, spec.At(0, spec.K))
	delete(w, spec.At(0, spec.V))
	w[spec.At(0, spec.Q)] = matrix([]float32{1, 1}, []float32{1, 0}, []float32{0, 1})
	w[spec.At(0, spec.KVA)] = matrix([]float32{1, 2}, []float32{1, 0}, []float32{0, 1})
	w[spec.At(0, spec.KB)] = matrix([]float32{0.5})
	w[spec.At(0, spec.VB)] = matrix([]float32{10})
	w[spec.At(0, spec.AttnOut)] = matrix([]float32{1}, []float32{0})
	// Token 0 at both positions: latent 1, so value 10 and key [0.5, rotary].
	// Rotary parts are [1 0] turned by 0 and by a quarter: scores 0.5 + 0 and
	// 0.5 + 1, equal values.
	wantRow(t, "value", run(t, m, 0, 0)[1], 11, 0)
	// Token 1 then token 0: values 20 and 10. Query of token 0 at position 1:
	// [1, (0 1)]; keys [1, (0 1)] and [0.5, (0 1)].
	p := 1 / (1 + math.Exp(0.5+1-1-1))
	wantRow(t, "scores", run(t, m, 1, 0)[1], 1+20*p+10*(1-p), 0)

	// The same with a compressed query.
	m.Blocks[0].Attention.MLA.QRank = 2
	m.Blocks[0].Attention.MLA.QANorm = &spec.Norm{Kind: spec.L2Norm}
	w[spec.At(0, spec.QB)] = w[spec.At(0, spec.Q)]
	delete(w, spec.At(0, spec.Q))
	w[spec.At(0, spec.QA)] = scaled(2, 5)
	wantRow(t, "compressed query", run(t, m, 1, 0)[1], 1+20*p+10*(1-p), 0)
}

func TestShortConv(t *testing.T) {
	m := tiny()
	m.Blocks[0].Attention, m.Blocks[0].Conv = nil, &spec.ShortConv{Kernel: 2}
	w := m.Weights
	for _, r := range []spec.Role{spec.Q, spec.K, spec.V, spec.AttnOut} {
		delete(w, spec.At(0, r))
	}
	// b = x, c = 2x, h = 3x: what is convolved is 3x^2.
	w[spec.At(0, spec.ConvIn)] = matrix([]float32{1, 0}, []float32{0, 1}, []float32{2, 0}, []float32{0, 2}, []float32{3, 0}, []float32{0, 3})
	w[spec.At(0, spec.ConvTaps)] = matrix([]float32{100, 1}, []float32{10, 1})
	w[spec.At(0, spec.ConvOut)] = scaled(2, 1)
	x := run(t, m, 2, 2)
	wantRow(t, "first token", x[0], 3+6*27, 4+8*48)
	wantRow(t, "second token", x[1], 3+6*27*101, 4+8*48*11)
}

func TestFFN(t *testing.T) {
	for a, want := range map[spec.Activation]float64{
		spec.SiLU: 2 / (1 + math.Exp(-2)), spec.ReLU: 2, spec.ReLU2: 4,
		spec.GELU: 2 * 0.9772498680518208, spec.GELUTanh: 1.9545976940877752,
	} {
		if got := activate(a, 2); math.Abs(got-want) > 1e-14 {
			t.Errorf("%s(2) is %v, want %v", a, got, want)
		}
	}
	m := tiny()
	m.Blocks[0].FFN = spec.FFN{Gated: true, Activation: spec.ReLU, Inner: 2, InnerNorm: &spec.Norm{Kind: spec.L2Norm}}
	m.Weights[spec.At(0, spec.Gate)] = scaled(2, 2)
	m.Weights[spec.At(0, spec.Down)] = scaled(2, 1)
	n := math.Hypot(18, 32)
	wantRow(t, "gated and normed", run(t, m, 2)[0], 3+18/n, 4+32/n)

	m.Blocks[0].FFN = spec.FFN{Gated: true, Activation: spec.SwiGLUClamped, Alpha: 2, Limit: 3.5, Inner: 2}
	sig := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	wantRow(t, "clamped", run(t, m, 2)[0], 3+3.5*sig(7)*4, 4+3.5*sig(7)*4.5)
}

func TestRoute(t *testing.T) {
	e := math.E
	logits := []float64{0, 1, 2, 1.5}
	sum := 1 + e + e*e + math.Exp(1.5)
	sig := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	for _, test := range []struct {
		what       string
		moe        spec.MoE
		correction []float64
		chosen     []int
		weights    []float64
	}{
		{"softmax", spec.MoE{Used: 2, Scoring: spec.ScoreSoftmax, Scale: 1}, nil, []int{2, 3}, []float64{e * e / sum, math.Exp(1.5) / sum}},
		{"normalized and scaled", spec.MoE{Used: 2, Scoring: spec.ScoreSoftmax, Normalize: true, Scale: 3}, nil, []int{2, 3}, []float64{3 * sig(0.5), 3 * sig(-0.5)}},
		{"softmax of the chosen", spec.MoE{Used: 2, Scoring: spec.ScoreSoftmaxSelected, Scale: 1}, nil, []int{2, 3}, []float64{sig(0.5), sig(-0.5)}},
		{"sigmoid", spec.MoE{Used: 1, Scoring: spec.ScoreSigmoid, Scale: 1}, nil, []int{2}, []float64{sig(2)}},
		{"correction chooses only", spec.MoE{Used: 1, Scoring: spec.ScoreSigmoid, Scale: 1}, []float64{1, 0, 0, 0}, []int{0}, []float64{0.5}},
		{"with epsilon", spec.MoE{Used: 1, Scoring: spec.ScoreSigmoid, Normalize: true, NormEps: 1, Scale: 1}, []float64{1, 0, 0, 0}, []int{0}, []float64{0.5 / 1.5}},
		{"best group", spec.MoE{Used: 1, Scoring: spec.ScoreSoftmaxSelected, Groups: 2, GroupsUsed: 1, Scale: 1}, []float64{0, 5, 0, 0}, []int{1}, []float64{1}},
		{"group by its best", spec.MoE{Used: 2, Scoring: spec.ScoreSoftmaxSelected, Groups: 2, GroupsUsed: 1, Scale: 1}, []float64{3, 0, 0, 0}, []int{0, 1}, []float64{sig(-1), sig(1)}},
		{"group by its two best", spec.MoE{Used: 2, Scoring: spec.ScoreSoftmaxSelected, Groups: 2, GroupsUsed: 1, GroupTop2: true, Scale: 1}, []float64{2.4, 0, 0, 0}, []int{2, 3}, []float64{sig(0.5), sig(-0.5)}},
	} {
		test.moe.Experts = 4
		chosen, weights := route(&test.moe, logits, test.correction)
		if !slices.Equal(chosen, test.chosen) || !near(weights, test.weights) {
			t.Errorf("%s: %v with %v, want %v with %v", test.what, chosen, weights, test.chosen, test.weights)
		}
	}
}

func TestExperts(t *testing.T) {
	m := tiny()
	m.Blocks[0].FFN = spec.FFN{Activation: spec.ReLU2, MoE: &spec.MoE{
		Experts: 2, Used: 1, Inner: 2, Scoring: spec.ScoreSigmoid, Scale: 1, SharedInner: 2,
	}}
	w := m.Weights
	w[spec.At(0, spec.Router)] = matrix([]float32{-1, 0}, []float32{1, 0})
	w[spec.At(0, spec.SharedUp)] = scaled(2, 1)
	w[spec.At(0, spec.SharedDown)] = scaled(2, 100)
	delete(w, spec.At(0, spec.Up))
	delete(w, spec.At(0, spec.Down))
	for x := range 2 {
		w[spec.Slot{Layer: 0, Role: spec.Up, Expert: x}] = scaled(2, 1)
		w[spec.Slot{Layer: 0, Role: spec.Down, Expert: x}] = scaled(2, float32(x))
	}
	p := 1 / (1 + math.Exp(-3))
	wantRow(t, "output weighted", run(t, m, 2)[0], 3+9*p+900, 4+16*p+1600)
	m.Blocks[0].FFN.MoE.WeightInput = true
	wantRow(t, "input weighted", run(t, m, 2)[0], 3+9*p*p+900, 4+16*p*p+1600)
	w[spec.At(0, spec.SharedRouter)] = matrix([]float32{1, 0})
	wantRow(t, "shared part weighted", run(t, m, 2)[0], 3+9*p*p+900*p, 4+16*p*p+1600*p)
}

func TestHooks(t *testing.T) {
	var calls []string
	r := Runner{Model: tiny()}
	r.Input = func(s spec.Slot, x [][]float64) { calls = append(calls, fmt.Sprintf("%v %v", s, x)) }
	r.Trace = func(layer int, what string, x [][]float64) {
		calls = append(calls, fmt.Sprintf("%d %s %v", layer, what, x))
	}
	r.Model.Weights[spec.At(0, spec.Down)] = scaled(2, 1)
	if _, err := r.Forward(context.Background(), []int32{2}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"-1 embedding [[3 4]]", "layer 0 q [[3 4]]", "layer 0 k [[3 4]]", "layer 0 v [[3 4]]", "layer 0 attn_out [[3 4]]",
		"0 mix [[0 0]]", "layer 0 up [[3 4]]", "layer 0 down [[3 4]]", "0 ffn [[3 4]]", "0 block [[6 8]]", "-1 final [[6 8]]",
	}
	if !slices.Equal(calls, want) {
		t.Errorf("calls %q, want %q", calls, want)
	}
}

func TestErrors(t *testing.T) {
	for _, id := range []int32{-1, 3} {
		if _, err := Forward(context.Background(), tiny(), []int32{0, id}); err == nil || !strings.Contains(err.Error(), "at position 1: the vocabulary has 3") {
			t.Errorf("token %d: %v", id, err)
		}
	}
	m := tiny()
	m.Weights[spec.Global(spec.PositionEmbd)] = matrix([]float32{0, 0})
	if _, err := Forward(context.Background(), m, []int32{0, 0}); err == nil || !strings.Contains(err.Error(), "more than 1 tokens") {
		t.Errorf("two tokens in one position: %v", err)
	}
	m = tiny()
	broken := errors.New("broken")
	w := m.Weights[spec.At(0, spec.Up)]
	w.Read = func(context.Context, []float32, int) error { return broken }
	m.Weights[spec.At(0, spec.Up)] = w
	if _, err := Forward(context.Background(), m, []int32{0}); !errors.Is(err, broken) {
		t.Errorf("a weight that cannot be read: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Forward(ctx, tiny(), []int32{0}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if x, err := Forward(context.Background(), tiny(), nil); err != nil || len(x) != 0 {
		t.Errorf("no tokens: %v, %v", x, err)
	}
}
