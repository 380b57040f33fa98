package fromgguf_test

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/convert/converttest"
	"github.com/modelpipe/modelpipe/internal/golden"
	"github.com/modelpipe/modelpipe/ops/fromgguf"
	"github.com/modelpipe/modelpipe/ops/plain"
	"github.com/modelpipe/modelpipe/ops/spec"
)

const goldens = "../../convert/testdata/golden"

// converted is the GGUF that the converter makes of a golden model, computed
// as it is read; preset "" is --type auto.
func converted(t testing.TB, name, preset string) (*convert.Plan, *convert.View) {
	t.Helper()
	return converttest.View(t, golden.Unzip(t, filepath.Join(goldens, name, "hf.zip")), name, preset)
}

func opened(t testing.TB, name, preset string) *spec.Model {
	t.Helper()
	_, view := converted(t, name, preset)
	m, err := fromgguf.OpenAt(name+".gguf", view, view.Size())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// expectation is what transformers computed for the tokens of IDs: a row of
// values for each, in expected.f32.
type expectation struct {
	IDs   []int32 `json:"ids"`
	Shape [2]int  `json:"shape"`
}

func expected(t testing.TB, dir string) ([]int32, [][]float64) {
	t.Helper()
	var e expectation
	data, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err == nil {
		err = json.Unmarshal(data, &e)
	}
	if err != nil {
		t.Fatal(err)
	}
	return e.IDs, golden.Rows(t, filepath.Join(dir, "expected.f32"), e.Shape[1])
}

// agree compares what a model gives with what is expected: rows are those of
// the positions first, first+step, and so on.
func agree(t *testing.T, m *spec.Model, ids []int32, rows [][]float64, first, step int, most float64) {
	t.Helper()
	got, err := plain.Forward(context.Background(), m, ids)
	if err != nil {
		t.Fatal(err)
	}
	var diff, norm float64
	for i, want := range rows {
		at := first + i*step
		row := got[at]
		if len(row) != len(want) {
			t.Fatalf("%d values: want %d", len(row), len(want))
		}
		for j, v := range row {
			diff += (v - want[j]) * (v - want[j])
			norm += want[j] * want[j]
		}
		if g, w := top(row), top(want); m.Head != nil && g != w {
			t.Errorf("token %d: most probable is %d: want %d", at, g, w)
		}
	}
	nmse := diff / norm
	t.Logf("NMSE %.2g", nmse)
	if !(nmse <= most) {
		t.Errorf("NMSE %g: want at most %g", nmse, most)
	}
}

func top(row []float64) int {
	best := 0
	for i, v := range row {
		if v > row[best] {
			best = i
		}
	}
	return best
}

// TestGoldens holds each golden model, converted and read back, to the logits
// that transformers computed from the source. It did so with the rotary
// frequencies in bfloat16, to which its models cast them, so the test does too.
func TestGoldens(t *testing.T) {
	dirs, err := filepath.Glob("../testdata/golden/*/expected.json")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no goldens (%v)", err)
	}
	for _, file := range dirs {
		dir := filepath.Dir(file)
		name := filepath.Base(dir)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, most := opened(t, name, "f32"), 1e-10
			switch name {
			case "bert", "falcon":
				most = 1e-6 // of GELU llama.cpp has the approximation by tanh only
			case "gptoss":
				// llama.cpp rounds the range in which YaRN mixes to whole pairs;
				// this model's config says that it is not to be rounded.
				for i := range m.Blocks {
					r := m.Blocks[i].Attention.Rope
					r.InvFreq = unroundedYaRN(len(r.InvFreq), 150000, 32, 4096)
				}
			}
			for i := range m.Blocks {
				if a := m.Blocks[i].Attention; a.Rope != nil {
					for k, f := range a.Rope.InvFreq {
						a.Rope.InvFreq[k] = bfloat16(f)
					}
				}
			}
			ids, rows := expected(t, dir)
			agree(t, m, ids, rows, 0, 1, most)
		})
	}
}

func bfloat16(x float64) float64 {
	b := math.Float32bits(float32(x))
	return float64(math.Float32frombits((b + 0x7fff + b>>16&1) &^ 0xffff))
}

// unroundedYaRN is the frequencies of n pairs as transformers has them without
// truncation.
func unroundedYaRN(n int, base, factor, context float64) []float64 {
	corr := func(turns float64) float64 {
		return float64(2*n) * math.Log(context/(turns*2*math.Pi)) / (2 * math.Log(base))
	}
	low, high := max(0, corr(32)), min(float64(2*n-1), corr(1))
	f := make([]float64, n)
	for i := range f {
		ramp := min(1, max(0, (float64(i)-low)/(high-low)))
		f[i] = math.Pow(base, -float64(i)/float64(n)) * (ramp/factor + 1 - ramp)
	}
	return f
}

// TestAgainstRuntime holds models of the further architectures to what
// llama.cpp computes with the same file: see testdata/llamacpp.
func TestAgainstRuntime(t *testing.T) {
	files, err := filepath.Glob("testdata/llamacpp/*.f32")
	if err != nil || len(files) == 0 {
		t.Fatalf("no results (%v)", err)
	}
	ids := make([]int32, 40)
	for i := range ids {
		ids[i] = int32((7*i*i + 11*i + 5) % 300)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".f32")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := opened(t, name, "f32")
			most, width := 1e-11, m.Vocab
			if m.Head == nil {
				width = m.Width
			}
			if m.Blocks[0].FFN.Activation == spec.GELUTanh {
				most = 1e-6 // llama.cpp looks GELU up in a table of 16-bit floats
			}
			agree(t, m, ids, golden.Rows(t, file, width), 3, 4, most)
		})
	}
}
