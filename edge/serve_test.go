package edge

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
)

func get(t testing.TB, address, ranges string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// TestHandler asks a node for its files, its health and its metrics.
func TestHandler(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	data := modelFile("one", 1, 3, 0)
	s.offer("alpha", data)
	healthy := true
	o := s.options(t.TempDir())
	address := handlerServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !healthy {
			w.WriteHeader(500)
		}
	}))
	o.Health = Health{URL: address, Timeout: 200 * time.Millisecond}
	n := node(t, o)
	web := handlerServer(t, n.Handler())
	if res, body := get(t, web+"/healthz", ""); res.StatusCode != 503 || !strings.Contains(body, `"release":0`) {
		t.Errorf("before the first round: %s, %s", res.Status, body)
	}
	healthy = false
	fails(t, n, ErrUnhealthy, "there is no release to go back to")
	if res, body := get(t, web+"/healthz", ""); res.StatusCode != 503 || !strings.Contains(body, "the health check failed") {
		t.Errorf("not confirmed: %s, %s", res.Status, body)
	}
	healthy = true
	synced(t, n)
	res, body := get(t, web+"/healthz", "")
	var shown status
	if err := json.Unmarshal([]byte(body), &shown); err != nil || res.StatusCode != 200 || shown.Release != 1 || shown.Confirmed != 1 || shown.Polls != 2 || shown.Failures != 1 || shown.Error != "" {
		t.Errorf("%s, %s, %v", res.Status, body, err)
	}
	if res, body := get(t, web+"/blobs/sha256/"+sha(data), ""); res.StatusCode != 200 || body != string(data) {
		t.Errorf("%s, %d bytes", res.Status, len(body))
	}
	if res, body := get(t, web+"/blobs/sha256/"+sha(data), "bytes=10-19"); res.StatusCode != 206 || body != string(data[10:20]) {
		t.Errorf("%s, %q", res.Status, body)
	}
	for _, name := range []string{sha([]byte("other")), sha(data) + ".partial", "..%2f..%2fstate.json", "../../state.json", ""} {
		if res, _ := get(t, web+"/blobs/sha256/"+name, ""); res.StatusCode != 404 {
			t.Errorf("%s: %s", name, res.Status)
		}
	}
	res, body = get(t, web+"/metrics", "")
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Errorf("content type %s", res.Header.Get("Content-Type"))
	}
	for _, line := range []string{
		`modelpipe_sync_release{channel="stable"} 1`, `modelpipe_sync_polls_total{channel="stable"} 2`, `modelpipe_sync_poll_failures_total{channel="stable"} 1`,
		fmt.Sprintf(`modelpipe_sync_fetched_bytes_total{channel="stable"} %d`, len(data)), fmt.Sprintf(`modelpipe_sync_served_bytes_total{channel="stable"} %d`, len(data)+10),
		fmt.Sprintf(`modelpipe_sync_metadata_expires_timestamp_seconds{channel="stable"} %d`, day.Add(48*time.Hour+time.Second).Unix()),
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("want %q in\n%s", line, body)
		}
	}
	for i, line := range strings.Split(strings.TrimSuffix(body, "\n"), "\n") {
		if want := []string{"# HELP modelpipe_sync_", "# TYPE modelpipe_sync_", "modelpipe_sync_"}[i%3]; !strings.HasPrefix(line, want) {
			t.Errorf("line %d is %q, want %s...", i, line, want)
		}
	}
}

// TestSelection selects models and variants.
func TestSelection(t *testing.T) {
	t.Parallel()
	m := &catalog.Model{
		Slug: "qwen3-0.6b", Aliases: []string{"small"}, Vendor: "qwen", Task: catalog.TextGeneration, Languages: []string{"en", "de"}, Tags: []string{"chat"},
		License: catalog.License{SPDX: "Apache-2.0"}, Serving: catalog.Serving{ContextTokens: 1000},
		Variants: []catalog.Variant{
			{ID: "q4-1", Name: "Q4_K_M", Preset: "Q4_K_M", Size: 400, Memory: catalog.Memory{Weights: 400, PerToken: 1}},
			{ID: "q8-1", Name: "Q8_0", Preset: "Q8_0", Size: 800, Memory: catalog.Memory{Weights: 800, PerToken: 1}},
		},
	}
	r := &catalog.Release{Version: 1, Variants: []string{"q8-1", "q4-1"}}
	for _, c := range []struct {
		terms  string
		size   int64
		memory int64
		want   string // IDs of the variants, "" for a model that is not selected, or what is wrong
	}{
		{"", 0, 0, "q8-1"},
		{"task=text-generation", 0, 0, "q8-1"},
		{"task=text-embeddings", 0, 0, ""},
		{"task=text-embeddings task=text-*", 0, 0, "q8-1"},
		{"model=QWEN3* language=de", 0, 0, "q8-1"},
		{"model=small tag=chat license=apache-2.0 vendor=qwen", 0, 0, "q8-1"},
		{"model=small tag=other", 0, 0, ""},
		{"variant=Q4_K_M", 0, 0, "q4-1"},
		{"variant=q4_k_m variant=Q8_0", 0, 0, "q8-1 q4-1"},
		{"variant=Q2_K", 0, 0, "has none of the variants Q2_K"},
		{"", 500, 0, "q4-1"},
		{"", 0, 1500, "q4-1"},
		{"", 100, 0, "variant Q4_K_M has 400 bytes, more than the 100 that are allowed"},
		{"", 0, 1000, "takes about 1400 bytes of memory, more than the 1000"},
	} {
		s, err := ParseSelection(strings.Fields(c.terms))
		if err != nil {
			t.Fatal(err)
		}
		s.MaxSize, s.MaxMemory = c.size, c.memory
		got := ""
		if s.takes(m) {
			variants, err := s.variants(m, r)
			if err != nil {
				got = err.Error()
			}
			for _, v := range variants {
				got = strings.TrimSpace(got + " " + v.ID)
			}
		}
		if got != c.want && (c.want == "" || !strings.Contains(got, c.want)) {
			t.Errorf("%s, %d, %d: got %q, want %q", c.terms, c.size, c.memory, got, c.want)
		}
	}
	for text, want := range map[string]string{
		"task":             "want KEY=VALUE",
		"task=":            "want KEY=VALUE",
		"taks=a":           `there is no "taks"; did you mean task?`,
		"model=[":          "syntax error in pattern",
		"\x00\xff=\u202e1": "there is no",
	} {
		if _, err := ParseSelection([]string{text}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	for _, text := range []string{"", "a", "a=", "=1", "a=0", "a=-1", "a=x"} {
		if p, err := ParsePin(text); err == nil {
			t.Errorf("%q: got %v", text, p)
		}
	}
}

// TestSelectNothing keeps what is served where a selection suddenly takes
// nothing, and says so.
func TestSelectNothing(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha", "beta")
	data := modelFile("one", 1, 3, 0)
	s.offer("alpha", data)
	s.offer("beta", data)
	o := s.options(t.TempDir())
	n := node(t, o)
	synced(t, n)
	n.Close()
	var err error
	if o.Select, err = ParseSelection([]string{"model=alpha"}); err != nil {
		t.Fatal(err)
	}
	n = node(t, o)
	changes, err := n.Plan(t.Context())
	if err != nil || len(changes) != 2 || changes[0].Action != "keep" || changes[1].Action != "remove" || changes[1].Model != "beta" {
		t.Errorf("got %+v, %v", changes, err)
	}
	synced(t, n)
	s.serves(o.Root, "alpha", data)
	s.serves(o.Root, "beta", nil)
	n.Close()
	o.Select, _ = ParseSelection([]string{"task=text-generatoin"})
	fails(t, node(t, o), ErrNothing, "the selection takes no model of the channel stable")
	s.serves(o.Root, "alpha", data)
}

// TestPause holds the pauses of a daemon to their bounds.
func TestPause(t *testing.T) {
	for _, c := range []struct {
		failed   int
		random   float64
		min, max time.Duration
	}{
		{0, 0, 80 * time.Second, 80 * time.Second}, {0, 0.5, 100 * time.Second, 100 * time.Second}, {0, 0.999, 119 * time.Second, 120 * time.Second},
		{1, 0.5, 10 * time.Second, 10 * time.Second}, {2, 0.5, 20 * time.Second, 20 * time.Second}, {5, 0.5, 100 * time.Second, 100 * time.Second}, {1000, 0.5, 100 * time.Second, 100 * time.Second},
	} {
		if got := pause(100*time.Second, c.failed, c.random); got < c.min || got > c.max {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

// TestRun polls until it is told to stop, and takes up what is new.
func TestRun(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	one, two := modelFile("one", 1, 3, 0), modelFile("two", 2, 3, 0)
	s.offer("alpha", one)
	o := s.options(t.TempDir())
	n := node(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rounds := 0
	n.Run(ctx, 5*time.Millisecond, func(r *Result, err error) {
		if err != nil {
			t.Error(err)
		}
		switch rounds++; {
		case rounds == 2:
			s.serves(o.Root, "alpha", one)
			s.offer("alpha", two)
		case rounds > 2 && r.Release == 2:
			cancel()
		}
	})
	s.serves(o.Root, "alpha", two)
	if rounds != 3 {
		t.Errorf("%d rounds", rounds)
	}
}
