package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/edge"
)

// signedStore makes a store with a release of a model, by the commands, and
// returns its folder, its trusted root, and what releases another file of the
// model.
func signedStore(t *testing.T) (store, root string, offer func(name string, args ...string)) {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{"catalog.toml": curationTOML, "trust.toml": trustTOML} {
		if err := os.WriteFile(in(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "catalog", "keys", "root1", "root2", "root3", "online", "release", "-o", dir)
	must(t, "convert", "../../testdata/stories260K", "--type", "q8_0", "-o", in("q8_0.gguf"))
	must(t, "convert", "../../testdata/stories260K", "--type", "f16", "-o", in("f16.gguf"))
	offer = func(name string, args ...string) {
		t.Helper()
		id := strings.TrimSpace(must(t, "catalog", "record", in(name+".gguf"), "--store", in("store"), "--model", "stories", "--variant", "Q8_0", "--source", "hf://karpathy/tinyllamas"))
		must(t, append([]string{"catalog", "publish", "stories", id, "--store", in("store")}, args...)...)
		must(t, "catalog", "build", "-f", in("catalog.toml"), "--store", in("store"))
		must(t, "catalog", "sign", "--store", in("store"), "--trust", in("trust.toml"))
	}
	offer("q8_0")
	return in("store"), filepath.Join(in("store"), "metadata", "1.root.json"), offer
}

func TestSyncCommand(t *testing.T) {
	store, root, _ := signedStore(t)
	node := filepath.Join(t.TempDir(), "node")
	served := filepath.Join(node, "current", "stories", "Q8_0", "q8_0.gguf")
	sync := func(more ...string) []string {
		return append([]string{"sync", "--catalog", store, "--root", node}, more...)
	}
	if out := must(t, sync("--dry-run")...); !strings.HasPrefix(out, "fetch  stories release 1, q8_0-") {
		t.Errorf("got %s", out)
	}
	if _, err := os.Lstat(served); err == nil {
		t.Error("--dry-run has fetched")
	}
	if out := must(t, sync()...); !strings.Contains(out, "release 1 is current: 1 variants") || !strings.Contains(out, "  stories Q8_0, release 1\n") {
		t.Errorf("got %s", out)
	}
	if _, err := os.Stat(served); err != nil {
		t.Error(err)
	}
	var r edge.Result
	if err := json.Unmarshal([]byte(must(t, sync("--json")...)), &r); err != nil || r.Changed || r.Release != 1 || r.Requests != 2 || r.Fetched != 0 {
		t.Errorf("got %+v, %v", r, err)
	}
	var plan []edge.Change
	if err := json.Unmarshal([]byte(must(t, sync("--dry-run", "--json")...)), &plan); err != nil || len(plan) != 1 || plan[0].Action != "keep" || plan[0].Bytes != 0 {
		t.Errorf("got %+v, %v", plan, err)
	}
	web := httptest.NewServer(http.FileServer(http.Dir(store)))
	defer web.Close()
	remote := filepath.Join(t.TempDir(), "node")
	denied(t, exitGate, "no root of keys is trusted yet", "sync", "--catalog", web.URL, "--root", remote)
	must(t, "sync", "--catalog", web.URL, "--root", remote, "--trust-root", root, "--select", "model=tiny", "--max-size", "1GB")
	denied(t, exitGate, "health command: exit status 7", "sync", "--catalog", web.URL, "--root", filepath.Join(t.TempDir(), "n"), "--trust-root", root, "--health-command", "exit 7")
	web.Close()
	denied(t, exitUnavailable, "unavailable", "sync", "--catalog", web.URL, "--root", remote)
	denied(t, exitFailed, "no such file", "sync", "--catalog", filepath.Join(store, "missing"), "--root", remote)
	denied(t, exitFailed, "takes no model", sync("--select", "model=other*")...)
	for _, c := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--select", "taks=x"}, "did you mean task?"},
		{[]string{"--pin", "stories"}, "want MODEL=RELEASE"},
		{[]string{"--max-size", "much"}, "want a size"},
		{[]string{"--evict", "all"}, "want never, unused or previous"},
		{[]string{"--slot", "red"}, "want blue or green"},
		{[]string{"--peer", "10.0.0.5"}, "want http://host:port"},
		{[]string{"--health-url", "localhost"}, "want http://host/..."},
		{[]string{"--serve", ":9100"}, "wants --daemon"},
		{[]string{"--daemon", "--interval", "1ms"}, "at least a second"},
		{[]string{"--daemon", "--dry-run"}, "without --daemon"},
		{[]string{"--parallel", "0"}, "want 1 to 64"},
		{[]string{"--stall-time", "0s"}, "more than nothing"},
	} {
		denied(t, exitUsage, c.want, sync(c.flags...)...)
	}
	denied(t, exitUsage, "--catalog and --root are missing", "sync")
}

// lockedBuffer is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestSyncDaemon follows a store, serves to a peer, keeps another daemon out,
// and ends well when it is told to.
func TestSyncDaemon(t *testing.T) {
	store, root, offer := signedStore(t)
	node := filepath.Join(t.TempDir(), "node")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, log lockedBuffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"sync", "--catalog", store, "--root", node, "--daemon", "--interval", "1s", "--serve", "127.0.0.1:0"}, &out, &log)
	}()
	wait := func(what string, done func() bool) {
		t.Helper()
		for range 1000 {
			if done() {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Fatalf("%s: %s\n%s", what, out.String(), log.String())
	}
	wait("the first release", func() bool { return strings.Contains(out.String(), "release 1 is current") })
	address := regexp.MustCompile(`address=(127\.0\.0\.1:\d+)`).FindStringSubmatch(log.String())
	if address == nil {
		t.Fatalf("no address in %s", log.String())
	}
	denied(t, exitUnavailable, "another process syncs this folder", "sync", "--catalog", store, "--root", node)
	metrics := func() string {
		res, err := http.Get("http://" + address[1] + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	wait("a second poll", func() bool { return strings.Contains(metrics(), `modelpipe_sync_polls_total{channel="stable"} 2`) })
	// A peer gets the file although the store has lost it.
	files, err := filepath.Glob(filepath.Join(store, "models", "stories", "*", "*.gguf"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if err := os.Rename(files[0], files[0]+".away"); err != nil {
		t.Fatal(err)
	}
	must(t, "sync", "--catalog", store, "--root", filepath.Join(t.TempDir(), "peer"), "--trust-root", root, "--peer", "http://"+address[1])
	if err := os.Rename(files[0]+".away", files[0]); err != nil {
		t.Fatal(err)
	}
	offer("f16")
	must(t, "catalog", "promote", "stories", "2", "--store", store)
	must(t, "catalog", "build", "-f", filepath.Join(filepath.Dir(store), "catalog.toml"), "--store", store)
	must(t, "catalog", "sign", "--store", store, "--trust", filepath.Join(filepath.Dir(store), "trust.toml"))
	wait("the second release", func() bool { return strings.Contains(out.String(), "release 2 is current") })
	cancel()
	if code := <-ended; code != exitDone {
		t.Errorf("exit %d: %s", code, log.String())
	}
}
