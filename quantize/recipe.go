package quantize

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
)

// Model is what the choice of types depends on besides the tensors. The
// figures are those of the GGUF's keys; 0 where a key is missing.
type Model struct {
	Arch    string // general.architecture
	Layers  int    // block_count
	Heads   int    // attention.head_count of the first layer
	HeadsKV int    // attention.head_count_kv of the first layer
	Experts int    // expert_count
}

func (m Model) groups() int {
	if m.HeadsKV == 0 {
		return 0
	}
	return m.Heads / m.HeadsKV
}

// is70B is llama.cpp's LLM_TYPE_70B, told by the number of layers.
func (m Model) is70B() bool {
	switch m.Arch {
	case "llama":
		return m.Layers == 80 && m.Heads != m.HeadsKV
	case "qwen2", "deci", "olmo":
		return m.Layers == 80
	case "jais2":
		return m.Layers == 68
	}
	return false
}

// Tensor is one tensor whose type is to be chosen.
type Tensor struct {
	Name  string
	Shape []int64   // ne order
	Type  gguf.Type // kept where the tensor is not quantized
}

// Override gives every tensor whose name the pattern finds (unanchored, in
// lower case, as llama-quantize's --tensor-type) one type.
type Override struct {
	Pattern string
	Type    gguf.Type
}

// Recipe is a complete instruction for choosing types.
type Recipe struct {
	// Preset is a preset's name or, where Pure is set or no preset has that
	// name, a tensor type's.
	Preset      string
	Pure        bool       // the base type everywhere, no mixture
	LeaveOutput bool       // output.weight keeps the type it has
	Output      *gguf.Type // of output.weight, or of token_embd.weight where it is both
	Embedding   *gguf.Type // of token_embd.weight
	Overrides   []Override // the first that matches decides
	Strict      bool       // a type that a row cannot hold is an error, not a fallback
}

// Choice is what a recipe decided for one tensor.
type Choice struct {
	Type gguf.Type
	// Wanted is the type that the rules named; it differs from Type where a
	// row cannot hold it.
	Wanted gguf.Type
	// NeedsImportance says that llama-quantize refuses this tensor without
	// importance data.
	NeedsImportance bool
}

// Assignment is a recipe applied to a model.
type Assignment struct {
	Choices  []Choice // one per tensor, in the order given
	FileType uint32   // general.file_type
}

// preset resolves the recipe's name.
func (r Recipe) preset() (Preset, error) {
	t, typeErr := gguf.ParseType(r.Preset)
	p, ok := LookupPreset(r.Preset)
	switch {
	case r.Pure && typeErr == nil && (!ok || p.Type != t):
		return purePreset(t)
	case ok:
		return p, nil
	case typeErr == nil:
		return purePreset(t)
	}
	return Preset{}, fmt.Errorf("unknown type or preset %q; want one of %s", r.Preset, strings.Join(PresetNames(), ", "))
}

// purePreset is a preset without rules for a type that has none of its name.
// Its file type is that of the first preset with this base type.
func purePreset(t gguf.Type) (Preset, error) {
	if err := writable(t); err != nil {
		return Preset{}, err
	}
	p := Preset{Name: t.String(), Type: t}
	for _, known := range presets {
		if known.Type == t {
			p.FileType = known.FileType
			return p, nil
		}
	}
	return Preset{}, fmt.Errorf("type %s has no general.file_type", t)
}

// writable says whether there is an encoder for a type that the user named.
func writable(t gguf.Type) error {
	if _, ok := Lookup(t); !ok {
		return fmt.Errorf("type %s cannot be written: it has no encoder", t)
	}
	return nil
}

// compiled is an Override ready to match.
type compiled struct {
	*regexp.Regexp
	t gguf.Type
}

// compile checks the overrides against the tensors.
func (r Recipe) compile(tensors []Tensor) ([]compiled, error) {
	overrides := make([]compiled, len(r.Overrides))
	for i, o := range r.Overrides {
		re, err := regexp.Compile(strings.ToLower(o.Pattern))
		if err != nil {
			return nil, fmt.Errorf("tensor type %s=%s: %w", o.Pattern, o.Type, err)
		}
		if err := writable(o.Type); err != nil {
			return nil, fmt.Errorf("tensor type %s=%s: %w", o.Pattern, o.Type, err)
		}
		overrides[i] = compiled{Regexp: re, t: o.Type}
		if !slices.ContainsFunc(tensors, func(t Tensor) bool { return re.MatchString(t.Name) }) {
			return nil, fmt.Errorf("tensor type %s=%s matches no tensor", o.Pattern, o.Type)
		}
	}
	return overrides, nil
}

// Assign chooses the type of every tensor. importance says whether an
// importance matrix is used. It fails on an unknown preset, on an override
// that matches no tensor, and on a type that no row can hold.
func (r Recipe) Assign(m Model, tensors []Tensor, importance bool) (Assignment, error) {
	p, err := r.preset()
	if err != nil {
		return Assignment{}, err
	}
	for _, t := range []*gguf.Type{r.Output, r.Embedding} {
		if t == nil {
			continue
		}
		if err := writable(*t); err != nil {
			return Assignment{}, err
		}
	}
	overrides, err := r.compile(tensors)
	if err != nil {
		return Assignment{}, err
	}
	c := chooser{recipe: r, preset: p, model: m, importance: importance, overrides: overrides, tied: true}
	for _, t := range tensors {
		switch roleOf(t.Name) {
		case attnV:
			c.values++
		case outputMatrix:
			c.tied = false
		}
	}
	// The counters of llama-quantize run in the order of its file: by block,
	// then by name.
	order := make([]int, len(tensors))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return CompareNames(tensors[a].Name, tensors[b].Name) })

	out := Assignment{Choices: make([]Choice, len(tensors)), FileType: p.FileType}
	for _, i := range order {
		if out.Choices[i], err = c.choose(tensors[i]); err != nil {
			return Assignment{}, fmt.Errorf("tensor %s: %w", tensors[i].Name, err)
		}
	}
	return out, nil
}

// CompareNames orders tensors as llama-quantize writes them: those outside of
// blocks first, then by block, then by name.
func CompareNames(a, b string) int {
	return cmp.Or(cmp.Compare(blockOf(a), blockOf(b)), strings.Compare(a, b))
}

// blockOf returns the block number in a name, or -1.
func blockOf(name string) int {
	rest, ok := strings.CutPrefix(name, "blk.")
	if !ok {
		return -1
	}
	digits, _, ok := strings.Cut(rest, ".")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 0 {
		return -1
	}
	return n
}

// chooser is the state of one assignment.
type chooser struct {
	recipe     Recipe
	preset     Preset
	model      Model
	importance bool
	overrides  []compiled
	tied       bool // token_embd.weight is the output matrix too

	values           int // number of tensors that hold attention values
	nextValue        int // layer counters, in the order of the file
	nextUp, nextGate int
	nextDown         int
}

func (c *chooser) choose(t Tensor) (Choice, error) {
	kept := Choice{Type: t.Type, Wanted: t.Type}
	r := roleOf(t.Name)
	if !Quantizable(t.Name, t.Shape) || (c.recipe.LeaveOutput && r == outputMatrix) {
		return kept, nil
	}
	override := c.override(t.Name)
	named := t.Name == "per_layer_token_embd.weight" && override != nil
	var want gguf.Type
	switch {
	case c.recipe.Embedding != nil && r == tokenEmbd && !named:
		want = *c.recipe.Embedding
	case c.recipe.Output != nil && r == outputMatrix:
		want = *c.recipe.Output
	case !quantized(c.preset.Type):
		want = c.preset.Type
	case override != nil:
		want = *override
	case c.recipe.Pure:
		want = c.preset.Type
	default:
		var err error
		if want, err = c.mixture(t, r); err != nil {
			return Choice{}, err
		}
	}
	got, err := fallback(want, t.Shape[0])
	if err != nil {
		return Choice{}, err
	}
	if got != want && c.recipe.Strict {
		return Choice{}, fmt.Errorf("a row of %d weights does not hold %s, whose block has %d", t.Shape[0], want, want.BlockElements())
	}
	return Choice{Type: got, Wanted: want, NeedsImportance: c.needsImportance(got, r)}, nil
}

func (c *chooser) override(name string) *gguf.Type {
	for i := range c.overrides {
		if c.overrides[i].MatchString(name) {
			return &c.overrides[i].t
		}
	}
	return nil
}

// quantized reports whether t has blocks of more than one weight.
func quantized(t gguf.Type) bool { return t.BlockElements() > 1 }

// mixture is the preset's choice (llama_tensor_get_type_impl).
func (c *chooser) mixture(t Tensor, r role) (gguf.Type, error) {
	p := c.preset
	at, err := c.site(t.Name, r)
	if err != nil {
		return 0, err
	}
	switch {
	case r == outputMatrix || (r == tokenEmbd && c.tied):
		switch {
		case c.recipe.Output != nil:
			return *c.recipe.Output, nil
		case p.expertsFP4, c.model.Arch == "falcon", t.Shape[0]%p.Type.BlockElements() != 0:
			return gguf.Q8_0, nil
		case p.lowOutput:
			return gguf.Q5_K, nil
		case p.Type == gguf.Q8_0:
			return gguf.Q8_0, nil
		}
		return gguf.Q6_K, nil
	case p.expertsFP4:
		if len(t.Shape) > 2 && t.Shape[2] > 1 {
			return gguf.MXFP4, nil
		}
		return gguf.Q8_0, nil
	case r == tokenEmbd:
		if p.embedding != 0 {
			return p.embedding, nil
		}
		return p.Type, nil
	}

	want := p.Type
	for _, rule := range p.rules[r] {
		if rule.when == nil || rule.when(at) {
			want = rule.then
			break
		}
	}
	if p.lowBit {
		return want, nil
	}
	// Values and keys are small next to what they decide in a model of many
	// query heads per value head or of many experts.
	if r == attnV && c.model.is70B() && (want == gguf.Q3_K || want == gguf.Q4_K) {
		want = gguf.Q5_K
	}
	if (r == attnV || r == attnK) && c.model.Experts == 8 {
		want = gguf.Q8_0
	}
	return want, nil
}

// site counts the layers as llama-quantize does: values by their order of
// appearance among all tensors of this role; feed-forward tensors by their
// order too, or by the block in the name where the model has experts.
func (c *chooser) site(name string, r role) (site, error) {
	at := site{model: c.model, importance: c.importance, layers: c.model.Layers}
	var counter *int
	switch r {
	case attnV:
		at.layers, counter = c.values, &c.nextValue
	case ffnDown:
		counter = &c.nextDown
	case ffnGate:
		counter = &c.nextGate
	case ffnUp:
		counter = &c.nextUp
	default:
		return at, nil
	}
	at.layer = *counter
	*counter++
	if r != attnV && c.model.Experts > 1 && !c.preset.lowBit {
		at.layer = blockOf(name)
		if at.layer < 0 || at.layer >= c.model.Layers {
			return site{}, fmt.Errorf("no block of %d in the name", c.model.Layers)
		}
	}
	return at, nil
}

// needsImportance is llama-quantize's tensor_requires_imatrix, for mixtures.
// A pure recipe is free to do without; only the encoders that cannot are
// bound (Codec.NeedsImportance).
func (c *chooser) needsImportance(t gguf.Type, r role) bool {
	if codec, ok := Lookup(t); ok && codec.NeedsImportance {
		return true
	}
	if c.recipe.Pure || r == tokenEmbd || r == outputMatrix {
		return false
	}
	switch t {
	case gguf.IQ3_XXS, gguf.IQ2_XXS, gguf.IQ2_XS, gguf.IQ2_S, gguf.IQ1_M, gguf.IQ1_S:
		return true
	case gguf.Q2_K:
		return c.preset.needsQ2
	}
	return false
}

// fallback returns the type that takes the place of want where a row of cols
// weights does not hold it (llama-quant.cpp, tensor_type_fallback).
func fallback(want gguf.Type, cols int64) (gguf.Type, error) {
	if cols%want.BlockElements() == 0 {
		return want, nil
	}
	got := want
	switch want {
	case gguf.IQ1_S, gguf.IQ1_M, gguf.IQ2_XXS, gguf.IQ2_XS, gguf.IQ2_S, gguf.IQ3_XXS, gguf.IQ3_S, gguf.IQ4_XS:
		got = gguf.IQ4_NL
	case gguf.Q2_0, gguf.Q2_K, gguf.Q3_K, gguf.TQ1_0, gguf.TQ2_0, gguf.NVFP4:
		got = gguf.Q4_0
	case gguf.Q4_K:
		got = gguf.Q5_0
	case gguf.Q5_K:
		got = gguf.Q5_1
	case gguf.Q6_K:
		got = gguf.Q8_0
	default:
		if want.BlockElements() > 32 {
			return 0, fmt.Errorf("a row of %d weights does not hold %s, whose block has %d, and no smaller type stands in for it", cols, want, want.BlockElements())
		}
	}
	if cols%got.BlockElements() != 0 {
		return gguf.F16, nil
	}
	return got, nil
}
