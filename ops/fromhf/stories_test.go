package fromhf

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/modelpipe/modelpipe/ops/plain"
)

const stories = "../../testdata/stories260K"

func readJSON(t *testing.T, name string, v any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(stories, name))
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestStories compares a trained model with a float64 reference: what it says
// after the first token, the logits there, and how well it predicts a text.
func TestStories(t *testing.T) {
	m, err := Open(context.Background(), os.DirFS(stories))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()

	var greedy struct {
		IDs    []int32   `json:"greedy_ids"`
		Logits []float64 `json:"logits_at_pos0"`
	}
	readJSON(t, "expected_greedy.json", &greedy)
	logits, err := plain.Forward(context.Background(), m, greedy.IDs)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range greedy.Logits {
		if math.Abs(logits[0][i]-want) > 1e-4 {
			t.Fatalf("logit %d of the first token is %v: want %v", i, logits[0][i], want)
		}
	}
	for pos, row := range logits[:len(logits)-1] {
		best := 0
		for i := range row {
			if row[i] > row[best] {
				best = i
			}
		}
		if int32(best) != greedy.IDs[pos+1] {
			t.Fatalf("token %d after position %d: want %d", best, pos, greedy.IDs[pos+1])
		}
	}

	var text struct {
		IDs []int32 `json:"ids"`
		PPL float64 `json:"ppl"`
	}
	readJSON(t, "expected_ppl.json", &text)
	logits, err = plain.Forward(context.Background(), m, text.IDs)
	if err != nil {
		t.Fatal(err)
	}
	nll := 0.0
	for pos, next := range text.IDs[1:] {
		sum := 0.0
		for _, l := range logits[pos] {
			sum += math.Exp(l - logits[pos][next])
		}
		nll += math.Log(sum)
	}
	if ppl := math.Exp(nll / float64(len(text.IDs)-1)); math.Abs(ppl/text.PPL-1) > 1e-6 {
		t.Errorf("perplexity %v: want %v", ppl, text.PPL)
	}
}
