package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/hub/hubtest"
	"github.com/modelpipe/modelpipe/internal/golden"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/quantize"
	"github.com/modelpipe/modelpipe/validate"
)

const calibrationText = "../../ops/calibrate/testdata/stories.txt"

func readMatrix(t *testing.T, path string) *quantize.Imatrix {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := quantize.ReadImatrix(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestCalibrate compares the matrix of a real model with what llama-imatrix
// makes of the same file, text and chunks in float32, and quantizes with it.
func TestCalibrate(t *testing.T) {
	dir := t.TempDir()
	file, matrix := filepath.Join(dir, "stories.gguf"), filepath.Join(dir, "imatrix.gguf")
	if code, _, stderr := try(t, "convert", stories, "--type", "f32", "-o", file); code != exitDone {
		t.Fatal(stderr)
	}
	code, stdout, stderr := try(t, "calibrate", file, "--text", calibrationText, "--ctx", "128", "--chunks", "5", "-o", matrix, "--device", "cpu")
	if code != exitDone || stdout != matrix+": 35 entries from 5 chunks of 128 tokens\n" {
		t.Fatalf("exit %d, %s%s", code, stdout, stderr)
	}
	got, want := readMatrix(t, matrix), readMatrix(t, "../../ops/calibrate/testdata/stories260K.gguf")
	if !slices.Equal(got.Names(), want.Names()) || got.Chunks != want.Chunks || !slices.Equal(got.Datasets, []string{calibrationText}) {
		t.Fatalf("%v of %d chunks of %v: want %v", got.Names(), got.Chunks, got.Datasets, want.Names())
	}
	for _, name := range want.Names() {
		g, _, err := got.Sums(name)
		if err != nil {
			t.Fatal(err)
		}
		w, _, err := want.Sums(name)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(g.Counts, w.Counts) || len(g.Sums) != len(w.Sums) {
			t.Fatalf("%s: %d sums of %v: want %d of %v", name, len(g.Sums), g.Counts, len(w.Sums), w.Counts)
		}
		for i := range w.Sums {
			if diff := math.Abs(float64(g.Sums[i] - w.Sums[i])); diff > 1e-5*float64(w.Sums[i]) {
				t.Errorf("%s: column %d is %g: want %g", name, i, g.Sums[i], w.Sums[i])
				break
			}
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.calibration")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if code, _, stderr := try(t, "convert", stories, "--type", "q4_0", "--imatrix", matrix, "-o", filepath.Join(dir, "q4.gguf")); code != exitDone {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

// TestCalibrateParts does the layers of a folder in two places and in two
// runs: the matrix is that of a single run.
func TestCalibrateParts(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	run := func(output string, more ...string) calibrationJSON {
		t.Helper()
		code, stdout, stderr := try(t, append([]string{"calibrate", stories, "--text", calibrationText, "--ctx", "64", "--chunks", "2", "--device", "cpu", "--json", "-o", at(output)}, more...)...)
		if code != exitDone {
			t.Fatalf("exit %d, %s", code, stderr)
		}
		var r calibrationJSON
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := run("whole.gguf"); r.Output != at("whole.gguf") || r.Computed != 5 || r.Entries != 35 {
		t.Errorf("%+v", r)
	}
	if r := run("a.gguf", "--layers", "3:5"); r.Output != "" || r.State != at("a.gguf.calibration") || !slices.Equal(r.Missing, []string{"0:3"}) {
		t.Errorf("%+v", r)
	}
	if r := run("b.gguf", "--layers", "0:1"); !slices.Equal(r.Missing, []string{"1:5"}) {
		t.Errorf("%+v", r)
	}
	if r := run("b.gguf", "--resume", "--layers", "0:2"); r.Computed != 1 || !slices.Equal(r.Missing, []string{"2:5"}) {
		t.Errorf("%+v", r)
	}
	if _, err := os.Stat(at("b.gguf")); err == nil {
		t.Error("there is an output though layers are missing")
	}
	if r := run("b.gguf", "--resume", "--merge", at("a.gguf.calibration")); r.Computed != 1 || r.Output == "" {
		t.Errorf("%+v", r)
	}
	whole, err := os.ReadFile(at("whole.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	if parts, err := os.ReadFile(at("b.gguf")); err != nil || !bytes.Equal(parts, whole) {
		t.Errorf("the parts together are not the whole (%v)", err)
	}

	// What was done with another text, or of another model, is refused.
	code, _, stderr := try(t, "calibrate", stories, "--text", calibrationText, "--ctx", "32", "--device", "cpu", "-o", at("a.gguf"), "--resume")
	if code != exitFailed || !strings.Contains(stderr, "a.gguf.calibration: it was made with another model, text,") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

// TestCalibrateRemote reads a repository on the Hub: the matrix is that of the
// same files in a folder.
func TestCalibrateRemote(t *testing.T) {
	server := hubtest.NewServer(t)
	server.AddRepo(hubtest.Repo{ID: "org/m", FS: os.DirFS(stories)})
	t.Setenv("HF_ENDPOINT", server.URL)
	t.Setenv("HF_HOME", t.TempDir())
	dir := t.TempDir()
	var matrices [2][]byte
	for i, source := range []string{"hf://org/m", stories} {
		path := filepath.Join(dir, "imatrix.gguf")
		code, _, stderr := try(t, "calibrate", source, "--text", calibrationText, "--ctx", "64", "--chunks", "1", "--device", "cpu", "-o", path)
		if code != exitDone {
			t.Fatalf("%s: exit %d, %s", source, code, stderr)
		}
		var err error
		if matrices[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(matrices[0], matrices[1]) {
		t.Error("the matrices differ")
	}
}

// unknownPre writes a model twice: as it is, and with a pre-tokenizer that
// nobody recognises.
func unknownPre(t *testing.T) (known, unknown string) {
	t.Helper()
	source := golden.Unzip(t, "../../convert/testdata/golden/llama3/hf.zip")
	known, unknown = t.TempDir(), t.TempDir()
	if err := os.CopyFS(known, source); err != nil {
		t.Fatal(err)
	}
	tokenizer := source["tokenizer.json"]
	spoiled := bytes.Replace(tokenizer.Data, []byte(`\\p{N}{1,3}`), []byte(`\\p{N}{1,9}`), 1)
	if bytes.Equal(spoiled, tokenizer.Data) {
		t.Fatal("the golden has another pre-tokenizer")
	}
	tokenizer.Data = spoiled
	if err := os.CopyFS(unknown, source); err != nil {
		t.Fatal(err)
	}
	return known, unknown
}

// TestStockPre: of a stock preset only tensors are read, whatever the
// pre-tokenizer.
func TestStockPre(t *testing.T) {
	known, unknown := unknownPre(t)
	var want, got *validate.StockFile
	for _, c := range []struct {
		dir string
		to  **validate.StockFile
	}{{known, &want}, {unknown, &got}} {
		s, err := pipeline.OpenSource(t.Context(), c.dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if *c.to, err = bestStock(t.Context(), s, nil, 1<<20); err != nil {
			t.Fatal(err)
		}
		defer (*c.to).Close()
	}
	if got.Preset != want.Preset || got.Size != want.Size {
		t.Errorf("got %s in %d bytes, want %s in %d", got.Preset, got.Size, want.Preset, want.Size)
	}
}

// TestCalibratePre: a pre-tokenizer that is not recognised can be given by
// hand, and the matrix is then that of the model with the right one.
func TestCalibratePre(t *testing.T) {
	known, unknown := unknownPre(t)
	matrix := filepath.Join(t.TempDir(), "imatrix.gguf")
	read := func() []byte {
		data, err := os.ReadFile(matrix)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	run := func(args ...string) (int, string) {
		code, _, stderr := try(t, append([]string{"calibrate", "--text", calibrationText, "-o", matrix, "--device", "cpu", "--ctx", "64", "--chunks", "1"}, args...)...)
		return code, stderr
	}
	if code, stderr := run(known); code != exitDone {
		t.Fatal(stderr)
	}
	want := read()
	if code, stderr := run(unknown); code != exitFailed || !strings.Contains(stderr, "--pre NAME") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if code, stderr := run(unknown, "--pre", "llama-bpe"); code != exitDone {
		t.Fatal(stderr)
	}
	if !bytes.Equal(read(), want) {
		t.Error("another matrix than with the pre-tokenizer that is recognised")
	}
	if code, stderr := run("../../ops/calibrate/testdata/stories260K.gguf", "--pre", "llama-bpe"); code != exitUsage || !strings.Contains(stderr, "says itself") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

func TestCalibrateErrors(t *testing.T) {
	dir := t.TempDir()
	short, matrix := filepath.Join(dir, "short.txt"), filepath.Join(dir, "out", "imatrix.gguf")
	write(t, short, []byte("Once upon a time"))
	if err := os.Mkdir(filepath.Dir(matrix), 0o777); err != nil {
		t.Fatal(err)
	}
	text := []string{"--text", calibrationText, "-o", matrix, "--device", "cpu", "--ctx", "64"}
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no text":          {[]string{stories, "-o", matrix}, exitUsage, "--text: want the file of a text"},
		"no output":        {[]string{stories, "--text", short}, exitUsage, "--output: want the path"},
		"chunks":           {append([]string{stories, "--chunks", "-1"}, text...), exitUsage, "--chunks -1"},
		"ctx":              {[]string{stories, "--text", short, "-o", matrix, "--ctx", "1"}, exitUsage, "--ctx 1"},
		"layers":           {append([]string{stories, "--layers", "3:3"}, text...), exitUsage, "--layers 3:3: want A:B with A less than B"},
		"unknown layers":   {append([]string{stories, "--layers", "3:9"}, text...), exitFailed, "--layers 3:9: the model has layers 0:5"},
		"missing text":     {[]string{stories, "--text", filepath.Join(dir, "x"), "-o", matrix}, exitFailed, "no such file"},
		"short text":       {[]string{stories, "--text", short, "-o", matrix}, exitFailed, "short.txt: the text has 5 tokens: fewer than a chunk of 512"},
		"no model":         {append([]string{short}, text...), exitUsage, "want a model folder, hf://org/name or a .gguf file"},
		"no folder":        {[]string{stories, "--text", calibrationText, "-o", filepath.Join(dir, "no", "i.gguf"), "--device", "cpu", "--ctx", "64", "--chunks", "1"}, exitFailed, "write imatrix: "},
		"device":           {append([]string{stories}, append(slices.Clone(text), "--device", "abacus")...), exitFailed, `device "abacus": want cpu`},
		"merge of nothing": {append([]string{stories, "--merge", filepath.Join(dir, "x")}, text...), exitFailed, "merge: "},
		"merge of a text":  {append([]string{stories, "--merge", short}, text...), exitFailed, "short.txt: "},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := try(t, append([]string{"calibrate"}, test.args...)...)
			if code != test.code || !strings.Contains(stderr, test.want) || stdout != "" {
				t.Errorf("exit %d, %s%s: want %d, %q", code, stdout, stderr, test.code, test.want)
			}
		})
	}
	if left, err := os.ReadDir(filepath.Dir(matrix)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
