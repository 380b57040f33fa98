package tokenizer

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxTokens bounds every token id and vocabulary size that a file may state:
// sixteen times the largest published vocabulary, small enough that a table
// indexed by id is always affordable.
const MaxTokens = 1 << 22

// Definition is a parsed tokenizer.json, the format of Hugging Face's
// tokenizers library: text passes the normalizers, the pre-tokenizers and the
// model, and the post-processors add the special tokens; decoders are the way
// back. A "Sequence" of steps is flattened into the slice it stands for.
type Definition struct {
	Model          Model
	Normalizers    []Normalizer
	PreTokenizers  []PreTokenizer
	PostProcessors []PostProcessor
	Decoders       []Decoder
	AddedTokens    []AddedToken // in the file's order
}

// Model types of a tokenizer.json.
const (
	BPE       = "BPE"
	Unigram   = "Unigram"
	WordPiece = "WordPiece"
	WordLevel = "WordLevel"
)

// Model is the part of a tokenizer that knows the tokens. Which fields have a
// meaning depends on Type.
type Model struct {
	Type string

	// Vocab maps the text of a token to its id (BPE, WordPiece, WordLevel).
	// Ids are distinct, but may have gaps that added tokens fill.
	Vocab map[string]int32
	// Merges of a BPE in order of their rank.
	Merges []Merge
	// Pieces of a Unigram model; the index is the id.
	Pieces []Piece

	UnkToken string // BPE, WordPiece, WordLevel; "" where there is none
	UnkID    int32  // id of UnkToken, or a Unigram's unk_id; -1 where there is none

	ContinuingSubwordPrefix string // BPE, WordPiece ("##")
	EndOfWordSuffix         string // BPE
	FuseUnk                 bool   // BPE: neighbouring unknowns become one
	ByteFallback            bool   // BPE, Unigram: unknown characters become <0xNN> tokens
	IgnoreMerges            bool   // BPE: a word that is a token is not merged
	MaxInputCharsPerWord    int    // WordPiece: longer words are unknown
}

// Merge is one BPE rule: the tokens Left and Right, side by side, become the
// token Result.
type Merge struct{ Left, Right, Result int32 }

// Piece is one token of a Unigram model; Score is its log probability.
type Piece struct {
	Text  string
	Score float64
}

// AddedToken is a token that is looked for in the text before the model sees
// it.
type AddedToken struct {
	ID         int32
	Content    string
	Special    bool // a control token: skipped when decoding
	SingleWord bool // matches only between non-word characters
	LStrip     bool // swallows white space on its left
	RStrip     bool // swallows white space on its right
	Normalized bool // looked for in the normalized text, not in the raw one
}

// Pattern is what a Split or Replace looks for: a literal string, or a regular
// expression in Oniguruma's syntax where Regex is not empty.
type Pattern struct {
	String string
	Regex  string
}

// Normalizer is one step of text normalization.
type Normalizer struct {
	// Type is BertNormalizer, Strip, StripAccents, NFC, NFD, NFKC, NFKD,
	// Lowercase, Nmt, Precompiled, Replace, Prepend or ByteLevel.
	Type string

	Pattern Pattern // Replace
	Content string  // Replace; Prepend: the text put in front

	Left, Right bool // Strip

	CleanText          bool  // BertNormalizer
	HandleChineseChars bool  // BertNormalizer
	StripAccents       *bool // BertNormalizer; nil follows Lowercase
	Lowercase          bool  // BertNormalizer

	Charsmap []byte // Precompiled: SentencePiece's compiled map
}

// PreTokenizer is one step of cutting text into words.
type PreTokenizer struct {
	// Type is BertPreTokenizer, ByteLevel, CharDelimiterSplit, Metaspace,
	// Whitespace, WhitespaceSplit, Split, Punctuation, Digits, UnicodeScripts
	// or FixedLength.
	Type string

	Pattern  Pattern // Split
	Behavior string  // Split, Punctuation: Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous
	Invert   bool    // Split: the matches are the words, not the gaps

	AddPrefixSpace bool // ByteLevel
	TrimOffsets    bool // ByteLevel
	UseRegex       bool // ByteLevel: cut by GPT-2's expression first

	IndividualDigits bool // Digits

	Delimiter string // CharDelimiterSplit
	Length    int    // FixedLength, in characters

	Replacement   string // Metaspace, one character
	PrependScheme string // Metaspace: always, never or first
	SplitWords    bool   // Metaspace: cut before each replacement character
}

// PostProcessor adds special tokens around the ids.
type PostProcessor struct {
	// Type is TemplateProcessing, BertProcessing, RobertaProcessing or
	// ByteLevel.
	Type string

	Single, Pair []TemplatePiece    // TemplateProcessing
	Special      map[string][]int32 // TemplateProcessing: ids of each special token

	Sep, Cls SpecialToken // BertProcessing, RobertaProcessing

	AddPrefixSpace, TrimOffsets bool // RobertaProcessing, ByteLevel
}

// TemplatePiece is one place of a template: a sequence ("A" or "B") or the
// name of a special token.
type TemplatePiece struct {
	Sequence     string // "A", "B" or ""
	SpecialToken string // "" where Sequence is set
	TypeID       int32
}

// SpecialToken is a token with its id.
type SpecialToken struct {
	Content string
	ID      int32
}

// Decoder is one step from tokens back to text.
type Decoder struct {
	// Type is BPEDecoder, ByteLevel, WordPiece, Metaspace, CTC, Replace, Fuse,
	// Strip or ByteFallback.
	Type string

	Pattern Pattern // Replace
	Content string  // Replace, Strip (one character)

	Start, Stop int // Strip: how many to take off at either end

	Prefix  string // WordPiece
	Cleanup bool   // WordPiece, CTC
	Suffix  string // BPEDecoder

	Replacement   string // Metaspace
	PrependScheme string // Metaspace

	PadToken, WordDelimiter string // CTC
}

// ParseDefinition reads the text of a tokenizer.json.
func ParseDefinition(data []byte) (*Definition, error) {
	top, _, err := members(data, true)
	if err != nil {
		return nil, err
	}
	d := new(Definition)
	if isNull(top["model"]) {
		return nil, fmt.Errorf("no model")
	}
	if err := d.Model.parse(top["model"]); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	var added []json.RawMessage
	if raw := top["added_tokens"]; !isNull(raw) {
		if err := json.Unmarshal(raw, &added); err != nil {
			return nil, fmt.Errorf("added_tokens: %w", err)
		}
	}
	for i, raw := range added {
		t, err := parseAddedToken(raw)
		if err != nil {
			return nil, fmt.Errorf("added_tokens[%d]: %w", i, err)
		}
		d.AddedTokens = append(d.AddedTokens, t)
	}
	if err := d.checkAdded(); err != nil {
		return nil, fmt.Errorf("added_tokens: %w", err)
	}
	if d.Normalizers, err = flatten(top["normalizer"], "normalizer", "normalizers", parseNormalizer); err != nil {
		return nil, err
	}
	if d.PreTokenizers, err = flatten(top["pre_tokenizer"], "pre_tokenizer", "pretokenizers", parsePreTokenizer); err != nil {
		return nil, err
	}
	if d.PostProcessors, err = flatten(top["post_processor"], "post_processor", "processors", parsePostProcessor); err != nil {
		return nil, err
	}
	if d.Decoders, err = flatten(top["decoder"], "decoder", "decoders", parseDecoder); err != nil {
		return nil, err
	}
	return d, nil
}

// checkAdded holds the added tokens against each other: one id has one
// content. A content that is listed again keeps its first id and takes the
// later flags, as in tokenizers' add_tokens (Yi's files list one twice).
func (d *Definition) checkAdded() error {
	at := make(map[string]int, len(d.AddedTokens)) // place of each content in kept
	texts := make(map[int32]string, len(d.AddedTokens))
	kept := d.AddedTokens[:0]
	for _, t := range d.AddedTokens {
		if i, ok := at[t.Content]; ok {
			t.ID, t.Special = kept[i].ID, t.Special || kept[i].Special
			kept[i] = t
			continue
		}
		if other, ok := texts[t.ID]; ok {
			return fmt.Errorf("id %d is both %q and %q", t.ID, other, t.Content)
		}
		at[t.Content], texts[t.ID] = len(kept), t.Content
		kept = append(kept, t)
	}
	d.AddedTokens = kept
	return nil
}

// modelFields are the small members of a model; Vocab and Merges are read by
// themselves.
type modelFields struct {
	Type                    *string `json:"type"`
	UnkToken                *string `json:"unk_token"`
	UnkID                   *int64  `json:"unk_id"`
	ContinuingSubwordPrefix *string `json:"continuing_subword_prefix"`
	EndOfWordSuffix         *string `json:"end_of_word_suffix"`
	FuseUnk                 bool    `json:"fuse_unk"`
	ByteFallback            bool    `json:"byte_fallback"`
	IgnoreMerges            bool    `json:"ignore_merges"`
	MaxInputCharsPerWord    *int    `json:"max_input_chars_per_word"`

	Vocab  json.RawMessage `json:"-"`
	Merges json.RawMessage `json:"-"`
}

// read takes the members out of the JSON object.
func (f *modelFields) read(raw json.RawMessage) error {
	values, _, err := members(raw, true)
	if err != nil {
		return err
	}
	f.Vocab, f.Merges = values["vocab"], values["merges"]
	delete(values, "vocab")
	delete(values, "merges")
	small, err := json.Marshal(values)
	if err != nil {
		return err
	}
	return json.Unmarshal(small, f)
}

func (m *Model) parse(raw json.RawMessage) error {
	var f modelFields
	if err := f.read(raw); err != nil {
		return err
	}
	m.Type = f.kind()
	if isNull(f.Vocab) {
		return fmt.Errorf("no vocab")
	}
	m.UnkID = -1
	m.FuseUnk, m.ByteFallback, m.IgnoreMerges = f.FuseUnk, f.ByteFallback, f.IgnoreMerges
	m.UnkToken = deref(f.UnkToken)
	m.ContinuingSubwordPrefix = deref(f.ContinuingSubwordPrefix)
	m.EndOfWordSuffix = deref(f.EndOfWordSuffix)

	var err error
	switch m.Type {
	case Unigram:
		if m.Pieces, err = parsePieces(f.Vocab); err != nil {
			return fmt.Errorf("vocab: %w", err)
		}
		if f.UnkID != nil {
			if *f.UnkID < 0 || *f.UnkID >= int64(len(m.Pieces)) {
				return fmt.Errorf("unk_id %d: the vocabulary has %d pieces", *f.UnkID, len(m.Pieces))
			}
			m.UnkID = int32(*f.UnkID)
		}
		return nil
	case BPE, WordPiece, WordLevel:
	default:
		return fmt.Errorf("type %q: want BPE, Unigram, WordPiece or WordLevel", m.Type)
	}

	if m.Vocab, err = parseVocab(f.Vocab); err != nil {
		return fmt.Errorf("vocab: %w", err)
	}
	if id, ok := m.Vocab[m.UnkToken]; ok && f.UnkToken != nil {
		m.UnkID = id
	}
	switch m.Type {
	case BPE:
		if isNull(f.Merges) {
			return fmt.Errorf("no merges")
		}
		if m.Merges, err = m.parseMerges(f.Merges); err != nil {
			return fmt.Errorf("merges: %w", err)
		}
	case WordPiece:
		if f.ContinuingSubwordPrefix == nil || f.MaxInputCharsPerWord == nil || f.UnkToken == nil {
			return fmt.Errorf("WordPiece without unk_token, continuing_subword_prefix or max_input_chars_per_word")
		}
		if *f.MaxInputCharsPerWord < 0 {
			return fmt.Errorf("max_input_chars_per_word %d", *f.MaxInputCharsPerWord)
		}
		m.MaxInputCharsPerWord = *f.MaxInputCharsPerWord
	}
	return nil
}

// kind is the model's type; files of tokenizers before 0.11 do not state it
// and are told apart by their fields.
func (f *modelFields) kind() string {
	switch {
	case f.Type != nil:
		return *f.Type
	case !isNull(f.Merges):
		return BPE
	case len(f.Vocab) > 0 && f.Vocab[0] == '[':
		return Unigram
	case f.MaxInputCharsPerWord != nil:
		return WordPiece
	default:
		return WordLevel
	}
}

// parseVocab reads {"text": id, ...}. Repeated texts and repeated ids are
// errors.
func parseVocab(raw []byte) (map[string]int32, error) {
	s := scanner{data: raw}
	vocab := make(map[string]int32, min(len(raw)/16, MaxTokens))
	var seen idSet
	err := s.object(func(text string) error {
		id, err := s.id()
		if err != nil {
			return err
		}
		if _, ok := vocab[text]; ok {
			return fmt.Errorf("the token occurs twice")
		}
		if !seen.add(id) {
			return fmt.Errorf("id %d belongs to another token too", id)
		}
		vocab[text] = id
		return nil
	})
	return vocab, err
}

// idSet is a set of token ids.
type idSet struct{ words []uint64 }

// add puts id into the set and reports whether it was new.
func (s *idSet) add(id int32) bool {
	w, bit := int(id)/64, uint64(1)<<(id%64)
	if w >= len(s.words) {
		s.words = append(s.words, make([]uint64, w+1-len(s.words))...)
	}
	isNew := s.words[w]&bit == 0
	s.words[w] |= bit
	return isNew
}

// parsePieces reads [["text", score], ...].
func parsePieces(raw []byte) ([]Piece, error) {
	s := scanner{data: raw}
	var pieces []Piece
	seen := make(map[string]int)
	err := s.list(func(i int) error {
		if i >= MaxTokens {
			return fmt.Errorf("more than %d pieces", MaxTokens)
		}
		var p Piece
		n := 0
		err := s.list(func(j int) (err error) {
			n++
			switch j {
			case 0:
				p.Text, err = s.str()
			case 1:
				var text string
				if text, err = s.number(); err == nil {
					p.Score, err = strconv.ParseFloat(text, 64)
				}
			default:
				err = fmt.Errorf("more than two values")
			}
			return err
		})
		if err == nil && n != 2 {
			err = fmt.Errorf("want a text and a score")
		}
		if err == nil && (math.IsInf(p.Score, 0) || math.IsNaN(p.Score)) {
			err = fmt.Errorf("score is not finite")
		}
		if err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
		if first, ok := seen[p.Text]; ok {
			return fmt.Errorf("[%d]: %q is at [%d] too", i, p.Text, first)
		}
		seen[p.Text] = i
		pieces = append(pieces, p)
		return nil
	})
	return pieces, err
}

// parseMerges reads ["a b", ...] (until 2024) or [["a", "b"], ...].
func (m *Model) parseMerges(raw []byte) ([]Merge, error) {
	s := scanner{data: raw}
	merges := make([]Merge, 0, min(len(raw)/16, MaxTokens))
	err := s.list(func(i int) error {
		left, right, err := s.mergePair()
		if err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
		merge, err := m.merge(left, right)
		if err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
		merges = append(merges, merge)
		return nil
	})
	return merges, err
}

// mergePair reads one merge in either form.
func (s *scanner) mergePair() (left, right string, err error) {
	if s.peek() == '"' {
		text, err := s.str()
		if err != nil {
			return "", "", err
		}
		return splitMerge(text)
	}
	n := 0
	err = s.list(func(j int) (err error) {
		n++
		switch j {
		case 0:
			left, err = s.str()
		case 1:
			right, err = s.str()
		default:
			err = fmt.Errorf("more than two tokens")
		}
		return err
	})
	if err == nil && n != 2 {
		err = fmt.Errorf("want two tokens, got %d", n)
	}
	return left, right, err
}

// splitMerge cuts the text form of a merge at its only space.
func splitMerge(text string) (left, right string, err error) {
	left, right, ok := strings.Cut(text, " ")
	if !ok || strings.Contains(right, " ") {
		return "", "", fmt.Errorf("%q: want two tokens with one space between them", text)
	}
	return left, right, nil
}

// merge looks up the three tokens of a rule. As in tokenizers' BPE builder the
// right token loses the continuing-subword prefix in the result.
func (m *Model) merge(left, right string) (Merge, error) {
	tail := right
	if p := m.ContinuingSubwordPrefix; p != "" && len(tail) >= len(p) {
		tail = tail[len(p):]
	}
	var out Merge
	for _, part := range [...]struct {
		text string
		id   *int32
	}{{left, &out.Left}, {right, &out.Right}, {left + tail, &out.Result}} {
		id, ok := m.Vocab[part.text]
		if !ok {
			return Merge{}, fmt.Errorf("%q + %q: token %q is not in the vocabulary", left, right, part.text)
		}
		*part.id = id
	}
	return out, nil
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// step reads the members of one JSON object and keeps the first error.
type step struct {
	fields map[string]json.RawMessage
	err    error
}

// get reads a required member into v.
func (s *step) get(name string, v any) {
	if s.err != nil {
		return
	}
	raw, ok := s.fields[name]
	if !ok || isNull(raw) {
		s.err = fmt.Errorf("no %s", name)
		return
	}
	if err := json.Unmarshal(raw, v); err != nil {
		s.err = fmt.Errorf("%s: %w", name, err)
	}
}

// option reads a member into v where it is there; v holds the format's default.
func (s *step) option(name string, v any) {
	if raw, ok := s.fields[name]; ok && !isNull(raw) {
		s.get(name, v)
	}
}

// pattern reads {"String": ...} or {"Regex": ...}.
func (s *step) pattern(p *Pattern) {
	var v struct{ String, Regex *string }
	s.get("pattern", &v)
	if s.err != nil {
		return
	}
	switch {
	case v.String != nil && v.Regex == nil:
		p.String = *v.String
	case v.Regex != nil && v.String == nil && *v.Regex != "":
		p.Regex = *v.Regex
	default:
		s.err = fmt.Errorf("pattern: want one of String and Regex")
	}
}

// char reads a string that must hold one character.
func (s *step) char(name string, v *string) {
	s.get(name, v)
	if s.err == nil && utf8.RuneCountInString(*v) != 1 {
		s.err = fmt.Errorf("%s %q: want one character", name, *v)
	}
}

// oneOf fails where v is not one of the values.
func (s *step) oneOf(name, v string, values ...string) {
	if s.err != nil {
		return
	}
	for _, want := range values {
		if v == want {
			return
		}
	}
	s.err = fmt.Errorf("%s %q: want one of %q", name, v, values)
}

// maxNesting bounds Sequences inside Sequences, maxSteps the steps of all;
// published files nest one deep and have fewer than ten.
const (
	maxNesting = 8
	maxSteps   = 256
)

// flatten reads an optional step, or the Sequence of steps in its member list.
func flatten[T any](raw json.RawMessage, name, list string, parse func(kind string, s *step) T) ([]T, error) {
	return flattenDeep(nil, raw, name, list, parse, 0)
}

func flattenDeep[T any](out []T, raw json.RawMessage, name, list string, parse func(kind string, s *step) T, depth int) ([]T, error) {
	if isNull(raw) {
		return out, nil
	}
	if depth > maxNesting {
		return nil, fmt.Errorf("%s: sequences nested deeper than %d", name, maxNesting)
	}
	s := new(step)
	if err := json.Unmarshal(raw, &s.fields); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var kind string
	s.get("type", &kind)
	if kind == "Sequence" {
		var steps []json.RawMessage
		s.get(list, &steps)
		if s.err != nil {
			return nil, fmt.Errorf("%s: %w", name, s.err)
		}
		for i, inner := range steps {
			var err error
			if out, err = flattenDeep(out, inner, fmt.Sprintf("%s.%s[%d]", name, list, i), list, parse, depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	if len(out) == maxSteps {
		return nil, fmt.Errorf("%s: more than %d steps", name, maxSteps)
	}
	if s.err == nil {
		out = append(out, parse(kind, s))
	}
	if s.err != nil {
		return nil, fmt.Errorf("%s: %s: %w", name, kind, s.err)
	}
	return out, nil
}

func parseAddedToken(raw json.RawMessage) (AddedToken, error) {
	s := new(step)
	if err := json.Unmarshal(raw, &s.fields); err != nil {
		return AddedToken{}, err
	}
	var t AddedToken
	var id int64
	s.get("id", &id)
	if s.err == nil && (id < 0 || id >= MaxTokens) {
		s.err = fmt.Errorf("id %d: want 0 to %d", id, MaxTokens-1)
	}
	t.ID = int32(id)
	s.get("content", &t.Content)
	s.addedFlags(&t)
	return t, s.err
}

// addedFlags reads the flags that tokenizer.json and tokenizer_config.json
// share. AddedToken::from of tokenizers: a special token is not normalized
// unless the file says so.
func (s *step) addedFlags(t *AddedToken) {
	s.option("special", &t.Special)
	t.Normalized = !t.Special
	s.option("single_word", &t.SingleWord)
	s.option("lstrip", &t.LStrip)
	s.option("rstrip", &t.RStrip)
	s.option("normalized", &t.Normalized)
}

func parseNormalizer(kind string, s *step) Normalizer {
	n := Normalizer{Type: kind}
	switch kind {
	case "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Lowercase", "Nmt", "ByteLevel":
	case "BertNormalizer":
		s.get("clean_text", &n.CleanText)
		s.get("handle_chinese_chars", &n.HandleChineseChars)
		s.get("lowercase", &n.Lowercase)
		var accents bool
		if raw := s.fields["strip_accents"]; !isNull(raw) {
			s.get("strip_accents", &accents)
			n.StripAccents = &accents
		}
	case "Strip":
		s.get("strip_left", &n.Left)
		s.get("strip_right", &n.Right)
	case "Replace":
		s.pattern(&n.Pattern)
		s.get("content", &n.Content)
	case "Prepend":
		s.get("prepend", &n.Content)
	case "Precompiled":
		var text string
		s.option("precompiled_charsmap", &text)
		if s.err == nil {
			n.Charsmap, s.err = base64.StdEncoding.DecodeString(text)
		}
	default:
		s.err = fmt.Errorf("unknown normalizer")
	}
	return n
}

func parsePreTokenizer(kind string, s *step) PreTokenizer {
	p := PreTokenizer{Type: kind}
	switch kind {
	case "BertPreTokenizer", "Whitespace", "WhitespaceSplit", "UnicodeScripts":
	case "ByteLevel":
		p.AddPrefixSpace, p.TrimOffsets, p.UseRegex = true, true, true
		s.option("add_prefix_space", &p.AddPrefixSpace)
		s.option("trim_offsets", &p.TrimOffsets)
		s.option("use_regex", &p.UseRegex)
	case "CharDelimiterSplit":
		s.char("delimiter", &p.Delimiter)
	case "Digits":
		s.get("individual_digits", &p.IndividualDigits)
	case "FixedLength":
		s.get("length", &p.Length)
		if s.err == nil && p.Length <= 0 {
			s.err = fmt.Errorf("length %d", p.Length)
		}
	case "Metaspace":
		p.SplitWords = true
		s.option("split", &p.SplitWords)
		s.metaspace(&p.Replacement, &p.PrependScheme)
	case "Punctuation":
		p.Behavior = "Isolated"
		s.option("behavior", &p.Behavior)
		s.behavior(p.Behavior)
	case "Split":
		s.pattern(&p.Pattern)
		s.get("behavior", &p.Behavior)
		s.behavior(p.Behavior)
		s.option("invert", &p.Invert)
	default:
		s.err = fmt.Errorf("unknown pre-tokenizer")
	}
	return p
}

func (s *step) behavior(v string) {
	s.oneOf("behavior", v, "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
}

// metaspace reads the fields that the Metaspace pre-tokenizer and decoder
// share. Older files have add_prefix_space in place of prepend_scheme.
func (s *step) metaspace(replacement, scheme *string) {
	s.char("replacement", replacement)
	prefix := true
	s.option("add_prefix_space", &prefix)
	*scheme = "always"
	s.option("prepend_scheme", scheme)
	if !prefix {
		*scheme = "never"
	}
	s.oneOf("prepend_scheme", *scheme, "always", "never", "first")
}

func parsePostProcessor(kind string, s *step) PostProcessor {
	p := PostProcessor{Type: kind}
	switch kind {
	case "ByteLevel":
		p.AddPrefixSpace, p.TrimOffsets = true, true
		s.option("add_prefix_space", &p.AddPrefixSpace)
		s.option("trim_offsets", &p.TrimOffsets)
	case "BertProcessing":
		s.special("sep", &p.Sep)
		s.special("cls", &p.Cls)
	case "RobertaProcessing":
		p.AddPrefixSpace, p.TrimOffsets = true, true
		s.special("sep", &p.Sep)
		s.special("cls", &p.Cls)
		s.option("add_prefix_space", &p.AddPrefixSpace)
		s.option("trim_offsets", &p.TrimOffsets)
	case "TemplateProcessing":
		s.template("single", &p.Single)
		s.template("pair", &p.Pair)
		var special map[string]struct {
			IDs []int32 `json:"ids"`
		}
		s.get("special_tokens", &special)
		p.Special = make(map[string][]int32, len(special))
		for name, v := range special {
			p.Special[name] = v.IDs
		}
		for _, piece := range append(p.Single[:len(p.Single):len(p.Single)], p.Pair...) {
			if _, ok := p.Special[piece.SpecialToken]; !ok && piece.SpecialToken != "" && s.err == nil {
				s.err = fmt.Errorf("special token %q of the template is not in special_tokens", piece.SpecialToken)
			}
		}
	default:
		s.err = fmt.Errorf("unknown post-processor")
	}
	return p
}

// special reads ["text", id].
func (s *step) special(name string, t *SpecialToken) {
	var pair []json.RawMessage
	s.get(name, &pair)
	if s.err != nil {
		return
	}
	if len(pair) != 2 || json.Unmarshal(pair[0], &t.Content) != nil || json.Unmarshal(pair[1], &t.ID) != nil {
		s.err = fmt.Errorf("%s: want a token and its id", name)
	}
}

func (s *step) template(name string, out *[]TemplatePiece) {
	var pieces []struct {
		Sequence *struct {
			ID     string `json:"id"`
			TypeID int32  `json:"type_id"`
		}
		SpecialToken *struct {
			ID     string `json:"id"`
			TypeID int32  `json:"type_id"`
		}
	}
	s.get(name, &pieces)
	for i, p := range pieces {
		switch {
		case p.Sequence != nil && p.SpecialToken == nil && (p.Sequence.ID == "A" || p.Sequence.ID == "B"):
			*out = append(*out, TemplatePiece{Sequence: p.Sequence.ID, TypeID: p.Sequence.TypeID})
		case p.SpecialToken != nil && p.Sequence == nil && p.SpecialToken.ID != "":
			*out = append(*out, TemplatePiece{SpecialToken: p.SpecialToken.ID, TypeID: p.SpecialToken.TypeID})
		default:
			if s.err == nil {
				s.err = fmt.Errorf("%s[%d]: want a Sequence A or B, or a SpecialToken", name, i)
			}
		}
	}
}

func parseDecoder(kind string, s *step) Decoder {
	d := Decoder{Type: kind}
	switch kind {
	case "ByteLevel", "Fuse", "ByteFallback":
	case "BPEDecoder":
		s.get("suffix", &d.Suffix)
	case "WordPiece":
		s.get("prefix", &d.Prefix)
		s.get("cleanup", &d.Cleanup)
	case "Metaspace":
		s.metaspace(&d.Replacement, &d.PrependScheme)
	case "CTC":
		s.get("pad_token", &d.PadToken)
		s.get("word_delimiter_token", &d.WordDelimiter)
		s.get("cleanup", &d.Cleanup)
	case "Replace":
		s.pattern(&d.Pattern)
		s.get("content", &d.Content)
	case "Strip":
		s.char("content", &d.Content)
		s.get("start", &d.Start)
		s.get("stop", &d.Stop)
		if s.err == nil && (d.Start < 0 || d.Stop < 0) {
			s.err = fmt.Errorf("start %d, stop %d", d.Start, d.Stop)
		}
	default:
		s.err = fmt.Errorf("unknown decoder")
	}
	return d
}
