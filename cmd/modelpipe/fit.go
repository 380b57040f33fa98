package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/budget"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/quantize"
)

// fitting is what the flags say about a file whose types are chosen for its
// size or for what it loses, and what came of it.
type fitting struct {
	maxSize string
	maxKLD  float64
	losses  string
	fast    bool
	trial   *trial // how choices are measured; nil where they are not

	fit *fitJSON
}

func (f *fitting) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.maxSize, "max-size", "", "choose the types so that the file has at most `SIZE` bytes (5GB, 900MB) and loses least")
	flags.StringVar(&f.losses, "losses", "", "what types lose on tensors: a `FILE` of modelpipe losses (default: the one beside --imatrix; without one, priors)")
	flags.BoolVar(&f.fast, "fast-types", false, "with --max-size or --max-kld: no IQ types, which some runtimes decode slowly")
}

// fitJSON is what plan and convert say of a fit with --json.
type fitJSON struct {
	MaxSize     int64       `json:"max_size,omitempty"`
	MaxKLD      float64     `json:"max_kld,omitempty"`
	ExpectedKLD float64     `json:"expected_kld"`
	Losses      string      `json:"losses"` // "measured" or "priors"
	From        string      `json:"losses_file,omitempty"`
	Preset      *presetJSON `json:"best_preset,omitempty"` // expected to lose least of those that fit
	Measured    *trialJSON  `json:"measured,omitempty"`    // with --measure
	Note        string      `json:"note,omitempty"`
}

type presetJSON struct {
	Name        string  `json:"name"`
	Size        int64   `json:"size"`
	ExpectedKLD float64 `json:"expected_kld"`
}

func (f *fitting) wanted() bool { return f.maxSize != "" || f.maxKLD != 0 }

// planFit plans with types that fit. plan makes a plan for a policy.
func (c *conversion) planFit(ctx context.Context, s *pipeline.Source, recipe quantize.Recipe, plan func(convert.TypePolicy) (*convert.Plan, error)) (*convert.Plan, error) {
	limit, err := pipeline.ParseSize(c.maxSize)
	switch {
	case err != nil:
		return nil, usagef("--max-size %s: %w", c.maxSize, err)
	case limit > 0 && c.maxKLD != 0:
		return nil, usagef("--max-size and --max-kld: want one of them to choose the types by")
	case c.maxKLD < 0 || c.maxKLD != c.maxKLD:
		return nil, usagef("--max-kld %g: want a number of nats", c.maxKLD)
	case !strings.EqualFold(recipe.Preset, "auto") || recipe.Pure:
		return nil, usagef("--type, --pure and a recipe's type say what --max-size and --max-kld choose: give one or the other")
	}
	whole, err := plan(nil)
	if err != nil {
		return nil, err
	}
	c.fit = &fitJSON{MaxSize: limit, MaxKLD: c.maxKLD}
	if limit >= whole.Size {
		c.fit.Losses, c.fit.Note = "none", fmt.Sprintf("the model takes %d bytes as it is: nothing is quantized", whole.Size)
		return whole, nil
	}
	tensors := tensorsOf(whole)
	losses, err := c.findLosses(ctx, s, tensors)
	if err != nil {
		return nil, err
	}
	// Any preset has the header that the file will have.
	stock, err := plan(convert.NewTypePolicy(quantize.Recipe{Preset: "Q4_K_M"}, c.importance, c.imatrix))
	if err != nil {
		return nil, err
	}
	header := stock.HeaderSize
	o := quantize.FitOptions{Losses: losses, Fast: c.fast, Alignment: max(1, whole.Header.Alignment)}
	if c.importance != nil {
		coverage, err := c.importance.Match(tensors)
		if err != nil {
			return nil, err
		}
		o.Importance = func(name string) bool { return !slices.Contains(coverage.Missing, name) }
	}
	choose := func(name string, kld float64) (choice, error) {
		var fit quantize.Fit
		var err error
		if limit > 0 {
			fit, err = recipe.FitBytes(tensors, limit-header, o)
		} else {
			fit, err = recipe.FitLoss(tensors, kld, o)
		}
		if err != nil {
			return choice{}, err
		}
		p, err := plan(convert.NewTypePolicy(fit.Recipe, c.importance, c.imatrix))
		if err == nil && limit > 0 && p.Size > limit {
			err = fmt.Errorf("the plan of %d bytes is over --max-size %d", p.Size, limit)
		}
		return choice{name, fit.Recipe, p, fit.Loss}, err
	}
	kept, err := choose(fitted, c.maxKLD)
	if over := (*quantize.BudgetError)(nil); errors.As(err, &over) {
		return nil, withExit(exitGate, c.overBudget(over, header, recipe, tensors, o))
	}
	if err != nil {
		return nil, err
	}
	most := max(limit, kept.plan.Size)
	stocks, err := c.stocks(stock.Header.Metadata, recipe, tensors, losses, header, o.Alignment)
	if err != nil {
		return nil, err
	}
	c.fit.Preset = bestPreset(stocks, kept.plan.Size)
	if c.trial != nil {
		choices := []choice{kept}
		for _, preset := range challengers(stocks, most) {
			r := recipe
			r.Preset = preset.Name
			p, err := plan(convert.NewTypePolicy(r, c.importance, c.imatrix))
			if err != nil {
				return nil, fmt.Errorf("preset %s: %w", preset.Name, err)
			}
			if p.Size <= most {
				choices = append(choices, choice{preset.Name, r, p, preset.ExpectedKLD})
			}
		}
		t, err := c.startTrial(ctx, s)
		if err != nil {
			return nil, err
		}
		defer t.close()
		if limit > 0 {
			kept, err = t.least(ctx, choices)
		} else {
			kept, err = t.smallest(ctx, choices, c.maxKLD, choose)
		}
		if err != nil {
			return nil, err
		}
	}
	c.chosen, c.fit.ExpectedKLD = kept.recipe, kept.expected
	return kept.plan, nil
}

// tensorsOf are the tensors of a plan in the types that they have there.
func tensorsOf(p *convert.Plan) []quantize.Tensor {
	tensors := make([]quantize.Tensor, len(p.Steps))
	for i, s := range p.Steps {
		tensors[i] = quantize.Tensor{Name: s.Name, Shape: s.Shape, Type: s.Type}
	}
	return tensors
}

// overBudget says what the least is and what it would cost.
func (c *conversion) overBudget(over *quantize.BudgetError, header int64, recipe quantize.Recipe, tensors []quantize.Tensor, o quantize.FitOptions) error {
	if over.What == "loss" {
		return fmt.Errorf("--max-kld %g: the constraints leave an expected KL divergence of at least %.4g", c.maxKLD, over.Least)
	}
	least := int64(over.Least)
	allowed := ""
	if c.fast || len(recipe.Overrides) > 0 || recipe.Output != nil || recipe.Embedding != nil || recipe.LeaveOutput {
		allowed = " that the constraints allow"
	}
	text := fmt.Sprintf("--max-size %s: the smallest file%s has %d bytes", c.maxSize, allowed, least+header)
	if fit, err := recipe.FitBytes(tensors, least, o); err == nil {
		text += fmt.Sprintf(", at an expected KL divergence of %.3g", fit.Loss)
	}
	if o.Importance == nil {
		text += "; with --imatrix there are smaller types"
	}
	return errors.New(text)
}

// findLosses reads the losses that were measured, or makes priors.
func (c *conversion) findLosses(ctx context.Context, s *pipeline.Source, tensors []quantize.Tensor) (quantize.Losses, error) {
	name, found := c.losses, true
	if name == "" {
		if found = c.imatrix != ""; found {
			name = c.imatrix + lossesSuffix
		}
	}
	if !found {
		c.fit.Losses = "priors"
		return quantize.PriorLosses(tensors), nil
	}
	f, err := budget.ReadFile(name)
	if c.losses == "" && errors.Is(err, fs.ErrNotExist) {
		c.fit.Losses = "priors"
		return quantize.PriorLosses(tensors), nil
	}
	if err != nil {
		return nil, err
	}
	m, err := pipeline.OpenModel(ctx, s, c.pre)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer m.Close()
	digest, err := m.Digest(ctx, s)
	if err != nil {
		return nil, err
	}
	switch {
	case f.Model != digest:
		return nil, fmt.Errorf("%s: was measured on another model: measure this one with modelpipe losses", name)
	case f.Imatrix != c.imatrixDigest():
		return nil, fmt.Errorf("%s: was measured with another importance matrix, or with none where there is one now, or the other way round", name)
	}
	c.fit.Losses, c.fit.From = "measured", name
	return f.Table()
}

// stocks are the stock presets that the model can be in, with what recipe fixes
// besides, in the order of their names' list.
func (c *conversion) stocks(md gguf.Metadata, recipe quantize.Recipe, tensors []quantize.Tensor, losses quantize.Losses, header, alignment int64) ([]stock, error) {
	model, err := convert.QuantizedModel(md)
	if err != nil {
		return nil, err
	}
	priors := quantize.PriorLosses(tensors)
	var all []stock
	for _, name := range quantize.PresetNames() {
		// Presets of types without blocks disregard overrides, as llama-quantize does.
		if p, _ := quantize.LookupPreset(name); p.Type.BlockElements() == 1 && len(recipe.Overrides) > 0 {
			continue
		}
		recipe.Preset = name
		a, err := recipe.Assign(model, tensors, c.importance != nil)
		if err != nil {
			continue // not for this model
		}
		bytes := header
		slow, needs := false, false
		for i, t := range tensors {
			n, err := gguf.TensorInfo{Name: t.Name, Type: a.Choices[i].Type, Shape: t.Shape}.Size()
			if err != nil {
				return nil, fmt.Errorf("tensor %s: %w", t.Name, err)
			}
			bytes += (n + alignment - 1) / alignment * alignment
			needs = needs || a.Choices[i].NeedsImportance
			slow = slow || strings.HasPrefix(a.Choices[i].Type.String(), "IQ")
		}
		if needs && c.importance == nil || slow && c.fast {
			continue
		}
		loss, known := losses.Loss(tensors, a.Choices)
		prior, knownToPriors := priors.Loss(tensors, a.Choices)
		if !known {
			loss = prior
		}
		if known || knownToPriors {
			all = append(all, stock{presetJSON{name, bytes, loss}, prior, known})
		}
	}
	return all, nil
}

// stock is a stock preset of a model.
type stock struct {
	presetJSON
	prior float64 // what priors expect it to lose
	known bool    // ExpectedKLD is by the same losses as the fit's, not by priors
}

// bestPreset is the stock preset of at most size bytes that is expected to lose
// least, nil where there is none.
func bestPreset(all []stock, size int64) *presetJSON {
	var best *presetJSON
	for i := range all {
		if p := &all[i]; p.known && p.Size <= size && (best == nil || p.ExpectedKLD < best.ExpectedKLD) {
			best = &p.presetJSON
		}
	}
	return best
}

// lines describes a fit for people.
func (f *fitJSON) lines(size int64) []string {
	if f == nil {
		return nil
	}
	if f.Note != "" {
		return []string{"budget        " + f.Note}
	}
	var out []string
	if f.MaxSize > 0 {
		out = append(out, fmt.Sprintf("budget        %d bytes, of which %.2f %% are used", f.MaxSize, 100*float64(size)/float64(f.MaxSize)))
	}
	how := "by priors of another model: rough; modelpipe losses measures"
	if f.Losses == "measured" {
		how = "measured, " + f.From
	}
	out = append(out, fmt.Sprintf("expected KLD  %.4g nats per token (%s)", f.ExpectedKLD, how))
	if f.Measured != nil {
		return append(out, f.Measured.lines()...)
	}
	if f.Preset != nil {
		out = append(out, fmt.Sprintf("best preset   %s: %d bytes, expected KLD %.4g", f.Preset.Name, f.Preset.Size, f.Preset.ExpectedKLD))
	}
	return out
}
