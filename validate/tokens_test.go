package validate

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/tokenizer"
)

func TestCorpusIsNormal(t *testing.T) {
	for _, text := range corpus {
		if !norm.NFC.IsNormalString(text) {
			t.Errorf("%q is not in normal form C", text)
		}
	}
}

// vocabularyOf is the tokenizer of a file.
func vocabularyOf(t testing.TB, m gguf.Metadata) (tokenizer.Encoder, *tokenizer.Vocabulary) {
	t.Helper()
	enc, err := tokenizer.NewGGUFEncoder(m)
	if err != nil {
		t.Fatal(err)
	}
	v, err := tokenizer.FromMetadata(m)
	if err != nil {
		t.Fatal(err)
	}
	return enc, v
}

// TestTokens holds the files that the converter makes to their sources. The
// tiny Gemmas have the tokenizer of another family, which puts a space in
// front where the architecture puts none; rerankers cannot be run.
func TestTokens(t *testing.T) {
	for _, name := range goldenNames(t, "gemma", "bert-reranker", "xlm-roberta-reranker") {
		t.Run(name, func(t *testing.T) {
			source := goldenModel(t, name)
			s := openSource(t, source)
			got, v := vocabularyOf(t, openGGUF(t, converted(t, source, name, "")).Header.Metadata)
			r := compareTokens(s.Encoder, got, v, s.Normalizers, strings.Repeat("Once upon a time.\n", 10))
			if s.Model.Pooling == spec.PoolNone {
				r.compareSpecial(s.Special, v)
			}
			if !r.Equal {
				t.Errorf("%d of %d differ: %s", r.Differing, r.Texts, strings.Join(r.Differences, "\n"))
			}
		})
	}
}

// TestTokensDiffer shifts two tokens of a vocabulary.
func TestTokensDiffer(t *testing.T) {
	source := goldenModel(t, "llama3")
	s := openSource(t, source)
	m := openGGUF(t, converted(t, source, "llama3", "")).Header.Metadata
	tokens, err := m.Strings("tokenizer.ggml.tokens")
	if err != nil {
		t.Fatal(err)
	}
	e := slices.Index(tokens, "e")
	tokens[e], tokens[e+1] = tokens[e+1], tokens[e]
	got, v := vocabularyOf(t, m)
	if r := compareTokens(s.Encoder, got, v, s.Normalizers, ""); r.Equal || len(r.Differences) == 0 {
		t.Errorf("a shifted token is not seen: %+v", r)
	}
}

// TestSpecialDiffer gives a file another end.
func TestSpecialDiffer(t *testing.T) {
	s := openSource(t, stories(t))
	m := openGGUF(t, converted(t, stories(t), "stories", "")).Header.Metadata
	for id, differing := range map[uint32]int{2: 0, 3: 1} {
		m.Set("tokenizer.ggml.eos_token_id", id)
		_, v := vocabularyOf(t, m)
		r := TokensResult{Equal: true}
		r.compareSpecial(s.Special, v)
		if r.Differing != differing || r.Equal != (differing == 0) {
			t.Errorf("eos token %d: %+v: want %d differences", id, r, differing)
		}
	}
}
