package convert

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"
	"testing/fstest"
)

// TestGeneralMetadata compares with what gguf-py's metadata.py makes of the same
// names, model cards and configs (testdata/metadata.json).
func TestGeneralMetadata(t *testing.T) {
	data, err := os.ReadFile("testdata/metadata.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Source     string
		Readme     *string
		Generation json.RawMessage
		Config     json.RawMessage
		Total      int64
		Want       map[string]any
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		source := fstest.MapFS{}
		if c.Readme != nil {
			source["README.md"] = textFile(*c.Readme)
		}
		if string(c.Generation) != "null" {
			source["generation_config.json"] = textFile(string(c.Generation))
		}
		config, err := ParseConfig(c.Config)
		if err != nil {
			t.Fatal(err)
		}
		md, notes, err := generalMetadata(source, config, Options{Source: c.Source}, parameterCount{total: c.Total, shared: c.Total})
		if err != nil || notes != nil {
			t.Errorf("%s: %v %v", c.Source, notes, err)
			continue
		}
		got := map[string]string{}
		for _, kv := range md {
			v := kv.Value
			switch x := v.(type) { // Python's numbers are 64-bit
			case float32:
				v = float64(x)
			}
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			got[kv.Key] = string(text)
		}
		want := map[string]string{}
		for k, v := range c.Want {
			if f, ok := v.(float64); ok {
				v = float64(float32(f))
			}
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			want[k] = string(text)
		}
		for _, k := range slices.Sorted(maps.Keys(want)) {
			if got[k] != want[k] {
				t.Errorf("%s: %s: got %s, want %s", c.Source, k, got[k], want[k])
			}
			delete(got, k)
		}
		for _, k := range slices.Sorted(maps.Keys(got)) {
			t.Errorf("%s: %s: got %s, want none", c.Source, k, got[k])
		}
	}
}

// FuzzParseID takes any name apart without a panic.
func FuzzParseID(f *testing.F) {
	for _, id := range []string{"org/Base-7B-Instruct-v0.2", "bloom-7b1", "x-\u212a", "-", "a-\xff7k", "./7B", "é-8x7b", "a-7b1k"} {
		f.Add(id, int64(7e9))
	}
	f.Fuzz(func(t *testing.T, id string, total int64) {
		p := parseID(id, total)
		title(p.name)
		title(p.organization)
	})
}
