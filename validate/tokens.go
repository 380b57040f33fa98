package validate

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/modelpipe/modelpipe/tokenizer"
)

// TokensResult says whether the source's tokenizer and the file's own give the
// same ids.
type TokensResult struct {
	Equal bool `json:"equal"`
	Texts int  `json:"texts"`
	IDs   int  `json:"ids"` // that the source's tokenizer gave
	// Excused counts the texts whose ids differ for a reason that no GGUF file
	// can mend (docs/token-ids.md), by reason.
	Excused     map[string]int `json:"excused,omitempty"`
	Differences []string       `json:"differences,omitempty"` // the first of them
	Differing   int            `json:"differing"`             // texts
}

// maxDifferences is how many differences of a kind are told in words.
const maxDifferences = 10

// maxSpecial is how many special tokens are put into texts.
const maxSpecial = 128

// maxTextPiece is the length in bytes of the pieces in which --text is
// encoded, so that a difference says where it is.
const maxTextPiece = 4096

// excuses are the documented differences between llama.cpp's rules and those
// of the libraries (docs/token-ids.md).
var excuses = []struct {
	why     string
	applies func(v *tokenizer.Vocabulary, normalizers []string, text string, d *tokenizer.Difference) bool
}{
	{"llama.cpp does not normalize the text of a BPE", func(v *tokenizer.Vocabulary, n []string, text string, _ *tokenizer.Difference) bool {
		return v.Model == "gpt2" && slices.Contains(n, "NFC") && !norm.NFC.IsNormalString(text)
	}},
	{"BERT drops control characters that are white space", func(v *tokenizer.Vocabulary, _ []string, text string, _ *tokenizer.Difference) bool {
		return v.Model == "bert" && strings.ContainsAny(text, "\v\f\x1c\x1d\x1e\x1f\u0085")
	}},
	{"llama.cpp keeps the first consonant of a Hangul syllable", func(v *tokenizer.Vocabulary, _ []string, text string, _ *tokenizer.Difference) bool {
		return v.Model == "bert" && strings.ContainsFunc(text, func(r rune) bool { return r >= 0xAC00 && r <= 0xD7A3 })
	}},
	{"llama.cpp strips all marks, BERT those that take no space", func(v *tokenizer.Vocabulary, _ []string, text string, _ *tokenizer.Difference) bool {
		return v.Model == "bert" && strings.ContainsFunc(norm.NFD.String(text), func(r rune) bool { return unicode.In(r, unicode.Mc, unicode.Me) })
	}},
	{"BERT's words of more than 100 characters are unknown", func(v *tokenizer.Vocabulary, _ []string, text string, _ *tokenizer.Difference) bool {
		return v.Model == "bert" && slices.ContainsFunc(strings.Fields(text), func(w string) bool { return len(w) > 100 })
	}},
	{"llama.cpp takes U+2581 in a Unigram text for a character", func(v *tokenizer.Vocabulary, _ []string, text string, _ *tokenizer.Difference) bool {
		return v.Model == "t5" && strings.Contains(text, "\u2581")
	}},
	{"white space that is not in the charsmap separates words in the source only", func(v *tokenizer.Vocabulary, _ []string, text string, _ *tokenizer.Difference) bool {
		return v.Model == "t5" && strings.ContainsFunc(text, func(r rune) bool { return unicode.IsSpace(r) && !strings.ContainsRune(" \t\n\r", r) })
	}},
	{"llama.cpp adds the pre-tokenizer's BOS where the file does not say", func(v *tokenizer.Vocabulary, _ []string, _ string, d *tokenizer.Difference) bool {
		_, stated := v.Flag("add_bos_token")
		bos, _ := v.SpecialID("bos")
		return v.Model == "gpt2" && !stated && len(d.Got) > 0 && d.Got[0] == bos && slices.Equal(d.Got[1:], d.Want)
	}},
}

// specialTexts puts the control and user-defined tokens of a vocabulary into
// texts.
func specialTexts(v *tokenizer.Vocabulary) []string {
	var texts []string
	for _, t := range v.Tokens {
		if (t.Type == tokenizer.Control || t.Type == tokenizer.UserDefined) && strings.TrimSpace(t.Text) == t.Text && t.Text != "" && utf8.ValidString(t.Text) {
			texts = append(texts, "a"+t.Text+"b", t.Text)
			if len(texts) >= 2*maxSpecial {
				break
			}
		}
	}
	return texts
}

// pieces cuts text between lines into pieces of about maxTextPiece bytes.
func pieces(text string) []string {
	var out []string
	for len(text) > maxTextPiece {
		end := strings.LastIndexByte(text[:maxTextPiece], '\n') + 1
		if end == 0 {
			for end = maxTextPiece; end > 0 && !utf8.RuneStart(text[end]); end-- {
			}
		}
		out = append(out, text[:end])
		text = text[end:]
	}
	return append(out, text)
}

// compareTokens holds the file's tokenizer to the source's on the corpus, the
// special tokens and text, and each token's text to the source's. normalizers are those of the source's tokenizer.
func compareTokens(source, file tokenizer.Encoder, v *tokenizer.Vocabulary, normalizers []string, text string) TokensResult {
	r := TokensResult{Excused: map[string]int{}}
	texts := slices.Concat(corpus, specialTexts(v), pieces(text))
	for _, special := range []bool{false, true} {
		for _, t := range texts {
			r.Texts++
			opts := tokenizer.EncodeOptions{ParseSpecial: true, AddSpecial: special}
			d := tokenizer.Compare(source, file, []string{t}, opts)
			if d == nil {
				if ids, err := source.Encode(t, opts); err == nil {
					r.IDs += len(ids)
				}
				continue
			}
			if why := excuse(v, normalizers, t, d); why != "" {
				r.Excused[why]++
				continue
			}
			r.Differing++
			if len(r.Differences) < maxDifferences {
				r.Differences = append(r.Differences, describeDifference(t, d))
			}
		}
	}
	for id := range v.Tokens {
		a, b := bare(source.Decode([]int32{int32(id)})), bare(file.Decode([]int32{int32(id)}))
		if a == b || a == "" || b == "" {
			continue
		}
		r.Differing++
		if len(r.Differences) < maxDifferences {
			r.Differences = append(r.Differences, fmt.Sprintf("token %d: the source's is %q, the file's %q", id, a, b))
		}
	}
	r.Equal = r.Differing == 0
	return r
}

// compareSpecial holds the file's special tokens to those that the source
// states: a wrong end makes a model talk on for ever.
func (r *TokensResult) compareSpecial(source map[string]string, v *tokenizer.Vocabulary) {
	for _, role := range slices.Sorted(maps.Keys(source)) {
		is := "none"
		if id, ok := v.SpecialID(role); ok && id >= 0 && int(id) < len(v.Tokens) {
			is = strconv.Quote(v.Tokens[id].Text)
		}
		if want := strconv.Quote(source[role]); is != want {
			r.Equal = false
			r.Differing++
			r.Differences = append(r.Differences, fmt.Sprintf("the %s token is %s, in the source %s", role, is, want))
		}
	}
}

// bare is a token's text without what decoders treat differently: spaces, and
// the mark of a WordPiece that continues a word.
func bare(s string) string {
	return strings.ReplaceAll(strings.TrimPrefix(s, "##"), " ", "")
}

func excuse(v *tokenizer.Vocabulary, normalizers []string, text string, d *tokenizer.Difference) string {
	for _, e := range excuses {
		if e.applies(v, normalizers, text, d) {
			return e.why
		}
	}
	return ""
}

func describeDifference(text string, d *tokenizer.Difference) string {
	what := d.Error()
	if _, rest, ok := strings.Cut(what, ": "); ok {
		what = rest // the number of the text says nothing here
	}
	return fmt.Sprintf("text %q: %s", cut(text, 0), what)
}

// normalizers are the kinds of a source's normalizers; none where it has no
// tokenizer.json or the like.
func normalizers(f *tokenizer.Files) []string {
	d, err := f.Definition()
	if err != nil {
		return nil
	}
	var kinds []string
	for _, n := range d.Normalizers {
		kinds = append(kinds, n.Type)
	}
	return kinds
}
