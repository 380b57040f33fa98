package tokenizer

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"slices"
)

// rankFile is a published form of tiktoken's rank file. The file itself knows
// neither the special tokens nor the expression that cuts the text.
type rankFile struct {
	name   string // of the file
	tokens int    // number of ranks; 0 for any
	pre    string
	// special are the texts of the tokens that follow the ranks where
	// tokenizer_config.json does not state them.
	special func() []string
	// splits writes every pair of tokens that makes a token as a merge, as
	// tokenizers' own conversion does; else only the last step of BPE.
	splits bool
	bos    string // special tokens by role, where no file states them
	eos    string
	unk    string
}

// rankFiles is the table of those files.
var rankFiles = []rankFile{
	// Llama 3: models/llama3/tokenizer.py of meta-llama/llama-models.
	{name: "tokenizer.model", tokens: 128000, pre: "llama-bpe", special: llama3Specials, splits: true, bos: "<|begin_of_text|>", eos: "<|end_of_text|>"},
	// Qwen 1: tokenization_qwen.py of Qwen/Qwen-7B.
	{name: "qwen.tiktoken", pre: "qwen2", special: qwenSpecials, bos: "<|endoftext|>", eos: "<|endoftext|>", unk: "<|endoftext|>"},
	{name: "hy.tiktoken", pre: "hunyuan"},
	{name: "tiktoken.model", pre: "kimi-k2"},
	{name: "*.tiktoken"},
	{name: "tokenizer.model"},
}

// llama3Specials are the 256 special tokens of Llama 3.1 and later; in Llama
// 3.0 the named ones among the first eleven are reserved.
func llama3Specials() []string {
	names := []string{
		"<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
		"<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>",
		"<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
	}
	for i := 3; len(names) < 256; i++ {
		names = append(names, fmt.Sprintf("<|reserved_special_token_%d|>", i))
	}
	return names
}

func qwenSpecials() []string {
	names := []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
	for i := range 205 {
		names = append(names, fmt.Sprintf("<|extra_%d|>", i))
	}
	return names
}

// Tiktoken returns the rank file at the root of the repository. The error
// wraps fs.ErrNotExist where there is none.
func (f *Files) Tiktoken() (*Tiktoken, error) {
	if f.tiktoken != nil {
		return f.tiktoken, nil
	}
	entries, err := fs.ReadDir(f.fsys, ".")
	if err != nil {
		return nil, err
	}
	for _, row := range rankFiles {
		for _, e := range entries {
			if ok, _ := path.Match(row.name, e.Name()); !ok || e.IsDir() {
				continue
			}
			data, err := f.read(e.Name())
			if err != nil {
				return nil, err
			}
			if !isTiktoken(data) {
				continue
			}
			t, err := ParseTiktoken(data)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", e.Name(), err)
			}
			f.tiktoken, t.name = t, e.Name()
			return t, nil
		}
	}
	return nil, fmt.Errorf("*.tiktoken: %w", fs.ErrNotExist)
}

// row finds the published form of the rank file.
func (t *Tiktoken) row() rankFile {
	for _, row := range rankFiles {
		if ok, _ := path.Match(row.name, t.name); ok && (row.tokens == 0 || row.tokens == len(t.Tokens)) {
			return row
		}
	}
	return rankFile{name: t.name}
}

// fromTiktoken follows _set_vocab_qwen of upstream.
func (f *Files) fromTiktoken(o Options) (*Vocabulary, error) {
	t, err := f.Tiktoken()
	if err != nil {
		return nil, err
	}
	row := t.row()
	v := &Vocabulary{Model: "gpt2", Pre: row.pre}
	if o.Pre != "" {
		v.Pre = o.Pre
	}
	if v.Pre == "" {
		return nil, fmt.Errorf("%s: a rank file does not say how text is cut; --pre NAME says which of llama.cpp's pre-tokenizers it is", t.name)
	}
	special, stated, err := f.addedTokensDecoder()
	if err != nil {
		return nil, err
	}
	if !stated {
		if row.special == nil {
			return nil, fmt.Errorf("%s: a rank file does not have the special tokens; tokenizer_config.json must state them (added_tokens_decoder)", t.name)
		}
		for i, text := range row.special() {
			special = append(special, AddedToken{ID: int32(len(t.Tokens) + i), Content: text, Special: true})
		}
	}
	added := make([]int32, len(special))
	for i, a := range special {
		added[i] = a.ID
	}
	size, err := o.size(len(t.Tokens), added)
	if err != nil {
		return nil, err
	}
	v.Tokens = make([]Token, size)
	for i, text := range t.texts() {
		v.Tokens[i] = Token{Text: text, Type: Normal}
	}
	for i := len(t.Tokens); i < size; i++ {
		v.Tokens[i] = padding(i, 0)
	}
	ids := make(map[string]int32, len(special))
	for _, a := range special {
		if int(a.ID) < len(t.Tokens) {
			return nil, fmt.Errorf("special token %q has id %d, which is a rank of %s", a.Content, a.ID, t.name)
		}
		v.Tokens[a.ID] = Token{Text: a.Content, Type: Control}
		ids[a.Content] = a.ID
	}
	if row.splits {
		v.Merges, err = t.Splits()
	} else {
		v.Merges, err = t.Merges(row.pre == "qwen2")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.name, err)
	}
	if err := f.applySpecials(v, nil, 0); err != nil {
		return nil, err
	}
	for _, s := range []struct{ role, text string }{{"bos", row.bos}, {"eos", row.eos}, {"unk", row.unk}} {
		if id, ok := ids[s.text]; ok && s.text != "" {
			v.setSpecial(s.role, id)
		}
	}
	return v, nil
}

// Tekken is a parsed tekken.json: ranks with the special tokens in front of
// them.
type Tekken struct {
	Tiktoken
	Special []string // by id; the rank of a token is its id less len(Special)
	Pattern string   // the expression that cuts the text
	Version string
}

// ParseTekken reads a tekken.json as mistral-common does: of the vocabulary
// the ranks below the stated size, less the special tokens, are in use.
func ParseTekken(data []byte) (*Tekken, error) {
	var file struct {
		Config struct {
			Pattern      string `json:"pattern"`
			VocabSize    int    `json:"default_vocab_size"`
			SpecialCount int    `json:"default_num_special_tokens"`
			Version      string `json:"version"`
		} `json:"config"`
		Vocab []struct {
			Rank  int    `json:"rank"`
			Bytes string `json:"token_bytes"`
		} `json:"vocab"`
		Special []struct {
			Rank int    `json:"rank"`
			Text string `json:"token_str"`
		} `json:"special_tokens"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	c := file.Config
	if c.SpecialCount < 0 || c.VocabSize < c.SpecialCount || c.VocabSize > MaxTokens {
		return nil, fmt.Errorf("config: a vocabulary of %d with %d special tokens", c.VocabSize, c.SpecialCount)
	}
	if len(file.Special) > c.SpecialCount {
		return nil, fmt.Errorf("special_tokens: %d, more than the %d of the config", len(file.Special), c.SpecialCount)
	}
	if inner := c.VocabSize - c.SpecialCount; len(file.Vocab) < inner {
		return nil, fmt.Errorf("vocab: %d tokens, fewer than the %d of the config", len(file.Vocab), inner)
	}
	t := &Tekken{Pattern: c.Pattern, Version: c.Version}
	t.name = "tekken.json"
	t.Ranks = make(map[string]int32)
	named := make(map[string]bool)
	for i, s := range file.Special {
		if s.Rank != i {
			return nil, fmt.Errorf("special_tokens[%d] has rank %d", i, s.Rank)
		}
		if named[s.Text] {
			return nil, fmt.Errorf("special_tokens[%d]: %q occurs twice", i, s.Text)
		}
		named[s.Text] = true
		t.Special = append(t.Special, s.Text)
	}
	if len(file.Special) == 0 { // files before version v7
		t.Special = slices.Clone(tekkenSpecials)
	}
	for i := len(t.Special); i < c.SpecialCount; i++ {
		t.Special = append(t.Special, fmt.Sprintf("<SPECIAL_%d>", i))
	}
	if len(t.Special) != c.SpecialCount {
		return nil, fmt.Errorf("config: %d special tokens, fewer than the %d that are defined", c.SpecialCount, len(t.Special))
	}
	for i, v := range file.Vocab[:c.VocabSize-c.SpecialCount] {
		if v.Rank != i {
			return nil, fmt.Errorf("vocab[%d] has rank %d", i, v.Rank)
		}
		token, err := base64.StdEncoding.Strict().DecodeString(v.Bytes)
		if err != nil {
			return nil, fmt.Errorf("vocab[%d]: token_bytes: %w", i, err)
		}
		if err := t.add(token); err != nil {
			return nil, err
		}
	}
	return t, t.check()
}

// tekkenSpecials are the special tokens of files that do not list them
// (Tekkenizer.DEPRECATED_SPECIAL_TOKENS of mistral-common).
var tekkenSpecials = []string{
	"<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
	"[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]",
	"[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
}

// fromTekken follows _set_vocab_mistral of upstream.
func (f *Files) fromTekken(o Options) (*Vocabulary, error) {
	data, err := f.read("tekken.json")
	if err != nil {
		return nil, err
	}
	t, err := ParseTekken(data)
	if err != nil {
		return nil, fmt.Errorf("tekken.json: %w", err)
	}
	v := &Vocabulary{Model: "gpt2", Pre: "tekken", HasScores: true}
	if o.Pre != "" {
		v.Pre = o.Pre
	} else if got := normalRegex(t.Pattern); got != tekken {
		return nil, fmt.Errorf("tekken.json: %w", unknownPre([]string{"split isolated " + got, "bytes"}))
	}
	size, err := o.size(len(t.Special)+len(t.Tokens), nil)
	if err != nil {
		return nil, err
	}
	for _, text := range t.Special {
		v.Tokens = append(v.Tokens, Token{Text: text, Type: Control})
	}
	for _, text := range t.texts() {
		v.Tokens = append(v.Tokens, Token{Text: text, Type: Normal})
	}
	for i := len(v.Tokens); i < size; i++ {
		v.Tokens = append(v.Tokens, padding(i, 0))
	}
	if v.Merges, err = t.Splits(); err != nil {
		return nil, fmt.Errorf("tekken.json: %w", err)
	}
	id := func(text string) int32 { return int32(slices.Index(t.Special, text)) }
	for _, s := range []struct{ role, text string }{{"bos", "<s>"}, {"eos", "</s>"}, {"unk", "<unk>"}} {
		if id(s.text) < 0 {
			return nil, fmt.Errorf("tekken.json: no special token %q", s.text)
		}
		v.setSpecial(s.role, id(s.text))
	}
	pad := id("<pad>")
	if pad < 0 {
		pad = id("</s>")
	}
	v.setSpecial("pad", pad)
	v.setFlag("add_bos_token", true)
	v.setFlag("add_eos_token", false)
	v.ChatTemplates, err = f.ChatTemplates()
	return v, err
}

// Splits returns every pair of tokens whose union is a token, as merges in
// byte-level characters: in order of the union's rank, then of the parts'
// (tokenizers' conversion of tiktoken files). A token of several bytes that no
// pair makes is an error.
func (t *Tiktoken) Splits() ([]string, error) {
	type pair struct{ left, right int32 }
	texts := t.texts()
	if err := t.checkCost(); err != nil {
		return nil, err
	}
	var merges []string
	for rank, token := range t.Tokens {
		if len(token) == 1 {
			continue
		}
		var pairs []pair
		for i := 1; i < len(token); i++ {
			left, ok1 := t.Ranks[string(token[:i])]
			right, ok2 := t.Ranks[string(token[i:])]
			if ok1 && ok2 {
				pairs = append(pairs, pair{left, right})
			}
		}
		if len(pairs) == 0 {
			return nil, fmt.Errorf("token %q of rank %d is not a merge of two others", token, rank)
		}
		slices.SortFunc(pairs, func(a, b pair) int {
			if a.left != b.left {
				return int(a.left - b.left)
			}
			return int(a.right - b.right)
		})
		for _, p := range pairs {
			merges = append(merges, texts[p.left]+" "+texts[p.right])
		}
	}
	return merges, nil
}

// texts returns the tokens in byte-level characters, by rank.
func (t *Tiktoken) texts() []string {
	texts := make([]string, len(t.Tokens))
	for i, token := range t.Tokens {
		texts[i] = toByteAlphabet(string(token))
	}
	return texts
}
