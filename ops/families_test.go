package ops

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/modelpipe/modelpipe/internal/golden"
	"github.com/modelpipe/modelpipe/ops/fromhf"
	"github.com/modelpipe/modelpipe/ops/plain"
)

// TestFamilies runs tiny models of real families on the Go backend and in
// float64.
func TestFamilies(t *testing.T) {
	d := testDevices(t)[0]
	names, err := filepath.Glob("../convert/testdata/golden/*/hf.zip")
	if err != nil || len(names) < 50 {
		t.Fatalf("%d models, %v", len(names), err)
	}
	tried := 0
	for i, name := range names {
		if testing.Short() && i%5 != 0 {
			continue
		}
		m, err := fromhf.Open(t.Context(), golden.Unzip(t, name))
		if err != nil {
			t.Logf("not read: %v", err) // package fromhf's tests say which must be
			continue
		}
		tried++
		t.Run(filepath.Base(filepath.Dir(name)), func(t *testing.T) {
			ids := randomIDs(m, 3, 24)
			want, err := plain.Forward(t.Context(), m, ids)
			if err != nil {
				t.Fatal(err)
			}
			run := Logits
			if m.Head == nil {
				run = Hidden
			}
			got, err := run(t.Context(), d, m, ids, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if e := nmse(got, want); !(e < 1e-9) {
				t.Errorf("NMSE %g", e)
			}
		})
	}
	if tried < len(names)/10 {
		t.Errorf("%d of %d models were read", tried, len(names))
	}
}

// TestStories runs a real model of which a float64 reference says what it
// continues a text with, and how well it predicts one.
func TestStories(t *testing.T) {
	const dir = "../testdata/stories260K"
	read := func(name string, v any) {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, v); err != nil {
			t.Fatal(err)
		}
	}
	var greedy struct {
		Prompt []int32 `json:"prompt_ids"`
		IDs    []int32 `json:"greedy_ids"`
	}
	var text struct {
		IDs  []int32 `json:"ids"`
		Mean float64 `json:"mean_nll_nats"`
	}
	read("expected_greedy.json", &greedy)
	read("expected_ppl.json", &text)
	if greedy.IDs[0] == greedy.Prompt[0] {
		greedy.IDs = greedy.IDs[1:] // the prompt is among them
	}
	want := greedy.IDs[:70] // two buckets of lengths
	m, err := fromhf.Open(t.Context(), os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range testDevices(t) {
		got, err := Greedy(t.Context(), d, m, [][]int32{greedy.Prompt}, len(want), nil, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got[0], want) {
			t.Errorf("%s: %v, want %v", d.Name(), got[0], want)
		}
		logits, err := Logits(t.Context(), d, m, text.IDs, Options{})
		if err != nil {
			t.Fatal(err)
		}
		mean := 0.0
		for i, next := range text.IDs[1:] {
			row := logits[i*m.Vocab:][:m.Vocab]
			sum := 0.0
			for _, l := range row {
				sum += math.Exp(float64(l))
			}
			mean += (math.Log(sum) - float64(row[next])) / float64(len(text.IDs)-1)
		}
		near(t, d.Name()+": mean negative log-likelihood", mean, text.Mean, 1e-5)
	}
}
