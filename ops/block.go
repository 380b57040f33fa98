package ops

import (
	"encoding/json"
	"fmt"
	"math"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// A form is everything that the graphs of a block depend on, so that blocks of
// one form share them. Tokens are the rows of matrices, sequence after
// sequence; heads have the axes [sequences, tokens, heads, values].
type form struct {
	Block     spec.Block
	Width     int
	Sequences int
	Length    int // of each sequence, with padding
	Taps      bool

	Pairs int                  // of the rotary embedding, whose angles are inputs
	Mask  []int                // shape of the mask; nil: none
	Roles map[spec.Role][2]int // rows and columns of the weights that are there
}

// formOf describes a block of a model for sequences of a length.
func formOf(m *spec.Model, layer int, roles map[spec.Role][2]int, sequences, length int, mask []int, taps bool) form {
	f := form{Block: m.Blocks[layer], Width: m.Width, Sequences: sequences, Length: length, Mask: mask, Roles: roles, Taps: taps}
	if a := f.Block.Attention; a != nil && a.Rope != nil {
		f.Pairs = len(a.Rope.InvFreq)
		attention, rope := *a, *a.Rope
		rope.InvFreq, rope.Magnitude, rope.Long, rope.LongMagnitude, rope.LongFrom = nil, 0, nil, 0, 0
		attention.Rope, f.Block.Attention = &rope, &attention
	}
	return f
}

// key names the form's graph of a kind.
func (f form) key(kind string) (string, error) {
	text, err := json.Marshal(f)
	if err != nil {
		return "", fmt.Errorf("form of a block: %w", err)
	}
	return kind + " " + string(text), nil
}

// blockGraph builds the graphs of a form.
type blockGraph struct {
	form
	*builder
	taps  []*Node
	in    *Node  // the residual stream before the block
	used  []used // the matrices, as they were multiplied by
	valid *Node  // [rows, 1], 1 for rows that are tokens; nil: all are
}

// used is a matrix's role, input and output.
type used struct {
	role spec.Role
	x, y *Node
}

func (g *blockGraph) has(r spec.Role) bool { _, ok := g.Roles[r]; return ok }

// weight is the input that holds a role's tensor.
func (g *blockGraph) weight(r spec.Role) *Node {
	shape := g.Roles[r]
	return g.input(string(r), shape[0], shape[1])
}

// tap gives out the sum of the squares of x's columns.
func (g *blockGraph) tap(r spec.Role, x *Node) {
	if !g.Taps {
		return
	}
	squares := Square(x)
	if g.valid != nil {
		squares = Mul(squares, g.valid)
	}
	g.roles = append(g.roles, r)
	g.taps = append(g.taps, ReduceSum(squares, 0))
}

// mul is x times the transpose of a matrix, plus its bias.
func (g *blockGraph) mul(r spec.Role, x *Node) *Node {
	y := DotGeneral(x, []int{1}, nil, g.weight(r), []int{1}, nil)
	g.used = append(g.used, used{r, x, y})
	if g.has(r.Bias()) {
		y = Add(y, g.weight(r.Bias()))
	}
	return y
}

// norm is x normed over its last axis; a nil norm is none.
func (g *blockGraph) norm(n *spec.Norm, r spec.Role, x *Node) *Node {
	if n == nil {
		return x
	}
	size := float64(x.Shape().Dim(-1))
	if n.Kind == spec.LayerNorm {
		x = Sub(x, MulScalar(ReduceAndKeep(x, ReduceSum, -1), 1/size))
	}
	sum := ReduceAndKeep(Square(x), ReduceSum, -1)
	if n.Kind != spec.L2Norm {
		sum = MulScalar(sum, 1/size)
	}
	x = Mul(x, Reciprocal(Sqrt(AddScalar(sum, n.Eps)))) // Rsqrt has no gradient
	affine := func(r spec.Role) *Node {                 // as many axes as x has, the last two of them its own
		w := g.weight(r)
		return ExpandLeftToRank(w, x.Rank())
	}
	if g.has(r) {
		w := affine(r)
		if n.Offset != 0 {
			w = AddScalar(w, n.Offset)
		}
		x = Mul(x, w)
	}
	if g.has(r.Bias()) {
		x = Add(x, affine(r.Bias()))
	}
	return x
}

// addScaled is x + ResidualScale*y.
func (g *blockGraph) addScaled(x, y *Node) *Node {
	if g.Block.ResidualScale != 1 {
		y = MulScalar(y, g.Block.ResidualScale)
	}
	return Add(x, y)
}

// mixed is what the mixing part gives for its normed input.
func (g *blockGraph) mixed(x *Node) *Node {
	if g.Block.Conv != nil {
		return g.shortConv(x)
	}
	return g.attention(x)
}

// beforeFeedForward is a block's residual stream after its mixing part, and the
// feed-forward part's input.
func (g *blockGraph) beforeFeedForward() (x, in *Node) {
	b := g.Block
	x = g.input("x", g.Sequences*g.Length, g.Width)
	g.in = x
	in = g.norm(b.PreMix, spec.PreMix, x)
	mixed := g.addScaled(x, g.norm(b.PostMix, spec.PostMix, g.mixed(in)))
	switch {
	case !b.Parallel:
		mixed = g.norm(b.SumMix, spec.SumMix, mixed)
		in = g.norm(b.PreFFN, spec.PreFFN, mixed)
	case b.PreFFN != nil:
		in = g.norm(b.PreFFN, spec.PreFFN, x)
	}
	return mixed, in
}

// afterFeedForward adds the feed-forward part's output to the residual stream.
func (g *blockGraph) afterFeedForward(x, out *Node) *Node {
	b := g.Block
	return g.norm(b.SumFFN, spec.SumFFN, g.addScaled(x, g.norm(b.PostFFN, spec.PostFFN, out)))
}

// whole builds a block without experts: the residual stream after it, and taps.
func (g *blockGraph) whole() []*Node {
	x, in := g.beforeFeedForward()
	x = g.afterFeedForward(x, g.feedForward(in, spec.Gate, spec.Up, spec.Down))
	return append([]*Node{x}, g.taps...)
}

// beforeExperts builds a block up to its experts: the residual stream, the
// experts' input, the router's logits, the shared part's output where there is
// one, and taps.
func (g *blockGraph) beforeExperts() []*Node {
	outputs := g.toExperts()
	outputs[0], outputs[1] = Identity(outputs[0]), Identity(outputs[1]) // which may be inputs
	return append(outputs, g.taps...)
}

// toExperts is beforeExperts without taps.
func (g *blockGraph) toExperts() []*Node {
	x, in := g.beforeFeedForward()
	g.tap(spec.Router, in)
	outputs := []*Node{x, in, g.mul(spec.Router, in)}
	if g.Block.FFN.MoE.SharedInner > 0 {
		shared := g.feedForward(in, spec.SharedGate, spec.SharedUp, spec.SharedDown)
		if g.has(spec.SharedRouter) {
			g.tap(spec.SharedRouter, in)
			shared = Mul(shared, Sigmoid(g.mul(spec.SharedRouter, in)))
		}
		outputs = append(outputs, shared)
	}
	return outputs
}

// afterExperts builds the rest of that block from the sum of the experts.
func (g *blockGraph) afterExperts() []*Node {
	x := g.input("x", g.Sequences*g.Length, g.Width)
	out := g.input("experts", g.Sequences*g.Length, g.Width)
	if g.Block.FFN.MoE.SharedInner > 0 {
		out = Add(out, g.input("shared", g.Sequences*g.Length, g.Width))
	}
	return []*Node{g.afterFeedForward(x, out)}
}

// expert builds one expert for rows of input, of which "valid" says with 1 or 0
// which are tokens: its output, and taps.
func (g *blockGraph) expert() []*Node {
	rows := g.Sequences * g.Length
	x := g.input("x", rows, g.Width)
	if g.Taps {
		g.valid = g.input("valid", rows, 1)
	}
	out := g.feedForward(x, spec.Gate, spec.Up, spec.Down)
	return append([]*Node{out}, g.taps...)
}

// attention is as spec.Attention says.
func (g *blockGraph) attention(x *Node) *Node {
	a := g.Block.Attention
	b, t, h, kv := g.Sequences, g.Length, a.Heads, a.KVHeads
	var q, k, v, latents *Node
	if a.MLA != nil {
		q, k, v, latents = g.latent(x)
		nope := Slice(Reshape(q, b*t, h, a.KeyDim), AxisRange(), AxisRange(), AxisRange(0, a.MLA.Nope))
		g.tap(spec.AbsorbedKB, Reshape(nope, b*t, h*a.MLA.Nope))
	} else {
		g.tap(spec.Q, x)
		q, k, v = g.mul(spec.Q, x), g.mul(spec.K, x), g.mul(spec.V, x)
	}
	if c := float64(a.Clamp); c > 0 {
		q, k, v = ClipScalar(q, -c, c), ClipScalar(k, -c, c), ClipScalar(v, -c, c)
	}
	if !a.NormAfterRope {
		q, k = g.headNorm(a.QNorm, spec.QNorm, q, h), g.headNorm(a.KNorm, spec.KNorm, k, kv)
	}
	q, k = Reshape(q, b, t, h, a.KeyDim), Reshape(k, b, t, kv, a.KeyDim)
	if a.Rope != nil {
		cos := Reshape(g.input("cos", t, g.Pairs), 1, t, 1, g.Pairs)
		sin := Reshape(g.input("sin", t, g.Pairs), 1, t, 1, g.Pairs)
		q, k = g.turned(q, cos, sin), g.turned(k, cos, sin)
	}
	if a.NormAfterRope {
		q = g.headNorm(a.QNorm, spec.QNorm, Reshape(q, b*t, h*a.KeyDim), h)
		k = g.headNorm(a.KNorm, spec.KNorm, Reshape(k, b*t, kv*a.KeyDim), kv)
		q, k = Reshape(q, b, t, h, a.KeyDim), Reshape(k, b, t, kv, a.KeyDim)
	}
	if a.Temperature != 0 {
		q = Mul(q, Reshape(g.input("temperature", t, 1), 1, t, 1, 1))
	}
	q = MulScalar(q, a.Scale)

	// The queries of one key head are the rows of one matrix.
	group := h / kv
	q = TransposeAllAxes(Reshape(q, b, t, kv, group, a.KeyDim), 0, 2, 3, 1, 4)
	q = Reshape(q, b*kv, group*t, a.KeyDim)
	k = Reshape(TransposeAllAxes(k, 0, 2, 1, 3), b*kv, t, a.KeyDim)
	v = TransposeAllAxes(Reshape(v, b, t, kv, a.ValueDim), 0, 2, 1, 3)
	v = Reshape(v, b*kv, t, a.ValueDim)
	scores := Reshape(DotGeneral(q, []int{2}, []int{0}, k, []int{2}, []int{0}), b, h, t, t)
	scores = softCapped(scores, a.SoftCap)
	if g.Mask != nil {
		scores = Add(scores, g.input("mask", g.Mask...))
	}
	if g.has(spec.Sinks) {
		sinks := Reshape(g.weight(spec.Sinks), 1, h, 1, 1)
		scores = Concatenate([]*Node{scores, BroadcastToDims(sinks, b, h, t, 1)}, -1)
	}
	p := Softmax(scores, -1)
	if g.has(spec.Sinks) {
		p = Slice(p, AxisRange(), AxisRange(), AxisRange(), AxisRange(0, t))
	}
	if latents != nil && g.Taps {
		rank := a.MLA.KVRank
		mixed := DotGeneral(p, []int{3}, []int{0}, Reshape(latents, b, t, rank), []int{1}, []int{0})
		g.tap(spec.AbsorbedVB, Reshape(TransposeAllAxes(mixed, 0, 2, 1, 3), b*t, h*rank))
	}
	y := DotGeneral(Reshape(p, b*kv, group*t, t), []int{2}, []int{0}, v, []int{1}, []int{0})
	y = TransposeAllAxes(Reshape(y, b, kv, group, t, a.ValueDim), 0, 3, 1, 2, 4)
	y = g.norm(a.InnerNorm, spec.AttnInner, Reshape(y, b*t, h*a.ValueDim))
	g.tap(spec.AttnOut, y)
	return g.mul(spec.AttnOut, y)
}

// latent gives the queries, keys and values of spec.MLA, and its latents.
func (g *blockGraph) latent(x *Node) (q, k, v, low *Node) {
	a := g.Block.Attention
	l := a.MLA
	b, t := g.Sequences, g.Length
	if l.QRank > 0 {
		g.tap(spec.QA, x)
		low := g.norm(l.QANorm, spec.QANorm, g.mul(spec.QA, x))
		g.tap(spec.QB, low)
		q = g.mul(spec.QB, low)
	} else {
		g.tap(spec.Q, x)
		q = g.mul(spec.Q, x)
	}
	g.tap(spec.KVA, x)
	kva := g.mul(spec.KVA, x)
	low = g.norm(l.KVANorm, spec.KVANorm, Slice(kva, AxisRange(), AxisRange(0, l.KVRank)))
	rotary := Slice(kva, AxisRange(), AxisRange(l.KVRank, l.KVRank+l.Rope))
	g.tap(spec.KB, low)
	g.tap(spec.VB, low)
	nope := Reshape(g.mul(spec.KB, low), b, t, a.Heads, l.Nope)
	rotary = BroadcastToDims(Reshape(rotary, b, t, 1, l.Rope), b, t, a.Heads, l.Rope)
	k = Reshape(Concatenate([]*Node{nope, rotary}, -1), b*t, a.Heads*a.KeyDim)
	return q, k, g.mul(spec.VB, low), low
}

// headNorm norms rows of heads, each head for itself or all together.
func (g *blockGraph) headNorm(n *spec.Norm, r spec.Role, x *Node, heads int) *Node {
	a := g.Block.Attention
	if n == nil || a.NormWhole {
		return g.norm(n, r, x)
	}
	rows := g.Sequences * g.Length
	return Reshape(g.norm(n, r, Reshape(x, rows, heads, a.KeyDim)), rows, heads*a.KeyDim)
}

// turned applies the rotary embedding to heads.
func (g *blockGraph) turned(x, cos, sin *Node) *Node {
	a := g.Block.Attention
	start, n := a.Rope.Start, g.Pairs
	if a.MLA != nil {
		start += a.MLA.Nope
	}
	part := func(x *Node, from, to int) *Node {
		return Slice(x, AxisRange(), AxisRange(), AxisRange(), AxisRange(from, to))
	}
	var first, second *Node
	if a.Rope.Interleaved {
		dims := x.Shape().Dimensions
		pairs := Reshape(part(x, start, start+2*n), dims[0], dims[1], dims[2]*n, 2)
		first = Reshape(part(pairs, 0, 1), dims[0], dims[1], dims[2], n)
		second = Reshape(part(pairs, 1, 2), dims[0], dims[1], dims[2], n)
	} else {
		first, second = part(x, start, start+n), part(x, start+n, start+2*n)
	}
	first, second = Sub(Mul(first, cos), Mul(second, sin)), Add(Mul(first, sin), Mul(second, cos))
	var pieces []*Node
	if start > 0 {
		pieces = append(pieces, part(x, 0, start))
	}
	if a.Rope.Interleaved {
		dims := first.Shape().Dimensions
		pair := Concatenate([]*Node{ExpandAxes(first, -1), ExpandAxes(second, -1)}, -1)
		pieces = append(pieces, Reshape(pair, dims[0], dims[1], dims[2], 2*n))
	} else {
		pieces = append(pieces, first, second)
	}
	if end := start + 2*n; end < a.KeyDim {
		pieces = append(pieces, part(x, end, a.KeyDim))
	}
	if len(pieces) == 1 {
		return pieces[0]
	}
	return Concatenate(pieces, -1)
}

// shortConv is as spec.ShortConv says.
func (g *blockGraph) shortConv(x *Node) *Node {
	b, t, w, kernel := g.Sequences, g.Length, g.Width, g.Block.Conv.Kernel
	g.tap(spec.ConvIn, x)
	bch := Reshape(g.mul(spec.ConvIn, x), b, t, 3*w)
	third := func(i int) *Node { return Slice(bch, AxisRange(), AxisRange(), AxisRange(i*w, (i+1)*w)) }
	in := Mul(third(0), third(2))
	if kernel > 1 {
		in = Concatenate([]*Node{Zeros(g.graph, shapeOf(b, kernel-1, w)), in}, 1)
	}
	taps := Transpose(g.weight(spec.ConvTaps), 0, 1)
	var y *Node
	for k := range kernel {
		tap := Reshape(Slice(taps, AxisRange(k, k+1), AxisRange()), 1, 1, w)
		term := Mul(Slice(in, AxisRange(), AxisRange(k, k+t), AxisRange()), tap)
		if y == nil {
			y = term
		} else {
			y = Add(y, term)
		}
	}
	if r := spec.ConvTaps.Bias(); g.has(r) {
		y = Add(y, Reshape(g.weight(r), 1, 1, w))
	}
	y = Reshape(Mul(third(1), y), b*t, w)
	g.tap(spec.ConvOut, y)
	return g.mul(spec.ConvOut, y)
}

// feedForward is one gated or plain part, as spec.FFN says.
func (g *blockGraph) feedForward(x *Node, gate, up, down spec.Role) *Node {
	f := g.Block.FFN
	if f.Gated {
		g.tap(gate, x)
	} else {
		g.tap(up, x)
	}
	u := g.mul(up, x)
	switch {
	case f.Activation == spec.SwiGLUClamped:
		limit := float64(f.Limit)
		v := MinScalar(g.mul(gate, x), limit)
		v = Mul(v, Sigmoid(MulScalar(v, f.Alpha)))
		u = Mul(v, AddScalar(ClipScalar(u, -limit, limit), 1))
	case f.Gated:
		u = Mul(activated(f.Activation, g.mul(gate, x)), u)
	default:
		u = activated(f.Activation, u)
	}
	if f.MoE == nil {
		u = g.norm(f.InnerNorm, spec.FFNInner, u)
	}
	g.tap(down, u)
	return g.mul(down, u)
}

func activated(a spec.Activation, x *Node) *Node {
	switch a {
	case spec.SiLU:
		return Mul(x, Sigmoid(x))
	case spec.GELU:
		return Mul(MulScalar(x, 0.5), AddScalar(Erf(MulScalar(x, 1/math.Sqrt2)), 1))
	case spec.GELUTanh:
		inner := Mul(x, AddScalar(MulScalar(Square(x), 0.044715), 1))
		return Mul(MulScalar(x, 0.5), AddScalar(Tanh(MulScalar(inner, math.Sqrt(2/math.Pi))), 1))
	case spec.ReLU:
		return MaxScalar(x, 0)
	case spec.ReLU2:
		return Square(MaxScalar(x, 0))
	}
	panic(fmt.Errorf("activation %q is not known", a))
}

// softCapped is c*tanh(x/c), or x where c is 0.
func softCapped(x *Node, c float32) *Node {
	if c == 0 {
		return x
	}
	return MulScalar(Tanh(MulScalar(x, 1/float64(c))), float64(c))
}

// angles are the cosines and sines of a rotary embedding, [length, pairs] each,
// for sequences of real tokens that are padded to length.
func angles(r *spec.Rope, length, real int) (cos, sin []float32) {
	freq, magnitude := r.InvFreq, r.Magnitude
	if r.Long != nil && real > r.LongFrom {
		freq, magnitude = r.Long, r.LongMagnitude
	}
	cos, sin = make([]float32, 0, length*len(freq)), make([]float32, 0, length*len(freq))
	for pos := range length {
		for _, f := range freq {
			s, c := math.Sincos(float64(pos) * f)
			cos, sin = append(cos, float32(c*magnitude)), append(sin, float32(s*magnitude))
		}
	}
	return cos, sin
}

// temperatures are the factors of the queries at each position.
func temperatures(a *spec.Attention, length int) []float32 {
	t := make([]float32, length)
	for pos := range t {
		t[pos] = float32(math.Log(math.Floor(float64(pos+1)/a.TemperatureFloor)+1)*a.Temperature + 1)
	}
	return t
}

// masked says whether the scores of an attention need a mask.
func masked(a *spec.Attention, length, real int) bool {
	return a.Causal || a.Window > 0 || a.Chunk > 0 || a.ALiBi != 0 || real < length
}

// mask is what is added to the scores of heads: minus infinity where a token
// does not see another one, and ALiBi's bias. Its shape is [heads, length,
// length], where one head stands for all if they have the same. Padding is
// seen by itself alone, so that no row of scores is empty.
func mask(a *spec.Attention, length, real int, heads int) []float32 {
	m := make([]float32, 0, heads*length*length)
	hidden := float32(math.Inf(-1))
	for h := range heads {
		slope := alibi(a, h)
		for i := range length {
			for j := range length {
				far := max(i-j, j-i)
				switch {
				case far == 0:
					m = append(m, 0)
				case j >= real,
					a.Causal && j > i,
					a.Window > 0 && a.Causal && far >= a.Window,
					a.Window > 0 && !a.Causal && far > a.Window/2,
					a.Chunk > 0 && i/a.Chunk != j/a.Chunk:
					m = append(m, hidden)
				default:
					m = append(m, float32(-slope*float64(far)))
				}
			}
		}
	}
	return m
}

// alibi is the slope of a head's bias.
func alibi(a *spec.Attention, h int) float64 {
	if a.ALiBi == 0 {
		return 0
	}
	n := 1 << int(math.Log2(float64(a.Heads)))
	exponent := -a.ALiBi / float64(n) * float64(h+1)
	if h >= n {
		exponent = -a.ALiBi / float64(2*n) * float64(2*(h-n)+1)
	}
	return math.Exp2(exponent)
}

// rolesOf are the shapes of the weights that a group brings.
func rolesOf(parts []part) map[spec.Role][2]int {
	roles := map[spec.Role][2]int{}
	for _, p := range parts {
		roles[spec.Role(p.name)] = [2]int{p.rows, p.weight.Cols}
	}
	return roles
}
