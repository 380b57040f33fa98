// Package depcheck holds the test that keeps the arrows between packages as
// docs/design.md draws them.
package depcheck

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/modelpipe/modelpipe/"

// allowed says for each package tree which other trees of ours its non-test
// files may import. A tree may always import itself; internal/ is open to all
// and imports nothing of ours. Commands, those of bench too, may import anything.
var allowed = map[string][]string{
	"gguf":        {},
	"safetensors": {},
	"hub":         {},
	"tokenizer":   {"gguf"},
	"quantize":    {"gguf"},
	"convert":     {"gguf", "safetensors", "tokenizer", "quantize"},
	"ops":         {"gguf", "safetensors", "quantize"},
	"validate":    {"gguf", "safetensors", "tokenizer", "quantize", "ops"},
	"publish":     {},
	"catalog":     {"gguf", "publish"},
	"edge":        {"catalog", "publish"},
	"pipeline":    {"gguf", "safetensors", "hub", "tokenizer", "quantize", "convert", "ops", "validate", "publish", "catalog"},
	"internal":    {},
}

// violations returns one line for each import in root that the table does not
// allow, and for each package tree that the table does not know.
func violations(root string, table map[string][]string) ([]string, error) {
	var bad []string
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel == "." {
				return nil
			}
			if strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules" {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
				return filepath.SkipDir // another module
			}
			return nil
		}
		tree, _, _ := strings.Cut(rel, "/")
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") || tree == "cmd" || tree == "bench" {
			return nil
		}
		may, known := table[tree]
		if !known {
			bad = append(bad, rel+": package tree "+tree+" is not in the table")
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			ours, ok := strings.CutPrefix(imported, module)
			if !ok {
				continue
			}
			to, _, _ := strings.Cut(ours, "/")
			if to != tree && to != "internal" && !slices.Contains(may, to) {
				bad = append(bad, rel+": "+tree+" may not import "+ours)
			}
		}
		return nil
	})
	return bad, err
}

func TestArrows(t *testing.T) {
	bad, err := violations("../..", allowed)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range bad {
		t.Error(line)
	}
}

// TestFindsViolations proves that the check is able to fail.
func TestFindsViolations(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("gguf/a.go", "package gguf\nimport _ \""+module+"hub\"\n")
	write("convert/a.go", "package convert\nimport _ \""+module+"gguf\"\n")
	write("extra/a.go", "package extra\n")
	bad, err := violations(root, allowed)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"extra/a.go: package tree extra is not in the table",
		"gguf/a.go: gguf may not import hub",
	}
	if !slices.Equal(bad, want) {
		t.Errorf("got %q, want %q", bad, want)
	}
}
