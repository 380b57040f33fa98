package convert

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestPlanText holds the plans of a few models to text, so that a change of the
// table shows as a diff of what it does. The models were chosen for what their
// rules do: permutation, splitting and transposing, stacking, copied blocks,
// cut rows, reordered groups, convolutions.
func TestPlanText(t *testing.T) {
	for _, name := range []string{"llama3", "deepseek2", "qwen2moe", "gptoss-mxfp4", "gptoss", "falcon", "roberta", "lfm2", "granitemoeshared", "qwen3-reranker", "fp8-block", "bitnet-packed"} {
		t.Run(name, func(t *testing.T) {
			plan, err := NewPlan(context.Background(), openModel(t, "testdata/golden/"+name), Options{Source: name})
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := plan.WriteText(&got); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", "plan", name+".txt")
			if *update {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("plan differs from %s (-update rewrites it):\n%s", file, got.String())
			}
		})
	}
}
