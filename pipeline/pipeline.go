// Package pipeline does what takes several of the other packages: it opens
// sources, puts variants into stores, and keeps a catalog up to date (Refresher).
//
// A refresh compares what should be, a curation file and what its sources hold
// now, with what is, the records and releases of a store, and does what is
// missing: convert, calibrate, validate, publish, release, promote, build, sign.
//
// What decides about a variant is its Inputs. Their digest names what was made
// of them: in the work directory while it is made, in the store for good. So a
// refresh that was killed is run again and goes on, and one with nothing to do
// writes nothing. There is no database.
package pipeline

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/export"
	"github.com/modelpipe/modelpipe/catalog/site"
	"github.com/modelpipe/modelpipe/catalog/trust"
	"github.com/modelpipe/modelpipe/internal/filelock"
	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/validate"
)

// Refresher is how to refresh a catalog.
type Refresher struct {
	Curation string        // path of the curation file
	Store    publish.Store // and a publish.Sink; nil, for a dry run: one that is not there yet
	Work     string        // folder for unfinished work
	Only     []string      // slugs; none: every model
	Actor    string        // who, as the log shows it
	Version  string        // of modelpipe
	Remake   bool          // make everything anew with another version of modelpipe
	DryRun   bool          // only plan

	Text        string // file to validate on; empty: the text that comes with modelpipe
	Canaries    string // file with prompts for it, one a line; empty: those that come with modelpipe
	Chunks, Ctx int    // as validate has them; 0: its defaults

	Calibrate                     string // file to measure importance matrices and losses on
	CalibrateChunks, CalibrateCtx int    // 0: 60 of 512 tokens

	Device       string                                                    // to compute on; empty: auto
	Render       func(context.Context, validate.Rendering) (string, error) // of chat templates, as validate.Options has it
	Jobs         int                                                       // tasks at a time; 0: 1
	Disk, Memory int64                                                     // budgets in bytes; 0: none

	Trust  *trust.Policy // to sign with; nil: nothing is signed
	Export string        // folder for exports in all formats, or empty
	Site   string        // folder for a web site, or empty
	Root   string        // of the nodes, for exports; empty: export.DefaultRoot

	Lease    time.Duration // 0: DefaultLease
	Executor Executor      // nil: Local
	Log      *slog.Logger
	Now      func() time.Time // nil: time.Now

	// Show, where it is not nil, is called when work begins, with the bytes to
	// be written and what has become of them; what it returns when it is over.
	Show func(total int64, done func() int64, at func() string) func()

	gates           Gates           // of all variants
	calibrationText string          // digest
	given           map[string]bool // files in the work directory that somebody gave
	asked           map[string]bool // slugs of the curation file
	rates           rates
	work            string // identity of the work directory
	done            atomic.Int64
	at              atomic.Pointer[string]
}

// Bounds of what is asked for.
const maxJobs = 1024

// fill puts in what was left out and checks the rest.
func (r *Refresher) fill() error {
	r.Chunks, r.Ctx = cmp.Or(r.Chunks, validate.DefaultChunks), cmp.Or(r.Ctx, validate.DefaultCtx)
	r.CalibrateChunks, r.CalibrateCtx = cmp.Or(r.CalibrateChunks, 60), cmp.Or(r.CalibrateCtx, 512)
	r.Jobs = cmp.Or(r.Jobs, 1)
	r.Device = cmp.Or(r.Device, "auto")
	if r.Now == nil {
		r.Now = time.Now
	}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case r.Curation == "":
		return usage(errors.New("the path of the curation file is missing"))
	case r.Work == "":
		return usage(errors.New("the path of the work directory is missing"))
	case r.Store == nil && !r.DryRun:
		return usage(errors.New("the store is missing"))
	case r.Chunks < 1 || r.Ctx < 8 || r.CalibrateChunks < 1 || r.CalibrateCtx < 2:
		return usage(fmt.Errorf("%d chunks of %d tokens, %d of %d to calibrate: want at least one of 8", r.Chunks, r.Ctx, r.CalibrateChunks, r.CalibrateCtx))
	case r.Jobs < 1 || r.Jobs > maxJobs:
		return usage(fmt.Errorf("%d jobs: want 1 to %d", r.Jobs, maxJobs))
	case r.Disk < 0 || r.Memory < 0:
		return usage(errors.New("a budget is less than nothing"))
	}
	return nil
}

// Run refreshes. The summary says what became of each model, also where there
// is an error: that one stopped the run. An error of the curation file or of
// the options wraps ErrUsage; one of another refresh is ErrLocked.
func (r *Refresher) Run(ctx context.Context) (*Summary, error) {
	began := r.now()
	s := &Summary{Schema: SummarySchema, Curation: r.Curation, Began: began, DryRun: r.DryRun}
	err := r.run(ctx, s)
	s.Seconds = r.now().Sub(began).Seconds()
	s.finish(err)
	return s, err
}

func (r *Refresher) now() time.Time {
	if r.Now == nil {
		return time.Now().UTC()
	}
	return r.Now().UTC()
}

func (r *Refresher) run(ctx context.Context, s *Summary) (err error) {
	if err := r.fill(); err != nil {
		return err
	}
	s.Store = fmt.Sprint(r.Store)
	if !r.DryRun {
		unlock, err := r.lockWork()
		if err != nil {
			return err
		}
		defer unlock()
	}
	d, err := r.readDesired()
	switch {
	case errors.Is(err, errWork):
		return err
	case err != nil:
		return usage(err)
	}
	defer d.close()
	store := r.Store
	if !r.DryRun {
		l, holding, err := AcquireLease(ctx, LeaseOptions{Store: r.Store, Holder: r.holder(), Work: r.work, For: r.Lease})
		if err != nil {
			return err
		}
		if from := l.TakenFrom(); from != "" {
			r.Log.Warn("the lease of a refresh that did not end was taken over", "holder", from)
		}
		defer func() {
			// The lease may have been lost while something else failed.
			if cause := context.Cause(holding); errors.Is(cause, ErrLeaseLost) {
				err = cause
			}
			err = errors.Join(err, l.Release(context.WithoutCancel(ctx)))
		}()
		ctx = holding
		if store, err = guard(r.Store, l); err != nil {
			return err
		}
	}
	have, err := readActual(ctx, store, d.models)
	if err != nil {
		return err
	}
	r.readRates()
	r.look(ctx, d.models, have)
	p, err := r.plan(ctx, d, have)
	if err != nil {
		return err
	}
	s.Plan = p.steps
	if r.DryRun {
		s.models(p.runs)
		return nil
	}
	err = r.do(ctx, s, d, p, store)
	s.models(p.runs)
	if edited := d.edited(); edited != "" {
		s.Notes = append(s.Notes, edited)
	}
	return err
}

// holder is who has the lease, for people.
func (r *Refresher) holder() string { return fmt.Sprintf("%s, process %d", r.Actor, os.Getpid()) }

// lockWork makes the work directory and takes its lock. Its identity tells it
// from others of the same path on other machines, and from its own copies, which
// have a lock of their own: it is of a random text in the directory and of the
// file that is locked, which is never written to.
func (r *Refresher) lockWork() (unlock func(), err error) {
	if err := os.MkdirAll(r.Work, 0o777); err != nil {
		return nil, fmt.Errorf("work directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(r.Work, "lock"), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, fmt.Errorf("work directory: %w", err)
	}
	if err := filelock.Try(f); err != nil {
		f.Close()
		if errors.Is(err, filelock.ErrHeld) {
			err = fmt.Errorf("%w: another process works in it", ErrLocked)
		}
		return nil, fmt.Errorf("work directory %s: %w", r.Work, err)
	}
	unlock = func() { filelock.Release(f) }
	defer func() {
		if err != nil {
			unlock()
			err = fmt.Errorf("work directory: %w", err)
		}
	}()
	this, err := instance(f)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(r.Work, "identity")
	const most = 100
	text, err := os.ReadFile(name)
	if err != nil || len(text) == 0 || len(text) > most {
		text = []byte(newToken() + "\n")
		if err := writeFile(name, text); err != nil {
			return nil, err
		}
	}
	r.work = digestJSON([]string{string(text), this})
	return unlock, nil
}

// do does what a plan says.
func (r *Refresher) do(ctx context.Context, s *Summary, d *desired, p *plan, store publish.Store) error {
	w := &Worker{
		Dir: r.Work, Store: store, Actor: r.Actor, Version: r.Version, Device: r.Device, Render: r.Render, Policy: r.Trust, Log: r.Log, Now: r.Now,
		Threads: max(1, runtime.GOMAXPROCS(0)/r.Jobs), Advance: r.advance,
	}
	if err := r.clearWork(p.runs); err != nil {
		return err
	}
	x := r.Executor
	if x == nil {
		x = &Local{Jobs: r.Jobs, Disk: r.Disk, Memory: r.Memory, Do: w.Do}
	}
	o := &catalog.Operator{Store: store, Actor: r.Actor, Now: r.Now}
	for _, m := range p.runs {
		if m.problem != nil {
			continue
		}
		if m.making(p.tasks) {
			if err := m.own(ctx, m.announce(ctx, o)); err != nil {
				return err
			}
			continue
		}
		if err := m.settle(ctx, o); err != nil {
			return err
		}
	}
	if err := r.execute(ctx, s, p, x, w, o); err != nil {
		return err
	}
	return r.publish(ctx, s, d, p, store)
}

// making says whether a task is about a model.
func (m *modelRun) making(tasks []Task) bool {
	return slices.ContainsFunc(tasks, func(t Task) bool { return t.Model == m.Slug })
}

// execute does the tasks, and releases each model when its variants are there.
func (r *Refresher) execute(ctx context.Context, s *Summary, p *plan, x Executor, w *Worker, o *catalog.Operator) error {
	if len(p.tasks) == 0 {
		return nil
	}
	if r.Show != nil {
		total := int64(0)
		for _, t := range p.tasks {
			total += t.Size
		}
		stop := r.Show(total, func() int64 { return min(r.done.Load(), total) }, func() string {
			if at := r.at.Load(); at != nil {
				return *at
			}
			return ""
		})
		defer stop()
	}
	byID, runs, left := map[string]*Task{}, map[string]*modelRun{}, map[string]int{}
	for i := range p.tasks {
		t := &p.tasks[i]
		byID[t.ID] = t
		left[t.Model]++
	}
	for _, m := range p.runs {
		runs[m.Slug] = m
	}
	return x.Execute(ctx, p.tasks, func(result Result) error {
		if err := context.Cause(ctx); err != nil {
			return err // what it says comes of that
		}
		t, m := byID[result.Task], runs[result.Model]
		if t == nil || m == nil {
			return fmt.Errorf("result of task %.12q: is of no task of this run", result.Task)
		}
		s.tally(result)
		r.learn(t, m, result)
		r.Log.Info(result.Kind+" "+result.State, "model", result.Model, "variant", result.Variant, "reason", result.Reason)
		left[m.Slug]--
		m.take(t, result)
		if t.Kind == KindMake && result.State != StateFailed || left[m.Slug] == 0 {
			if err := m.settle(ctx, o); err != nil {
				return err
			}
		}
		if t.Kind == KindMake && result.State != StateFailed { // it is remembered
			if err := w.Forget(t); err != nil {
				r.Log.Warn("what is done could not be taken from the work directory", "error", err)
			}
		}
		return nil
	})
}

// take notes what came of a task.
func (m *modelRun) take(t *Task, result Result) {
	if t.Kind != KindMake {
		if result.State != StateDone {
			what := map[string]string{KindCalibrate: "calibration", KindLosses: "losses"}[t.Kind]
			m.notes = append(m.notes, what+": "+result.Reason)
		}
		return
	}
	i := slices.Index(m.ids, t.ID)
	if result.State == StateFailed {
		m.failed[t.Variant] = result
		return
	}
	m.made[i] = outcome{Inputs: *t.Inputs, State: result.State, Variant: result.ID, Reason: result.Reason, Gates: result.Gates}
	m.state.doc.Outcomes[t.ID] = m.made[i]
	if result.ID != "" {
		m.state.records[result.ID] = true
	}
}

// settle writes down what was made of a model and releases it where all of it
// is there.
func (m *modelRun) settle(ctx context.Context, o *catalog.Operator) error {
	err := m.remember(ctx, o.Store)
	if err == nil {
		err = m.release(ctx, o)
	}
	return m.own(ctx, err)
}

// own keeps an error that concerns the model alone with it, and returns what
// concerns all: the store, the lease, an interrupt.
func (m *modelRun) own(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, publish.ErrUnavailable), errors.Is(err, publish.ErrRefused), errors.Is(err, ErrLeaseLost):
		return err
	}
	m.problem = err
	return nil
}

// publish makes the catalog of what there is, and what is made of that.
func (r *Refresher) publish(ctx context.Context, s *Summary, d *desired, p *plan, store publish.Store) error {
	b, err := catalog.Build(ctx, catalog.BuildOptions{Curation: d.curation, Store: store})
	if err != nil {
		return err
	}
	s.Build = b
	for _, skipped := range b.Skipped {
		for _, m := range p.runs {
			if skipped.Failed && m.Slug == skipped.Model && m.problem == nil {
				m.problem = fmt.Errorf("catalog: channel %s: %s", skipped.Channel, skipped.Reason)
			}
		}
	}
	if r.Trust != nil {
		signed, err := (&trust.Repository{Store: store, Policy: r.Trust, Actor: r.Actor, Now: r.Now}).Sign(ctx)
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		s.Signed = signed.Written
	} else if err := s.unsigned(ctx, b, store); err != nil {
		return err
	}
	if err := r.write(ctx, b, store); err != nil {
		return err
	}
	return clearStore(ctx, store, p.runs)
}

// written is what the exports and the site were made of.
type written struct {
	What    string         `json:"what"` // export or site
	Dir     string         `json:"dir"`
	Index   catalog.Digest `json:"index_digest"`
	Version string         `json:"version"`
}

// write writes the exports and the site of the first channel of the curation
// file, where they are of another catalog.
func (r *Refresher) write(ctx context.Context, b *catalog.BuildResult, store publish.Store) error {
	if r.Export == "" && r.Site == "" || len(b.Channels) == 0 {
		return nil
	}
	channel := b.Channels[0]
	for _, c := range b.Channels {
		if c.Channel == catalog.DefaultChannel {
			channel = c
		}
	}
	reader, err := catalog.OpenChannel(ctx, catalog.FromStore(store), channel.Channel)
	if err != nil {
		return err
	}
	for _, target := range []struct {
		what, dir string
		write     func() error
	}{
		{"export", r.Export, func() error { return r.export(ctx, reader) }},
		{"site", r.Site, func() error {
			_, err := site.Write(ctx, r.Site, channel.Channel, reader.Models(ctx), site.Options{Title: "Models"})
			return err
		}},
	} {
		if target.dir == "" {
			continue
		}
		abs, err := filepath.Abs(target.dir)
		if err != nil {
			return err
		}
		now := written{target.what, abs, channel.Index, r.Version}
		note := filepath.Join(r.Work, "written", digestJSON([]string{target.what, abs})[:32]+".json")
		var before written
		if data, err := os.ReadFile(note); err == nil && json.Unmarshal(data, &before) == nil && before == now {
			if _, err := os.Stat(abs); err == nil {
				continue
			}
		}
		if err := target.write(); err != nil {
			return fmt.Errorf("%s: %w", target.what, err)
		}
		if err := writeJSON(note, now); err != nil {
			return err
		}
	}
	return nil
}

// export writes the catalog in every form that gateways and servers read.
func (r *Refresher) export(ctx context.Context, reader *catalog.Reader) error {
	for _, f := range export.Formats() {
		made, err := export.Export(reader.Models(ctx), export.Options{Root: r.Root}, f)
		if err != nil {
			return err
		}
		if err := export.Write(r.Export, made.Files); err != nil {
			return err
		}
	}
	return nil
}

// advance is told of what was rendered.
func (r *Refresher) advance(model, variant string, bytes int64) {
	r.done.Add(bytes)
	at := model + " " + variant
	r.at.Store(&at)
}

// clearWork takes away unfinished work that nothing of what is asked for goes on
// with. That of a model which was not looked at, or could not be, stays.
func (r *Refresher) clearWork(runs []*modelRun) error {
	known, keep := map[string]bool{}, map[string]bool{}
	for _, m := range runs {
		if m.problem != nil {
			continue
		}
		known[m.Slug] = true
		for i, id := range m.ids {
			keep[id] = m.made[i].State == "" // else a run was killed when it had made it
		}
		keep[r.calibration(m.wantedModel).ID()] = true
	}
	for _, kind := range []string{"make", "imatrix"} {
		entries, err := os.ReadDir(filepath.Join(r.Work, kind))
		if err != nil {
			continue // there is none
		}
		for _, e := range entries {
			dir := filepath.Join(r.Work, kind, e.Name())
			if keep[e.Name()] || !r.stale(dir, known) {
				continue
			}
			if err := os.RemoveAll(dir); err != nil {
				return fmt.Errorf("work directory: %w", err)
			}
		}
	}
	entries, err := os.ReadDir(filepath.Join(r.Work, "given"))
	if err != nil || len(r.Only) > 0 {
		return nil
	}
	for _, e := range entries {
		if name := filepath.Join("given", e.Name()); !r.given[name] {
			if err := os.Remove(filepath.Join(r.Work, name)); err != nil {
				return fmt.Errorf("work directory: %w", err)
			}
		}
	}
	return nil
}

// stale says whether a folder with unfinished work is of a model that was
// looked at, or of none that the curation file has.
func (r *Refresher) stale(dir string, known map[string]bool) bool {
	var t Task
	data, err := os.ReadFile(filepath.Join(dir, taskName))
	if err != nil || json.Unmarshal(data, &t) != nil {
		return true
	}
	return known[t.Model] || !r.asked[t.Model]
}

// abandonedAfter is how old an upload must be that nobody goes on with.
const abandonedAfter = 24 * time.Hour

// clearStore takes away what killed runs have left of uploads: of variants that
// are complete, of objects that were not written, and what is a day old. Files
// that have their name are not touched.
func clearStore(ctx context.Context, store publish.Store, runs []*modelRun) error {
	sink := store.(publish.Sink)
	rests, err := sink.Abandoned(ctx)
	if err != nil {
		return fmt.Errorf("unfinished uploads: %w", err)
	}
	complete := map[string]bool{}
	for _, m := range runs {
		for id := range m.state.records {
			complete[catalog.VariantDir(m.Slug, id)] = true
		}
	}
	for _, rest := range rests {
		dir := filepath.ToSlash(filepath.Dir(filepath.FromSlash(rest.Name)))
		switch {
		case complete[dir], strings.HasSuffix(rest.ID, ".put.partial"):
		case strings.HasPrefix(rest.Name, "models/") && time.Since(rest.Started) > abandonedAfter:
		default:
			continue
		}
		if err := sink.Discard(ctx, rest); err != nil && !errors.Is(err, publish.ErrBusy) {
			return fmt.Errorf("unfinished uploads: %w", err)
		}
	}
	return nil
}

// ratesName is the file with what was measured, in the work directory.
const ratesName = "rates.json"

func (r *Refresher) readRates() {
	if data, err := os.ReadFile(filepath.Join(r.Work, ratesName)); err == nil && json.Unmarshal(data, &r.rates) != nil {
		r.rates = rates{}
	}
}

// learn corrects the estimates by what a task has taken.
func (r *Refresher) learn(t *Task, m *modelRun, result Result) {
	if result.State == StateFailed || result.Seconds <= 0 {
		return
	}
	for _, s := range m.estimates {
		if s.Variant != t.Variant || s.Step != t.Kind || s.Minutes <= 0 {
			continue
		}
		rate := map[string]*float64{KindMake: &r.rates.Make, KindCalibrate: &r.rates.Calibrate, KindLosses: &r.rates.Losses}[t.Kind]
		const weight = 0.2
		taken := scale(*rate) * result.Seconds / 60 / s.Minutes
		*rate = scale((1-weight)*scale(*rate) + weight*taken)
		if err := writeJSON(filepath.Join(r.Work, ratesName), r.rates); err != nil {
			r.Log.Warn("what was measured could not be kept", "error", err)
		}
	}
}
