package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/edge"
	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/publish/publishtest"
)

// front stands before a server and counts the requests, and the bytes that its
// clients send and get, headers included.
type front struct {
	address        string
	requests, wire atomic.Int64
}

func newFront(t *testing.T, h http.Handler) *front {
	t.Helper()
	f := &front{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.requests.Add(1)
		h.ServeHTTP(w, r)
	}))
	s.Listener = countedListener{s.Listener, &f.wire}
	s.Start()
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	f.address = s.Listener.Addr().String()
	return f
}

// since returns what was counted since the last call.
func (f *front) since() (requests, wire int64) { return f.requests.Swap(0), f.wire.Swap(0) }

type countedListener struct {
	net.Listener
	bytes *atomic.Int64
}

func (l countedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countedConn{c, l.bytes}, err
}

type countedConn struct {
	net.Conn
	bytes *atomic.Int64
}

func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.bytes.Add(int64(n))
	return n, err
}

func (c countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}

// edgeNode is a node whose rounds are processes that know of their environment
// no more than in the image of deploy/container: credentials.
type edgeNode struct {
	t       *testing.T
	catalog string
	root    string
	trust   string
}

func (n *edgeNode) command(more ...string) (*exec.Cmd, *bytes.Buffer) {
	c := exec.CommandContext(n.t.Context(), os.Args[0], append([]string{"sync", "--catalog", n.catalog, "--root", n.root, "--trust-root", n.trust, "--json"}, more...)...)
	c.Env = []string{asCommand + "=1"}
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "AWS_") || strings.HasPrefix(kv, "DOCKER_CONFIG=") {
			c.Env = append(c.Env, kv)
		}
	}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	return c, &stderr
}

func (n *edgeNode) sync(more ...string) *edge.Result {
	n.t.Helper()
	c, stderr := n.command(more...)
	out, err := c.Output()
	if err != nil {
		n.t.Fatalf("%v: %s", err, stderr)
	}
	var r edge.Result
	if err := json.Unmarshal(out, &r); err != nil {
		n.t.Fatal(err)
	}
	return &r
}

// piecesBefore is how many pieces of a file arrive before a round is killed.
const piecesBefore = 12

// killed starts a round that fetches slowly and ends it by SIGKILL when some
// pieces of a file have arrived.
func (n *edgeNode) killed(more ...string) {
	n.t.Helper()
	c, stderr := n.command(append(more, "--limit-rate", "8MB")...)
	if err := c.Start(); err != nil {
		n.t.Fatal(err)
	}
	arrived := 0
	for deadline := time.Now().Add(time.Minute); arrived < piecesBefore && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		journals, err := filepath.Glob(filepath.Join(n.root, "blobs/sha256/*.partial.journal"))
		if err != nil {
			n.t.Fatal(err)
		}
		for _, name := range journals {
			if data, err := os.ReadFile(name); err == nil { // it may be gone
				arrived = max(arrived, bytes.Count(data, []byte("\n"))-1)
			}
		}
	}
	c.Process.Kill()
	if err := c.Wait(); err == nil || arrived < piecesBefore || c.ProcessState.ExitCode() != -1 {
		n.t.Fatalf("was not killed while it fetched: %d pieces, %v: %s", arrived, err, stderr)
	}
}

// serves holds the file below current to what it should be: nil, nothing.
func (n *edgeNode) serves(name string, want []byte) {
	n.t.Helper()
	got, err := os.ReadFile(filepath.Join(n.root, "current", name))
	if want == nil && errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil || want == nil || sha256.Sum256(got) != sha256.Sum256(want) {
		n.t.Errorf("%s: %d bytes, %v: want %d others", name, len(got), err, len(want))
	}
}

const bulkyTOML = `
[[model]]
slug = "bulky"
source = "sources/bulky"
vendor = "tiny"
display_name = "Bulky"
description = "A model of some layers."
task = "text-generation"
[model.license]
spdx = "MIT"
[[model.variant]]
name = "F16"
`

// bulkySource makes the folder of a model of tens of megabytes with a template.
func bulkySource(t *testing.T, dir string) {
	t.Helper()
	if err := os.Rename(makeModel(t, 6), dir); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "tokenizer.json"), read(t, filepath.Join(stories, "tokenizer.json")))
	setTemplate(t, dir, "{% for m in messages %}{{ m.content }}{% endfor %}")
}

// setTemplate gives the model in a folder a chat template.
func setTemplate(t *testing.T, dir, template string) {
	t.Helper()
	name := filepath.Join(dir, "tokenizer_config.json")
	var config map[string]any
	if err := json.Unmarshal(read(t, name), &config); err != nil {
		t.Fatal(err)
	}
	config["chat_template"] = template
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, name, data)
}

// addLocation adds a place to the record of a variant.
func addLocation(t *testing.T, s publish.Store, dir string, l catalog.Location) {
	t.Helper()
	data, version, err := s.Get(t.Context(), dir+"/"+catalog.RecordName, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	r, err := catalog.DecodeRecord(data)
	if err != nil {
		t.Fatal(err)
	}
	r.Variant.Locations = append(r.Variant.Locations, l)
	if data, err = catalog.Encode(r); err == nil {
		_, err = s.Put(t.Context(), dir+"/"+catalog.RecordName, data, version)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestLargeSync follows a catalog that refresh keeps in a bucket of versitygw,
// by the bucket, by a web server of the same folder, and with the file in a
// distribution registry alone, which wants a login: a first sync that is killed in the midst, what
// an unchanged poll costs, an edited template, and a release that is withdrawn.
func TestLargeSync(t *testing.T) {
	servers := publishtest.Servers(t, "../..")
	buckets := t.TempDir()
	bucket := filepath.Join(buckets, "edge")
	if err := os.Mkdir(bucket, 0o777); err != nil {
		t.Fatal(err)
	}
	gateway := newFront(t, proxyTo(t, publishtest.StartGateway(t, servers, buckets)))
	registry := newFront(t, proxyTo(t, publishtest.StartClosedRegistry(t, servers)))
	web := newFront(t, http.FileServer(http.Dir(filepath.Join(bucket, "models"))))
	docker := t.TempDir()
	write(t, filepath.Join(docker, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, registry.address, base64.StdEncoding.EncodeToString([]byte("test:testsecret"))))
	for k, v := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": "http://" + gateway.address,
		"DOCKER_CONFIG": docker, "XDG_CACHE_HOME": t.TempDir(),
	} {
		t.Setenv(k, v)
	}
	c := newCuration(t, 1)
	bulkySource(t, c.path("sources/bulky"))
	write(t, c.path("catalog.toml"), append(read(t, c.path("catalog.toml")), bulkyTOML...))
	store := &target{name: "s3://edge/models", env: os.Environ()}
	work := filepath.Join(t.TempDir(), "work")
	c.ends(t, exitDone, store, work)
	sign := func() {
		t.Helper()
		must(t, "catalog", "build", "-f", c.path("catalog.toml"), "--store", store.name)
		must(t, "catalog", "sign", "--store", store.name, "--trust", c.path("trust.toml"))
	}

	// The file is pushed to the registry, too.
	file := only(t, filepath.Join(bucket, "models/models/bulky/*/*.gguf"))
	content := read(t, file)
	must(t, "publish", file, "-o", "oci://"+registry.address+"/team/bulky:f16")
	dir := "models/bulky/" + filepath.Base(filepath.Dir(file))
	addLocation(t, store.open(t), dir, catalog.Location{Kind: catalog.KindOCI, URI: "oci://" + registry.address + "/team/bulky:f16"})
	sign()
	tiny := read(t, only(t, filepath.Join(bucket, "models/models/tiny-00/*/*-Q8_0.gguf")))

	const served, small = "bulky/F16/bulky-F16.gguf", "tiny-00/Q8_0/tiny-00-Q8_0.gguf"
	total := int64(len(content) + len(tiny))
	root := filepath.Join(bucket, "models/metadata/1.root.json")
	fronts := map[string]*front{"s3": gateway, "http": web, "oci": registry}
	nodes := map[string]*edgeNode{}
	for _, from := range []struct{ name, catalog string }{{"s3", store.name}, {"http", "http://" + web.address}, {"oci", store.name}} {
		n := &edgeNode{t, from.catalog, filepath.Join(t.TempDir(), "node"), root}
		nodes[from.name] = n
		if from.name == "oci" { // the bucket has lost the file
			if err := os.Rename(file, filepath.Join(c.dir, "lost")); err != nil {
				t.Fatal(err)
			}
		}
		if from.name == "oci" {
			t.Setenv("DOCKER_CONFIG", t.TempDir())
			denied(t, exitFailed, "status 401", "sync", "--catalog", store.name, "--root", n.root, "--trust-root", root)
			n.serves(served, nil)
			n.serves(small, tiny)
			total -= int64(len(tiny))
			t.Setenv("DOCKER_CONFIG", docker)
		}
		n.killed()
		n.serves(served, nil)
		for _, f := range fronts {
			f.since()
		}
		began := time.Now()
		r := n.sync()
		took := time.Since(began)
		n.serves(served, content)
		n.serves(small, tiny)
		_, wire := fronts[from.name].since()
		if r.Resumed < 1<<20 || r.Fetched+r.Resumed != total || wire < int64(len(content))-r.Resumed {
			t.Errorf("%s: of %d bytes %d were there, %d were fetched, %d bytes on the wire", from.name, total, r.Resumed, r.Fetched, wire)
		}
		t.Logf("%s: killed after %d of %d bytes; then %d were fetched in %v", from.name, r.Resumed, total, r.Fetched, took.Round(time.Millisecond))
	}
	if err := os.Rename(filepath.Join(c.dir, "lost"), file); err != nil {
		t.Fatal(err)
	}

	unchanged := func() {
		t.Helper()
		for name, f := range map[string]*front{"s3": gateway, "http": web} {
			f.since()
			r := nodes[name].sync()
			requests, wire := f.since()
			t.Logf("%s: an unchanged poll is %d requests of %d bytes, headers included, both ways", name, requests, wire)
			if r.Changed || r.Fetched != 0 || requests > 2 || wire > 10_000 {
				t.Errorf("%s: %+v, %d requests, %d bytes", name, r, requests, wire)
			}
		}
	}
	unchanged()

	setTemplate(t, c.path("sources/bulky"), "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}")
	c.ends(t, exitDone, store, work)
	var edited []byte
	files, err := filepath.Glob(filepath.Join(bucket, "models/models/bulky/*/*.gguf"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, name := range files {
		if name != file {
			edited = read(t, name)
		}
	}
	for name, f := range map[string]*front{"s3": gateway, "http": web} {
		f.since()
		n := nodes[name]
		r := n.sync()
		requests, wire := f.since()
		n.serves(served, edited)
		t.Logf("%s: an edited template is %d requests of %d bytes (%.2f %% of the file), %d of them of the file; %d bytes are copied", name, requests, wire, 100*float64(wire)/float64(len(edited)), r.Fetched, r.Copied)
		if wire*100 > int64(len(edited)) || r.Fetched+r.Copied != int64(len(edited)) {
			t.Errorf("%s: %+v, %d bytes", name, r, wire)
		}
	}

	// The newer release leaves, the older one comes back, and leaves too.
	must(t, "catalog", "withdraw", "bulky", "2", "--why", "wrong template", "--store", store.name)
	sign()
	for _, n := range nodes {
		n.sync()
		n.serves(served, content)
	}
	must(t, "catalog", "withdraw", "bulky", "1", "--why", "wrong weights", "--store", store.name)
	sign()
	for name, n := range nodes {
		if r := n.sync(); len(r.Models) != 1 || r.Models[0].Model != "tiny-00" {
			t.Errorf("%s: serves %+v", name, r.Models)
		}
		n.serves(served, nil)
		n.serves(small, tiny)
	}
	unchanged()

	t.Setenv("AWS_SECRET_ACCESS_KEY", "another")
	denied(t, exitFailed, "SignatureDoesNotMatch", "sync", "--catalog", store.name, "--root", nodes["s3"].root)
	nodes["s3"].serves(small, tiny)
}

// only returns the one file that a pattern matches.
func only(t *testing.T, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) != 1 {
		t.Fatalf("%s: %s, %v", pattern, strings.Join(names, " "), err)
	}
	return names[0]
}
