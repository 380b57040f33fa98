package tokenizer

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// tokenTable is the vocabulary as transformers' AutoTokenizer sees it after
// loading a repository: the model's tokens, the added tokens of every file,
// and the special tokens that its tokenizer class brings along.
type tokenTable struct {
	texts map[int32]string // by id; an added token hides the model's
	ids   map[string]int32
	added map[int32]AddedToken
	next  int32 // the id that a further new token gets
}

// specialRoles are the named special tokens in transformers' order
// (SPECIAL_TOKENS_ATTRIBUTES); the key in tokenizer_config.json has "_token"
// after it.
var specialRoles = []string{"bos", "eos", "unk", "sep", "pad", "cls", "mask"}

// tokenTable builds the table. Ids are those of tokenizer.json; tokens that
// only other files know follow the rule of tokenizers' add_tokens: a text that
// has an id keeps it, a new one gets the next.
func (f *Files) tokenTable(d *Definition) (*tokenTable, error) {
	size := len(d.Model.Vocab) + len(d.Model.Pieces)
	t := &tokenTable{
		texts: make(map[int32]string, size),
		ids:   make(map[string]int32, size),
		added: make(map[int32]AddedToken, len(d.AddedTokens)),
		next:  int32(size),
	}
	for text, id := range d.Model.Vocab {
		t.texts[id], t.ids[text] = text, id
	}
	for id, p := range d.Model.Pieces {
		t.texts[int32(id)], t.ids[p.Text] = p.Text, int32(id)
	}
	for _, a := range d.AddedTokens {
		if id, ok := t.ids[a.Content]; ok && id != a.ID {
			return nil, fmt.Errorf("added token %q has id %d, but id %d in the model's vocabulary", a.Content, a.ID, id)
		}
		t.put(a)
	}

	decoder, stated, err := f.addedTokensDecoder()
	if err != nil {
		return nil, err
	}
	for _, a := range decoder {
		t.add(a)
	}
	named := f.namedSpecials(d)
	if !stated {
		special := make(map[string]bool, len(named))
		for _, text := range named {
			special[text] = true
		}
		for _, a := range f.addedTokens {
			a.Special = special[a.Content]
			a.Normalized = !a.Special
			if _, ok := t.ids[a.Content]; !ok {
				t.add(a)
			}
		}
	}
	for _, text := range named {
		if id, ok := t.ids[text]; ok {
			if _, ok := t.added[id]; ok {
				continue
			}
		}
		t.add(AddedToken{ID: -1, Content: text, Special: true})
	}
	return t, nil
}

// put enters an added token under its id.
func (t *tokenTable) put(a AddedToken) {
	t.texts[a.ID], t.ids[a.Content], t.added[a.ID] = a.Content, a.ID, a
	t.next = max(t.next, a.ID+1)
}

// add enters an added token under the id that its text has already, the id
// that it asks for where that is free, or the next one.
func (t *tokenTable) add(a AddedToken) {
	if id, ok := t.ids[a.Content]; ok {
		a.ID = id
	} else if _, taken := t.texts[a.ID]; taken || a.ID < 0 {
		a.ID = t.next
	}
	t.put(a)
}

// addedTokensDecoder reads the tokens that tokenizer_config.json states by
// id, in the order of their ids.
func (f *Files) addedTokensDecoder() (tokens []AddedToken, stated bool, err error) {
	raw, ok := f.tokenizerConfig["added_tokens_decoder"]
	if !ok || isNull(raw) {
		return nil, false, nil
	}
	var byID map[string]json.RawMessage
	if err := json.Unmarshal(raw, &byID); err != nil {
		return nil, true, fmt.Errorf("tokenizer_config.json: added_tokens_decoder: %w", err)
	}
	for _, key := range slices.Sorted(maps.Keys(byID)) { // one error of several, always the same
		raw := byID[key]
		id, err := strconv.ParseUint(key, 10, 32)
		if err != nil || id >= MaxTokens {
			return nil, true, fmt.Errorf("tokenizer_config.json: added_tokens_decoder: id %q: want an integer from 0 to %d", key, MaxTokens-1)
		}
		t, ok := parseTokenValue(raw)
		if !ok {
			return nil, true, fmt.Errorf("tokenizer_config.json: added_tokens_decoder: %s: want a token with its content", key)
		}
		t.ID = int32(id)
		tokens = append(tokens, t)
	}
	slices.SortFunc(tokens, func(a, b AddedToken) int { return int(a.ID - b.ID) })
	for i := 1; i < len(tokens); i++ {
		if tokens[i].ID == tokens[i-1].ID {
			return nil, true, fmt.Errorf("tokenizer_config.json: added_tokens_decoder: id %d occurs twice", tokens[i].ID)
		}
	}
	return tokens, true, nil
}

// namedSpecials returns the texts of the special tokens that transformers
// makes sure of when it loads the repository: those of
// tokenizer_config.json (or, where that states no added tokens, of
// special_tokens_map.json), else those of the tokenizer class; then the
// model's own ("image_token") and the additional ones.
func (f *Files) namedSpecials(d *Definition) []string {
	source := []fields{f.tokenizerConfig}
	if _, ok := f.tokenizerConfig["added_tokens_decoder"]; !ok {
		source = []fields{f.specialMap, f.tokenizerConfig}
	}
	defaults := tokenizerClasses[f.tokenizerClass(d)]
	var texts []string
	for i, role := range specialRoles {
		text := defaults.specials()[i]
		for _, s := range source {
			if _, stated := s[role+"_token"]; stated {
				t, _ := s.token(role + "_token")
				text = t.Content
				break
			}
		}
		if text != "" && !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	for _, name := range f.configNames {
		role, ok := strings.CutSuffix(name, "_token")
		if text, isText := f.tokenizerConfig.text(name); ok && isText && !slices.Contains(specialRoles, role) && text != "" {
			texts = append(texts, text)
		}
	}
	for _, name := range []string{"extra_special_tokens", "additional_special_tokens"} {
		for _, s := range source {
			var list []json.RawMessage
			if json.Unmarshal(s[name], &list) != nil {
				continue
			}
			for _, raw := range list {
				if t, ok := parseTokenValue(raw); ok {
					texts = append(texts, t.Content)
				}
			}
		}
	}
	return texts
}

// tokenizerClass names the class that transformers' AutoTokenizer (v5) would
// load for the repository, without "Fast"; "" is the generic backend, which
// has no special tokens of its own.
func (f *Files) tokenizerClass(d *Definition) string {
	modelType, _ := f.config.text("model_type")
	hub, ok := f.tokenizerConfig.text("tokenizer_class")
	if !ok {
		hub, _ = f.config.text("tokenizer_class")
	}
	hub = strings.TrimSuffix(hub, "Fast")
	registered := modelClasses[modelType]
	wrong := slices.Contains(wrongHubClass, modelType)
	switch {
	case hub == "LlamaTokenizer" && !wrong && d.byteLevel():
		return ""
	case hub == "":
		return registered
	case wrong:
		return registered
	case tokenizerClasses[hub] == classDefaults{}:
		return ""
	case genericModels[modelType] && registered == "":
		return ""
	}
	return hub
}

// byteLevel tells whether the definition cuts text into bytes.
func (d *Definition) byteLevel() bool {
	return slices.ContainsFunc(d.PreTokenizers, func(p PreTokenizer) bool { return p.Type == "ByteLevel" }) ||
		slices.ContainsFunc(d.Decoders, func(p Decoder) bool { return p.Type == "ByteLevel" })
}

// classDefaults are the special tokens that a tokenizer class of transformers
// has where tokenizer_config.json does not state them.
type classDefaults struct {
	bos, eos, unk, sep, pad, cls, mask string
}

func (c classDefaults) specials() [7]string {
	return [7]string{c.bos, c.eos, c.unk, c.sep, c.pad, c.cls, c.mask}
}

// tokenizerClasses are the classes with defaults, from the signatures of
// transformers 5.23.
var tokenizerClasses = map[string]classDefaults{
	"AlbertTokenizer":     {"[CLS]", "[SEP]", "<unk>", "[SEP]", "<pad>", "[CLS]", "[MASK]"},
	"BartTokenizer":       {"<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"},
	"BertTokenizer":       {"", "", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"},
	"CamembertTokenizer":  {"<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"},
	"CodeLlamaTokenizer":  {"<s>", "</s>", "<unk>", "", "", "", ""},
	"CohereTokenizer":     {"<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<UNK>", "<SEP>", "<PAD>", "<CLS>", "<MASK_TOKEN>"},
	"DebertaV2Tokenizer":  {"[CLS]", "[SEP]", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"},
	"GPT2Tokenizer":       {"<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "", "", "", ""},
	"GPTNeoXTokenizer":    {"<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "", "<|padding|>", "", ""},
	"GemmaTokenizer":      {"<bos>", "<eos>", "<unk>", "", "<pad>", "", "<mask>"},
	"LlamaTokenizer":      {"<s>", "</s>", "<unk>", "", "", "", ""},
	"MPNetTokenizer":      {"<s>", "</s>", "[UNK]", "</s>", "<pad>", "<s>", "<mask>"},
	"Qwen2Tokenizer":      {"", "<|endoftext|>", "<|endoftext|>", "", "<|endoftext|>", "", ""},
	"Qwen3_5Tokenizer":    {"", "<|endoftext|>", "<|endoftext|>", "", "<|endoftext|>", "", ""},
	"RobertaTokenizer":    {"<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"},
	"T5Tokenizer":         {"", "</s>", "<unk>", "", "<pad>", "", ""},
	"XLMRobertaTokenizer": {"<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"},
}

// modelClasses are the classes that transformers 5.23 registers for a
// config.json's model_type (TOKENIZER_MAPPING_NAMES), where not the generic
// backend.
var modelClasses = map[string]string{
	"albert": "AlbertTokenizer", "bert": "BertTokenizer", "camembert": "CamembertTokenizer",
	"code_llama": "CodeLlamaTokenizer", "cohere": "CohereTokenizer", "cohere2": "CohereTokenizer",
	"dbrx": "GPT2Tokenizer", "deberta-v2": "DebertaV2Tokenizer", "distilbert": "BertTokenizer",
	"falcon_mamba": "GPTNeoXTokenizer", "gemma": "GemmaTokenizer", "gemma2": "GemmaTokenizer",
	"gemma3": "GemmaTokenizer", "gemma3_text": "GemmaTokenizer", "gemma3n": "GemmaTokenizer",
	"gemma3n_text": "GemmaTokenizer", "gpt2": "GPT2Tokenizer", "gpt_neo": "GPT2Tokenizer",
	"gpt_neox": "GPTNeoXTokenizer", "gptj": "GPT2Tokenizer", "jais2": "GPT2Tokenizer",
	"mamba": "GPTNeoXTokenizer", "mamba2": "GPTNeoXTokenizer", "mpnet": "MPNetTokenizer",
	"mpt": "GPTNeoXTokenizer", "nomic_bert": "BertTokenizer", "olmo": "GPTNeoXTokenizer",
	"olmoe": "GPTNeoXTokenizer", "opt": "GPT2Tokenizer", "phi": "GPT2Tokenizer",
	"qwen2": "Qwen2Tokenizer", "qwen2_5_vl": "Qwen2Tokenizer", "qwen2_moe": "Qwen2Tokenizer",
	"qwen2_vl": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "qwen3_5": "Qwen3_5Tokenizer",
	"qwen3_5_moe": "Qwen3_5Tokenizer", "qwen3_5_moe_text": "Qwen3_5Tokenizer",
	"qwen3_5_text": "Qwen3_5Tokenizer", "qwen3_moe": "Qwen2Tokenizer", "qwen3_next": "Qwen2Tokenizer",
	"qwen3_vl": "Qwen2Tokenizer", "qwen3_vl_moe": "Qwen2Tokenizer", "roberta": "RobertaTokenizer",
	"rwkv": "GPTNeoXTokenizer", "starcoder2": "GPT2Tokenizer", "t5": "T5Tokenizer",
	"mt5": "T5Tokenizer", "xlm-roberta": "XLMRobertaTokenizer",
}

// wrongHubClass are the model types whose tokenizer_config.json is known to
// name a wrong class (MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS): the
// registered one is taken.
var wrongHubClass = []string{
	"arctic", "chatlm", "ernie4_5", "ernie4_5_moe", "fuyu", "h2ovl_chat", "hyperclovax",
	"hyperclovax_vlm", "internlm2", "internlm3", "iquestcoder", "jamba", "llava", "llava_next",
	"minicpm3", "minicpmv", "minimax_m2", "modernbert", "modernbert-decoder", "molmo", "molmo2",
	"nemotron", "nvfp4", "opencua", "openvla", "paddleocr_vl", "phi3", "phi3_v", "phimoe", "qwen2",
	"qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp", "step3_vl", "vipllava", "smolvlm",
}

// genericModels are the model types that transformers registers the generic
// backend for: a tokenizer_config.json that names a class is overruled.
var genericModels = map[string]bool{
	"flex_olmo": true, "glm": true, "glm4": true, "glm4_moe": true, "glm4_moe_lite": true,
	"gpt_bigcode": true, "granite": true, "granitemoe": true, "granitemoehybrid": true,
	"granitemoeshared": true, "kimi_linear": true, "mimo_v2_flash": true, "mistral": true,
	"mistral3": true, "ministral": true, "ministral3": true, "mixtral": true, "olmo2": true,
	"olmo3": true, "persimmon": true, "pixtral": true, "stablelm": true, "xlm-roberta-xl": true,
}
