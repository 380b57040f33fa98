package tokenizer

import (
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/internal/golden"
)

// TestPreTokenizerTable checks that every row can be reached: by its token, by
// each of its architectures, or as the default of its structure; and that
// llama.cpp knows every name.
func TestPreTokenizerTable(t *testing.T) {
	names, first := make(map[string]bool), make(map[string]bool)
	for _, row := range preTokenizers {
		if row.name != "wordpiece" { // model "bert" has no pre-tokenizers
			if _, err := lookupPre(row.name); err != nil {
				t.Errorf("%s: %v", row.name, err)
			}
		}
		none := func(string) bool { return false }
		only := func(text string) bool { return text == row.token }
		key := strings.Join(row.structure, "\n")
		if names[row.name+key] {
			t.Errorf("two rows of one structure are named %s", row.name)
		}
		names[row.name+key] = true
		switch {
		case row.token != "":
			if got, err := nameOf(row.structure, only, false, nil); got != row.name {
				t.Errorf("%s by its token: got %s, %v", row.name, got, err)
			}
		case len(row.archs) == 0 && first[key]:
			t.Errorf("%s can not be told from another row", row.name)
		default:
			for _, arch := range append(row.archs, "") {
				if arch == "" && first[key] {
					continue
				}
				rules, _ := lookupPre(row.name)
				if got, err := nameOf(row.structure, none, rules != nil && rules.ignoreMerges, []string{"", arch}); got != row.name {
					t.Errorf("%s by architecture %q: got %s, %v", row.name, arch, got, err)
				}
			}
		}
		if row.token == "" {
			first[key] = true
		}
	}
}

// TestRecogniseSpellings gives one structure in the ways that files spell it.
func TestRecogniseSpellings(t *testing.T) {
	for _, c := range []struct{ name, steps string }{
		{"qwen2", `{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Removed","invert":true},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}`},
		{"qwen2", `{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}`},
		{"gpt-2", `{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false}`},
		{"deepseek-coder", `{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"[\r\n]"},"behavior":"Isolated","invert":false},{"type":"Split","pattern":{"Regex":"\\s?\\p{L}+"},"behavior":"Isolated","invert":false},{"type":"Split","pattern":{"Regex":"\\s?\\p{P}+"},"behavior":"Isolated","invert":false},{"type":"Split","pattern":{"Regex":"[一-龥ࠀ-一가-퟿]+"},"behavior":"Isolated","invert":false},{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]}`},
		{"viking", `{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":" ?[^(\\s|[.,!?…。，、।۔،])]+"},"behavior":"Isolated","invert":false},{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]}`},
	} {
		d, err := ParseDefinition([]byte(definition(`,"pre_tokenizer":` + c.steps)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := d.recognise(); got != c.name {
			t.Errorf("%s: got %q, %v", c.steps, got, err)
		}
	}
}

func TestUnknownPreTokenizer(t *testing.T) {
	d, err := ParseDefinition([]byte(definition(`,"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":false},{"type":"ByteLevel","add_prefix_space":false}]}`)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.recognise("qwen3")
	if err == nil {
		t.Fatal("recognised")
	}
	golden.Check(t, "unknown-pre.txt", err.Error()+"\n")
}
