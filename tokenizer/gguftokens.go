package tokenizer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
)

// Encoder turns text into token ids and back.
type Encoder interface {
	// Encode returns the ids of text.
	Encode(text string, opts EncodeOptions) ([]int32, error)
	// Decode returns the text of ids, without the control tokens. Ids outside
	// the vocabulary stand for no text.
	Decode(ids []int32) string
}

// EncodeOptions say what is a special token in an encoding.
type EncodeOptions struct {
	AddSpecial   bool // put the BOS, EOS, ... that the vocabulary asks for around the text
	ParseSpecial bool // "</s>" in the text is the token, not four characters
}

// attr are the attributes of a token as llama.cpp keeps them: a token that
// looks like a control token is one besides what its type says.
type attr uint16

const (
	attrUnknown attr = 1 << iota
	attrUnused
	attrNormal
	attrControl
	attrUser
	attrByte
	attrLStrip
	attrRStrip

	attrSpecial = attrUnknown | attrControl
)

// attrOf is indexed by tokenizer.ggml.token_type.
var attrOf = [...]attr{1: attrNormal, 2: attrUnknown, 3: attrControl, 4: attrUser, 5: attrUnused, 6: attrByte}

// GGUFEncoder encodes as llama.cpp does with a file's tokenizer.ggml.* keys
// (llama-vocab.cpp and unicode.cpp of October 2026). It is safe for concurrent
// use.
type GGUFEncoder struct {
	model string // tokenizer.ggml.model
	pre   *preRules

	tokens []string
	ids    map[string]int32
	scores []float32
	attrs  []attr
	ranks  map[[2]string]int32 // BPE

	bos, eos, unk, sep         int32 // noToken: none
	addBOS, addEOS             bool
	addSpacePrefix, keepSpaces bool
	escapeSpaces               bool
	removeExtraSpaces          bool
	lowercase, stripAccents    bool

	special    []int32 // control, user-defined and unknown tokens, longest first
	specials   *trie   // their texts
	maxLen     int     // of a token, in bytes
	byteTokens [256]int32
	cutters    []*cutter
	ugm        *unigram
	userTexts  *trie // of user-defined tokens (t5)
	charsmap   *charsmap
	encodeText func(text string, out []int32) ([]int32, error)
}

const noToken int32 = -1

// NewGGUFEncoder reads the vocabulary of a GGUF file's metadata. It fails
// where llama.cpp would refuse the file.
func NewGGUFEncoder(m gguf.Metadata) (*GGUFEncoder, error) {
	e := &GGUFEncoder{userTexts: newTrie()}
	if err := e.load(m); err != nil {
		return nil, fmt.Errorf("GGUF vocabulary: %w", err)
	}
	return e, nil
}

func (e *GGUFEncoder) load(m gguf.Metadata) error {
	var err error
	if e.model, err = m.String("tokenizer.ggml.model"); err != nil {
		return err
	}
	if e.tokens, err = m.Strings("tokenizer.ggml.tokens"); err != nil {
		return err
	}
	if len(e.tokens) > MaxTokens {
		return fmt.Errorf("%d tokens: more than %d", len(e.tokens), MaxTokens)
	}
	e.tokens = slices.Clone(e.tokens)
	e.ids = make(map[string]int32, len(e.tokens))
	for i, text := range e.tokens {
		if text == "" {
			text = fmt.Sprintf("[EMPTY_%d]", i)
			e.tokens[i] = text
		}
		if other, ok := e.ids[text]; ok {
			return fmt.Errorf("tokens %d and %d are both %q", other, i, text)
		}
		e.ids[text] = int32(i)
		e.maxLen = max(e.maxLen, len(text))
	}
	if err := e.loadScores(m); err != nil {
		return err
	}
	if err := e.loadTypes(m); err != nil {
		return err
	}
	if err := e.loadModel(m); err != nil {
		return err
	}
	if err := e.loadFlags(m); err != nil {
		return err
	}
	e.adjustAttributes(m)
	e.indexSpecial()
	e.adjustStripping(m)
	for b := range e.byteTokens {
		e.byteTokens[b] = e.byteToken(byte(b))
	}
	return nil
}

func (e *GGUFEncoder) loadScores(m gguf.Metadata) error {
	e.scores = make([]float32, len(e.tokens))
	v, ok := m.Get("tokenizer.ggml.scores")
	if !ok {
		return nil
	}
	n := 0
	switch scores := v.(type) {
	case []float32:
		n = copy(e.scores, scores)
	case []int32:
		n = min(len(scores), len(e.scores))
		for i := range n {
			e.scores[i] = float32(scores[i])
		}
	default:
		return fmt.Errorf("tokenizer.ggml.scores is %T: want []float32 or []int32", v)
	}
	if n < len(e.tokens) {
		return fmt.Errorf("tokenizer.ggml.scores has %d values for %d tokens", n, len(e.tokens))
	}
	return nil
}

func (e *GGUFEncoder) loadTypes(m gguf.Metadata) error {
	e.attrs = make([]attr, len(e.tokens))
	v, ok := m.Get("tokenizer.ggml.token_type")
	if !ok {
		for i := range e.attrs {
			e.attrs[i] = attrNormal
		}
		return nil
	}
	types, ok := v.([]int32)
	if !ok {
		return fmt.Errorf("tokenizer.ggml.token_type is %T: want []int32", v)
	}
	if len(types) < len(e.tokens) {
		return fmt.Errorf("tokenizer.ggml.token_type has %d values for %d tokens", len(types), len(e.tokens))
	}
	for i := range e.attrs {
		if t := types[i]; t >= 0 && int(t) < len(attrOf) {
			e.attrs[i] = attrOf[t]
		}
	}
	return nil
}

// loadModel sets what follows from tokenizer.ggml.model and .pre: the
// algorithm, the default special ids and flags.
func (e *GGUFEncoder) loadModel(m gguf.Metadata) error {
	e.bos, e.eos, e.unk, e.sep = noToken, noToken, noToken, noToken
	e.escapeSpaces = true
	switch e.model {
	case "llama":
		e.bos, e.eos, e.unk = 1, 2, 0
		e.addSpacePrefix, e.keepSpaces, e.addBOS = true, true, true
		e.encodeText = e.encodeSPM
	case "bert":
		e.bos, e.unk, e.sep = 101, 100, 102
		e.addBOS = true
		e.encodeText = e.encodeWPM
	case "t5":
		e.eos, e.unk = 1, 2
		e.keepSpaces, e.addEOS = true, true
		e.encodeText = e.encodeUGM
	case "gpt2", "gemma4", "whitespace":
		return e.loadBPE(m)
	case "no_vocab", "none":
		return errors.New("the file has no vocabulary (tokenizer.ggml.model is none)")
	default:
		return fmt.Errorf("tokenizer.ggml.model %q: its encoding is not implemented", e.model)
	}
	return nil
}

func (e *GGUFEncoder) loadBPE(m gguf.Metadata) error {
	name := "default"
	if v, ok := m.Get("tokenizer.ggml.pre"); ok {
		if name, ok = v.(string); !ok {
			return fmt.Errorf("tokenizer.ggml.pre is %T: want a string", v)
		}
	}
	if e.model == "gemma4" {
		name = "gemma4"
	} else {
		e.bos, e.eos = 11, 11
	}
	if name == "" {
		name = "default"
	}
	var err error
	if e.pre, err = lookupPre(name); err != nil {
		return fmt.Errorf("tokenizer.ggml.pre: %w", err)
	}
	if e.cutters, err = e.pre.cutters(); err != nil {
		return err
	}
	if e.pre.noBOS {
		e.bos = noToken
	}
	e.addBOS = e.pre.addBOS
	e.escapeSpaces, e.keepSpaces = e.pre.escapeSpaces, e.pre.keepSpaces
	e.encodeText = e.encodeBPE
	if e.model == "whitespace" {
		e.encodeText = e.encodeWords
	}
	if _, ok := m.Get("tokenizer.ggml.merges"); !ok && name == "kimi-k2" {
		return nil
	}
	merges, err := m.Strings("tokenizer.ggml.merges")
	if err != nil {
		return err
	}
	e.ranks = make(map[[2]string]int32, len(merges))
	for i, merge := range merges {
		var p [2]string
		if len(merge) > 0 {
			if at := strings.IndexByte(merge[1:], ' '); at >= 0 {
				p = [2]string{merge[:at+1], merge[at+2:]}
			}
		}
		if _, ok := e.ranks[p]; !ok {
			e.ranks[p] = int32(i)
		}
	}
	return nil
}

// loadFlags reads the keys that override the model's defaults.
func (e *GGUFEncoder) loadFlags(m gguf.Metadata) error {
	e.lowercase = e.pre == nil || !e.pre.keepCase
	for _, f := range []struct {
		key   string
		value *bool
	}{
		{"add_space_prefix", &e.addSpacePrefix},
		{"remove_extra_whitespaces", &e.removeExtraSpaces},
		{"add_bos_token", &e.addBOS},
		{"add_eos_token", &e.addEOS},
		{"normalizer.lowercase", &e.lowercase},
		{"normalizer.strip_accents", &e.stripAccents},
	} {
		if f.value == &e.stripAccents {
			e.stripAccents = e.lowercase // unless its own key says otherwise
		}
		v, ok := m.Get(prefix + f.key)
		if !ok {
			continue
		}
		if *f.value, ok = v.(bool); !ok {
			return fmt.Errorf("%s%s is %T: want a bool", prefix, f.key, v)
		}
	}
	if e.pre != nil && e.pre.forceBOS {
		e.addBOS = true
	}

	for _, s := range []struct {
		key string
		id  *int32
	}{
		{"bos_token_id", &e.bos}, {"eos_token_id", &e.eos}, {"unknown_token_id", &e.unk},
		{"seperator_token_id", &e.sep}, // as llama.cpp spells it
	} {
		if int(*s.id) >= len(e.tokens) {
			*s.id = noToken
		}
		v, ok := m.Get(prefix + s.key)
		if !ok {
			continue
		}
		id, ok := v.(uint32)
		if !ok {
			return fmt.Errorf("%s%s is %T: want a uint32", prefix, s.key, v)
		}
		if uint64(id) < uint64(len(e.tokens)) { // llama.cpp keeps the default otherwise
			*s.id = int32(id)
		}
	}

	if e.model == "t5" {
		if v, ok := m.Get("tokenizer.ggml.precompiled_charsmap"); ok {
			var data []byte
			switch v := v.(type) {
			case []uint8:
				data = v
			case []int8:
				data = make([]byte, len(v))
				for i, b := range v {
					data[i] = byte(b)
				}
			default:
				return fmt.Errorf("tokenizer.ggml.precompiled_charsmap is %T: want []uint8", v)
			}
			var err error
			if e.charsmap, err = parseCharsmap(data); err != nil {
				return fmt.Errorf("tokenizer.ggml.precompiled_charsmap: %w", err)
			}
		}
		e.ugm = e.newUGM()
	}
	return nil
}

// Texts that make a token a control token whatever its type says.
var (
	endTexts = []string{
		"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
		"<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
		"<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
	}
	fillTexts = []struct {
		keys  []string // where one of them is set, the texts mean nothing
		texts []string
	}{
		{[]string{"fim_pre_token_id", "prefix_token_id"}, []string{"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"}},
		{[]string{"fim_suf_token_id", "suffix_token_id"}, []string{"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"}},
		{[]string{"fim_mid_token_id", "middle_token_id"}, []string{"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"}},
		{[]string{"fim_pad_token_id"}, []string{"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}},
		{[]string{"fim_rep_token_id"}, []string{"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}},
		{[]string{"fim_sep_token_id"}, []string{"<|file_sep|>"}},
	}
	harmonyTexts = []string{"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"}
)

// adjustAttributes gives tokens the attributes that llama.cpp derives from
// their text. Where several texts of one fill-in-the-middle role are in the
// vocabulary llama.cpp takes the one its hash table yields first; this takes
// the first of the list.
func (e *GGUFEncoder) adjustAttributes(m gguf.Metadata) {
	for _, role := range fillTexts {
		known := slices.ContainsFunc(role.keys, func(key string) bool {
			v, ok := m.Get("tokenizer.ggml." + key)
			id, isID := v.(uint32)
			return ok && isID && uint64(id) < uint64(len(e.tokens))
		})
		for _, text := range role.texts {
			if id, ok := e.ids[text]; ok && !known {
				e.attrs[id] |= attrControl
				known = true
			}
		}
	}
	ends := make(map[string]bool)
	for _, text := range endTexts {
		if id, ok := e.ids[text]; ok {
			e.attrs[id] |= attrControl
			ends[text] = true
		}
	}
	for i, text := range e.tokens {
		if e.attrs[i]&attrControl != 0 && strings.Contains(text, "unused") {
			e.attrs[i] |= attrUnused
		}
	}
	for _, text := range harmonyTexts {
		if id, ok := e.ids[text]; ok {
			e.attrs[id] = attrUser
		}
	}
	// o200k_harmony and solar-open: "<|end|>" ends a message, not the text.
	call := ends["<|call|>"] || ends["<|calls|>"]
	if ends["<|end|>"] && call && (ends["<|return|>"] || ends["<|flush|>"]) {
		e.attrs[e.ids["<|end|>"]] = attrUser
	}
	// gemma4: "</s>" is text.
	if ends["</s>"] && ends["<|tool_response>"] {
		e.attrs[e.ids["</s>"]] = attrNormal
	}
}

// indexSpecial lists the tokens that are looked for in the text first.
func (e *GGUFEncoder) indexSpecial() {
	e.specials = newTrie()
	for id, a := range e.attrs {
		if a&(attrControl|attrUser|attrUnknown) != 0 {
			e.special = append(e.special, int32(id))
			e.specials.insert(e.tokens[id], int32(id))
		}
	}
	slices.SortStableFunc(e.special, func(a, b int32) int { return len(e.tokens[b]) - len(e.tokens[a]) })
}

// adjustStripping sets the white space that special tokens swallow. GGUF does
// not say; llama.cpp knows it of some models by name.
func (e *GGUFEncoder) adjustStripping(m gguf.Metadata) {
	set := func(text string, a attr, on bool) {
		if id, ok := e.ids[text]; ok && on {
			e.attrs[id] |= a
		} else if ok {
			e.attrs[id] &^= a
		}
	}
	word := func(key string) string {
		v, _ := m.Get(key)
		s, _ := v.(string)
		return s
	}
	anyOf := func(text string, parts ...string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(text, p) })
	}
	name := asciiLower(word("general.name"))
	switch {
	case anyOf(word("tokenizer.ggml.pre"), "jina-v2-de", "jina-v2-es", "jina-v2-code"),
		anyOf(word("general.architecture"), "nomic-bert-moe", "jina-bert-v3"):
		set("<mask>", attrLStrip, true)
	case anyOf(name, "phi-3", "phi3"):
		for _, id := range e.special {
			e.attrs[id] |= attrRStrip
		}
		set("</s>", attrRStrip, true)
		for _, text := range []string{"<unk>", "<s>", "<|endoftext|>"} {
			set(text, attrRStrip, false)
		}
	case anyOf(name, "modern-bert"):
		set("[MASK]", attrLStrip, true)
	}
}

func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// byteToken is the token of one byte in an SPM or Unigram vocabulary.
func (e *GGUFEncoder) byteToken(b byte) int32 {
	if id, ok := e.ids[fmt.Sprintf("<0x%02X>", b)]; ok {
		return id
	}
	if id, ok := e.ids[string([]byte{b})]; ok {
		return id
	}
	return noToken
}

// fragment is a part of the text, or a special token found in it.
type fragment struct {
	text  string
	token int32 // noToken: text
}

// partition cuts text at its special tokens: the longest token first
// everywhere, then the next (tokenizer_st_partition).
func (e *GGUFEncoder) partition(text string, parseSpecial bool) []fragment {
	if text == "" {
		return nil
	}
	present := make(map[int32]bool)
	for i := range len(text) {
		e.specials.walk(text[i:], func(_ int, id int32) { present[id] = true })
	}
	frags := []fragment{{text: text, token: noToken}}
	for _, id := range e.special {
		a := e.attrs[id]
		if !present[id] || !parseSpecial && a&attrSpecial != 0 {
			continue
		}
		var next []fragment
		for _, f := range frags {
			if f.token != noToken {
				next = append(next, f)
				continue
			}
			rest := f.text
			for {
				left, right, found := strings.Cut(rest, e.tokens[id])
				if !found {
					break
				}
				if a&attrLStrip != 0 {
					left = strings.TrimRight(left, cSpaces)
				}
				if left != "" {
					next = append(next, fragment{left, noToken})
				}
				next = append(next, fragment{token: id})
				if a&attrRStrip != 0 {
					right = strings.TrimLeft(right, cSpaces)
				}
				rest = right
			}
			if rest != "" {
				next = append(next, fragment{rest, noToken})
			}
		}
		frags = next
	}
	return frags
}

// cSpaces are C's isspace.
const cSpaces = " \t\n\v\f\r"

const escapedSpace = "\u2581"

// Encode implements Encoder.
func (e *GGUFEncoder) Encode(text string, opts EncodeOptions) ([]int32, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("encode: text of %d bytes: more than %d", len(text), MaxText)
	}
	var out []int32
	add := func(name string, id int32) error {
		if id == noToken {
			return fmt.Errorf("encode: the vocabulary asks for a %s token, but has none", name)
		}
		out = append(out, id)
		return nil
	}
	if opts.AddSpecial && (e.addBOS || e.model == "bert") {
		if err := add("BOS", e.bos); err != nil {
			return nil, err
		}
	}
	afterSpecial := true
	for _, f := range e.partition(text, opts.ParseSpecial) {
		if f.token != noToken {
			out = append(out, f.token)
			afterSpecial = true
			continue
		}
		part := f.text
		if e.model == "llama" && e.addSpacePrefix && afterSpecial {
			part = " " + part
		}
		if e.escapeSpaces && (e.model == "llama" || e.pre != nil) {
			part = strings.ReplaceAll(part, " ", escapedSpace)
		}
		var err error
		if out, err = e.encodeText(part, out); err != nil {
			return nil, fmt.Errorf("encode: %w", err)
		}
		afterSpecial = false
	}
	if opts.AddSpecial && e.model == "bert" {
		if err := add("SEP", e.sep); err != nil {
			return nil, err
		}
	} else if opts.AddSpecial && e.addEOS {
		if err := add("EOS", e.eos); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// MaxText bounds the bytes of one text to encode.
const MaxText = 1 << 28
