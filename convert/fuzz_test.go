package convert

import (
	"context"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/fstest"
)

// hostile are values that no field of a config should have, and some that
// other fields have.
var hostile = []string{
	`null`, `0`, `-1`, `1`, `2`, `3`, `7`, `1e18`, `1099511627776`, `1.5`, `1e-300`, `1e39`, `"x"`, `""`, `true`, `false`,
	`[]`, `{}`, `[[]]`, `[0]`, `[-1, "x"]`, `[1e18, 1e18, 1e18]`, `["sliding_attention"]`, `{"rope_type": "llama3"}`,
	`{"rope_type": "yarn", "factor": 0}`, `{"full_attention": {}}`, `{"full_attention": 3, "sliding_attention": []}`,
	`{"long_factor": [1], "rope_type": "su"}`, `{"hidden_size": 0}`, `{"mrope_section": [1, 2, 3, 4, 5]}`,
}

// FuzzConfig plans goldens with one field of config.json set to anything:
// there is a plan that can be rendered, or an error; no panic, and no
// allocation that only the config asks for.
func FuzzConfig(f *testing.F) {
	dirs, err := filepath.Glob("testdata/golden/*/hf.zip")
	if err != nil || len(dirs) == 0 {
		f.Fatalf("no goldens (%v)", err)
	}
	var sources []fstest.MapFS
	for i, file := range dirs {
		source, ok := openModel(f, filepath.Dir(file)).(fstest.MapFS)
		if !ok {
			f.Fatalf("%s is not an archive", file)
		}
		sources = append(sources, source)
		f.Add(uint8(i), uint8(7*i), hostile[i%len(hostile)])
	}
	f.Fuzz(func(t *testing.T, which, field uint8, value string) {
		if !json.Valid([]byte(value)) {
			return
		}
		source := maps.Clone(sources[int(which)%len(sources)])
		editField(t, source, int(field), json.RawMessage(value))
		planAnyway(t, source)
	})
}

// TestHostileConfigsLarge gives every field of one model of each architecture
// every hostile value; without MODELPIPE_LARGE every 20th of these.
func TestHostileConfigsLarge(t *testing.T) {
	step := 20
	if os.Getenv("MODELPIPE_LARGE") != "" {
		step = 1
	}
	dirs, err := filepath.Glob("testdata/golden/*/hf.zip")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, file := range dirs {
		source := openModel(t, filepath.Dir(file)).(fstest.MapFS)
		config, err := ParseConfig(source["config.json"].Data)
		if err != nil {
			t.Fatal(err)
		}
		classes, err := config.Classes()
		if err != nil {
			t.Fatal(err)
		}
		if seen[classes[0]] {
			continue
		}
		seen[classes[0]] = true
		t.Run(classes[0], func(t *testing.T) {
			t.Parallel()
			for i := 0; i < len(config.fields)*len(hostile); i += step {
				changed := maps.Clone(source)
				editField(t, changed, i/len(hostile), json.RawMessage(hostile[i%len(hostile)]))
				planAnyway(t, changed)
			}
		})
	}
}

// editField sets the i-th field of config.json, in the order of their names.
func editField(t *testing.T, source fstest.MapFS, i int, value json.RawMessage) {
	t.Helper()
	var config map[string]json.RawMessage
	if err := json.Unmarshal(source["config.json"].Data, &config); err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(config))
	config[names[i%len(names)]] = value
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	source["config.json"] = &fstest.MapFile{Data: data}
}

// planAnyway fails where a plan is made that cannot be rendered.
func planAnyway(t *testing.T, source fstest.MapFS) {
	t.Helper()
	plan, err := NewPlan(context.Background(), source, Options{Source: "any"})
	if err != nil {
		return
	}
	if _, err := NewView(plan, fs.FS(source), RenderOptions{}); err != nil {
		t.Errorf("a plan that cannot be rendered: %v\n%s", err, source["config.json"].Data)
	}
}
