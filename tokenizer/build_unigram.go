package tokenizer

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
)

// fromUnigram follows _xlmroberta_set_vocab of upstream's conversion/bert.py.
func (f *Files) fromUnigram(o Options) (*Vocabulary, error) {
	v := &Vocabulary{Model: "t5", Pre: "default", HasScores: true}
	d, err := f.Definition()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var prefix, squeeze bool
	sp, spErr := f.SentencePiece()
	switch {
	case spErr == nil:
		if sp.Kind != SentencePieceUnigram {
			return nil, fmt.Errorf("the SentencePiece model is not a unigram model (model_type %d)", sp.Kind)
		}
		if v.Tokens, err = sp.fairseq(o); err != nil {
			return nil, err
		}
		prefix, squeeze, v.Charsmap = sp.AddDummyPrefix, sp.RemoveExtraWhitespaces, sp.Charsmap
	case !errors.Is(spErr, fs.ErrNotExist):
		return nil, spErr
	default:
		if v.Tokens, err = f.unigramTokens(d, o); err != nil {
			return nil, err
		}
		prefix = true // XLMRobertaTokenizer's default
		if b, ok := f.tokenizerConfig.flag("add_prefix_space"); ok {
			prefix = b
		}
		squeeze, _ = f.tokenizerConfig.flag("clean_up_tokenization_spaces")
		for _, n := range d.Normalizers {
			if n.Type == "Precompiled" {
				v.Charsmap = n.Charsmap
			}
		}
	}
	v.setFlag("add_space_prefix", prefix)
	v.setFlag("remove_extra_whitespaces", squeeze)
	return v, f.applySpecials(v, d, len(v.Tokens))
}

// unigramTokens returns the pieces of tokenizer.json with their added tokens.
func (f *Files) unigramTokens(d *Definition, o Options) ([]Token, error) {
	table, err := f.tokenTable(d)
	if err != nil {
		return nil, err
	}
	size, err := o.size(0, slices.Collect(maps.Keys(table.texts)))
	if err != nil {
		return nil, err
	}
	special := make(map[string]bool)
	for _, text := range f.namedSpecials(d) {
		special[text] = true
	}
	tokens := make([]Token, size)
	for i := range tokens {
		text, ok := table.texts[int32(i)]
		if !ok {
			tokens[i] = padding(i, -10000)
			continue
		}
		t := Token{Text: text, Type: Normal}
		if i < len(d.Model.Pieces) {
			t.Score = float32(d.Model.Pieces[i].Score)
		}
		_, added := table.added[int32(i)]
		switch {
		case int32(i) == d.Model.UnkID:
			t.Type = Unknown
		case special[text]:
			t.Type = Control
		case added:
			t.Type = UserDefined
		}
		tokens[i] = t
	}
	return tokens, nil
}

// fairseq returns the pieces in the order that XLM-RoBERTa gives them: its four
// special tokens first, which take the place of SentencePiece's three, and one
// piece less at the end.
func (sp *SentencePiece) fairseq(o Options) ([]Token, error) {
	size, err := o.size(len(sp.Pieces), nil)
	if err != nil {
		return nil, err
	}
	if len(sp.Pieces) < 4 {
		return nil, fmt.Errorf("the SentencePiece model has %d pieces, want at least 4", len(sp.Pieces))
	}
	tokens := []Token{{"<s>", 0, Control}, {"<pad>", 0, Control}, {"</s>", 0, Control}, {"<unk>", 0, Unknown}}
	for i := 3; i < size-1; i++ {
		if i >= len(sp.Pieces) {
			tokens = append(tokens, padding(i, -10000))
			continue
		}
		p := sp.Pieces[i]
		t := Token{p.Text, p.Score, TokenType(p.Type)}
		if p.Type == PieceUserDefined {
			t.Type = Normal
		}
		tokens = append(tokens, t)
	}
	return tokens, nil
}
