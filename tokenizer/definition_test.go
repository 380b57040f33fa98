package tokenizer

import (
	"strings"
	"testing"
)

// definition puts the given members around a two-token BPE.
func definition(members string) string {
	return `{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}` + members + `}`
}

func TestParseDefinition(t *testing.T) {
	d, err := ParseDefinition([]byte(definition(`,
		"added_tokens":[{"id":3,"content":"<s>","special":true,"lstrip":true}],
		"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"}]}]},
		"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"x+"},"behavior":"Isolated","invert":true},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]},
		"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[3],"tokens":["<s>"]}}},
		"decoder":{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Strip","content":" ","start":1,"stop":0}]}`)))
	if err != nil {
		t.Fatal(err)
	}
	if m := d.Model; m.Type != BPE || m.Vocab["ab"] != 2 || m.Merges[0] != (Merge{0, 1, 2}) || m.UnkID != -1 {
		t.Errorf("model %+v", m)
	}
	if want := (AddedToken{ID: 3, Content: "<s>", Special: true, LStrip: true}); d.AddedTokens[0] != want {
		t.Errorf("added token %+v, want %+v", d.AddedTokens[0], want)
	}
	if len(d.Normalizers) != 2 || d.Normalizers[1].Content != "▁" {
		t.Errorf("normalizers %+v", d.Normalizers)
	}
	if p := d.PreTokenizers; len(p) != 2 || p[0].Pattern.Regex != "x+" || !p[0].Invert || p[1].UseRegex || p[1].AddPrefixSpace || !p[1].TrimOffsets {
		t.Errorf("pre-tokenizers %+v", p)
	}
	if p := d.PostProcessors; len(p) != 1 || p[0].Single[0].SpecialToken != "<s>" || p[0].Special["<s>"][0] != 3 {
		t.Errorf("post-processors %+v", p)
	}
	if len(d.Decoders) != 2 || d.Decoders[1].Start != 1 {
		t.Errorf("decoders %+v", d.Decoders)
	}
}

func TestParseDefinitionMergeForms(t *testing.T) {
	for _, merges := range []string{`["a b"]`, `[["a","b"]]`} {
		d, err := ParseDefinition([]byte(`{"model":{"vocab":{"a":0,"b":1,"ab":2},"merges":` + merges + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Model.Merges) != 1 || d.Model.Merges[0] != (Merge{0, 1, 2}) {
			t.Errorf("%s: %+v", merges, d.Model.Merges)
		}
	}
}

func TestRepeatedAddedToken(t *testing.T) {
	d, err := ParseDefinition([]byte(definition(`,"added_tokens":[{"id":5,"content":"x","special":true},{"id":6,"content":"y"},{"id":7,"content":"x","rstrip":true}]`)))
	if err != nil {
		t.Fatal(err)
	}
	if want := (AddedToken{ID: 5, Content: "x", Special: true, RStrip: true, Normalized: true}); len(d.AddedTokens) != 2 || d.AddedTokens[0] != want {
		t.Errorf("%+v", d.AddedTokens)
	}
}

func TestParseDefinitionErrors(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`{`, "unexpected end"},
		{`{}`, "no model"},
		{`[]`, "want '{', got '['"},
		{`{"model":{"type":"BPE","vocab":{},"vocab":{},"merges":[]}}`, `model: "vocab": the member occurs twice`},
		{`{"model":{"type":"Neural","vocab":{}}}`, `model: type "Neural": want BPE, Unigram, WordPiece or WordLevel`},
		{`{"model":{"type":"BPE","merges":[]}}`, "model: no vocab"},
		{`{"model":{"type":"BPE","vocab":{"a":0}}}`, "model: no merges"},
		{`{"model":{"type":"BPE","vocab":{"a":0,"a":1},"merges":[]}}`, `model: vocab: "a": the token occurs twice`},
		{`{"model":{"type":"BPE","vocab":{"a":0,"b":0},"merges":[]}}`, `model: vocab: "b": id 0 belongs to another token too`},
		{`{"model":{"type":"BPE","vocab":{"a":4000000000},"merges":[]}}`, `token id 4000000000: want an integer from 0 to 4194303`},
		{`{"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}`, `token id -1`},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":["a a a"]}}`, `model: merges: [0]: "a a a": want two tokens`},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":[["a"]]}}`, `merges: [0]: want two tokens, got 1`},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}`, `merges: [0]: "a" + "b": token "b" is not in the vocabulary`},
		{`{"model":{"type":"Unigram","vocab":[["a",-1],["a",-2]]}}`, `vocab: [1]: "a" is at [0] too`},
		{`{"model":{"type":"Unigram","vocab":[["a"]]}}`, `vocab: [0]: want a text and a score`},
		{`{"model":{"type":"Unigram","vocab":[["a",-1]],"unk_id":1}}`, `unk_id 1: the vocabulary has 1 pieces`},
		{`{"model":{"type":"WordPiece","vocab":{"a":0}}}`, `WordPiece without`},
		{definition(`,"added_tokens":[{"id":1}]`), `added_tokens[0]: no content`},
		{definition(`,"added_tokens":[{"id":5,"content":"x"},{"id":5,"content":"y"}]`), `id 5 is both "x" and "y"`},
		{definition(`,"normalizer":{"type":"Magic"}`), `normalizer: Magic: unknown normalizer`},
		{definition(`,"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"x"},"behavior":"Odd"}]}`), `pre_tokenizer.pretokenizers[0]: Split: behavior "Odd": want one of`},
		{definition(`,"pre_tokenizer":{"type":"Split","pattern":{},"behavior":"Isolated"}`), `pattern: want one of String and Regex`},
		{definition(`,"pre_tokenizer":{"type":"Metaspace","replacement":"ab"}`), `replacement "ab": want one character`},
		{definition(`,"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}}],"pair":[],"special_tokens":{}}`), `special token "x" of the template is not in special_tokens`},
		{definition(`,"decoder":{"type":"Sequence","decoders":[{"type":"Odd"}]}`), `decoder.decoders[0]: Odd: unknown decoder`},
	} {
		_, err := ParseDefinition([]byte(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:\n got %v\nwant %s", c.in, err, c.want)
		}
	}
}
