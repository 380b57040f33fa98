package spec

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The largest values that Check lets pass. They are far above any model and
// keep products of two dimensions within an int64.
const (
	maxDim    = 1 << 26
	maxBlocks = 1 << 12
	maxExpert = 1 << 14
)

// Check says what is wrong with a model: dimensions that are not positive or
// do not fit together, terms that contradict each other, weights that are
// missing, have another shape, or have no place. Engines may rely on what it
// lets pass.
func (m *Model) Check() error {
	c := checker{model: m, seen: map[Slot]bool{}}
	c.globals()
	if len(m.Blocks) > maxBlocks {
		return fmt.Errorf("%s: %d blocks: at most %d", m.Family, len(m.Blocks), maxBlocks)
	}
	for i := range m.Blocks {
		c.block(i, &m.Blocks[i])
	}
	if len(c.errs) == 0 {
		for s, w := range m.Weights {
			if !c.seen[s] {
				c.fail("tensor %s: the model has no place for %v", strings.Join(w.Names, ", "), s)
			}
		}
	}
	if len(c.errs) == 0 {
		return nil
	}
	slices.SortFunc(c.errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return fmt.Errorf("%s: %w", m.Family, errors.Join(c.errs[:min(len(c.errs), 10)]...))
}

type checker struct {
	model *Model
	seen  map[Slot]bool
	errs  []error
}

func (c *checker) fail(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

// dims reports whether all values are dimensions.
func (c *checker) dims(where string, values map[string]int) bool {
	ok := true
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if v := values[name]; v < 1 || v > maxDim {
			c.fail("%s: %s is %d: want 1 to %d", where, name, v, maxDim)
			ok = false
		}
	}
	return ok
}

// have checks a tensor that must be there; any rows are right where rows is 0.
func (c *checker) have(s Slot, rows, cols int) {
	if _, ok := c.model.Weights[s]; !ok {
		c.fail("no tensor for %v", s)
		return
	}
	c.may(s, rows, cols)
}

// may checks a tensor that may be there.
func (c *checker) may(s Slot, rows, cols int) {
	c.seen[s] = true
	w, ok := c.model.Weights[s]
	if !ok {
		return
	}
	if (w.Rows == rows || rows == 0) && w.Rows > 0 && w.Rows <= maxDim && w.Cols == cols {
		return
	}
	want := fmt.Sprint(rows)
	if rows == 0 {
		want = "n"
	}
	c.fail("tensor %s is [%d, %d]: want [%s, %d] for %v", strings.Join(w.Names, ", "), w.Rows, w.Cols, want, cols, s)
}

// matrix checks a matrix and its bias.
func (c *checker) matrix(s Slot, rows, cols int) {
	c.have(s, rows, cols)
	s.Role = s.Role.Bias()
	c.may(s, 1, rows)
}

// norm checks a norm over values of the given width.
func (c *checker) norm(n *Norm, s Slot, width int) {
	if n == nil {
		return
	}
	switch n.Kind {
	case RMSNorm, LayerNorm, L2Norm:
	default:
		c.fail("%v: unknown kind of norm %q", s, n.Kind)
	}
	if !(n.Eps >= 0 && n.Eps < 1) {
		c.fail("%v: epsilon is %v", s, n.Eps)
	}
	c.may(s, 1, width)
	s.Role = s.Role.Bias()
	c.may(s, 1, width)
}

func (c *checker) globals() {
	m := c.model
	if !c.dims("model", map[string]int{"vocabulary": m.Vocab, "width": m.Width}) {
		return
	}
	c.have(Global(TokenEmbd), m.Vocab, m.Width)
	c.may(Global(PositionEmbd), 0, m.Width)
	c.may(Global(TokenTypes), 0, m.Width)
	c.norm(m.Embedding.Norm, Global(EmbdNorm), m.Width)
	c.norm(m.FinalNorm, Global(FinalNorm), m.Width)
	if m.Head != nil {
		c.matrix(Global(Output), m.Vocab, m.Width)
	}
	switch m.Pooling {
	case PoolNone, PoolMean, PoolCLS, PoolLast:
	default:
		c.fail("unknown pooling %q", m.Pooling)
	}
	if k := m.Classifier; k != nil && c.dims("classifier", map[string]int{"labels": k.Labels}) {
		if m.Pooling == PoolNone || m.Head != nil {
			c.fail("a classifier without a pooled vector, or beside a head that predicts tokens")
		}
		if k.Dense {
			switch k.Activation {
			case Tanh, GELU, GELUTanh:
			default:
				c.fail("classifier: unknown activation %q", k.Activation)
			}
			c.matrix(Global(ClassDense), m.Width, m.Width)
			c.norm(k.Norm, Global(ClassNorm), m.Width)
		}
		c.matrix(Global(ClassOut), k.Labels, m.Width)
	}
}

func (c *checker) block(i int, b *Block) {
	for _, n := range []struct {
		norm *Norm
		role Role
	}{{b.PreMix, PreMix}, {b.PostMix, PostMix}, {b.SumMix, SumMix}, {b.PreFFN, PreFFN}, {b.PostFFN, PostFFN}, {b.SumFFN, SumFFN}} {
		c.norm(n.norm, At(i, n.role), c.model.Width)
	}
	if b.Parallel && (b.PostMix != nil || b.PostFFN != nil || b.SumMix != nil || b.SumFFN != nil) {
		c.fail("layer %d: a parallel block has no norms behind its parts", i)
	}
	if (b.Attention == nil) == (b.Conv == nil) {
		c.fail("layer %d: want either attention or a convolution", i)
	}
	if b.Attention != nil {
		c.attention(i, b.Attention)
	}
	if b.Conv != nil && c.dims(fmt.Sprintf("layer %d", i), map[string]int{"convolution's kernel": b.Conv.Kernel}) {
		w := c.model.Width
		c.matrix(At(i, ConvIn), 3*w, w)
		c.matrix(At(i, ConvTaps), w, b.Conv.Kernel)
		c.matrix(At(i, ConvOut), w, w)
	}
	c.ffn(i, &b.FFN)
}

func (c *checker) attention(i int, a *Attention) {
	where, width := fmt.Sprintf("layer %d", i), c.model.Width
	if !c.dims(where, map[string]int{"heads": a.Heads, "key heads": a.KVHeads, "key dimension": a.KeyDim, "value dimension": a.ValueDim}) {
		return
	}
	if a.Heads%a.KVHeads != 0 {
		c.fail("%s: %d heads do not share %d key heads evenly", where, a.Heads, a.KVHeads)
	}
	if a.Heads*a.KeyDim > maxDim || a.Heads*a.ValueDim > maxDim {
		c.fail("%s: %d heads of %d and %d values: too many", where, a.Heads, a.KeyDim, a.ValueDim)
		return
	}
	if a.Window < 0 || a.Chunk < 0 {
		c.fail("%s: window %d, chunk %d", where, a.Window, a.Chunk)
	}
	if a.Temperature != 0 && !(a.TemperatureFloor > 0) {
		c.fail("%s: temperature floor is %v", where, a.TemperatureFloor)
	}
	rotary := a.KeyDim
	if l := a.MLA; l != nil {
		if !c.dims(where, map[string]int{"latent rank": l.KVRank, "values without positions": l.Nope, "rotary values": l.Rope}) {
			return
		}
		if l.QRank < 0 || l.QRank > maxDim || l.Nope+l.Rope != a.KeyDim || a.KVHeads != a.Heads {
			c.fail("%s: latent attention of query rank %d, %d+%d values of %d, %d of %d key heads", where, l.QRank, l.Nope, l.Rope, a.KeyDim, a.KVHeads, a.Heads)
			return
		}
		rotary = l.Rope
		if l.QRank > 0 {
			c.matrix(At(i, QA), l.QRank, width)
			c.norm(l.QANorm, At(i, QANorm), l.QRank)
			c.matrix(At(i, QB), a.Heads*a.KeyDim, l.QRank)
		} else {
			c.matrix(At(i, Q), a.Heads*a.KeyDim, width)
		}
		c.matrix(At(i, KVA), l.KVRank+l.Rope, width)
		c.norm(l.KVANorm, At(i, KVANorm), l.KVRank)
		c.matrix(At(i, KB), a.Heads*l.Nope, l.KVRank)
		c.matrix(At(i, VB), a.Heads*a.ValueDim, l.KVRank)
	} else {
		c.matrix(At(i, Q), a.Heads*a.KeyDim, width)
		c.matrix(At(i, K), a.KVHeads*a.KeyDim, width)
		c.matrix(At(i, V), a.KVHeads*a.ValueDim, width)
	}
	c.matrix(At(i, AttnOut), width, a.Heads*a.ValueDim)
	c.may(At(i, Sinks), 1, a.Heads)
	c.norm(a.InnerNorm, At(i, AttnInner), a.Heads*a.ValueDim)
	c.headNorm(a, a.QNorm, At(i, QNorm), a.Heads)
	c.headNorm(a, a.KNorm, At(i, KNorm), a.KVHeads)

	if r := a.Rope; r != nil {
		if r.Start < 0 || len(r.InvFreq) == 0 || r.Start+2*len(r.InvFreq) > rotary {
			c.fail("%s: %d rotary pairs from %d on in %d values", where, len(r.InvFreq), r.Start, rotary)
		}
		if r.Long != nil && len(r.Long) != len(r.InvFreq) {
			c.fail("%s: %d rotary pairs, and %d for long sequences", where, len(r.InvFreq), len(r.Long))
		}
	}
}

// headNorm checks a norm of queries or keys, whose weights may be a row per
// head.
func (c *checker) headNorm(a *Attention, n *Norm, s Slot, heads int) {
	if n == nil {
		return
	}
	if a.NormWhole {
		c.norm(n, s, heads*a.KeyDim)
		return
	}
	if w, ok := c.model.Weights[s]; ok && w.Rows > 1 {
		c.may(s, heads, a.KeyDim)
		return
	}
	c.norm(n, s, a.KeyDim)
}

func (c *checker) ffn(i int, f *FFN) {
	where, width := fmt.Sprintf("layer %d", i), c.model.Width
	switch f.Activation {
	case SiLU, GELU, GELUTanh, ReLU, ReLU2:
	case SwiGLUClamped:
		if !f.Gated || !(f.Limit > 0) {
			c.fail("%s: activation %s: gated %v, limit %v", where, f.Activation, f.Gated, f.Limit)
		}
	default:
		c.fail("%s: unknown activation %q", where, f.Activation)
	}
	part := func(gate, up, down Slot, inner int) {
		if f.Gated {
			c.matrix(gate, inner, width)
		}
		c.matrix(up, inner, width)
		c.matrix(down, width, inner)
	}
	e := f.MoE
	if e == nil {
		if c.dims(where, map[string]int{"feed-forward width": f.Inner}) {
			part(At(i, Gate), At(i, Up), At(i, Down), f.Inner)
			c.norm(f.InnerNorm, At(i, FFNInner), f.Inner)
		}
		return
	}
	if f.InnerNorm != nil {
		c.fail("%s: experts have no inner norm", where)
	}
	if !c.dims(where, map[string]int{"experts": e.Experts, "experts used": e.Used, "expert width": e.Inner}) {
		return
	}
	if e.Experts > maxExpert || e.Used > e.Experts {
		c.fail("%s: %d of %d experts: at most %d", where, e.Used, e.Experts, maxExpert)
		return
	}
	switch e.Scoring {
	case ScoreSoftmax, ScoreSigmoid, ScoreSoftmaxSelected:
	default:
		c.fail("%s: unknown scoring %q", where, e.Scoring)
	}
	if g := e.Groups; g > 1 {
		switch {
		case e.Experts%g != 0 || e.GroupsUsed < 1 || e.GroupsUsed > g || e.Experts/g*e.GroupsUsed < e.Used:
			c.fail("%s: %d experts in %d of %d groups, %d used", where, e.Experts, e.GroupsUsed, g, e.Used)
		case e.GroupTop2 && e.Experts/g < 2:
			c.fail("%s: groups of %d experts have no two best", where, e.Experts/g)
		}
	}
	c.matrix(At(i, Router), e.Experts, width)
	c.may(At(i, RouterCorrection), 1, e.Experts)
	for x := range e.Experts {
		part(Slot{i, Gate, x}, Slot{i, Up, x}, Slot{i, Down, x}, e.Inner)
	}
	if e.SharedInner < 0 || e.SharedInner > maxDim {
		c.fail("%s: shared expert of width %d", where, e.SharedInner)
	} else if e.SharedInner > 0 {
		part(At(i, SharedGate), At(i, SharedUp), At(i, SharedDown), e.SharedInner)
		c.may(At(i, SharedRouter), 1, width)
	}
}
