package tokenizer

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// TestUpstreamCases holds the added and special tokens against what upstream's
// _set_vocab_gpt2 wrote for the same files: tokenizer classes and model types,
// special tokens that only one file knows, post-processors, flags. Each line
// of testdata/upstream-cases.jsonl is a case: the files around
// testdata/golden/llama3/tokenizer.json, the members changed in it, and the
// KVs (arrays as SHA-256 of their compact JSON; strings cut at 150 bytes).
func TestUpstreamCases(t *testing.T) {
	base, err := os.ReadFile("testdata/golden/llama3/tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	cases, err := os.ReadFile("testdata/upstream-cases.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(cases) {
		var c struct {
			Name      string
			Size      int
			Files     map[string]json.RawMessage
			Tokenizer map[string]json.RawMessage
			Want      []string
		}
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		t.Run(c.Name, func(t *testing.T) {
			var members map[string]json.RawMessage
			if err := json.Unmarshal(base, &members); err != nil {
				t.Fatal(err)
			}
			for name, raw := range c.Tokenizer {
				members[name] = raw
			}
			text, err := json.Marshal(members)
			if err != nil {
				t.Fatal(err)
			}
			fsys := fstest.MapFS{"tokenizer.json": &fstest.MapFile{Data: text}}
			for name, raw := range c.Files {
				fsys[name] = &fstest.MapFile{Data: raw}
			}
			files, err := Load(fsys)
			if err != nil {
				t.Fatal(err)
			}
			v, err := files.Vocabulary(Options{Size: c.Size, Pre: "any"})
			if err != nil {
				t.Fatal(err)
			}
			v.Model, v.Pre, v.Merges = "", "", nil
			got := make(map[string]bool)
			for _, kv := range v.Metadata() {
				if kv.Value != "" {
					got[summarize(kv.Key, kv.Value)] = true
				}
			}
			for _, want := range c.Want {
				if !got[want] {
					t.Errorf("missing %s", want)
				}
				delete(got, want)
			}
			for line := range got {
				t.Errorf("not upstream's: %s", line)
			}
		})
	}
}

func summarize(key string, value any) string {
	var parts []string
	switch v := value.(type) {
	case []string:
		for _, s := range v {
			parts = append(parts, pythonJSON(s))
		}
	case []int32:
		for _, n := range v {
			parts = append(parts, fmt.Sprint(n))
		}
	case string:
		s := pythonJSON(v)
		return fmt.Sprintf("kv %s %s", key, s[:min(len(s), 150)])
	default:
		return fmt.Sprintf("kv %s %v", key, v)
	}
	return fmt.Sprintf("kv %s n=%d %x", key, len(parts), sha256.Sum256([]byte("["+strings.Join(parts, ",")+"]")))
}
