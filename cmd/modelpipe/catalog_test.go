package main

import (
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/validate"
)

// must runs a command line that must succeed and returns its stdout.
func must(t *testing.T, arguments ...string) string {
	t.Helper()
	code, stdout, stderr := try(t, arguments...)
	if code != exitDone {
		t.Fatalf("%q: exit %d, %s", arguments, code, stderr)
	}
	return stdout
}

// denied runs a command line that must fail with a code and a message.
func denied(t *testing.T, code int, want string, arguments ...string) {
	t.Helper()
	got, _, stderr := try(t, arguments...)
	if got != code || !strings.Contains(stderr, want) {
		t.Errorf("%q: exit %d, %s, want %d with %q", arguments, got, stderr, code, want)
	}
}

// sameAsReport holds what a catalog says of a variant's quality to the report
// that validate wrote.
func sameAsReport(t *testing.T, name string, got catalog.Quality) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var r validate.Report
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	if got.KLD == nil || got.Top1 == nil || got.PPL == nil || got.TokensEqual == nil || got.StructureOK == nil || got.Report == nil {
		t.Fatalf("%s: got %+v", name, got)
	}
	if math.Abs(got.KLD.Mean-r.KLD.Mean) > 1e-6 || math.Abs(got.KLD.P99-r.KLD.P99) > 1e-6 || math.Abs(got.KLD.Max-r.KLD.Max) > 1e-6 ||
		*got.Top1 != *r.Top1 || *got.PPL != catalog.PPL(*r.PPL) || *got.TokensEqual != r.Tokens.Equal || *got.StructureOK != r.Structure.OK {
		t.Errorf("%s: got %+v", name, got)
	}
	if len(got.Gates) != len(r.Gates) || len(r.Gates) < 4 || got.Passed() != r.Pass {
		t.Fatalf("%s: got %d gates, want %d", name, len(got.Gates), len(r.Gates))
	}
	for i, want := range r.Gates {
		g := got.Gates[i]
		limit, measured := want.Limit.(float64)
		if g.Name != want.Name || g.Passed != want.Pass || (g.Limit != nil) != measured || measured && (*g.Limit != limit || *g.Value != want.Value) {
			t.Errorf("%s: got gate %+v, want %+v", name, g, want)
		}
	}
}

const curationTOML = `
[[model]]
slug = "stories"
aliases = ["tiny"]
source = "hf://karpathy/tinyllamas"
vendor = "karpathy"
display_name = "Stories 260K"
description = "Tells stories of few words."
task = "text-generation"
languages = ["en"]
[model.license]
spdx = "MIT"
[[model.variant]]
name = "Q8_0"
[[model.variant]]
name = "F32"
[[model.serving.prices]]
unit = "input_token"
per = 1000000
amount = "0.01"
currency = "USD"
`

const trustTOML = `
[root]
keys = ["root1", "root2", "root3"]
threshold = 2
[targets]
keys = ["root1"]
[snapshot]
keys = ["online"]
[timestamp]
keys = ["online"]
[channel.stable]
keys = ["release"]
[key.root1]
public = "root1.pub"
sign = "file:root1.pem"
[key.root2]
public = "root2.pub"
sign = "file:root2.pem"
[key.root3]
public = "root3.pub"
[key.online]
public = "online.pub"
sign = "file:online.pem"
[key.release]
public = "release.pub"
sign = "file:release.pem"
`

// TestCatalog goes the whole way on a folder: convert, record, publish, build,
// sign, verify, withdraw.
func TestCatalog(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) string {
		t.Helper()
		if err := os.WriteFile(in(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return in(name)
	}
	store := in("store")
	file := write("catalog.toml", curationTOML)
	must(t, "catalog", "keys", "root1", "root2", "root3", "online", "release", "-o", dir)
	policy := write("trust.toml", trustTOML)
	if out := must(t, "catalog", "keys", "--trust", policy); !strings.Contains(out, "root: 2 of 3 keys, valid for 365 days") {
		t.Errorf("got %s", out)
	}
	ids := map[string]string{}
	for _, typ := range []string{"q8_0", "f32"} {
		conversion := write(typ+".json", must(t, "convert", "../../testdata/stories260K", "--type", typ, "-o", in(typ+".gguf"), "--json"))
		name := strings.ToUpper(typ)
		report := in(typ + "-report.json")
		must(t, with(quickly, "validate", in(typ+".gguf"), "--against", stories, "--report", report)...)
		ids[name] = strings.TrimSpace(must(t, "catalog", "record", in(typ+".gguf"), "--store", store, "--model", "stories", "--variant", name,
			"--source", "hf://karpathy/tinyllamas", "--commit", strings.Repeat("0a", 20), "--conversion", conversion, "--report", report, "--trust", policy))
	}
	must(t, "catalog", "publish", "stories", ids["Q8_0"], ids["F32"], "--store", store)
	if out := must(t, "catalog", "build", "-f", file, "--store", store); !strings.Contains(out, "stable: 1 models in 1 parts") {
		t.Errorf("got %s", out)
	}
	if out := must(t, "catalog", "build", "-f", file, "--store", store); !strings.Contains(out, "(unchanged)") {
		t.Errorf("got %s", out)
	}
	denied(t, exitFailed, "nothing is signed there", "catalog", "verify", store)
	if out := must(t, "catalog", "sign", "--store", store, "--trust", policy); !strings.HasSuffix(out, "metadata/timestamp.json\n") {
		t.Errorf("got %s", out)
	}
	if out := must(t, "catalog", "sign", "--store", store, "--trust", policy); !strings.HasPrefix(out, "nothing to sign") {
		t.Errorf("got %s", out)
	}
	root := filepath.Join(store, "metadata", "1.root.json")
	out := must(t, "catalog", "verify", store, "--files", "--trust", policy, "--root", root, "--state", in("state"))
	if !strings.Contains(out, "2 statements of provenance, 2 files") || !strings.Contains(out, "root 1, timestamp 1") {
		t.Errorf("got %s", out)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(store)))
	defer server.Close()
	must(t, "catalog", "verify", server.URL, "--root", root)
	var m struct {
		Slug     string `json:"slug"`
		Variants []struct {
			Name   string `json:"name"`
			Memory struct {
				PerToken int64 `json:"per_token_bytes"`
			} `json:"memory"`
			Quality catalog.Quality `json:"quality"`
		} `json:"variants"`
	}
	if err := json.Unmarshal([]byte(must(t, "catalog", "show", server.URL, "tiny")), &m); err != nil || m.Slug != "stories" || len(m.Variants) != 2 || m.Variants[0].Memory.PerToken != 5*4*(8+8)*2 {
		t.Errorf("got %+v, %v", m, err)
	}
	for _, v := range m.Variants {
		sameAsReport(t, in(strings.ToLower(v.Name)+"-report.json"), v.Quality)
	}
	denied(t, exitFailed, "candidate.sha256: is of another file", "catalog", "record", in("f32.gguf"), "--store", store, "--model", "stories", "--variant", "other",
		"--source", "hf://karpathy/tinyllamas", "--report", in("q8_0-report.json"))
	if out := must(t, "catalog", "lint", "-f", file, "--store", store); out != "warning: stories: has no chat template\n" {
		t.Errorf("got %s", out)
	}

	// A release that must go.
	must(t, "catalog", "publish", "stories", ids["F32"], "--store", store, "--notes", "whole")
	must(t, "catalog", "promote", "stories", "2", "--store", store)
	before := in("before")
	must(t, "catalog", "build", "-f", file, "--store", store, "-o", before)
	if out := must(t, "catalog", "withdraw", "stories", "2", "--why", "too large", "--store", store); !strings.Contains(out, "release 1 takes over") {
		t.Errorf("got %s", out)
	}
	must(t, "catalog", "build", "-f", file, "--store", store)
	if out := must(t, "catalog", "diff", before, store); !strings.Contains(out, `releases[2].state: "active" -> "withdrawn"`) {
		t.Errorf("got %s", out)
	}
	if out := must(t, "catalog", "log", "--store", store); !strings.Contains(out, "withdraw stories stable/2: too large") || strings.Count(out, "\n") != 6 {
		t.Errorf("got %s", out)
	}
	must(t, "catalog", "log", "--store", store, "--verify")
	must(t, "catalog", "gc", "--store", store)
	must(t, "catalog", "sign", "--store", store, "--trust", policy)
	must(t, "catalog", "verify", store, "--root", root, "--state", in("state"))

	// What does not hold.
	denied(t, exitUsage, "--why is missing", "catalog", "withdraw", "stories", "1", "--store", store)
	denied(t, exitUsage, "want its number", "catalog", "promote", "stories", "one", "--store", store)
	denied(t, exitFailed, "has no release 9", "catalog", "promote", "stories", "9", "--store", store)
	denied(t, exitFailed, "no such model", "catalog", "show", store, "other")
	denied(t, exitFailed, `variant "Q4_K_M": `, "catalog", "publish", "stories", "Q4_K_M", "--store", store)
	denied(t, exitUsage, "-f: ", "catalog", "build", "--store", store)
	denied(t, exitUsage, "--store: ", "catalog", "build", "-f", file)
	denied(t, exitFailed, "no such file", "catalog", "show", in("nowhere"))
	denied(t, exitUsage, "want a plain name", "catalog", "keys", "../x")
	write("bad.toml", strings.Replace(curationTOML, "aliases", "alias", 1))
	denied(t, exitFailed, `bad.toml: line 4: unknown key "model.alias"; did you mean "aliases"?`, "catalog", "build", "-f", in("bad.toml"), "--store", store)
	write("bad.toml", strings.Replace(curationTOML, "MIT", "Mitt", 1))
	denied(t, exitGate, "lint: 1 errors", "catalog", "lint", "-f", in("bad.toml"))
	gguf := filepath.Join(store, "models", "stories", ids["F32"], "f32.gguf")
	data, err := os.ReadFile(gguf)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(gguf, data, 0o644); err != nil {
		t.Fatal(err)
	}
	denied(t, exitGate, "has digest", "catalog", "verify", store, "--files", "--root", root)
	// The store is set back to before: the folder of states remembers.
	timestamp := filepath.Join(store, "metadata", "timestamp.json")
	if data, err = os.ReadFile(timestamp); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(timestamp, []byte(strings.Replace(string(data), `"version":2`, `"version":1`, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	denied(t, exitGate, "not to be trusted", "catalog", "verify", store, "--root", root, "--state", in("state"))
	server.Close()
	denied(t, exitUnavailable, "unavailable", "catalog", "verify", server.URL, "--root", root)
}

func TestCatalogSchema(t *testing.T) {
	for _, name := range []string{"catalog", "curation", "index", "log", "record", "releases"} {
		want, err := os.ReadFile("../../docs/schema/" + name + ".schema.json")
		if err != nil {
			t.Fatal(err)
		}
		if got := must(t, "catalog", "schema", name); got != string(want) {
			t.Errorf("schema %s is not the one in docs", name)
		}
	}
	denied(t, exitUsage, "want catalog|curation|index", "catalog", "schema", "other")
}

// TestCatalogAdd drafts entries from a repository with a hostile card.
func TestCatalogAdd(t *testing.T) {
	dir := t.TempDir()
	card := "---\nlicense: mit\nlanguage: en\npipeline_tag: text-generation\n---\n# M\n\nA model <script>alert(1)</script> that tells stories of few words.\n"
	for name, text := range map[string]string{"README.md": card, "config.json": `{"max_position_embeddings": 512}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	onHub(t, dir)
	out := must(t, "catalog", "add", "hf://org/m")
	for _, want := range []string{"slug = 'm'", "spdx = 'MIT'", "context_window = 512", "description = 'A model that tells stories of few words.'"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	file := filepath.Join(t.TempDir(), "catalog.toml")
	must(t, "catalog", "add", "hf://org/m", "-f", file)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	denied(t, exitFailed, "nothing was added: catalog.toml.new.toml: model m is there twice", "catalog", "add", "hf://org/m", "-f", file)
	after, err := os.ReadFile(file)
	if err != nil || string(after) != string(before) {
		t.Errorf("the file has changed: %v", err)
	}
	denied(t, exitUsage, "want a repository", "catalog", "add", dir)
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "README.md"), []byte("---\nlicense: [\n---\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	onHub(t, broken)
	denied(t, exitFailed, "README.md: the YAML in front: ", "catalog", "add", "hf://org/m")
}
