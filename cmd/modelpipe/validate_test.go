package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/hub/hubtest"
	"github.com/modelpipe/modelpipe/validate"
)

// quickly are the flags of a judgement that takes a moment.
var quickly = []string{"--chunks", "1", "--ctx", "64", "--device", "cpu", "--skip", "canaries"}

func with(flags []string, more ...string) []string {
	return append(append([]string{}, more...), flags...)
}

func TestValidate(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "m.gguf")
	if code, _, errs := try(t, "convert", stories, "--type", "q4_0", "-o", file); code != exitDone {
		t.Fatal(errs)
	}
	text := filepath.Join(dir, "short.txt")
	write(t, text, []byte("Too short."))
	empty := filepath.Join(dir, "empty.txt")
	write(t, empty, nil)
	report := filepath.Join(dir, "report")
	for _, c := range []struct {
		name         string
		flags        []string
		code         int
		stdout, says string
		report       bool // is written
	}{
		{"pass", []string{"--against", stories}, exitDone, "verdict    pass", "", true},
		{"against a file", []string{"--against", file}, exitDone, "verdict    pass", "", true},
		{"a gate says no", []string{"--against", stories, "--max-kld", "0.001"}, exitGate, "verdict    no", "1 of 5 gates say no: kld.mean", true},
		{"stock", []string{"--against", stories, "--gate", "stock"}, exitDone, "kld.stock", "", true},
		{"no source", nil, exitUsage, "", "want --against SOURCE", false},
		{"unknown gate", []string{"--against", stories, "--gate", "shiny"}, exitUsage, "", "--gate shiny: want stock", false},
		{"unknown check", []string{"--against", stories, "--skip", "gates"}, exitUsage, "", "--skip gates: want tokens", false},
		{"no metric", []string{"--against", stories, "--min-top1", "0.9", "--skip", "logits"}, exitUsage, "", "gate on a metric that is not computed: top1", false},
		{"no share", []string{"--against", stories, "--min-top1", "90"}, exitUsage, "", "want a share from 0 to 1", false},
		{"short text", []string{"--against", stories, "--text", text}, exitFailed, "", "fewer than a chunk of 64", false},
		{"empty text", []string{"--against", stories, "--text", empty}, exitFailed, "", "is empty", false},
		{"no plugin", []string{"--against", stories, "--device", "xla:/no/such/plugin.so"}, exitFailed, "", "device xla:/no/such/plugin.so", false},
		{"no server", []string{"--against", stories, "--runtime", "http://127.0.0.1:1"}, exitUnavailable, "", "runtime is not available", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			line := append(with(quickly, "validate", file, "--report", report), c.flags...)
			code, out, errs := try(t, line...)
			if code != c.code || !strings.Contains(out, c.stdout) || !strings.Contains(errs, c.says) {
				t.Errorf("code %d, stdout %s, stderr %s: want %d, %q, %q", code, out, errs, c.code, c.stdout, c.says)
			}
			for _, name := range []string{"report.json", "report.html"} {
				// A run that fails takes the last one's report away, unless it was called wrongly.
				if _, err := os.Stat(filepath.Join(report, name)); c.code != exitUsage && (err == nil) != c.report {
					t.Errorf("%s: %v: want it %v", name, err, c.report)
				}
			}
		})
	}
	code, out, errs := try(t, with(quickly, "validate", file, "--against", stories, "--json")...)
	var r struct {
		Pass bool `json:"pass"`
		KLD  struct {
			Mean float64 `json:"mean"`
		} `json:"kld"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitDone || !r.Pass || r.KLD.Mean <= 0 {
		t.Errorf("code %d, %v, %+v: %s", code, err, r, errs)
	}
}

// TestValidateBeside measures several files in one pass as it does each alone.
func TestValidateBeside(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for _, typ := range []string{"q4_0", "q5_0", "q8_0"} {
		files = append(files, filepath.Join(dir, typ+".gguf"))
		must(t, "convert", stories, "--type", typ, "-o", files[len(files)-1])
	}
	judge := func(file string, more ...string) (r validate.Report) {
		t.Helper()
		code, out, errs := try(t, append(with(quickly, "validate", file, "--against", stories, "--json", "--skip", "weights,tokens,template"), more...)...)
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitDone {
			t.Fatalf("code %d, %v: %s", code, err, errs)
		}
		return r
	}
	r := judge(files[0], "--beside", files[1], "--beside", files[2], "--gate", "stock")
	if len(r.Alternatives) != 2 {
		t.Fatalf("alternatives are %+v: want two", r.Alternatives)
	}
	for i, x := range r.Alternatives {
		alone := judge(files[1+i])
		if x.Name != strings.TrimSuffix(filepath.Base(files[1+i]), ".gguf") || x.Kind != validate.AlternativeFile || x.Size != alone.Candidate.Size {
			t.Errorf("%s is %+v", files[1+i], x)
		}
		if math.Abs(x.KLD/alone.KLD.Mean-1) > 1e-6 || x.Top1 != *alone.Top1 || x.StdErr != alone.KLD.StdErr {
			t.Errorf("%s beside: %+v: alone its KLD is %v", files[1+i], x, alone.KLD)
		}
	}
	if alone := judge(files[0]); math.Abs(r.KLD.Mean/alone.KLD.Mean-1) > 1e-6 {
		t.Errorf("KLD %g: alone it is %g", r.KLD.Mean, alone.KLD.Mean)
	}

	cut := filepath.Join(dir, "cut.gguf")
	b, err := os.ReadFile(files[2])
	if err != nil {
		t.Fatal(err)
	}
	write(t, cut, b[:1000])
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{exitUsage, "want a .gguf file", []string{"--beside", stories}},
		{exitFailed, "no such file", []string{"--beside", filepath.Join(dir, "none.gguf")}},
		{exitFailed, "cut.gguf", []string{"--beside", cut}},
		{exitUsage, "gate on a metric that is not computed: beside", []string{"--beside", files[1], "--skip", "logits"}},
	} {
		if code, _, errs := try(t, append(with(quickly, "validate", files[0], "--against", stories), c.args...)...); code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("%v: code %d: %s: want %d, %q", c.args, code, errs, c.code, c.says)
		}
	}
}

// TestConvertValidate judges a file before it gets its name.
func TestConvertValidate(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags []string
		code  int
		says  string
		left  []string
	}{
		{"pass", []string{"--validate"}, exitDone, "verdict    pass", []string{"m.gguf"}},
		{"split", []string{"--validate", "--split-max-size", "100K"}, exitDone, "verdict    pass", []string{"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"}},
		{"no", []string{"--validate", "--max-kld", "0.001"}, exitGate, "gates say no: kld.mean", nil},
		{"cannot be judged", []string{"--validate", "--runtime", "http://127.0.0.1:1"}, exitUnavailable, "runtime is not available", nil},
		{"no metric", []string{"--validate", "--max-kld", "1", "--skip", "logits"}, exitUsage, "gate on a metric that is not computed", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			line := append(with(quickly, "convert", stories, "--type", "q4_0", "-o", filepath.Join(dir, "m.gguf")), c.flags...)
			code, _, errs := try(t, line...)
			if code != c.code || !strings.Contains(errs, c.says) {
				t.Errorf("code %d, stderr %s: want %d, %q", code, errs, c.code, c.says)
			}
			if left := listDir(t, dir); left != strings.Join(c.left, " ") {
				t.Errorf("left are %v: want %v", left, c.left)
			}
		})
	}
	if code, _, errs := try(t, "convert", stories, "--min-top1", "1", "--dry-run"); code != exitUsage || !strings.Contains(errs, "give --validate too") {
		t.Errorf("code %d: %s", code, errs)
	}
}

// TestValidateHub reads the source from the Hub, and says which commit it was.
func TestValidateHub(t *testing.T) {
	server := hubtest.NewServer(t)
	commit := server.AddRepo(hubtest.Repo{ID: "org/m", FS: os.DirFS(stories)})
	t.Setenv("HF_ENDPOINT", server.URL)
	t.Setenv("HF_HOME", t.TempDir())
	file := filepath.Join(t.TempDir(), "m.gguf")
	code, out, errs := try(t, with(quickly, "convert", "hf://org/m", "--type", "q8_0", "-o", file, "--validate", "--json")...)
	var v struct {
		Validation struct {
			Pass   bool `json:"pass"`
			Source struct {
				Repository string `json:"repository"`
				Commit     string `json:"commit"`
			} `json:"source"`
			Candidate struct {
				Name   string `json:"name"`
				SHA256 string `json:"sha256"`
			} `json:"candidate"`
		} `json:"validation"`
		SHA256 string `json:"sha256"`
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != exitDone {
		t.Fatalf("code %d, %v: %s", code, err, errs)
	}
	r := v.Validation
	if !r.Pass || r.Source.Repository != "org/m" || r.Source.Commit != commit || r.Candidate.Name != "m.gguf" || r.Candidate.SHA256 != v.SHA256 {
		t.Errorf("%+v", v)
	}
}
