package convert

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/modelpipe/modelpipe/internal/golden"
	"github.com/modelpipe/modelpipe/quantize"
)

// TestGoldens plans and renders the tiny models of testdata/golden and compares
// with what llama.cpp's converter writes: every KV with its type and value, and
// every tensor with its type, shape and bytes. A folder's type.txt is its --type,
// where it is not auto. MODELPIPE_GOLDENS names a further
// folder of such models.
func TestGoldens(t *testing.T) {
	roots := []string{"testdata/golden"}
	if more := os.Getenv("MODELPIPE_GOLDENS"); more != "" {
		roots = append(roots, more)
	}
	for _, root := range roots {
		dirs, err := filepath.Glob(filepath.Join(root, "*", "upstream.txt"))
		if err != nil || len(dirs) == 0 {
			t.Fatalf("no goldens in %s (%v)", root, err)
		}
		for _, file := range dirs {
			dir := filepath.Dir(file)
			t.Run(filepath.Base(dir), func(t *testing.T) { checkGolden(t, dir, openModel(t, dir)) })
		}
	}
}

// openModel opens the model of a golden: the folder hf, or hf.zip, whose files
// are taken into memory so that they can be read at any offset.
func openModel(t testing.TB, dir string) fs.FS {
	name := filepath.Join(dir, "hf.zip")
	if _, err := os.Stat(name); err != nil {
		return os.DirFS(filepath.Join(dir, "hf"))
	}
	return golden.Unzip(t, name)
}

func checkGolden(t *testing.T, dir string, source fs.FS) {
	want, err := os.ReadFile(filepath.Join(dir, "upstream.txt"))
	if err != nil {
		t.Fatal(err)
	}
	options := Options{Source: "hf", Name: "tiny"}
	if name, err := os.ReadFile(filepath.Join(dir, "type.txt")); err == nil {
		options.Types = NewTypePolicy(quantize.Recipe{Preset: strings.TrimSpace(string(name))}, nil, "")
	}
	plan, err := NewPlan(context.Background(), source, options)
	if err != nil {
		t.Fatal(err)
	}
	view, err := NewView(plan, source, RenderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	got := describeHeader(plan.Header)
	for _, s := range plan.Steps {
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(view, s.Offset, s.Size)); err != nil {
			t.Fatalf("%s: %v", s.Name, err)
		}
		got["tensor "+s.Name] += fmt.Sprintf(" sha256:%x", h.Sum(nil))
	}
	for line := range strings.Lines(string(want)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		key := parts[0] + " " + parts[1]
		if g := got[key]; g != parts[2] && !sameNumber(g, parts[2]) {
			t.Errorf("%s: got %.100q, want %.100q", key, g, parts[2])
		}
		delete(got, key)
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if strings.HasPrefix(key, "tensor ") {
			t.Errorf("%s: not upstream's", key)
		}
	}
}

// TestBothForms gives the goldens the config that transformers 5 writes:
// rope_parameters and dtype in place of rope_theta, rope_scaling and
// torch_dtype. The file is the same.
func TestBothForms(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*/upstream.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no goldens (%v)", err)
	}
	for _, file := range files {
		dir := filepath.Dir(file)
		source, ok := openModel(t, dir).(fstest.MapFS)
		if !ok {
			t.Fatalf("%s has no archive", dir)
		}
		var config map[string]any
		if err := json.Unmarshal(source["config.json"].Data, &config); err != nil {
			t.Fatal(err)
		}
		if config["rope_theta"] == nil || config["rope_parameters"] != nil {
			continue
		}
		t.Run(filepath.Base(dir), func(t *testing.T) {
			rewriteRope(config)
			data, err := json.Marshal(config)
			if err != nil {
				t.Fatal(err)
			}
			source["config.json"] = &fstest.MapFile{Data: data}
			checkGolden(t, dir, source)
		})
	}
}

// rewriteRope turns transformers 4's rotary settings into transformers 5's.
func rewriteRope(config map[string]any) {
	rope := map[string]any{"rope_type": "default"}
	if scaling, ok := config["rope_scaling"].(map[string]any); ok {
		rope = maps.Clone(scaling)
	}
	for _, name := range []string{"rope_theta", "partial_rotary_factor"} {
		if v, ok := config[name]; ok {
			rope[name] = v
		}
		delete(config, name)
	}
	if local, ok := config["rope_local_base_freq"]; ok { // Gemma 3
		rope = map[string]any{"full_attention": rope, "sliding_attention": map[string]any{"rope_type": "default", "rope_theta": local}}
	}
	for _, name := range []string{"rope_scaling", "rope_local_base_freq"} {
		delete(config, name)
	}
	config["rope_parameters"] = rope
	config["dtype"] = config["torch_dtype"]
	delete(config, "torch_dtype")
}
