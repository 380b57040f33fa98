package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/ops/fromgguf"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/quantize"
)

// A trial measures what choices of types lose as whole files, which no sum over
// tensors knows, and keeps the best: so a fit is never worse, on the trial's
// text, than the presets that it was held to. Files are computed while they are
// read and never written.
type trial struct {
	name, text  string
	chunks, ctx int
	device      string
}

// fitted names the choice that is not a preset.
const fitted = "fit"

// choice is a way to make a file of at most so many bytes.
type choice struct {
	name     string // fitted, or the preset's
	recipe   quantize.Recipe
	plan     *convert.Plan
	expected float64
}

// trialJSON is what a trial came to.
type trialJSON struct {
	Kept    string       `json:"kept"` // the name of a choice
	Text    string       `json:"text"`
	Chunks  int          `json:"chunks"`
	Ctx     int          `json:"ctx"`
	Device  string       `json:"device"`
	Choices []choiceJSON `json:"choices"`
}

type choiceJSON struct {
	Name        string  `json:"name"` // "fit", or that of a preset
	Size        int64   `json:"size"`
	ExpectedKLD float64 `json:"expected_kld"`
	KLD         float64 `json:"kld"`     // mean, nats per token
	StdErr      float64 `json:"std_err"` // of the mean
	Top1        float64 `json:"top1"`
}

// challengers are the presets of at most size bytes to which a fit is held: the
// one that is expected to lose least, the one that priors expect to, and the
// largest. The latter two are there for losses that mislead.
func challengers(all []stock, size int64) []stock {
	all = slices.DeleteFunc(slices.Clone(all), func(s stock) bool { return s.Size > size })
	var out []stock
	for _, order := range []func(a, b stock) int{
		func(a, b stock) int { return cmp.Compare(a.ExpectedKLD, b.ExpectedKLD) },
		func(a, b stock) int { return cmp.Compare(a.prior, b.prior) },
		func(a, b stock) int {
			return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.ExpectedKLD, b.ExpectedKLD))
		},
	} {
		if len(all) == 0 {
			return nil
		}
		if best := slices.MinFunc(all, order); !slices.ContainsFunc(out, func(s stock) bool { return s.Name == best.Name }) {
			out = append(out, best)
		}
	}
	return out
}

// keepBest measures choices side by side and returns the one that loses least;
// of equal ones, the first.
func (c *conversion) keepBest(ctx context.Context, s *source, choices []choice) (_ choice, err error) {
	t := c.trial
	reference, err := c.app.openModel(ctx, s, c.pre)
	if err != nil {
		return choice{}, fmt.Errorf("measure: %w", err)
	}
	defer reference.close()
	if reference.model.Head == nil {
		return choice{}, usagef("--measure: the model predicts no tokens")
	}
	if n := reference.model.Context; n > 0 && t.ctx > n {
		return choice{}, usagef("--ctx %d: the model was made for %d", t.ctx, n)
	}
	chunks, err := cutText(reference, t.name, t.text, t.chunks, t.ctx)
	if err != nil {
		return choice{}, fmt.Errorf("measure: %w", err)
	}
	var models []*spec.Model
	for _, x := range choices {
		view, err := convert.NewView(x.plan, s.fsys, convert.RenderOptions{Imatrix: c.importance})
		if err != nil {
			return choice{}, fmt.Errorf("measure %s: %w", x.name, err)
		}
		defer func() { err = errors.Join(err, view.Close()) }()
		m, err := fromgguf.OpenAt(x.name, view, view.Size())
		if err != nil {
			return choice{}, fmt.Errorf("measure %s: %w", x.name, err)
		}
		models = append(models, m)
	}
	d, err := ops.Open(t.device)
	if err != nil {
		return choice{}, err
	}
	defer d.Close()
	last := time.Now()
	results, err := ops.CompareAll(ctx, d, reference.model, models, chunks, ops.Options{Progress: func(p ops.Progress) {
		if time.Since(last) >= judgingEvery {
			last = time.Now()
			c.app.log.Info("measuring what is chosen", "stage", p.Stage, "done", p.Done, "total", p.Total)
		}
	}})
	if err != nil {
		return choice{}, fmt.Errorf("measure: %w", err)
	}
	out := &trialJSON{Text: t.name, Chunks: len(chunks), Ctx: t.ctx, Device: d.Name()}
	best := 0
	for i, r := range results {
		if k := r.KLD.Mean; math.IsNaN(k) || math.IsInf(k, 0) {
			return choice{}, fmt.Errorf("measure %s: a KL divergence of %v", choices[i].name, k)
		}
		if r.KLD.Mean < results[best].KLD.Mean {
			best = i
		}
		x := choices[i]
		out.Choices = append(out.Choices, choiceJSON{x.name, x.plan.Size, x.expected, r.KLD.Mean, r.KLD.StdErr, r.Top1})
	}
	out.Kept = choices[best].name
	c.fit.Measured = out
	return choices[best], nil
}

// lines describes a trial for people.
func (t *trialJSON) lines() []string {
	var out []string
	for _, x := range t.Choices {
		kept := ""
		if x.Name == t.Kept {
			kept = ", kept"
		}
		out = append(out, fmt.Sprintf("measured KLD  %.4g ± %.2g: %s, %d bytes%s", x.KLD, x.StdErr, x.Name, x.Size, kept))
	}
	return append(out, fmt.Sprintf("measured on   %s, %d chunks of %d tokens", t.Text, t.Chunks, t.Ctx))
}
