package site

import (
	"bytes"
	"context"
	"encoding/json"
	"html"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/catalogtest"
)

// chromium runs a headless Chromium and returns what it prints and logs.
func chromium(t *testing.T, address string, flags ...string) (out, log string) {
	t.Helper()
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			program = found
			break
		}
	}
	if program == "" {
		t.Skip("no chromium")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	args := append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--user-data-dir=" + t.TempDir(), "--enable-logging=stderr", "--hide-scrollbars",
	}, flags...)
	cmd := exec.CommandContext(ctx, program, append(args, address)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, stderr.String())
	}
	return stdout.String(), stderr.String()
}

var consoleLine = regexp.MustCompile(`(?i)CONSOLE.*`)

// complaints are what pages wrote to the console: breaches of their policy and
// errors of their script among them.
func complaints(t *testing.T, log string) {
	t.Helper()
	for _, line := range consoleLine.FindAllString(log, -1) {
		t.Errorf("the browser says %s", line)
	}
}

// TestLargeBrowser drives the pages in Chromium (testdata/harness.html):
// search, filters, dialog, keys, calculator, theme, labels, contrast and
// widths. With MODELPIPE_SHOTS set to a folder it leaves pictures there.
func TestLargeBrowser(t *testing.T) {
	if os.Getenv("MODELPIPE_LARGE") == "" {
		t.Skip("set MODELPIPE_LARGE=1: needs Chromium")
	}
	small, _ := write(t, append([]catalog.Model{hostileModel(t)}, catalogtest.Example(t)...), Options{Title: "Edge models"})
	large := filepath.Join(t.TempDir(), "large")
	if _, err := Write(context.Background(), large, "stable", many(t, inlineModels+1), Options{}); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/small/", http.StripPrefix("/small/", http.FileServer(http.Dir(small))))
	mux.Handle("/large/", http.StripPrefix("/large/", http.FileServer(http.Dir(large))))
	mux.HandleFunc("/harness.html", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "testdata/harness.html") })
	mux.HandleFunc("/favicon.ico", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	server := httptest.NewServer(mux)
	defer server.Close()

	out, log := chromium(t, server.URL+"/harness.html", "--virtual-time-budget=60000", "--dump-dom")
	complaints(t, log)
	_, rest, _ := strings.Cut(out, `<pre id="result">`)
	text, _, _ := strings.Cut(rest, "</pre>")
	var found struct {
		Failures []string
		Done     bool
	}
	if err := json.Unmarshal([]byte(html.UnescapeString(text)), &found); err != nil || !found.Done {
		t.Fatalf("%v: %s", err, text)
	}
	for _, f := range found.Failures {
		t.Error(f)
	}
	t.Log(html.UnescapeString(text))

	// From a disk.
	out, log = chromium(t, "file://"+filepath.ToSlash(filepath.Join(small, "index.html"))+"?q=mistral", "--virtual-time-budget=3000", "--dump-dom")
	complaints(t, log)
	if !strings.Contains(out, "1 of 4 models") {
		t.Error("a site on a disk cannot be searched")
	}

	shots := os.Getenv("MODELPIPE_SHOTS")
	if shots == "" {
		return
	}
	dark := "--blink-settings=preferredColorScheme=0"
	for name, shot := range map[string][]string{
		"list":        {"/small/index.html", "--window-size=1280,900"},
		"list-large":  {"/large/index.html?q=qwen3", "--window-size=1280,900"},
		"list-phone":  {"/small/index.html", "--window-size=390,1700"},
		"model":       {"/small/models/qwen3-0.6b.html", "--window-size=1280,3900"},
		"model-phone": {"/small/models/qwen3-0.6b.html", "--window-size=390,5200"},
		"model-dark":  {"/small/models/mistral-small-24b.html?requests=200000&cached=500", "--window-size=1280,2600", dark},
		"list-dark":   {"/small/index.html", "--window-size=1280,900", dark},
		"dialog":      {"/small/models/qwen3-0.6b.html#deploy-openai", "--window-size=1280,900"},
		"dialog-dark": {"/small/models/mistral-small-24b.html#deploy-llamacpp", "--window-size=390,844", dark},
		"embeddings":  {"/small/models/all-minilm-l6-v2.html", "--window-size=1280,1500"},
		"hostile":     {"/small/models/angry.html", "--window-size=1280,1500"},
	} {
		chromium(t, server.URL+shot[0], append([]string{"--virtual-time-budget=3000", "--screenshot=" + filepath.Join(shots, name+".png")}, shot[1:]...)...)
	}
}
