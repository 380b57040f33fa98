package tokenizer

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
)

// Encoder returns the encoder that the repository's own tokenizer is: by
// tokenizer.json, or by vocab.json with merges.txt, vocab.txt, a SentencePiece
// model, tekken.json or a tiktoken file where there is none. Special tokens
// that only the configuration states are looked for in the text too.
func (f *Files) Encoder() (Encoder, error) {
	e, err := f.encoder()
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	return e, nil
}

func (f *Files) encoder() (Encoder, error) {
	d, err := f.Definition()
	if err == nil {
		return f.definitionEncoder(d)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	sp, err := f.SentencePiece()
	if err == nil {
		addBOS, stated := f.tokenizerConfig.flag("add_bos_token")
		addEOS, _ := f.tokenizerConfig.flag("add_eos_token")
		return NewSentencePieceEncoder(sp, addBOS || !stated, addEOS)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if ok, err := f.has("tekken.json"); err != nil {
		return nil, err
	} else if ok {
		return f.tekkenEncoder()
	}
	t, err := f.Tiktoken()
	if err == nil {
		return f.tiktokenEncoder(t)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return nil, errors.New("no tokenizer files: want tokenizer.json, vocab.json with merges.txt, vocab.txt, tokenizer.model, tekken.json or *.tiktoken")
}

// definitionEncoder encodes by d with the added tokens of all files.
func (f *Files) definitionEncoder(d *Definition) (Encoder, error) {
	table, err := f.tokenTable(d)
	if err != nil {
		return nil, err
	}
	all := *d
	all.AddedTokens = nil
	for _, id := range slices.Sorted(maps.Keys(table.added)) {
		all.AddedTokens = append(all.AddedTokens, table.added[id])
	}
	return NewHFEncoder(&all)
}

func (f *Files) tekkenEncoder() (Encoder, error) {
	data, err := f.read("tekken.json")
	if err != nil {
		return nil, err
	}
	t, err := ParseTekken(data)
	if err != nil {
		return nil, fmt.Errorf("tekken.json: %w", err)
	}
	var special []AddedToken
	for id, text := range t.Special {
		special = append(special, AddedToken{ID: int32(id), Content: text})
	}
	bos := int32(slices.Index(t.Special, "<s>"))
	return NewRankEncoder(&t.Tiktoken, int32(len(t.Special)), t.Pattern, special, bos)
}

// tiktokenPatterns are the expressions of the rank files that cut as a
// pre-tokenizer of llama.cpp does; the files do not state them.
var tiktokenPatterns = map[string]string{
	"llama-bpe": cl100k,
	"qwen2":     qwen2,
	"hunyuan":   qwen2,
	"kimi-k2":   kimiK2,
}

// kimiK2 is the expression of Kimi K2 (tokenization_kimi.py).
const kimiK2 = `[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

func (f *Files) tiktokenEncoder(t *Tiktoken) (Encoder, error) {
	row := t.row()
	pattern, ok := tiktokenPatterns[row.pre]
	if !ok {
		return nil, fmt.Errorf("%s: a rank file does not say how text is cut, and this one is not known", t.name)
	}
	special, stated, err := f.addedTokensDecoder()
	if err != nil {
		return nil, err
	}
	if !stated && row.special != nil {
		for i, text := range row.special() {
			special = append(special, AddedToken{ID: int32(len(t.Tokens) + i), Content: text})
		}
	}
	bos := noToken
	if row.pre == "llama-bpe" {
		for _, s := range special {
			if s.Content == row.bos {
				bos = s.ID
			}
		}
	}
	return NewRankEncoder(t, 0, pattern, special, bos)
}
