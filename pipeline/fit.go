package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/ops/budget"
	"github.com/modelpipe/modelpipe/quantize"
)

// This file chooses the types of a model's tensors for the size of the file or
// for what it loses (docs/budget.md), for convert and for refresh: from the
// same inputs both choose the same.

// FitOptions are what types are chosen by.
type FitOptions struct {
	MaxSize int64           // of the file, in bytes; 0: MaxKLD decides
	MaxKLD  float64         // expected divergence, nats per prediction
	Recipe  quantize.Recipe // holds what is fixed besides; its preset is not used
	Fast    bool            // only types that runtimes decode fast

	Importance *quantize.Imatrix // that the file will be made with, or nil
	Imatrix    string            // its name in the file
	// Expect chooses as if there were importance data for every tensor, of a
	// matrix that is yet to be measured.
	Expect bool

	// Plan plans the file with the types of a policy, nil for those of the source.
	Plan func(convert.TypePolicy) (*convert.Plan, error)
	// Losses says what types lose on the tensors of the file; nil: priors. It
	// is not called for a model that is small enough as it is.
	Losses func([]quantize.Tensor) (quantize.Losses, error)
}

// Fitting is a model whose types are being chosen.
type Fitting struct {
	FitOptions
	Whole  *convert.Plan // the model as it is
	AsIs   bool          // it is small enough: there is nothing to choose
	Stocks []Stock       // presets that the model can be in, in the order of PresetNames

	tensors []quantize.Tensor
	header  int64 // bytes
	fit     quantize.FitOptions
}

// FitChoice is a way to give a file its types.
type FitChoice struct {
	Name     string // Fitted, or the preset's
	Recipe   quantize.Recipe
	Plan     *convert.Plan
	Expected float64 // divergence, nats per prediction
}

// Fitted names the choice that is not a preset.
const Fitted = "fit"

// Stock is a stock preset of a model, with what the recipe fixes besides.
type Stock struct {
	Name     string
	Size     int64   // of the file, in bytes
	Expected float64 // divergence
	Prior    float64 // what priors expect it to lose
	Known    bool    // Expected is by the same losses as the fit's, not by priors
}

// OverBudgetError says that no choice of types is within the limit.
type OverBudgetError struct {
	text       string
	Unweighted bool // with an importance matrix there are smaller types
}

func (e *OverBudgetError) Error() string { return e.text }

// NewFitting plans a model as it is and in a preset, and finds what its types
// lose.
func NewFitting(o FitOptions) (*Fitting, error) {
	whole, err := o.Plan(nil)
	if err != nil {
		return nil, err
	}
	f := &Fitting{FitOptions: o, Whole: whole, tensors: tensorsOf(whole)}
	if f.AsIs = o.MaxSize >= whole.Size; f.AsIs {
		return f, nil
	}
	losses := quantize.PriorLosses(f.tensors)
	if o.Losses != nil {
		if losses, err = o.Losses(f.tensors); err != nil {
			return nil, err
		}
	}
	// Any preset has the header that the file will have.
	stock, err := o.Plan(f.policy(quantize.Recipe{Preset: "Q4_K_M"}))
	if err != nil {
		return nil, err
	}
	f.header = stock.HeaderSize
	f.fit = quantize.FitOptions{Losses: losses, Fast: o.Fast, Alignment: max(1, whole.Header.Alignment)}
	switch {
	case o.Importance != nil:
		weighted, err := weightedBy(o.Importance, f.tensors)
		if err != nil {
			return nil, err
		}
		f.fit.Importance = weighted
	case o.Expect:
		f.fit.Importance = func(string) bool { return true }
	}
	f.Stocks, err = f.stocks(stock.Header.Metadata)
	return f, err
}

// Note says of a model that is small enough that it is.
func (f *Fitting) Note() string {
	return fmt.Sprintf("the model takes %d bytes as it is: nothing is quantized", f.Whole.Size)
}

// weightedBy says which of a model's tensors an importance matrix has data for.
func weightedBy(m *quantize.Imatrix, tensors []quantize.Tensor) (func(tensor string) bool, error) {
	if m == nil {
		return func(string) bool { return false }, nil
	}
	coverage, err := m.Match(tensors)
	if err != nil {
		return nil, err
	}
	return func(name string) bool { return !slices.Contains(coverage.Missing, name) }, nil
}

func (f *Fitting) policy(r quantize.Recipe) convert.TypePolicy {
	return convert.NewTypePolicy(r, f.Importance, f.Imatrix)
}

// tensorsOf are the tensors of a plan in the types that they have there.
func tensorsOf(p *convert.Plan) []quantize.Tensor {
	tensors := make([]quantize.Tensor, len(p.Steps))
	for i, s := range p.Steps {
		tensors[i] = quantize.Tensor{Name: s.Name, Shape: s.Shape, Type: s.Type}
	}
	return tensors
}

// Best chooses the types: those of the fit, or under a limit of the size of a
// preset that is expected to lose less. An *OverBudgetError says that nothing
// is within the limit.
func (f *Fitting) Best() (FitChoice, error) {
	fit, err := f.Choose(Fitted, f.MaxKLD)
	if over := (*quantize.BudgetError)(nil); errors.As(err, &over) {
		return FitChoice{}, f.over(over)
	}
	if err != nil || f.MaxSize == 0 {
		return fit, err
	}
	if best := f.BestPreset(f.MaxSize); best != nil && best.Expected < fit.Expected {
		return f.Preset(*best)
	}
	return fit, nil
}

// Choose chooses types for MaxSize or, where there is none, for an expected
// divergence of at most kld. A *quantize.BudgetError says that there are none.
func (f *Fitting) Choose(name string, kld float64) (FitChoice, error) {
	var fit quantize.Fit
	var err error
	if f.MaxSize > 0 {
		fit, err = f.Recipe.FitBytes(f.tensors, f.MaxSize-f.header, f.fit)
	} else {
		fit, err = f.Recipe.FitLoss(f.tensors, kld, f.fit)
	}
	if err != nil {
		return FitChoice{}, err
	}
	p, err := f.Plan(f.policy(fit.Recipe))
	if err == nil && f.MaxSize > 0 && p.Size > f.MaxSize {
		err = fmt.Errorf("the plan of %d bytes is over the limit of %d", p.Size, f.MaxSize)
	}
	return FitChoice{name, fit.Recipe, p, fit.Loss}, err
}

// Preset is the choice of a stock preset.
func (f *Fitting) Preset(s Stock) (FitChoice, error) {
	r := f.Recipe
	r.Preset = s.Name
	p, err := f.Plan(f.policy(r))
	if err != nil {
		return FitChoice{}, fmt.Errorf("preset %s: %w", s.Name, err)
	}
	return FitChoice{s.Name, r, p, s.Expected}, nil
}

// BestPreset is the stock preset of at most size bytes that is expected to lose
// least, nil where there is none.
func (f *Fitting) BestPreset(size int64) *Stock {
	var best *Stock
	for i := range f.Stocks {
		if s := &f.Stocks[i]; s.Known && s.Size <= size && (best == nil || s.Expected < best.Expected) {
			best = s
		}
	}
	return best
}

// over says what the least is and what it would cost.
func (f *Fitting) over(over *quantize.BudgetError) *OverBudgetError {
	if over.What == "loss" {
		return &OverBudgetError{text: fmt.Sprintf("the constraints leave an expected KL divergence of at least %.4g", over.Least)}
	}
	least, r := int64(over.Least), f.Recipe
	allowed := ""
	if f.Fast || len(r.Overrides) > 0 || r.Output != nil || r.Embedding != nil || r.LeaveOutput {
		allowed = " that the constraints allow"
	}
	text := fmt.Sprintf("the smallest file%s has %d bytes", allowed, least+f.header)
	if fit, err := r.FitBytes(f.tensors, least, f.fit); err == nil {
		text += fmt.Sprintf(", at an expected KL divergence of %.3g", fit.Loss)
	}
	return &OverBudgetError{text, f.fit.Importance == nil}
}

// stocks are the stock presets that the model can be in.
func (f *Fitting) stocks(md gguf.Metadata) ([]Stock, error) {
	model, err := convert.QuantizedModel(md)
	if err != nil {
		return nil, err
	}
	weighted := f.fit.Importance != nil
	priors := quantize.PriorLosses(f.tensors)
	recipe := f.Recipe
	var all []Stock
	for _, name := range quantize.PresetNames() {
		// Presets of types without blocks disregard overrides, as llama-quantize does.
		if p, _ := quantize.LookupPreset(name); p.Type.BlockElements() == 1 && len(recipe.Overrides) > 0 {
			continue
		}
		recipe.Preset = name
		a, err := recipe.Assign(model, f.tensors, weighted)
		if err != nil {
			continue // not for this model
		}
		bytes := f.header
		slow, needs := false, false
		for i, t := range f.tensors {
			n, err := gguf.TensorInfo{Name: t.Name, Type: a.Choices[i].Type, Shape: t.Shape}.Size()
			if err != nil {
				return nil, fmt.Errorf("tensor %s: %w", t.Name, err)
			}
			bytes += (n + f.fit.Alignment - 1) / f.fit.Alignment * f.fit.Alignment
			needs = needs || a.Choices[i].NeedsImportance
			slow = slow || strings.HasPrefix(a.Choices[i].Type.String(), "IQ")
		}
		if needs && !weighted || slow && f.Fast {
			continue
		}
		loss, known := f.fit.Losses.Loss(f.tensors, a.Choices)
		prior, knownToPriors := priors.Loss(f.tensors, a.Choices)
		if !known {
			loss = prior
		}
		if known || knownToPriors {
			all = append(all, Stock{name, bytes, loss, prior, known})
		}
	}
	return all, nil
}

// LossesChunks is how many chunks of a text losses are measured on where
// nobody says.
const LossesChunks = 8

// LossesSuffix makes the name of a losses file from the importance matrix that
// it lies beside.
const LossesSuffix = ".losses.json"

// MeasureLosses says what each type would lose on each tensor of a model that is
// encoded with an importance matrix, or with none.
func (m *Model) MeasureLosses(ctx context.Context, d *ops.Device, importance *quantize.Imatrix, chunks [][]int32, seed uint64, progress func(ops.Progress)) (quantize.Losses, error) {
	byName := map[string]quantize.Tensor{}
	var all []quantize.Tensor
	for _, t := range m.Header.Tensors {
		byName[t.Name] = quantize.Tensor{Name: t.Name, Shape: t.Shape, Type: t.Type}
		all = append(all, byName[t.Name])
	}
	weighted, err := weightedBy(importance, all)
	if err != nil {
		return nil, err
	}
	return budget.Measure(ctx, d, m.Spec, chunks, budget.Options{
		Types: func(name string, cols int) []gguf.Type {
			t := byName[name]
			if !quantize.Quantizable(name, t.Shape) {
				return nil
			}
			return slices.DeleteFunc(quantize.FitTypes(int64(cols), weighted(name), false), func(typ gguf.Type) bool { return typ == t.Type })
		},
		Importance: importance,
		Seed:       seed,
		Options:    ops.Options{Progress: progress},
	})
}

// CheckLosses fails where losses are not those of a source with a pre-tokenizer
// ("" for the one that is recognised) and of the importance matrix of a digest.
func CheckLosses(ctx context.Context, s *Source, pre string, f *budget.File, imatrix string) error {
	m, err := OpenModel(ctx, s, pre)
	if err != nil {
		return err
	}
	defer m.Close()
	digest, err := m.Digest(ctx, s)
	switch {
	case err != nil:
		return err
	case f.Model != digest:
		return errors.New("was measured on another model: measure this one with modelpipe losses")
	case f.Imatrix != imatrix:
		return errors.New("was measured with another importance matrix, or with none where there is one now, or the other way round")
	}
	return nil
}
