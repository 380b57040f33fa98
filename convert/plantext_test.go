package convert

import (
	"bytes"
	"context"
	"testing"

	"github.com/modelpipe/modelpipe/internal/golden"
)

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
			golden.Check(t, "plan/"+name+".txt", got.String())
		})
	}
}
