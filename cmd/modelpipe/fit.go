package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/pflag"

	"github.com/modelpipe/modelpipe/convert"
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
	c.fit = &fitJSON{MaxSize: limit, MaxKLD: c.maxKLD, Losses: "none"}
	f, err := pipeline.NewFitting(pipeline.FitOptions{
		MaxSize: limit, MaxKLD: c.maxKLD, Recipe: recipe, Fast: c.fast, Importance: c.importance, Imatrix: c.imatrix, Plan: plan,
		Losses: func(tensors []quantize.Tensor) (quantize.Losses, error) { return c.findLosses(ctx, s, tensors) },
	})
	if err != nil {
		return nil, err
	}
	if f.AsIs {
		c.fit.Note = f.Note()
		return f.Whole, nil
	}
	kept, err := f.Best()
	if over := (*pipeline.OverBudgetError)(nil); errors.As(err, &over) {
		return nil, withExit(exitGate, c.overBudget(over))
	}
	if err != nil {
		return nil, err
	}
	if best := f.BestPreset(kept.Plan.Size); best != nil {
		c.fit.Preset = &presetJSON{best.Name, best.Size, best.Expected}
	}
	if c.trial != nil {
		if kept, err = c.measureFit(ctx, s, f, kept); err != nil {
			return nil, err
		}
	}
	c.chosen, c.fit.ExpectedKLD = kept.Recipe, kept.Expected
	return kept.Plan, nil
}

// measureFit holds a choice to presets by measurement, and returns what is kept.
func (c *conversion) measureFit(ctx context.Context, s *pipeline.Source, f *pipeline.Fitting, fit pipeline.FitChoice) (kept pipeline.FitChoice, err error) {
	most := max(f.MaxSize, fit.Plan.Size)
	choices := []pipeline.FitChoice{fit}
	for _, preset := range challengers(f.Stocks, most) {
		if preset.Name == fit.Name {
			continue
		}
		x, err := f.Preset(preset)
		if err != nil {
			return kept, err
		}
		if x.Plan.Size <= most {
			choices = append(choices, x)
		}
	}
	t, err := c.startTrial(ctx, s)
	if err != nil {
		return kept, err
	}
	defer t.close()
	if f.MaxSize > 0 {
		return t.least(ctx, choices)
	}
	return t.smallest(ctx, choices, c.maxKLD, f.Choose)
}

// overBudget says which limit no choice of types is within.
func (c *conversion) overBudget(over *pipeline.OverBudgetError) error {
	if c.maxKLD != 0 {
		return fmt.Errorf("--max-kld %g: %w", c.maxKLD, over)
	}
	if over.Unweighted {
		return fmt.Errorf("--max-size %s: %w; with --imatrix there are smaller types", c.maxSize, over)
	}
	return fmt.Errorf("--max-size %s: %w", c.maxSize, over)
}

// findLosses reads the losses that were measured, or makes priors.
func (c *conversion) findLosses(ctx context.Context, s *pipeline.Source, tensors []quantize.Tensor) (quantize.Losses, error) {
	name, found := c.losses, true
	if name == "" {
		if found = c.imatrix != ""; found {
			name = c.imatrix + pipeline.LossesSuffix
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
	if err := pipeline.CheckLosses(ctx, s, c.pre, f, c.imatrixDigest()); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	c.fit.Losses, c.fit.From = "measured", name
	return f.Table()
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
