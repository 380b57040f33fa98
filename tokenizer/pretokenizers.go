package tokenizer

// preTokenizer is one row of the table of pre-tokenizers that llama.cpp knows
// by name.
type preTokenizer struct {
	name      string   // tokenizer.ggml.pre
	structure []string // Definition.Structure of the tokenizers that have it
	// archs are the architectures (general.architecture) whose tokenizers of
	// this structure have this name, where more than one name has it.
	archs []string
}

// Expressions that several rows share.
const (
	cl100k = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwen2  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	o200k  = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	tekken = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	deepV3 = `[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_` + "`" + `{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// preTokenizers is the table. Of rows with the same structure the one that
// lists the architecture is taken, else the first.
var preTokenizers = []preTokenizer{
	{"gpt-2", []string{"split isolated " + gpt2Regex, "bytes"}, nil},
	{"mpt", []string{"split isolated " + gpt2Regex, "bytes"}, []string{"mpt"}},
	{"olmo", []string{"split isolated " + gpt2Regex, "bytes"}, []string{"olmo", "olmoe"}},
	{"jais", []string{"split isolated " + gpt2Regex, "bytes"}, []string{"jais"}},
	{"roberta-bpe", []string{"split isolated " + gpt2Regex, "bytes"}, []string{"bert"}},
	{"llama-bpe", []string{"split isolated " + cl100k, "bytes"}, nil},
	{"dbrx", []string{"split isolated " + cl100k, "bytes"}, []string{"dbrx", "olmo2"}},
	{"glm4", []string{"split isolated " + cl100k, "bytes"}, []string{"glm4", "glm4moe"}},
	{"chatglm-bpe", []string{"split isolated " + cl100k, "bytes"}, []string{"chatglm"}},
	{"qwen2", []string{"split isolated " + qwen2, "bytes"}, nil},
	{"stablelm2", []string{"split isolated " + qwen2, "bytes"}, []string{"stablelm"}},
	{"gpt-4o", []string{"split isolated " + o200k, "bytes"}, nil},
	{"llama4", []string{"split isolated " + o200k, "bytes"}, []string{"llama4"}},
	{"tekken", []string{"split isolated " + tekken, "bytes"}, nil},
	{"starcoder", []string{"digits individual", "split isolated " + gpt2Regex, "bytes"}, nil},
	{"command-r", []string{"digits individual", "split isolated " + gpt2Regex, "bytes"}, []string{"command-r", "cohere2"}},
	{"smollm", []string{"digits individual", "split isolated " + gpt2Regex, "bytes"}, []string{"llama"}},
	{"falcon", []string{"punctuation contiguous", "split isolated " + gpt2Regex, "bytes", "digits", "split isolated [0-9][0-9][0-9]"}, nil},
	{"deepseek-v3", []string{`split isolated \p{N}{1,3}`, `split isolated [一-龥぀-ゟ゠-ヿ]+`, "split isolated " + deepV3, "bytes"}, nil},
	{"wordpiece", []string{"bertpretokenizer"}, nil},
}
