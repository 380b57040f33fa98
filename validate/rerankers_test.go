package validate

import (
	"math"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/modelpipe/modelpipe/ops/fromgguf"
	"github.com/modelpipe/modelpipe/tokenizer"
)

// TestRerankers holds the scores of files to what llama-server's /rerank says of
// them, October 2026, for the query "hello there" and the documents "the world
// is" and "a". Qwen3's prompt is a template of the file.
func TestRerankers(t *testing.T) {
	e := cpu(t)
	for _, c := range []struct {
		model  string
		pairs  [][]int32
		scores []float64
	}{
		{"modernbert-reranker", [][]int32{{301, 259, 287, 80, 261, 263, 302, 85, 259, 266, 271, 77, 69, 222, 280, 302}, {301, 259, 287, 80, 261, 263, 302, 66, 302}},
			[]float64{0.5455023646354675, 4.393575191497803}},
		{"xlm-roberta-reranker", [][]int32{{0, 37, 54, 15, 12, 40, 2, 2, 12, 229, 16, 156, 74, 2}, {0, 37, 54, 15, 12, 40, 2, 2, 24, 2}},
			[]float64{0.05548739805817604, 0.05948738753795624}},
		{"bert-reranker", [][]int32{{2, 130, 117, 65, 322, 3, 98, 258, 167, 185, 3}, {2, 130, 117, 65, 322, 3, 35, 3}},
			[]float64{0.3008396327495575, 0.32613667845726013}},
		{"qwen3-reranker", nil, []float64{0.6830530166625977, 0.6801351308822632}},
	} {
		folder, most := modernReranker, 2e-3 // whose GELU llama.cpp looks up in a table of 16-bit floats
		if c.model != "modernbert-reranker" {
			folder, most = func(t testing.TB) fstest.MapFS { return goldenModel(t, c.model) }, 1e-4
		}
		f := openGGUF(t, converted(t, folder(t), c.model, "f32"))
		m, err := fromgguf.Open(f)
		if err != nil {
			t.Fatal(err)
		}
		if c.pairs == nil {
			prompt, err := f.Header.Metadata.String("tokenizer.chat_template." + rerankPrompt)
			if err != nil {
				t.Fatal(err)
			}
			enc, err := tokenizer.NewGGUFEncoder(f.Header.Metadata)
			if err != nil {
				t.Fatal(err)
			}
			for _, document := range []string{"the world is", "a"} {
				ids, err := enc.Encode(strings.NewReplacer("{query}", "hello there", "{document}", document).Replace(prompt), tokenizer.EncodeOptions{ParseSpecial: true})
				if err != nil {
					t.Fatal(err)
				}
				c.pairs = append(c.pairs, ids)
			}
		}
		got, err := e.Embed(t.Context(), m, c.pairs)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range c.scores {
			if len(got[i]) < 1 || !(math.Abs(float64(got[i][0])-want) < most) {
				t.Errorf("%s: pair %d: scores %v: want %v first", c.model, i, got[i], want)
			}
		}
	}
}

// TestRanking refuses to take a language model for a reranker whose labels it
// does not know, and gates on predictions that a reranker does not make.
func TestRanking(t *testing.T) {
	source := openSource(t, goldenModel(t, "qwen3-reranker"))
	if _, err := source.ranking([]string{"yes", "perhaps so"}); err == nil || !strings.Contains(err.Error(), `its label "perhaps so" is`) {
		t.Errorf("error %v: want one about a label", err)
	}
	limit := 0.1
	file := openCandidate(t, converted(t, goldenModel(t, "qwen3-reranker"), "qwen3-reranker", ""))
	if _, err := Run(t.Context(), source, file, Options{Engine: cpu(t), MaxKLD: &limit}); err == nil || !strings.Contains(err.Error(), "gate on a metric that is not computed: kld.mean") {
		t.Errorf("error %v: want one about the gate", err)
	}
}
