package tokenizer

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// Kind is a form in which a repository carries its vocabulary, and thereby
// the model that the GGUF says.
type Kind string

// The kinds. Each is usable where its files are there.
const (
	// KindSentencePiece is a SentencePiece tokenizer.model: model "llama".
	KindSentencePiece Kind = "sentencepiece"
	// KindByteFallback is a tokenizer.json with a BPE over characters that falls
	// back to bytes, which is SentencePiece's BPE in another file: model "llama"
	// with scores made of the merges' ranks.
	KindByteFallback Kind = "byte-fallback"
	// KindBPE is a byte-level BPE in tokenizer.json, or in vocab.json and
	// merges.txt: model "gpt2".
	KindBPE Kind = "bpe"
	// KindTiktoken is a byte-level BPE as a rank file (Llama 3's tokenizer.model,
	// *.tiktoken): model "gpt2".
	KindTiktoken Kind = "tiktoken"
	// KindTekken is Mistral's tekken.json: model "gpt2".
	KindTekken Kind = "tekken"
	// KindWordPiece is a WordPiece in tokenizer.json or vocab.txt: model "bert".
	KindWordPiece Kind = "wordpiece"
	// KindUnigram is a Unigram in tokenizer.json, or a SentencePiece unigram
	// model in the layout of XLM-RoBERTa: model "t5".
	KindUnigram Kind = "unigram"
)

// DefaultKinds is the order in which kinds are tried where Options does not
// say: a SentencePiece model has the real scores, and tokenizer.json has more
// than the others.
var DefaultKinds = []Kind{KindSentencePiece, KindByteFallback, KindBPE, KindWordPiece, KindUnigram, KindTekken, KindTiktoken}

// Options is what an architecture knows about its vocabulary. The zero value
// suits most.
type Options struct {
	// Kinds are tried in order; nil is DefaultKinds.
	Kinds []Kind
	// Size is the number of rows of the token embedding. A smaller vocabulary is
	// padded with unused tokens "[PADn]"; a larger one is an error. 0 takes the
	// vocabulary as it is.
	Size int
	// Arch is general.architecture. It decides between pre-tokenizers of one
	// structure.
	Arch string
	// Pre is the name of the pre-tokenizer where the user gave one.
	Pre string

	// Special are further special tokens, in order.
	Special []SpecialRule
	// Flags are stated in the end, over what the files say.
	Flags []FlagRule
	// TokenTypes is BERT's type_vocab_size; 0 is not written.
	TokenTypes int
	// SpacePrefixFromConfig states add_space_prefix where
	// tokenizer_config.json has add_prefix_space.
	SpacePrefixFromConfig bool
	// AddedFromDefinition lets the added tokens of tokenizer.json replace those
	// of a SentencePiece model, and takes their types from "special" alone
	// (Phi-3).
	AddedFromDefinition bool
	// DropAdded leaves out added tokens beyond Size in place of failing: text
	// models that share the tokenizer of a multimodal sibling (Gemma 3).
	DropAdded bool
}

// SpecialRule gives a role a token where the files have not given it one. A
// rule with a Text names an added token, which must exist.
type SpecialRule struct {
	Role     string
	Text     string
	ID       int32 // where Text is empty
	Override bool  // replaces what the files say
	OnlySize int   // the rule holds for this Size; 0 for any
}

// FlagRule states a flag.
type FlagRule struct {
	Name     string // as in Flag
	Value    bool
	OnlySize int // the rule holds for this Size; 0 for any
}

// Vocabulary makes the GGUF vocabulary of the repository.
func (f *Files) Vocabulary(o Options) (*Vocabulary, error) {
	if o.Size < 0 || o.Size > MaxTokens {
		return nil, fmt.Errorf("tokenizer: an embedding of %d tokens: want at most %d", o.Size, MaxTokens)
	}
	v, err := f.vocabulary(o)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	return v, nil
}

func (f *Files) vocabulary(o Options) (*Vocabulary, error) {
	kinds := o.Kinds
	if kinds == nil {
		kinds = DefaultKinds
	}
	for _, kind := range kinds {
		there, err := f.there(kind)
		if err != nil {
			return nil, err
		}
		if !there {
			continue
		}
		v, err := builders[kind](f, o)
		if err != nil {
			return nil, err
		}
		return v, f.finish(v, o)
	}
	return nil, f.missing(kinds)
}

// builders makes the tokens, merges and ids of each kind.
var builders = map[Kind]func(*Files, Options) (*Vocabulary, error){
	KindSentencePiece: (*Files).fromSentencePiece,
	KindByteFallback:  (*Files).fromByteFallback,
	KindBPE:           (*Files).fromBPE,
	KindTiktoken:      (*Files).fromTiktoken,
	KindTekken:        (*Files).fromTekken,
	KindWordPiece:     (*Files).fromWordPiece,
	KindUnigram:       (*Files).fromUnigram,
}

// there tells whether the repository has the files of a kind.
func (f *Files) there(kind Kind) (bool, error) {
	switch kind {
	case KindSentencePiece:
		_, err := f.SentencePiece()
		return found(err)
	case KindTiktoken:
		_, err := f.Tiktoken()
		return found(err)
	case KindTekken:
		return f.has("tekken.json")
	}
	d, err := f.Definition()
	if ok, err := found(err); !ok || err != nil {
		if kind == KindUnigram && err == nil {
			_, err = f.SentencePiece()
			return found(err)
		}
		return false, err
	}
	switch kind {
	case KindByteFallback:
		return d.Model.Type == BPE && d.Model.ByteFallback && !d.byteLevel(), nil
	case KindBPE:
		return d.Model.Type == BPE && (d.byteLevel() || !d.Model.ByteFallback), nil
	case KindWordPiece:
		return d.Model.Type == WordPiece, nil
	case KindUnigram:
		return d.Model.Type == Unigram, nil
	}
	return false, fmt.Errorf("unknown vocabulary kind %q", kind)
}

func found(err error) (bool, error) {
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// missing is the error for a repository without any of the kinds.
func (f *Files) missing(kinds []Kind) error {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	for _, name := range []string{"tokenizer.json", "tokenizer.model"} {
		if ok, err := f.has(name); err != nil {
			return err
		} else if ok {
			return fmt.Errorf("%s is not of a kind that this architecture has (%s)", name, strings.Join(names, ", "))
		}
	}
	return fmt.Errorf("no tokenizer files: want tokenizer.json, tokenizer.model, vocab.json with merges.txt, vocab.txt, tekken.json or a *.tiktoken file (for %s)", strings.Join(names, ", "))
}

// finish applies the rules of the architecture.
func (f *Files) finish(v *Vocabulary, o Options) error {
	ids := map[string]int32{}
	for i, t := range v.Tokens {
		if t.Type == Control || t.Type == UserDefined {
			ids[t.Text] = int32(i)
		}
	}
	for _, rule := range o.Special {
		if rule.OnlySize != 0 && rule.OnlySize != len(v.Tokens) {
			continue
		}
		id := rule.ID
		if rule.Text != "" {
			var ok bool
			if id, ok = ids[rule.Text]; !ok {
				return fmt.Errorf("the architecture's %s token %q is not among the added tokens", rule.Role, rule.Text)
			}
		}
		if rule.Override {
			v.Special = slices.DeleteFunc(v.Special, func(s SpecialID) bool { return s.Role == rule.Role })
		}
		v.setSpecial(rule.Role, id)
	}
	if o.SpacePrefixFromConfig {
		if b, ok := f.tokenizerConfig.flag("add_prefix_space"); ok {
			v.setFlag("add_space_prefix", b)
		}
	}
	for _, rule := range o.Flags {
		if rule.OnlySize == 0 || rule.OnlySize == len(v.Tokens) {
			v.setFlag(rule.Name, rule.Value)
		}
	}
	v.TokenTypes = o.TokenTypes
	return nil
}

// size settles the number of tokens: that of the embedding, or of the
// vocabulary where that is not stated. first ids are taken by the model; added
// are those of further tokens. Gaps between them are padded only where the
// embedding says how far.
func (o Options) size(first int, added []int32) (int, error) {
	have := first
	for _, id := range slices.Sorted(slices.Values(added)) {
		if int(id) < have {
			continue
		}
		if int(id) > have && o.Size == 0 {
			return 0, fmt.Errorf("no token has id %d, but one has id %d", have, id)
		}
		have = int(id) + 1
	}
	if have > MaxTokens {
		return 0, fmt.Errorf("the vocabulary has %d tokens, more than %d", have, MaxTokens)
	}
	if o.Size == 0 {
		return have, nil
	}
	if have > o.Size {
		return 0, fmt.Errorf("the vocabulary has %d tokens, more than the %d rows of the token embedding", have, o.Size)
	}
	return o.Size, nil
}

// padding is the unused token of an id that no token has.
func padding(id int, score float32) Token {
	return Token{fmt.Sprintf("[PAD%d]", id), score, Unused}
}

// looksSpecial tells whether a text is a control token although its file does
// not say so (does_token_look_special of upstream's conversion/base.py).
func looksSpecial(text string) bool {
	switch text {
	case "<pad>", "<mask>", "<2mass>", "[@BOS@]":
		return true
	}
	return strings.HasPrefix(text, "<|") && strings.HasSuffix(text, "|>") ||
		strings.HasPrefix(text, "<｜") && strings.HasSuffix(text, "｜>") ||
		strings.HasPrefix(text, "<unused") && strings.HasSuffix(text, ">")
}

// userText is the text of a user-defined token: SentencePiece's visible
// spaces are spaces there.
func userText(text string) string { return strings.ReplaceAll(text, "▁", " ") }

// addedToken is an added token as a GGUF has it.
func addedToken(a AddedToken, score float32) Token {
	if a.Special || looksSpecial(a.Content) {
		return Token{a.Content, score, Control}
	}
	return Token{userText(a.Content), score, UserDefined}
}

// fromBPE follows get_vocab_base and _set_vocab_gpt2 of upstream.
func (f *Files) fromBPE(o Options) (*Vocabulary, error) {
	d, err := f.Definition()
	if err != nil {
		return nil, err
	}
	v := &Vocabulary{Model: "gpt2"}
	if v.Pre, err = f.pre(d, o); err != nil {
		return nil, err
	}
	if v.Tokens, err = f.tableTokens(d, o); err != nil {
		return nil, err
	}
	if len(d.Model.Merges) > 0 {
		v.Merges = d.Model.mergeTexts()
	}
	return v, f.applySpecials(v, d, 0)
}

// pre is the name of the pre-tokenizer.
func (f *Files) pre(d *Definition, o Options) (string, error) {
	if o.Pre != "" {
		return o.Pre, nil
	}
	modelType, _ := f.config.text("model_type")
	return d.recognise(modelType, o.Arch)
}

// tableTokens returns the tokens of the table that transformers would build,
// padded to the embedding.
func (f *Files) tableTokens(d *Definition, o Options) ([]Token, error) {
	table, err := f.tokenTable(d)
	if err != nil {
		return nil, err
	}
	if o.DropAdded && o.Size > 0 {
		for id := range table.added {
			if int(id) >= o.Size {
				delete(table.texts, id)
			}
		}
	}
	size, err := o.size(0, slices.Collect(maps.Keys(table.texts)))
	if err != nil {
		return nil, err
	}
	bytes := slices.ContainsFunc(d.Decoders, func(s Decoder) bool { return s.Type == "ByteLevel" })
	tokens := make([]Token, size)
	for i := range tokens {
		text, ok := table.texts[int32(i)]
		if !ok {
			tokens[i] = padding(i, 0)
			continue
		}
		tokens[i] = Token{Text: text, Type: Normal}
		if a, ok := table.added[int32(i)]; ok {
			if !a.Normalized && bytes {
				a.Content = decodeAdded(a.Content)
			}
			tokens[i] = addedToken(a, 0)
		}
	}
	return tokens, nil
}

// decodeAdded is what a ByteLevel decoder makes of an added token: where every
// character stands for a byte, those bytes (tokenizers' ByteLevel
// decode_chain). Upstream writes the decoded text of tokens that are not
// normalized.
func decodeAdded(text string) string {
	if bytes, ok := fromByteAlphabet(text); ok {
		return strings.ToValidUTF8(bytes, "\uFFFD")
	}
	return text
}

// mergeTexts writes the merges as text. A space inside a token becomes
// U+0120, so that the one between the tokens is the only one.
func (m *Model) mergeTexts() []string {
	texts := make(map[int32]string, len(m.Vocab))
	for text, id := range m.Vocab {
		texts[id] = strings.ReplaceAll(text, " ", "\u0120")
	}
	out := make([]string, len(m.Merges))
	for i, merge := range m.Merges {
		out[i] = texts[merge.Left] + " " + texts[merge.Right]
	}
	return out
}

// fromWordPiece follows BertModel.set_vocab of upstream: the tokens that
// start a word get SentencePiece's space in front, the others lose their "##".
func (f *Files) fromWordPiece(o Options) (*Vocabulary, error) {
	d, err := f.Definition()
	if err != nil {
		return nil, err
	}
	v := &Vocabulary{Model: "bert"}
	if v.Pre, err = f.pre(d, o); err != nil {
		return nil, err
	}
	if v.Tokens, err = f.tableTokens(d, o); err != nil {
		return nil, err
	}
	for i := range v.Tokens {
		t := &v.Tokens[i]
		if t.Type == Control {
			continue
		}
		if inner, ok := strings.CutPrefix(t.Text, "##"); ok {
			t.Text = inner
		} else {
			t.Text = "▁" + t.Text
		}
	}
	return v, f.applySpecials(v, d, len(v.Tokens))
}

// fromSentencePiece follows _create_vocab_sentencepiece of upstream.
func (f *Files) fromSentencePiece(o Options) (*Vocabulary, error) {
	sp, err := f.SentencePiece()
	if err != nil {
		return nil, err
	}
	v := &Vocabulary{Model: "llama", Pre: "default", HasScores: true}
	decoder, _, err := f.addedTokensDecoder()
	if err != nil {
		return nil, err
	}
	var added []int32
	if o.Size == 0 { // else place judges them
		for _, a := range append(slices.Clone(f.addedTokens), decoder...) {
			added = append(added, a.ID)
		}
	}
	size, err := o.size(len(sp.Pieces), added)
	if err != nil {
		return nil, err
	}
	v.Tokens = make([]Token, size)
	for i := range v.Tokens {
		v.Tokens[i] = padding(i, -10000)
	}
	for i, p := range sp.Pieces {
		t := Token{p.Text, p.Score, TokenType(p.Type)}
		if p.Type == PieceUserDefined {
			t.Type = Normal // upstream does not ask for it
		}
		v.Tokens[i] = t
	}
	for _, a := range f.addedTokens {
		if err := v.place(a.ID, Token{a.Content, -1000, UserDefined}, o); err != nil {
			return nil, fmt.Errorf("added_tokens.json: %w", err)
		}
	}
	for _, a := range decoder {
		t := addedToken(a, -1000)
		if o.AddedFromDefinition {
			t = plainAdded(a)
		}
		if err := v.place(a.ID, t, o); err != nil {
			return nil, fmt.Errorf("tokenizer_config.json: %w", err)
		}
	}
	d, err := f.tokenizerJSON()
	if errors.Is(err, fs.ErrNotExist) {
		d = nil
	} else if err != nil {
		return nil, err
	}
	if o.AddedFromDefinition && d != nil {
		for _, a := range d.AddedTokens {
			if err := v.place(a.ID, plainAdded(a), o); err != nil {
				return nil, fmt.Errorf("tokenizer.json: %w", err)
			}
		}
	}
	return v, f.applySpecials(v, d, size)
}

// plainAdded is an added token by what its file says and nothing else
// (Phi3MiniModel.set_vocab of upstream).
func plainAdded(a AddedToken) Token {
	if a.Special {
		return Token{a.Content, -1000, Control}
	}
	return Token{a.Content, -1000, UserDefined}
}

// place puts an added token at its id.
func (v *Vocabulary) place(id int32, t Token, o Options) error {
	if int(id) < len(v.Tokens) {
		v.Tokens[id] = t
		return nil
	}
	if !o.DropAdded {
		return fmt.Errorf("added token %q has id %d: the token embedding has %d rows", t.Text, id, len(v.Tokens))
	}
	v.Notes = append(v.Notes, fmt.Sprintf("added token %q (id %d) is left out: the token embedding has %d rows", t.Text, id, len(v.Tokens)))
	return nil
}

// fromByteFallback makes the vocabulary that SentencePiece would have: in
// llama.cpp the pair whose union has the highest score merges first, so a
// token's score is the negated place of its first merge. Merges that make one
// token share its place, as in the model they came from.
func (f *Files) fromByteFallback(o Options) (*Vocabulary, error) {
	d, err := f.Definition()
	if err != nil {
		return nil, err
	}
	v := &Vocabulary{Model: "llama", Pre: "default", HasScores: true}
	table, err := f.tokenTable(d)
	if err != nil {
		return nil, err
	}
	if v.Tokens, err = f.tableTokens(d, o); err != nil {
		return nil, err
	}
	places := make(map[int32]int, len(d.Model.Merges))
	for _, m := range d.Model.Merges {
		if _, ok := places[m.Result]; !ok {
			places[m.Result] = len(places)
		}
	}
	after := len(places) // characters, which no merge makes, come after all
	for i := range v.Tokens {
		t := &v.Tokens[i]
		_, added := table.added[int32(i)]
		_, isByte := parseByteToken(t.Text)
		place, merged := places[int32(i)]
		switch {
		case t.Type == Unused:
			t.Score = -10000
		case int32(i) == d.Model.UnkID:
			t.Type = Unknown
		case added && t.Type == Control && merged:
			t.Score = -float32(place)
		case added:
			if t.Type == UserDefined {
				t.Score = -1000
			}
		case isByte:
			t.Type = Byte
		case merged:
			t.Score = -float32(place)
		default:
			t.Score = -float32(after)
			after++
		}
	}
	if err := f.applySpecials(v, d, len(v.Tokens)); err != nil {
		return nil, err
	}
	if _, ok := v.Flag("add_space_prefix"); !ok && !d.spacePrefix() {
		v.setFlag("add_space_prefix", false)
	}
	return v, nil
}

// spacePrefix tells whether a space is put in front of a text.
func (d *Definition) spacePrefix() bool {
	return slices.ContainsFunc(d.Normalizers, func(n Normalizer) bool { return n.Type == "Prepend" }) ||
		slices.ContainsFunc(d.PreTokenizers, func(p PreTokenizer) bool {
			return p.Type == "Metaspace" && p.PrependScheme != "never"
		})
}
