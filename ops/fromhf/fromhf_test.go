package fromhf

import (
	"context"
	"encoding/binary"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/modelpipe/modelpipe/internal/golden"
	"github.com/modelpipe/modelpipe/ops/plain"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/safetensors"
)

// models has a zipped folder for each family that the converter knows.
const models = "../../convert/testdata/golden"

// expected has transformers' float32 logits (BERT: hidden states) for prompt.
const expected = "../testdata/golden"

// prompt is what the expected logits are of.
var prompt = []int32{
	5, 15, 39, 77, 129, 195, 275, 369, 477, 99, 235, 385, 49, 227, 419, 125, 345, 79, 327, 89,
	365, 155, 459, 277, 109, 455, 315, 189, 77, 479, 395, 325, 269, 227, 199, 185, 185, 199, 227, 269,
}

func open(t testing.TB, name string) *spec.Model {
	t.Helper()
	m, err := Open(context.Background(), golden.Unzip(t, filepath.Join(models, name, "hf.zip")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// readExpected reads rows of float32.
func readExpected(t testing.TB, name string, rows int) [][]float64 {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	cols := len(data) / 4 / rows
	out := make([][]float64, rows)
	for i := range out {
		for j := range cols {
			out[i] = append(out[i], float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*(i*cols+j):]))))
		}
	}
	return out
}

// compare returns sum((got-want)^2)/sum(want^2) and the share of rows with the
// same largest value.
func compare(t testing.TB, got, want [][]float64) (nmse, top1 float64) {
	t.Helper()
	if len(got) != len(want) || len(got[0]) != len(want[0]) {
		t.Fatalf("got %d x %d values, want %d x %d", len(got), len(got[0]), len(want), len(want[0]))
	}
	diff, sum := 0.0, 0.0
	for i := range want {
		best, wantBest := 0, 0
		for j := range want[i] {
			diff += (got[i][j] - want[i][j]) * (got[i][j] - want[i][j])
			sum += want[i][j] * want[i][j]
			if got[i][j] > got[i][best] {
				best = j
			}
			if want[i][j] > want[i][wantBest] {
				wantBest = j
			}
		}
		if best == wantBest {
			top1++
		}
	}
	return diff / sum, top1 / float64(len(want))
}

// roundFrequencies rounds the frequencies of every rotary embedding to bfloat16.
// The expected logits are those of models that had been cast to bfloat16 and
// back, which leaves weights as they are stored and rounds this buffer.
func roundFrequencies(m *spec.Model) {
	round := func(freq []float64) []float64 {
		var out []float64
		for _, f := range freq {
			bits := math.Float32bits(float32(f))
			bits += 0x7fff + bits>>16&1
			out = append(out, float64(math.Float32frombits(bits&0xffff0000)))
		}
		return out
	}
	for i := range m.Blocks {
		if a := m.Blocks[i].Attention; a != nil && a.Rope != nil {
			attn, rope := *a, *a.Rope
			rope.InvFreq, rope.Long = round(rope.InvFreq), round(rope.Long)
			attn.Rope, m.Blocks[i].Attention = &rope, &attn
		}
	}
}

// TestLogits holds what transformers computes for each family: to the last
// digits of float32 with its frequencies, and nearly with exact ones.
func TestLogits(t *testing.T) {
	names, err := filepath.Glob(filepath.Join(expected, "*", "expected.f32"))
	if err != nil || len(names) < 25 {
		t.Fatalf("%d files of expected logits, %v", len(names), err)
	}
	for _, name := range names {
		model := filepath.Base(filepath.Dir(name))
		t.Run(model, func(t *testing.T) {
			t.Parallel()
			m, want := open(t, model), readExpected(t, name, len(prompt))
			nmse, top1 := compare(t, forward(t, m, prompt), want)
			t.Logf("with exact frequencies: nmse %.2g, top-1 %.4g", nmse, top1)
			if !(nmse <= 2e-6) || top1 < 0.97 {
				t.Errorf("with exact frequencies: nmse %.3g, top-1 %.4g: want at most 2e-6 and 1", nmse, top1)
			}
			roundFrequencies(m)
			nmse, top1 = compare(t, forward(t, m, prompt), want)
			t.Logf("nmse %.2g, top-1 %.4g", nmse, top1)
			if !(nmse <= 1e-12) || top1 != 1 {
				t.Errorf("nmse %.3g, top-1 %.4g: want at most 1e-12 and 1", nmse, top1)
			}
		})
	}
}

func forward(t testing.TB, m *spec.Model, ids []int32) [][]float64 {
	t.Helper()
	got, err := plain.Forward(context.Background(), m, ids)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// llamacpp has what llama.cpp computes with converted models: the values of
// every fourth of 40 positions.
const llamacpp = "../fromgguf/testdata/llamacpp"

// asLlamaCpp changes what llama.cpp is known to compute in another way.
var asLlamaCpp = map[string]func(m *spec.Model){
	// It knows of windows, and of layers without positions, in EXAONE 4 models
	// of 64 layers only.
	"exaone4": func(m *spec.Model) {
		rope := m.Blocks[0].Attention.Rope
		for i := range m.Blocks {
			m.Blocks[i].Attention.Rope, m.Blocks[i].Attention.Window = rope, 0
		}
	},
	// It limits experts to groups wherever there are groups, whatever
	// topk_method says, and scores a group by its two best experts.
	"dsv2-tied": func(m *spec.Model) {
		for i := range m.Blocks {
			if e := m.Blocks[i].FFN.MoE; e != nil {
				e.Groups, e.GroupsUsed, e.GroupTop2 = 2, 1, true
			}
		}
	},
	// Its BitNet always has the activation of the first such models.
	"bitnet-packed": func(m *spec.Model) {
		for i := range m.Blocks {
			m.Blocks[i].FFN.Activation = spec.SiLU
		}
	},
}

// TestLlamaCpp compares families of which there are no logits by transformers
// with llama.cpp, which rounds and approximates more.
func TestLlamaCpp(t *testing.T) {
	names, err := filepath.Glob(filepath.Join(llamacpp, "*.f32"))
	if err != nil || len(names) < 30 {
		t.Fatalf("%d files of expected logits, %v", len(names), err)
	}
	ids := make([]int32, 40)
	for i := range ids {
		ids[i] = int32((7*i*i + 11*i + 5) % 300)
	}
	for _, name := range names {
		model := strings.TrimSuffix(filepath.Base(name), ".f32")
		t.Run(model, func(t *testing.T) {
			t.Parallel()
			m := open(t, model)
			if as := asLlamaCpp[model]; as != nil {
				as(m)
			}
			var got [][]float64
			for i, row := range forward(t, m, ids) {
				if i%4 == 3 {
					got = append(got, row)
				}
			}
			nmse, _ := compare(t, got, readExpected(t, name, len(got)))
			t.Logf("nmse %.2g", nmse)
			if !(nmse <= 1e-6) {
				t.Errorf("nmse %.3g: want at most 1e-6", nmse)
			}
		})
	}
}

// TestNames reads the same model under names that other checkpoints have.
func TestNames(t *testing.T) {
	for _, test := range []struct {
		model  string
		rename func(name string) string
	}{
		{"bert", func(name string) string {
			name = strings.Replace(name, "LayerNorm.weight", "LayerNorm.gamma", 1)
			return "bert." + strings.Replace(name, "LayerNorm.bias", "LayerNorm.beta", 1)
		}},
		{"gpt2", func(name string) string { return strings.TrimPrefix(name, "transformer.") }},
		{"gemma3-v5", func(name string) string { return "language_model." + name }},
		{"olmo2", func(name string) string { return strings.Replace(name, "model.", "model.language_model.", 1) }},
	} {
		source := golden.Unzip(t, filepath.Join(models, test.model, "hf.zip"))
		want, err := Open(context.Background(), source)
		if err != nil {
			t.Fatal(err)
		}
		checkpoint, err := safetensors.Open(context.Background(), source)
		if err != nil {
			t.Fatal(err)
		}
		header := &safetensors.Header{}
		var body []byte
		for f, tensor := range checkpoint.All() {
			data := make([]byte, tensor.Size)
			if _, err := f.Data(tensor).ReadAt(data, 0); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			tensor.Name = test.rename(tensor.Name)
			header.Tensors, body = append(header.Tensors, tensor), append(body, data...)
		}
		if _, err := header.Layout(); err != nil {
			t.Fatal(err)
		}
		head, err := header.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		renamed := fstest.MapFS{"config.json": source["config.json"], "model.safetensors": {Data: append(head, body...)}}
		got, err := Open(context.Background(), renamed)
		if err != nil {
			t.Errorf("%s: %v", test.model, err)
			continue
		}
		if nmse, _ := compare(t, forward(t, got, prompt[:8]), forward(t, want, prompt[:8])); nmse != 0 {
			t.Errorf("%s: nmse %g", test.model, nmse)
		}
		for _, c := range []io.Closer{got, want, checkpoint} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
