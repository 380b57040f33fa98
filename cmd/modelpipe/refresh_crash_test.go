package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/convert/converttest"
	"github.com/modelpipe/modelpipe/hub/hubtest"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/publish/publishtest"
)

// TestRefreshKilled kills a refresh at random moments and runs it again, until
// it ends: what is in the store then is what an undisturbed run puts there.
func TestRefreshKilled(t *testing.T) {
	c := newCuration(t, 4)
	c.testKilled(t, folderStore(t), folderStore(t), 5)
}

// TestRefreshKilledFit kills a refresh that measures what its types are chosen
// by.
func TestRefreshKilledFit(t *testing.T) {
	c := newCuration(t, 1)
	const auto = "\nmax_size = %q\ntype = \"fit\"\nimatrix = \"auto\"\n"
	text := string(read(t, c.path("catalog.toml")))
	text = strings.Replace(text, "name = \"F16\"\n", "name = \"small\""+fmt.Sprintf(auto, "120KB"), 1)
	text = strings.Replace(text, "name = \"F32\"\n", "name = \"large\""+fmt.Sprintf(auto, "150KB"), 1)
	write(t, c.path("catalog.toml"), []byte(text))
	write(t, c.path("text.txt"), []byte(strings.Repeat("Once upon a time there was a little girl. She liked to play. ", 100)))
	c.flags = []string{"--calibrate", c.path("text.txt"), "--device", "cpu"}
	c.testKilled(t, folderStore(t), folderStore(t), 4)
}

// TestRefreshKilledHub kills a refresh while it reads from the Hub.
func TestRefreshKilledHub(t *testing.T) {
	server := onHub(t, stories)
	c := &curationOf{dir: t.TempDir()}
	write(t, c.path("catalog.toml"), []byte(strings.Replace(fmt.Sprintf(modelTOML, "m"), "sources/m", "hf://org/m", 1)))
	store := folderStore(t)
	args := []string{"refresh", "-f", c.path("catalog.toml"), "--store", store.name, "--work", c.path("work"), "--chunks", "1", "--ctx", "64", "--canaries", c.canaries(t)}
	server.SetBandwidth(400e3)
	for range 3 {
		cmd, out := c.process(t, store, args)
		before := server.BytesSent(hubtest.CDN)
		for deadline := time.Now().Add(time.Minute); server.BytesSent(hubtest.CDN) < before+200_000; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("nothing is read: %s", out)
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
		if found, err := filepath.Glob(filepath.Join(store.name, "models/m/*/record.json")); err != nil || len(found) > 0 {
			t.Fatalf("it was done before it was killed: %v, %v", found, err)
		}
	}
	server.SetBandwidth(0)
	cmd, out := c.process(t, store, args)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"Q8_0", "F16", "F32"} {
		_, want := converted(t, "hf://org/m", "--type", name)
		files, err := filepath.Glob(filepath.Join(store.name, "models/m/*/m-"+name+".gguf"))
		if err != nil || len(files) != 1 || !bytes.Equal(read(t, files[0]), want) {
			t.Errorf("%s: %v, %v: is another file", name, files, err)
		}
	}
}

// TestLargeRefreshKilled does it with 40 models and 30 kills, in a folder.
func TestLargeRefreshKilled(t *testing.T) {
	if os.Getenv("MODELPIPE_LARGE") == "" {
		t.Skip("set MODELPIPE_LARGE=1: makes 240 variants")
	}
	c := newCuration(t, 40)
	c.testKilled(t, folderStore(t), folderStore(t), 30)
}

// TestLargeRefreshKilledS3 does it in a real S3 store.
func TestLargeRefreshKilledS3(t *testing.T) {
	buckets := t.TempDir()
	address := publishtest.StartGateway(t, publishtest.Servers(t, "../.."), buckets)
	c := newCuration(t, 40)
	c.testKilled(t, bucketStore(t, address, filepath.Join(buckets, "calm")), bucketStore(t, address, filepath.Join(buckets, "killed")), 30)
}

// TestLargeRefreshBroken has one broken model among 40: the others are made and
// offered, and it is named.
func TestLargeRefreshBroken(t *testing.T) {
	if os.Getenv("MODELPIPE_LARGE") == "" {
		t.Skip("set MODELPIPE_LARGE=1: makes 117 variants")
	}
	c := newCuration(t, 40)
	if err := os.Truncate(c.path("sources/tiny-17/model.safetensors"), 5000); err != nil {
		t.Fatal(err)
	}
	store, work := folderStore(t), filepath.Join(t.TempDir(), "work")
	s := c.ends(t, exitFailed, store, work)
	if named := s.Named(pipeline.ModelFailed); s.Made != 117 || !strings.HasPrefix(named, "tiny-17: Q8_0: ") || strings.Count(named, "tiny-") != 1 {
		t.Errorf("made %d, failed: %s", s.Made, named)
	}
	r, err := catalog.OpenChannel(t.Context(), catalog.FromStore(store.open(t)), catalog.DefaultChannel)
	if err != nil {
		t.Fatal(err)
	}
	offered := 0
	for m, err := range r.Models(t.Context()) {
		if err != nil || m.Slug == "tiny-17" || len(m.Active()) != 1 || len(m.Variants) != 3 {
			t.Errorf("%+v, %v", m, err)
		}
		offered++
	}
	if offered != 39 {
		t.Errorf("%d models are offered", offered)
	}
	must(t, "catalog", "verify", store.name)
	if s = c.ends(t, exitFailed, store, work); s.Made != 0 {
		t.Errorf("again: made %d", s.Made)
	}
	t.Logf("39 of 40 models in %.0f s: %s", s.Seconds, s.Named(pipeline.ModelFailed))
}

// target is a store of a test.
type target struct {
	name string
	env  []string
	puts func() map[string]int // of model files that the server has accepted, by name; nil for a folder
}

func (g *target) open(t *testing.T) publish.Store {
	t.Helper()
	s, err := publish.OpenEnv(g.name, func(key string) string {
		for _, kv := range g.env {
			if v, ok := strings.CutPrefix(kv, key+"="); ok {
				return v
			}
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.(publish.Store)
}

func folderStore(t *testing.T) *target { return &target{name: filepath.Join(t.TempDir(), "store")} }

// bucketStore makes a folder that is a bucket of a gateway, behind a proxy that
// counts the model files that were put.
func bucketStore(t *testing.T, address, bucket string) *target {
	t.Helper()
	if err := os.Mkdir(bucket, 0o777); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	puts := map[string]int{}
	proxy := proxyTo(t, address)
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method == http.MethodPut && r.StatusCode == http.StatusOK && strings.HasSuffix(r.Request.URL.Path, ".gguf") {
			mu.Lock()
			defer mu.Unlock()
			puts[r.Request.URL.Path]++
		}
		return nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: proxy}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return &target{
		name: "s3://" + filepath.Base(bucket) + "/edge",
		env: []string{
			"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=testsecret", "AWS_REGION=us-east-1",
			"AWS_ENDPOINT_URL=http://" + l.Addr().String(),
		},
		puts: func() map[string]int {
			mu.Lock()
			defer mu.Unlock()
			return puts
		},
	}
}

// proxyTo is a proxy to a server that its clients do not notice: the Host
// header, which is signed, stays theirs.
func proxyTo(t *testing.T, address string) *httputil.ReverseProxy {
	t.Helper()
	to, err := url.Parse("http://" + address)
	if err != nil {
		t.Fatal(err)
	}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
}

// curationOf is a curation file with the folders of its models, and a policy to
// sign with.
type curationOf struct {
	dir   string
	slugs []string
	flags []string // of its refreshes, besides
}

// newCuration makes n models of one layer with different weights, in three
// variants each.
func newCuration(t *testing.T, n int) *curationOf {
	t.Helper()
	c := &curationOf{dir: t.TempDir()}
	var text strings.Builder
	for i := range n {
		slug := fmt.Sprintf("tiny-%02d", i)
		c.slugs = append(c.slugs, slug)
		converttest.OneLayer(t, stories, filepath.Join(c.dir, "sources", slug), uint64(i))
		fmt.Fprintf(&text, modelTOML, slug)
	}
	write(t, c.path("catalog.toml"), []byte(text.String()))
	write(t, c.path("trust.toml"), []byte(trustTOML))
	must(t, "catalog", "keys", "root1", "root2", "root3", "online", "release", "-o", c.dir)
	return c
}

const modelTOML = `
[[model]]
slug = %[1]q
source = "sources/%[1]s"
vendor = "tiny"
display_name = "Tiny"
description = "A model of one layer."
task = "text-generation"
[model.license]
spdx = "MIT"
[[model.variant]]
name = "Q8_0"
[[model.variant]]
name = "F16"
[[model.variant]]
name = "F32"
`

// canaries is a file with one prompt, which is quick.
func (c *curationOf) canaries(t *testing.T) string {
	t.Helper()
	write(t, c.path("canaries.txt"), []byte("Once upon a time\n"))
	return c.path("canaries.txt")
}

func (c *curationOf) path(name string) string { return filepath.Join(c.dir, name) }

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// refresh is the command line for a store.
func (c *curationOf) refresh(t *testing.T, store *target, work string, more ...string) []string {
	return append([]string{
		"refresh", "-f", c.path("catalog.toml"), "--store", store.name, "--work", work, "--trust", c.path("trust.toml"),
		"--chunks", "1", "--ctx", "64", "--canaries", c.canaries(t), "--summary", work + ".json", "--metrics", work + ".prom", "--log-level", "error",
	}, append(slices.Clone(c.flags), more...)...)
}

// process starts a refresh as a process of its own.
func (c *curationOf) process(t *testing.T, store *target, args []string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(append(os.Environ(), asCommand+"=1", "MODELPIPE_ACTOR=test"), store.env...)
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// ends waits for a refresh that must end with a code, and returns its summary.
func (c *curationOf) ends(t *testing.T, code int, store *target, work string, more ...string) *pipeline.Summary {
	t.Helper()
	cmd, out := c.process(t, store, c.refresh(t, store, work, more...))
	err := cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("exit %d, want %d: %v: %s", got, code, err, out)
	}
	var s pipeline.Summary
	if err := json.Unmarshal(read(t, work+".json"), &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

func (c *curationOf) testKilled(t *testing.T, calm, killed *target, kills int) {
	work := t.TempDir()
	began := time.Now()
	s := c.ends(t, exitDone, calm, filepath.Join(work, "calm"))
	undisturbed := time.Since(began)
	variants := 3 * len(c.slugs)
	if s.Made != variants || s.Outcome != pipeline.OutcomeDone {
		t.Fatalf("made %d of %d, %s", s.Made, variants, s.Outcome)
	}
	seen := map[string]string{}
	n, over := 0, 0
	for n < kills {
		cmd, out := c.process(t, killed, c.refresh(t, killed, filepath.Join(work, "killed")))
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		// Short enough that it is killed so often before it is done.
		after := time.Duration(rand.Float64() * 1.2 * float64(undisturbed) / float64(kills))
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if over++; over > kills {
				t.Fatalf("it was done %d times before it was killed %d times", over, kills)
			}
		case <-time.After(after):
			cmd.Process.Kill()
			<-done
			n++
		}
		killed.check(t, seen)
	}
	c.ends(t, exitDone, killed, filepath.Join(work, "killed"))
	killed.check(t, seen)
	want, got := contents(t, calm), contents(t, killed)
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s: got %.2000s, want %.2000s", name, got[name], want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is left", name)
		}
	}
	if killed.puts != nil {
		puts := killed.puts()
		for name, n := range puts {
			if n != 1 {
				t.Errorf("%s was put %d times", name, n)
			}
		}
		if len(puts) != variants {
			t.Errorf("%d files were put, want %d", len(puts), variants)
		}
	}
	before := raw(t, killed)
	began = time.Now()
	s = c.ends(t, exitDone, killed, filepath.Join(work, "killed"))
	second := time.Since(began)
	if after := raw(t, killed); !equalMaps(before, after) || s.Made != 0 || len(s.Signed) != 0 {
		t.Errorf("a second run has changed the store: %+v", s)
	}
	if limit := 5 * time.Second; second > limit {
		t.Errorf("a second run took %v, want less than %v", second, limit)
	}
	leftOver(t, killed, filepath.Join(work, "killed"), c.flags == nil)
	t.Logf("%d variants, undisturbed %v; %d kills, %d runs that were over before; a run with nothing to do %v", variants, undisturbed.Round(time.Second), n, over, second.Round(time.Millisecond))
}

// check holds model files and records to what they were when they were first
// seen: they are written once.
func (g *target) check(t *testing.T, seen map[string]string) {
	t.Helper()
	s := g.open(t)
	for e, err := range s.List(t.Context(), "models/") {
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(e.Name, ".gguf") && !strings.HasSuffix(e.Name, "/record.json") {
			continue
		}
		now := fmt.Sprint(e.Size, e.Modified.UnixNano())
		if old, ok := seen[e.Name]; ok && old != now {
			t.Errorf("%s was written again", e.Name)
		}
		seen[e.Name] = now
	}
}

// leftOver fails where a run that was not disturbed has left something; what is
// kept of measurements is nothing, or some.
func leftOver(t *testing.T, g *target, work string, nothing bool) {
	t.Helper()
	rests, err := g.open(t).(publish.Sink).Abandoned(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rests {
		t.Errorf("upload %s is left", r.ID)
	}
	for _, dir := range []string{"make", "imatrix"} {
		entries, err := os.ReadDir(filepath.Join(work, dir))
		if err == nil && len(entries) > 0 && (nothing || dir == "make") {
			t.Errorf("%d entries are left in %s", len(entries), filepath.Join(work, dir))
		}
	}
}

// raw is every object of a store but the lease.
func raw(t *testing.T, g *target) map[string]string {
	t.Helper()
	s := g.open(t)
	out := map[string]string{}
	for e, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if e.Name == pipeline.LeaseName {
			continue
		}
		data, _, err := s.Get(t.Context(), e.Name, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name] = string(data)
	}
	return out
}

func equalMaps(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// timely are keys of JSON documents whose values are times, how long something
// took, or the size of a document with such.
var timely = []string{"created", "promoted", "updated", "seconds", "time"}

// contents is what a store has, without times, signatures, and what the log
// says of changes that were announced twice. A document is made again without
// its times, and what names it by its digest then names it by the new one.
func contents(t *testing.T, g *target) map[string]string {
	t.Helper()
	all := raw(t, g)
	names := []string{}
	for name := range all {
		names = append(names, name)
	}
	order := func(name string) int {
		for i, part := range []string{"/report.json", "/pieces.json", "/provenance.dsse.json", "/record.json", "/releases.json", "objects/", "channels/"} {
			if strings.Contains("/"+name, part) {
				return i
			}
		}
		return -1
	}
	slices.SortFunc(names, func(a, b string) int {
		if x, y := order(a), order(b); x != y {
			return x - y
		}
		return strings.Compare(a, b)
	})
	renamed := []string{}
	out := map[string]string{}
	logged := map[string]bool{}
	for _, name := range names {
		data := all[name]
		switch {
		case strings.HasPrefix(name, "metadata/"), strings.HasPrefix(name, "channels/") && strings.Count(name, ".") > 1, name == "log/head.json":
			continue
		case strings.HasSuffix(name, ".gguf"):
			out[name] = data
			continue
		case strings.HasPrefix(name, "log/"):
			var e struct {
				Action, Model, Channel string
				Release, Weight        int64
			}
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				t.Fatal(err)
			}
			if e.Action == "publish" || e.Action == "promote" {
				logged[fmt.Sprintf("%+v", e)] = true
			}
			continue
		case strings.HasSuffix(name, ".zst"):
			d, err := zstd.NewReader(nil)
			if err != nil {
				t.Fatal(err)
			}
			plain, err := d.DecodeAll([]byte(data), nil)
			d.Close()
			if err != nil {
				t.Fatal(err)
			}
			data = string(plain)
		}
		was := sha256.Sum256([]byte(data))
		text := strings.NewReplacer(renamed...).Replace(data)
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if strings.HasSuffix(name, ".dsse.json") {
			v = "signed"
		}
		now, err := json.Marshal(timeless(v))
		if err != nil {
			t.Fatal(err)
		}
		is := sha256.Sum256(now)
		renamed = append(renamed, hex.EncodeToString(was[:]), hex.EncodeToString(is[:]))
		if strings.HasPrefix(name, "objects/") {
			name = "objects/" + hex.EncodeToString(is[:])
		}
		out[name] = string(now)
	}
	lines := []string{}
	for line := range logged {
		lines = append(lines, line)
	}
	slices.Sort(lines)
	out["log"] = strings.Join(lines, "\n")
	return out
}

// timeless takes times out of a document.
func timeless(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key := range v {
			if slices.Contains(timely, key) || key == "size" && v["uri"] != nil || key == "bytes" && v["sha256"] != nil {
				delete(v, key)
				continue
			}
			v[key] = timeless(v[key])
		}
	case []any:
		for i := range v {
			v[i] = timeless(v[i])
		}
	}
	return v
}
