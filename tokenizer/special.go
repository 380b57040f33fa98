package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
)

// specials finds the ids of the special tokens and the add_* flags of a
// repository by the rules of gguf.SpecialVocab (gguf-py/gguf/vocab.py): flags
// from the post-processor of tokenizer.json, else from tokenizer_config.json;
// ids from tokenizer_config.json's tokens, looked up among the added tokens of
// tokenizer.json, then from config.json.
type specials struct {
	files *Files
	// tokens by role; what tokenizer_config.json says, corrected by the
	// post-processor.
	tokens map[string]specialValue
	roles  []string
	flags  []Flag
}

// specialValue is a special token as tokenizer_config.json states it. One that
// is stated as an object is equal to no text: upstream compares the raw JSON.
type specialValue struct {
	text   string
	object bool
}

func (s specialValue) is(text string) bool { return !s.object && s.text == text }
func (s specialValue) empty() bool         { return !s.object && s.text == "" }

// applySpecials adds the ids, flags and templates to v. limit is the number of tokens
// that an id must be below, or 0 for no check.
func (f *Files) applySpecials(v *Vocabulary, d *Definition, limit int) error {
	s := &specials{files: f, tokens: make(map[string]specialValue), roles: slices.Clone(specialRoles)}
	for _, role := range specialRoles {
		if t, ok := f.tokenizerConfig.token(role + "_token"); ok {
			var text string
			plain := json.Unmarshal(f.tokenizerConfig[role+"_token"], &text) == nil
			s.tokens[role] = specialValue{text: t.Content, object: !plain}
		}
	}
	var added []AddedToken
	if d != nil {
		added = d.AddedTokens
		s.postProcessors(d)
	}

	set := func(role string, id int64, from string) error {
		if role == "cls" { // a GGUF says bos
			return nil
		}
		if id < 0 || id >= MaxTokens {
			return fmt.Errorf("%s: the %s token has id %d", from, role, id)
		}
		if limit > 0 && id >= int64(limit) {
			v.Notes = append(v.Notes, fmt.Sprintf("%s: the %s token has id %d, but there are %d tokens: left out", from, role, id, limit))
			return nil
		}
		v.setSpecial(role, int32(id))
		return nil
	}
	if f.tokenizerConfig != nil {
		for _, role := range s.roles {
			if b, ok := f.tokenizerConfig.flag("add_" + role + "_token"); ok {
				s.defaultFlag(role, b) // what the post-processor does counts
			}
			value, ok := s.tokens[role]
			if !ok {
				continue
			}
			i := slices.IndexFunc(added, func(a AddedToken) bool { return a.Content == value.text })
			if i < 0 {
				continue
			}
			if err := set(role, int64(added[i].ID), "tokenizer_config.json"); err != nil {
				return err
			}
		}
	}
	text := fields(nil)
	if raw, ok := f.config["text_config"]; ok && json.Unmarshal(raw, &text) != nil {
		return fmt.Errorf("config.json: text_config: want an object")
	}
	for _, role := range s.roles {
		id, ok := f.config.integer(role + "_token_id")
		if raw, stated := f.config[role+"_token_id"]; !stated || isNull(raw) {
			id, ok = text.integer(role + "_token_id")
		}
		if ok {
			if err := set(role, id, "config.json"); err != nil {
				return err
			}
		}
	}
	for _, flag := range s.flags {
		v.setFlag(flag.Name, flag.Value)
	}
	if d != nil {
		d.normalizerFlags(v)
	}
	var err error
	v.ChatTemplates, err = f.ChatTemplates()
	return err
}

// setFlag states whether the token of a role is added to every text. Roles
// without a key (unk, pad, ...) have no flag in a GGUF.
func (s *specials) setFlag(role string, value bool) {
	name := "add_" + role + "_token"
	if !slices.Contains(flagNames, name) {
		return
	}
	for i := range s.flags {
		if s.flags[i].Name == name {
			s.flags[i].Value = value
			return
		}
	}
	s.flags = append(s.flags, Flag{name, value})
}

// defaultFlag states a flag that nothing has stated yet.
func (s *specials) defaultFlag(role string, value bool) {
	name := "add_" + role + "_token"
	if !slices.ContainsFunc(s.flags, func(f Flag) bool { return f.Name == name }) {
		s.setFlag(role, value)
	}
}

// normalizerFlags states what a BERT-like normalizer does to letters.
func (d *Definition) normalizerFlags(v *Vocabulary) {
	var lower, strip *bool
	yes := true
	for _, n := range d.Normalizers {
		switch n.Type {
		case "Lowercase":
			lower = &yes
		case "StripAccents":
			strip = &yes
		case "BertNormalizer":
			lower, strip = &n.Lowercase, n.StripAccents
		}
	}
	if lower != nil {
		v.setFlag("normalizer.lowercase", *lower)
	}
	if strip != nil {
		v.setFlag("normalizer.strip_accents", *strip)
	}
}

// postProcessors reads from the templates which tokens are added to a text.
func (s *specials) postProcessors(d *Definition) {
	stated := s.files.tokenizerConfig != nil
	if stated && s.tokens["bos"].empty() && !s.tokens["cls"].empty() {
		s.tokens["bos"] = s.tokens["cls"]
	}
	if stated && s.tokens["eos"].empty() && !s.tokens["sep"].empty() {
		s.tokens["eos"] = s.tokens["sep"]
	}
	for _, p := range d.PostProcessors {
		switch p.Type {
		case "ByteLevel":
			s.defaultFlag("bos", false)
			s.defaultFlag("eos", false)
		case "RobertaProcessing":
			s.setFlag("bos", true)
			s.setFlag("eos", true)
			s.setFlag("sep", true)
			if stated && s.tokens["cls"].empty() {
				s.tokens["cls"] = specialValue{text: p.Cls.Content}
			}
			if stated && s.tokens["sep"].empty() {
				s.tokens["sep"] = specialValue{text: p.Sep.Content}
			}
		case "TemplateProcessing":
			first, last := s.single(p.Single)
			s.pair(p.Pair, first, last)
		}
	}
}

// single reads the template of one text: which token comes first and which
// last, "" where none does.
func (s *specials) single(template []TemplatePiece) (first, last string) {
	if len(template) < 2 {
		return "", ""
	}
	stated := s.files.tokenizerConfig != nil
	if first = template[0].SpecialToken; first != "" {
		switch {
		case !stated:
			s.tokens["bos"] = specialValue{text: first}
		case !s.tokens["bos"].is(first) && !s.tokens["cls"].is(first):
			for _, role := range []string{"bos", "cls"} {
				if s.tokens[role].empty() {
					s.tokens[role] = specialValue{text: first}
				}
			}
		}
		s.setFlag("bos", s.tokens["bos"].is(first) || s.tokens["cls"].is(first))
	}
	if last = template[len(template)-1].SpecialToken; last != "" {
		switch {
		case !stated:
			s.tokens["eos"] = specialValue{text: last}
		case !s.tokens["eos"].is(last):
			// The token that ends a text is not the one that the config calls
			// eos: that one ends a turn, or a message.
			for _, role := range []string{"eot", "eom"} {
				if !slices.Contains(s.roles, role) {
					s.roles = append(s.roles, role)
					if old, ok := s.tokens["eos"]; ok {
						s.tokens[role] = old
					}
					break
				}
			}
			s.tokens["eos"] = specialValue{text: last}
		}
		s.setFlag("eos", true)
	}
	return first, last
}

// pair reads from the template of two texts whether a separator is between
// them.
func (s *specials) pair(template []TemplatePiece, first, last string) {
	if len(template) > 0 && first != "" && template[0].SpecialToken == first {
		template = template[1:]
	}
	if n := len(template); n > 0 && last != "" && template[n-1].SpecialToken == last {
		template = template[:n-1]
	}
	n := len(template)
	if n < 3 || template[0].Sequence != "A" || template[n-1].Sequence != "B" {
		return
	}
	between := template[1 : n-1]
	separates := func(p TemplatePiece) bool {
		return p.SpecialToken != "" && (s.tokens["sep"].is(p.SpecialToken) || s.tokens["eos"].is(p.SpecialToken))
	}
	sep := separates(between[0]) && last == ""
	if len(between) == 2 && separates(between[1]) {
		sep = true
	}
	s.setFlag("sep", sep)
	if sep && s.tokens["sep"].empty() && s.files.tokenizerConfig != nil {
		s.tokens["sep"] = s.tokens["eos"]
	}
}
