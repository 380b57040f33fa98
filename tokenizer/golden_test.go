package tokenizer

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
)

// goldenOptions are the options of the architectures in testdata/golden, whose
// upstream.txt is what llama.cpp's converter writes.
var goldenOptions = map[string]Options{
	"bert":         {Arch: "bert", TokenTypes: 2, Kinds: []Kind{KindWordPiece}},
	"cohere2":      {Arch: "cohere2"},
	"deepseek2":    {Arch: "deepseek2"},
	"gemma":        {Arch: "gemma", Special: []SpecialRule{{Role: "eot", ID: 107}}, Flags: []FlagRule{{Name: "add_space_prefix"}}},
	"gemma2":       {Arch: "gemma2", Flags: []FlagRule{{Name: "add_space_prefix"}}},
	"gemma3":       {Arch: "gemma3", Flags: []FlagRule{{Name: "add_space_prefix"}}},
	"glm4":         {Arch: "glm4", Special: []SpecialRule{{Role: "eos", Text: "<|endoftext|>"}, {Role: "eot", Text: "<|user|>"}, {Role: "unk", Text: "<|endoftext|>"}, {Role: "bos", Text: "<|endoftext|>"}}},
	"granite":      {Arch: "granite"},
	"olmo2":        {Arch: "olmo2"},
	"phi2":         {Arch: "phi2", Flags: []FlagRule{{Name: "add_bos_token"}}},
	"phi3":         {Arch: "phi3", AddedFromDefinition: true},
	"smollm":       {Arch: "llama"},
	"starcoder2":   {Arch: "starcoder2"},
	"stablelm":     {Arch: "stablelm"},
	"falcon":       {Arch: "falcon"},
	"gpt2":         {Arch: "gpt2"},
	"llama3":       {Arch: "llama"},
	"smollm3":      {Arch: "smollm3"},
	"int4-packed":  {Arch: "llama"},
	"fp8-block":    {Arch: "qwen3"},
	"gptoss":       {Arch: "gpt-oss"},
	"gptoss-mxfp4": {Arch: "gpt-oss"},
	"mistral":      {Arch: "llama"},
	"mixtral":      {Arch: "llama"},
	"qwen2":        {Arch: "qwen2"},
	"qwen2moe":     {Arch: "qwen2moe"},
	"qwen3":        {Arch: "qwen3"},
	"qwen3moe":     {Arch: "qwen3moe"},

	"llama3-v5":            {Arch: "llama"},
	"seed-oss":             {Arch: "seed_oss"},
	"lfm2":                 {Arch: "lfm2"},
	"glm4-moe":             {Arch: "glm4moe", Special: []SpecialRule{{Role: "bos", Text: "[gMASK]"}, {Role: "eot", Text: "<|user|>"}, {Role: "unk", Text: "<|endoftext|>"}, {Role: "eom", Text: "<|observation|>"}}},
	"granitemoe":           {Arch: "granitemoe", SpacePrefixFromConfig: true},
	"hunyuan-dense":        {Arch: "hunyuan-dense", Special: []SpecialRule{{Role: "eot", ID: 302}}},
	"exaone4":              {Arch: "exaone4"},
	"olmo3":                {Arch: "olmo2"},
	"nemotron":             {Arch: "nemotron", Special: []SpecialRule{{Role: "pad", ID: 0, Override: true}, {Role: "unk", ID: 1, Override: true}}},
	"gemma3-mm":            {Arch: "gemma3", Size: 576, Flags: []FlagRule{{Name: "add_space_prefix"}}},
	"ernie45":              {Arch: "ernie4_5", SpacePrefixFromConfig: true},
	"phi4-mini":            {Arch: "phi3", AddedFromDefinition: true},
	"xlm-roberta":          {Arch: "bert", TokenTypes: 1, Kinds: []Kind{KindUnigram}},
	"xlm-roberta-reranker": {Arch: "bert", TokenTypes: 1, Kinds: []Kind{KindUnigram}},
	"roberta":              {Arch: "bert", TokenTypes: 1, Kinds: []Kind{KindBPE}},
	"nomic-bert":           {Arch: "nomic-bert", TokenTypes: 2, Kinds: []Kind{KindWordPiece}},
	"qwen2-yarn":           {Arch: "qwen2"},
	"deepseek-v3":          {Arch: "deepseek2"},
}

func TestGoldenVocabularies(t *testing.T) {
	dirs, err := filepath.Glob("testdata/golden/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no goldens (%v)", err)
	}
	for _, dir := range dirs {
		name := filepath.Base(dir)
		t.Run(name, func(t *testing.T) {
			options, ok := goldenOptions[name]
			if !ok {
				t.Fatal("no options")
			}
			files, err := Load(os.DirFS(dir))
			if err != nil {
				t.Fatal(err)
			}
			if options.Size == 0 {
				size, ok := files.config.integer("vocab_size")
				if !ok {
					t.Fatal("no vocab_size")
				}
				options.Size = int(size)
			}
			v, err := files.Vocabulary(options)
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(filepath.Join(dir, "upstream.txt"))
			if err != nil {
				t.Fatal(err)
			}
			compareKVs(t, v.Metadata(), string(want))

			again, err := FromMetadata(v.Metadata())
			if err != nil {
				t.Fatal(err)
			}
			if a, b := describeKVs(v.Metadata()), describeKVs(again.Metadata()); a != b {
				t.Errorf("FromMetadata is not the inverse:\n%s\n%s", a, b)
			}
		})
	}
}

// compareKVs compares the lines of two listings as sets: the order of the KVs
// carries no meaning.
func compareKVs(t *testing.T, m gguf.Metadata, want string) {
	t.Helper()
	got := make(map[string]bool)
	for line := range strings.Lines(describeKVs(m)) {
		got[line] = true
	}
	for line := range strings.Lines(want) {
		if !got[line] {
			t.Errorf("missing %s", line)
		}
		delete(got, line)
	}
	for line := range got {
		t.Errorf("not upstream's: %s", line)
	}
}

// describeKVs writes KVs as the goldens do: long arrays as the SHA-256 of their
// compact JSON, which is Python's.
func describeKVs(m gguf.Metadata) string {
	var b strings.Builder
	for _, kv := range m {
		fmt.Fprintf(&b, "kv %s ", kv.Key)
		switch v := kv.Value.(type) {
		case string:
			fmt.Fprintf(&b, "STRING %s", pythonJSON(v))
		case uint32:
			fmt.Fprintf(&b, "UINT32 %d", v)
		case bool:
			fmt.Fprintf(&b, "BOOL %t", v)
		case []string:
			parts := make([]string, len(v))
			for i, s := range v {
				parts[i] = pythonJSON(s)
			}
			describeArray(&b, "STRING", parts)
		case []int32:
			parts := make([]string, len(v))
			for i, n := range v {
				parts[i] = fmt.Sprint(n)
			}
			describeArray(&b, "INT32", parts)
		case []uint8:
			parts := make([]string, len(v))
			for i, n := range v {
				parts[i] = fmt.Sprint(n)
			}
			describeArray(&b, "UINT8", parts)
		case []float32:
			parts := make([]string, len(v))
			for i, x := range v {
				parts[i] = pythonFloat(float64(x))
			}
			describeArray(&b, "FLOAT32", parts)
		default:
			fmt.Fprintf(&b, "%T", v)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func describeArray(b *strings.Builder, kind string, parts []string) {
	text := "[" + strings.Join(parts, ",") + "]"
	if len([]rune(text)) >= 200 {
		text = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text)))
	}
	fmt.Fprintf(b, "[%s] n=%d %s", kind, len(parts), text)
}

// pythonJSON quotes a string as json.dumps(ensure_ascii=False) does.
func pythonJSON(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return err.Error()
	}
	return strings.NewReplacer(`\u2028`, "\u2028", `\u2029`, "\u2029", `\u007f`, "\x7f").Replace(strings.TrimSuffix(b.String(), "\n"))
}

// pythonFloat writes a number as Python's repr does.
func pythonFloat(x float64) string {
	if math.Abs(x) < 1e16 && (x == 0 || math.Abs(x) >= 1e-4) {
		s := strconv.FormatFloat(x, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s
	}
	return strconv.FormatFloat(x, 'e', -1, 64)
}
