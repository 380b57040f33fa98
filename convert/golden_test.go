package convert

import (
	"archive/zip"
	"context"
	"crypto/sha256"
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
			t.Run(filepath.Base(dir), func(t *testing.T) { checkGolden(t, dir) })
		}
	}
}

// openModel opens the model of a golden: the folder hf, or hf.zip, whose files
// are taken into memory so that they can be read at any offset.
func openModel(t testing.TB, dir string) fs.FS {
	archive, err := zip.OpenReader(filepath.Join(dir, "hf.zip"))
	if err != nil {
		return os.DirFS(filepath.Join(dir, "hf"))
	}
	defer archive.Close()
	source := fstest.MapFS{}
	for _, f := range archive.File {
		data, err := fs.ReadFile(archive, f.Name)
		if err != nil {
			t.Fatal(err)
		}
		source[f.Name] = &fstest.MapFile{Data: data}
	}
	return source
}

func checkGolden(t *testing.T, dir string) {
	want, err := os.ReadFile(filepath.Join(dir, "upstream.txt"))
	if err != nil {
		t.Fatal(err)
	}
	source := openModel(t, dir)
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
