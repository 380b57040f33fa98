package calibrate_test

import (
	"bytes"
	"context"
	"errors"
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
	"github.com/modelpipe/modelpipe/ops/calibrate"
	"github.com/modelpipe/modelpipe/ops/fromgguf"
	"github.com/modelpipe/modelpipe/ops/plain"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/quantize"
	"github.com/modelpipe/modelpipe/tokenizer"
)

// model is the GGUF that the converter makes of a test model.
func model(t testing.TB, name string) (*spec.Model, *gguf.Header) {
	t.Helper()
	source := os.DirFS("../../testdata/stories260K")
	if name != "stories260K" {
		source = golden.Unzip(t, filepath.Join("../../convert/testdata/golden", name, "hf.zip"))
	}
	plan, view := converttest.View(t, source, name, "f32")
	m, err := fromgguf.OpenAt(name+".gguf", view, view.Size())
	if err != nil {
		t.Fatal(err)
	}
	return m, &plan.Header
}

// chunks cuts testdata/stories.txt by the rules of a file's vocabulary.
func chunks(t testing.TB, h *gguf.Header, n, ctx int) [][]int32 {
	t.Helper()
	text, err := os.ReadFile("testdata/stories.txt")
	if err != nil {
		t.Fatal(err)
	}
	e, err := tokenizer.NewGGUFEncoder(h.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := e.Encode(strings.TrimSuffix(string(text), "\n"), tokenizer.EncodeOptions{AddSpecial: true})
	if err != nil {
		t.Fatal(err)
	}
	bos := int32(spec.None)
	if first, err := e.Encode("", tokenizer.EncodeOptions{AddSpecial: true}); err == nil && len(first) > 0 {
		bos = first[0]
	}
	c, err := calibrate.Chunks(ids, bos, n, ctx)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// plainly is the engine of package plain.
func plainly(ctx context.Context, m *spec.Model, chunks [][]int32, of calibrate.Layers, tap calibrate.Tap) error {
	type sums struct {
		values []float64
		count  int
	}
	all := map[spec.Slot]*sums{}
	var order []spec.Slot
	run := plain.Runner{Model: m, Input: func(s spec.Slot, x [][]float64) {
		gate := s
		switch s.Role {
		case spec.K, spec.V:
			return
		case spec.Up:
			gate.Role = spec.Gate
		case spec.SharedUp:
			gate.Role = spec.SharedGate
		}
		if _, gated := m.Weights[gate]; gate != s && gated {
			return
		}
		if len(x) == 0 {
			return
		}
		if all[s] == nil {
			all[s] = &sums{values: make([]float64, len(x[0]))}
			order = append(order, s)
		}
		all[s].count += len(x)
		for _, row := range x {
			for i, v := range row {
				all[s].values[i] += v * v
			}
		}
	}}
	for _, ids := range chunks {
		if _, err := run.Forward(ctx, ids); err != nil {
			return err
		}
	}
	slices.SortStableFunc(order, func(a, b spec.Slot) int { return a.Layer - b.Layer })
	for _, s := range order {
		if s.Layer < of.First || s.Layer >= of.End {
			continue
		}
		if err := tap(s, all[s].values, all[s].count); err != nil {
			return err
		}
	}
	if s := spec.Global(spec.Output); of.Output && all[s] != nil {
		return tap(s, all[s].values, all[s].count)
	}
	return nil
}

// on is the engine of package ops on a device.
func on(d *ops.Device) calibrate.Engine {
	return func(ctx context.Context, m *spec.Model, chunks [][]int32, of calibrate.Layers, tap calibrate.Tap) error {
		return ops.Calibrate(ctx, d, m, chunks, ops.Layers(of), tap, ops.Options{})
	}
}

// upstream reads a matrix that llama-imatrix made.
func upstream(t testing.TB, name string) *quantize.Imatrix {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name+".gguf"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := quantize.ReadImatrix(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// noSave is for runs that are not interrupted.
func noSave() error { return nil }

// TestAsUpstream compares with what llama-imatrix makes of the same file and
// text: the names, the counts, and the sums, which it takes in float32.
func TestAsUpstream(t *testing.T) {
	cpu, err := ops.Open("cpu")
	if err != nil {
		t.Fatal(err)
	}
	defer cpu.Close()
	for _, test := range []struct {
		model       string
		chunks, ctx int
		output      bool
		most        float64 // relative difference of a sum
		engines     map[string]calibrate.Engine
	}{
		{"stories260K", 5, 128, false, 1e-5, map[string]calibrate.Engine{"cpu": on(cpu)}},
		{"qwen2moe", 3, 48, true, 1e-5, map[string]calibrate.Engine{"plain": plainly, "cpu": on(cpu)}},
		{"deepseek2", 3, 48, false, 1e-5, map[string]calibrate.Engine{"plain": plainly, "cpu": on(cpu)}},
		{"falcon", 3, 48, false, 1e-2, map[string]calibrate.Engine{"plain": plainly, "cpu": on(cpu)}}, // GELU by a table there
		{"lfm2", 3, 48, false, 1e-5, map[string]calibrate.Engine{"plain": plainly, "cpu": on(cpu)}},
		{"llama4", 3, 48, false, 1e-5, map[string]calibrate.Engine{"plain": plainly, "cpu": on(cpu)}},
	} {
		for engine, run := range test.engines {
			t.Run(test.model+"/"+engine, func(t *testing.T) {
				m, h := model(t, test.model)
				c := calibrate.New(m, h.Tensors, "inputs", test.output)
				if err := c.Run(t.Context(), run, chunks(t, h, test.chunks, test.ctx), c.All(), noSave); err != nil {
					t.Fatal(err)
				}
				if !c.Complete() {
					t.Error("not complete")
				}
				compare(t, c.File("stories.txt", test.chunks, test.ctx), upstream(t, test.model), test.most)
			})
		}
	}
}

func compare(t *testing.T, got *quantize.ImatrixFile, want *quantize.Imatrix, most float64) {
	t.Helper()
	var names []string
	for _, e := range got.Entries {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, want.Names()) {
		t.Fatalf("entries %v: want %v", names, want.Names())
	}
	worst := 0.0
	for _, e := range got.Entries {
		w, _, err := want.Sums(e.Name)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(e.Counts, w.Counts) || len(e.Sums) != len(w.Sums) {
			t.Errorf("%s: counts %v for %d sums: want %v for %d", e.Name, e.Counts, len(e.Sums), w.Counts, len(w.Sums))
			continue
		}
		for i := range e.Sums {
			diff := math.Abs(float64(e.Sums[i]-w.Sums[i])) / (1e-6 + math.Abs(float64(w.Sums[i])))
			if worst = max(worst, diff); diff > most {
				t.Errorf("%s: column %d is %g: want %g", e.Name, i, e.Sums[i], w.Sums[i])
				break
			}
		}
	}
	t.Logf("largest relative difference %.1e", worst)
}

// TestParts does a calibration in parts, some interrupted, and puts them
// together: the file is that of one run.
func TestParts(t *testing.T) {
	m, h := model(t, "qwen2moe")
	text := chunks(t, h, 2, 32)
	encode := func(c *calibrate.Calibration) []byte {
		var b bytes.Buffer
		if err := c.File("stories.txt", 2, 32).Write(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	fresh := func() *calibrate.Calibration { return calibrate.New(m, h.Tensors, "inputs", true) }
	whole := fresh()
	if err := whole.Run(t.Context(), plainly, text, whole.All(), noSave); err != nil {
		t.Fatal(err)
	}

	dir := t.TempDir()
	state := func(name string) string { return filepath.Join(dir, name) }
	save := func(c *calibrate.Calibration, name string) func() error {
		return func() error { return c.SaveState(state(name), "stories.txt", 2, 32) }
	}
	// The last layer and the head, elsewhere.
	a := fresh()
	if err := a.Run(t.Context(), plainly, text, calibrate.Layers{First: 2, End: 3, Output: true}, save(a, "a")); err != nil {
		t.Fatal(err)
	}
	// Two layers of which the second fails midway.
	b := fresh()
	stop := errors.New("stop")
	err := b.Run(t.Context(), func(ctx context.Context, m *spec.Model, chunks [][]int32, of calibrate.Layers, tap calibrate.Tap) error {
		return plainly(ctx, m, chunks, of, func(s spec.Slot, sumsq []float64, count int) error {
			if s.Layer == 1 && s.Role == spec.Router {
				return stop
			}
			return tap(s, sumsq, count)
		})
	}, text, calibrate.Layers{First: 0, End: 2}, save(b, "b"))
	if !errors.Is(err, stop) {
		t.Fatalf("error %v", err)
	}
	if b.Complete() {
		t.Error("an interrupted calibration is complete")
	}

	c := fresh()
	for _, name := range []string{"b", "a"} {
		if err := c.LoadState(state(name)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := c.Missing(c.All()), []calibrate.Layers{{First: 1, End: 2}}; !slices.Equal(got, want) {
		t.Fatalf("missing %v: want %v", got, want)
	}
	if err := c.Run(t.Context(), plainly, text, c.All(), noSave); err != nil {
		t.Fatal(err)
	}
	if !c.Complete() || !bytes.Equal(encode(c), encode(whole)) {
		t.Error("the parts together are not the whole")
	}

	other := calibrate.New(m, h.Tensors, "other inputs", true)
	if err := other.LoadState(state("a")); !errors.Is(err, calibrate.ErrOtherInputs) {
		t.Errorf("error %v: want %v", err, calibrate.ErrOtherInputs)
	}
	_, h2 := model(t, "mixtral")
	m2, _ := model(t, "mixtral")
	if err := calibrate.New(m2, h2.Tensors, "inputs", true).LoadState(state("a")); err == nil {
		t.Error("the state of another model is taken")
	}
	if err := whole.File("x", 1, 1).Save(state("plain")); err != nil {
		t.Fatal(err)
	}
	if err := fresh().LoadState(state("plain")); err == nil || !strings.Contains(err.Error(), "not the state of a calibration") {
		t.Errorf("error %v", err)
	}
}

// TestEngineErrors has engines that do not keep their contract.
func TestEngineErrors(t *testing.T) {
	m, h := model(t, "stories260K")
	dim := m.Width
	for name, test := range map[string]struct {
		engine func(tap calibrate.Tap) error
		of     calibrate.Layers
		want   string
	}{
		"nothing":      {func(calibrate.Tap) error { return nil }, calibrate.Layers{End: 1}, "the engine gave nothing for layer 0"},
		"too little":   {func(tap calibrate.Tap) error { return tap(spec.At(0, spec.Q), make([]float64, dim), 1) }, calibrate.Layers{End: 1}, "the engine gave no input of layer 0 "},
		"no matrix":    {func(tap calibrate.Tap) error { return tap(spec.At(0, spec.Router), make([]float64, dim), 1) }, calibrate.Layers{End: 1}, "layer 0 router is no matrix of the model"},
		"columns":      {func(tap calibrate.Tap) error { return tap(spec.At(0, spec.Q), make([]float64, 3), 1) }, calibrate.Layers{End: 1}, "sums of 3 columns: tensor blk.0.attn_q.weight has 64"},
		"not finite":   {func(tap calibrate.Tap) error { return tap(spec.At(0, spec.Q), []float64{math.NaN()}, 1) }, calibrate.Layers{End: 1}, "column 0 has a sum of squares of NaN"},
		"no tokens":    {func(tap calibrate.Tap) error { return tap(spec.At(0, spec.Q), make([]float64, dim), 0) }, calibrate.Layers{End: 1}, "0 tokens"},
		"not asked":    {func(tap calibrate.Tap) error { return tap(spec.At(2, spec.Q), make([]float64, dim), 1) }, calibrate.Layers{End: 1}, "layer 2 q was not asked for"},
		"layer range":  {nil, calibrate.Layers{First: 3, End: 9}, "layers 3:9: the model has 5"},
		"empty range":  {nil, calibrate.Layers{First: 3, End: 3}, "layers 3:3: the model has 5"},
		"engine fails": {func(calibrate.Tap) error { return errors.New("out of memory") }, calibrate.Layers{End: 1}, "out of memory"},
	} {
		t.Run(name, func(t *testing.T) {
			c := calibrate.New(m, h.Tensors, "", false)
			err := c.Run(t.Context(), func(_ context.Context, _ *spec.Model, _ [][]int32, _ calibrate.Layers, tap calibrate.Tap) error {
				return test.engine(tap)
			}, nil, test.of, noSave)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v: want %q", err, test.want)
			}
			if c.Complete() {
				t.Error("complete")
			}
		})
	}
}

func TestChunks(t *testing.T) {
	ids := []int32{1, 2, 3, 4, 5, 6, 7}
	got, err := calibrate.Chunks(ids, 9, 0, 3)
	if err != nil || !slices.Equal(got[0], []int32{9, 2, 3}) || !slices.Equal(got[1], []int32{9, 5, 6}) || len(got) != 2 {
		t.Errorf("%v %v", got, err)
	}
	if got, err = calibrate.Chunks(ids, spec.None, 1, 3); err != nil || len(got) != 1 || got[0][0] != 1 {
		t.Errorf("%v %v", got, err)
	}
	if ids[0] != 1 {
		t.Error("the text was changed")
	}
	if _, err = calibrate.Chunks(ids, 9, 0, 8); err == nil || err.Error() != "the text has 7 tokens: fewer than a chunk of 8" {
		t.Errorf("error %v", err)
	}
}
