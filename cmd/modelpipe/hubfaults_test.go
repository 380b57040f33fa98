package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/hub/hubtest"
)

// onHub serves dir as org/m and points the environment at it.
func onHub(t *testing.T, dir string) *hubtest.Server {
	t.Helper()
	server := hubtest.NewServer(t)
	server.AddRepo(hubtest.Repo{ID: "org/m", FS: os.DirFS(dir)})
	server.Environ(t)
	return server
}

// TestHubFaultsThatAreSurvived ends in the same file whatever goes wrong on
// the way.
func TestHubFaultsThatAreSurvived(t *testing.T) {
	dir := makeModel(t, 2)
	server := onHub(t, dir)
	_, want := converted(t, "hf://org/m")
	for name, fault := range map[string]hubtest.Fault{
		"dropped connections": {Stage: hubtest.CDN, DropAfter: 3 << 20},
		"short ranges":        {Stage: hubtest.CDN, ShortRange: 2 << 20},
		"429":                 {Stage: hubtest.Resolve, Status: http.StatusTooManyRequests, RetryAfter: "1", Skip: 2, Times: 1},
		"503 burst":           {Stage: hubtest.CDN, Status: http.StatusServiceUnavailable, Skip: 1, Times: 2},
		"500 listing":         {Stage: hubtest.API, Status: http.StatusInternalServerError, Times: 1},
		"URL refused once":    {Stage: hubtest.CDN, Status: http.StatusForbidden, Skip: 1, Times: 1},
		"range ignored":       {Stage: hubtest.CDN, IgnoreRange: true},
	} {
		t.Run(name, func(t *testing.T) {
			struck := server.Struck()
			defer server.Inject(fault)()
			if _, got := converted(t, "hf://org/m"); !bytes.Equal(got, want) {
				t.Error("another file")
			}
			if server.Struck() == struck {
				t.Error("the fault never struck")
			}
		})
	}
	t.Run("URLs expire", func(t *testing.T) {
		server.SetBandwidth(20e6)
		server.SetURLTTL(200 * time.Millisecond)
		defer server.SetBandwidth(0)
		defer server.SetURLTTL(time.Hour)
		if _, got := converted(t, "hf://org/m"); !bytes.Equal(got, want) {
			t.Error("another file")
		}
	})
}

// TestHubRefusals has what the Hub does not give, with what the command says,
// the exit code that tells a scheduler whether to try again, and nothing left.
func TestHubRefusals(t *testing.T) {
	const token = "hf_secretsecretsecret"
	server := onHub(t, newFolder(t).write(t))
	model := os.DirFS(newFolder(t).write(t))
	server.AddRepo(hubtest.Repo{ID: "org/gated", FS: model, Gated: true, Tokens: []string{token}})
	server.AddRepo(hubtest.Repo{ID: "org/private", FS: model, Private: true, Tokens: []string{token}})
	server.AddRepo(hubtest.Repo{ID: "org/none", FS: os.DirFS(t.TempDir())})
	server.AddToken("hf_stranger")
	for _, c := range []struct {
		name, arg string
		env       map[string]string
		fault     hubtest.Fault
		waits     bool // before it gives up
		code      int
		want      []string
	}{
		{name: "gated", arg: "hf://org/gated", code: exitFailed, want: []string{"accept the licence at ", "set HF_TOKEN"}},
		{name: "not on the list", arg: "hf://org/gated", env: map[string]string{"HF_TOKEN": "hf_stranger"}, code: exitFailed, want: []string{"ask for access at "}},
		{name: "private", arg: "hf://org/private", code: exitFailed, want: []string{"org/private", "set HF_TOKEN"}},
		{name: "missing", arg: "hf://org/nothing", code: exitFailed, want: []string{"org/nothing", "check the name"}},
		{name: "wrong token", arg: "hf://org/m", env: map[string]string{"HF_TOKEN": "hf_wrong"}, code: exitFailed, want: []string{"the token (HF_TOKEN) was not accepted"}},
		{name: "missing revision", arg: "hf://org/m@v9", code: exitFailed, want: []string{"v9"}},
		{name: "no model", arg: "hf://org/none", code: exitFailed, want: []string{"config.json"}},
		{name: "bad reference", arg: "hf://org//m", code: exitUsage, want: []string{"want org/name"}},
		{name: "offline", arg: "hf://org/m", env: map[string]string{"HF_HUB_OFFLINE": "1"}, code: exitFailed, want: []string{"org/m", "HF_HUB_OFFLINE"}},
		{name: "nobody listens", arg: "hf://org/m", env: map[string]string{"HF_ENDPOINT": "http://127.0.0.1:1"}, waits: true, code: exitUnavailable, want: []string{"127.0.0.1:1"}},
		{name: "rate limited for long", arg: "hf://org/m", fault: hubtest.Fault{Stage: hubtest.API, Status: http.StatusTooManyRequests, RetryAfter: "7200"}, code: exitUnavailable, want: []string{"2h0m0s"}},
		{name: "another commit", arg: "hf://org/m", fault: hubtest.Fault{Stage: hubtest.Resolve, WrongCommit: strings.Repeat("0", 40)}, code: exitFailed, want: []string{"served from commit 000"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.waits && testing.Short() {
				t.Skip("takes seconds")
			}
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			if c.fault.Stage != hubtest.Any {
				defer server.Inject(c.fault)()
			}
			refused(t, c.code, c.want, "convert", c.arg)
			if !c.waits {
				refused(t, c.code, c.want, "plan", c.arg)
			}
		})
	}
	t.Setenv("HF_TOKEN", token)
	for _, repo := range []string{"hf://org/gated", "hf://org/private"} {
		if code, stdout, stderr := try(t, "convert", repo, "-o", filepath.Join(t.TempDir(), "o.gguf")); code != exitDone || strings.Contains(stdout+stderr, token) {
			t.Errorf("%s: exit %d, %s%s", repo, code, stdout, stderr)
		}
	}
}

// TestPlanReadsHeadersOnly plans a model on the Hub from a small part of it,
// and says how much that was.
func TestPlanReadsHeadersOnly(t *testing.T) {
	server := onHub(t, makeModel(t, 4))
	code, stdout, stderr := try(t, "plan", "hf://org/m", "--json")
	var p planJSON
	if err := json.Unmarshal([]byte(stdout), &p); err != nil || code != exitDone {
		t.Fatalf("exit %d, %v, %s", code, err, stderr)
	}
	if sent := server.BytesSent(hubtest.Any); p.BytesRead == 0 || p.BytesRead > 2<<20 || sent > 2<<20 || p.Size < 30<<20 {
		t.Errorf("%d bytes were sent, %d reported, for a plan of %d", sent, p.BytesRead, p.Size)
	}
}

// TestHubKilled goes on with a conversion from the Hub that was killed, without
// fetching again what it has.
func TestHubKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	server := onHub(t, makeModel(t, 4))
	_, want := converted(t, "hf://org/m", "--type", "q8_0")
	server.SetBandwidth(60e6)
	out := filepath.Join(t.TempDir(), "o.gguf")
	for kill := range 3 {
		c := exec.Command(os.Args[0], "convert", "hf://org/m", "--type", "q8_0", "-o", out, "--resume")
		c.Env = append(os.Environ(), asCommand+"=1")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); recorded(out) < 5*(kill+1) && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if c.Wait() == nil {
			t.Fatal("it was not killed")
		}
	}
	if l := listDir(t, filepath.Dir(out)); l != "o.gguf.partial o.gguf.partial.journal" {
		t.Fatalf("left %s", l)
	}
	code, stdout, stderr := try(t, "convert", "hf://org/m", "--type", "q8_0", "-o", out, "--resume", "--json")
	var v convertJSON
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != exitDone {
		t.Fatalf("exit %d, %v, %s", code, err, stderr)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
		t.Errorf("another file (%v)", err)
	}
	if whole := 2 * v.Parameters; v.BytesRead >= whole {
		t.Errorf("%d bytes were read of %d", v.BytesRead, whole)
	}
}
