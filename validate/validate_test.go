package validate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/ops/spec"
)

// cpu is the engine of the tests.
func cpu(t testing.TB) Engine {
	t.Helper()
	d, err := ops.Open("cpu")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return OnDevice(d, ops.Options{})
}

// openSource opens a folder.
func openSource(t testing.TB, fsys fs.FS) *Source {
	t.Helper()
	s, err := OpenFolder(context.Background(), fsys, SourceInfo{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// openCandidate opens a file in memory.
func openCandidate(t testing.TB, data []byte) *Candidate {
	t.Helper()
	c, err := OpenCandidate(context.Background(), fstest.MapFS{"m.gguf": {Data: data}}, "m.gguf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestGoldens judges what the converter makes of tiny models of many families:
// every gate must pass. The tiny Gemmas' tokens are another family's.
func TestGoldens(t *testing.T) {
	e := cpu(t)
	for _, name := range []string{
		"bert", "cohere2", "deepseek-v3", "deepseek2", "falcon", "fp8-block", "gemma2", "gemma3", "glm4", "gpt2", "gptoss", "granitemoe",
		"int4-packed", "llama-q8", "llama3", "mixtral", "olmo2", "phi3-longrope", "qwen2moe", "qwen3-embedding", "qwen3moe", "roberta", "smollm3", "stablelm", "xlm-roberta-reranker", "qwen3-reranker", "qwen3-reranker-untied",
	} {
		t.Run(name, func(t *testing.T) {
			source := goldenModel(t, name)
			o := Options{Engine: e, Chunks: 2, Ctx: 32, Skip: []string{CheckCanaries}}
			if strings.HasPrefix(name, "gemma") {
				o.Skip = append(o.Skip, CheckTokens)
			}
			r, err := Run(context.Background(), openSource(t, source), openCandidate(t, converted(t, source, name, "")), o)
			if err != nil {
				t.Fatal(err)
			}
			if !r.Pass || len(r.NotJudged) > 0 {
				t.Errorf("%v say no; not judged: %v; %v %v", failed(r), r.NotJudged, r.Structure.Differences, r.Weights.Suspicious)
			}
			if n := len(slices.DeleteFunc([]bool{r.KLD != nil, r.Cosine != nil, strings.Contains(name, "reranker")}, func(b bool) bool { return !b })); n != 1 {
				t.Errorf("KLD %v, cosine %v: want one of them, or a reranker's scores alone", r.KLD, r.Cosine)
			}
		})
	}
}

// report is a whole report of the bundled model, with a stock preset.
func report(t testing.TB, preset string) *Report {
	t.Helper()
	source := stories(t)
	stock := converted(t, source, "stories", "Q4_0")
	var asked int64
	r, err := Run(context.Background(), openSource(t, source), openCandidate(t, converted(t, source, "stories", preset)), Options{
		Engine: cpu(t), Chunks: 2, Ctx: 64, Canaries: []string{"Once upon a time", "The dog"},
		Stock: func(_ context.Context, most int64) (*StockFile, error) {
			asked = most
			return &StockFile{"Q4_0", int64(len(stock)), bytes.NewReader(stock), func() error { return nil }}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if asked != r.Candidate.TensorBytes {
		t.Errorf("a stock preset of %d bytes is asked for: want %d", asked, r.Candidate.TensorBytes)
	}
	return r
}

func TestStock(t *testing.T) {
	for preset, pass := range map[string]bool{"Q8_0": true, "Q4_0": true, "Q2_0": false} {
		r := report(t, preset)
		i := slices.IndexFunc(r.Gates, func(g Gate) bool { return g.Name == "kld.stock" })
		if i < 0 || r.Gates[i].Pass != pass {
			t.Errorf("%s: %+v: want pass %v", preset, r.Gates, pass)
		}
	}
}

// TestReport holds the report to its schema and the page to be one file.
func TestReport(t *testing.T) {
	r := report(t, "Q4_0")
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	schema, err := os.ReadFile("../docs/report.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	checkSchema(t, schema, b.Bytes())
	if r.Canaries == nil || len(r.Canaries.Answers) != 2 || len(r.Distribution) == 0 || r.Weights == nil {
		t.Errorf("the report lacks parts: %+v", r)
	}

	r.Candidate.Name = "<script>alert(1)</script>"
	var page bytes.Buffer
	if err := r.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	html := page.String()
	if strings.Contains(html, "<script") {
		t.Error("the page runs what a name says")
	}
	for _, no := range []string{"http://", "https://\"", "src=", "@import", "url("} {
		if strings.Contains(html, no) {
			t.Errorf("the page has %q: want one that needs nothing else", no)
		}
	}
	if n := strings.Count(html, "<svg"); n != 6 {
		t.Errorf("%d pictures: want 6", n)
	}

	// What else was measured has points of its own.
	r.Stock = &StockResult{Preset: "Q4_K_S", Size: 200_000}
	r.Stock.KLD.Mean = 0.25
	r.Alternatives = []Alternative{{Name: "Q3_K_M<", Kind: AlternativePreset, Size: 190_000, KLD: 0.5, Top1: 0.625}, {Name: "fit", Kind: AlternativeFit, Size: 199_000, KLD: 0.125}}
	b.Reset()
	page.Reset()
	if err := errors.Join(r.WriteJSON(&b), r.WriteHTML(&page)); err != nil {
		t.Fatal(err)
	}
	checkSchema(t, schema, b.Bytes())
	html = page.String()
	for _, want := range []string{
		`aria-label="bytes against KL divergence"`, "<title>Q3_K_M&lt;: 0.5 nats in 190000 bytes</title>", "<title>fit: 0.125 nats in 199000 bytes</title>",
		"<title>Q4_K_S: 0.25 nats in 200000 bytes</title>", "<title>this file: ", "62.50 %",
	} {
		if !strings.Contains(html, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	r.Stock, r.Alternatives = nil, nil
	page.Reset()
	if err := r.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(page.String(), "<svg"); n != 5 {
		t.Errorf("%d pictures where nothing else was measured: want 5", n)
	}
}

// checkSchema holds a document to the part of JSON Schema that ours uses:
// type, properties, required, items, additionalProperties, $ref and enum.
func checkSchema(t *testing.T, schema, document []byte) {
	t.Helper()
	var s, d any
	if err := errors.Join(json.Unmarshal(schema, &s), json.Unmarshal(document, &d)); err != nil {
		t.Fatal(err)
	}
	root := s.(map[string]any)
	var check func(path string, s map[string]any, d any)
	check = func(path string, s map[string]any, d any) {
		if ref, ok := s["$ref"].(string); ok {
			s = root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
		}
		kind := map[bool]string{true: "null"}[d == nil]
		switch d := d.(type) {
		case bool:
			kind = "boolean"
		case string:
			kind = "string"
		case float64:
			kind = "number"
			if d == math.Trunc(d) {
				kind = "integer"
			}
		case []any:
			kind = "array"
		case map[string]any:
			kind = "object"
		}
		var allowed []string
		switch want := s["type"].(type) {
		case string:
			allowed = []string{want}
		case []any:
			for _, w := range want {
				allowed = append(allowed, w.(string))
			}
		}
		if !slices.Contains(allowed, kind) && !(kind == "integer" && slices.Contains(allowed, "number")) {
			t.Errorf("%s: is %s: want %v", path, kind, allowed)
			return
		}
		if values, ok := s["enum"].([]any); ok && !slices.Contains(values, d) {
			t.Errorf("%s: is %v: want one of %v", path, d, values)
		}
		switch d := d.(type) {
		case []any:
			for i, x := range d {
				check(fmt.Sprintf("%s[%d]", path, i), s["items"].(map[string]any), x)
			}
		case map[string]any:
			properties, _ := s["properties"].(map[string]any)
			others, _ := s["additionalProperties"].(map[string]any)
			for key, x := range d {
				if p, ok := properties[key].(map[string]any); ok {
					check(path+"."+key, p, x)
				} else if others != nil {
					check(path+"."+key, others, x)
				} else {
					t.Errorf("%s: key %q is not in the schema", path, key)
				}
			}
			required, _ := s["required"].([]any)
			for _, key := range required {
				if _, ok := d[key.(string)]; !ok {
					t.Errorf("%s: key %q is missing", path, key)
				}
			}
		}
	}
	check("report", root, d)
}

// TestErrors is what cannot be judged: an error that says why, and no report.
func TestErrors(t *testing.T) {
	e := cpu(t)
	q8 := converted(t, stories(t), "stories", "Q8_0")
	limit := 0.1
	nan := slices.Clone(q8)
	floats(t, nan, "blk.0.attn_norm.weight", func(w []float32, _ int) { w[3] = float32(math.NaN()) })
	for _, c := range []struct {
		name   string
		source fs.FS
		data   []byte
		o      Options
		says   string
	}{
		{"another model", goldenModel(t, "llama3"), q8, Options{}, "the candidate is another model: its"},
		{"text shorter than a chunk", stories(t), q8, Options{Text: "too short"}, "fewer than a chunk of 64"},
		{"KLD gate without logits", stories(t), q8, Options{MaxKLD: &limit, Skip: []string{CheckLogits}}, "gate on a metric that is not computed: kld.mean"},
		{"top-1 gate of an encoder", goldenModel(t, "bert"), converted(t, goldenModel(t, "bert"), "bert", ""), Options{MinTop1: &limit}, "gate on a metric that is not computed: top1"},
		{"NaN weights", stories(t), nan, Options{}, "tensor blk.0.attn_norm.weight: row 0, column 3 is NaN"},
		{"NaN logits", stories(t), nan, Options{Skip: []string{CheckWeights, CheckCanaries}}, "not finite"},
		{"unknown check", stories(t), q8, Options{Skip: []string{"all"}}, `skip "all": want one of`},
		{"no server", stories(t), q8, Options{Runtime: "http://127.0.0.1:1", Skip: []string{CheckCanaries, CheckWeights}}, "runtime is not available"},
		{"no address", stories(t), q8, Options{Runtime: "nonsense", Skip: []string{CheckCanaries, CheckWeights}}, "want http://host:port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Engine, c.o.Chunks, c.o.Ctx = e, 1, 64
			c.o.Skip = append(c.o.Skip, CheckTokens)
			r, err := Run(context.Background(), openSource(t, c.source), openCandidate(t, c.data), c.o)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v: want %q", err, c.says)
			}
			if r != nil {
				t.Error("there is a report")
			}
		})
	}
}

func TestVocabularyMismatch(t *testing.T) {
	m := openGGUF(t, converted(t, stories(t), "stories", "Q8_0")).Header.Metadata
	_, v := vocabularyOf(t, m)
	if err := checkVocabulary(v, len(v.Tokens)); err != nil {
		t.Error(err)
	}
	if err := checkVocabulary(v, len(v.Tokens)+1); err == nil || !strings.Contains(err.Error(), "vocabulary mismatch") {
		t.Errorf("error %v", err)
	}
}

// TestStructureDiffers changes what a file states.
func TestStructureDiffers(t *testing.T) {
	source := openSource(t, goldenModel(t, "qwen3moe")).Model
	for _, c := range []struct {
		name   string
		change func(m *spec.Model)
		says   string
	}{
		{"nothing", func(*spec.Model) {}, ""},
		{"epsilon", func(m *spec.Model) { m.FinalNorm.Eps *= 1.01 }, "final norm, eps: the source has"},
		{"rope base", func(m *spec.Model) { m.Blocks[1].Attention.Rope.InvFreq[2] *= 1.1 }, "attention, rope, inv freq[2]: the source has"},
		{"experts used", func(m *spec.Model) {
			for i := range m.Blocks {
				m.Blocks[i].FFN.MoE.Used++
			}
		}, fmt.Sprintf("layers 0-%d: FFN, mo E, used", len(source.Blocks)-1)},
		{"a missing tensor", func(m *spec.Model) { delete(m.Weights, spec.At(0, spec.K)) }, "layer 0: k: the source has a tensor, the file none"},
		{"a shape", func(m *spec.Model) {
			w := m.Weights[spec.At(0, spec.K)]
			w.Rows++
			m.Weights[spec.At(0, spec.K)] = w
		}, "layer 0: k: the source's tensor is"},
		{"a longer context", func(m *spec.Model) { m.Context *= 2 }, "context: the source has"},
	} {
		t.Run(c.name, func(t *testing.T) {
			other := openSource(t, goldenModel(t, "qwen3moe")).Model
			c.change(other)
			got, notes := compareSpecs(source, other, nil)
			if text := strings.Join(got, "\n"); len(notes) > 0 || !strings.Contains(text, c.says) || c.says == "" && text != "" {
				t.Errorf("says %q, notes %q: want %q", got, notes, c.says)
			}
		})
	}
}

// TestStructureNotes notes what no file can mend: DeepSeek-V2 scores groups of
// experts by their best, llama.cpp every model's as V3.
func TestStructureNotes(t *testing.T) {
	source, file := openSource(t, goldenModel(t, "deepseek-v3")).Model, openSource(t, goldenModel(t, "deepseek-v3")).Model
	for i := range source.Blocks {
		if e := source.Blocks[i].FFN.MoE; e != nil {
			e.GroupTop2 = false
		}
	}
	if differences, notes := compareSpecs(source, file, nil); len(differences) > 0 || len(notes) != 1 || !strings.HasSuffix(notes[0], "llama.cpp scores a group of experts by its two best") {
		t.Errorf("differences %q, notes %q", differences, notes)
	}
	if differences, _ := compareSpecs(file, source, nil); len(differences) == 0 {
		t.Error("a file that scores groups as the source does not is let pass")
	}
}

func TestCeiling(t *testing.T) {
	last := math.Inf(1)
	for bits := 1.0; bits < 20; bits += 0.1 {
		c := Ceiling(bits)
		if c > last || c <= 0 {
			t.Fatalf("ceiling of %.1f bits is %g after %g", bits, c, last)
		}
		last = c
	}
	if got := Ceiling(4.40); math.Abs(got-ceilingMargin*0.5045) > 1e-9 {
		t.Errorf("ceiling of Q3_K_M is %g", got)
	}
}
