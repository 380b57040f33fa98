package validate

import (
	"context"
	"encoding/binary"
	"io/fs"
	"math"
	"slices"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

// floats decodes a tensor, lets edit change it, and encodes it again.
func floats(t testing.TB, data []byte, tensor string, edit func(w []float32, cols int)) {
	t.Helper()
	raw, info := tensorData(t, data, tensor)
	codec, ok := quantize.Definition(info.Type)
	if !ok {
		t.Fatalf("no codec for %s", info.Type)
	}
	n, err := info.Elements()
	if err != nil {
		t.Fatal(err)
	}
	w := make([]float32, n)
	codec.Decode(w, raw)
	edit(w, int(info.Shape[0]))
	codec.Encode(raw, w, int(info.Shape[0]), nil)
}

// swap exchanges the data of two tensors.
func swap(t testing.TB, data []byte, a, b string) {
	t.Helper()
	x, _ := tensorData(t, data, a)
	y, _ := tensorData(t, data, b)
	if len(x) != len(y) {
		t.Fatalf("%s has %d bytes, %s %d", a, len(x), b, len(y))
	}
	was := slices.Clone(x)
	copy(x, y)
	copy(y, was)
}

// faults are what a converter may do wrong and what an attacker may do, and
// the gates that must notice.
var faults = []struct {
	name          string
	model, preset string
	do            func(t testing.TB, data []byte, h *gguf.Header)
	gates         []string
}{
	{"a head is permuted wrongly", "llama3", "f32", func(t testing.TB, data []byte, h *gguf.Header) {
		floats(t, data, "blk.1.attn_q.weight", func(w []float32, cols int) {
			// The rows of the first head as Hugging Face has them.
			heads, err := h.Metadata.Int("llama.attention.head_count")
			if err != nil {
				t.Fatal(err)
			}
			dim := len(w) / cols / int(heads)
			was := slices.Clone(w[:dim*cols])
			for r := range dim {
				from := r%(dim/2)*2 + r/(dim/2)
				copy(w[r*cols:(r+1)*cols], was[from*cols:])
			}
		})
	}, []string{"weights.ok", "nmse", "top1"}},
	{"the one that a norm adds is forgotten", "gemma2", "f32", func(t testing.TB, data []byte, _ *gguf.Header) {
		floats(t, data, "blk.1.attn_norm.weight", func(w []float32, _ int) {
			for i := range w {
				w[i]--
			}
		})
	}, []string{"weights.ok", "nmse", "top1"}},
	{"gate and up are swapped", "llama3", "f32", func(t testing.TB, data []byte, _ *gguf.Header) {
		swap(t, data, "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight")
	}, []string{"weights.ok", "nmse", "top1"}},
	{"the embedding is shifted by a token", "stories", "Q8_0", func(t testing.TB, data []byte, _ *gguf.Header) {
		raw, info := tensorData(t, data, "token_embd.weight")
		row, err := info.Type.RowBytes(info.Shape[0])
		if err != nil {
			t.Fatal(err)
		}
		copy(raw[row:], slices.Clone(raw))
	}, []string{"weights.ok", "kld.mean"}},
	{"a block is corrupt", "stories", "Q8_0", func(t testing.TB, data []byte, _ *gguf.Header) {
		raw, _ := tensorData(t, data, "blk.2.ffn_gate.weight")
		at := len(raw) / 34 / 2 * 34 // a block of Q8_0
		scale := binary.LittleEndian.Uint16(raw[at:])
		binary.LittleEndian.PutUint16(raw[at:], scale^1<<10) // twice or half of it
	}, []string{"weights.ok"}},
	{"a row is another one's", "stories", "Q4_K_M", func(t testing.TB, data []byte, _ *gguf.Header) {
		floats(t, data, "blk.3.attn_output.weight", func(w []float32, cols int) {
			copy(w[5*cols:6*cols], w[9*cols:10*cols])
		})
	}, []string{"weights.ok"}},
	{"something is trained into every row, less than a step of the type", "stories", "Q4_K_M", func(t testing.TB, data []byte, _ *gguf.Header) {
		floats(t, data, "blk.2.attn_output.weight", func(w []float32, cols int) {
			for r := 0; r < len(w)/cols; r++ {
				row := w[r*cols : (r+1)*cols]
				var size float64
				for _, x := range row {
					size += float64(x) * float64(x)
				}
				for c := range row {
					row[c] += float32(0.12 * math.Sqrt(size/float64(cols)) * math.Cos(float64(c)) * math.Copysign(1, math.Sin(float64(3*r))))
				}
			}
		})
	}, []string{"weights.ok"}},
}

func faultSource(t testing.TB, model string) fs.FS {
	if model == "stories" {
		return stories(t)
	}
	return goldenModel(t, model)
}

// quick are options for tiny models.
func quick(t testing.TB) Options {
	return Options{Engine: cpu(t), Chunks: 4, Ctx: 64, Skip: []string{CheckTokens, CheckTemplate, CheckCanaries}}
}

func failed(r *Report) []string {
	var names []string
	for _, g := range r.Gates {
		if !g.Pass {
			names = append(names, g.Name)
		}
	}
	return names
}

// TestFaults makes each mistake in a file that is right otherwise.
func TestFaults(t *testing.T) {
	sound := map[string]bool{}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			source := faultSource(t, f.model)
			data := converted(t, source, f.model, f.preset)
			if key := f.model + f.preset; !sound[key] {
				sound[key] = true
				r, err := Run(context.Background(), openSource(t, source), openCandidate(t, slices.Clone(data)), quick(t))
				if err != nil {
					t.Fatal(err)
				}
				if !r.Pass {
					t.Fatalf("without the fault: %+v: %v %v", r.Gates, r.Structure.Differences, r.Weights.Suspicious)
				}
			}
			f.do(t, data, openGGUF(t, data).Header)
			r, err := Run(context.Background(), openSource(t, source), openCandidate(t, data), quick(t))
			if err != nil {
				t.Fatal(err)
			}
			if no := failed(r); r.Pass || !slices.Equal(no, f.gates) {
				t.Errorf("gates %v say no: want %v: %+v %v", no, f.gates, r.Gates, r.Weights.Suspicious)
			}
		})
	}
}
