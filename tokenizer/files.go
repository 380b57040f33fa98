package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// maxFileBytes bounds a tokenizer file. The largest published ones have 40 MB.
const maxFileBytes = 512 << 20

// maxTemplateBytes bounds the chat templates that are files of their own, all
// together. Published ones have some 20 KB.
const maxTemplateBytes = 64 << 20

// Files are the tokenizer files of a repository. The big ones are read when
// they are needed, once. Files is not safe for concurrent use.
type Files struct {
	fsys   fs.FS
	config fields // config.json
	// tokenizerConfig is tokenizer_config.json; nil where there is none.
	tokenizerConfig fields
	configNames     []string // its members' names in order
	specialMap      fields   // special_tokens_map.json; nil where there is none
	addedTokens     []AddedToken
	templates       []ChatTemplate // chat_template.jinja with additional_chat_templates/, or chat_template.json

	definition    *Definition // tokenizer.json
	legacy        *Definition // vocab.json with merges.txt, or vocab.txt
	sentencePiece *SentencePiece
	tiktoken      *Tiktoken
}

// fields is a JSON object whose members are read one by one.
type fields map[string]json.RawMessage

// Load finds the tokenizer files at the root of fsys and reads the small ones.
// It succeeds where there are none: Vocabulary says what is missing.
func Load(fsys fs.FS) (*Files, error) {
	f := &Files{fsys: fsys}
	for _, c := range []struct {
		name  string
		into  *fields
		names *[]string
	}{
		{"config.json", &f.config, new([]string)},
		{"tokenizer_config.json", &f.tokenizerConfig, &f.configNames},
		{"special_tokens_map.json", &f.specialMap, new([]string)},
	} {
		data, err := f.read(c.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		values, names, err := members(data, false)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		*c.into, *c.names = values, names
	}
	if err := f.readAddedTokens(); err != nil {
		return nil, err
	}
	return f, f.readTemplates()
}

// has tells whether a file exists.
func (f *Files) has(name string) (bool, error) {
	info, err := fs.Stat(f.fsys, name)
	if ok, err := found(err); !ok {
		return false, err
	}
	return !info.IsDir(), nil
}

// read returns the bytes of a file.
func (f *Files) read(name string) ([]byte, error) {
	file, err := f.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, maxFileBytes)
	}
	return data, nil
}

// readAddedTokens reads added_tokens.json ({"text": id, ...}) in the order of
// the file.
func (f *Files) readAddedTokens() error {
	const name = "added_tokens.json"
	data, err := f.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	vocab, err := parseVocabFile(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for text, id := range vocab {
		f.addedTokens = append(f.addedTokens, AddedToken{ID: id, Content: text})
	}
	slices.SortFunc(f.addedTokens, func(a, b AddedToken) int { return int(a.ID - b.ID) })
	return nil
}

// parseVocabFile reads a file that is one {"text": id, ...}.
func parseVocabFile(data []byte) (map[string]int32, error) {
	if !json.Valid(data) {
		var v any
		return nil, json.Unmarshal(data, &v) // says where
	}
	return parseVocab(data)
}

// readTemplates reads the chat templates that have their own files:
// chat_template.jinja, with further ones in additional_chat_templates/, or
// else chat_template.json.
func (f *Files) readTemplates() error {
	text, err := f.read("chat_template.jinja")
	switch {
	case err == nil:
		f.templates = []ChatTemplate{{"default", string(text)}}
		entries, err := fs.ReadDir(f.fsys, "additional_chat_templates")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		size := len(text)
		for _, e := range entries { // sorted by name
			stem, ok := strings.CutSuffix(e.Name(), ".jinja")
			if !ok {
				continue
			}
			text, err := f.read(path.Join("additional_chat_templates", e.Name()))
			if err != nil {
				return err
			}
			if size += len(text); size > maxTemplateBytes {
				return fmt.Errorf("additional_chat_templates: more than %d bytes of templates", maxTemplateBytes)
			}
			f.templates = append(f.templates, ChatTemplate{stem, string(text)})
		}
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}

	data, err := f.read("chat_template.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	var v fields
	if err := json.Unmarshal(data, &v); err != nil {
		return fmt.Errorf("chat_template.json: %w", err)
	}
	if f.templates, err = parseTemplates(v["chat_template"]); err != nil {
		return fmt.Errorf("chat_template.json: %w", err)
	}
	return nil
}

// parseTemplates reads a chat template: a string, or a list of
// {"name": ..., "template": ...}.
func parseTemplates(raw json.RawMessage) ([]ChatTemplate, error) {
	if isNull(raw) {
		return nil, nil
	}
	switch raw[0] {
	case '"':
		var text string
		err := json.Unmarshal(raw, &text)
		return []ChatTemplate{{"default", text}}, err
	case '[':
		var list []struct{ Name, Template *string }
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, fmt.Errorf("chat_template: %w", err)
		}
		var out []ChatTemplate
		for i, t := range list {
			if t.Name == nil || t.Template == nil {
				return nil, fmt.Errorf("chat_template[%d]: want a name and a template", i)
			}
			out = append(out, ChatTemplate{*t.Name, *t.Template})
		}
		return out, nil
	}
	return nil, fmt.Errorf("chat_template: want a string or a list of named templates")
}

// ChatTemplates returns the repository's templates. Those in
// tokenizer_config.json come before the ones that have their own files, as in
// llama.cpp's converter. Names are reduced to letters, digits and '_', which
// is what a key may have.
func (f *Files) ChatTemplates() ([]ChatTemplate, error) {
	templates := f.templates
	if raw, ok := f.tokenizerConfig["chat_template"]; ok && !isNull(raw) {
		var err error
		if templates, err = parseTemplates(raw); err != nil {
			return nil, fmt.Errorf("tokenizer_config.json: %w", err)
		}
	}
	var out []ChatTemplate
	seen := make(map[string]bool)
	for _, t := range templates {
		t.Name = strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
				return r
			}
			return '_'
		}, t.Name)
		if t.Name == "" {
			continue
		}
		if seen[t.Name] {
			return nil, fmt.Errorf("two chat templates are named %q", t.Name)
		}
		seen[t.Name] = true
		out = append(out, t)
	}
	return out, nil
}

// SentencePiece returns the SentencePiece model of the repository, from
// tokenizer.model or sentencepiece.bpe.model. The error wraps fs.ErrNotExist
// where there is none.
func (f *Files) SentencePiece() (*SentencePiece, error) {
	if f.sentencePiece != nil {
		return f.sentencePiece, nil
	}
	for _, name := range []string{"tokenizer.model", "sentencepiece.bpe.model"} {
		data, err := f.read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		if isTiktoken(data) {
			continue
		}
		sp, err := ParseSentencePiece(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		f.sentencePiece = sp
		return sp, nil
	}
	return nil, fmt.Errorf("tokenizer.model: %w", fs.ErrNotExist)
}

// Definition returns the parsed tokenizer.json, or one made of vocab.json and
// merges.txt, or of vocab.txt. The error wraps fs.ErrNotExist where there is
// none of them.
func (f *Files) Definition() (*Definition, error) {
	if f.legacy != nil {
		return f.legacy, nil
	}
	d, err := f.tokenizerJSON()
	if errors.Is(err, fs.ErrNotExist) {
		f.legacy, err = f.legacyDefinition()
		return f.legacy, err
	}
	return d, err
}

// tokenizerJSON returns the parsed tokenizer.json. The error wraps
// fs.ErrNotExist where there is none.
func (f *Files) tokenizerJSON() (*Definition, error) {
	if f.definition != nil {
		return f.definition, nil
	}
	data, err := f.read("tokenizer.json")
	if err != nil {
		return nil, err
	}
	d, err := ParseDefinition(data)
	if err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	f.definition = d
	return d, nil
}

// text reads a string member; ok is false where it is missing or null.
func (c fields) text(name string) (s string, ok bool) {
	raw, ok := c[name]
	if !ok || isNull(raw) || json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}

// flag reads a boolean member.
func (c fields) flag(name string) (b, ok bool) {
	raw, ok := c[name]
	if !ok || isNull(raw) || json.Unmarshal(raw, &b) != nil {
		return false, false
	}
	return b, true
}

// integer reads an integer member.
func (c fields) integer(name string) (n int64, ok bool) {
	raw, ok := c[name]
	if !ok || isNull(raw) || json.Unmarshal(raw, &n) != nil {
		return 0, false
	}
	return n, true
}

// token reads a special token, which is a string or an AddedToken object.
func (c fields) token(name string) (t AddedToken, ok bool) {
	raw, ok := c[name]
	if !ok || isNull(raw) {
		return t, false
	}
	return parseTokenValue(raw)
}

func parseTokenValue(raw json.RawMessage) (t AddedToken, ok bool) {
	if json.Unmarshal(raw, &t.Content) == nil {
		t.Special = true
		return t, true
	}
	s := new(step)
	if json.Unmarshal(raw, &s.fields) != nil {
		return AddedToken{}, false
	}
	s.get("content", &t.Content)
	s.addedFlags(&t)
	return t, s.err == nil
}
