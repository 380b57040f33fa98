package tokenizer

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// anEncoder is an encoder of every algorithm, with its name.
type anEncoder struct {
	name     string
	e        Encoder
	lossless bool // decoding gives the text back
}

// allEncoders makes one encoder of every kind from the small vocabularies.
func allEncoders(t testing.TB) []anEncoder {
	t.Helper()
	var out []anEncoder
	for _, name := range []string{"llama3", "qwen2", "falcon", "gptoss", "mistral", "bert", "xlm-roberta"} {
		files := load(t, name)
		e, err := files.Encoder()
		if err != nil {
			t.Fatal(err)
		}
		v, err := files.Vocabulary(goldenOptions[name])
		if err != nil {
			t.Fatal(err)
		}
		g, err := NewGGUFEncoder(v.Metadata())
		if err != nil {
			t.Fatal(err)
		}
		bytes := v.Model == "gpt2"
		out = append(out, anEncoder{name + " source", e, bytes && name != "qwen2"}, anEncoder{name + " GGUF", g, false})
	}
	sp, err := load(t, "mistral").SentencePiece()
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewSentencePieceEncoder(sp, true, true)
	if err != nil {
		t.Fatal(err)
	}
	return append(out, anEncoder{"sentencepiece", e, false}, anEncoder{"tiktoken", rankEncoder(t), true})
}

// rankEncoder is a tiktoken encoder of all bytes and a few merges.
func rankEncoder(t testing.TB) *RankEncoder {
	t.Helper()
	ranks := &Tiktoken{Ranks: make(map[string]int32)}
	add := func(token string) {
		ranks.Ranks[token] = int32(len(ranks.Tokens))
		ranks.Tokens = append(ranks.Tokens, []byte(token))
	}
	for b := range 256 {
		add(string([]byte{byte(b)}))
	}
	for _, token := range []string{"aa", "aaa", "aaaa", "th", "the", " the", "  ", "\u00e9"} {
		add(token)
	}
	special := []AddedToken{{ID: 300, Content: "<|end|>"}}
	e, err := NewRankEncoder(ranks, 0, cl100k, special, 300)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestRankEncoder(t *testing.T) {
	e := rankEncoder(t)
	for _, c := range []struct {
		text string
		opts EncodeOptions
		want []int32
	}{
		{"", EncodeOptions{}, nil},
		{"", EncodeOptions{AddSpecial: true}, []int32{300}},
		{"aaaaa the", EncodeOptions{}, []int32{256, 257, 261}},
		{"a<|end|>b", EncodeOptions{ParseSpecial: true}, []int32{'a', 300, 'b'}},
		{"<|end|>", EncodeOptions{}, []int32{'<', '|', 'e', 'n', 'd', '|', '>'}},
	} {
		got, err := e.Encode(c.text, c.opts)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q %+v: got %v (%v), want %v", c.text, c.opts, got, err, c.want)
		}
	}
}

// TestLongTexts: a long text that does not divide into words takes a fraction
// of a second, where a quadratic loop would take a minute.
func TestLongTexts(t *testing.T) {
	if testing.Short() {
		t.Skip("long texts")
	}
	const limit = 10 * time.Second // the slowest takes 0.15 s on an idle machine
	n := 1 << 16
	texts := map[string]string{
		"a":       strings.Repeat("a", n),
		"space":   strings.Repeat(" ", n),
		"newline": strings.Repeat("\n", n),
		"digits":  strings.Repeat("1", n),
		"comma":   strings.Repeat(",", n),
		"han":     strings.Repeat("\u6f22", n/3),
		"mark":    "a" + strings.Repeat("\u0301", n/2),
		"special": strings.Repeat("</s>", n/4),
		"mixed":   strings.Repeat("The 3 quick brown foxes' (1234)\n", n/32),
	}
	for _, enc := range allEncoders(t) {
		for name, text := range texts {
			start := time.Now()
			ids, err := enc.e.Encode(text, EncodeOptions{AddSpecial: true, ParseSpecial: true})
			if err != nil {
				t.Errorf("%s, %s: %v", enc.name, name, err)
			}
			if d := time.Since(start); d > limit {
				t.Errorf("%s, %s: %v for %d ids", enc.name, name, d, len(ids))
			} else if d > time.Second {
				t.Logf("%s, %s: %v", enc.name, name, d)
			}
			enc.e.Decode(ids)
		}
	}
}

// TestRoundTrip: a byte-level BPE keeps every byte of a text.
func TestRoundTrip(t *testing.T) {
	for _, enc := range allEncoders(t) {
		if !enc.lossless {
			continue
		}
		for _, text := range corpus(t) {
			checkRoundTrip(t, enc, text)
		}
	}
	e := ggufEncoder(t, "testdata/vocab/ggml-vocab-qwen2.gguf.gz") // no clean-up of spaces
	for _, text := range corpus(t) {
		checkRoundTrip(t, anEncoder{"qwen2", e, true}, text)
	}
}

func checkRoundTrip(t *testing.T, enc anEncoder, text string) {
	t.Helper()
	ids, err := enc.e.Encode(text, EncodeOptions{})
	if err != nil {
		t.Fatalf("%s: %q: %v", enc.name, text, err)
	}
	if got := enc.e.Decode(ids); got != text {
		t.Errorf("%s: %q comes back as %q", enc.name, text, got)
	}
}

// FuzzEncode: no text makes an encoder panic or give an id that has no place
// in its vocabulary, and byte-level ones keep valid UTF-8.
func FuzzEncode(f *testing.F) {
	for _, text := range corpus(f) {
		f.Add(text)
	}
	f.Add("\xff\xfe \xe2\x96 \xed\xa0\x80 \xf4\x90\x80\x80 \xc0\x80")
	encoders := allEncoders(f)
	f.Fuzz(func(t *testing.T, text string) {
		for _, enc := range encoders {
			for _, opts := range []EncodeOptions{{}, {AddSpecial: true, ParseSpecial: true}} {
				ids, err := enc.e.Encode(text, opts)
				if err != nil {
					t.Fatalf("%s: %v", enc.name, err)
				}
				if len(ids) > 0 && slices.Min(ids) < 0 {
					t.Errorf("%s: ids %v", enc.name, ids)
				}
				enc.e.Decode(ids)
			}
			if enc.lossless && utf8.ValidString(text) {
				checkRoundTrip(t, enc, text)
			}
		}
	})
}

func TestCompareReports(t *testing.T) {
	ab := func(ids ...int32) Encoder { return fixedEncoder(ids) }
	if d := Compare(ab(1, 2), ab(1, 2), []string{"x"}, EncodeOptions{}); d != nil {
		t.Errorf("equal: %v", d)
	}
	d := Compare(ab(1, 2, 3), ab(1, 2), []string{"x"}, EncodeOptions{})
	if d == nil || d.Text != 0 || d.Position != 2 {
		t.Fatalf("got %+v", d)
	}
	if got, want := d.Error(), "text 0: token 2 differs: want ...[1 2 3]..., got ...[1 2]..."; got != want {
		t.Errorf("got %s", got)
	}
}

// fixedEncoder gives the same ids for every text.
type fixedEncoder []int32

func (e fixedEncoder) Encode(string, EncodeOptions) ([]int32, error) { return e, nil }
func (e fixedEncoder) Decode([]int32) string                         { return "" }

// TestPreTokenizersEncode: every pre-tokenizer that Vocabulary recognises is
// one that the encoder knows, and every expression of the encoder compiles.
func TestPreTokenizersEncode(t *testing.T) {
	for _, row := range preTokenizers {
		if row.name == "wordpiece" { // a structure without a name in GGUF
			continue
		}
		if _, err := lookupPre(row.name); err != nil {
			t.Error(err)
		}
	}
	seen := make(map[string]bool)
	for i := range preTable {
		row := &preTable[i]
		if _, err := row.cutters(); err != nil {
			t.Errorf("%s: %v", row.names[0], err)
		}
		for _, name := range row.names {
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
		}
	}
	if _, err := lookupPre("no such"); err == nil {
		t.Error("an unknown name passes")
	}
}
