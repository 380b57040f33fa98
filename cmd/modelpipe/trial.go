package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/ops/fromgguf"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/quantize"
	"github.com/modelpipe/modelpipe/validate"
)

// A trial measures what choices of types lose as whole files, which no sum over
// tensors knows, and keeps the best: so a fit to a size is never worse, on the
// trial's text, than the presets that it was held to, and a fit to a loss loses
// no more than that there. Files are computed while they are read and never
// written.
type trial struct {
	name, text  string
	chunks, ctx int
	device      string
	log         *slog.Logger
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
	Name        string  `json:"name"` // "fit", with its round after the first, or that of a preset
	Size        int64   `json:"size"`
	ExpectedKLD float64 `json:"expected_kld"`
	KLD         float64 `json:"kld"`     // mean, nats per token
	StdErr      float64 `json:"std_err"` // of the mean
	Top1        float64 `json:"top1"`
}

// challengers are the presets of at most size bytes to which a fit is held: the
// one that is expected to lose least, the one that priors expect to, and the
// largest. The latter two are there for losses that mislead.
func challengers(all []pipeline.Stock, size int64) []pipeline.Stock {
	all = slices.DeleteFunc(slices.Clone(all), func(s pipeline.Stock) bool { return s.Size > size })
	var out []pipeline.Stock
	for _, order := range []func(a, b pipeline.Stock) int{
		func(a, b pipeline.Stock) int { return cmp.Compare(a.Expected, b.Expected) },
		func(a, b pipeline.Stock) int { return cmp.Compare(a.Prior, b.Prior) },
		func(a, b pipeline.Stock) int {
			return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.Expected, b.Expected))
		},
	} {
		if len(all) == 0 {
			return nil
		}
		if best := slices.MinFunc(all, order); !slices.ContainsFunc(out, func(s pipeline.Stock) bool { return s.Name == best.Name }) {
			out = append(out, best)
		}
	}
	return out
}

// running is a trial with what it needs open.
type running struct {
	*trial
	c         *conversion
	s         *pipeline.Source
	reference *pipeline.Model
	chunks    [][]int32
	device    *ops.Device
	out       trialJSON
	choices   []pipeline.FitChoice // that were measured, in the order of out.Choices
}

// startTrial opens the model and the device and cuts the text.
func (c *conversion) startTrial(ctx context.Context, s *pipeline.Source) (_ *running, err error) {
	t := c.trial
	r := &running{trial: t, c: c, s: s}
	if r.reference, err = pipeline.OpenModel(ctx, s, c.pre); err != nil {
		return nil, fmt.Errorf("measure: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.reference.Close())
		}
	}()
	m := r.reference.Spec
	switch {
	case m.Head == nil:
		return nil, usagef("--measure: the model predicts no tokens")
	case m.Context > 0 && t.ctx > m.Context:
		return nil, usagef("--ctx %d: the model was made for %d", t.ctx, m.Context)
	}
	if r.chunks, err = r.reference.Cut(t.text, t.chunks, t.ctx); err != nil {
		return nil, fmt.Errorf("measure: %s: %w", t.name, err)
	}
	if r.device, err = ops.Open(t.device); err != nil {
		return nil, err
	}
	r.out = trialJSON{Text: t.name, Chunks: len(r.chunks), Ctx: t.ctx, Device: r.device.Name()}
	return r, nil
}

func (r *running) close() error {
	r.device.Close()
	return r.reference.Close()
}

// measure measures choices side by side and returns the mean divergence of
// each.
func (r *running) measure(ctx context.Context, choices ...pipeline.FitChoice) (_ []float64, err error) {
	var models []*spec.Model
	for _, x := range choices {
		view, err := convert.NewView(x.Plan, r.s.FS, convert.RenderOptions{Imatrix: r.c.importance})
		if err != nil {
			return nil, fmt.Errorf("measure %s: %w", x.Name, err)
		}
		defer view.Close()
		m, err := fromgguf.OpenAt(x.Name, view, view.Size())
		if err != nil {
			return nil, fmt.Errorf("measure %s: %w", x.Name, err)
		}
		models = append(models, m)
	}
	last := time.Now()
	results, err := ops.CompareAll(ctx, r.device, r.reference.Spec, models, r.chunks, ops.Options{Progress: func(p ops.Progress) {
		if time.Since(last) >= judgingEvery {
			last = time.Now()
			r.log.Info("measuring what is chosen", "stage", p.Stage, "done", p.Done, "total", p.Total)
		}
	}})
	if err != nil {
		return nil, fmt.Errorf("measure: %w", err)
	}
	var means []float64
	for i, got := range results {
		x, k := choices[i], got.KLD
		if math.IsNaN(k.Mean) || math.IsInf(k.Mean, 0) {
			return nil, fmt.Errorf("measure %s: a KL divergence of %v", x.Name, k.Mean)
		}
		r.choices = append(r.choices, x)
		r.out.Choices = append(r.out.Choices, choiceJSON{x.Name, x.Plan.Size, x.Expected, k.Mean, k.StdErr, got.Top1})
		means = append(means, k.Mean)
	}
	return means, nil
}

// keep ends a trial with the choice that comes first by order of those that
// may be kept; of equal ones, with the first that was measured. false says that
// none may.
func (r *running) keep(may func(choiceJSON) bool, order func(a, b choiceJSON) int) (pipeline.FitChoice, bool) {
	best := -1
	for i, x := range r.out.Choices {
		if may(x) && (best < 0 || order(x, r.out.Choices[best]) < 0) {
			best = i
		}
	}
	if best < 0 {
		return pipeline.FitChoice{}, false
	}
	r.out.Kept = r.choices[best].Name
	r.c.fit.Measured = &r.out
	return r.choices[best], true
}

// least measures choices and keeps the one that loses least.
func (r *running) least(ctx context.Context, choices []pipeline.FitChoice) (pipeline.FitChoice, error) {
	if _, err := r.measure(ctx, choices...); err != nil {
		return pipeline.FitChoice{}, err
	}
	kept, _ := r.keep(func(choiceJSON) bool { return true }, func(a, b choiceJSON) int { return cmp.Compare(a.KLD, b.KLD) })
	return kept, nil
}

// rounds is how often smallest fits at most, and near how much of what is asked
// for it is content with.
const (
	rounds = 4
	near   = 0.95
)

// smallest measures choices, of which the first is fit's for an expected
// divergence of limit, and fits again for what the measurement says of the
// expectation. It keeps the smallest that was measured to lose at most limit.
func (r *running) smallest(ctx context.Context, choices []pipeline.FitChoice, limit float64, fit func(name string, target float64) (pipeline.FitChoice, error)) (pipeline.FitChoice, error) {
	target, least := limit, math.Inf(1)
	for round := 1; ; round++ {
		means, err := r.measure(ctx, choices...)
		if err != nil {
			return pipeline.FitChoice{}, err
		}
		least = min(least, slices.Min(means))
		if round == rounds || means[0] <= limit && means[0] >= near*limit || means[0] == 0 {
			break
		}
		// The divergence is about proportional to the expectation; a little
		// less is asked for, so that what is over the limit comes under it.
		target *= limit / means[0] * (1 + near) / 2
		next, err := fit(fmt.Sprintf("%s, round %d", pipeline.Fitted, round+1), target)
		if over := (*quantize.BudgetError)(nil); errors.As(err, &over) {
			break // no choice of types is expected to lose so little
		}
		if err != nil {
			return pipeline.FitChoice{}, err
		}
		if slices.ContainsFunc(r.choices, func(x pipeline.FitChoice) bool { return reflect.DeepEqual(x.Recipe, next.Recipe) }) {
			break // it was measured
		}
		choices = []pipeline.FitChoice{next}
	}
	kept, ok := r.keep(func(x choiceJSON) bool { return x.KLD <= limit }, func(a, b choiceJSON) int { return cmp.Compare(a.Size, b.Size) })
	if !ok {
		return pipeline.FitChoice{}, withExit(exitGate, fmt.Errorf("--max-kld %g: what was chosen loses %.4g at least as it was measured on %s", limit, least, r.name))
	}
	return kept, nil
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

// alternatives are the choices that were measured and not kept.
func (f *fitJSON) alternatives() []validate.Alternative {
	if f == nil || f.Measured == nil {
		return nil
	}
	var out []validate.Alternative
	for _, x := range f.Measured.Choices {
		if x.Name != f.Measured.Kept {
			kind := validate.AlternativePreset
			if strings.HasPrefix(x.Name, pipeline.Fitted) {
				kind = validate.AlternativeFit
			}
			out = append(out, validate.Alternative{Name: x.Name, Kind: kind, Size: x.Size, KLD: x.KLD, StdErr: x.StdErr, Top1: x.Top1})
		}
	}
	return out
}
