package ops

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/ops/measure"
	"github.com/modelpipe/modelpipe/ops/plain"
	"github.com/modelpipe/modelpipe/ops/spec"
)

// testDevices are the Go backend, and XLA where MODELPIPE_XLA_PLUGIN names a
// plugin.
func testDevices(t testing.TB) []*Device {
	names := []string{"cpu"}
	switch p := os.Getenv("MODELPIPE_XLA_PLUGIN"); p {
	case "":
	case "cuda":
		names = append(names, p)
	default:
		names = append(names, "xla:"+p)
	}
	var devices []*Device
	for _, name := range names {
		d, err := Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		devices = append(devices, d)
	}
	return devices
}

// nmse is sum((got-want)^2) / sum(want^2).
func nmse(got []float32, want [][]float64) float64 {
	var difference, squares float64
	i := 0
	for _, row := range want {
		for _, w := range row {
			d := float64(got[i]) - w
			difference += d * d
			squares += w * w
			i++
		}
	}
	if i != len(got) {
		return math.Inf(1)
	}
	return difference / squares
}

// TestEqualsPlain runs random specifications on every device and in float64.
func TestEqualsPlain(t *testing.T) {
	for _, d := range testDevices(t) {
		n := 60
		if testing.Short() || d.Name() != "cpu" { // compiling takes XLA seconds
			n = 15
		}
		for seed := range uint64(n) {
			causal := seed%4 != 0
			m := randomModel(seed, causal)
			t.Run(fmt.Sprint(d.Name(), " ", seed), func(t *testing.T) {
				ids := randomIDs(m, seed, 5+int(seed%13))
				want, err := plain.Forward(t.Context(), m, ids)
				if err != nil {
					t.Fatal(err)
				}
				got, err := Logits(t.Context(), d, m, ids, Options{})
				if err != nil {
					t.Fatal(err)
				}
				e := nmse(got, want)
				t.Logf("NMSE %g", e)
				if !(e < 1e-9) {
					t.Errorf("NMSE %g", e)
				}
			})
		}
	}
}

// altered is a copy of a model of which every matrix is a little different.
func altered(m *spec.Model, by float32) *spec.Model {
	c := *m
	c.Family = "altered"
	c.Weights = maps.Clone(m.Weights)
	for slot, w := range c.Weights {
		read := w.Read
		w.Read = func(ctx context.Context, dst []float32, first int) error {
			err := read(ctx, dst, first)
			for i := range dst {
				dst[i] += by * float32(math.Sin(float64(first*w.Cols+i+len(slot.Role))))
			}
			return err
		}
		w.Stored = nil
		c.Weights[slot] = w
	}
	return &c
}

// plainComparison is Compare by its definition.
func plainComparison(t *testing.T, ref, cand *spec.Model, chunks [][]int32) measure.Comparison {
	t.Helper()
	a := &measure.Accumulator{}
	var squares, difference float64
	layers := make([][2]float64, len(ref.Blocks))
	for _, ids := range chunks {
		var logits [2][][]float64
		var traces [2][][][]float64
		for k, m := range []*spec.Model{ref, cand} {
			r := plain.Runner{Model: m, Trace: func(layer int, what string, x [][]float64) {
				if what == "block" {
					traces[k] = append(traces[k], x)
				}
			}}
			var err error
			if logits[k], err = r.Forward(t.Context(), ids); err != nil {
				t.Fatal(err)
			}
		}
		for l := range layers {
			for i, row := range traces[0][l] {
				for j, v := range row {
					d := traces[1][l][i][j] - v
					layers[l][0] += d * d
					layers[l][1] += v * v
				}
			}
		}
		for i := len(ids) / 2; i <= len(ids)-2; i++ {
			var logP [2][]float64
			for k := range logP {
				sum := 0.0
				for _, l := range logits[k][i] {
					sum += math.Exp(l)
				}
				for _, l := range logits[k][i] {
					logP[k] = append(logP[k], l-math.Log(sum))
				}
			}
			token := measure.Token{SameTop: argMax(logP[0]) == argMax(logP[1]),
				Reference: -logP[0][ids[i+1]], Candidate: -logP[1][ids[i+1]]}
			token.DeltaP = math.Exp(-token.Candidate) - math.Exp(-token.Reference)
			for j, p := range logP[0] {
				token.KLD += math.Exp(p) * (p - logP[1][j])
				d := logits[1][i][j] - logits[0][i][j]
				difference += d * d
				squares += logits[0][i][j] * logits[0][i][j]
			}
			a.Add(token)
		}
	}
	c := a.Result()
	c.Chunks, c.Ctx, c.NMSE = len(chunks), len(chunks[0]), difference/squares
	for _, l := range layers {
		c.Layers = append(c.Layers, l[0]/l[1])
	}
	return c
}

func argMax(x []float64) int {
	best := 0
	for i := range x {
		if x[i] > x[best] {
			best = i
		}
	}
	return best
}

// near fails where two figures differ by more than a share of the second.
func near(t *testing.T, what string, got, want, share float64) {
	t.Helper()
	if !(math.Abs(got-want) <= share*math.Abs(want)) {
		t.Errorf("%s is %g, want %g", what, got, want)
	}
}

// smallTiles makes heads of random models pass in several tiles.
func smallTiles(t *testing.T) {
	bytes, rows := tileBytes, leastTile
	tileBytes, leastTile = 1, 16
	t.Cleanup(func() { tileBytes, leastTile = bytes, rows })
}

func TestCompare(t *testing.T) {
	smallTiles(t)
	for _, d := range testDevices(t) {
		for seed := uint64(100); seed < 108; seed++ {
			m := randomModel(seed, true)
			cands := []*spec.Model{altered(m, 0.02), m, altered(m, 0.05)}
			chunks := [][]int32{randomIDs(m, 1, 14), randomIDs(m, 2, 14), randomIDs(m, 3, 14)}
			t.Run(fmt.Sprint(d.Name(), " ", seed), func(t *testing.T) {
				all, err := CompareAll(t.Context(), d, m, cands, chunks, Options{Batch: 28})
				if err != nil {
					t.Fatal(err)
				}
				for i, got := range all {
					want := plainComparison(t, m, cands[i], chunks)
					if got.Tokens != 3*6 || got.Tokens != want.Tokens || got.Chunks != 3 || got.Ctx != 14 {
						t.Errorf("%d tokens of %d chunks of %d, want %d", got.Tokens, got.Chunks, got.Ctx, want.Tokens)
					}
					near(t, "perplexity of the reference", got.PPL.Reference, want.PPL.Reference, 1e-4)
					near(t, "perplexity of the candidate", got.PPL.Candidate, want.PPL.Candidate, 1e-4)
					if i == 1 {
						if got.KLD.Max != 0 || got.NMSE != 0 || got.Top1 != 1 {
							t.Errorf("a model differs from itself: %+v", got)
						}
						continue
					}
					near(t, "KLD", got.KLD.Mean, want.KLD.Mean, 1e-3)
					near(t, "largest KLD", got.KLD.Max, want.KLD.Max, 1e-3)
					near(t, "top-1", got.Top1, want.Top1, 0)
					near(t, "NMSE", got.NMSE, want.NMSE, 1e-3)
					near(t, "change of probability", got.RMSDeltaP, want.RMSDeltaP, 1e-3)
					for l := range want.Layers {
						near(t, fmt.Sprint("NMSE after layer ", l), got.Layers[l], want.Layers[l], 1e-3)
					}
				}
				one, err := Compare(t.Context(), d, m, cands[2], chunks, Options{Weights: 1})
				if err != nil {
					t.Fatal(err)
				}
				near(t, "KLD of one alone, without reading ahead", one.KLD.Mean, all[2].KLD.Mean, 1e-4)
				ppl, err := Perplexity(t.Context(), d, m, chunks, Options{})
				if err != nil {
					t.Fatal(err)
				}
				near(t, "perplexity", ppl, all[0].PPL.Reference, 1e-5)
			})
		}
	}
}

func TestCalibrate(t *testing.T) {
	type sum struct {
		squares []float64
		count   int
	}
	first := map[spec.Role]spec.Role{spec.K: spec.Q, spec.V: spec.Q, spec.Up: spec.Gate, spec.SharedUp: spec.SharedGate}
	for _, d := range testDevices(t) {
		for seed := uint64(200); seed < 212; seed++ {
			m := randomModel(seed, true)
			chunks := [][]int32{randomIDs(m, 1, 12), randomIDs(m, 2, 12)}
			want := map[spec.Slot]sum{}
			for _, ids := range chunks {
				r := plain.Runner{Model: m, Input: func(s spec.Slot, x [][]float64) {
					if at := first[s.Role]; at != "" && m.Weights[spec.Slot{Layer: s.Layer, Role: at, Expert: s.Expert}].Rows > 0 {
						return // another matrix with the same input
					}
					w := want[s]
					if w.squares == nil {
						w.squares = make([]float64, len(x[0]))
					}
					for _, row := range x {
						for j, v := range row {
							w.squares[j] += v * v
						}
					}
					w.count += len(x)
					want[s] = w
				}}
				if _, err := r.Forward(t.Context(), ids); err != nil {
					t.Fatal(err)
				}
			}
			t.Run(fmt.Sprint(d.Name(), " ", seed), func(t *testing.T) {
				run := func(layers Layers, into map[spec.Slot]sum) {
					t.Helper()
					if err := Calibrate(t.Context(), d, m, chunks, layers, func(s spec.Slot, sums []float64, count int) error {
						if _, twice := into[s]; twice {
							t.Errorf("%v comes twice", s)
						}
						into[s] = sum{sums, count}
						return nil
					}, Options{}); err != nil {
						t.Fatal(err)
					}
				}
				got := map[spec.Slot]sum{}
				run(Layers{0, len(m.Blocks), true}, got)
				for s, w := range want {
					g, ok := got[s]
					if !ok || g.count != w.count {
						t.Errorf("%v: %d tokens, want %d", s, g.count, w.count)
						continue
					}
					for j := range w.squares {
						if math.Abs(g.squares[j]-w.squares[j]) > 1e-4*(w.squares[j]+1e-3) {
							t.Errorf("%v: column %d is %g, want %g", s, j, g.squares[j], w.squares[j])
							break
						}
					}
				}
				if len(got) != len(want) {
					t.Errorf("%d slots, want %d", len(got), len(want))
				}
				parts := map[spec.Slot]sum{}
				for l := range m.Blocks {
					run(Layers{l, l + 1, l == len(m.Blocks)-1}, parts)
				}
				// A GPU's products are summed in another order in each run.
				tolerance := 0.0
				if d.Name() == "cuda" {
					tolerance = 1e-5
				}
				if !maps.EqualFunc(parts, got, func(a, b sum) bool {
					return a.count == b.count && slices.EqualFunc(a.squares, b.squares, func(x, y float64) bool { return math.Abs(x-y) <= tolerance*y })
				}) {
					t.Error("a run in parts gives something else")
				}
			})
		}
	}
}

func TestGreedy(t *testing.T) {
	for _, d := range testDevices(t) {
		for seed := uint64(300); seed < 304; seed++ {
			m := randomModel(seed, true)
			for _, bound := range []int64{0, 1} { // held whole, and in layers
				prompts := [][]int32{randomIDs(m, 1, 5), randomIDs(m, 2, 3), randomIDs(m, 3, 5)}
				got, err := Greedy(t.Context(), d, m, prompts, 6, nil, Options{Weights: bound})
				if err != nil {
					t.Fatal(err)
				}
				for i, p := range prompts {
					text := slices.Clone(p)
					for range 6 {
						logits, err := plain.Forward(t.Context(), m, text)
						if err != nil {
							t.Fatal(err)
						}
						text = append(text, int32(argMax(logits[len(logits)-1])))
					}
					if !slices.Equal(got[i], text[len(p):]) {
						t.Errorf("%s, seed %d, prompt %d: %v, want %v", d.Name(), seed, i, got[i], text[len(p):])
					}
					if i == 0 {
						stop := text[len(p)+2]
						short, err := Greedy(t.Context(), d, m, prompts[:1], 6, func(id int32) bool { return id == stop }, Options{})
						if err != nil {
							t.Fatal(err)
						}
						end := slices.Index(got[0], stop) + 1
						if !slices.Equal(short[0], got[0][:end]) {
							t.Errorf("stopped at %d: %v, want %v", stop, short[0], got[0][:end])
						}
					}
				}
			}
		}
	}
}

func TestEmbed(t *testing.T) {
	for _, d := range testDevices(t) {
		for seed := uint64(400); seed < 406; seed++ {
			m := randomModel(seed, false)
			m.Head = nil
			delete(m.Weights, spec.Global(spec.Output))
			delete(m.Weights, spec.Global(spec.Output.Bias()))
			seqs := [][]int32{randomIDs(m, 1, 7), randomIDs(m, 2, 7), randomIDs(m, 3, 4)}
			vectors, err := Embed(t.Context(), d, m, seqs, Options{})
			if err != nil {
				t.Fatal(err)
			}
			for i, ids := range seqs {
				hidden, err := plain.Forward(t.Context(), m, ids)
				if err != nil {
					t.Fatal(err)
				}
				got, err := Hidden(t.Context(), d, m, ids, Options{})
				if err != nil {
					t.Fatal(err)
				}
				if e := nmse(got, hidden); !(e < 1e-9) {
					t.Errorf("%s, seed %d: hidden states: NMSE %g", d.Name(), seed, e)
				}
				want := make([]float64, m.Width)
				for k, row := range hidden {
					for j, v := range row {
						switch {
						case m.Pooling == spec.PoolMean:
							want[j] += v / float64(len(hidden))
						case m.Pooling == spec.PoolCLS && k == 0, m.Pooling == spec.PoolLast && k == len(hidden)-1:
							want[j] = v
						}
					}
				}
				if e := nmse(vectors[i], [][]float64{want}); !(e < 1e-9) {
					t.Errorf("%s, seed %d, %s: NMSE %g", d.Name(), seed, m.Pooling, e)
				}
			}
		}
	}
}

func TestBadInput(t *testing.T) {
	d := testDevices(t)[0]
	m := randomModel(7, true)
	chunks := [][]int32{randomIDs(m, 1, 12), randomIDs(m, 2, 12)}
	with := func(change func(c *spec.Model)) *spec.Model {
		c := *m
		c.Weights = maps.Clone(m.Weights)
		change(&c)
		return &c
	}
	poisoned := func(slot spec.Slot) *spec.Model {
		return with(func(c *spec.Model) {
			w := c.Weights[slot]
			read := w.Read
			w.Read = func(ctx context.Context, dst []float32, first int) error {
				err := read(ctx, dst, first)
				dst[0] = float32(math.NaN())
				return err
			}
			c.Weights[slot] = w
		})
	}
	compare := func(ref, cand *spec.Model, chunks [][]int32) error {
		_, err := Compare(t.Context(), d, ref, cand, chunks, Options{})
		return err
	}
	cases := []struct {
		name string
		err  error
		want string
	}{
		{"other vocabulary", compare(m, with(func(c *spec.Model) { c.Vocab++ }), chunks), "vocabulary of"},
		{"other depth", compare(m, with(func(c *spec.Model) { c.Blocks = append(c.Blocks, c.Blocks[0]) }), chunks), "layers: the reference has"},
		{"other width", compare(m, with(func(c *spec.Model) { c.Width++ }), chunks), "width of"},
		{"no head", compare(m, with(func(c *spec.Model) { c.Head = nil }), chunks), "without a head"},
		{"no text", compare(m, m, nil), "no text"},
		{"short text", compare(m, m, [][]int32{{1, 2, 3}}), "no text"},
		{"uneven text", compare(m, m, [][]int32{chunks[0], chunks[1][:10]}), "chunk 1 has 10 tokens"},
		{"unknown token", compare(m, m, [][]int32{{1, 2, 3, 4000}}), "token 4000 at position 3"},
		{"missing tensor", compare(m, with(func(c *spec.Model) { delete(c.Weights, spec.Global(spec.Output)) }), chunks), "no tensor for output"},
		{"NaN in the reference", compare(poisoned(spec.At(0, spec.Down)), m, chunks), "reference random7: the residual stream after layer 0"},
		{"NaN in the candidate", compare(m, poisoned(spec.Global(spec.Output)), chunks), "candidate random7: logits of tokens 0"},
		{"NaN in an embedding", compare(m, poisoned(spec.Global(spec.TokenEmbd)), chunks), "candidate random7: the residual stream after layer 0"},
	}
	if m.Blocks[0].FFN.MoE != nil {
		t.Fatal("the model of these cases has a dense first layer")
	}
	for _, c := range cases {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, c.err, c.want)
		}
	}
	broken := with(func(c *spec.Model) {
		w := c.Weights[spec.At(0, spec.Down)]
		w.Read = func(context.Context, []float32, int) error { return errors.New("file model.bin: offset 17: gone") }
		c.Weights[spec.At(0, spec.Down)] = w
	})
	if err := compare(m, broken, chunks); err == nil || !strings.Contains(err.Error(), "offset 17") {
		t.Errorf("a tensor that cannot be read: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	o := Options{Progress: func(Progress) { cancel() }}
	if _, err := Compare(ctx, d, m, m, chunks, o); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for _, name := range []string{"gpu", "xla:plugin.so", "xla:/nowhere/plugin.so"} {
		if _, err := Open(name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("device %s: %v", name, err)
		}
	}
}
