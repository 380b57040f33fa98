package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const exampleCatalog = "../../catalog/testdata/catalog.json"

func TestCatalogExport(t *testing.T) {
	list := must(t, "catalog", "export", "--list")
	for _, name := range []string{"workers-ai", "ai-gateway", "litellm", "openai", "openrouter", "ollama", "localai", "gpustack", "envoy", "llama-swap", "llama-server"} {
		if !strings.Contains(list, "\n"+name+" ") && !strings.HasPrefix(list, name+" ") {
			t.Errorf("the list has no %s:\n%s", name, list)
		}
	}
	var formats []struct{ Name string }
	if err := json.Unmarshal([]byte(must(t, "catalog", "export", "--list", "--json")), &formats); err != nil || len(formats) != 11 {
		t.Errorf("%d formats, %v", len(formats), err)
	}
	dir := filepath.Join(t.TempDir(), "out")
	var out struct {
		Channel string
		Files   []struct{ Path string }
		Models  map[string]int
		Notes   []struct{ Reason string }
	}
	if err := json.Unmarshal([]byte(must(t, "catalog", "export", exampleCatalog, "--format", "all", "-o", dir, "--json")), &out); err != nil {
		t.Fatal(err)
	}
	if out.Channel != "stable" || len(out.Files) != 12 || out.Models["litellm"] != 3 || len(out.Notes) == 0 {
		t.Errorf("%+v", out)
	}
	one := must(t, "catalog", "export", exampleCatalog, "--format", "openai", "-o", "-")
	file, err := os.ReadFile(filepath.Join(dir, "openai", "models.json"))
	if err != nil || string(file) != one {
		t.Errorf("stdout has\n%s\nthe file\n%s", one, file)
	}
	denied(t, exitUsage, "--format is missing", "catalog", "export", exampleCatalog, "-o", dir)
	denied(t, exitUsage, "-o is missing", "catalog", "export", exampleCatalog, "--format", "all")
	denied(t, exitUsage, `did you mean "litellm"`, "catalog", "export", exampleCatalog, "--format", "litelm", "-o", dir)
	denied(t, exitUsage, "several files do not fit on stdout", "catalog", "export", exampleCatalog, "--format", "litellm", "-o", "-")
	denied(t, exitUsage, "several files do not fit on stdout", "catalog", "export", exampleCatalog, "--format", "all", "-o", "-")
	denied(t, exitUsage, "both want stdout", "catalog", "export", exampleCatalog, "--format", "openai", "-o", "-", "--json")
	denied(t, exitUsage, "accepts 1 arg", "catalog", "export", "--format", "openai", "-o", "-")
}

func TestCatalogSite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "site")
	out := must(t, "catalog", "site", exampleCatalog, "-o", dir, "--title", "Edge models")
	if !strings.Contains(out, "3 models, 12 files") {
		t.Error(out)
	}
	page, err := os.ReadFile(filepath.Join(dir, "models", "qwen3-0.6b.html"))
	if err != nil || !strings.Contains(string(page), "Edge models") {
		t.Errorf("no page: %v", err)
	}
	must(t, "catalog", "site", exampleCatalog, "-o", dir, "--base-url", "https://gateway.example.com/v1")
	denied(t, exitUsage, "-o is missing", "catalog", "site", exampleCatalog)
	denied(t, exitUsage, "--base-url", "catalog", "site", exampleCatalog, "-o", dir, "--base-url", "https://x/$(id)")
	denied(t, exitFailed, "holds something else than a site", "catalog", "site", exampleCatalog, "-o", filepath.Dir(exampleCatalog))
}

// TestCatalogExportStore reads the tree of a store, from a folder and from a
// web server, and nothing that does not have its digest.
func TestCatalogExportStore(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(in("catalog.toml"), []byte(curationTOML), 0o644); err != nil {
		t.Fatal(err)
	}
	store := in("store")
	conversion := must(t, "convert", "../../testdata/stories260K", "--type", "q8_0", "-o", in("m.gguf"), "--json")
	if err := os.WriteFile(in("m.json"), []byte(conversion), 0o644); err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(must(t, "catalog", "record", in("m.gguf"), "--store", store, "--model", "stories", "--variant", "Q8_0",
		"--source", "hf://karpathy/tinyllamas", "--commit", strings.Repeat("0a", 20), "--conversion", in("m.json")))
	must(t, "catalog", "publish", "stories", id, "--store", store)
	must(t, "catalog", "build", "-f", in("catalog.toml"), "--store", store)
	server := httptest.NewServer(http.FileServer(http.Dir(store)))
	defer server.Close()
	preset := must(t, "catalog", "export", store, "--format", "llama-server", "-o", "-", "--root", "/srv/models")
	if !strings.Contains(preset, "[stories]\nmodel = /srv/models/models/stories/"+id+"/m.gguf\n") || !strings.Contains(preset, "alias = tiny\n") {
		t.Errorf("got %s", preset)
	}
	if again := must(t, "catalog", "export", server.URL, "--format", "llama-server", "-o", "-", "--root", "/srv/models"); again != preset {
		t.Errorf("a web server gives\n%s\na folder\n%s", again, preset)
	}
	if out := must(t, "catalog", "site", server.URL, "-o", in("site")); !strings.Contains(out, "1 models") {
		t.Errorf("got %s", out)
	}
	denied(t, exitFailed, "channel beta", "catalog", "export", store, "--channel", "beta", "--format", "openai", "-o", "-")
	server.Close()
	denied(t, exitUnavailable, "connection refused", "catalog", "site", server.URL, "-o", in("other"))
	objects, err := filepath.Glob(filepath.Join(store, "objects", "*", "*"))
	if err != nil || len(objects) == 0 {
		t.Fatalf("no objects, %v", err)
	}
	for _, name := range objects {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(strings.Replace(string(data), "Stories 260K", "Stories 261K", 1)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	denied(t, exitFailed, "sha256", "catalog", "site", store, "-o", in("other"))
	if _, err := os.Stat(in("other")); err == nil {
		t.Error("a failure left a site")
	}
}

// TestCatalogExportMany holds the log to its bounds.
func TestCatalogExportMany(t *testing.T) {
	data, err := os.ReadFile(exampleCatalog)
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	var many []any
	for i := range 30 {
		m := map[string]any{}
		for k, v := range c["models"].([]any)[0].(map[string]any) {
			m[k] = v
		}
		m["slug"] = fmt.Sprintf("model-%02d", i)
		delete(m, "aliases")
		many = append(many, m)
	}
	c["models"] = many
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "catalog.json")
	if err := os.WriteFile(name, text, 0o644); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := try(t, "catalog", "export", name, "--format", "envoy", "-o", "-")
	if code != exitDone || strings.Count(stderr, `msg="has no place"`) != 20 || !strings.Contains(stderr, "more=10") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

// TestCatalogDocuments holds what is said about documents that are no catalog.
func TestCatalogDocuments(t *testing.T) {
	good, err := os.ReadFile(exampleCatalog)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, old, new, want string
	}{
		{"empty", string(good), "", "catalog.json: catalog: "},
		{"cut off", string(good)[2000:], "", "catalog.json: catalog: is cut off"},
		{"unknown field", `"vendor"`, `"vender"`, `unknown field "vender"`},
		{"climbing name", `"slug": "qwen3-0.6b"`, `"slug": "../../etc/passwd"`, "models[2].slug"},
		{"script as a name", `"slug": "qwen3-0.6b"`, `"slug": "<script>"`, "models[2].slug"},
		{"order", `"slug": "all-minilm-l6-v2"`, `"slug": "zzz"`, "model mistral-small-24b comes after zzz"},
		{"price", `"amount": "0.049"`, `"amount": "0.049e-3"`, "amount"},
		{"number as price", `"amount": "0.049"`, `"amount": 0.049`, "amount"},
		{"address with a script", `"homepage": "https://`, `"homepage": "javascript:alert(1)//`, "homepage"},
		{"climbing file", `"path": "qwen3-0.6b-Q8_0.gguf"`, `"path": "../q.gguf"`, "path"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(string(good), c.old, c.new, 1)
			if text == string(good) {
				t.Fatal("nothing was changed")
			}
			dir := t.TempDir()
			name, to := filepath.Join(dir, "catalog.json"), filepath.Join(dir, "out")
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			denied(t, exitFailed, c.want, "catalog", "export", name, "--format", "all", "-o", to)
			denied(t, exitFailed, c.want, "catalog", "site", name, "-o", to)
			if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
				t.Errorf("left behind: %v, %v", list, err)
			}
		})
	}
	denied(t, exitFailed, "no such file", "catalog", "site", "nowhere.json", "-o", t.TempDir())
}
