package tokenizer

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// HFEncoder encodes as Hugging Face's tokenizers library does with a
// tokenizer.json (version 0.23). Text goes through these stations:
//
//	added tokens that are not normalized are cut out;
//	each part in between is normalized;
//	added tokens that are normalized are cut out;
//	the parts in between are cut into words, and the model encodes each;
//	the post-processor puts special tokens around the ids.
//
// It is safe for concurrent use.
type HFEncoder struct {
	def       *Definition
	raw       *addedSet // looked for in the text
	normal    *addedSet // looked for in the normalized text
	normalize []func(string) (string, error)
	cut       []func([]part) ([]part, error)
	model     func(words []part, out []int32) ([]int32, error)
	decode    []func([]string) []string
	byID      map[int32]string
	special   map[int32]bool
}

// part is a piece of the text on its way to the model. first marks the one
// that starts where the text does.
type part struct {
	text  string
	first bool
}

// NewHFEncoder prepares a definition for encoding. It fails where a step
// cannot be reproduced.
func NewHFEncoder(d *Definition) (*HFEncoder, error) {
	e := &HFEncoder{def: d, byID: make(map[int32]string), special: make(map[int32]bool)}
	for i, n := range d.Normalizers {
		f, err := newNormalizer(n)
		if err != nil {
			return nil, fmt.Errorf("tokenizer: normalizer %d (%s): %w", i, n.Type, err)
		}
		e.normalize = append(e.normalize, f)
	}
	for i, p := range d.PreTokenizers {
		f, err := newPreTokenizer(p)
		if err != nil {
			return nil, fmt.Errorf("tokenizer: pre-tokenizer %d (%s): %w", i, p.Type, err)
		}
		e.cut = append(e.cut, f)
	}
	for i, c := range d.Decoders {
		f, err := newDecoder(c)
		if err != nil {
			return nil, fmt.Errorf("tokenizer: decoder %d (%s): %w", i, c.Type, err)
		}
		e.decode = append(e.decode, f)
	}
	var err error
	if e.model, err = newModel(&d.Model); err != nil {
		return nil, fmt.Errorf("tokenizer: model: %w", err)
	}
	for text, id := range d.Model.Vocab {
		e.byID[id] = text
	}
	for id, p := range d.Model.Pieces {
		e.byID[int32(id)] = p.Text
	}
	if err := e.indexAdded(); err != nil {
		return nil, fmt.Errorf("tokenizer: added tokens: %w", err)
	}
	return e, nil
}

// indexAdded sorts the added tokens by where they are looked for. Special
// tokens come first where two have the same text.
func (e *HFEncoder) indexAdded() error {
	e.raw, e.normal = newAddedSet(), newAddedSet()
	for _, special := range []bool{true, false} {
		for _, t := range e.def.AddedTokens {
			if t.Special != special || t.Content == "" {
				continue
			}
			e.byID[t.ID] = t.Content
			if t.Special {
				e.special[t.ID] = true
			}
			set, text := e.raw, t.Content
			if t.Normalized {
				var err error
				if text, err = e.normalized(text); err != nil {
					return fmt.Errorf("%q: %w", t.Content, err)
				}
				set = e.normal
			}
			set.add(text, t)
		}
	}
	return nil
}

func (e *HFEncoder) normalized(text string) (string, error) {
	var err error
	for _, f := range e.normalize {
		if text, err = f(text); err != nil {
			return "", err
		}
	}
	return text, nil
}

// Encode implements Encoder. Bytes that are not UTF-8 are read as U+FFFD.
func (e *HFEncoder) Encode(text string, opts EncodeOptions) ([]int32, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("encode: text of %d bytes: more than %d", len(text), MaxText)
	}
	var out []int32
	flush := func(parts []part) (err error) {
		for _, f := range e.cut {
			if parts, err = f(parts); err != nil {
				return err
			}
		}
		out, err = e.model(parts, out)
		return err
	}
	err := e.raw.cut(validUTF8(text), opts.ParseSpecial, func(raw string, first bool, t *AddedToken) error {
		if t != nil {
			out = append(out, t.ID)
			return nil
		}
		normal, err := e.normalized(raw)
		if err != nil {
			return err
		}
		return e.normal.cut(normal, opts.ParseSpecial, func(text string, start bool, t *AddedToken) error {
			if t != nil {
				out = append(out, t.ID)
				return nil
			}
			return flush([]part{{text, first && start}})
		})
	})
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	if opts.AddSpecial {
		out = e.postProcess(out)
	}
	return out, nil
}

// validUTF8 replaces each byte that is not part of a UTF-8 sequence.
func validUTF8(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		b.WriteRune(r)
	}
	return b.String()
}

// postProcess puts the special tokens around one sequence.
func (e *HFEncoder) postProcess(ids []int32) []int32 {
	for _, p := range e.def.PostProcessors {
		switch p.Type {
		case "TemplateProcessing":
			var out []int32
			for _, piece := range p.Single {
				if piece.SpecialToken != "" {
					out = append(out, p.Special[piece.SpecialToken]...)
				} else if piece.Sequence == "A" {
					out = append(out, ids...)
				}
			}
			ids = out
		case "BertProcessing", "RobertaProcessing":
			ids = append(append([]int32{p.Cls.ID}, ids...), p.Sep.ID)
		}
	}
	return ids
}

// Decode implements Encoder: special tokens are left out, the others pass the
// decoders. Bytes of byte tokens are kept even where they are not UTF-8.
func (e *HFEncoder) Decode(ids []int32) string {
	var tokens []string
	for _, id := range ids {
		if text, ok := e.byID[id]; ok && !e.special[id] {
			tokens = append(tokens, text)
		}
	}
	if len(e.decode) == 0 {
		return strings.Join(tokens, " ")
	}
	for _, f := range e.decode {
		tokens = f(tokens)
	}
	return strings.Join(tokens, "")
}

// addedSet finds added tokens in a text: the leftmost, then the longest.
type addedSet struct {
	tokens []*AddedToken
	texts  *trie // text -> index in tokens
	known  map[string]bool
}

func newAddedSet() *addedSet { return &addedSet{texts: newTrie(), known: make(map[string]bool)} }

func (s *addedSet) add(text string, t AddedToken) {
	if s.known[text] {
		return
	}
	s.known[text] = true
	s.texts.insert(text, int32(len(s.tokens)))
	s.tokens = append(s.tokens, &t)
}

// cut calls emit for each token in text and each non-empty part between them;
// first is true at the start of the text (AddedVocabulary::find_matches).
func (s *addedSet) cut(text string, parseSpecial bool, emit func(part string, first bool, t *AddedToken) error) error {
	done := 0
	for i := 0; i < len(text); {
		size, index := 0, int32(0)
		s.texts.walk(text[i:], func(n int, id int32) { size, index = n, id })
		if size == 0 {
			i++
			continue
		}
		t := s.tokens[index]
		start, end := i, i+size
		i = end
		if t.Special && !parseSpecial || t.SingleWord && (wordBefore(text[:start]) || wordAfter(text[end:])) {
			continue
		}
		if t.LStrip {
			start = len(strings.TrimRightFunc(text[:start], unicode.IsSpace))
		}
		start = max(start, done)
		if t.RStrip {
			end = len(text) - len(strings.TrimLeftFunc(text[end:], unicode.IsSpace))
		}
		if start > done {
			if err := emit(text[done:start], done == 0, nil); err != nil {
				return err
			}
		}
		if err := emit("", false, t); err != nil {
			return err
		}
		done = max(done, end)
	}
	if done < len(text) {
		return emit(text[done:], done == 0, nil)
	}
	return nil
}

func wordBefore(text string) bool {
	r, n := utf8.DecodeLastRuneInString(text)
	return n > 0 && setRustWord.has(r)
}

func wordAfter(text string) bool {
	r, n := utf8.DecodeRuneInString(text)
	return n > 0 && setRustWord.has(r)
}
