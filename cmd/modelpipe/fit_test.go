package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/ops/budget"
	"github.com/modelpipe/modelpipe/pipeline"
)

// TestFit plans and converts to a size and to a loss, by priors and by losses
// that were measured, and refuses what cannot be.
func TestFit(t *testing.T) {
	const model = "../../testdata/stories260K"
	dir := t.TempDir()
	type result struct {
		Size   int64           `json:"size"`
		Recipe json.RawMessage `json:"recipe"`
		Budget struct {
			ExpectedKLD float64 `json:"expected_kld"`
			Losses      string  `json:"losses"`
			Note        string  `json:"note"`
			Preset      *struct {
				Name        string  `json:"name"`
				Size        int64   `json:"size"`
				ExpectedKLD float64 `json:"expected_kld"`
			} `json:"best_preset"`
		} `json:"budget"`
	}
	plan := func(args ...string) result {
		t.Helper()
		code, stdout, stderr := try(t, append([]string{"plan", model, "--json"}, args...)...)
		if code != exitDone {
			t.Fatalf("plan %v: exit %d: %s", args, code, stderr)
		}
		var r result
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	prior := plan("--max-size", "290KB")
	if prior.Size > 290_000 || prior.Size < 280_000 || prior.Budget.Losses != "priors" || prior.Budget.ExpectedKLD <= 0 {
		t.Errorf("by priors: %+v", prior)
	}

	losses := filepath.Join(dir, "l.json")
	text := filepath.Join(dir, "text")
	story := strings.Repeat("Once upon a time there was a little girl named Lily. She loved to play outside in the sun. ", 40)
	if err := os.WriteFile(text, []byte(story), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := try(t, "losses", model, "--text", text, "--chunks", "2", "--ctx", "64", "-o", losses, "--device", "cpu"); code != exitDone {
		t.Fatalf("losses: exit %d: %s", code, stderr)
	}
	measured := plan("--max-size", "290KB", "--losses", losses)
	if measured.Size > 290_000 || measured.Budget.Losses != "measured" {
		t.Errorf("by losses: %+v", measured)
	}
	if p := measured.Budget.Preset; p == nil || p.Size > measured.Size || p.ExpectedKLD < measured.Budget.ExpectedKLD {
		t.Errorf("the best preset is %+v: the fit is expected to lose %g", p, measured.Budget.ExpectedKLD)
	}
	out := filepath.Join(dir, "m.gguf")
	if code, _, stderr := try(t, "convert", model, "--max-size", "290KB", "--losses", losses, "-o", out); code != exitDone {
		t.Fatalf("convert: exit %d: %s", code, stderr)
	}
	if info, err := os.Stat(out); err != nil || info.Size() != measured.Size {
		t.Errorf("the file has %v bytes, %v: planned were %d", info, err, measured.Size)
	}
	small := plan("--max-kld", "0.5", "--losses", losses)
	if small.Budget.ExpectedKLD > 0.5 {
		t.Errorf("an expected divergence of %g: want at most 0.5", small.Budget.ExpectedKLD)
	}
	if whole := plan("--max-size", "1GB"); whole.Budget.Note == "" {
		t.Error("a limit above the model is not said to be one")
	}

	// Another model's losses.
	other := filepath.Join(dir, "other.json")
	b, err := os.ReadFile(losses)
	if err != nil {
		t.Fatal(err)
	}
	var f map[string]any
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	f["model"] = "sha256:0"
	if b, err = json.Marshal(f); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, b, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{exitGate, "the smallest file has", []string{"--max-size", "10KB"}},
		{exitGate, "at least", []string{"--max-kld", "1e-9", "--output-type", "Q4_0", "--losses", losses}},
		{exitUsage, "one of them", []string{"--max-size", "290KB", "--max-kld", "0.1"}},
		{exitUsage, "give one or the other", []string{"--max-size", "290KB", "--type", "Q4_K_M"}},
		{exitUsage, "want a size", []string{"--max-size", "many"}},
		{exitUsage, "go with --max-size", []string{"--fast-types"}},
		{exitFailed, "measured on another model", []string{"--max-size", "290KB", "--losses", other}},
		{exitFailed, "no such file", []string{"--max-size", "290KB", "--losses", filepath.Join(dir, "none")}},
		{exitFailed, "matches no tensor", []string{"--max-size", "290KB", "--tensor-type", "nothing=Q8_0"}},
	} {
		code, _, stderr := try(t, append([]string{"plan", model}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("plan %v: exit %d: %s: want %d, %q", c.args, code, stderr, c.code, c.want)
		}
	}
	for _, args := range [][]string{{"losses", model}, {"losses", model, "-o", losses}, {"losses", model, "-o", losses, "--text", filepath.Join(dir, "none")}} {
		if code, _, _ := try(t, args...); code == exitDone {
			t.Errorf("%v is accepted", args)
		}
	}
}

// TestFitMeasured holds a fit to presets by measurement: one by losses that say
// what is so is kept, one by losses that say the opposite is not.
func TestFitMeasured(t *testing.T) {
	const model = "../../testdata/stories260K"
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	story := strings.Repeat("Once upon a time there was a little girl named Lily. She loved to play outside in the sun. ", 40)
	if err := os.WriteFile(text, []byte(story), 0o644); err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(dir, "short")
	if err := os.WriteFile(short, []byte(story[:100]), 0o644); err != nil {
		t.Fatal(err)
	}
	good, bad := filepath.Join(dir, "good.json"), filepath.Join(dir, "bad.json")
	if code, _, stderr := try(t, "losses", model, "--text", text, "--chunks", "2", "--ctx", "64", "-o", good, "--device", "cpu"); code != exitDone {
		t.Fatalf("losses: exit %d: %s", code, stderr)
	}
	f, err := budget.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	// Few bytes lose little, says the file that misleads, and many lose much.
	for _, row := range f.Losses {
		for typ := range row {
			row[typ] = 1e-6 / row[typ]
		}
	}
	if err := f.Save(bad); err != nil {
		t.Fatal(err)
	}
	type result struct {
		Size   int64 `json:"size"`
		Recipe struct {
			Type   string `json:"type"`
			Tensor []struct {
				Match string `json:"match"`
				Type  string `json:"type"`
			} `json:"tensor"`
		} `json:"recipe"`
		Budget struct {
			ExpectedKLD float64    `json:"expected_kld"`
			Measured    *trialJSON `json:"measured"`
		} `json:"budget"`
		Validation *struct {
			KLD struct {
				Mean float64 `json:"mean"`
			} `json:"kld"`
			Alternatives []choiceJSON `json:"alternatives"`
		} `json:"validation"`
	}
	convert := func(args ...string) result {
		t.Helper()
		out := filepath.Join(dir, "m.gguf")
		code, stdout, stderr := try(t, append([]string{"convert", model, "--json", "-o", out, "--measure", "--chunks", "2", "--ctx", "64", "--device", "cpu"}, args...)...)
		if code != exitDone {
			t.Fatalf("convert %v: exit %d: %s", args, code, stderr)
		}
		var r result
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(out); err != nil || info.Size() != r.Size {
			t.Errorf("the file has %v, %v: said were %d bytes", info, err, r.Size)
		}
		return r
	}
	// least checks that the choice kept is the best of those measured.
	least := func(r result) (kept choiceJSON) {
		t.Helper()
		m := r.Budget.Measured
		if m == nil || len(m.Choices) < 2 {
			t.Fatalf("measured were %+v: want the fit and presets", m)
		}
		kept.KLD = math.Inf(1)
		for _, x := range m.Choices {
			if x.Size > 290_000 || !(x.KLD > 0) {
				t.Errorf("measured was %+v", x)
			}
			if x.KLD < kept.KLD {
				kept = x
			}
		}
		if m.Kept != kept.Name || r.Size != kept.Size || r.Budget.ExpectedKLD != kept.ExpectedKLD {
			t.Errorf("%s of %d bytes is kept: %+v loses least", m.Kept, r.Size, kept)
		}
		return kept
	}

	honest := convert("--max-size", "290KB", "--losses", good, "--validate", "--skip", "weights,canaries,template")
	kept := least(honest)
	if kept.Name != pipeline.Fitted {
		t.Errorf("%s is kept: want the fit", kept.Name)
	}
	// The source is in F32, what is measured against is it in F16.
	if got := honest.Validation.KLD.Mean; math.Abs(got/kept.KLD-1) > 0.01 {
		t.Errorf("the file loses %g nats: measured before it was made were %g", got, kept.KLD)
	}
	if got, want := len(honest.Validation.Alternatives), len(honest.Budget.Measured.Choices)-1; got != want {
		t.Errorf("the report has %d alternatives: want %d", got, want)
	}
	misled := convert("--max-size", "290KB", "--losses", bad)
	if kept := least(misled); kept.Name == pipeline.Fitted || misled.Recipe.Type != kept.Name {
		t.Errorf("a fit by losses that mislead: %s is kept, the recipe is %s", kept.Name, misled.Recipe.Type)
	}
	// Presets are held to the same constraints.
	bound := convert("--max-size", "290KB", "--losses", bad, "--tensor-type", "attn_k=F16")
	if r := bound.Recipe; bound.Budget.Measured.Kept == pipeline.Fitted || len(r.Tensor) != 1 || r.Tensor[0].Match != "attn_k" || r.Tensor[0].Type != "F16" {
		t.Errorf("with a constraint %s is kept, by the recipe %+v", bound.Budget.Measured.Kept, r)
	}
	whole := filepath.Join(dir, "f32.gguf")
	must(t, "convert", model, "--type", "f32", "-o", whole)
	for _, c := range []struct {
		constraint []string
		f16        bool // is among the choices
	}{{nil, true}, {[]string{"--tensor-type", "attn_k=Q8_0"}, false}} {
		code, stdout, stderr := try(t, append([]string{"convert", whole, "--max-size", "600KB", "--measure", "--chunks", "1", "--ctx", "32", "--dry-run", "--json"}, c.constraint...)...)
		var r planJSON
		if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != exitDone {
			t.Fatalf("exit %d, %v: %s", code, err, stderr)
		}
		f16 := slices.ContainsFunc(r.Budget.Measured.Choices, func(x choiceJSON) bool { return x.Name == "F16" || x.Name == "BF16" })
		if f16 != c.f16 {
			t.Errorf("with %v choices are %+v", c.constraint, r.Budget.Measured.Choices)
		}
	}
	if code, _, stderr := try(t, "convert", model, "--max-size", "290KB", "--losses", bad, "--measure", "--chunks", "2", "--ctx", "64", "--device", "cpu", "--dry-run"); code != exitDone || !strings.Contains(stderr, "bytes, kept") {
		t.Errorf("--dry-run: exit %d: %s", code, stderr)
	}

	// A fit to a loss is measured to keep it, and another round is needed where
	// the losses say three times too little.
	for _, row := range f.Losses {
		for typ := range row {
			row[typ] = 1e-6 / row[typ] / 3
		}
	}
	third := filepath.Join(dir, "third.json")
	if err := f.Save(third); err != nil {
		t.Fatal(err)
	}
	for _, row := range f.Losses {
		for typ := range row {
			row[typ] *= 1e-6
		}
	}
	nothing := filepath.Join(dir, "nothing.json")
	if err := f.Save(nothing); err != nil {
		t.Fatal(err)
	}
	const limit = 0.03
	small := convert("--max-kld", "0.03", "--losses", third)
	if len(small.Budget.Measured.Choices) < 3 {
		t.Errorf("measured were %+v: want a second round", small.Budget.Measured)
	}
	for _, x := range small.Budget.Measured.Choices {
		switch {
		case x.Name == small.Budget.Measured.Kept:
			if x.KLD > limit || x.Size != small.Size {
				t.Errorf("--max-kld %g: kept is %+v in a file of %d bytes", limit, x, small.Size)
			}
		case x.KLD <= limit && x.Size < small.Size:
			t.Errorf("--max-kld %g: kept are %d bytes: %+v is smaller", limit, small.Size, x)
		}
	}

	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{exitGate, "--max-kld 0.001: what was chosen loses 0.", []string{"--max-kld", "0.001", "--losses", nothing, "--tensor-type", "ffn_=Q4_0", "--chunks", "2", "--ctx", "64"}},
		{exitUsage, "--measure holds what --max-size and --max-kld choose to presets", []string{"--type", "Q8_0"}},
		{exitUsage, "--ctx 4096: the model was made for 512", []string{"--max-size", "290KB", "--ctx", "4096"}},
		{exitUsage, "want at least one chunk", []string{"--max-size", "290KB", "--chunks", "0"}},
		{exitFailed, "no such file", []string{"--max-size", "290KB", "--text", filepath.Join(dir, "none")}},
		{exitFailed, "fewer than a chunk of 512", []string{"--max-size", "290KB", "--text", short}},
	} {
		code, _, stderr := try(t, append([]string{"convert", model, "-o", filepath.Join(dir, "no.gguf"), "--measure"}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("convert --measure %v: exit %d: %s: want %d, %q", c.args, code, stderr, c.code, c.want)
		}
		if _, err := os.Stat(filepath.Join(dir, "no.gguf")); err == nil {
			t.Errorf("convert --measure %v leaves a file", c.args)
		}
	}
}

// TestFitRefreshed holds files that refresh has fitted to those that convert
// writes to the same size, by the same importance matrix and losses, and by
// none.
func TestFitRefreshed(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	model, err := filepath.Abs("../../testdata/stories260K")
	if err != nil {
		t.Fatal(err)
	}
	write(t, in("text.txt"), []byte(strings.Repeat("Once upon a time there was a little girl named Lily. She loved to play outside in the sun. ", 40)))
	write(t, in("catalog.toml"), fmt.Appendf(nil, `
[[model]]
slug = "m"
source = %q
vendor = "tiny"
display_name = "Tiny"
description = "A model."
task = "text-generation"
license = { spdx = "MIT" }
[[model.variant]]
name = "priors"
type = "fit"
max_size = "260KB"
[[model.variant]]
name = "measured"
type = "fit"
max_size = "300KB"
imatrix = "auto"
`, model))
	write(t, in("canaries.txt"), []byte("Once upon a time\n"))
	must(t, "refresh", "-f", in("catalog.toml"), "--canaries", in("canaries.txt"), "--store", in("store"), "--work", in("work"), "--chunks", "1", "--ctx", "64",
		"--calibrate", in("text.txt"), "--calibrate-chunks", "2", "--device", "cpu")
	matches := func(pattern string) string {
		t.Helper()
		names, err := filepath.Glob(in(pattern))
		if err != nil || len(names) != 1 {
			t.Fatalf("%s is %v, %v: want one file", pattern, names, err)
		}
		return names[0]
	}
	// The name of a matrix is in the file.
	write(t, in("imatrix"), read(t, matches("work/imatrix/*/imatrix.gguf")))
	write(t, in("imatrix"+pipeline.LossesSuffix), read(t, matches("work/imatrix/*/*"+pipeline.LossesSuffix)))
	t.Chdir(dir)
	for _, c := range []struct {
		name, losses string
		limit        int
		args         []string
	}{
		{"priors", "priors", 260_000, []string{"--max-size", "260KB"}},
		{"measured", "measured", 300_000, []string{"--max-size", "300KB", "--imatrix", "imatrix"}},
	} {
		var r recipeJSON
		out := c.name + ".gguf"
		if err := json.Unmarshal([]byte(must(t, append([]string{"convert", model, "-o", out, "--json"}, c.args...)...)), &r); err != nil {
			t.Fatal(err)
		}
		want := read(t, out)
		if got := read(t, matches("store/models/m/*/m-"+c.name+".gguf")); !bytes.Equal(got, want) {
			t.Errorf("%s: refresh has made another file, of %d bytes, than convert, of %d", c.name, len(got), len(want))
		}
		if len(want) > c.limit || float64(len(want)) < 0.99*float64(c.limit) || r.Budget.Losses != c.losses {
			t.Errorf("%s: %d bytes of %d by %s", c.name, len(want), c.limit, r.Budget.Losses)
		}
		if record := read(t, matches("store/models/m/"+c.name+"-*/record.json")); !bytes.Contains(record, []byte(r.RecipeDigest)) {
			t.Errorf("%s: the record has not the recipe digest %s: %s", c.name, r.RecipeDigest, record)
		}
	}
}
