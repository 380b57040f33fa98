package fromgguf

import (
	"errors"
	"fmt"
	"math"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/spec"
)

// Limits of llama.cpp (llama-hparams.h), and of what any model has; they bound
// what is allocated before a tensor's shape proves a size.
const (
	maxLayers  = 512
	maxExperts = 1024
	maxSize    = 1 << 28 // any other count or size
	maxHeadDim = 1 << 16
)

// hparams are the metadata of a model as llama.cpp's load_hparams reads them,
// with its defaults, and what an architecture's own keys add.
type hparams struct {
	keys

	vocab, types                     int // rows of token_embd and token_types
	context, width                   int
	layers, allLayers                int // without and with those that only predict ahead
	heads                            int
	kvHeads                          []int // per layer
	ff                               int
	experts, used, groups, groupUsed int
	keyDim, valueDim, rot            int // per head
	causal                           bool
	pooling                          spec.Pooling
	ranks                            bool // the file is of a reranker, if it has the tensors
	eps                              float64

	// Rotary embedding; the swa ones are those of layers with a window, where
	// swaRope says that the graph makes a difference.
	base, baseSWA       float64
	scale, scaleSWA     float64 // of frequencies
	scaling             string  // none, linear, yarn, longrope
	originalContext     int
	attnFactor          float64
	logMultiplier       float64
	swaRope, swaPlain   bool // swaPlain: no scaling of any kind there
	noRope              []bool
	rotaryFactors, long []float32 // rope_freqs or rope_factors_short, and rope_factors_long
	longSet             bool

	windowKind windowKind
	window     int
	windowed   []bool

	attnScale, attnSoftCap, clamp       float64
	embdScale, residualScale, headScale float64 // 1: none
	headSoftCap                         float64
	temperature, temperatureFloor       float64

	expertFF, sharedFF, sharedCount, denseLead, moeStep int
	weightsScale                                        float64
	weightsNorm                                         bool
	scoring                                             spec.Scoring

	loraQ, loraKV, keyMLA, valueMLA int
	convTaps                        int
	activation                      spec.Activation // "": that of the row
	afterRopeNorm                   bool            // queries and keys are normed without weights after rotation
}

// windowKind is llama.cpp's llama_swa_type.
type windowKind int

const (
	noWindow windowKind = iota
	standardWindow
	symmetricWindow
	chunked
)

// keys reads metadata whose names begin with the architecture's; after the
// first error every value is zero.
type keys struct {
	metadata gguf.Metadata
	arch     string
	err      error
}

func (k *keys) fail(format string, args ...any) {
	if k.err == nil {
		k.err = fmt.Errorf(format, args...)
	}
}

// get returns the value of a key of the architecture, of exactly type T.
func get[T any](k *keys, key string) (v T, ok bool) {
	if k.err != nil {
		return v, false
	}
	got, err := gguf.Value[T](k.metadata, k.arch+"."+key)
	if errors.Is(err, gguf.ErrNoKey) {
		return v, false
	}
	if err != nil {
		k.err = err
		return v, false
	}
	return got, true
}

func (k *keys) need(key string, ok bool) {
	if !ok {
		k.fail("metadata %q: %w", k.arch+"."+key, gguf.ErrNoKey)
	}
}

// countOr is a uint32 of at most most; def where the key is missing.
func (k *keys) countOr(key string, def, most int) int {
	v, ok := get[uint32](k, key)
	if !ok {
		return def
	}
	if int64(v) > int64(most) {
		k.fail("metadata %q is %d: want at most %d", k.arch+"."+key, v, most)
		return 0
	}
	return int(v)
}

// count is a uint32 that must be there and lie in [1, most].
func (k *keys) count(key string, most int) int {
	n := k.countOr(key, -1, most)
	k.need(key, n >= 0)
	if n == 0 {
		k.fail("metadata %q is 0", k.arch+"."+key)
	}
	return n
}

// numberOr is a float32; def where the key is missing.
func (k *keys) numberOr(key string, def float64) float64 {
	v, ok := get[float32](k, key)
	if !ok {
		return def
	}
	if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
		k.fail("metadata %q is %g", k.arch+"."+key, v)
		return 0
	}
	return float64(v)
}

// number is a float32 that must be there.
func (k *keys) number(key string) float64 {
	_, ok := get[float32](k, key)
	k.need(key, ok)
	return k.numberOr(key, 0)
}

func (k *keys) flagOr(key string, def bool) bool {
	if v, ok := get[bool](k, key); ok {
		return v
	}
	return def
}

func (k *keys) textOr(key, def string) string {
	if v, ok := get[string](k, key); ok {
		return v
	}
	return def
}

// perLayer is a uint32, which is each of n layers' value, or an array of n
// integers, as llama.cpp's get_key_or_arr reads it; nil where the key is
// missing.
func (k *keys) perLayer(key string, n, most int) []int {
	v, ok := k.metadata.Get(k.arch + "." + key)
	if !ok || k.err != nil {
		return nil
	}
	values := make([]int, n)
	set := func(i int, x int64) {
		if x < 0 || x > int64(most) {
			k.fail("metadata %q is %d: want 0 to %d", k.arch+"."+key, x, most)
		}
		values[i] = int(x)
	}
	length := n
	switch v := v.(type) {
	case uint32:
		for i := range n {
			set(i, int64(v))
		}
	case []uint32:
		if length = len(v); length == n {
			for i, x := range v {
				set(i, int64(x))
			}
		}
	case []int32:
		if length = len(v); length == n {
			for i, x := range v {
				set(i, int64(x))
			}
		}
	default:
		k.fail("metadata %q: want a uint32 or an array of uint32 or int32", k.arch+"."+key)
	}
	if length != n {
		k.fail("metadata %q has %d values: want %d, one for each layer", k.arch+"."+key, length, n)
	}
	if k.err != nil {
		return nil
	}
	return values
}

// same is a perLayer value that must not differ between layers.
func (k *keys) same(key string, n, def, most int) int {
	values := k.perLayer(key, n, most)
	if len(values) == 0 {
		return def
	}
	for i, v := range values {
		if v != values[0] {
			k.fail("metadata %q is %d for layer %d and %d for layer 0: layers that differ in it cannot be run here", k.arch+"."+key, v, i, values[0])
		}
	}
	return values[0]
}

// hparams reads the keys that all architectures have, then the row's own.
func (a architecture) hparams(m gguf.Metadata) (*hparams, error) {
	p := &hparams{keys: keys{metadata: m, arch: a.name}}
	p.common(a)
	if a.keys != nil && p.err == nil {
		a.keys(p)
	}
	if p.err != nil {
		return nil, p.err
	}
	p.check()
	return p, p.err
}

func (p *hparams) common(a architecture) {
	p.context = p.count("context_length", 1<<31-1)
	p.width = p.count("embedding_length", maxSize)
	p.allLayers = p.count("block_count", maxLayers)
	p.layers = p.allLayers - p.countOr("nextn_predict_layers", 0, max(p.allLayers-1, 0))
	if p.err != nil {
		return
	}
	p.vocabulary()
	if a.norm == spec.LayerNorm {
		p.eps = p.number("attention.layer_norm_epsilon")
	} else {
		p.eps = p.number("attention.layer_norm_rms_epsilon")
	}
	p.causal = p.flagOr("attention.causal", true)
	switch t := p.countOr("pooling_type", 0, 1<<31-1); t {
	case 0:
		_, stated := get[uint32](&p.keys, "pooling_type")
		p.ranks = (a.classifier == firstToken || a.classifier == pooledHead) && !stated
	case 1:
		p.pooling = spec.PoolMean
	case 2:
		p.pooling = spec.PoolCLS
	case 3:
		p.pooling = spec.PoolLast
	case 4:
		if p.ranks = a.classifier != noClassifier; !p.ranks {
			p.fail("metadata %q is 4: rerankers of this architecture cannot be run here", p.arch+".pooling_type")
		}
	default:
		p.fail("metadata %q is %d: want 0 to 4", p.arch+".pooling_type", t)
	}

	p.heads = p.same("attention.head_count", p.allLayers, 0, maxSize)
	if p.err == nil && p.heads == 0 {
		p.fail("metadata %q: want a number of heads", p.arch+".attention.head_count")
		return
	}
	p.kvHeads = p.perLayer("attention.head_count_kv", p.allLayers, maxSize)
	if p.kvHeads == nil {
		p.kvHeads = repeat(p.heads, p.allLayers)
	}
	p.ff = p.same("feed_forward_length", p.allLayers, 0, maxSize)
	if p.err != nil {
		return
	}
	p.keyDim = p.countOr("attention.key_length", p.width/p.heads, maxHeadDim)
	p.valueDim = p.countOr("attention.value_length", p.width/p.heads, maxHeadDim)
	p.rot = p.countOr("rope.dimension_count", p.keyDim, maxHeadDim)
	for key, same := range map[string]int{"attention.key_length_swa": p.keyDim, "attention.value_length_swa": p.valueDim, "rope.dimension_count_swa": p.rot} {
		if n := p.countOr(key, same, maxHeadDim); n != same {
			p.fail("metadata %q is %d and %d in other layers: heads that differ cannot be run here", p.arch+"."+key, n, same)
		}
	}
	if sections := p.perLayer("rope.dimension_sections", 4, maxHeadDim); sections != nil && sections[0]+sections[1]+sections[2]+sections[3] > 0 {
		p.fail("metadata %q: rotation by sections cannot be run here", p.arch+".rope.dimension_sections")
	}

	p.experts = p.countOr("expert_count", 0, maxExperts)
	p.used = p.same("expert_used_count", p.allLayers, 0, maxExperts)
	p.groups = p.countOr("expert_group_count", 0, maxExperts)
	p.groupUsed = p.countOr("expert_group_used_count", 0, maxExperts)

	p.base, p.baseSWA, p.scaleSWA = p.numberOr("rope.freq_base", 10000), 10000, 1
	p.scaling = p.textOr("rope.scaling.type", "linear")
	switch p.scaling {
	case "none", "linear", "yarn", "longrope":
	default:
		p.fail("metadata %q is %q: want none, linear, yarn or longrope", p.arch+".rope.scaling.type", p.scaling)
	}
	factor := p.numberOr("rope.scaling.factor", p.numberOr("rope.scale_linear", 0))
	if factor < 0 {
		p.fail("metadata %q is %g", p.arch+".rope.scaling.factor", factor)
	}
	if p.scale = 1; factor != 0 {
		p.scale = 1 / factor
	}
	p.originalContext = p.countOr("rope.scaling.original_context_length", p.context, 1<<31-1)
	if p.originalContext == 0 {
		p.originalContext = p.context
	}
	p.attnFactor = p.numberOr("rope.scaling.attn_factor", 1)

	p.embdScale, p.residualScale, p.headScale, p.weightsScale = 1, 1, 1, 1
	p.noRope = make([]bool, p.layers)
	p.windowed = make([]bool, p.layers)
}

func repeat(v, n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = v
	}
	return s
}

// vocabulary reads the number of tokens, and of token types where a model
// needs it.
func (p *hparams) vocabulary() {
	tokens, err := p.metadata.Strings("tokenizer.ggml.tokens")
	switch {
	case err == nil:
		p.vocab = len(tokens)
	case errors.Is(err, gguf.ErrNoKey):
		p.vocab = p.count("vocab_size", maxSize)
	default:
		p.fail("%w", err)
	}
	if n, err := p.metadata.Uint32("tokenizer.ggml.token_type_count"); err == nil && n <= maxSize {
		p.types = int(n)
	} else if !errors.Is(err, gguf.ErrNoKey) {
		p.fail("metadata \"tokenizer.ggml.token_type_count\": want a uint32 of at most %d", maxSize)
	}
}

// check refuses what llama.cpp's assertions refuse, and what would divide by
// zero.
func (p *hparams) check() {
	switch {
	case p.keyDim < 1 || p.valueDim < 1:
		p.fail("heads of %d key and %d value dimensions", p.keyDim, p.valueDim)
	case p.rot < 0 || p.rot%2 != 0 || p.rot > p.keyDim && p.keyMLA == 0:
		p.fail("rotation of %d of %d dimensions of a head", p.rot, p.keyDim)
	case p.base <= 0 || p.baseSWA <= 0 || p.scale <= 0 || p.scaleSWA <= 0:
		p.fail("rotary base %g and scale %g: want positive numbers", p.base, p.scale)
	case !(p.eps >= 0):
		p.fail("norm epsilon %g", p.eps)
	case p.experts > 0 && (p.used < 1 || p.used > p.experts):
		p.fail("%d of %d experts are used", p.used, p.experts)
	case p.experts == 0 && p.used > 0:
		p.fail("%d experts are used, but there are none", p.used)
	case p.groups > 1 && (p.experts%p.groups != 0 || p.experts/p.groups < 2 || p.groupUsed < 1 || p.groupUsed >= p.groups):
		p.fail("%d of %d groups of %d experts are used", p.groupUsed, p.groups, p.experts)
	case p.groups > 1 && p.used > p.experts/p.groups*p.groupUsed:
		p.fail("%d experts of %d groups of %d are used", p.used, p.groupUsed, p.experts/p.groups)
	case p.windowKind == standardWindow && !p.causal, p.windowKind == symmetricWindow && p.causal:
		p.fail("attention with a window of this kind and causal %v cannot be run here", p.causal)
	case p.windowKind != noWindow && p.window < 1:
		p.fail("window of %d tokens", p.window)
	}
	for i, n := range p.kvHeads[:p.layers] {
		if n > 0 && p.heads%n != 0 || n == 0 && p.convTaps == 0 {
			p.fail("layer %d: %d heads and %d key heads", i, p.heads, n)
		}
	}
}

// slide gives layers a window, which of them as load_swa_pattern has it: by
// the key, an array or a period, else by the period def.
func (p *hparams) slide(kind windowKind, window, def int, denseFirst bool) {
	p.windowKind, p.window = kind, window
	const key = "attention.sliding_window_pattern"
	switch v, _ := p.metadata.Get(p.arch + "." + key); v := v.(type) {
	case []bool:
		if len(v) != p.layers && len(v) != p.allLayers {
			p.fail("metadata %q has %d values: want %d, one for each layer", p.arch+"."+key, len(v), p.layers)
			return
		}
		copy(p.windowed, v)
		return
	case []uint32, []int32:
		for i, n := range p.perLayer(key, p.allLayers, 1) {
			if i < p.layers {
				p.windowed[i] = n == 1
			}
		}
		return
	}
	period := p.countOr(key, def, maxLayers)
	for i := range p.windowed {
		switch {
		case period == 0:
			p.windowed[i] = true
		case denseFirst:
			p.windowed[i] = i%period != 0
		default:
			p.windowed[i] = i%period < period-1
		}
	}
}

// sameRopeInWindow is the rule of architectures whose windowed layers turn as
// the others unless a key says their base.
func (p *hparams) sameRopeInWindow() {
	p.baseSWA, p.scaleSWA = p.numberOr("rope.freq_base_swa", p.base), p.scale
}

// gating reads the experts' scoring function; def where the key is missing or
// 0.
func (p *hparams) gating(def spec.Scoring) {
	switch f := p.countOr("expert_gating_func", 0, 1<<31-1); f {
	case 0:
		p.scoring = def
	case 1:
		p.scoring = spec.ScoreSoftmax
	case 2:
		p.scoring = spec.ScoreSigmoid
	case 3:
		p.scoring = spec.ScoreSoftmaxSelected
	default:
		p.fail("metadata %q is %d: want 1 (softmax), 2 (sigmoid) or 3 (softmax of the chosen)", p.arch+".expert_gating_func", f)
	}
}

// nonzeroOr is a number where 0 means that it is not used.
func (p *hparams) nonzeroOr(key string, def float64) float64 {
	if v := p.numberOr(key, 0); v != 0 {
		return v
	}
	return def
}

// rootOfWidth is the factor of Gemma's embeddings.
func rootOfWidth(p *hparams) float64 { return math.Sqrt(float64(p.width)) }

// scaleByWidth makes the scores' scale that of heads which share the width.
func (p *hparams) scaleByWidth() { p.attnScale = 1 / math.Sqrt(float64(p.width/p.heads)) }

// graniteScales reads Granite's factors.
func (p *hparams) graniteScales() {
	logits := p.number("logit_scale")
	if p.err == nil && logits == 0 {
		p.fail("metadata %q is 0", p.arch+".logit_scale")
		return
	}
	p.headScale = 1 / logits
	p.residualScale = p.nonzeroOr("residual_scale", 1)
	p.embdScale = p.nonzeroOr("embedding_scale", 1)
	p.attnScale = p.numberOr("attention.scale", 0)
	p.sharedFF = p.countOr("expert_shared_feed_forward_length", 0, maxSize)
}

// needExperts refuses a file without experts.
func needExperts(p *hparams) {
	if p.experts == 0 {
		p.fail("metadata %q: want a number of experts", p.arch+".expert_count")
	}
}
