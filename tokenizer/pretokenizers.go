package tokenizer

// preTokenizer is one row of the table of pre-tokenizers that llama.cpp knows
// by name. What llama.cpp does for a name is in preTable; this is the other
// side, how a tokenizer.json of that name looks.
type preTokenizer struct {
	name      string   // tokenizer.ggml.pre
	structure []string // Definition.Structure of the tokenizers that have it

	// Where several rows have one structure:
	archs []string // config.json's model_type or general.architecture of models that have this name
	token string   // a token that only tokenizers of this name have
}

// Expressions as published; more than one row has most of them.
const (
	cl100k   = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwen2    = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwen35   = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	anyDigit = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	seed     = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+`
	turkish  = `[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	jais2    = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}`
	exaone   = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+`
	bailing  = `'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+`
	o200k    = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	oneDigit = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	tekken   = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	deepseek = `[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_` + "`" + `{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	letters  = `\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+`
	cjk      = `[一-龥ࠀ-一가-퟿]+`
	kana     = `[一-龥぀-ゟ゠-ヿ]+`
	bloom    = ` ?[^(\s|[.,!?…。，、।۔،])]+`
	youtu    = `[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+`
)

// Structures that more than one row has.
var (
	byGPT2      = []string{"split isolated " + gpt2Regex, "bytes"}
	byDigit     = []string{"digits individual", "split isolated " + gpt2Regex, "bytes"}
	byCL100K    = []string{"split isolated " + cl100k, "bytes"}
	byQwen2     = []string{"split isolated " + qwen2, "bytes"}
	byO200K     = []string{"split isolated " + o200k, "bytes"}
	byDeepSeek3 = []string{`split isolated \p{N}{1,3}`, "split isolated " + kana, "split isolated " + deepseek, "bytes"}
	byBloom     = []string{"split isolated " + bloom, "bytes"}
	byTinyAya   = []string{`split isolated \d{1,3}(?=(?:\d{3})*\b)`, "split isolated " + o200k, "bytes"}
)

// preTokenizers is the table. Of the rows with one structure that one is taken
// whose token the vocabulary has; else the one that lists the model_type, then
// the architecture; else the first for which llama.cpp merges as the file says
// (ignore_merges); else the first.
var preTokenizers = []preTokenizer{
	{name: "gpt-2", structure: byGPT2, archs: []string{"gpt2", "phi2", "gptneox", "stablelm"}},
	{name: "mpt", structure: byGPT2, archs: []string{"mpt"}},
	{name: "olmo", structure: byGPT2, archs: []string{"olmo", "olmoe"}},
	{name: "jais", structure: byGPT2, archs: []string{"jais"}},
	{name: "exaone4", structure: byGPT2, archs: []string{"exaone4"}},
	{name: "roberta-bpe", structure: byGPT2, archs: []string{"bert"}},
	{name: "jina-v2-code", structure: byGPT2, archs: []string{"jina-bert-v2"}},
	{name: "modern-bert", structure: byGPT2, archs: []string{"modern-bert"}},
	{name: "gigachat", structure: byGPT2, archs: []string{"deepseek", "deepseek2"}},
	{name: "mellum", structure: byGPT2, archs: []string{"mellum"}},

	{name: "starcoder", structure: byDigit, archs: []string{"starcoder", "starcoder2", "granite"}},
	{name: "refact", structure: byDigit, archs: []string{"refact", "granitemoe", "granitehybrid"}},
	{name: "command-r", structure: byDigit, archs: []string{"command-r", "cohere2"}},
	{name: "smollm", structure: byDigit, archs: []string{"llama"}},
	{name: "codeshell", structure: byDigit, archs: []string{"codeshell"}},
	{name: "exaone", structure: byDigit, archs: []string{"exaone"}},
	{name: "minerva-7b", structure: byDigit, archs: []string{"mistral"}},
	{name: "mellum2", structure: byDigit, archs: []string{"mellum2"}},

	{name: "falcon3", structure: byCL100K, token: ">>TITLE<<"},
	{name: "pixtral", structure: byCL100K, token: "[IMG]"},
	{name: "llama-bpe", structure: byCL100K, archs: []string{"llama", "smollm3", "arcee", "bitnet", "llama4", "deci", "apertus"}},
	{name: "dbrx", structure: byCL100K, archs: []string{"dbrx", "olmo2", "phi3"}},
	{name: "glm4", structure: byCL100K, archs: []string{"glm4", "glm4moe"}},
	{name: "chatglm-bpe", structure: byCL100K, archs: []string{"chatglm"}},
	{name: "falcon-h1", structure: byCL100K, archs: []string{"falcon-h1"}},
	{name: "lfm2", structure: byCL100K, archs: []string{"lfm2", "lfm2moe"}},
	{name: "jina-v5-nano", structure: byCL100K, archs: []string{"eurobert"}},

	{name: "deepseek-r1-qwen", structure: byQwen2, token: "<｜begin▁of▁sentence｜>"},
	{name: "qwen2", structure: byQwen2, archs: []string{"qwen2", "qwen2moe", "qwen3", "qwen3moe"}},
	{name: "stablelm2", structure: byQwen2, archs: []string{"stablelm"}},
	{name: "hunyuan", structure: byQwen2, archs: []string{"hunyuan-moe"}},
	{name: "grok-2", structure: byQwen2, archs: []string{"grok"}},
	{name: "solar-open", structure: byQwen2, archs: []string{"glm4moe"}},
	{name: "megrez", structure: byQwen2, archs: []string{"megrez-moe"}},
	{name: "qwen35", structure: []string{"split isolated " + qwen35, "bytes"}},
	{name: "seed-coder", structure: []string{"split isolated " + seed, "bytes"}},
	{name: "bailingmoe", structure: []string{"split isolated " + bailing, "bytes"}, archs: []string{"bailingmoe"}},
	{name: "bailingmoe2", structure: []string{"split isolated " + bailing, "bytes"}, archs: []string{"bailingmoe2"}},
	{name: "llada-moe", structure: []string{"split isolated " + bailing, "bytes"}, archs: []string{"llada-moe"}},
	{name: "ufakzeka", structure: []string{"split isolated " + turkish, "bytes"}},
	{name: "jais-2", structure: []string{"split isolated " + jais2, "bytes"}},
	{name: "exaone-moe", structure: []string{"split isolated " + exaone, "bytes"}},
	{name: "minicpm5", structure: []string{`split isolated \p{N}{1,3}`, "split isolated " + anyDigit, "bytes"}},
	{name: "laguna", structure: []string{`split mergedwithnext (?:\r?\n)+(?!\r?\n)`, "split isolated " + qwen2, "bytes"}},

	{name: "gpt-4o", structure: byO200K, archs: []string{"gpt-oss", "phi3"}},
	{name: "llama4", structure: byO200K, archs: []string{"llama4"}},
	{name: "minimax-m2", structure: byO200K, archs: []string{"minimax-m2"}},
	{name: "kanana2", structure: byO200K, archs: []string{"deepseek2"}},
	{name: "talkie", structure: byO200K, archs: []string{"talkie"}},
	{name: "tiny_aya", structure: byTinyAya, archs: []string{"cohere2"}},
	{name: "cohere2moe", structure: byTinyAya, archs: []string{"cohere2moe"}},
	{name: "tekken", structure: []string{"split isolated " + tekken, "bytes"}},
	{name: "youtu", structure: []string{"split isolated " + youtu, "split isolated " + oneDigit, "bytes"}},

	{name: "deepseek-v3", structure: byDeepSeek3, archs: []string{"deepseek2"}},
	{name: "hunyuan-dense", structure: byDeepSeek3, archs: []string{"hunyuan-dense"}},
	{name: "deepseek-llm", structure: []string{
		`split isolated [\r\n]`, "split isolated " + letters, `split isolated \s?[!-/:-~！-／：-～‘-‟　-。]+`,
		`split isolated \s+$`, "split isolated " + cjk, "digits individual", "bytes",
	}},
	{name: "deepseek-coder", structure: []string{
		`split isolated [\r\n]`, `split isolated \s?\p{L}+`, `split isolated \s?\p{P}+`, "split isolated " + cjk,
		"digits individual", "bytes",
	}},

	{name: "falcon", structure: []string{
		"punctuation contiguous", "split isolated " + gpt2Regex, "bytes", "digits", "split isolated [0-9][0-9][0-9]",
	}},
	{name: "bloom", structure: byBloom, archs: []string{"bloom"}},
	{name: "poro-chat", structure: byBloom, token: "<|im_end|>"},
	{name: "viking", structure: []string{"split isolated " + bloom, "digits individual", "bytes"}},
	{name: "superbpe", structure: []string{`split isolated \p{N}+`, `split isolated (?=(\d{3})+(?!\d))`, "bytes"}},

	{name: "whitespace", structure: []string{"whitespace"}},
	{name: "wordpiece", structure: []string{"bertpretokenizer"}},
}

// spellings are expressions that cut as another one does, in the normal form
// on the right: case written out, or tiktoken's possessive quantifiers where
// giving back could not lead to a match.
var spellings = [][2]string{
	{`(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])`, `(?i:'s|'t|'re|'ve|'m|'ll|'d)`},
	{`'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+`, cl100k},
}
