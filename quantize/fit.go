// Fitting a model to a number of bytes, or to a loss: from what each type loses
// on each tensor to a recipe that gives every tensor its type.

package quantize

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
)

// Losses is what types lose on tensors: the expected Kullback-Leibler
// divergence from the unquantized model's predictions, in nats per prediction,
// by the tensor's name and the type. Losses of different tensors add up.
type Losses map[string]map[gguf.Type]float64

// Fit is what a file of types chosen by FitBytes or FitLoss comes to.
type Fit struct {
	Recipe Recipe
	Bytes  int64   // of the tensors' data, each padded to the alignment
	Loss   float64 // expected
}

// FitOptions are the bounds of a fit.
type FitOptions struct {
	Losses     Losses
	Importance func(tensor string) bool // says whether there is importance data for a tensor; nil: for none
	Fast       bool                     // only types that runtimes decode fast: no IQ types
	Alignment  int64                    // of the tensors in the file
}

// FitTypes returns the types from which a fit chooses for a tensor with rows of
// cols weights, the smallest first. Types that need importance are among them
// where there is some.
func FitTypes(cols int64, importance, fast bool) []gguf.Type {
	var types []gguf.Type
	for _, t := range fitTypes {
		codec, ok := Lookup(t.typ)
		if !ok || cols%t.typ.BlockElements() != 0 || fast && t.slow || (t.importance || codec.NeedsImportance) && !importance {
			continue
		}
		if t.narrow && cols%superBlock == 0 {
			continue // a k-quant of the same size is better
		}
		types = append(types, t.typ)
	}
	return types
}

var fitTypes = []struct {
	typ        gguf.Type
	slow       bool // runtimes look values up in grids
	narrow     bool // for rows that do not hold k-quants
	importance bool // llama-quantize refuses it without importance
}{
	{typ: gguf.IQ2_XXS, slow: true, importance: true},
	{typ: gguf.IQ2_S, slow: true, importance: true},
	{typ: gguf.Q2_K},
	{typ: gguf.IQ3_XXS, slow: true, importance: true},
	{typ: gguf.IQ3_S, slow: true},
	{typ: gguf.Q3_K},
	{typ: gguf.IQ4_XS, slow: true},
	{typ: gguf.IQ4_NL, slow: true, narrow: true},
	{typ: gguf.Q4_0, narrow: true},
	{typ: gguf.Q4_K},
	{typ: gguf.Q4_1, narrow: true},
	{typ: gguf.Q5_0, narrow: true},
	{typ: gguf.Q5_K},
	{typ: gguf.Q5_1, narrow: true},
	{typ: gguf.Q6_K},
	{typ: gguf.Q8_0},
	{typ: gguf.F16},
}

// FitBytes chooses the types of tensors so that their data takes at most limit
// bytes and loses little. r holds what the user has fixed: its overrides, the
// types of output and embedding, LeaveOutput; its Preset is not used. A
// *BudgetError says that nothing fits.
func (r Recipe) FitBytes(tensors []Tensor, limit int64, o FitOptions) (Fit, error) {
	return r.fit(tensors, o, func(lots [][]Offer) ([]int, error) { return Allocate(lots, limit) })
}

// FitLoss chooses the types of tensors so that they lose at most limit, in few
// bytes.
func (r Recipe) FitLoss(tensors []Tensor, limit float64, o FitOptions) (Fit, error) {
	return r.fit(tensors, o, func(lots [][]Offer) ([]int, error) { return AllocateLoss(lots, limit) })
}

func (r Recipe) fit(tensors []Tensor, o FitOptions, choose func([][]Offer) ([]int, error)) (Fit, error) {
	fixed, err := r.fixed(tensors)
	if err != nil {
		return Fit{}, err
	}
	lots := make([][]Offer, len(tensors))
	for i, t := range tensors {
		types := []gguf.Type{t.Type}
		switch {
		case fixed[i] != nil:
			got, err := fallback(*fixed[i], t.Shape[0])
			if err != nil {
				return Fit{}, fmt.Errorf("tensor %s: %w", t.Name, err)
			}
			if got != *fixed[i] && r.Strict {
				return Fit{}, fmt.Errorf("tensor %s: a row of %d weights does not hold %s", t.Name, t.Shape[0], *fixed[i])
			}
			types[0] = got
		case Quantizable(t.Name, t.Shape):
			all := FitTypes(t.Shape[0], o.Importance != nil && o.Importance(t.Name), o.Fast)
			for _, typ := range all {
				if _, known := o.Losses[t.Name][typ]; known && typ != t.Type {
					types = append(types, typ)
				}
			}
			if len(types) == 1 && len(all) > 1 { // F16 may be what it is in
				return Fit{}, fmt.Errorf("tensor %s: it is not known what any type loses on it", t.Name)
			}
		}
		for _, typ := range types {
			offer, err := o.offer(t, typ)
			if err != nil {
				return Fit{}, fmt.Errorf("tensor %s: %w", t.Name, err)
			}
			lots[i] = append(lots[i], offer)
		}
	}
	chosen, err := choose(lots)
	if err != nil {
		return Fit{}, err
	}
	out := Fit{Recipe: r}
	out.Recipe.Overrides = slices.Clone(r.Overrides)
	count := map[gguf.Type]int64{}
	for i, t := range tensors {
		offer := lots[i][chosen[i]]
		out.Bytes += offer.Bytes
		out.Loss += offer.Loss
		count[offer.Type] += offer.Bytes
		if fixed[i] == nil && Quantizable(t.Name, t.Shape) {
			out.Recipe.Overrides = append(out.Recipe.Overrides, Override{"^" + regexp.QuoteMeta(strings.ToLower(t.Name)) + "$", offer.Type})
		}
	}
	out.Recipe.Preset = presetOf(count)
	return out, nil
}

// offer is a tensor in a type.
func (o FitOptions) offer(t Tensor, typ gguf.Type) (Offer, error) {
	size, err := gguf.TensorInfo{Name: t.Name, Type: typ, Shape: t.Shape}.Size()
	if err != nil {
		return Offer{}, err
	}
	if rest := size % o.Alignment; rest != 0 {
		size += o.Alignment - rest
	}
	loss, known := o.Losses[t.Name][typ]
	if !known && typ != t.Type {
		return Offer{}, fmt.Errorf("it is not known what %s loses on it", typ)
	}
	return Offer{typ, size, loss}, nil
}

// Loss is what tensors lose in the types of an assignment, as far as that is
// known; false says that a type's loss is not.
func (l Losses) Loss(tensors []Tensor, choices []Choice) (float64, bool) {
	sum := 0.0
	for i, t := range tensors {
		if choices[i].Type == t.Type {
			continue
		}
		loss, ok := l[t.Name][choices[i].Type]
		if !ok {
			return 0, false
		}
		sum += loss
	}
	return sum, true
}

// fixed returns the types that the recipe gives tensors by name, nil for the
// others. An override that matches no tensor is an error, as in Assign.
func (r Recipe) fixed(tensors []Tensor) ([]*gguf.Type, error) {
	overrides, err := r.compile(tensors)
	if err != nil {
		return nil, err
	}
	c := chooser{recipe: r, overrides: overrides, tied: !slices.ContainsFunc(tensors, func(t Tensor) bool { return roleOf(t.Name) == outputMatrix })}
	types := make([]*gguf.Type, len(tensors))
	for i, t := range tensors {
		role := roleOf(t.Name)
		switch {
		case !Quantizable(t.Name, t.Shape) || r.LeaveOutput && role == outputMatrix:
			kept := t.Type
			types[i] = &kept
		case r.Embedding != nil && role == tokenEmbd:
			types[i] = r.Embedding
		case r.Output != nil && (role == outputMatrix || role == tokenEmbd && c.tied):
			types[i] = r.Output
		default:
			types[i] = c.override(t.Name)
		}
	}
	return types, nil
}

// presetOf names the preset whose base type takes the most bytes: what
// general.file_type can say of a mixture of its own.
func presetOf(bytes map[gguf.Type]int64) string {
	types := make([]gguf.Type, 0, len(bytes))
	for t := range bytes {
		types = append(types, t)
	}
	slices.SortFunc(types, func(a, b gguf.Type) int { return cmp.Or(cmp.Compare(bytes[b], bytes[a]), cmp.Compare(a, b)) })
	for _, t := range types {
		if !quantized(t) {
			continue
		}
		for _, p := range presets {
			if p.Type == t {
				return p.Name
			}
		}
	}
	return gguf.Q8_0.String()
}
