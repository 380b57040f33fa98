package budget

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/convert/converttest"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/internal/golden"
	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/ops/fromgguf"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/quantize"
)

// stories is the bundled model, converted to a preset, "" for none.
func stories(t *testing.T, preset string) *spec.Model {
	t.Helper()
	return open(t, "stories260K", preset)
}

// open is stories260K or one of the converter's models as the GGUF file of a
// preset.
func open(t *testing.T, name, preset string) *spec.Model {
	t.Helper()
	source := os.DirFS("../../testdata/stories260K")
	if name != "stories260K" {
		source = golden.Unzip(t, filepath.Join("../../convert/testdata/golden", name, "hf.zip"))
	}
	_, view := converttest.View(t, source, name, preset)
	m, err := fromgguf.OpenAt(name, view, view.Size())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func device(t *testing.T) *ops.Device {
	t.Helper()
	d, err := ops.Open("cpu")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// chunksOf are chunks of ids that the model finds likely, as it continues prompts
// of two tokens.
func chunksOf(t *testing.T, d *ops.Device, m *spec.Model, n, length int) [][]int32 {
	t.Helper()
	var prompts [][]int32
	for i := range n {
		prompts = append(prompts, []int32{1, int32(260 + 7*i)})
	}
	more, err := ops.Greedy(t.Context(), d, m, prompts, length-2, nil, ops.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range prompts {
		prompts[i] = append(prompts[i], more[i]...)
	}
	return prompts
}

// importance makes an importance matrix in which the columns of every tensor of
// a model count 1, 2, ... up to 7 and again, of each expert from another one on.
func importance(t *testing.T, m *spec.Model) *quantize.Imatrix {
	t.Helper()
	f := &quantize.ImatrixFile{Datasets: []string{"made up"}, Chunks: 1, ChunkSize: 1}
	experts, columns := map[string]int{}, map[string]int{}
	for slot, w := range m.Weights {
		if w.Rows > 1 {
			name := w.Names[0]
			experts[name], columns[name] = max(experts[name], slot.Expert+1, 1), w.Cols
		}
	}
	for name, n := range experts {
		entry := quantize.ImatrixSums{Name: name}
		for x := range n {
			for i := range columns[name] {
				entry.Sums = append(entry.Sums, float32(1+(i+x)%7))
			}
			entry.Counts = append(entry.Counts, 1)
		}
		f.Entries = append(f.Entries, entry)
	}
	var b bytes.Buffer
	if err := f.Write(&b); err != nil {
		t.Fatal(err)
	}
	im, err := quantize.ReadImatrix(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// TestMeasureIsItsDefinition holds Measure, which quantizes pieces side by side,
// to half the sum of F D^2 over whole matrices.
func TestMeasureIsItsDefinition(t *testing.T) {
	d := device(t)
	for _, c := range []struct {
		name    string
		tensors int // with losses
	}{{"stories260K", 31}, {"mixtral", 23}} {
		m := open(t, c.name, "")
		chunks := chunksOf(t, d, m, 3, 16)
		for _, im := range []*quantize.Imatrix{nil, importance(t, m)} {
			types := func(name string, cols int) []gguf.Type {
				if strings.Contains(name, "norm") || strings.Contains(name, "attn_q") {
					return nil
				}
				return quantize.FitTypes(int64(cols), im != nil, false)
			}
			got, err := Measure(t.Context(), d, m, chunks, Options{Types: types, Importance: im, Seed: 3})
			if err != nil {
				t.Fatal(err)
			}
			want := definition(t, d, m, chunks, types, im, 3)
			if len(got) != len(want) || len(got) != c.tensors {
				t.Fatalf("%s: %d tensors have losses: want %d, %d", c.name, len(got), len(want), c.tensors)
			}
			for name, row := range want {
				if strings.Contains(name, "attn_q") || len(got[name]) != len(row) {
					t.Errorf("%s: losses of %d types: want %d", name, len(got[name]), len(row))
				}
				for typ, loss := range row {
					if g := got[name][typ]; !(math.Abs(g-loss) <= 1e-5*loss) {
						t.Errorf("%s as %v loses %g: want %g", name, typ, g, loss)
					}
				}
			}
		}
	}
}

// definition is what Measure means, row by row.
func definition(t *testing.T, d *ops.Device, m *spec.Model, chunks [][]int32, types func(string, int) []gguf.Type, im *quantize.Imatrix, seed uint64) quantize.Losses {
	t.Helper()
	losses := quantize.Losses{}
	if err := ops.Fisher(t.Context(), d, m, chunks, seed, func(in ops.Information) error {
		w := m.Weights[in.Slot]
		name := w.Names[0]
		all, err := w.Floats(context.Background())
		if err != nil {
			return err
		}
		var weigh []float32
		if im != nil {
			weigh = make([]float32, w.Cols)
			if ok, err := im.Values(weigh, name, int64(max(0, in.Slot.Expert))); err != nil || !ok {
				t.Errorf("%v: no importance: %v", in.Slot, err)
			}
		}
		for _, typ := range types(name, w.Cols) {
			codec, _ := quantize.Lookup(typ)
			size, err := typ.RowBytes(int64(w.Cols))
			if err != nil {
				return err
			}
			encoded, y := make([]byte, size), make([]float32, w.Cols)
			if losses[name] == nil {
				losses[name] = map[gguf.Type]float64{}
			}
			for k, row := range in.Rows {
				x := all[row*w.Cols:][:w.Cols]
				codec.Encode(encoded, x, w.Cols, weigh)
				codec.Decode(y, encoded)
				for j := range x {
					losses[name][typ] += 0.5 * float64(in.F[k*w.Cols+j]) * math.Pow(float64(y[j])-float64(x[j]), 2)
				}
			}
		}
		return nil
	}, ops.Options{}); err != nil {
		t.Fatal(err)
	}
	return losses
}

// TestMeasurePredictsPresets compares the sums of losses over the tensors of
// whole presets with their measured divergence.
func TestMeasurePredictsPresets(t *testing.T) {
	d, m := device(t), stories(t, "")
	chunks := chunksOf(t, d, m, 12, 24)
	presets := []string{"Q8_0", "Q5_0", "Q4_1"}
	var candidates []*spec.Model
	for _, p := range presets {
		candidates = append(candidates, stories(t, p))
	}
	// Every type that one of the presets gives a tensor.
	typesOf := map[string][]gguf.Type{}
	for _, c := range candidates {
		for _, w := range c.Weights {
			typ, err := gguf.ParseType(w.Type)
			if err != nil {
				t.Fatal(err)
			}
			if name := w.Names[0]; w.Rows > 1 && typ != gguf.F16 && !slices.Contains(typesOf[name], typ) {
				typesOf[name] = append(typesOf[name], typ)
			}
		}
	}
	losses, err := Measure(t.Context(), d, m, chunks, Options{Types: func(name string, _ int) []gguf.Type { return typesOf[name] }, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	measured, err := ops.CompareAll(t.Context(), d, m, candidates, chunks, ops.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range candidates {
		expected, seen := 0.0, map[string]bool{}
		for _, w := range c.Weights {
			typ, err := gguf.ParseType(w.Type)
			if err != nil {
				t.Fatal(err)
			}
			if name := w.Names[0]; w.Rows > 1 && !seen[name] {
				seen[name] = true
				expected += losses[name][typ]
			}
		}
		kld := measured[i].KLD.Mean
		t.Logf("%s: KLD %.4g, expected %.4g (%.2f)", presets[i], kld, expected, expected/kld)
		if r := expected / kld; !(r > 0.5 && r < 2) {
			t.Errorf("%s loses %g nats: expected were %g", presets[i], kld, expected)
		}
	}
}

// TestMeasureRepeats runs twice: the same bits, and others with another seed.
func TestMeasureRepeats(t *testing.T) {
	d, m := device(t), stories(t, "")
	chunks := chunksOf(t, d, m, 2, 12)
	run := func(seed uint64) quantize.Losses {
		l, err := Measure(t.Context(), d, m, chunks, Options{Types: func(string, int) []gguf.Type { return []gguf.Type{gguf.F16, gguf.BF16} }, Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	a, b, c := run(1), run(1), run(2)
	const name = "token_embd.weight"
	if a[name][gguf.BF16] != b[name][gguf.BF16] {
		t.Errorf("%g and %g of the same seed", a[name][gguf.BF16], b[name][gguf.BF16])
	}
	if a[name][gguf.BF16] == c[name][gguf.BF16] {
		t.Error("another seed draws the same")
	}
}

// TestMeasureRefuses names the tensor and what it cannot do.
func TestMeasureRefuses(t *testing.T) {
	d, m := device(t), stories(t, "")
	chunks := chunksOf(t, d, m, 1, 8)
	for _, c := range []struct {
		want string
		typ  gguf.Type
	}{
		{"tensor token_embd.weight: there is no encoder for Q8_1", gguf.Q8_1},
		{"tensor token_embd.weight: ", gguf.Q4_K}, // rows of 64
		{"tensor token_embd.weight: IQ1_S cannot be encoded without importance", gguf.IQ1_S},
	} {
		_, err := Measure(t.Context(), d, m, chunks, Options{Types: func(string, int) []gguf.Type { return []gguf.Type{c.typ} }})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v: want %q", c.typ, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Measure(ctx, d, m, chunks, Options{Types: func(string, int) []gguf.Type { return nil }}); err == nil {
		t.Error("a cancelled measurement ends well")
	}
}
