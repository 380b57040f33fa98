package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/convert"
)

// This file compares what should be with what is: the tasks that are missing,
// and what they are expected to take.

// The steps that a plan shows.
const (
	StepCalibrate = "calibrate"
	StepLosses    = "losses"  // measure what types lose on tensors
	StepMake      = "make"    // convert, validate, publish
	StepRelease   = "release" // and promote
	StepRefused   = "refused" // a gate said no before; the same inputs would fare the same
	StepFailed    = "failed"  // it is known beforehand that it cannot be done
	StepNone      = "none"
)

// PlannedStep is a row of a plan.
type PlannedStep struct {
	Model   string  `json:"model"`
	Variant string  `json:"variant,omitempty"`
	Step    string  `json:"step"`
	Why     string  `json:"why"`
	Read    int64   `json:"bytes_read,omitempty"`
	Write   int64   `json:"bytes_written,omitempty"`
	Minutes float64 `json:"minutes,omitempty"`
}

// modelRun is a model while a refresh runs.
type modelRun struct {
	*wantedModel
	state    *modelState
	ids      []string          // of the inputs of the variants
	made     []outcome         // of the variants; State is empty where there is none yet
	failed   map[string]Result // by variant
	problem  error             // of the model as a whole
	refused  string            // why nothing of the model may be released
	notes    []string
	releases []ReleaseSummary
	began    bool // there was something to make

	estimates []PlannedStep
}

// plan is what is to be done.
type plan struct {
	runs  []*modelRun
	tasks []Task
	steps []PlannedStep
}

// inputs is what decides about a variant.
func (r *Refresher) inputs(m *wantedModel, v *wantedVariant) Inputs {
	in := Inputs{
		Makes: makes, Model: m.Slug, Source: m.sourceName(), Commit: m.upstream.commit, Variant: v.Name,
		Recipe: v.recipeDigest, Imatrix: v.imatrix, Losses: v.losses, Gates: v.gates,
	}
	if v.imatrix == imatrixAuto {
		in.Imatrix = imatrixAuto + ":" + r.calibration(m).ID()
	}
	if v.losses == lossesAuto {
		in.Losses = lossesAuto + ":" + r.measurement(m).ID()
	}
	if r.Remake {
		in.Tool = r.Version
	}
	return in
}

// sourceName is a source without a path of this machine.
func (m *wantedModel) sourceName() string {
	if m.folder != "" {
		return filepath.Base(m.folder)
	}
	return m.Source
}

// calibration is what the importance matrix of a model is measured of.
func (r *Refresher) calibration(m *wantedModel) Calibration {
	return Calibration{Makes: makes, Source: m.sourceName(), Commit: m.upstream.commit, Text: r.calibrationText, Chunks: r.CalibrateChunks, Ctx: r.CalibrateCtx}
}

// measurement is what the losses of a model's types are measured of.
func (r *Refresher) measurement(m *wantedModel) Measurement {
	return Measurement{Makes: makes, Imatrix: r.calibration(m), Chunks: min(LossesChunks, r.CalibrateChunks), Ctx: r.CalibrateCtx, Seed: 1}
}

// missing are the variants of which nothing was made yet.
func (r *Refresher) missing(m *wantedModel, have *actual) []int {
	var out []int
	for i := range m.variants {
		if _, ok := have.models[m.Slug].have(r.inputs(m, &m.variants[i]).ID()); !ok {
			out = append(out, i)
		}
	}
	return out
}

// plan compares what should be with what is.
func (r *Refresher) plan(ctx context.Context, d *desired, have *actual) (*plan, error) {
	p := &plan{}
	parts := make([]plan, len(d.models))
	var wg sync.WaitGroup
	slots := make(chan struct{}, lookers)
	for i, m := range d.models {
		run := &modelRun{wantedModel: m, state: have.models[m.Slug], failed: map[string]Result{}}
		p.runs = append(p.runs, run)
		if run.problem = cmp.Or(run.state.err, m.upstream.err); run.problem != nil {
			parts[i].add(run, "", StepFailed, oneLine(run.problem))
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			r.planModel(ctx, &parts[i], run)
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for i := range parts {
		p.append(&parts[i])
	}
	return p, nil
}

// append adds the plan of a model. What a model before it measures already is
// not measured again.
func (p *plan) append(part *plan) {
	known := map[string]bool{}
	for _, t := range p.tasks {
		known[t.ID] = true
	}
	again := map[string]bool{} // by kind, which is the step's name
	for _, t := range part.tasks {
		if known[t.ID] {
			again[t.Kind] = true
			continue
		}
		p.tasks = append(p.tasks, t)
	}
	for _, s := range part.steps {
		if again[s.Step] {
			continue
		}
		p.steps = append(p.steps, s)
	}
}

func (p *plan) add(m *modelRun, variant, step, why string) {
	p.steps = append(p.steps, PlannedStep{Model: m.Slug, Variant: variant, Step: step, Why: why})
}

// planModel finds what is missing of a model whose source could be looked at.
// It is called for several models at once.
func (r *Refresher) planModel(ctx context.Context, p *plan, m *modelRun) {
	defer func() { m.estimates = p.steps }()
	for i := range m.variants {
		in := r.inputs(m.wantedModel, &m.variants[i])
		o, ok := m.state.have(in.ID())
		if !ok {
			o = outcome{}
		}
		m.ids, m.made = append(m.ids, in.ID()), append(m.made, o)
	}
	m.checkLicense()
	if m.refused != "" {
		p.add(m, "", StepRefused, m.refused)
		return
	}
	for i := range m.variants {
		v := &m.variants[i]
		switch o := m.made[i]; o.State {
		case StateDone:
			p.add(m, v.Name, StepNone, "is in the store")
		case StateRefused:
			p.add(m, v.Name, StepRefused, o.Reason)
		default:
			m.began = true
			r.planMake(ctx, p, m, i)
		}
	}
	if why := m.unreleased(len(p.tasks) > 0); why != "" {
		p.add(m, "", StepRelease, why)
	}
}

// planMake plans the making of a variant, and the measuring of the importance
// matrix that it wants.
func (r *Refresher) planMake(ctx context.Context, p *plan, m *modelRun, i int) {
	v := &m.variants[i]
	in := r.inputs(m.wantedModel, v)
	t := Task{
		ID: in.ID(), Kind: KindMake, Model: m.Slug, Source: m.Source, Commit: m.upstream.commit,
		Variant: v.Name, Type: v.Type, Recipe: v.recipe, Gates: v.gates, Channel: m.Channels[0], Inputs: &in,
	}
	if m.folder != "" {
		t.Source, t.Folder = m.folder, m.sourceName()
	}
	size, header, note, err := r.measure(ctx, m, v)
	if no := (*refusal)(nil); errors.As(err, &no) {
		o := outcome{Inputs: in, State: StateRefused, Reason: no.Error()}
		m.made[i], m.state.doc.Outcomes[in.ID()] = o, o
		p.add(m, v.Name, StepRefused, no.Error())
		return
	}
	if err != nil {
		f := t.failed(oneLine(err))
		f.Retry = unavailable(err)
		m.failed[v.Name] = f
		p.add(m, v.Name, StepFailed, oneLine(err))
		return
	}
	imatrix, losses := v.imatrix, v.losses
	if note != "" { // it is not quantized
		m.notes = append(m.notes, fmt.Sprintf("variant %s: %s", v.Name, note))
		imatrix, losses = "", ""
	}
	t.Size = size
	switch {
	case imatrix == imatrixAuto:
		c := r.calibration(m.wantedModel)
		t.Imatrix, t.After = imatrixName(c.ID()), c.ID()
		if !slices.ContainsFunc(p.tasks, func(x Task) bool { return x.ID == c.ID() }) {
			k := Task{ID: c.ID(), Kind: KindCalibrate, Model: m.Slug, Source: t.Source, Commit: t.Commit, Folder: t.Folder, Calibration: &c}
			k.Needs = Needs{Disk: size / 50, Memory: header.memory(r.CalibrateCtx)}
			p.tasks = append(p.tasks, k)
			p.steps = append(p.steps, PlannedStep{
				Model: m.Slug, Step: StepCalibrate, Why: "variant " + v.Name + " wants an importance matrix", Read: m.upstream.bytes,
				Minutes: r.rates.calibrate(m.upstream.bytes, header.parameters, r.CalibrateChunks*r.CalibrateCtx),
			})
		}
	case imatrix != "":
		t.Imatrix = givenName(imatrix, ".gguf")
	}
	switch {
	case losses == lossesAuto:
		l := r.measurement(m.wantedModel)
		t.Losses, t.After = lossesName(&l), l.ID()
		if !slices.ContainsFunc(p.tasks, func(x Task) bool { return x.ID == l.ID() }) {
			k := Task{ID: l.ID(), Kind: KindLosses, Model: m.Slug, Source: t.Source, Commit: t.Commit, Folder: t.Folder, Measurement: &l, Imatrix: t.Imatrix, After: l.Imatrix.ID()}
			k.Needs = Needs{Disk: size / 50, Memory: 2 * header.memory(l.Ctx)}
			p.tasks = append(p.tasks, k)
			p.steps = append(p.steps, PlannedStep{
				Model: m.Slug, Step: StepLosses, Why: "variant " + v.Name + " is fitted to its size", Read: m.upstream.bytes,
				Minutes: r.rates.losses(m.upstream.bytes, header.parameters, l.Chunks*l.Ctx),
			})
		}
	case losses != "":
		t.Losses = givenName(losses, LossesSuffix)
	}
	t.Needs = Needs{Disk: size + size/100 + 1<<20, Memory: header.memory(r.Ctx)}
	p.tasks = append(p.tasks, t)
	p.steps = append(p.steps, PlannedStep{
		Model: m.Slug, Variant: v.Name, Step: StepMake, Why: m.because(in), Read: m.upstream.bytes, Write: size,
		Minutes: r.rates.make(m.upstream.bytes, size, header.parameters, r.Chunks*r.Ctx),
	})
}

// headerFacts is what the estimates take from a planned file.
type headerFacts struct {
	parameters int64
	layers     int64
	vocabulary int64
}

// measure plans the file of a variant to learn its size, without its importance
// matrix, which changes no size but that of some keys. A fit is supposed to get
// what it may choose from at most: what cannot be met then cannot be met.
func (r *Refresher) measure(ctx context.Context, m *modelRun, v *wantedVariant) (int64, headerFacts, string, error) {
	recipe, err := parseRecipe(v.Type, v.recipe)
	if err != nil {
		return 0, headerFacts{}, "", err
	}
	p, err := planVariant(ctx, m.upstream.source, typing{recipe: recipe, fit: isFit(v.Type), maxSize: v.gates.MaxSize, expect: v.imatrix != ""})
	if err != nil {
		return 0, headerFacts{}, "", err
	}
	if len(p.NeedImportance) > 0 && v.imatrix == "" {
		return 0, headerFacts{}, "", fmt.Errorf("type %s: %d tensors need importance data to be encoded, %s first: give the variant an imatrix", v.Type, len(p.NeedImportance), p.NeedImportance[0])
	}
	return p.Size, factsOf(p.Plan), p.note, nil
}

func factsOf(p *convert.Plan) headerFacts {
	f := headerFacts{parameters: p.Parameters, layers: 1}
	if n, err := p.Header.Metadata.Int(p.Arch + ".block_count"); err == nil && n > 0 {
		f.layers = n
	}
	if tokens, err := p.Header.Metadata.Strings("tokenizer.ggml.tokens"); err == nil {
		f.vocabulary = int64(len(tokens))
	}
	return f
}

// memory estimates what running a model layer by layer takes, in bytes: two
// layers in 32 bits, the logits of a chunk of both models, and what the program
// takes itself.
func (f headerFacts) memory(ctx int) int64 {
	const program = 256 << 20
	return program + 2*4*f.parameters/f.layers + 3*4*f.vocabulary*int64(ctx)
}

// because says why a variant is made.
func (m *modelRun) because(in Inputs) string {
	if _, made := m.state.doc.Outcomes[in.ID()]; made {
		return "is not in the store any more"
	}
	var last *Inputs
	for _, id := range slices.Sorted(maps.Keys(m.state.doc.Outcomes)) {
		o := m.state.doc.Outcomes[id]
		if o.Inputs.Variant == in.Variant && (last == nil || m.released(o.Variant)) {
			last = &o.Inputs
		}
	}
	switch {
	case last == nil:
		return "is new"
	case last.Source != in.Source:
		return "its source is another"
	case last.Commit != in.Commit:
		return fmt.Sprintf("its source is at %.12s, was at %.12s", in.Commit, last.Commit)
	case last.Recipe != in.Recipe:
		return "its types are chosen in another way"
	case last.Imatrix != in.Imatrix:
		return "its importance matrix is another"
	case last.Losses != in.Losses:
		return "what its types lose is known in another way"
	case digestJSON(last.Gates) != digestJSON(in.Gates):
		return "its gates are others"
	case last.Tool != in.Tool || last.Makes != in.Makes:
		return "modelpipe is another"
	}
	return "is new"
}

// released says whether a variant is in an active release.
func (m *modelRun) released(id string) bool {
	if m.state.ledger == nil {
		return false
	}
	return slices.ContainsFunc(m.state.ledger.Releases, func(r catalog.Release) bool {
		return r.State == catalog.StateActive && slices.Contains(r.Variants, id)
	})
}

// rates is what things are expected to take. What was measured before corrects
// them.
type rates struct {
	Make      float64 `json:"make"`      // times the estimate that it has taken
	Calibrate float64 `json:"calibrate"` // so, of calibrations
	Losses    float64 `json:"losses"`    // so, of losses
}

// What is assumed before anything was measured, less than docs/benchmarks.md
// has: bytes per second from the Hub and into a store, of output that is encoded,
// and operations per second of one processor in products of matrices.
const (
	rateNetwork = 50e6
	rateEncode  = 100e6
	rateCompute = 20e9
)

// fixedSeconds is what a task takes besides.
const fixedSeconds = 1

func (k rates) make(read, write, parameters int64, tokens int) float64 {
	// Read once to convert and once to validate, where two models are run.
	seconds := fixedSeconds + 2*float64(read)/rateNetwork + float64(write)/rateEncode + float64(write)/rateNetwork + 2*computeSeconds(parameters, tokens)
	return minutes(seconds * scale(k.Make))
}

func (k rates) calibrate(read, parameters int64, tokens int) float64 {
	return minutes((fixedSeconds + float64(read)/rateNetwork + computeSeconds(parameters, tokens)) * scale(k.Calibrate))
}

// losses is forward and twice as much backward, and encoding each weight to a
// dozen types of half a byte.
func (k rates) losses(read, parameters int64, tokens int) float64 {
	const encoded = 12 * 0.5
	return minutes((fixedSeconds + float64(read)/rateNetwork + 3*computeSeconds(parameters, tokens) + encoded*float64(parameters)/rateEncode) * scale(k.Losses))
}

// computeSeconds is two operations for each weight and token.
func computeSeconds(parameters int64, tokens int) float64 {
	return 2 * float64(parameters) * float64(tokens) / rateCompute / float64(runtime.GOMAXPROCS(0))
}

func minutes(seconds float64) float64 { return float64(int64(seconds/60*100+0.5)) / 100 }

func scale(x float64) float64 {
	if !(x > 0) {
		return 1
	}
	return min(max(x, 0.01), 100)
}
