package fromgguf_test

import (
	"math"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/quantize"
)

// TestStored decodes the stored rows of every weight that has some: they are
// the rows that Read gives, from the middle of a matrix too.
func TestStored(t *testing.T) {
	for _, c := range []struct{ model, preset string }{
		{"llama3", "MXFP4_MOE"}, {"qwen3moe", "Q8_0"}, {"deepseek-v3", ""}, {"phi3", "Q4_0"}, {"gpt2", "Q8_0"},
	} {
		t.Run(c.model, func(t *testing.T) {
			m := opened(t, c.model, c.preset)
			found := map[gguf.Type]int{}
			for slot, w := range m.Weights {
				if w.Stored == nil {
					continue
				}
				found[w.Stored.Type]++
				if w.Stored.Type.String() != w.Type {
					t.Errorf("%v: type %v, stored %v", slot, w.Type, w.Stored.Type)
				}
				checkStored(t, slot, w, 0, w.Rows)
				checkStored(t, slot, w, w.Rows/3, w.Rows-w.Rows/3)
				row, _ := w.Stored.Type.RowBytes(int64(w.Cols))
				for _, wrong := range []struct{ bytes, first int }{{int(row), w.Rows}, {int(row) + 1, 0}, {int(row), -1}, {2 * int(row), w.Rows - 1}} {
					if err := w.Stored.Read(t.Context(), make([]byte, wrong.bytes), wrong.first); err == nil {
						t.Errorf("%v: %+v is read", slot, wrong)
					}
				}
			}
			t.Logf("%v", found)
			if len(found) == 0 {
				t.Error("no weight has stored rows")
			}
		})
	}
}

func checkStored(t *testing.T, slot spec.Slot, w spec.Weight, first, rows int) {
	t.Helper()
	row, err := w.Stored.Type.RowBytes(int64(w.Cols))
	if err != nil {
		t.Fatal(err)
	}
	stored, want, got := make([]byte, int64(rows)*row), make([]float32, rows*w.Cols), make([]float32, rows*w.Cols)
	if err := w.Stored.Read(t.Context(), stored, first); err != nil {
		t.Fatal(err)
	}
	if err := w.Read(t.Context(), want, first); err != nil {
		t.Fatal(err)
	}
	codec, _ := quantize.Lookup(w.Stored.Type)
	codec.Decode(got, stored)
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Errorf("%v: value %d from row %d on is %g, stored as %g", slot, i, first, want[i], got[i])
			return
		}
	}
}
