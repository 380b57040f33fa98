package site

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/catalogtest"
)

// TestLargeSnippets runs the snippets for OpenAI's API with curl and with
// OpenAI's own libraries against a server of this test, and builds the Worker
// with Wrangler.
func TestLargeSnippets(t *testing.T) {
	if os.Getenv("MODELPIPE_LARGE") == "" {
		t.Skip("set MODELPIPE_LARGE=1: installs libraries and Wrangler")
	}
	home, err := filepath.Abs("../../out/large/site")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(home, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(dir, name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "API_KEY=secret", "CI=1", "WRANGLER_SEND_METRICS=false", "NO_PROXY=127.0.0.1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	python := filepath.Join(home, "venv/bin/python")
	if _, err := os.Stat(python); err != nil {
		run(home, "python3", "-m", "venv", "venv")
	}
	run(home, python, "-m", "pip", "-q", "install", "openai==3.57.0")
	run(home, "npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", home, "openai@7.59.0", "wrangler@4.86.0")

	var asked []map[string]any
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		var body map[string]any
		if err := json.Unmarshal(data, &body); err != nil || r.Header.Get("Authorization") != "Bearer secret" {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		asked = append(asked, body)
		switch r.URL.Path {
		case "/v1/chat/completions":
			w.Header().Set("Content-Type", "text/event-stream")
			for _, word := range []string{"because ", "it ", "scatters"} {
				fmt.Fprintf(w, "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}]}\n\n", word)
			}
			io.WriteString(w, "data: [DONE]\n\n")
		case "/v1/embeddings":
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"object":"list","model":"m","data":[{"object":"embedding","index":0,"embedding":[0.5,0.25,0.125,1]},{"object":"embedding","index":1,"embedding":[1,0,0,0]}],"usage":{"prompt_tokens":1,"total_tokens":1}}`)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()

	angry := hostileModel(t)
	for _, m := range []catalog.Model{catalogtest.Example(t)[2], angry, catalogtest.Example(t)[0]} {
		p, err := newPage("stable", &m, Options{BaseURL: server.URL + "/v1"})
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range p.Targets {
			if target.ID == "worker" {
				buildWorker(t, run, home, target)
			}
			if target.ID != "openai" {
				continue
			}
			asked = nil
			for _, b := range target.Blocks {
				var out string
				switch b.Language {
				case "sh":
					out = run(home, "sh", "-c", b.Text)
				case "python":
					out = run(home, python, "-c", b.Text)
				case "js":
					name := filepath.Join(home, "snippet.mjs")
					if err := os.WriteFile(name, []byte(b.Text), 0o644); err != nil {
						t.Fatal(err)
					}
					out = run(home, "node", name)
				}
				want := "because it scatters"
				if m.Embedding != nil {
					want = "4"
				}
				if b.Language == "sh" {
					want = "data"
				}
				if !strings.Contains(out, want) {
					t.Errorf("%s, %s prints %q, want %q", m.Slug, b.Title, out, want)
				}
			}
			if len(asked) != 3 {
				t.Fatalf("%s: %d requests", m.Slug, len(asked))
			}
			for i, body := range asked {
				delete(body, "encoding_format") // what the libraries add
				if !reflect.DeepEqual(body, asked[0]) {
					t.Errorf("%s: %s asks %v, %s asks %v", m.Slug, target.Blocks[i].Title, body, target.Blocks[0].Title, asked[0])
				}
			}
		}
	}
}

// buildWorker builds the project of the Workers AI snippet.
func buildWorker(t *testing.T, run func(dir, name string, args ...string) string, home string, target *Target) {
	t.Helper()
	dir := filepath.Join(home, "worker")
	for _, b := range target.Blocks {
		if b.Language == "sh" {
			continue
		}
		name := filepath.Join(dir, filepath.FromSlash(b.Title))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(b.Text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := run(dir, filepath.Join(home, "node_modules/.bin/wrangler"), "deploy", "--dry-run", "--outdir", filepath.Join(dir, "dist"))
	if !strings.Contains(out, "env.AI") {
		t.Errorf("wrangler found no binding AI:\n%s", out)
	}
}
