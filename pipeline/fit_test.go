package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/budget"
	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/quantize"
)

// fit is a variant whose types are chosen for a size.
func fit(name, size, more string) string {
	return fmt.Sprintf("name = %q\ntype = \"fit\"\nmax_size = %q\n%s", name, size, more)
}

// onText measures on a text.
func (s *scene) onText() func(*Refresher) {
	s.write("text.txt", strings.Repeat("Once upon a time there was a little girl. She liked to play. ", 40))
	return func(r *Refresher) { r.Calibrate = s.path("text.txt") }
}

// losses are the losses that the scene has measured, which are those of one
// model.
func (s *scene) losses() (name string, f *budget.File) {
	s.Helper()
	found, err := filepath.Glob(s.path("work/imatrix/*/*.losses.json"))
	if err != nil || len(found) != 1 {
		s.Fatalf("losses are %v, %v: want one file", found, err)
	}
	if f, err = budget.ReadFile(found[0]); err != nil {
		s.Fatal(err)
	}
	return found[0], f
}

// TestFitted makes variants to sizes, by losses that are measured once, and the
// same ones when all of its work was lost.
func TestFitted(t *testing.T) {
	s := newScene(t)
	if err := os.CopyFS(s.path("a"), os.DirFS(stories)); err != nil { // of more layers than one, so that any size can be met
		t.Fatal(err)
	}
	auto := s.onText()
	const imatrix = `imatrix = "auto"`
	limits := map[string]int64{"small": 260_000, "large": 320_000}
	s.write("catalog.toml", entry("a", "a", "", fit("small", "260KB", imatrix), fit("large", "320KB", imatrix), "name = \"Q4_0\"\n"+imatrix))
	sum := s.refresh(OutcomeDone, auto)
	steps := []string{}
	for _, p := range sum.Plan {
		steps = append(steps, p.Step+" "+p.Variant)
	}
	if want := []string{"calibrate ", "losses ", "make small", "make large", "make Q4_0", "release "}; !slices.Equal(steps, want) {
		t.Errorf("planned %q, want %q", steps, want)
	}
	small := s.record("a", "small")
	for name, limit := range limits {
		v := s.record("a", name).Variant
		if v.Size > limit || float64(v.Size) < 0.99*float64(limit) {
			t.Errorf("%s has %d bytes of %d", name, v.Size, limit)
		}
		if v.Preset != name || v.Provenance.Recipe == "" || v.Provenance.Imatrix != s.record("a", "Q4_0").Variant.Provenance.Imatrix {
			t.Errorf("%s: got %+v", name, v)
		}
	}
	if small.Variant.Provenance.Recipe == s.record("a", "large").Variant.Provenance.Recipe {
		t.Error("both sizes have the recipe of one")
	}
	name, f := s.losses()
	if len(f.Losses) == 0 {
		t.Error("nothing was measured")
	}
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}

	// Another size measures nothing again.
	if sum = s.refresh(OutcomeDone, auto); sum.Made != 0 {
		t.Errorf("again: made %d", sum.Made)
	}
	s.write("catalog.toml", entry("a", "a", "", fit("small", "270KB", imatrix)))
	s.executor = executor(func(ctx context.Context, tasks []Task, report func(Result) error) error {
		for _, task := range tasks {
			if task.Kind == KindMake && !strings.HasPrefix(s.path(filepath.Join("work", task.Losses)), name) {
				t.Errorf("by the losses %s, want %s", task.Losses, name)
			}
		}
		return s.local().Execute(ctx, tasks, report)
	})
	if sum = s.refresh(OutcomeDone, auto); sum.Made != 1 || sum.Plan[2].Why != "its gates are others" {
		t.Errorf("made %d: %+v", sum.Made, sum.Plan)
	}
	s.executor = nil

	// The matrix and its losses as files give the same file; without losses the
	// choice is another one.
	matrix, err := os.ReadFile(filepath.Join(filepath.Dir(name), "imatrix.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("own.gguf", string(matrix))
	s.write("own.gguf.losses.json", string(before))
	const own = `imatrix = "own.gguf"`
	s.write("catalog.toml", entry("a", "a", "", fit("small", "260KB", own)))
	if sum = s.refresh(OutcomeDone); s.state(sum, "a").Variants[0].ID != small.Variant.ID {
		t.Errorf("the same losses give another file: %+v", sum.Models)
	}
	if err := os.Remove(s.path("own.gguf.losses.json")); err != nil {
		t.Fatal(err)
	}
	if sum = s.refresh(OutcomeDone); sum.Made != 1 || s.state(sum, "a").Variants[0].ID == small.Variant.ID {
		t.Errorf("by priors: %+v", sum)
	}
	priors := s.state(sum, "a").Variants[0].ID
	// So are losses that could not be measured.
	measured := f.Losses
	f.Losses = nil
	if err := f.Save(s.path("own.gguf.losses.json")); err != nil {
		t.Fatal(err)
	}
	if sum = s.refresh(OutcomeDone); sum.Made != 1 || s.state(sum, "a").Variants[0].ID != priors {
		t.Errorf("without losses: %+v", sum)
	}
	f.Losses = measured
	f.Model = "sha256:0"
	if err := f.Save(s.path("own.gguf.losses.json")); err != nil {
		t.Fatal(err)
	}
	s.reasons(s.refresh(OutcomeFailed), "a", ModelFailed, "was measured on another model: measure this one with modelpipe losses")
	s.write("own.gguf.losses.json", "{")
	if sum = s.refresh(OutcomeUsage); !strings.Contains(sum.Error, "model a: variant small: losses: ") {
		t.Errorf("got %s", sum.Error)
	}

	// Everything is made again into the same bytes.
	if err := os.RemoveAll(s.path("work")); err != nil {
		t.Fatal(err)
	}
	if s.store, err = publish.OpenStore(s.path("second")); err != nil {
		t.Fatal(err)
	}
	s.write("catalog.toml", entry("a", "a", "", fit("small", "260KB", imatrix)))
	if sum = s.refresh(OutcomeDone, auto); s.state(sum, "a").Variants[0].ID != small.Variant.ID {
		t.Errorf("made another file: %+v", sum.Models)
	}
	name, _ = s.losses()
	if after, err := os.ReadFile(name); err != nil || string(after) != string(before) {
		t.Errorf("measured other losses, %v", err)
	}
}

// TestFitLimits has limits that cannot be met, and one that asks for nothing.
func TestFitLimits(t *testing.T) {
	s := newScene(t)
	s.model("a", 1)
	auto := s.onText()
	s.write("catalog.toml", entry("a", "a", "", fit("x", "10KB", "")))
	for range 2 {
		s.reasons(s.refresh(OutcomeRefused), "a", ModelRefused, "x: max_size 10000: the smallest file has ")
	}
	sum := s.refresh(OutcomeRefused, func(r *Refresher) { r.DryRun = true })
	s.reasons(sum, "a", ModelRefused, " bytes, at an expected KL divergence of ")
	s.reasons(sum, "a", ModelRefused, "; with an imatrix there are smaller types")
	// With a matrix it is known before that is measured.
	s.write("catalog.toml", entry("a", "a", "", fit("x", "10KB", `imatrix = "auto"`)))
	s.executor = executor(func(context.Context, []Task, func(Result) error) error {
		return errors.New("nothing is to be done")
	})
	s.reasons(s.refresh(OutcomeRefused, auto), "a", ModelRefused, "x: max_size 10000: the smallest file has ")
	s.executor = nil
	// What is small enough stays as it is.
	s.write("catalog.toml", entry("a", "a", "", fit("x", "1GB", `imatrix = "auto"`), `name = "auto"`))
	sum = s.refresh(OutcomeDone, auto)
	m := s.state(sum, "a")
	if len(m.Notes) != 1 || !strings.HasPrefix(m.Notes[0], "variant x: the model takes ") || !strings.HasSuffix(m.Notes[0], " bytes as it is: nothing is quantized") {
		t.Errorf("got %+v", m)
	}
	if slices.ContainsFunc(sum.Plan, func(p PlannedStep) bool { return p.Step == StepCalibrate || p.Step == StepLosses }) {
		t.Errorf("measures for a file that is not quantized: %+v", sum.Plan)
	}
	if x, whole := s.record("a", "x").Variant, s.record("a", "auto").Variant; x.Files[0].SHA256 != whole.Files[0].SHA256 || x.Provenance.Recipe != whole.Provenance.Recipe {
		t.Errorf("got %+v, want %+v", x, whole)
	}
}

// TestFitKeepsPresets chooses by losses of all kinds, none of which lets a fit be
// expected to lose more than a preset of at most as many bytes.
func TestFitKeepsPresets(t *testing.T) {
	s, err := OpenSource(t.Context(), stories, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	random := rand.New(rand.NewPCG(1, 2))
	for _, limit := range []int64{245_000, 260_000, 300_000, 400_000} {
		for range 10 {
			f, err := NewFitting(FitOptions{
				MaxSize: limit, Recipe: quantize.Recipe{Preset: "auto"}, Expect: true,
				Plan: func(types convert.TypePolicy) (*convert.Plan, error) {
					return convert.NewPlan(t.Context(), s.FS, convert.Options{Source: s.Name, Types: types})
				},
				Losses: func(tensors []quantize.Tensor) (quantize.Losses, error) {
					l := quantize.PriorLosses(tensors)
					for _, x := range tensors {
						row := l[x.Name]
						for _, typ := range sorted(row) {
							row[typ] *= random.ExpFloat64()
						}
					}
					return l, nil
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			best, err := f.Best()
			if err != nil {
				t.Fatal(err)
			}
			if best.Plan.Size > limit {
				t.Errorf("%s has %d bytes of %d", best.Name, best.Plan.Size, limit)
			}
			for _, stock := range f.Stocks {
				if stock.Known && stock.Size <= limit && stock.Expected < best.Expected {
					t.Errorf("%d bytes: %s is expected to lose %g, %s %g", limit, best.Name, best.Expected, stock.Name, stock.Expected)
				}
				if x, err := f.Preset(stock); err != nil || x.Plan.Size != stock.Size {
					t.Fatalf("%s has %+v, %v: expected were %d bytes", stock.Name, x.Plan, err, stock.Size)
				}
			}
		}
	}
	// A preset that is expected to lose less than the fit takes its place.
	f, err := NewFitting(FitOptions{
		MaxSize: 300_000, Recipe: quantize.Recipe{Preset: "auto"},
		Plan: func(types convert.TypePolicy) (*convert.Plan, error) {
			return convert.NewPlan(t.Context(), s.FS, convert.Options{Source: s.Name, Types: types})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(f.Stocks, func(x Stock) bool { return x.Name == "Q4_0" })
	f.Stocks[i].Expected, f.Stocks[i].Known = 0, true
	if best, err := f.Best(); err != nil || best.Name != "Q4_0" || best.Plan.Size != f.Stocks[i].Size {
		t.Errorf("got %s, %v", best.Name, err)
	}
}

func sorted(row map[gguf.Type]float64) []gguf.Type {
	var types []gguf.Type
	for typ := range row {
		types = append(types, typ)
	}
	slices.Sort(types)
	return types
}

// TestFitInputs tells fits apart by all that they depend on, and leaves the
// identities of other variants as they were.
func TestFitInputs(t *testing.T) {
	text, err := json.Marshal(Inputs{Recipe: catalog.Digest("sha256:1")})
	if err != nil || strings.Contains(string(text), "losses") {
		t.Errorf("got %s, %v", text, err)
	}
	source := catalog.Curated{Slug: "a", Source: "hf://org/a"}
	seen := map[string]string{}
	for _, c := range []struct {
		name   string
		change func(r *Refresher, m *wantedModel, v *wantedVariant)
	}{
		{"none", func(*Refresher, *wantedModel, *wantedVariant) {}},
		{"limit", func(_ *Refresher, _ *wantedModel, v *wantedVariant) { v.gates.MaxSize++ }},
		{"losses of a file", func(_ *Refresher, _ *wantedModel, v *wantedVariant) { v.losses = "sha256:3" }},
		{"priors", func(_ *Refresher, _ *wantedModel, v *wantedVariant) { v.losses = "" }},
		{"text", func(r *Refresher, _ *wantedModel, _ *wantedVariant) { r.calibrationText = "sha256:4" }},
		{"chunks", func(r *Refresher, _ *wantedModel, _ *wantedVariant) { r.CalibrateChunks = 4 }},
		{"commit", func(_ *Refresher, m *wantedModel, _ *wantedVariant) { m.upstream.commit = "2" }},
		{"recipe", func(_ *Refresher, _ *wantedModel, v *wantedVariant) { v.recipeDigest = "sha256:5" }},
	} {
		r := &Refresher{CalibrateChunks: 60, CalibrateCtx: 512, calibrationText: "sha256:2"}
		m := &wantedModel{Curated: &source, upstream: upstream{commit: "1"}}
		v := wantedVariant{Wanted: catalog.Wanted{Name: "x", Type: "fit"}, imatrix: imatrixAuto, losses: lossesAuto, gates: Gates{MaxSize: 1000}}
		c.change(r, m, &v)
		id := r.inputs(m, &v).ID()
		if other, ok := seen[id]; ok {
			t.Errorf("%s has the identity of %s", c.name, other)
		}
		seen[id] = c.name
	}
}
