package tokenizer

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/internal/golden"
)

// rankFileOf writes a rank file: the 256 bytes, then the given tokens.
func rankFileOf(tokens ...string) string {
	var b strings.Builder
	for i := range 256 {
		fmt.Fprintf(&b, "%s %d\n", base64.StdEncoding.EncodeToString([]byte{byte(i)}), i)
	}
	for i, t := range tokens {
		fmt.Fprintf(&b, "%s %d\n", base64.StdEncoding.EncodeToString([]byte(t)), 256+i)
	}
	return b.String()
}

// tekkenFile writes a tekken.json with 4 special tokens.
func tekkenFile(tokens ...string) string {
	var vocab []string
	for i := range 256 + len(tokens) {
		t := string([]byte{byte(i)})
		if i >= 256 {
			t = tokens[i-256]
		}
		vocab = append(vocab, fmt.Sprintf(`{"rank":%d,"token_bytes":%q}`, i, base64.StdEncoding.EncodeToString([]byte(t))))
	}
	return fmt.Sprintf(`{"config":{"pattern":%q,"default_vocab_size":%d,"default_num_special_tokens":4,"version":"v7"},"vocab":[%s],"special_tokens":[{"rank":0,"token_str":"<unk>"},{"rank":1,"token_str":"<s>"},{"rank":2,"token_str":"</s>"}]}`,
		tekken, 4+len(vocab), strings.Join(vocab, ","))
}

// TestSources makes the vocabulary of each kind of file and compares the KVs
// with a golden listing (tokens beyond the first 300 bytes are hashed).
func TestSources(t *testing.T) {
	for _, c := range []struct {
		name    string
		files   fstest.MapFS
		options Options
	}{
		{"tiktoken", repo("qwen.tiktoken", rankFileOf("he", "ll", "hell", "hello", "lo")), Options{Size: 470}},
		{"tiktoken-config", repo("tokenizer.model", rankFileOf("ab", "abc", "bc"), "tokenizer_config.json", `{"added_tokens_decoder":{"259":{"content":"<|end|>","special":true}},"chat_template":"T"}`), Options{Pre: "llama-bpe"}},
		{"tekken", repo("tekken.json", tekkenFile("ab", "abc", "bc")), Options{}},
		{"vocab-merges", repo("vocab.json", `{"a":0,"b":1,"ab":2,"Ġ":3}`, "merges.txt", "#version: 0.2\na b\n", "added_tokens.json", `{"<|endoftext|>":4}`, "tokenizer_config.json", `{"tokenizer_class":"Qwen2Tokenizer","add_bos_token":false}`), Options{}},
		{"vocab-txt", repo("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nun\n##able\n", "tokenizer_config.json", `{"do_lower_case":true,"cls_token":"[CLS]"}`), Options{Size: 8, TokenTypes: 2}},
		{"metaspace", repo("tokenizer.json", `{"model":{"type":"BPE","byte_fallback":true,"unk_token":"<unk>","vocab":{"<unk>":0,"<s>":1,"<0x0A>":2,"▁":3,"a":4,"b":5,"▁a":6,"ab":7,"▁ab":8},"merges":["▁ a","a b","▁ ab","▁a b"]},"added_tokens":[{"id":0,"content":"<unk>","special":true},{"id":1,"content":"<s>","special":true},{"id":9,"content":"▁▁x","special":false}],"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"never","split":false}}`,
			"tokenizer_config.json", `{"bos_token":"<s>","unk_token":"<unk>"}`), Options{Size: 12}},
		{"unigram", repo("tokenizer.json", `{"model":{"type":"Unigram","unk_id":1,"vocab":[["<s>",0],["<unk>",0],["▁a",-1.5],["b",-2]]},"added_tokens":[{"id":0,"content":"<s>","special":true},{"id":1,"content":"<unk>","special":true},{"id":4,"content":"<x>","special":false}],"normalizer":{"type":"Precompiled","precompiled_charsmap":"AAEC"}}`,
			"tokenizer_config.json", `{"bos_token":"<s>","unk_token":"<unk>"}`), Options{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			files, err := Load(c.files)
			if err != nil {
				t.Fatal(err)
			}
			v, err := files.Vocabulary(c.options)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			b.WriteString(describeKVs(v.Metadata()))
			for i, tok := range v.Tokens {
				if tok.Type != Normal || i >= 256 || len(v.Tokens) < 20 {
					fmt.Fprintf(&b, "%d %q %v %d\n", i, tok.Text, tok.Score, tok.Type)
				}
			}
			golden.Check(t, "sources/"+c.name+".txt", b.String())
		})
	}
}

// TestByteFallbackScores holds the scores that are made of the merges against
// those of the SentencePiece model that the same repository has.
func TestByteFallbackScores(t *testing.T) {
	files, err := Load(os.DirFS("testdata/golden/mistral"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := files.Vocabulary(Options{Kinds: []Kind{KindSentencePiece}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := files.Vocabulary(Options{Kinds: []Kind{KindByteFallback}, Size: len(want.Tokens) + 8})
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range want.Tokens {
		g := got.Tokens[i]
		if g.Text != w.Text || g.Score != w.Score && w.Type == Normal {
			t.Errorf("token %d: got %+v, want %+v", i, g, w)
		}
	}
	if last := got.Tokens[len(got.Tokens)-1]; last.Type != Unused || last.Text != fmt.Sprintf("[PAD%d]", len(want.Tokens)+7) {
		t.Errorf("padding %+v", last)
	}
}

func TestFromMetadataErrors(t *testing.T) {
	tokens := gguf.KV{Key: "tokenizer.ggml.tokens", Value: []string{"a", "b"}}
	model := gguf.KV{Key: "tokenizer.ggml.model", Value: "gpt2"}
	for _, c := range []struct {
		m    gguf.Metadata
		want string
	}{
		{nil, "the file has none"},
		{gguf.Metadata{{Key: "tokenizer.ggml.model", Value: "none"}}, "the file has none"},
		{gguf.Metadata{{Key: "tokenizer.ggml.model", Value: uint32(1)}}, "tokenizer.ggml.model is a uint32, want a string"},
		{gguf.Metadata{model}, "no tokenizer.ggml.tokens"},
		{gguf.Metadata{model, tokens, {Key: "tokenizer.ggml.scores", Value: []float32{1}}}, "1 scores for 2 tokens"},
		{gguf.Metadata{model, tokens, {Key: "tokenizer.ggml.token_type", Value: []int32{1, 7}}}, "token 1 has type 7"},
		{gguf.Metadata{model, tokens, {Key: "tokenizer.ggml.bos_token_id", Value: int32(1)}}, "bos_token_id is a int32, want a uint32"},
		{gguf.Metadata{model, tokens, {Key: "tokenizer.ggml.add_bos_token", Value: "yes"}}, "add_bos_token is a string, want a bool"},
	} {
		if _, err := FromMetadata(c.m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %s", c.m, err, c.want)
		}
	}
	v, err := FromMetadata(gguf.Metadata{model, tokens, {Key: "tokenizer.ggml.bos_token_id", Value: uint32(9)}})
	if err != nil || len(v.Special) != 0 || len(v.Notes) != 1 {
		t.Errorf("an id out of range: %+v, %v", v, err)
	}
}
