package tokenizer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// legacyDefinition makes the Definition that transformers would for a
// repository from before tokenizer.json: vocab.json and merges.txt are a
// byte-level BPE, vocab.txt is a WordPiece.
func (f *Files) legacyDefinition() (*Definition, error) {
	data, err := f.read("vocab.json")
	switch {
	case err == nil:
		merges, err := f.read("merges.txt")
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("vocab.json is there, but merges.txt is not")
		} else if err != nil {
			return nil, err
		}
		return f.legacyBPE(data, merges)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	data, err = f.read("vocab.txt")
	if err != nil {
		return nil, err
	}
	d, err := f.legacyWordPiece(data)
	if err != nil {
		return nil, fmt.Errorf("vocab.txt: %w", err)
	}
	return d, nil
}

// legacyBPE reads vocab.json and merges.txt. What cuts the text is the
// tokenizer class's: Qwen2's expression, or GPT-2's.
func (f *Files) legacyBPE(vocab, merges []byte) (*Definition, error) {
	d := &Definition{Decoders: []Decoder{{Type: "ByteLevel"}}}
	d.Model.Type, d.Model.UnkID = BPE, -1
	var err error
	if d.Model.Vocab, err = parseVocabFile(vocab); err != nil {
		return nil, fmt.Errorf("vocab.json: %w", err)
	}
	line := 0
	for text := range bytes.Lines(merges) {
		line++
		text = bytes.TrimSpace(text)
		if len(text) == 0 || line == 1 && text[0] == '#' {
			continue
		}
		left, right, err := splitMerge(string(text))
		if err != nil {
			return nil, fmt.Errorf("merges.txt: line %d: %w", line, err)
		}
		merge, err := d.Model.merge(left, right)
		if err != nil {
			return nil, fmt.Errorf("merges.txt: line %d: %w", line, err)
		}
		d.Model.Merges = append(d.Model.Merges, merge)
	}
	prefix, _ := f.tokenizerConfig.flag("add_prefix_space")
	if strings.HasPrefix(f.tokenizerClass(d), "Qwen2") {
		d.Normalizers = []Normalizer{{Type: "NFC"}}
		d.PreTokenizers = []PreTokenizer{
			{Type: "Split", Pattern: Pattern{Regex: qwen2}, Behavior: "Isolated"},
			{Type: "ByteLevel", AddPrefixSpace: prefix, TrimOffsets: true},
		}
	} else {
		d.PreTokenizers = []PreTokenizer{{Type: "ByteLevel", AddPrefixSpace: prefix, TrimOffsets: true, UseRegex: true}}
	}
	return d, nil
}

// legacyWordPiece reads vocab.txt, one token per line; the number of the line
// is the id. The rest is BertTokenizer's.
func (f *Files) legacyWordPiece(data []byte) (*Definition, error) {
	d := new(Definition)
	m := &d.Model
	m.Type, m.UnkToken, m.ContinuingSubwordPrefix, m.MaxInputCharsPerWord = WordPiece, "[UNK]", "##", 100
	m.Vocab = make(map[string]int32)
	id := int32(0)
	for line := range bytes.Lines(data) {
		text := strings.TrimRight(string(line), "\r\n")
		if first, ok := m.Vocab[text]; ok {
			return nil, fmt.Errorf("line %d: %q is on line %d too", id+1, text, first+1)
		}
		if id == MaxTokens {
			return nil, fmt.Errorf("more than %d lines", MaxTokens)
		}
		m.Vocab[text] = id
		id++
	}
	if t, ok := f.tokenizerConfig.token("unk_token"); ok {
		m.UnkToken = t.Content
	}
	var ok bool
	if m.UnkID, ok = m.Vocab[m.UnkToken]; !ok {
		return nil, fmt.Errorf("the unknown token %q is missing", m.UnkToken)
	}
	lower, ok := f.tokenizerConfig.flag("do_lower_case")
	chinese, ok2 := f.tokenizerConfig.flag("tokenize_chinese_chars")
	n := Normalizer{Type: "BertNormalizer", CleanText: true, Lowercase: lower || !ok, HandleChineseChars: chinese || !ok2}
	if strip, ok := f.tokenizerConfig.flag("strip_accents"); ok {
		n.StripAccents = &strip
	}
	d.Normalizers = []Normalizer{n}
	d.PreTokenizers = []PreTokenizer{{Type: "BertPreTokenizer"}}
	d.Decoders = []Decoder{{Type: "WordPiece", Prefix: "##", Cleanup: true}}

	cls, sep := SpecialToken{Content: "[CLS]"}, SpecialToken{Content: "[SEP]"}
	for _, s := range []struct {
		role  string
		token *SpecialToken
	}{{"cls", &cls}, {"sep", &sep}} {
		if c, ok := f.tokenizerConfig.token(s.role + "_token"); ok {
			s.token.Content = c.Content
		}
		if s.token.ID, ok = m.Vocab[s.token.Content]; !ok {
			return nil, fmt.Errorf("the %s token %q is missing", s.role, s.token.Content)
		}
	}
	d.PostProcessors = []PostProcessor{{
		Type: "TemplateProcessing",
		Single: []TemplatePiece{
			{SpecialToken: cls.Content}, {Sequence: "A"}, {SpecialToken: sep.Content},
		},
		Pair: []TemplatePiece{
			{SpecialToken: cls.Content}, {Sequence: "A"}, {SpecialToken: sep.Content},
			{Sequence: "B", TypeID: 1}, {SpecialToken: sep.Content, TypeID: 1},
		},
		Special: map[string][]int32{cls.Content: {cls.ID}, sep.Content: {sep.ID}},
	}}
	for _, text := range []string{"[PAD]", m.UnkToken, cls.Content, sep.Content, "[MASK]"} {
		if id, ok := m.Vocab[text]; ok {
			d.AddedTokens = append(d.AddedTokens, AddedToken{ID: id, Content: text, Special: true})
		}
	}
	return d, nil
}
