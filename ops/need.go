package ops

import (
	"fmt"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// A need is a tensor that a specification asks for.
type need struct {
	slot       spec.Slot
	rows, cols int
	optional   bool
}

// needs collects them for one layer, or outside of layers.
type needs struct {
	layer, expert int
	list          []need
}

func (n *needs) add(r spec.Role, rows, cols int, optional bool) {
	n.list = append(n.list, need{spec.Slot{Layer: n.layer, Role: r, Expert: n.expert}, rows, cols, optional})
}

// matrix adds a matrix and its bias.
func (n *needs) matrix(r spec.Role, rows, cols int) {
	n.add(r, rows, cols, false)
	n.add(r.Bias(), 1, rows, true)
}

// norm adds the weight and the bias of a norm, if there is one.
func (n *needs) norm(of *spec.Norm, r spec.Role, cols int) {
	if of != nil {
		n.add(r, 1, cols, true)
		n.add(r.Bias(), 1, cols, true)
	}
}

// feedForward adds the matrices of one gated or plain part.
func (n *needs) feedForward(f spec.FFN, gate, up, down spec.Role, inner, width int) {
	if f.Gated {
		n.matrix(gate, inner, width)
	}
	n.matrix(up, inner, width)
	n.matrix(down, width, inner)
}

// blockNeeds lists the tensors of a layer but for its experts.
func blockNeeds(m *spec.Model, layer int) []need {
	n := &needs{layer: layer, expert: spec.None}
	b := m.Blocks[layer]
	n.norm(b.PreMix, spec.PreMix, m.Width)
	n.norm(b.PostMix, spec.PostMix, m.Width)
	n.norm(b.SumMix, spec.SumMix, m.Width)
	n.norm(b.PreFFN, spec.PreFFN, m.Width)
	n.norm(b.PostFFN, spec.PostFFN, m.Width)
	n.norm(b.SumFFN, spec.SumFFN, m.Width)
	if b.Conv != nil {
		n.matrix(spec.ConvIn, 3*m.Width, m.Width)
		n.add(spec.ConvTaps, m.Width, b.Conv.Kernel, false)
		n.add(spec.ConvTaps.Bias(), 1, m.Width, true)
		n.matrix(spec.ConvOut, m.Width, m.Width)
	}
	if a := b.Attention; a != nil {
		if l := a.MLA; l != nil {
			if l.QRank > 0 {
				n.matrix(spec.QA, l.QRank, m.Width)
				n.norm(l.QANorm, spec.QANorm, l.QRank)
				n.matrix(spec.QB, a.Heads*a.KeyDim, l.QRank)
			} else {
				n.matrix(spec.Q, a.Heads*a.KeyDim, m.Width)
			}
			n.matrix(spec.KVA, l.KVRank+l.Rope, m.Width)
			n.norm(l.KVANorm, spec.KVANorm, l.KVRank)
			n.matrix(spec.KB, a.Heads*l.Nope, l.KVRank)
			n.matrix(spec.VB, a.Heads*a.ValueDim, l.KVRank)
		} else {
			n.matrix(spec.Q, a.Heads*a.KeyDim, m.Width)
			n.matrix(spec.K, a.KVHeads*a.KeyDim, m.Width)
			n.matrix(spec.V, a.KVHeads*a.ValueDim, m.Width)
			q, k := a.KeyDim, a.KeyDim
			if a.NormWhole {
				q, k = a.Heads*a.KeyDim, a.KVHeads*a.KeyDim
			}
			n.norm(a.QNorm, spec.QNorm, q)
			n.norm(a.KNorm, spec.KNorm, k)
		}
		n.add(spec.Sinks, 1, a.Heads, true)
		n.norm(a.InnerNorm, spec.AttnInner, a.Heads*a.ValueDim)
		n.matrix(spec.AttnOut, m.Width, a.Heads*a.ValueDim)
	}
	if e := b.FFN.MoE; e != nil {
		n.matrix(spec.Router, e.Experts, m.Width)
		n.add(spec.RouterCorrection, 1, e.Experts, true)
		if e.SharedInner > 0 {
			n.feedForward(b.FFN, spec.SharedGate, spec.SharedUp, spec.SharedDown, e.SharedInner, m.Width)
			n.add(spec.SharedRouter, 1, m.Width, true)
		}
	} else {
		n.feedForward(b.FFN, spec.Gate, spec.Up, spec.Down, b.FFN.Inner, m.Width)
		n.norm(b.FFN.InnerNorm, spec.FFNInner, b.FFN.Inner)
	}
	return n.list
}

// expertNeeds lists the tensors of one expert.
func expertNeeds(m *spec.Model, layer, expert int) []need {
	n := &needs{layer: layer, expert: expert}
	f := m.Blocks[layer].FFN
	n.feedForward(f, spec.Gate, spec.Up, spec.Down, f.MoE.Inner, m.Width)
	return n.list
}

// globalNeeds lists the tensors outside of layers that are held whole: the
// norms. The rows of embeddings and head are read as they are used.
func globalNeeds(m *spec.Model) []need {
	n := &needs{layer: spec.None, expert: spec.None}
	n.norm(m.Embedding.Norm, spec.EmbdNorm, m.Width)
	n.norm(m.FinalNorm, spec.FinalNorm, m.Width)
	return n.list
}

// check finds what is missing or contradictory in a model, so that no graph is
// built of it.
func check(m *spec.Model) error {
	if err := checkModel(m); err != nil {
		return fmt.Errorf("model %s: %w", m.Family, err)
	}
	return nil
}

func checkModel(m *spec.Model) error {
	if m.Vocab <= 0 || m.Width <= 0 {
		return fmt.Errorf("vocabulary of %d and width of %d: want both above 0", m.Vocab, m.Width)
	}
	all := globalNeeds(m)
	all = append(all, need{spec.Global(spec.TokenEmbd), m.Vocab, m.Width, false})
	if m.Head != nil {
		all = append(all, need{spec.Global(spec.Output), m.Vocab, m.Width, false},
			need{spec.Global(spec.Output.Bias()), 1, m.Vocab, true})
	}
	for i, b := range m.Blocks {
		if err := checkBlock(b); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		all = append(all, blockNeeds(m, i)...)
		if b.FFN.MoE != nil {
			for e := range b.FFN.MoE.Experts {
				all = append(all, expertNeeds(m, i, e)...)
			}
		}
	}
	for _, n := range all {
		w, ok := m.Weights[n.slot]
		switch {
		case !ok && !n.optional:
			return fmt.Errorf("no tensor for %v", n.slot)
		case ok && (w.Rows != n.rows || w.Cols != n.cols):
			return fmt.Errorf("%v has the shape [%d, %d], want [%d, %d]", n.slot, w.Rows, w.Cols, n.rows, n.cols)
		}
	}
	for _, r := range []spec.Role{spec.PositionEmbd, spec.TokenTypes} {
		if w, ok := m.Weights[spec.Global(r)]; ok && (w.Cols != m.Width || w.Rows < 1) {
			return fmt.Errorf("%s has the shape [%d, %d], want %d columns", r, w.Rows, w.Cols, m.Width)
		}
	}
	return nil
}

func checkBlock(b spec.Block) error {
	if (b.Attention == nil) == (b.Conv == nil) {
		return fmt.Errorf("want either attention or a convolution")
	}
	if b.Parallel && (b.PostMix != nil || b.SumMix != nil || b.PostFFN != nil || b.SumFFN != nil) {
		return fmt.Errorf("norms after the parts of a parallel block are not known")
	}
	if b.Conv != nil && b.Conv.Kernel < 1 {
		return fmt.Errorf("convolution of %d taps", b.Conv.Kernel)
	}
	if a := b.Attention; a != nil {
		if err := checkAttention(a); err != nil {
			return err
		}
	}
	f := b.FFN
	switch f.Activation {
	case spec.SiLU, spec.GELU, spec.GELUTanh, spec.ReLU, spec.ReLU2:
	case spec.SwiGLUClamped:
		if !f.Gated {
			return fmt.Errorf("activation %s needs a gate", f.Activation)
		}
	default:
		return fmt.Errorf("activation %q is not known", f.Activation)
	}
	e := f.MoE
	if e == nil {
		if f.Inner < 1 {
			return fmt.Errorf("feed-forward part of %d values", f.Inner)
		}
		return nil
	}
	switch {
	case f.InnerNorm != nil:
		return fmt.Errorf("a norm inside of experts is not known")
	case e.Experts < 1 || e.Used < 1 || e.Used > e.Experts || e.Inner < 1 || e.SharedInner < 0:
		return fmt.Errorf("%d of %d experts of %d values, %d shared", e.Used, e.Experts, e.Inner, e.SharedInner)
	case e.Groups > 1 && (e.Experts%e.Groups != 0 || e.GroupsUsed < 1 || e.GroupsUsed > e.Groups ||
		e.Used > e.GroupsUsed*(e.Experts/e.Groups)):
		return fmt.Errorf("%d of %d experts in %d of %d groups", e.Used, e.Experts, e.GroupsUsed, e.Groups)
	case e.Scoring != spec.ScoreSoftmax && e.Scoring != spec.ScoreSigmoid && e.Scoring != spec.ScoreSoftmaxSelected:
		return fmt.Errorf("scoring %q is not known", e.Scoring)
	}
	return nil
}

func checkAttention(a *spec.Attention) error {
	if a.Heads < 1 || a.KVHeads < 1 || a.Heads%a.KVHeads != 0 || a.KeyDim < 1 || a.ValueDim < 1 {
		return fmt.Errorf("%d heads on %d key heads of %d and %d values", a.Heads, a.KVHeads, a.KeyDim, a.ValueDim)
	}
	room := a.KeyDim
	if l := a.MLA; l != nil {
		room = l.Rope
		switch {
		case l.QRank < 0 || l.KVRank < 1 || l.Nope < 1 || l.Rope < 0 || l.Nope+l.Rope != a.KeyDim:
			return fmt.Errorf("latent attention of ranks %d and %d, %d and %d key values of %d", l.QRank, l.KVRank, l.Nope, l.Rope, a.KeyDim)
		case a.QNorm != nil || a.KNorm != nil || a.Clamp != 0:
			return fmt.Errorf("norms or cuts of keys are not known with latent attention")
		}
	}
	if r := a.Rope; r != nil {
		n := len(r.InvFreq)
		if n < 1 || r.Start < 0 || r.Start+2*n > room || r.Long != nil && len(r.Long) != n {
			return fmt.Errorf("rotary embedding of %d pairs from %d in %d values", n, r.Start, room)
		}
	}
	if (a.Temperature != 0) && a.TemperatureFloor <= 0 {
		return fmt.Errorf("temperature %g with the floor %g", a.Temperature, a.TemperatureFloor)
	}
	return nil
}
