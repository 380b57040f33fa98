package fromgguf

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// builder fills a model; after the first error it does nothing.
type builder struct {
	*hparams
	arch    architecture
	model   *spec.Model
	tensors map[string]*tensor
}

// has says whether the file has a tensor.
func (b *builder) has(name string) bool { return b.tensors[name] != nil }

// take returns a tensor that must have the shape ne, in ggml's order.
func (b *builder) take(name string, ne ...int) *tensor {
	if b.err != nil {
		return nil
	}
	t := b.tensors[name]
	if t == nil {
		b.fail("tensor %s is missing", name)
		return nil
	}
	if err := t.prepare(ne); err != nil {
		b.err = err
		return nil
	}
	return t
}

// takeWhere is take where the tensor must be there, or is; else nil.
func (b *builder) takeWhere(p presence, name string, ne ...int) *tensor {
	if p == always || p == maybe && b.has(name) {
		return b.take(name, ne...)
	}
	return nil
}

func block(layer int, name string) string { return fmt.Sprintf("blk.%d.%s", layer, name) }

// scaleOf is the factor that belongs to a matrix of the file: NAME.scale, one
// number for a matrix and one for each of a stack of n.
func (b *builder) scaleOf(name string, n int) []float32 {
	t := b.takeWhere(maybe, name+".scale", n)
	if t == nil {
		return nil
	}
	v := make([]float32, n)
	if err := t.read(context.Background(), v, 0); err != nil {
		b.err = err
	}
	return v
}

// put gives a slot its weight.
func (b *builder) put(s spec.Slot, w spec.Weight) {
	if b.err == nil {
		b.model.Weights[s] = w
	}
}

// vector puts a tensor of n values.
func (b *builder) vector(s spec.Slot, p presence, name string, n int) {
	if t := b.takeWhere(p, name, n); t != nil {
		b.put(s, t.vector())
	}
}

// matrix puts a matrix [rows, cols] of a block with its bias and scale.
func (b *builder) matrix(s spec.Slot, name string, rows, cols int, bias presence) {
	name = block(s.Layer, name)
	t := b.take(name+".weight", cols, rows)
	if t == nil {
		return
	}
	w := t.part(0, rows)
	if v := b.scaleOf(name, 1); v != nil {
		w = scaled(w, v[0], name+".scale")
	}
	b.put(s, w)
	b.vector(spec.At(s.Layer, s.Role.Bias()), bias, name+".bias", rows)
}

// parts puts consecutive rows of one matrix of a block, and of its bias.
func (b *builder) parts(layer int, name string, cols int, bias presence, roles []spec.Role, rows []int) {
	name = block(layer, name)
	all := 0
	for _, n := range rows {
		all += n
	}
	t := b.take(name+".weight", cols, all)
	if t == nil {
		return
	}
	scale := b.scaleOf(name, 1)
	v := b.takeWhere(bias, name+".bias", all)
	first := 0
	for i, role := range roles {
		w := t.part(first, rows[i])
		if scale != nil {
			w = scaled(w, scale[0], name+".scale")
		}
		b.put(spec.At(layer, role), w)
		if v != nil {
			b.put(spec.At(layer, role.Bias()), v.span(first, rows[i]))
		}
		first += rows[i]
	}
}

// norm puts the weight and bias of a norm over width values; nil where name is
// "".
func (b *builder) norm(s spec.Slot, name string, width int, bias presence) *spec.Norm {
	if name == "" {
		return nil
	}
	b.vector(s, always, name+".weight", width)
	b.vector(spec.Slot{Layer: s.Layer, Role: s.Role.Bias(), Expert: s.Expert}, bias, name+".bias", width)
	return &spec.Norm{Kind: b.arch.norm, Eps: b.eps}
}

func (b *builder) build() {
	m, e := b.model, b.arch.embedding
	m.Embedding.Scale = float32(b.embdScale)
	embd := b.take("token_embd.weight", b.width, b.vocab)
	if embd == nil {
		return
	}
	b.put(spec.Global(spec.TokenEmbd), embd.part(0, b.vocab))
	if e.positions {
		if t := b.take("position_embd.weight", b.width, b.context); t != nil {
			b.put(spec.Global(spec.PositionEmbd), t.part(0, b.context))
		}
	}
	if e.types {
		if b.types == 0 {
			b.fail("metadata \"tokenizer.ggml.token_type_count\": want a number of token types")
		}
		if t := b.takeWhere(maybe, "token_types.weight", b.width, b.types); t != nil {
			b.put(spec.Global(spec.TokenTypes), t.part(0, b.types))
		}
	}
	if e.norm {
		m.Embedding.Norm = b.norm(spec.Global(spec.EmbdNorm), "token_embd_norm", b.width, e.normBias)
	}
	b.rotary()
	for i := 0; i < b.layers && b.err == nil; i++ {
		m.Blocks = append(m.Blocks, b.block(i))
	}
	switch b.arch.finalNorm {
	case "none":
	case "-":
		m.FinalNorm = &spec.Norm{Kind: b.arch.norm, Eps: b.eps}
	case "":
		m.FinalNorm = b.norm(spec.Global(spec.FinalNorm), "output_norm", b.width, b.arch.norms.bias)
	default:
		m.FinalNorm = b.norm(spec.Global(spec.FinalNorm), b.arch.finalNorm, b.width, b.arch.norms.bias)
	}
	if b.ranks && b.has("cls.output.weight") {
		b.classify()
	} else {
		b.output(embd)
	}
}

// classify is what makes scores of one token's hidden state. A runtime that is
// not asked to rank leaves it alone.
func (b *builder) classify() {
	labels := 1
	if v, ok := get[[]string](&b.keys, "classifier.output_labels"); ok {
		labels = len(v)
	}
	k := &spec.Classifier{Labels: labels, Dense: b.has("cls.weight") && b.arch.classifier != lastToken}
	b.model.Classifier, b.model.Pooling = k, spec.PoolCLS
	switch b.arch.classifier {
	case lastToken:
		k.Softmax, b.model.Pooling = true, spec.PoolLast
	case pooledHead:
		switch t := b.countOr("classifier.pooling_type", 1, 1<<31-1); t {
		case 1:
			b.model.Pooling = spec.PoolMean
		case 2:
		default:
			b.fail("metadata %q is %d: want 1 or 2", b.hparams.arch+".classifier.pooling_type", t)
		}
	}
	if k.Dense {
		b.classLayer(spec.ClassDense, "cls", b.width)
		k.Activation = spec.Tanh
		if b.arch.classifier == pooledHead {
			k.Activation = spec.GELUTanh
			if b.has("cls.norm.weight") {
				k.Norm = b.norm(spec.Global(spec.ClassNorm), "cls.norm", b.width, never)
			}
		}
	}
	b.classLayer(spec.ClassOut, "cls.output", labels)
}

// classLayer puts a matrix of the classifier with its bias.
func (b *builder) classLayer(role spec.Role, name string, rows int) {
	if t := b.take(name+".weight", b.width, rows); t != nil {
		b.put(spec.Global(role), t.part(0, rows))
		b.vector(spec.Global(role.Bias()), maybe, name+".bias", rows)
	}
}

// output is the head.
func (b *builder) output(embd *tensor) {
	where, bias := always, never
	switch b.arch.head {
	case noHead:
		return
	case unusedHead:
		b.takeWhere(maybe, "output.weight", b.width, b.vocab)
		return
	case tied:
		where = never
	case ownOrTied:
		where = maybe
	case ownOrTiedMaybeBias:
		where, bias = maybe, maybe
	case ownWithBias:
		bias = always
	}
	b.model.Head = &spec.Head{Scale: float32(b.headScale), SoftCap: float32(b.headSoftCap)}
	w := embd.part(0, b.vocab)
	if t := b.takeWhere(where, "output.weight", b.width, b.vocab); t != nil {
		w = t.part(0, b.vocab)
		if v := b.scaleOf("output", 1); v != nil {
			w = scaled(w, v[0], "output.scale")
		}
	}
	b.put(spec.Global(spec.Output), w)
	b.vector(spec.Global(spec.Output.Bias()), bias, "output.bias", b.vocab)
}

// rotary reads the factors of rotary frequencies.
func (b *builder) rotary() {
	kind := b.arch.attention.factors
	if kind == bothFactors {
		kind = freqFactors
		if b.scaling == "longrope" {
			kind = longFactors
		}
	}
	read := func(name string) []float32 {
		t := b.takeWhere(maybe, name, b.rot/2)
		if t == nil {
			return nil
		}
		v := make([]float32, b.rot/2)
		if err := t.read(context.Background(), v, 0); err != nil {
			b.err = err
		}
		for i, f := range v {
			if !(f > 0) || math.IsInf(float64(f), 0) {
				b.fail("%s: tensor %s: factor %d is %g", t.file, name, i, f)
			}
		}
		return v
	}
	switch kind {
	case freqFactors:
		b.rotaryFactors = read("rope_freqs.weight")
	case longFactors:
		b.rotaryFactors, b.long = read("rope_factors_short.weight"), read("rope_factors_long.weight")
		b.longSet = b.rotaryFactors != nil || b.long != nil
	}
}

func (b *builder) block(layer int) spec.Block {
	n := b.arch.norms
	if n.adjust != nil {
		n.adjust(b, layer, &n)
	}
	of := func(role spec.Role, name string) *spec.Norm {
		if n.bare && name != "" {
			return &spec.Norm{Kind: b.arch.norm, Eps: b.eps}
		}
		if name != "" {
			name = block(layer, name)
		}
		return b.norm(spec.At(layer, role), name, b.width, n.bias)
	}
	k := spec.Block{
		PreMix: of(spec.PreMix, n.preMix), PostMix: of(spec.PostMix, n.postMix), SumMix: of(spec.SumMix, n.sumMix),
		PreFFN: of(spec.PreFFN, n.preFFN), PostFFN: of(spec.PostFFN, n.postFFN), SumFFN: of(spec.SumFFN, n.sumFFN),
		Parallel: n.parallel, ResidualScale: float32(b.residualScale),
	}
	switch {
	case b.kvHeads[layer] == 0:
		k.Conv = b.conv(layer)
	case b.arch.attention.latent:
		k.Attention = b.latent(layer)
	default:
		k.Attention = b.attend(layer)
	}
	if e := b.arch.experts; e != nil && b.experts > 0 && (e.in == nil || e.in(b.hparams, layer)) {
		k.FFN = b.mixture(layer, e)
	} else {
		k.FFN = b.dense(layer)
	}
	return k
}

// scores is what all kinds of attention have.
func (b *builder) scores(layer int) *spec.Attention {
	a := &spec.Attention{
		Heads: b.heads, KVHeads: b.kvHeads[layer], KeyDim: b.keyDim, ValueDim: b.valueDim,
		Scale: b.attnScale, SoftCap: float32(b.attnSoftCap), Causal: b.causal, Clamp: float32(b.clamp),
		Rope: b.rope(layer, b.arch.pairs),
	}
	if b.arch.attention.rotWidth {
		a.KeyDim, a.ValueDim = b.rot, b.rot
	}
	if a.Scale == 0 {
		a.Scale = 1 / math.Sqrt(float64(a.KeyDim))
	}
	if b.windowed[layer] {
		switch b.windowKind {
		case standardWindow, symmetricWindow:
			a.Window = b.window
		case chunked:
			a.Chunk = b.window
		}
	}
	if a.Rope == nil && b.temperature != 0 {
		a.Temperature, a.TemperatureFloor = b.temperature, b.temperatureFloor
	}
	return a
}

func (b *builder) attend(layer int) *spec.Attention {
	row, a := b.arch.attention, b.scores(layer)
	at := func(r spec.Role) spec.Slot { return spec.At(layer, r) }
	q, k, v := a.Heads*a.KeyDim, a.KVHeads*a.KeyDim, a.KVHeads*a.ValueDim
	roles, rows := []spec.Role{spec.Q, spec.K, spec.V}, []int{q, k, v}
	names := []string{"attn_q", "attn_k", "attn_v"}
	if row.fused == onlyFused || b.has(block(layer, "attn_qkv.weight")) {
		b.parts(layer, "attn_qkv", b.width, row.bias, roles, rows)
		// The bias of a fused matrix may lie in three tensors.
		apart := 0
		for i, role := range roles {
			if name := block(layer, names[i]+".bias"); row.fused == apartOrFused && !b.has(block(layer, "attn_qkv.bias")) && b.has(name) {
				b.vector(at(role.Bias()), always, name, rows[i])
				apart++
			}
		}
		if apart > 0 && apart < len(roles) {
			b.fail("layer %d: attn_qkv has only %d of the biases of q, k and v", layer, apart)
		}
	} else {
		for i, role := range roles {
			b.matrix(at(role), names[i], rows[i], b.width, row.bias)
		}
	}
	b.matrix(at(spec.AttnOut), "attn_output", b.width, a.Heads*a.ValueDim, row.outBias)
	if row.sinks {
		b.vector(at(spec.Sinks), always, block(layer, "attn_sinks.weight"), a.Heads)
	}
	if row.innerNorm != "" {
		a.InnerNorm = b.norm(at(spec.AttnInner), block(layer, row.innerNorm), a.Heads*a.ValueDim, never)
	}
	b.headNorms(layer, a)
	return a
}

// headNorms are those of queries and keys.
func (b *builder) headNorms(layer int, a *spec.Attention) {
	row := b.arch.attention
	kind := row.normKind
	if kind == "" {
		kind = spec.RMSNorm
	}
	if b.afterRopeNorm && a.Rope != nil {
		a.QNorm, a.KNorm = &spec.Norm{Kind: kind, Eps: b.eps}, &spec.Norm{Kind: kind, Eps: b.eps}
		a.NormAfterRope = true
		return
	}
	one := func(role spec.Role, name string, heads int) *spec.Norm {
		name = block(layer, name+".weight")
		if row.headNorm == noHeadNorm || row.optional && !b.has(name) {
			return nil
		}
		slot := spec.At(layer, role)
		switch row.headNorm {
		case perHead:
			b.vector(slot, always, name, a.KeyDim)
		case wholeHeads:
			b.vector(slot, always, name, heads*a.KeyDim)
		case ownPerHead:
			if t := b.take(name, a.KeyDim, heads); t != nil {
				b.put(slot, t.part(0, heads))
			}
		}
		return &spec.Norm{Kind: kind, Eps: b.eps}
	}
	a.QNorm, a.KNorm = one(spec.QNorm, "attn_q_norm", a.Heads), one(spec.KNorm, "attn_k_norm", a.KVHeads)
	a.NormWhole, a.NormAfterRope = row.headNorm == wholeHeads, row.normAfter
}

// latent is DeepSeek's attention. attn_k_b holds for each head the transpose
// of what the latents are multiplied by, since llama.cpp multiplies queries by
// it; older files have keys and values of each head one after the other in
// attn_kv_b.
func (b *builder) latent(layer int) *spec.Attention {
	at := func(r spec.Role) spec.Slot { return spec.At(layer, r) }
	name := func(s string) string { return block(layer, s+".weight") }
	a := b.scores(layer)
	absorbed := b.keyMLA > 0
	if absorbed {
		a.KeyDim, a.ValueDim = b.keyMLA, b.valueMLA
	}
	a.KVHeads = a.Heads
	nope := a.KeyDim - b.rot
	if nope < 1 || b.rot < 2 {
		b.fail("heads of %d values, %d of them rotary", a.KeyDim, b.rot)
		return a
	}
	a.MLA = &spec.MLA{QRank: b.loraQ, KVRank: b.loraKV, Nope: nope, Rope: b.rot}

	// llama-context.cpp divides the magnitude of rotation by this, and the
	// graph takes it back (deepseek2.cpp).
	t := b.turning()
	factor := math.Log(1 / t.scale)
	mscale := t.attnFactor * (1 + 0.1*factor) * (1 + 0.1*b.logMultiplier*factor)
	a.Scale = mscale * mscale / math.Sqrt(float64(a.KeyDim))

	if b.loraQ > 0 {
		a.MLA.QANorm = b.norm(at(spec.QANorm), block(layer, "attn_q_a_norm"), b.loraQ, never)
		b.matrix(at(spec.QA), "attn_q_a", b.loraQ, b.width, never)
		b.matrix(at(spec.QB), "attn_q_b", a.Heads*a.KeyDim, b.loraQ, never)
	} else {
		b.matrix(at(spec.Q), "attn_q", a.Heads*a.KeyDim, b.width, never)
	}
	a.MLA.KVANorm = b.norm(at(spec.KVANorm), block(layer, "attn_kv_a_norm"), b.loraKV, never)
	b.matrix(at(spec.KVA), "attn_kv_a_mqa", b.loraKV+b.rot, b.width, never)
	if absorbed {
		if t := b.take(name("attn_k_b"), nope, b.loraKV, a.Heads); t != nil {
			b.put(at(spec.KB), t.transposed(a.Heads))
		}
		if t := b.take(name("attn_v_b"), b.loraKV, a.ValueDim, a.Heads); t != nil {
			b.put(at(spec.VB), t.part(0, a.Heads*a.ValueDim))
		}
	} else if t := b.take(name("attn_kv_b"), b.loraKV, a.Heads*(nope+a.ValueDim)); t != nil {
		both := nope + a.ValueDim
		b.put(at(spec.KB), t.gathered(a.Heads*nope, func(i int) int { return i/nope*both + i%nope }))
		b.put(at(spec.VB), t.gathered(a.Heads*a.ValueDim, func(i int) int { return i/a.ValueDim*both + nope + i%a.ValueDim }))
	}
	b.matrix(at(spec.AttnOut), "attn_output", b.width, a.Heads*a.ValueDim, never)
	return a
}

// conv is LFM2's convolution.
func (b *builder) conv(layer int) *spec.ShortConv {
	b.matrix(spec.At(layer, spec.ConvIn), "shortconv.in_proj", 3*b.width, b.width, never)
	b.matrix(spec.At(layer, spec.ConvTaps), "shortconv.conv", b.width, b.convTaps, never)
	b.matrix(spec.At(layer, spec.ConvOut), "shortconv.out_proj", b.width, b.width, never)
	return &spec.ShortConv{Kernel: b.convTaps}
}

func (b *builder) dense(layer int) spec.FFN {
	row := b.arch.feedForward
	at := func(r spec.Role) spec.Slot { return spec.At(layer, r) }
	f := spec.FFN{Gated: row.form != ungated, Activation: row.activation, Inner: b.ff}
	if b.activation != "" {
		f.Activation = b.activation
	}
	switch row.form {
	case fusedGate:
		b.parts(layer, "ffn_up", b.width, row.bias, []spec.Role{spec.Gate, spec.Up}, []int{b.ff, b.ff})
	case gated:
		b.matrix(at(spec.Gate), "ffn_gate", b.ff, b.width, row.bias)
		fallthrough
	default:
		b.matrix(at(spec.Up), "ffn_up", b.ff, b.width, row.bias)
	}
	b.matrix(at(spec.Down), "ffn_down", b.width, b.ff, row.bias)
	if row.innerNorm != "" {
		f.InnerNorm = b.norm(at(spec.FFNInner), block(layer, row.innerNorm), b.ff, never)
	}
	return f
}

func (b *builder) mixture(layer int, row *experts) spec.FFN {
	at := func(r spec.Role) spec.Slot { return spec.At(layer, r) }
	inner := b.ff
	if row.inner != nil {
		inner = row.inner(b.hparams)
	}
	m := &spec.MoE{
		Experts: b.experts, Used: b.used, Inner: inner, Scoring: row.scoring,
		Normalize: row.normalize || b.weightsNorm, Scale: float32(b.weightsScale), WeightInput: row.weighInput,
	}
	if m.Scoring == "" {
		m.Scoring = b.scoring
	}
	if b.groups > 1 {
		m.Groups, m.GroupsUsed, m.GroupTop2 = b.groups, b.groupUsed, true
	}
	f := spec.FFN{Gated: true, Activation: row.activation, MoE: m}
	if f.Activation == spec.SwiGLUClamped {
		f.Alpha, f.Limit = 1.702, 7 // constants of build_moe_ffn
	}
	b.matrix(at(spec.Router), "ffn_gate_inp", b.experts, b.width, row.bias)
	b.vector(at(spec.RouterCorrection), row.correction, block(layer, "exp_probs_b.bias"), b.experts)
	if row.mayFuse && b.has(block(layer, "ffn_gate_up_exps.weight")) {
		b.stack(layer, "ffn_gate_up_exps", b.width, row.bias, []spec.Role{spec.Gate, spec.Up}, inner)
	} else {
		b.stack(layer, "ffn_gate_exps", b.width, row.bias, []spec.Role{spec.Gate}, inner)
		b.stack(layer, "ffn_up_exps", b.width, row.bias, []spec.Role{spec.Up}, inner)
	}
	b.stack(layer, "ffn_down_exps", inner, row.bias, []spec.Role{spec.Down}, b.width)

	if row.shared != nil {
		if m.SharedInner = row.shared(b.hparams); m.SharedInner > 0 {
			b.matrix(at(spec.SharedGate), "ffn_gate_shexp", m.SharedInner, b.width, never)
			b.matrix(at(spec.SharedUp), "ffn_up_shexp", m.SharedInner, b.width, never)
			b.matrix(at(spec.SharedDown), "ffn_down_shexp", b.width, m.SharedInner, never)
			if row.sharedGate {
				b.vector(at(spec.SharedRouter), always, block(layer, "ffn_gate_inp_shexp.weight"), b.width)
			}
		}
	}
	return f
}

// stack puts the matrices of all experts, each of rows rows for each role.
func (b *builder) stack(layer int, name string, cols int, bias presence, roles []spec.Role, rows int) {
	name = block(layer, name)
	per := len(roles) * rows
	t := b.take(name+".weight", cols, per, b.experts)
	if t == nil {
		return
	}
	scale := b.scaleOf(name, b.experts)
	v := b.takeWhere(bias, name+".bias", per, b.experts)
	for x := range b.experts {
		for i, role := range roles {
			first := x*per + i*rows
			w := t.part(first, rows)
			if scale != nil {
				w = scaled(w, scale[x], name+".scale")
			}
			b.put(spec.Slot{Layer: layer, Role: role, Expert: x}, w)
			if v != nil {
				b.put(spec.Slot{Layer: layer, Role: role.Bias(), Expert: x}, v.span(first, rows))
			}
		}
	}
}

// rest refuses tensors that nothing has asked for. Those of layers that only
// predict ahead are left alone, as llama.cpp leaves them.
func (b *builder) rest() {
	for _, name := range slices.Sorted(maps.Keys(b.tensors)) {
		t := b.tensors[name]
		if t.used || b.ahead(name) {
			continue
		}
		if base, ok := strings.CutSuffix(name, ".input_scale"); ok && b.has(base+".weight") && b.tensors[base+".weight"].used {
			continue // for a runtime that quantizes activations
		}
		if strings.HasPrefix(name, "cls.") {
			b.fail("%s: tensor %s: a classifier of this form cannot be run here", t.file, name)
			break
		}
		b.fail("%s: tensor %s: llama.cpp has no use for it in this architecture", t.file, name)
	}
	if b.err == nil {
		b.err = b.model.Check()
	}
}

// ahead says whether a tensor is of a layer after those that are run.
func (b *builder) ahead(name string) bool {
	var layer int
	_, err := fmt.Sscanf(name, "blk.%d.", &layer)
	return err == nil && layer >= b.layers && layer < b.allLayers
}
