package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/convert/converttest"
	"github.com/modelpipe/modelpipe/hub/hubtest"
	"github.com/modelpipe/modelpipe/publish"
)

const stories = "../testdata/stories260K"

// scene is a curation file with its sources, a store and a work directory.
type scene struct {
	*testing.T
	dir      string
	store    publish.Store
	executor Executor
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{T: t, dir: t.TempDir()}
	var err error
	if s.store, err = publish.OpenStore(s.path("store")); err != nil {
		t.Fatal(err)
	}
	s.write("canaries.txt", "Once upon a time\n") // one is quick
	return s
}

func (s *scene) path(name string) string { return filepath.Join(s.dir, name) }

// model writes the folder of a model.
func (s *scene) model(name string, seed uint64) string {
	s.Helper()
	converttest.OneLayer(s, stories, s.path(name), seed)
	return s.path(name)
}

func (s *scene) write(name, text string) {
	s.Helper()
	if err := writeFile(s.path(name), []byte(text)); err != nil {
		s.Fatal(err)
	}
}

// entry is the entry of a model in a curation file; more goes before its
// variants.
func entry(slug, source, more string, variants ...string) string {
	text := fmt.Sprintf("[[model]]\nslug = %q\nsource = %q\nvendor = \"v\"\ndisplay_name = \"M\"\ndescription = \"A model.\"\ntask = \"text-generation\"\nlicense = { spdx = \"MIT\" }\n%s\n", slug, source, more)
	for _, v := range variants {
		text += "[[model.variant]]\n" + v + "\n"
	}
	return text
}

const f32 = `name = "F32"`

// refresher is how the scene is refreshed.
func (s *scene) refresher() *Refresher {
	return &Refresher{
		Curation: s.path("catalog.toml"), Store: s.store, Work: s.path("work"), Actor: "test", Version: "v1",
		Chunks: 1, Ctx: 64, CalibrateChunks: 1, CalibrateCtx: 32, Device: "cpu", Executor: s.executor, Canaries: s.path("canaries.txt"),
	}
}

// refresh runs a refresh and holds what became of it to what it should.
func (s *scene) refresh(outcome string, change ...func(*Refresher)) *Summary {
	s.Helper()
	r := s.refresher()
	for _, c := range change {
		c(r)
	}
	sum, err := r.Run(s.Context())
	if sum.Outcome != outcome {
		s.Fatalf("%s, want %s: %v: %+v", sum.Outcome, outcome, err, sum.Models)
	}
	if err != nil && sum.Error != oneLine(err) {
		s.Errorf("error %q in the summary, got %v", sum.Error, err)
	}
	return sum
}

// state is what became of a model.
func (s *scene) state(sum *Summary, slug string) ModelSummary {
	s.Helper()
	for _, m := range sum.Models {
		if m.Model == slug {
			return m
		}
	}
	s.Fatalf("no model %s in %+v", slug, sum.Models)
	return ModelSummary{}
}

// reasons fails where a model is not in a state for a reason.
func (s *scene) reasons(sum *Summary, slug, state, reason string) {
	s.Helper()
	if m := s.state(sum, slug); m.State != state || !strings.Contains(m.Reason, reason) {
		s.Errorf("%s is %s: %s, want %s: %s", slug, m.State, m.Reason, state, reason)
	}
}

// releases are those of a model in the stable channel, the newest first, as
// version, state and slot.
func (s *scene) releases(slug string) string {
	s.Helper()
	l, err := catalog.ReadLedger(s.Context(), s.store, slug)
	if err != nil {
		s.Fatal(err)
	}
	var out []string
	for _, r := range l.In(catalog.DefaultChannel) {
		out = append(out, fmt.Sprintf("%d %s %s", r.Version, r.State, r.Slot))
	}
	return strings.Join(out, ", ")
}

func (s *scene) released(slug, want string) {
	s.Helper()
	if got := s.releases(slug); got != want {
		s.Errorf("releases of %s: %s, want %s", slug, got, want)
	}
}

// offered says whether the catalog offers a model.
func (s *scene) offered(slug string) bool {
	s.Helper()
	r, err := catalog.OpenChannel(s.Context(), catalog.FromStore(s.store), catalog.DefaultChannel)
	if err != nil {
		s.Fatal(err)
	}
	m, err := r.Lookup(s.Context(), slug)
	return err == nil && len(m.Active()) > 0
}

// onHub serves repositories and points the environment at them.
func onHub(t *testing.T) *hubtest.Server {
	t.Helper()
	server := hubtest.NewServer(t)
	server.Environ(t)
	return server
}

// TestBlueGreen follows a source: what is new is released in the other slot and
// promoted, and nothing is done twice.
func TestBlueGreen(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	s.model("b", 2)
	s.write("catalog.toml", entry("a", "a", "", f32)+entry("b", "b", "", f32))
	sum := s.refresh(OutcomeDone)
	if sum.Made != 2 || s.state(sum, "a").State != ModelReleased {
		t.Errorf("got %+v", sum)
	}
	s.released("a", "1 active blue")
	if sum = s.refresh(OutcomeDone); sum.Made != 0 || s.state(sum, "a").State != ModelCurrent {
		t.Errorf("again: got %+v", sum)
	}
	s.model("a", 3)
	sum = s.refresh(OutcomeDone)
	s.released("a", "2 active green, 1 retired blue")
	s.released("b", "1 active blue")
	if sum.Made != 1 || s.state(sum, "b").State != ModelCurrent || !strings.HasPrefix(sum.Plan[0].Why, "its source is at ") {
		t.Errorf("got %+v", sum)
	}
	// A file that no weight depends on makes the same file.
	s.write("a/notes.txt", "unimportant")
	if sum = s.refresh(OutcomeDone); sum.Made != 1 || s.state(sum, "a").State != ModelMade {
		t.Errorf("got %+v", sum.Models)
	}
	s.released("a", "2 active green, 1 retired blue")
	// So does going back to what was.
	s.model("a", 1)
	if err := os.Remove(s.path("a/notes.txt")); err != nil {
		t.Fatal(err)
	}
	if sum = s.refresh(OutcomeDone); sum.Made != 0 {
		t.Errorf("made %d", sum.Made)
	}
	s.released("a", "3 active blue, 2 retired green, 1 retired blue")
	// Another variant is a release with both.
	s.write("catalog.toml", entry("a", "a", "", f32, `name = "F16"`)+entry("b", "b", "", f32))
	if sum = s.refresh(OutcomeDone); sum.Made != 1 {
		t.Errorf("made %d", sum.Made)
	}
	s.released("a", "4 active green, 3 retired blue, 2 retired green, 1 retired blue")
	if n, err := catalog.NewLog(s.store).Verify(t.Context(), time.Now(), nil); err != nil || n != 8 {
		t.Errorf("%d entries of the log, %v", n, err)
	}
}

// TestPeopleDecide leaves alone what people have decided about releases.
func TestPeopleDecide(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	s.write("catalog.toml", entry("a", "a", "", f32))
	s.refresh(OutcomeDone)
	s.model("a", 2)
	s.refresh(OutcomeDone)
	o := &catalog.Operator{Store: s.store, Actor: "somebody"}
	if err := o.Promote(t.Context(), "a", "stable", 1, 100); err != nil {
		t.Fatal(err)
	}
	s.refresh(OutcomeDone)
	s.released("a", "2 retired green, 1 active blue")
	if err := o.Promote(t.Context(), "a", "stable", 2, 20); err != nil {
		t.Fatal(err)
	}
	s.refresh(OutcomeDone)
	s.released("a", "2 active green, 1 active blue")
	if _, err := o.Withdraw(t.Context(), "a", "stable", 2, "it is wrong"); err != nil {
		t.Fatal(err)
	}
	sum := s.refresh(OutcomeDone)
	s.released("a", "2 withdrawn green, 1 active blue")
	if m := s.state(sum, "a"); sum.Made != 0 || len(m.Notes) != 1 || !strings.Contains(m.Notes[0], "channel stable: what the source and the curation file give was withdrawn") {
		t.Errorf("got %+v", m)
	}
	s.model("a", 3)
	s.refresh(OutcomeDone)
	s.released("a", "3 active green, 2 withdrawn green, 1 retired blue")
}

// TestGates refuses what a gate says no to; what was released stays, and what
// was judged is not judged again.
func TestGates(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	s.model("b", 1)
	s.write("catalog.toml", entry("a", "a", "", `name = "Q8_0"`)+entry("b", "b", "", f32))
	s.refresh(OutcomeDone)
	s.write("catalog.toml", entry("a", "a", "", "name = \"Q8_0\"\nmax_kld = 0.0")+entry("b", "b", "", f32))
	sum := s.refresh(OutcomeRefused)
	s.reasons(sum, "a", ModelRefused, "Q8_0: gates say no: kld.mean ")
	if sum.Plan[0].Why != "its gates are others" || sum.Refused != 1 {
		t.Errorf("got %+v", sum.Plan)
	}
	s.released("a", "1 active blue")
	ran := false
	s.executor = executor(func(context.Context, []Task, func(Result) error) error { ran = true; return nil })
	sum = s.refresh(OutcomeRefused)
	s.reasons(sum, "a", ModelRefused, "kld.mean")
	if ran || !s.offered("a") || !s.offered("b") {
		t.Errorf("something was done again: %t", ran)
	}
	s.executor = nil
	for _, c := range []struct{ gates, reason string }{
		{"min_top1 = 1.0\nmax_ppl_ratio = 0.5", "ppl.ratio 1.0"},
		{"max_size = \"100KB\"", "bytes: max_size allows 100000"},
	} {
		s.write("catalog.toml", entry("a", "a", "", "name = \"Q8_0\"\n"+c.gates)+entry("b", "b", "", f32))
		s.reasons(s.refresh(OutcomeRefused), "a", ModelRefused, c.reason)
		s.reasons(s.refresh(OutcomeRefused), "a", ModelRefused, c.reason)
	}
	// A new model, one variant of which is refused, is not offered by halves.
	s.write("catalog.toml", entry("new", "a", "", f32, "name = \"Q8_0\"\nmax_kld = 0.0"))
	s.refresh(OutcomeRefused)
	if s.offered("new") {
		t.Error("a part of a release is offered")
	}
	// What was refused before is released when its gates allow it.
	s.write("catalog.toml", entry("new", "a", "", f32, "name = \"Q8_0\""))
	if sum = s.refresh(OutcomeDone); sum.Made != 1 {
		t.Errorf("made %d", sum.Made)
	}
	s.released("new", "1 active blue")
}

// executor is a function as an Executor.
type executor func(context.Context, []Task, func(Result) error) error

func (f executor) Execute(ctx context.Context, tasks []Task, report func(Result) error) error {
	return f(ctx, tasks, report)
}

// TestImatrix measures an importance matrix once for all variants, and takes
// one that is given.
func TestImatrix(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	s.write("text.txt", strings.Repeat("Once upon a time there was a little girl. She liked to play. ", 40))
	auto := func(r *Refresher) { r.Calibrate = s.path("text.txt") }
	s.write("catalog.toml", entry("a", "a", "", "name = \"Q4_0\"\nimatrix = \"auto\"", "name = \"Q5_0\"\nimatrix = \"auto\""))
	sum := s.refresh(OutcomeUsage)
	if !strings.Contains(sum.Error, `model a: variant Q4_0: imatrix = "auto": want the text to measure it on, with --calibrate FILE`) {
		t.Errorf("got %s", sum.Error)
	}
	sum = s.refresh(OutcomeDone, auto)
	steps := map[string]int{}
	for _, p := range sum.Plan {
		steps[p.Step]++
	}
	if steps[StepCalibrate] != 1 || steps[StepMake] != 2 {
		t.Errorf("got %v", steps)
	}
	record := s.record("a", "Q4_0")
	if record.Variant.Provenance.Imatrix == "" || record.Variant.Provenance.Imatrix != s.record("a", "Q5_0").Variant.Provenance.Imatrix {
		t.Errorf("got %+v", record.Variant.Provenance)
	}
	// It is kept for variants that come later, and measured again of another text.
	s.write("catalog.toml", entry("a", "a", "", "name = \"Q4_0\"\nimatrix = \"auto\"", "name = \"Q4_1\"\nimatrix = \"auto\""))
	if sum = s.refresh(OutcomeDone, auto); sum.Made != 1 || s.record("a", "Q4_1").Variant.Provenance.Imatrix != record.Variant.Provenance.Imatrix {
		t.Errorf("got %+v", sum)
	}
	made, err := filepath.Glob(s.path("work/imatrix/*/imatrix.gguf"))
	if err != nil || len(made) != 1 {
		t.Fatalf("got %v, %v", made, err)
	}
	data, err := os.ReadFile(made[0])
	if err != nil {
		t.Fatal(err)
	}
	s.write("own.gguf", string(data))
	s.write("catalog.toml", entry("a", "a", "", "name = \"Q4_0\"\nimatrix = \"own.gguf\""))
	if sum = s.refresh(OutcomeDone); sum.Made != 1 || s.state(sum, "a").Variants[0].ID != record.Variant.ID {
		t.Errorf("the same matrix gives another file: %+v", sum.Models)
	}
}

// record is the newest record of a variant of a name.
func (s *scene) record(slug, variant string) *catalog.Record {
	s.Helper()
	for e, err := range s.store.List(s.Context(), "models/"+slug+"/"+strings.ToLower(variant)+"-") {
		if err != nil {
			s.Fatal(err)
		}
		if filepath.Base(e.Name) != catalog.RecordName {
			continue
		}
		data, _, err := s.store.Get(s.Context(), e.Name, 1<<20)
		if err != nil {
			s.Fatal(err)
		}
		r, err := catalog.DecodeRecord(data)
		if err != nil {
			s.Fatal(err)
		}
		return r
	}
	s.Fatalf("no record of %s %s", slug, variant)
	return nil
}

// TestUpstream has what becomes of sources on the Hub. Releases stay whatever
// it is, and the model is named.
func TestUpstream(t *testing.T) {
	server := onHub(t)
	s := newScene(t)
	dir := s.model("one", 1)
	s.model("other", 9)
	server.AddRepo(hubtest.Repo{ID: "org/m", FS: os.DirFS(dir)})
	curation := func(more, variant string) { // beside a model that is always fine
		s.write("catalog.toml", entry("m", "hf://org/m", more, variant)+entry("other", "other", "", f32))
	}
	curation("", f32)
	s.refresh(OutcomeDone)
	s.released("m", "1 active blue")
	if r := s.record("m", "F32"); r.Variant.Provenance.Source.Repository != "hf://org/m" || len(r.Variant.Provenance.Source.Commit) != 40 {
		t.Errorf("got %+v", r.Variant.Provenance)
	}

	two := s.model("two", 2)
	server.Push("org/m", "main", os.DirFS(two))
	curation("update = \"pin\"", f32) // it was not pinned before: this is the commit
	s.refresh(OutcomeDone)
	s.released("m", "2 active green, 1 retired blue")
	server.Push("org/m", "main", os.DirFS(dir))
	before := len(server.Requests())
	if sum := s.refresh(OutcomeDone); sum.Made != 0 || len(server.Requests()) != before {
		t.Errorf("made %d with %d requests", sum.Made, len(server.Requests())-before)
	}
	curation("update = \"pin\"", `name = "F16"`) // of the commit that it is pinned to
	s.refresh(OutcomeDone)
	if got, want := s.record("m", "F16").Variant.Provenance.Source.Commit, s.pin("m"); got != want {
		t.Errorf("made of %s, pinned to %s", got, want)
	}
	curation("", f32)
	s.refresh(OutcomeDone)
	current := s.releases("m")

	for _, c := range []struct {
		name   string
		repo   hubtest.Repo
		fault  hubtest.Fault
		reason string
		want   string
	}{
		{"vanished", hubtest.Repo{ID: "org/m", Private: true, Tokens: []string{"hf_x"}}, hubtest.Fault{}, "list org/m@main: repository not found", OutcomeFailed},
		{"gated", hubtest.Repo{ID: "org/m", Gated: true, Tokens: []string{"hf_x"}}, hubtest.Fault{}, "gated repository", OutcomeFailed},
		{"does not answer", hubtest.Repo{ID: "org/m"}, hubtest.Fault{Stage: hubtest.API, Status: http.StatusTooManyRequests, RetryAfter: "7200"}, "rate limited", OutcomeUnavailable},
	} {
		three := s.model("three "+c.name, 3)
		c.repo.FS = os.DirFS(three)
		server.AddRepo(c.repo)
		lift := func() {}
		if c.fault.Status != 0 {
			lift = server.Inject(c.fault)
		}
		s.model("other", uint64(len(c.name)))
		sum := s.refresh(c.want)
		lift()
		s.reasons(sum, "m", ModelFailed, c.reason)
		s.reasons(sum, "other", ModelReleased, "")
		if sum.Named(ModelFailed) == "" || s.releases("m") != current || !s.offered("m") {
			t.Errorf("%s: releases are %s, were %s", c.name, s.releases("m"), current)
		}
	}
}

// document is what the store remembers of a model.
func (s *scene) document(slug string) stateDocument {
	s.Helper()
	data, _, err := s.store.Get(s.Context(), stateName(slug), 1<<20)
	if err != nil {
		s.Fatal(err)
	}
	var d stateDocument
	if err := json.Unmarshal(data, &d); err != nil {
		s.Fatalf("%v: %s", err, data)
	}
	return d
}

// pin is the commit that a model is pinned to.
func (s *scene) pin(slug string) string {
	s.Helper()
	d := s.document(slug)
	if d.Pin == nil {
		s.Fatalf("%s is not pinned", slug)
	}
	return d.Pin.Commit
}

// outcomes are the identities of what was made of a model.
func (s *scene) outcomes(slug string) []string {
	s.Helper()
	return slices.Sorted(maps.Keys(s.document(slug).Outcomes))
}

// TestLicenseChanges releases nothing under a license that the curation file
// does not name.
func TestLicenseChanges(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	license := func(id string) { s.write("a/README.md", "---\nlicense: "+id+"\n---\nA model.\n") }
	license("apache-2.0")
	s.write("catalog.toml", entry("a", "a", "", f32))
	sum := s.refresh(OutcomeDone)
	if notes := s.state(sum, "a").Notes; len(notes) != 1 || notes[0] != "the model card names license Apache-2.0, the curation file MIT" {
		t.Errorf("got %q", notes)
	}
	s.model("a", 2)
	license("gpl-3.0-only")
	sum = s.refresh(OutcomeRefused)
	s.reasons(sum, "a", ModelRefused, "the license of a has changed from Apache-2.0 to GPL-3.0-only: nothing is released until license.spdx says so (it is MIT)")
	s.reasons(s.refresh(OutcomeRefused), "a", ModelRefused, "has changed")
	s.released("a", "1 active blue")
	if sum.Made != 0 || !s.offered("a") {
		t.Errorf("made %d", sum.Made)
	}
	s.write("catalog.toml", strings.Replace(entry("a", "a", "", f32), "MIT", "GPL-3.0-only", 1))
	s.refresh(OutcomeDone)
	s.released("a", "2 active green, 1 retired blue")
	license("mit")
	s.reasons(s.refresh(OutcomeRefused), "a", ModelRefused, "from GPL-3.0-only to MIT")
	license("[broken")
	s.reasons(s.refresh(OutcomeFailed), "a", ModelFailed, "model card: README.md: the YAML in front")
}

// TestBroken publishes all models but the one that is broken.
func TestBroken(t *testing.T) {
	s := newScene(t)
	text := ""
	for i := range 4 {
		name := fmt.Sprint("m", i)
		s.model(name, uint64(i))
		text += entry(name, name, "", f32)
	}
	s.write("m2/config.json", `{"architectures":["NobodyKnowsThisOne"]}`)
	if err := os.Truncate(s.path("m1/model.safetensors"), 1000); err != nil {
		t.Fatal(err)
	}
	text += entry("gone", "nowhere", "", f32)
	s.write("catalog.toml", text)
	sum := s.refresh(OutcomeFailed)
	s.reasons(sum, "m1", ModelFailed, "model.safetensors")
	s.reasons(sum, "m2", ModelFailed, "NobodyKnowsThisOne")
	s.reasons(sum, "gone", ModelFailed, "no such file or directory")
	for _, slug := range []string{"m0", "m3"} {
		s.reasons(sum, slug, ModelReleased, "")
		if !s.offered(slug) {
			t.Errorf("%s is not offered", slug)
		}
	}
	if named := sum.Named(ModelFailed); !strings.Contains(named, "m1: ") || !strings.Contains(named, "m2: ") || !strings.Contains(named, "gone: ") || strings.Contains(named, "m0") {
		t.Errorf("got %s", named)
	}
	// What was released stays when its source breaks.
	s.write("m3/config.json", "{}")
	s.refresh(OutcomeFailed)
	s.released("m3", "1 active blue")
	if !s.offered("m3") {
		t.Error("m3 is not offered any more")
	}
	// A document of a model in the store that is damaged concerns that model.
	if _, err := s.store.Put(t.Context(), stateName("m0"), []byte("<html>"), publish.Any); err != nil {
		t.Fatal(err)
	}
	sum = s.refresh(OutcomeFailed)
	s.reasons(sum, "m0", ModelFailed, "refresh/models/m0.json: is not what a refresh has written")
	if !s.offered("m0") {
		t.Error("m0 is not offered any more")
	}
}

// TestEdited works on the curation file that it has read.
func TestEdited(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	s.model("b", 2)
	s.write("catalog.toml", entry("a", "a", "", f32))
	edit := func(text string) {
		s.executor = executor(func(ctx context.Context, tasks []Task, report func(Result) error) error {
			s.write("catalog.toml", text)
			return s.local().Execute(ctx, tasks, report)
		})
	}
	edit(entry("b", "b", "", f32))
	sum := s.refresh(OutcomeDone)
	if len(sum.Notes) != 1 || !strings.Contains(sum.Notes[0], "catalog.toml has changed while this run worked: the next run takes it up") {
		t.Errorf("got %q", sum.Notes)
	}
	if !s.offered("a") || s.offered("b") {
		t.Error("the run has mixed two states of the file")
	}
	edit("[[modell]]")
	sum = s.refresh(OutcomeDone)
	if len(sum.Notes) != 1 || !strings.Contains(sum.Notes[0], `cannot be read now: catalog.toml: line 1: unknown key "modell"`) {
		t.Errorf("got %q", sum.Notes)
	}
	if s.offered("a") || !s.offered("b") {
		t.Error("the edited file was not taken up")
	}
	// A source that changes while it is read is not made.
	s.write("catalog.toml", entry("b", "b", "", `name = "F16"`))
	s.executor = executor(func(ctx context.Context, tasks []Task, report func(Result) error) error {
		s.model("b", 3)
		return s.local().Execute(ctx, tasks, report)
	})
	s.reasons(s.refresh(OutcomeFailed), "b", ModelFailed, "has changed since this run has looked at it: the next one makes it")
	s.executor = nil
	s.refresh(OutcomeDone)
}

// local is the executor that a refresh of the scene has.
func (s *scene) local() *Local {
	w := &Worker{Dir: s.path("work"), Store: s.store, Actor: "test", Version: "v1", Device: "cpu", Log: discard}
	return &Local{Jobs: 1, Do: w.Do}
}

// TestStolen stops before anything more is written when the lease is taken.
func TestStolen(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	s.write("catalog.toml", entry("a", "a", "", f32))

	s.executor = executor(func(ctx context.Context, tasks []Task, report func(Result) error) error {
		old, version, err := readLease(ctx, s.store)
		if err != nil {
			return err
		}
		old.Holder, old.Token, old.Work = "thief", "other", "elsewhere"
		if _, err := putLease(ctx, s.store, *old, version); err != nil {
			return err
		}
		return s.local().Execute(ctx, tasks, report)
	})
	sum := s.refresh(OutcomeUnavailable)
	if !strings.Contains(sum.Error, "the lease on the store is lost: thief has taken it") {
		t.Errorf("got %s", sum.Error)
	}
	for _, prefix := range []string{"channels/", "refresh/models/", "objects/"} {
		for e, err := range s.store.List(t.Context(), prefix) {
			t.Errorf("%s was written, %v", e.Name, err)
		}
	}
	s.released("a", "")
	s.executor = nil
	sum = s.refresh(OutcomeUnavailable, func(r *Refresher) { r.Work = s.path("other") })
	if !strings.Contains(sum.Error, "is being refreshed by thief, whose lease holds until ") {
		t.Errorf("got %s", sum.Error)
	}

}

// TestStoreFails ends where the store does not answer, and goes on later.
func TestStoreFails(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	s.write("catalog.toml", entry("a", "a", "", f32))
	folder := s.store
	failing := &failingStore{Sink: folder.(publish.Sink), Store: folder}
	s.store = failing
	n := 0
	for ; ; n++ {
		if n > 50 {
			t.Fatal("it never ends")
		}
		failing.left = n
		sum, err := s.refresher().Run(t.Context())
		if err == nil {
			if sum.Outcome == OutcomeDone {
				break
			}
			s.reasons(sum, "a", ModelFailed, "unavailable") // a worker's
		}
		if sum.Outcome != OutcomeUnavailable {
			t.Fatalf("after %d writes: %s: %v", n, sum.Outcome, err)
		}
	}
	s.store = folder
	s.released("a", "1 active blue")
	if n < 6 {
		t.Errorf("%d writes", n)
	}
}

// failingStore takes some writes and is unavailable then.
type failingStore struct {
	publish.Sink
	publish.Store
	left int
}

func (s *failingStore) String() string { return "failing store" }

func (s *failingStore) write() error {
	if s.left--; s.left < 0 {
		return publish.ErrUnavailable
	}
	return nil
}

func (s *failingStore) Put(ctx context.Context, name string, data []byte, prior publish.Version) (publish.Version, error) {
	if err := s.write(); err != nil {
		return publish.Absent, err
	}
	return s.Store.Put(ctx, name, data, prior)
}

func (s *failingStore) Publish(ctx context.Context, a *publish.Artifact, o publish.Options) (*publish.Receipt, error) {
	if err := s.write(); err != nil {
		return nil, err
	}
	return s.Sink.Publish(ctx, a, o)
}

// TestBadCuration has what is wrong with curation files, and with options.
func TestBadCuration(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	s.write("bad.toml", "type = \"Q9\"\n")
	for _, c := range []struct{ text, want string }{
		{"[[model]]\nslg = \"a\"\n", `catalog.toml: line 2: unknown key "model.slg"`},
		{entry("../a", "a", "", f32), `model[0].slug: "../a": want lower-case letters`},
		{entry("con", "a", "", f32), `"con" is a device on Windows`},
		{entry("a", "a", "", `name = "../../x"`), `name`},
		{entry("a", "a", "", `name = "Q9_Z"`), "model a: variant Q9_Z: type Q9_Z: want auto, a tensor type or one of"},
		{entry("a", "a", "", "name = \"x\"\ntype = \"fit\""), "model a: variant x: max_size is missing, for type fit chooses the types for it"},
		{entry("a", "a", "", `name = "Fit"`), "model a: variant Fit: max_size is missing"},
		{entry("a", "a", "", fit("x", "much", "")), "max_size"},
		{entry("a", "a", "", fit("x", "1MB", "imatrix = \"auto\"")), "model a: variant x: imatrix = \"auto\": want the text"},
		{entry("a", "a", "", fit("x", "1MB", "recipe = \"bad.toml\"")), "model a: variant x: has a type and a recipe"},
		{entry("a", "a", "", "name = \"x\"\nrecipe = \"none.toml\""), "model a: variant x: recipe: open "},
		{entry("a", "a", "", "name = \"x\"\nrecipe = \"bad.toml\""), "model a: variant x: recipe bad.toml: type Q9: want auto"},
		{entry("a", "a", "", "name = \"Q8_0\"\nimatrix = \"none.gguf\""), "model a: variant Q8_0: imatrix: open "},
		{entry("a", "hf://org/m@main", "", f32), "source hf://org/m@main: say the revision with the key revision"},
		{entry("a", "hf://org/m m", "", f32), `hub reference "hf://org/m m"`},
		{entry("a", "hf://org/m", "revision = \"a..b\"", f32), "revision: "},
		{entry("a", "s3://bucket/m", "", f32), "source s3://bucket/m: want hf://org/name or the path of a folder"},
	} {
		s.write("catalog.toml", c.text)
		if sum := s.refresh(OutcomeUsage); !strings.Contains(sum.Error, c.want) {
			t.Errorf("got %s, want %s", sum.Error, c.want)
		}
	}
	s.write("catalog.toml", entry("a", "a", "", f32))
	s.write("empty.txt", "")
	for _, c := range []struct {
		change func(*Refresher)
		want   string
	}{
		{func(r *Refresher) { r.Only = []string{"b"} }, "has no model b"},
		{func(r *Refresher) { r.Text = s.path("none.txt") }, "text to validate on: open "},
		{func(r *Refresher) { r.Canaries = s.path("none.txt") }, "canaries: open "},
		{func(r *Refresher) { r.Canaries = s.path("empty.txt") }, "canaries: no canary prompts"},
		{func(r *Refresher) { r.Calibrate = s.path("none.txt") }, "text to calibrate on: open "},
		{func(r *Refresher) { r.Curation = s.path("none.toml") }, "none.toml"},
		{func(r *Refresher) { r.Chunks = -1 }, "-1 chunks"},
		{func(r *Refresher) { r.Jobs = -1 }, "-1 jobs"},
	} {
		if sum := s.refresh(OutcomeUsage, c.change); !strings.Contains(sum.Error, c.want) {
			t.Errorf("got %s, want %s", sum.Error, c.want)
		}
	}
	for e := range s.store.List(t.Context(), "") {
		t.Errorf("%s was written", e.Name)
	}
}

// TestDryRun plans without writing, and as the run that follows does.
func TestDryRun(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	s.write("catalog.toml", entry("a", "a", "", f32, "name = \"Q8_0\"\nmax_size = \"1KB\""))
	sum := s.refresh(OutcomeRefused, func(r *Refresher) { r.DryRun, r.Store = true, nil })
	var b strings.Builder
	if err := sum.WritePlan(&b); err != nil {
		t.Fatal(err)
	}
	if text := b.String(); !strings.HasPrefix(text, "MODEL  VARIANT  STEP     READ ") || !strings.Contains(text, "\na      F32      make ") || !strings.Contains(text, "\na      Q8_0     refused ") || strings.Count(text, "\n") < 4 {
		t.Errorf("got\n%s", text)
	}
	if _, err := os.Stat(s.path("work")); err == nil {
		t.Error("a dry run has written")
	}
	s.write("catalog.toml", entry("a", "a", "", f32))
	sum = s.refresh(OutcomeDone, func(r *Refresher) { r.DryRun = true })
	done := s.refresh(OutcomeDone)
	if !slices.Equal(sum.Plan, done.Plan) || s.state(sum, "a").State != ModelPlanned {
		t.Errorf("planned %+v, did %+v", sum.Plan, done.Plan)
	}
	size := int64(0)
	for e, err := range s.store.List(t.Context(), "models/") {
		if err == nil && strings.HasSuffix(e.Name, ".gguf") {
			size += e.Size
		}
	}
	if sum.Plan[0].Write != size || size == 0 {
		t.Errorf("planned %d bytes, wrote %d", sum.Plan[0].Write, size)
	}
	again := s.refresh(OutcomeDone, func(r *Refresher) { r.DryRun = true })
	if again.Plan[0].Step != StepNone || s.state(again, "a").State != ModelCurrent {
		t.Errorf("got %+v", again.Plan)
	}
}

// TestBudgets refuses what does not fit on this machine, by name.
func TestBudgets(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	s.write("catalog.toml", entry("a", "a", "", f32))
	s.reasons(s.refresh(OutcomeFailed, func(r *Refresher) { r.Disk = 1000 }), "a", ModelFailed, "bytes of the work directory: --disk allows 1000")
	s.reasons(s.refresh(OutcomeFailed, func(r *Refresher) { r.Memory = 1000 }), "a", ModelFailed, "bytes of memory: --memory allows 1000")
	s.refresh(OutcomeDone, func(r *Refresher) { r.Disk, r.Memory, r.Jobs = 1<<30, 8<<30, 2 })
}

// TestTools makes anew with another version only where that is asked for.
func TestTools(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	s.write("catalog.toml", entry("a", "a", "", f32))
	s.refresh(OutcomeDone)
	if sum := s.refresh(OutcomeDone, func(r *Refresher) { r.Version = "v2" }); sum.Made != 0 {
		t.Errorf("made %d", sum.Made)
	}
	remake := func(r *Refresher) { r.Version, r.Remake = "v2", true }
	if sum := s.refresh(OutcomeDone, remake); sum.Made != 1 || sum.Plan[0].Why != "modelpipe is another" {
		t.Errorf("got %+v", sum)
	}
	if sum := s.refresh(OutcomeDone, remake); sum.Made != 0 {
		t.Errorf("made %d", sum.Made)
	}
	s.released("a", "1 active blue") // the files are the same
}

// TestLostWork makes everything again where the work directory is lost, or what
// was remembered, and ends with the same.
func TestLostWork(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	s.write("catalog.toml", entry("a", "a", "", f32))
	s.refresh(OutcomeDone)
	if err := os.RemoveAll(s.path("work")); err != nil {
		t.Fatal(err)
	}
	if sum := s.refresh(OutcomeDone); sum.Made != 0 {
		t.Errorf("made %d", sum.Made)
	}
	before, _, err := s.store.Get(t.Context(), stateName("a"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.Delete(t.Context(), stateName("a")); err != nil {
		t.Fatal(err)
	}
	if sum := s.refresh(OutcomeDone); sum.Made != 1 {
		t.Errorf("made %d", sum.Made)
	}
	after, _, err := s.store.Get(t.Context(), stateName("a"), 1<<20)
	if err != nil || string(after) != string(before) {
		t.Errorf("got %s, %v, want %s", after, err, before)
	}
	s.released("a", "1 active blue")
	// A record that somebody has taken away is made again.
	record := s.record("a", "F32")
	if err := s.store.Delete(t.Context(), catalog.VariantDir("a", record.Variant.ID)+"/"+catalog.RecordName); err != nil {
		t.Fatal(err)
	}
	if sum := s.refresh(OutcomeDone); sum.Made != 1 || sum.Plan[0].Why != "is not in the store any more" {
		t.Errorf("got %+v", sum)
	}
}

// TestTwoWorkDirectories lets one process into a work directory.
func TestTwoWorkDirectories(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	s.write("catalog.toml", entry("a", "a", "", f32))
	unlock, err := s.refresher().lockWork()
	if err != nil {
		t.Fatal(err)
	}
	sum := s.refresh(OutcomeUnavailable)
	if !strings.Contains(sum.Error, "locked: another process works in it") {
		t.Errorf("got %s", sum.Error)
	}
	unlock()
	s.refresh(OutcomeDone)
	// The directory stays the same one, and a copy is another.
	identity := func(dir string) string {
		t.Helper()
		r := s.refresher()
		r.Work = dir
		unlock, err := r.lockWork()
		if err != nil {
			t.Fatal(err)
		}
		unlock()
		return r.work
	}
	if err := os.CopyFS(s.path("copy"), os.DirFS(s.path("work"))); err != nil {
		t.Fatal(err)
	}
	first := identity(s.path("work"))
	if again := identity(s.path("work")); again != first {
		t.Error("the directory is not the same any more")
	}
	if identity(s.path("copy")) == first {
		t.Error("a copy counts as the same directory")
	}
}

// TestInterrupted says that an interrupted run is worth another one.
func TestInterrupted(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	s.write("catalog.toml", entry("a", "a", "", f32))
	ctx, cancel := context.WithCancel(t.Context())
	r := s.refresher()
	r.Executor = executor(func(ctx context.Context, tasks []Task, report func(Result) error) error {
		cancel()
		return s.local().Execute(ctx, tasks, report)
	})
	sum, err := r.Run(ctx)
	if !errors.Is(err, context.Canceled) || sum.Outcome != OutcomeUnavailable {
		t.Errorf("%s, %v", sum.Outcome, err)
	}
	if d, _, err := readLease(t.Context(), s.store); err != nil || !d.Released {
		t.Errorf("the lease was not given back: %+v, %v", d, err)
	}
	s.refresh(OutcomeDone)
}

// TestSameSource makes models of one source apart, and measures what they share
// once.
func TestSameSource(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	s.write("text.txt", strings.Repeat("Once upon a time there was a little girl. ", 40))
	const variant = "name = \"Q4_0\"\nimatrix = \"auto\""
	s.write("catalog.toml", entry("a", "a", "", variant)+entry("b", "a", "", variant))
	sum := s.refresh(OutcomeDone, func(r *Refresher) { r.Calibrate, r.Jobs = s.path("text.txt"), 2 })
	steps := []string{}
	for _, p := range sum.Plan {
		steps = append(steps, p.Model+" "+p.Step)
	}
	if want := []string{"a calibrate", "a make", "a release", "b make", "b release"}; !slices.Equal(steps, want) || sum.Made != 2 {
		t.Errorf("planned %q, made %d", steps, sum.Made)
	}
	if a, b := s.record("a", "Q4_0"), s.record("b", "Q4_0"); a.Variant.ID != b.Variant.ID {
		t.Errorf("%s and %s", a.Variant.ID, b.Variant.ID)
	}
	s.released("a", "1 active blue")
	s.released("b", "1 active blue")
}

// TestClears takes away what killed runs have left, and nothing that has its
// name: what the catalog offers and may go back to stays, whole.
func TestClears(t *testing.T) {
	s := newScene(t)
	s.write("catalog.toml", entry("a", "a", "", f32)+entry("b", "b", "", f32))
	s.model("b", 9)
	for seed := range uint64(3) {
		s.model("a", seed)
		s.refresh(OutcomeDone)
	}
	before := s.objects()
	record := s.record("a", "F32")
	dir := catalog.VariantDir("a", record.Variant.ID)
	plant := func(name string, age time.Duration) string {
		s.write("store/"+name, "unfinished")
		at := time.Now().Add(-age)
		if err := os.Chtimes(s.path("store/"+name), at, at); err != nil {
			t.Fatal(err)
		}
		return s.path("store/" + name)
	}
	gone := []string{
		plant(dir+"/"+record.Variant.Files[0].Path+".partial", 0),
		plant("objects/00/00.json.put.partial", 0),
		plant("models/a/f32-000000000000/a-F32.gguf.partial", 25*time.Hour),
	}
	kept := []string{
		plant("models/a/f32-111111111111/a-F32.gguf.partial", time.Hour), // somebody may go on with it
		plant("elsewhere/x.gguf.partial", 25*time.Hour),                  // is not ours
	}
	for _, o := range s.outcomes("b") { // of a run that was killed when it had made it
		stale := filepath.Join("work", "make", o, "b-F32.gguf")
		s.write(stale, "complete")
		gone = append(gone, s.path(stale))
	}
	stale := filepath.Join("work", "make", strings.Repeat("0", 64), "x.gguf")
	s.write(stale, "of what nobody asks for")
	s.write("work/given/old.txt", "of a text that is not given any more")
	s.refresh(OutcomeDone)
	for _, name := range append(gone, s.path(stale), s.path("work/given/old.txt")) {
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s is left", name)
		}
	}
	for _, name := range kept {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	if after := s.objects(); !slices.Equal(before, after) {
		t.Errorf("has %q, had %q", after, before)
	}
	live, err := catalog.Live(t.Context(), s.store)
	if err != nil {
		t.Fatal(err)
	}
	for name := range live {
		if !strings.HasSuffix(name, "/") || name == "metadata/" {
			continue
		}
		if !slices.ContainsFunc(before, func(o string) bool { return strings.HasPrefix(o, name) }) {
			t.Errorf("nothing is left of %s", name)
		}
	}
}

// objects are the names of a store's objects.
func (s *scene) objects() []string {
	s.Helper()
	var out []string
	for e, err := range s.store.List(s.Context(), "") {
		if err != nil {
			s.Fatal(err)
		}
		out = append(out, e.Name)
	}
	return out
}
