package tokenizer

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
)

// Vocabulary is the vocabulary of a GGUF file: what the tokenizer.* keys say.
type Vocabulary struct {
	// Model is tokenizer.ggml.model: "llama" (SentencePiece BPE), "gpt2"
	// (byte-level BPE), "bert" (WordPiece), "t5" (Unigram).
	Model string
	// Pre is tokenizer.ggml.pre, llama.cpp's name of the pre-tokenizer.
	Pre string
	// Tokens by id.
	Tokens []Token
	// HasScores tells whether the tokens' scores are written (llama, t5).
	HasScores bool
	// Merges of a gpt2 model in order of rank, "left right". A space inside a
	// token is written as U+0120.
	Merges []string

	// Special lists the ids of tokens with a role, in the order of the keys.
	Special []SpecialID
	// Flags lists the booleans in the order of the keys.
	Flags []Flag
	// ChatTemplates has the default template under the name "default".
	ChatTemplates []ChatTemplate
	// TokenTypes is tokenizer.ggml.token_type_count (BERT's segments); 0 is not
	// written.
	TokenTypes int
	// Charsmap is SentencePiece's compiled normalization (t5).
	Charsmap []byte

	// Notes says in words what was left out or derived. It is not written.
	Notes []string
}

// Token is one token of a vocabulary.
type Token struct {
	Text  string
	Score float32
	Type  TokenType
}

// TokenType is llama.cpp's llama_token_type.
type TokenType int32

// The token types.
const (
	Normal      TokenType = 1
	Unknown     TokenType = 2
	Control     TokenType = 3
	UserDefined TokenType = 4
	Unused      TokenType = 5
	Byte        TokenType = 6
)

// SpecialID gives the token with a role: "bos", "eos", "unk", "sep", "pad",
// "cls", "mask", "eot", "eom", "fim_pre", "fim_suf", "fim_mid", "fim_pad",
// "fim_rep" or "fim_sep".
type SpecialID struct {
	Role string
	ID   int32
}

// Flag is a boolean KV, by the last part of its key: "add_bos_token",
// "add_eos_token", "add_sep_token", "add_space_prefix",
// "remove_extra_whitespaces", "normalizer.lowercase" or
// "normalizer.strip_accents".
type Flag struct {
	Name  string
	Value bool
}

// ChatTemplate is a Jinja template with its name.
type ChatTemplate struct{ Name, Template string }

const prefix = "tokenizer.ggml."

// roleKeys gives the key of each role (gguf.constants.Keys.Tokenizer; the
// spelling of "seperator" is the format's).
var roleKeys = []struct{ role, key string }{
	{"bos", prefix + "bos_token_id"},
	{"eos", prefix + "eos_token_id"},
	{"unk", prefix + "unknown_token_id"},
	{"sep", prefix + "seperator_token_id"},
	{"pad", prefix + "padding_token_id"},
	{"cls", prefix + "cls_token_id"},
	{"mask", prefix + "mask_token_id"},
	{"eot", prefix + "eot_token_id"},
	{"eom", prefix + "eom_token_id"},
	{"fim_pre", prefix + "fim_pre_token_id"},
	{"fim_suf", prefix + "fim_suf_token_id"},
	{"fim_mid", prefix + "fim_mid_token_id"},
	{"fim_pad", prefix + "fim_pad_token_id"},
	{"fim_rep", prefix + "fim_rep_token_id"},
	{"fim_sep", prefix + "fim_sep_token_id"},
}

// flagNames are the names that a Flag may have.
var flagNames = []string{
	"add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix",
	"remove_extra_whitespaces", "normalizer.lowercase", "normalizer.strip_accents",
}

// SpecialID returns the id of the token with a role.
func (v *Vocabulary) SpecialID(role string) (id int32, ok bool) {
	for _, s := range v.Special {
		if s.Role == role {
			return s.ID, true
		}
	}
	return -1, false
}

// setSpecial gives a role its id where it has none yet.
func (v *Vocabulary) setSpecial(role string, id int32) {
	if _, ok := v.SpecialID(role); !ok {
		v.Special = append(v.Special, SpecialID{role, id})
	}
}

// Flag returns a boolean and whether the vocabulary states it.
func (v *Vocabulary) Flag(name string) (value, ok bool) {
	for _, f := range v.Flags {
		if f.Name == name {
			return f.Value, true
		}
	}
	return false, false
}

// setFlag states a boolean; one that is stated already keeps its place.
func (v *Vocabulary) setFlag(name string, value bool) {
	for i := range v.Flags {
		if v.Flags[i].Name == name {
			v.Flags[i].Value = value
			return
		}
	}
	v.Flags = append(v.Flags, Flag{name, value})
}

// Metadata returns the KVs of the vocabulary, in the order and with the types
// of llama.cpp's converter.
func (v *Vocabulary) Metadata() gguf.Metadata {
	var m gguf.Metadata
	add := func(key string, value any) { m = append(m, gguf.KV{Key: key, Value: value}) }

	if v.TokenTypes > 0 {
		add(prefix+"token_type_count", uint32(v.TokenTypes))
	}
	add(prefix+"model", v.Model)
	if v.Pre != "" {
		add(prefix+"pre", v.Pre)
	}
	texts, scores, types := make([]string, len(v.Tokens)), make([]float32, len(v.Tokens)), make([]int32, len(v.Tokens))
	for i, t := range v.Tokens {
		texts[i], scores[i], types[i] = t.Text, t.Score, int32(t.Type)
	}
	add(prefix+"tokens", texts)
	if v.HasScores {
		add(prefix+"scores", scores)
	}
	add(prefix+"token_type", types)
	if len(v.Charsmap) > 0 {
		add(prefix+"precompiled_charsmap", v.Charsmap)
	}
	if len(v.Merges) > 0 {
		add(prefix+"merges", v.Merges)
	}
	for _, s := range v.Special {
		for _, r := range roleKeys {
			if r.role == s.Role {
				add(r.key, uint32(s.ID))
			}
		}
	}
	for _, f := range v.Flags {
		add(prefix+f.Name, f.Value)
	}

	var names []string
	for _, t := range v.ChatTemplates {
		if t.Name != "default" {
			add("tokenizer.chat_template."+t.Name, t.Template)
			names = append(names, t.Name)
		}
	}
	if len(names) > 0 {
		add("tokenizer.chat_templates", names)
	}
	for _, t := range v.ChatTemplates {
		if t.Name == "default" {
			add("tokenizer.chat_template", t.Template)
		}
	}
	return m
}

// FromMetadata reads the vocabulary of a GGUF file. A file of model "no_vocab"
// or "none" has none, which is an error here.
func FromMetadata(m gguf.Metadata) (*Vocabulary, error) {
	v := new(Vocabulary)
	if err := v.read(m); err != nil {
		return nil, fmt.Errorf("vocabulary: %w", err)
	}
	return v, nil
}

// value reads a KV that may be missing, but may not have another type.
func value[T any](m gguf.Metadata, key string) (out T, ok bool, err error) {
	raw, ok := m.Get(key)
	if !ok {
		return out, false, nil
	}
	out, ok = raw.(T)
	if !ok {
		return out, false, fmt.Errorf("%s is a %T, want a %T", key, raw, out)
	}
	return out, true, nil
}

func (v *Vocabulary) read(m gguf.Metadata) error {
	var ok bool
	var err error
	if v.Model, ok, err = value[string](m, prefix+"model"); err != nil {
		return err
	} else if !ok || v.Model == "none" || v.Model == "no_vocab" {
		return fmt.Errorf("the file has none (%smodel is %q)", prefix, v.Model)
	}
	if v.Pre, _, err = value[string](m, prefix+"pre"); err != nil {
		return err
	}
	texts, ok, err := value[[]string](m, prefix+"tokens")
	if err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("no %stokens", prefix)
	}
	if len(texts) > MaxTokens {
		return fmt.Errorf("%d tokens, more than %d", len(texts), MaxTokens)
	}
	scores, hasScores, err := value[[]float32](m, prefix+"scores")
	if err != nil {
		return err
	}
	types, hasTypes, err := value[[]int32](m, prefix+"token_type")
	if err != nil {
		return err
	}
	if hasScores && len(scores) != len(texts) {
		return fmt.Errorf("%d scores for %d tokens", len(scores), len(texts))
	}
	if hasTypes && len(types) != len(texts) {
		return fmt.Errorf("%d token types for %d tokens", len(types), len(texts))
	}
	v.HasScores = hasScores
	v.Tokens = make([]Token, len(texts))
	for i, text := range texts {
		t := Token{Text: text, Type: Normal}
		if hasScores {
			if t.Score = scores[i]; math.IsNaN(float64(t.Score)) {
				return fmt.Errorf("the score of token %d is not a number", i)
			}
		}
		if hasTypes {
			// llama.cpp writes 0 (undefined) into old vocabularies.
			if types[i] < 0 || types[i] > int32(Byte) {
				return fmt.Errorf("token %d has type %d, want 0 to 6", i, types[i])
			}
			t.Type = TokenType(types[i])
		}
		v.Tokens[i] = t
	}
	if v.Merges, _, err = value[[]string](m, prefix+"merges"); err != nil {
		return err
	}
	if v.Charsmap, err = readCharsmap(m); err != nil {
		return err
	}
	if n, ok, err := value[uint32](m, prefix+"token_type_count"); err != nil {
		return err
	} else if ok {
		v.TokenTypes = int(n)
	}
	for _, kv := range m {
		if err := v.readKV(kv); err != nil {
			return err
		}
	}
	return nil
}

// readCharsmap reads the map, which is an array of bytes, signed in some files.
func readCharsmap(m gguf.Metadata) ([]byte, error) {
	switch raw, _ := m.Get(prefix + "precompiled_charsmap"); raw := raw.(type) {
	case nil:
		return nil, nil
	case []uint8:
		return raw, nil
	case []int8:
		out := make([]byte, len(raw))
		for i, b := range raw {
			out[i] = byte(b)
		}
		return out, nil
	default:
		return nil, fmt.Errorf("%sprecompiled_charsmap is a %T, want bytes", prefix, raw)
	}
}

// readKV takes in a special id, a flag or a template.
func (v *Vocabulary) readKV(kv gguf.KV) error {
	for _, r := range roleKeys {
		if kv.Key != r.key {
			continue
		}
		id, ok := kv.Value.(uint32)
		if !ok {
			return fmt.Errorf("%s is a %T, want a uint32", kv.Key, kv.Value)
		}
		if int64(id) >= int64(len(v.Tokens)) { // llama.cpp, too, goes on without it
			v.Notes = append(v.Notes, fmt.Sprintf("%s is %d, but there are %d tokens: ignored", kv.Key, id, len(v.Tokens)))
			return nil
		}
		v.Special = append(v.Special, SpecialID{r.role, int32(id)})
		return nil
	}
	if name, ok := strings.CutPrefix(kv.Key, prefix); ok && slices.Contains(flagNames, name) {
		b, ok := kv.Value.(bool)
		if !ok {
			return fmt.Errorf("%s is a %T, want a bool", kv.Key, kv.Value)
		}
		v.Flags = append(v.Flags, Flag{name, b})
		return nil
	}
	name, named := strings.CutPrefix(kv.Key, "tokenizer.chat_template.")
	if kv.Key == "tokenizer.chat_template" {
		name, named = "default", true
	}
	if named {
		text, ok := kv.Value.(string)
		if !ok {
			return fmt.Errorf("%s is a %T, want a string", kv.Key, kv.Value)
		}
		v.ChatTemplates = append(v.ChatTemplates, ChatTemplate{name, text})
	}
	return nil
}
