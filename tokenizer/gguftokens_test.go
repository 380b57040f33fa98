package tokenizer

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
)

// tinyT5 is a Unigram vocabulary with a charsmap.
func tinyT5(charsmap []byte) gguf.Metadata {
	return gguf.Metadata{
		{Key: "tokenizer.ggml.model", Value: "t5"},
		{Key: "tokenizer.ggml.tokens", Value: []string{"<pad>", "</s>", "<unk>", "a", "\u2581"}},
		{Key: "tokenizer.ggml.scores", Value: []float32{0, 0, 0, -1, -2}},
		{Key: "tokenizer.ggml.token_type", Value: []int32{3, 3, 2, 1, 1}},
		{Key: "tokenizer.ggml.precompiled_charsmap", Value: charsmap},
	}
}

func TestGGUFEncoderErrors(t *testing.T) {
	good := func() gguf.Metadata {
		return gguf.Metadata{
			{Key: "tokenizer.ggml.model", Value: "gpt2"},
			{Key: "tokenizer.ggml.pre", Value: "gpt-2"},
			{Key: "tokenizer.ggml.tokens", Value: []string{"a", "b", "ab"}},
			{Key: "tokenizer.ggml.token_type", Value: []int32{1, 1, 1}},
			{Key: "tokenizer.ggml.merges", Value: []string{"a b"}},
		}
	}
	if _, err := NewGGUFEncoder(good()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key   string
		value any
		want  string
	}{
		{"tokenizer.ggml.model", uint32(1), "tokenizer.ggml.model"},
		{"tokenizer.ggml.model", "none", "no vocabulary"},
		{"tokenizer.ggml.model", "rwkv", "not implemented"},
		{"tokenizer.ggml.pre", "nope", `unknown pre-tokenizer "nope"`},
		{"tokenizer.ggml.pre", uint32(1), "want a string"},
		{"tokenizer.ggml.tokens", []int32{1}, "tokenizer.ggml.tokens"},
		{"tokenizer.ggml.tokens", []string{"a", "b", "a"}, `tokens 0 and 2 are both "a"`},
		{"tokenizer.ggml.token_type", []int32{1}, "1 values for 3 tokens"},
		{"tokenizer.ggml.token_type", []uint32{1}, "want []int32"},
		{"tokenizer.ggml.scores", []float32{1}, "1 values for 3 tokens"},
		{"tokenizer.ggml.scores", []string{"x"}, "want []float32"},
		{"tokenizer.ggml.merges", []int32{1}, "tokenizer.ggml.merges"},
		{"tokenizer.ggml.add_bos_token", "yes", "want a bool"},
		{"tokenizer.ggml.bos_token_id", "1", "want a uint32"},
	} {
		m := good()
		m.Set(c.key, c.value)
		if _, err := NewGGUFEncoder(m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %v: got %v, want %s", c.key, c.value, err, c.want)
		}
	}
	for _, data := range [][]byte{{1, 2}, {255, 255, 255, 255, 0}, {4, 0, 0, 0, 1, 1, 1, 1}} {
		if _, err := NewGGUFEncoder(tinyT5(data)); err == nil || !strings.Contains(err.Error(), "precompiled_charsmap") {
			t.Errorf("charsmap %v: got %v", data, err)
		}
	}
}

// TestMissingTokens: what the vocabulary asks for but does not have is an
// error when it is needed.
func TestMissingTokens(t *testing.T) {
	m := gguf.Metadata{
		{Key: "tokenizer.ggml.model", Value: "llama"},
		{Key: "tokenizer.ggml.tokens", Value: []string{"a"}},
		{Key: "tokenizer.ggml.add_space_prefix", Value: false},
	}
	e, err := NewGGUFEncoder(m)
	if err != nil {
		t.Fatal(err)
	}
	if ids, err := e.Encode("aa", EncodeOptions{}); err != nil || len(ids) != 2 {
		t.Errorf("aa: %v, %v", ids, err)
	}
	if _, err := e.Encode("ab", EncodeOptions{}); err == nil || !strings.Contains(err.Error(), "no token for the byte 0x62") {
		t.Errorf("ab: %v", err)
	}
	if _, err := e.Encode("a", EncodeOptions{AddSpecial: true}); err == nil || !strings.Contains(err.Error(), "BOS") {
		t.Errorf("BOS: %v", err)
	}
}

// FuzzCharsmap: a hostile map ends in an error, never in a panic.
func FuzzCharsmap(f *testing.F) {
	f.Add([]byte{4, 0, 0, 0, 0, 4, 0, 0, 'x', 0}, "abc")
	f.Add(append(binary.LittleEndian.AppendUint32(nil, 8), 1, 2, 3, 4, 0x61, 1, 0, 0, 'b', 0), "aab")
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		m, err := parseCharsmap(data)
		if err != nil {
			return
		}
		for i := range text {
			if to, n, err := m.longest(text[i:]); err == nil && (n > len(text)-i || n == 0 && to != "") {
				t.Errorf("%q: %q of %d bytes", text[i:], to, n)
			}
		}
		if _, err := normalizePrecompiled(m, validUTF8(text)); err != nil && err != errCharsmap {
			t.Error(err)
		}
		e, err := NewGGUFEncoder(tinyT5(data))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Encode(text, EncodeOptions{AddSpecial: true}); err != nil && !strings.Contains(err.Error(), errCharsmap.Error()) {
			t.Error(err)
		}
	})
}
