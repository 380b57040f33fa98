package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/publish/publishtest"
)

// TestRefresh runs the command through each of its exit codes, and what follows
// it in a deployment.
func TestRefresh(t *testing.T) {
	c := newCuration(t, 2)
	store, work := c.path("store"), c.path("work")
	refresh := func(more ...string) []string {
		return append([]string{
			"refresh", "-f", c.path("catalog.toml"), "--store", store, "--work", work, "--trust", c.path("trust.toml"),
			"--chunks", "1", "--ctx", "64", "--canaries", c.canaries(t), "--export", c.path("exports"), "--site", c.path("site"),
			"--summary", c.path("summary.json"), "--metrics", c.path("metrics.prom"),
		}, more...)
	}
	out := must(t, refresh("--dry-run")...)
	if lines := strings.Split(out, "\n"); !strings.HasPrefix(lines[0], "MODEL    VARIANT  STEP     READ") || !strings.HasPrefix(lines[1], "tiny-00  Q8_0     make ") || !strings.Contains(lines[1], "is new") {
		t.Errorf("got\n%s", out)
	}
	for _, name := range []string{store, work, c.path("site"), c.path("metrics.prom")} {
		if _, err := os.Stat(name); err == nil {
			t.Errorf("--dry-run has written %s", name)
		}
	}
	out = must(t, refresh("--only", "tiny-01")...)
	if !strings.HasPrefix(out, "tiny-01: released, release 1 of stable\n1 models, 0 of them as they were; 3 variants made, 0 refused, 0 failed in ") {
		t.Errorf("got %s", out)
	}
	var s pipeline.Summary
	if err := json.Unmarshal([]byte(must(t, refresh("--json")...)), &s); err != nil || s.Outcome != pipeline.OutcomeDone || s.Made != 3 || len(s.Models) != 2 || s.Store != store {
		t.Errorf("got %+v, %v", s, err)
	}
	var saved pipeline.Summary
	if err := json.Unmarshal(read(t, c.path("summary.json")), &saved); err != nil || saved.Made != 3 {
		t.Errorf("got %+v, %v", saved, err)
	}
	if text := string(read(t, c.path("metrics.prom"))); !strings.Contains(text, "modelpipe_refresh_outcome{store=\""+store+"\",outcome=\"done\"} 1\n") {
		t.Errorf("got %s", text)
	}
	for _, name := range []string{"exports/openai/models.json", "site/index.html", "exports/llama-server/models.ini"} {
		if !bytes.Contains(read(t, c.path(name)), []byte("tiny-01")) {
			t.Errorf("%s: has not both models", name)
		}
	}
	must(t, "catalog", "verify", store)
	must(t, "sync", "--catalog", store, "--root", c.path("node"))
	if _, err := os.Stat(c.path("node/current/tiny-00/Q8_0/tiny-00-Q8_0.gguf")); err != nil {
		t.Error(err)
	}
	if out = must(t, refresh()...); !strings.HasPrefix(out, "2 models, 2 of them as they were; 0 variants made") {
		t.Errorf("got %s", out)
	}

	// 4: somebody else works on the store, or it does not answer.
	folder, err := publish.OpenStore(store)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := pipeline.AcquireLease(t.Context(), pipeline.LeaseOptions{Store: folder, Holder: "builder@elsewhere, process 7", Work: "elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	denied(t, exitUnavailable, store+": is being refreshed by builder@elsewhere, process 7, whose lease holds until 20", refresh()...)
	if err := other.Release(context.Background()); err != nil {
		t.Fatal(err)
	}
	fake := publishtest.NewS3(t)
	for k, v := range map[string]string{"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"} {
		t.Setenv(k, v)
	}
	denied(t, exitUnavailable, "unavailable", refresh("--store", "s3://bucket/edge")...)
	t.Setenv("AWS_ENDPOINT_URL", fake.URL)
	if out = must(t, refresh("--store", "s3://bucket/edge")...); !strings.Contains(out, "6 variants made") {
		t.Errorf("got %s", out)
	}

	// 3: only gates say no.
	text := string(read(t, c.path("catalog.toml")))
	write(t, c.path("catalog.toml"), []byte(strings.Replace(text, `name = "Q8_0"`, "name = \"Q8_0\"\nmax_kld = 0.0", 1)))
	denied(t, exitGate, "refused: tiny-00: Q8_0: gates say no: kld.mean ", refresh()...)
	if text := string(read(t, c.path("metrics.prom"))); !strings.Contains(text, `,model="tiny-00"} 0`) || !strings.Contains(text, `,outcome="refused"} 1`) {
		t.Errorf("got %s", text)
	}
	// 1: a model fails, whatever gates say of others.
	if err := os.Truncate(c.path("sources/tiny-01/model.safetensors"), 100); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := try(t, refresh()...)
	if code != exitFailed || !strings.Contains(stderr, "failed: tiny-01: Q8_0: ") || !strings.Contains(out, "tiny-00: refused: ") {
		t.Errorf("exit %d, %s%s", code, out, stderr)
	}
	must(t, "catalog", "verify", store)

	// 2: the file or the flags.
	denied(t, exitUsage, "-f: the path of the curation file is missing", "refresh", "--store", store)
	denied(t, exitUsage, "--store: want a folder or s3://bucket/prefix", "refresh", "-f", c.path("catalog.toml"))
	denied(t, exitUsage, "--jobs 0: want at least 1", refresh("--jobs", "0")...)
	denied(t, exitUsage, "--disk many: want a size", refresh("--disk", "many")...)
	denied(t, exitUsage, "--lease 1ms: want at least a second", refresh("--lease", "1ms")...)
	denied(t, exitUsage, "keeps no objects that change", refresh("--store", "oci://registry.example/x:y")...)
	denied(t, exitUsage, "none.toml", refresh("--trust", c.path("none.toml"))...)
	write(t, c.path("catalog.toml"), []byte("[[model]]\nsluk = \"x\"\n"))
	denied(t, exitUsage, `catalog.toml: line 2: unknown key "model.sluk"`, refresh()...)
	if text := string(read(t, c.path("metrics.prom"))); !strings.Contains(text, `,outcome="usage"} 1`) {
		t.Errorf("got %s", text)
	}
}
