package fromhf

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"slices"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// A reader is what a family's function works with: the config, whose first
// error sticks, the tensors, and the model that it fills.
type reader struct {
	*config
	ctx     context.Context
	fsys    fs.FS
	class   string
	tensors map[string]*tensor // by name without prefix
	scheme  *scheme            // how matrices are quantized; nil: they are not
	model   *spec.Model
}

// claim returns a tensor that the model must have, of the given shape.
func (r *reader) claim(name string, shape ...int) *tensor {
	if r.err != nil {
		return nil
	}
	t := r.tensors[name]
	if t == nil {
		r.fail("no tensor %s", name)
		return nil
	}
	ok := len(t.Shape) == len(shape)
	for i := 0; ok && i < len(shape); i++ {
		ok = shape[i] > 0 && int64(shape[i]) == t.Shape[i]
	}
	if !ok {
		r.fail("%s: tensor %s is %v: want %v from the config", t.file.Name, t.Name, t.Shape, shape)
		return nil
	}
	if t.claimed {
		r.fail("tensor %s has more than one place", t.Name)
		return nil
	}
	t.claimed = true
	return t
}

// numeric claims a tensor of plain numbers.
func (r *reader) numeric(name string, shape ...int) *tensor {
	t := r.claim(name, shape...)
	if t != nil && !t.plain() {
		r.fail("%s: tensor %s is of type %s, for which the config has no quantization", t.file.Name, t.Name, t.DType)
		return nil
	}
	return t
}

// put gives a weight its place.
func (r *reader) put(s spec.Slot, w spec.Weight) {
	if r.err != nil || w.Read == nil {
		return
	}
	if old, ok := r.model.Weights[s]; ok {
		r.fail("tensors %s and %s have the same place, %v", old.Names[0], w.Names[0], s)
		return
	}
	r.model.Weights[s] = checked(w)
}

// vector is a tensor of n values in one row.
func (r *reader) vector(name string, n int) spec.Weight {
	if t := r.numeric(name, n); t != nil {
		return dense(t, 0, 1, n)
	}
	return spec.Weight{}
}

// module is the weight and the bias of a torch.nn.Linear.
func (r *reader) module(name string, rows, cols int, bias bool) (w, b spec.Weight) {
	w = r.matrix(name, rows, cols)
	if bias {
		b = r.vector(name+".bias", rows)
	}
	return w, b
}

// matrix is the weight of a torch.nn.Linear or an embedding, in whatever form
// it is stored.
func (r *reader) matrix(name string, rows, cols int) spec.Weight {
	s := r.scheme
	stored := r.tensors[name+".weight"]
	switch {
	case r.err != nil:
		return spec.Weight{}
	case stored == nil && s != nil && s.packed != nil:
		return s.packed(r, name, rows, cols)
	case stored == nil || stored.plain() || s == nil || s.scaled == nil:
		if t := r.numeric(name+".weight", rows, cols); t != nil {
			return dense(t, 0, rows, cols)
		}
		return spec.Weight{}
	}
	height, width := rows, cols
	if s.shape != nil {
		height, width = s.shape(rows, cols)
	}
	t := r.claim(name+".weight", height, width)
	if t == nil {
		return spec.Weight{}
	}
	return s.scaled(r, t, name, rows, cols)
}

// linear gives a torch.nn.Linear its place.
func (r *reader) linear(s spec.Slot, name string, rows, cols int, bias bool) {
	w, b := r.module(name, rows, cols, bias)
	r.put(s, w)
	r.put(biasOf(s), b)
}

// slice gives a part of the rows of a weight and its bias, whose rows are
// values, a place: rows start to start+count-1 of each group of every rows.
func (r *reader) slice(s spec.Slot, w, b spec.Weight, every, start, count int) {
	if w.Read != nil {
		r.put(s, pick(w, every, start, count))
	}
	if b.Read != nil {
		r.put(biasOf(s), pickValues(b, every, start, count))
	}
}

// pickValues is pick of the values of one row.
func pickValues(b spec.Weight, every, start, count int) spec.Weight {
	p := b
	p.Cols = b.Cols / every * count
	p.Read = func(ctx context.Context, dst []float32, _ int) error {
		if len(dst) == 0 {
			return nil
		}
		all := make([]float32, b.Cols)
		if err := b.Read(ctx, all, 0); err != nil {
			return err
		}
		for i := range dst {
			dst[i] = all[i/count*every+start+i%count]
		}
		return nil
	}
	return p
}

func biasOf(s spec.Slot) spec.Slot {
	s.Role = s.Role.Bias()
	return s
}

// norm gives a norm's weight and bias their place.
func (r *reader) norm(s spec.Slot, name string, width int, bias bool) {
	r.put(s, r.vector(name+".weight", width))
	if bias {
		r.put(biasOf(s), r.vector(name+".bias", width))
	}
}

// size reads what every decoder has.
func (r *reader) size() {
	r.model.Vocab = r.dim("vocab_size")
	r.model.Width = r.dim("hidden_size")
	r.model.Context = r.count("max_position_embeddings", 0)
}

// embedding gives the token embedding its place.
func (r *reader) embedding(name string) {
	r.put(spec.Global(spec.TokenEmbd), r.matrix(name, r.model.Vocab, r.model.Width))
}

// head gives the language model's head its place: a matrix, or the embedding
// where the two are tied. tied is what the class does where the config says
// nothing.
func (r *reader) head(name string, tied, bias bool) *spec.Head {
	if !r.flag("tie_word_embeddings", tied) {
		r.linear(spec.Global(spec.Output), name, r.model.Vocab, r.model.Width, bias)
		return &spec.Head{Scale: 1}
	}
	for _, part := range []string{".weight", ".bias"} {
		if t := r.tensors[name+part]; t != nil {
			t.claimed = true // a copy of the embedding; transformers does not read it
		}
	}
	if w, ok := r.model.Weights[spec.Global(spec.TokenEmbd)]; ok {
		r.put(spec.Global(spec.Output), w)
	}
	return &spec.Head{Scale: 1}
}

// A layer is a reader within one block.
type layer struct {
	*reader
	i      int
	prefix string
}

// layers calls read for each block, with the prefix of its tensors' names, a
// format of the block's number.
func (r *reader) layers(field, format string, read func(l layer) spec.Block) {
	n := r.layerCount(field)
	for i := 0; i < n && r.err == nil; i++ {
		b := read(layer{r, i, fmt.Sprintf(format, i)})
		if b.ResidualScale == 0 {
			b.ResidualScale = 1
		}
		r.model.Blocks = append(r.model.Blocks, b)
	}
}

// layerCount is the number of layers, within bounds.
func (r *reader) layerCount(field string) int {
	n := r.dim(field)
	if n > maxLayers {
		r.fail("%s: %s is %d: at most %d", r.name, field, n, maxLayers)
		return 0
	}
	return n
}

func (l layer) slot(role spec.Role) spec.Slot { return spec.At(l.i, role) }

func (l layer) linear(role spec.Role, name string, rows, cols int, bias bool) {
	l.reader.linear(l.slot(role), l.prefix+name, rows, cols, bias)
}

func (l layer) norm(role spec.Role, name string, width int, bias bool) {
	l.reader.norm(l.slot(role), l.prefix+name, width, bias)
}

// streamNorm is norm over the residual stream.
func (l layer) streamNorm(role spec.Role, name string, bias bool) {
	l.norm(role, name, l.model.Width, bias)
}

// heads reads a causal attention's dimensions: num_attention_heads,
// num_key_value_heads and head_dim, where the latter two may be missing.
func (r *reader) heads() *spec.Attention {
	a := &spec.Attention{Causal: true}
	a.Heads = r.dim("num_attention_heads")
	a.KVHeads = r.dim("num_key_value_heads", a.Heads)
	if r.has("head_dim") {
		a.KeyDim = r.dim("head_dim")
	} else {
		a.KeyDim = r.headDim(a.Heads)
	}
	r.checkHeads(a)
	return a
}

// headDim is the width over the heads.
func (r *reader) headDim(heads int) int {
	if r.model.Width%heads != 0 {
		r.fail("%s: a width of %d does not divide into %d heads", r.name, r.model.Width, heads)
		return 1
	}
	return r.model.Width / heads
}

// checkHeads bounds the products of dimensions and sets what follows from
// them.
func (r *reader) checkHeads(a *spec.Attention) {
	if a.Heads%a.KVHeads != 0 {
		r.fail("%s: %d heads do not share %d key heads evenly", r.name, a.Heads, a.KVHeads)
	}
	if a.Heads*a.KeyDim > maxDim {
		r.fail("%s: %d heads of %d values: too many", r.name, a.Heads, a.KeyDim)
		a.Heads, a.KVHeads, a.KeyDim = 1, 1, 1
	}
	a.ValueDim = a.KeyDim
	a.Scale = 1 / math.Sqrt(float64(a.KeyDim))
}

// projections gives the four matrices of an attention their places.
func (l layer) projections(a *spec.Attention, q, k, v, out string, bias, outBias bool) {
	w := l.model.Width
	l.linear(spec.Q, q, a.Heads*a.KeyDim, w, bias)
	l.linear(spec.K, k, a.KVHeads*a.KeyDim, w, bias)
	l.linear(spec.V, v, a.KVHeads*a.ValueDim, w, bias)
	l.linear(spec.AttnOut, out, w, a.Heads*a.ValueDim, outBias)
}

// selfAttn is projections by the names that most families use.
func (l layer) selfAttn(a *spec.Attention, bias, outBias bool) {
	l.projections(a, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", bias, outBias)
}

// fusedQKV gives the parts of a matrix of queries, keys and values, in this
// order, their places.
func (l layer) fusedQKV(a *spec.Attention, name string, bias bool) {
	q, k, v := a.Heads*a.KeyDim, a.KVHeads*a.KeyDim, a.KVHeads*a.ValueDim
	w, b := l.module(l.prefix+name, q+k+v, l.model.Width, bias)
	l.slice(l.slot(spec.Q), w, b, q+k+v, 0, q)
	l.slice(l.slot(spec.K), w, b, q+k+v, q, k)
	l.slice(l.slot(spec.V), w, b, q+k+v, q+k, v)
}

// headNorms gives the norms of queries and keys their places.
func (l layer) headNorms(n *spec.Norm, a *spec.Attention, q, k string) {
	a.QNorm, a.KNorm = n, n
	qWidth, kWidth := a.KeyDim, a.KeyDim
	if a.NormWhole {
		qWidth, kWidth = a.Heads*a.KeyDim, a.KVHeads*a.KeyDim
	}
	l.norm(spec.QNorm, q, qWidth, false)
	l.norm(spec.KNorm, k, kWidth, false)
}

// gatedFFN gives the matrices of a gated feed-forward part their places.
func (l layer) gatedFFN(gate, up, down string, act spec.Activation, inner int, bias bool) spec.FFN {
	l.linear(spec.Gate, gate, inner, l.model.Width, bias)
	l.linear(spec.Up, up, inner, l.model.Width, bias)
	l.linear(spec.Down, down, l.model.Width, inner, bias)
	return spec.FFN{Gated: true, Activation: act, Inner: inner}
}

// mlp is gatedFFN by the names that most families use.
func (l layer) mlp(act spec.Activation, inner int, bias bool) spec.FFN {
	return l.gatedFFN("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", act, inner, bias)
}

// plainFFN gives the matrices of a feed-forward part without gate their
// places.
func (l layer) plainFFN(up, down string, act spec.Activation, inner int, bias bool) spec.FFN {
	l.linear(spec.Up, up, inner, l.model.Width, bias)
	l.linear(spec.Down, down, l.model.Width, inner, bias)
	return spec.FFN{Activation: act, Inner: inner}
}

// fusedGateUp gives the halves of a matrix, gate first, and the down matrix
// their places.
func (l layer) fusedGateUp(gateUp, down string, act spec.Activation, inner int, bias bool) spec.FFN {
	w, b := l.module(l.prefix+gateUp, 2*inner, l.model.Width, bias)
	l.slice(l.slot(spec.Gate), w, b, 2*inner, 0, inner)
	l.slice(l.slot(spec.Up), w, b, 2*inner, inner, inner)
	l.linear(spec.Down, down, l.model.Width, inner, bias)
	return spec.FFN{Gated: true, Activation: act, Inner: inner}
}

// experts gives the matrices of each expert their places, by formats of their
// number.
func (l layer) experts(e *spec.MoE, gate, up, down string) {
	for x := 0; x < e.Experts && l.err == nil; x++ {
		at := func(role spec.Role) spec.Slot { return spec.Slot{Layer: l.i, Role: role, Expert: x} }
		name := func(format string) string { return l.prefix + fmt.Sprintf(format, x) }
		l.reader.linear(at(spec.Gate), name(gate), e.Inner, l.model.Width, false)
		l.reader.linear(at(spec.Up), name(up), e.Inner, l.model.Width, false)
		l.reader.linear(at(spec.Down), name(down), l.model.Width, e.Inner, false)
	}
}

// mlpExperts is experts by the names that most families use.
func (l layer) mlpExperts(e *spec.MoE) {
	l.experts(e, "mlp.experts.%d.gate_proj", "mlp.experts.%d.up_proj", "mlp.experts.%d.down_proj")
}

// shared gives the matrices of the part that every token passes their places.
func (l layer) shared(e *spec.MoE, gate, up, down string) {
	l.linear(spec.SharedGate, gate, e.SharedInner, l.model.Width, false)
	l.linear(spec.SharedUp, up, e.SharedInner, l.model.Width, false)
	l.linear(spec.SharedDown, down, l.model.Width, e.SharedInner, false)
}

// activation is what transformers' ACT2FN has under the name in a field.
func (r *reader) activation(field string, def ...string) spec.Activation {
	name := r.text(field, def...)
	switch name {
	case "silu", "swish":
		return spec.SiLU
	case "gelu":
		return spec.GELU
	case "gelu_pytorch_tanh", "gelu_new", "gelu_fast":
		return spec.GELUTanh
	case "relu":
		return spec.ReLU
	case "relu2":
		return spec.ReLU2
	}
	r.fail("%s: unknown activation %q in %s", r.name, name, field)
	return spec.SiLU
}

// rms is a root mean square norm with the epsilon in rms_norm_eps.
func (r *reader) rms(def ...float64) *spec.Norm {
	return &spec.Norm{Kind: spec.RMSNorm, Eps: r.eps("rms_norm_eps", def...)}
}

// windowed says which layers have a sliding window: those of that kind in
// layer_types, or by the rule where the config has no such list.
func (r *reader) windowed(layers int, rule func(i int) bool) []bool {
	out := make([]bool, layers)
	if !r.has("layer_types") {
		for i := range out {
			out[i] = rule(i)
		}
		return out
	}
	for i, kind := range r.perLayer("layer_types", layers) {
		switch kind {
		case "sliding_attention":
			out[i] = true
		case "full_attention":
		default:
			r.fail("%s: layer_types[%d] is %q, which has no reader", r.name, i, kind)
		}
	}
	return out
}

// indices returns an array of layer numbers.
func (r *reader) indices(field string) []int {
	var out []int
	for _, v := range r.numbers(field) {
		out = append(out, int(max(-1, min(v, maxDim))))
	}
	slices.Sort(out)
	return out
}

// drop claims a tensor that is not used, where the checkpoint has it.
func (r *reader) drop(name string) {
	if t := r.tensors[name]; t != nil {
		t.claimed = true
	}
}

// none is a rule for windowed.
func none(int) bool { return false }
