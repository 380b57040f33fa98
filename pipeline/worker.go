package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/trust"
	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/hub"
	"github.com/modelpipe/modelpipe/internal/bulkhash"
	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/ops/budget"
	"github.com/modelpipe/modelpipe/ops/calibrate"
	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/quantize"
	"github.com/modelpipe/modelpipe/validate"
)

// Worker does tasks in a work directory:
//
//	make/ID/task.json               what is being made
//	make/ID/MODEL-VARIANT.gguf      a file, beside it .partial and its journal
//	make/ID/report.json             its judgement
//	imatrix/ID/task.json            what is measured
//	imatrix/ID/imatrix.gguf         an importance matrix; beside it what is being measured
//	imatrix/ID/ID.losses.json       what types lose on tensors when they are encoded with it
//	given/DIGEST.gguf, .txt, ...    importance matrices, losses and texts that people gave
//	folders/HASH.json               digests of files of folders
//
// Everything is named by what it was made of, so what a killed run has left is
// gone on with, and all of it may be lost.
type Worker struct {
	Dir     string
	Store   publish.Store // and a publish.Sink
	Actor   string
	Version string                                                    // of modelpipe
	Device  string                                                    // to compute on
	Render  func(context.Context, validate.Rendering) (string, error) // of chat templates; nil: in this process
	Threads int                                                       // of one task; 0: all
	Policy  *trust.Policy                                             // whose keys sign provenance; nil: none
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now

	// Advance, where it is not nil, is told of bytes that were written.
	Advance func(model, variant string, bytes int64)
}

// Do does a task. It never fails but by its result.
func (w *Worker) Do(ctx context.Context, t Task) Result {
	r := Result{Task: t.ID, Kind: t.Kind, Model: t.Model, Variant: t.Variant, State: StateDone}
	var err error
	switch t.Kind {
	case KindCalibrate:
		err = w.calibrate(ctx, &t, &r)
	case KindLosses:
		err = w.losses(ctx, &t, &r)
	case KindMake:
		err = w.make(ctx, &t, &r)
	default:
		err = fmt.Errorf("task of kind %q: is not known", t.Kind)
	}
	var no *refusal
	switch {
	case errors.As(err, &no):
		r.State, r.Reason = StateRefused, no.Error()
	case err != nil:
		r.State, r.Reason, r.Retry = StateFailed, oneLine(err), unavailable(err)
	}
	return r
}

// refusal is a gate's no.
type refusal struct{ why string }

func (r *refusal) Error() string { return r.why }

// unavailable says whether a later run may be free of an error: something did
// not answer, or somebody else was at work.
func unavailable(err error) bool {
	for _, passing := range []error{hub.ErrUnavailable, publish.ErrUnavailable, publish.ErrBusy, publish.ErrChanged, catalog.ErrRace} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// oneLine is an error's text on one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func (w *Worker) path(elements ...string) string {
	return filepath.Join(append([]string{w.Dir}, elements...)...)
}

// folder is where a task works.
func (w *Worker) folder(t *Task) string { return w.path("make", t.ID) }

// imatrixName is the name of a measured matrix in the work directory.
func imatrixName(id string) string { return filepath.Join("imatrix", id, "imatrix.gguf") }

// lossesName is the name of measured losses there.
func lossesName(m *Measurement) string {
	return filepath.Join("imatrix", m.Imatrix.ID(), m.ID()+LossesSuffix)
}

// taskName is the name of a task beside what is made of it.
const taskName = "task.json"

// givenName is the name of what people gave in the work directory.
func givenName(digest, suffix string) string {
	return filepath.Join("given", strings.TrimPrefix(digest, "sha256:")+suffix)
}

// Forget takes away what was left of a task.
func (w *Worker) Forget(t *Task) error { return os.RemoveAll(w.folder(t)) }

// open opens the source of a task as it was when the task was made.
func (w *Worker) open(ctx context.Context, t *Task) (*Source, error) {
	if !hub.IsRef(t.Source) {
		s, err := OpenSource(ctx, t.Source, w.Log)
		if err != nil {
			return nil, err
		}
		s.Name = t.Folder
		return s, w.unchanged(ctx, t)
	}
	ref, err := hub.ParseRef(t.Source)
	if err != nil {
		return nil, err
	}
	ref.Revision = t.Commit
	return OpenSource(ctx, ref.String(), w.Log)
}

// openModel opens the source of a task and the model in it.
func (w *Worker) openModel(ctx context.Context, t *Task) (s *Source, m *Model, done func(), err error) {
	if s, err = w.open(ctx, t); err != nil {
		return nil, nil, nil, err
	}
	if m, err = OpenModel(ctx, s, ""); err != nil {
		s.Close()
		return nil, nil, nil, err
	}
	return s, m, func() { m.Close(); s.Close() }, nil
}

// unchanged fails where a folder is another than when the task was made.
func (w *Worker) unchanged(ctx context.Context, t *Task) error {
	if hub.IsRef(t.Source) {
		return nil
	}
	digest, _, err := folderDigest(ctx, t.Source, w.cache(t.Source))
	if err != nil {
		return err
	}
	if digest != t.Commit {
		return fmt.Errorf("%s: has changed since this run has looked at it: the next one makes it", t.Source)
	}
	return nil
}

// cache is the file with the digests of a folder's files.
func (w *Worker) cache(folder string) string {
	return w.path("folders", digestJSON(folder)[:32]+".json")
}

// calibrate measures an importance matrix.
func (w *Worker) calibrate(ctx context.Context, t *Task, r *Result) error {
	out := w.path(imatrixName(t.ID))
	if _, err := os.Stat(out); err == nil {
		return nil
	}
	if err := writeJSON(filepath.Join(filepath.Dir(out), taskName), t); err != nil {
		return err
	}
	s, m, closeModel, err := w.openModel(ctx, t)
	if err != nil {
		return err
	}
	defer closeModel()
	c := t.Calibration
	chunks, err := m.Chunks(w.path(givenName(c.Text, ".txt")), c.Chunks, c.Ctx)
	if err != nil {
		return err
	}
	inputs, err := m.CalibrationDigest(ctx, s, chunks, c.Ctx, false)
	if err != nil {
		return err
	}
	k := calibrate.New(m.Spec, m.Header.Tensors, inputs, false)
	state := out + ".calibration"
	if err := k.LoadState(state); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.Log.Warn("what an interrupted calibration has left cannot be used", "model", t.Model, "error", err)
	}
	d, err := ops.Open(w.Device)
	if err != nil {
		return err
	}
	defer d.Close()
	name := "text " + c.Text
	save := func() error {
		if k.Complete() {
			return nil
		}
		return k.SaveState(state, name, len(chunks), c.Ctx)
	}
	if err := k.Run(ctx, CalibrateOn(d, ops.Options{}), chunks, k.All(), save); err != nil {
		return err
	}
	if err := w.finish(ctx, t, s, r); err != nil {
		return err
	}
	if err := k.File(name, len(chunks), c.Ctx).Save(out); err != nil {
		return err
	}
	if err := os.Remove(state); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// losses measures what types lose on the tensors of a model, encoded with the
// importance matrix that was measured on the same text. Of a model for which
// that is not known how, no losses are written down.
func (w *Worker) losses(ctx context.Context, t *Task, r *Result) error {
	out := w.path(lossesName(t.Measurement))
	if _, err := os.Stat(out); err == nil {
		return nil
	}
	s, m, closeModel, err := w.openModel(ctx, t)
	if err != nil {
		return err
	}
	defer closeModel()
	importance, imatrix, closeImatrix, err := w.imatrix(t)
	if err != nil {
		return err
	}
	defer closeImatrix()
	of := t.Measurement
	chunks, err := m.Chunks(w.path(givenName(of.Imatrix.Text, ".txt")), of.Chunks, of.Ctx)
	if err != nil {
		return err
	}
	model, err := m.Digest(ctx, s)
	if err != nil {
		return err
	}
	d, err := ops.Open(w.Device)
	if err != nil {
		return err
	}
	defer d.Close()
	table, err := m.MeasureLosses(ctx, d, importance, chunks, of.Seed, nil)
	if errors.Is(err, ops.ErrNoInformation) {
		w.Log.Warn("what types lose cannot be measured: priors take the place of it", "model", t.Model, "reason", err)
		table, err = nil, nil
	}
	if err != nil {
		return err
	}
	if err := w.finish(ctx, t, s, r); err != nil {
		return err
	}
	f := budget.NewFile(table)
	f.Model, f.Imatrix, f.Text, f.Chunks, f.Ctx = model, imatrix, "text "+of.Imatrix.Text, len(chunks), of.Ctx
	return f.Save(out)
}

// readLosses reads the losses of a task, or makes priors where it has none.
func (w *Worker) readLosses(ctx context.Context, t *Task, s *Source, imatrix string, tensors []quantize.Tensor) (quantize.Losses, error) {
	if t.Losses == "" {
		return quantize.PriorLosses(tensors), nil
	}
	name := w.path(t.Losses)
	f, err := budget.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("losses: %w", err)
	}
	if err := CheckLosses(ctx, s, "", f, imatrix); err != nil {
		return nil, fmt.Errorf("losses %s: %w", name, err)
	}
	if len(f.Losses) == 0 {
		return quantize.PriorLosses(tensors), nil
	}
	return f.Table()
}

// finish holds what was read to what it should have been.
func (w *Worker) finish(ctx context.Context, t *Task, s *Source, r *Result) error {
	if s.BytesRead != nil {
		r.Read = s.BytesRead()
	}
	if s.Snapshot != nil {
		return s.Snapshot.Verify(ctx)
	}
	return w.unchanged(ctx, t)
}

// make converts, validates and publishes a variant.
func (w *Worker) make(ctx context.Context, t *Task, r *Result) error {
	s, err := w.open(ctx, t)
	if err != nil {
		return err
	}
	defer s.Close()
	recipe, err := t.recipe()
	if err != nil {
		return fmt.Errorf("recipe: %w", err)
	}
	importance, digest, closeImatrix, err := w.imatrix(t)
	if err != nil {
		return err
	}
	defer closeImatrix()
	p, err := planVariant(ctx, s, typing{
		recipe: recipe, fit: isFit(t.Type), maxSize: t.Gates.MaxSize, importance: importance,
		losses: func(tensors []quantize.Tensor) (quantize.Losses, error) {
			return w.readLosses(ctx, t, s, digest, tensors)
		},
	})
	if err != nil {
		return err
	}
	file := filepath.Join(w.folder(t), fileName(t.Model, t.Variant))
	if err := w.render(ctx, t, s, p.Plan, importance, digest, file, r); err != nil {
		return err
	}
	report, err := w.judge(ctx, t, s, importance, file)
	if err != nil {
		return err
	}
	q, err := catalog.DecodeQuality(report.data, catalog.Digest("sha256:"+report.sha256))
	if err != nil {
		return err
	}
	r.Gates = q.Gates
	if !q.Passed() {
		return &refusal{refusedBy(q)}
	}
	recipeDigest, err := p.recipe.Digest()
	if err != nil {
		return err
	}
	preset := cmp.Or(t.Type, t.Variant)
	if isFit(t.Type) {
		preset = t.Variant
	}
	v := Variant{
		Model: t.Model, Name: t.Variant, Preset: preset, Report: report.data,
		From: catalog.Provenance{
			Source: catalog.Source{Repository: cmp.Or(t.Folder, t.Source), Commit: t.Commit},
			Tool:   catalog.Tool{Name: "modelpipe", Version: w.Version},
			Recipe: catalog.Digest(recipeDigest), Imatrix: catalog.Digest(digest), Created: w.now(),
		},
	}
	if w.Policy != nil {
		if v.Keys, err = w.Policy.ChannelKeys(t.Channel); err != nil {
			return err
		}
	}
	o := &catalog.Operator{Store: w.Store, Actor: w.Actor, Now: w.Now}
	record, err := v.Put(ctx, o, file, publish.Options{Threads: w.Threads, Log: w.Log})
	if err != nil {
		return err
	}
	r.ID, r.Written = record.Variant.ID, record.Variant.Size
	return nil
}

// fileName is the name of the file of a variant.
func fileName(model, variant string) string {
	const most = 200 // leaves room for what is beside unfinished files
	if len(model)+len(variant) > most {
		return variant + ".gguf"
	}
	return model + "-" + variant + ".gguf"
}

// refusedBy names the gates that said no.
func refusedBy(q *catalog.Quality) string {
	var no []string
	for _, g := range q.Gates {
		if g.Passed {
			continue
		}
		text := g.Name
		if g.Value != nil && g.Limit != nil {
			text += fmt.Sprintf(" %.4g, limit %.4g", *g.Value, *g.Limit)
		}
		no = append(no, text)
	}
	return "gates say no: " + strings.Join(no, "; ")
}

func (w *Worker) now() time.Time {
	if w.Now != nil {
		return w.Now()
	}
	return time.Now()
}

// imatrix opens the importance matrix of a task, where it has one, and returns
// its digest with it.
func (w *Worker) imatrix(t *Task) (*quantize.Imatrix, string, func() error, error) {
	none := func() error { return nil }
	if t.Imatrix == "" {
		return nil, "", none, nil
	}
	name := w.path(t.Imatrix)
	f, err := os.Open(name)
	if err != nil {
		return nil, "", none, fmt.Errorf("importance matrix: %w", err)
	}
	info, err := f.Stat()
	var m *quantize.Imatrix
	digest := ""
	if err == nil {
		digest, err = digestFile(context.Background(), name)
	}
	if err == nil {
		m, err = quantize.ReadImatrix(f, info.Size())
	}
	if err != nil {
		f.Close()
		return nil, "", none, fmt.Errorf("importance matrix %s: %w", name, err)
	}
	return m, "sha256:" + digest, f.Close, nil
}

// typing is what the types of a variant come of.
type typing struct {
	recipe     quantize.Recipe
	fit        bool // the types are chosen for maxSize instead
	maxSize    int64
	importance *quantize.Imatrix
	expect     bool                                             // importance data that is yet to be measured
	losses     func([]quantize.Tensor) (quantize.Losses, error) // of a fit; nil: priors
}

// plannedVariant is the file of a variant.
type plannedVariant struct {
	*convert.Plan
	recipe quantize.Recipe // by which its types were chosen
	note   string
}

// imatrixKey is what files call the importance matrix that they were made with.
const imatrixKey = "imatrix"

// planVariant plans the file of a variant. A file that would be larger than it
// may be is refused.
func planVariant(ctx context.Context, s *Source, t typing) (*plannedVariant, error) {
	plan := func(types convert.TypePolicy) (*convert.Plan, error) {
		return convert.NewPlan(ctx, s.FS, convert.Options{
			Source: cmp.Or(s.Repo, s.Name), Repository: s.Repo, Commit: s.Commit, Types: types,
		})
	}
	if t.fit {
		return t.plan(plan)
	}
	p, err := plan(convert.NewTypePolicy(t.recipe, t.importance, imatrixKey))
	if err != nil {
		return nil, err
	}
	if t.maxSize > 0 && p.Size > t.maxSize {
		return nil, &refusal{fmt.Sprintf("the file would have %d bytes: max_size allows %d", p.Size, t.maxSize)}
	}
	return &plannedVariant{Plan: p, recipe: t.recipe}, nil
}

// plan plans a file whose types are chosen for its size.
func (t *typing) plan(plan func(convert.TypePolicy) (*convert.Plan, error)) (*plannedVariant, error) {
	free := quantize.Recipe{Preset: "auto"}
	f, err := NewFitting(FitOptions{
		MaxSize: t.maxSize, Recipe: free, Importance: t.importance, Imatrix: imatrixKey, Expect: t.expect, Plan: plan, Losses: t.losses,
	})
	if err != nil {
		return nil, err
	}
	if f.AsIs {
		return &plannedVariant{f.Whole, free, f.Note()}, nil
	}
	best, err := f.Best()
	if over := (*OverBudgetError)(nil); errors.As(err, &over) {
		text := fmt.Sprintf("max_size %d: %v", t.maxSize, over)
		if over.Unweighted {
			text += "; with an imatrix there are smaller types"
		}
		return nil, &refusal{text}
	}
	if err != nil {
		return nil, err
	}
	return &plannedVariant{Plan: best.Plan, recipe: best.Recipe}, nil
}

// render makes the file of a variant, or finds the one that is complete.
func (w *Worker) render(ctx context.Context, t *Task, s *Source, p *convert.Plan, importance *quantize.Imatrix, digest, file string, r *Result) error {
	if len(p.NeedImportance) > 0 {
		return fmt.Errorf("type %s: %d tensors need importance data to be encoded, %s first: give the variant an imatrix", t.Type, len(p.NeedImportance), p.NeedImportance[0])
	}
	if info, err := os.Stat(file); err == nil && info.Size() == p.Size {
		return nil // it got its name when it was complete
	}
	if err := writeJSON(filepath.Join(filepath.Dir(file), taskName), t); err != nil {
		return err
	}
	progress := new(convert.Progress)
	stop := w.watch(t, progress)
	defer stop()
	inputs := ""
	if digest != "" {
		inputs = "imatrix " + digest
	}
	opts := convert.FileOptions{
		RenderOptions: convert.RenderOptions{Threads: w.Threads, Imatrix: importance, SourceOrder: s.Snapshot != nil, Progress: progress},
		Resume:        true,
		Inputs:        inputs,
		Verify:        func(ctx context.Context) error { return w.finish(ctx, t, s, r) },
		Keep:          unavailable,
	}
	outputs := []convert.Output{{Path: file, Plan: p}}
	_, err := convert.WriteFiles(ctx, outputs, s.FS, opts)
	if errors.Is(err, hub.ErrMismatch) || err == nil || ctx.Err() != nil || unavailable(err) {
		return err
	}
	if _, serr := os.Stat(convert.PartialName(file)); serr != nil {
		return err
	}
	// What another version has left is of no use to this one.
	w.Log.Warn("what an interrupted run has left cannot be used", "model", t.Model, "variant", t.Variant, "error", err)
	opts.Resume = false
	_, err = convert.WriteFiles(ctx, outputs, s.FS, opts)
	return err
}

// watch tells Advance of what is rendered until the function that it returns is
// called.
func (w *Worker) watch(t *Task, p *convert.Progress) func() {
	if w.Advance == nil {
		return func() {}
	}
	done := make(chan struct{})
	ended := make(chan struct{})
	told := int64(0)
	tell := func() {
		n := p.Done.Load()
		w.Advance(t.Model, t.Variant, n-told)
		told = n
	}
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				tell()
				return
			case <-tick.C:
				tell()
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// judged is a report of validation.
type judged struct {
	data   []byte
	sha256 string // of the file
}

// judge validates the file of a variant, or reads what was found before.
func (w *Worker) judge(ctx context.Context, t *Task, s *Source, importance *quantize.Imatrix, file string) (*judged, error) {
	sum, err := digestFile(ctx, file)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(w.folder(t), "report.json")
	if data, err := os.ReadFile(name); err == nil {
		if _, err := catalog.DecodeQuality(data, catalog.Digest("sha256:"+sum)); err == nil {
			return &judged{data, sum}, nil
		}
	}
	reference, closeReference, err := OpenReference(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", s.Arg, err)
	}
	defer closeReference()
	reference.Info.Name = cmp.Or(t.Folder, reference.Info.Name) // no path of this machine
	c, err := validate.OpenCandidate(ctx, os.DirFS(filepath.Dir(file)), filepath.Base(file))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	d, err := ops.Open(w.Device)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	o := validate.Options{
		Version: w.Version, Engine: validate.OnDevice(d, ops.Options{}), Imatrix: importance,
		Chunks: t.Gates.Chunks, Ctx: t.Gates.Ctx, MaxKLD: t.Gates.MaxKLD, MinTop1: t.Gates.MinTop1, MaxPPLRatio: t.Gates.MaxPPL, Render: w.Render,
	}
	if t.Gates.Text != "" {
		text, err := os.ReadFile(w.path(givenName(t.Gates.Text, ".txt")))
		if err != nil {
			return nil, err
		}
		o.Text, o.TextName = string(text), "given"
	}
	if t.Gates.Canaries != "" {
		text, err := os.ReadFile(w.path(givenName(t.Gates.Canaries, ".txt")))
		if err != nil {
			return nil, err
		}
		if o.Canaries, err = validate.ParseCanaries(string(text)); err != nil {
			return nil, fmt.Errorf("canaries: %w", err)
		}
	}
	report, err := validate.Run(ctx, reference, c, o)
	if err != nil {
		return nil, err
	}
	if s.Snapshot != nil {
		if err := s.Snapshot.Verify(ctx); err != nil {
			return nil, err
		}
	}
	var data strings.Builder
	if err := report.WriteJSON(&data); err != nil {
		return nil, err
	}
	return &judged{[]byte(data.String()), sum}, writeFile(name, []byte(data.String()))
}

// digestText is the digest of a text.
func digestText(data []byte) string {
	sum := bulkhash.NewSHA256()
	sum.Write(data)
	return fmt.Sprintf("sha256:%x", sum.Sum(nil))
}
