package edge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/trust"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/publish"
)

var day = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// shop is a store whose catalog is built and signed.
type shop struct {
	t     testing.TB
	dir   string // of the store
	keys  string
	store publish.Store
	repo  *trust.Repository
	op    *catalog.Operator
	cur   *catalog.Curation

	mu   sync.Mutex
	now  time.Time
	sums map[string]bool // of all files that were ever published
}

const policyTOML = `
[root]
keys = ["root"]
[targets]
keys = ["root"]
[snapshot]
keys = ["online"]
[timestamp]
keys = ["online"]
[channel.stable]
keys = ["online"]
[key.root]
public = "root.pub"
sign = "file:root.pem"
[key.online]
public = "online.pub"
sign = "file:online.pem"
`

const modelTOML = `
[[model]]
slug = %q
source = "hf://org/%s"
vendor = "org"
display_name = "Model"
description = "A small model."
task = "text-generation"
languages = ["en"]
tags = ["small"]
context_window = 2048
[model.license]
spdx = "Apache-2.0"
[[model.variant]]
name = "Q8_0"
`

// newShop makes a store that offers models by these slugs, of which nothing
// is released yet.
func newShop(t testing.TB, slugs ...string) *shop {
	t.Helper()
	s := &shop{t: t, dir: filepath.Join(t.TempDir(), "store"), keys: t.TempDir(), now: day, sums: map[string]bool{}}
	for _, name := range []string{"root", "online"} {
		if _, err := trust.Generate(s.keys, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.keys, "trust.toml"), []byte(policyTOML), 0o600); err != nil {
		t.Fatal(err)
	}
	policy, err := trust.ReadPolicy(filepath.Join(s.keys, "trust.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if s.store, err = publish.OpenStore(s.dir); err != nil {
		t.Fatal(err)
	}
	s.repo = &trust.Repository{Store: s.store, Policy: policy, Actor: "tester", Now: s.clock}
	s.op = &catalog.Operator{Store: s.store, Actor: "tester", Now: s.clock}
	text := ""
	for _, slug := range slugs {
		text += fmt.Sprintf(modelTOML, slug, slug)
	}
	s.curate(text)
	return s
}

// curate gives the shop another curation file.
func (s *shop) curate(text string) {
	s.t.Helper()
	var err error
	if s.cur, err = catalog.ReadCuration(fstest.MapFS{"c.toml": {Data: []byte(text)}}, "c.toml"); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shop) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *shop) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

// modelFile is a GGUF file of n tensors of 64 KiB and one of large bytes.
func modelFile(template string, seed byte, n int, large int64) []byte {
	tokens := make([]string, 4000)
	words := rand.New(rand.NewPCG(7, 7))
	for i := range tokens {
		tokens[i] = fmt.Sprint(words.IntN(1 << 20))
	}
	h := &gguf.Header{Metadata: gguf.Metadata{
		{Key: "general.architecture", Value: "llama"},
		{Key: "llama.context_length", Value: uint32(2048)},
		{Key: "llama.embedding_length", Value: uint32(256)},
		{Key: "llama.block_count", Value: uint32(4)},
		{Key: "llama.attention.head_count", Value: uint32(8)},
		{Key: "tokenizer.chat_template", Value: template},
		{Key: "tokenizer.ggml.tokens", Value: tokens},
	}}
	for i := range n {
		h.Tensors = append(h.Tensors, gguf.TensorInfo{Name: fmt.Sprintf("blk.%d.weight", i), Type: gguf.F32, Shape: []int64{256, 64}})
	}
	if large > 0 {
		h.Tensors = append(h.Tensors, gguf.TensorInfo{Name: "output.weight", Type: gguf.F32, Shape: []int64{256, large / 1024}})
	}
	size, err := h.Layout()
	if err != nil {
		panic(err)
	}
	b, err := h.AppendBinary(make([]byte, 0, size))
	if err != nil {
		panic(err)
	}
	head := len(b)
	b = b[:size]
	rand.NewChaCha8([32]byte{seed}).Read(b[head:])
	return b
}

// put stores a file of a variant with its record and returns the variant's ID.
func (s *shop) put(slug string, data []byte) string {
	return s.putVariant(slug, "Q8_0", data, true)
}

func (s *shop) putVariant(slug, name string, data []byte, pieces bool, more ...catalog.Location) string {
	s.t.Helper()
	ctx := context.Background()
	h, err := gguf.ReadHeader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		s.t.Fatal(err)
	}
	cut, err := catalog.CutFile(ctx, bytes.NewReader(data), int64(len(data)))
	if err != nil {
		s.t.Fatal(err)
	}
	id := catalog.VariantID(name, cut.SHA256)
	dir := catalog.VariantDir(slug, id)
	file := slug + ".gguf"
	r, err := catalog.NewRecord(slug, name, name, h, []catalog.File{{Path: file, Size: cut.Size, SHA256: cut.SHA256, Role: catalog.RoleModel}},
		append([]catalog.Location{{Kind: catalog.KindStore, URI: dir}}, more...), catalog.Provenance{
			Source: catalog.Source{Repository: "hf://org/" + slug}, Tool: catalog.Tool{Name: "modelpipe", Version: "v1"}, Created: s.clock()})
	if err != nil {
		s.t.Fatal(err)
	}
	s.sums[strings.TrimPrefix(string(cut.SHA256), "sha256:")] = true
	if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, dir, file), data, 0o644); err != nil {
		s.t.Fatal(err)
	}
	if pieces {
		if err := s.op.PutPieces(ctx, r, &catalog.Pieces{Files: []catalog.FilePieces{cut}}); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := s.op.PutRecord(ctx, r, nil, nil); err != nil {
		s.t.Fatal(err)
	}
	return id
}

// release releases variants of a model to everybody.
func (s *shop) release(slug string, ids ...string) int64 {
	s.t.Helper()
	ctx := context.Background()
	s.pass(time.Second)
	r, _, err := s.op.Publish(ctx, slug, "stable", ids, "")
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.op.Promote(ctx, slug, "stable", r.Version, 100); err != nil {
		s.t.Fatal(err)
	}
	return r.Version
}

func (s *shop) withdraw(slug string, version int64, reason string) {
	s.t.Helper()
	if _, err := s.op.Withdraw(context.Background(), slug, "stable", version, reason); err != nil {
		s.t.Fatal(err)
	}
	s.sign()
}

// sign builds and signs the catalog.
func (s *shop) sign() {
	s.t.Helper()
	ctx := context.Background()
	r, err := catalog.Build(ctx, catalog.BuildOptions{Curation: s.cur, Store: s.store})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, skipped := range r.Skipped {
		if skipped.Reason != "no record of it is in the store" && testing.Verbose() {
			s.t.Logf("skipped: %+v", skipped)
		}
	}
	if _, err := s.repo.Sign(ctx); err != nil {
		s.t.Fatal(err)
	}
}

// offer releases a file and signs.
func (s *shop) offer(slug string, data []byte) int64 {
	s.t.Helper()
	v := s.release(slug, s.put(slug, data))
	s.sign()
	return v
}

// options are those of a node that follows the shop.
func (s *shop) options(root string) Options {
	return Options{Catalog: s.dir, Root: root, FirstUse: true, Backoff: time.Millisecond, Stall: 2 * time.Second, Now: s.clock}
}

// node opens a node and closes it with the test.
func node(t testing.TB, o Options) *Node {
	t.Helper()
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func synced(t testing.TB, n *Node) *Result {
	t.Helper()
	r, err := n.Sync(context.Background())
	if err != nil {
		t.Fatalf("sync: %v", err)
	}
	return r
}

// fails syncs a node, which must fail with an error of a kind and these words.
func fails(t testing.TB, n *Node, kind error, words ...string) *Result {
	t.Helper()
	r, err := n.Sync(context.Background())
	if err == nil || kind != nil && !errors.Is(err, kind) {
		t.Fatalf("got %v, want %v", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("got %q, want %q in it", err, w)
		}
	}
	return r
}

func sha(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// served reads what a server would read below current, following links as it
// would: the SHA-256 of each file by its path. Every file must be one of the
// shop's, whole.
func (s *shop) served(root string) map[string]string {
	s.t.Helper()
	out, err := servedFiles(root)
	if err != nil {
		s.t.Error(err)
	}
	for name, sum := range out {
		if !s.sums[sum] {
			s.t.Errorf("%s: %s: %s is not a file of the store", root, name, sum)
		}
	}
	return out
}

// servedFiles is empty where nothing is current.
func servedFiles(root string) (map[string]string, error) {
	current, err := filepath.EvalSymlinks(filepath.Join(root, "current"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	err = filepath.WalkDir(current, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "release.json" {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(current, name)
		out[filepath.ToSlash(rel)] = sha(data)
		return err
	})
	return out, err
}

// serves asserts that a node serves a model's file, or nothing of it.
func (s *shop) serves(root, slug string, data []byte) {
	s.t.Helper()
	got := s.served(root)[path.Join(slug, "Q8_0", slug+".gguf")]
	want := ""
	if data != nil {
		want = sha(data)
	}
	if got != want {
		s.t.Errorf("%s: serves %q, want %q", slug, got, want)
	}
}

// A fault is what a web server does to a request.
type fault int

const (
	faultNone      fault = iota
	faultCut             // the connection ends in the midst
	faultCorrupt         // a bit is another
	faultTruncated       // fewer bytes, announced as such
	faultSlow            // next to nothing comes
	faultPage            // 200 with an error page
	fault503
	fault404
	faultNoRanges // the whole file, whatever was asked for
	faultRange    // another range than was asked for
	faults
)

// server is a web server of a folder that does what a test says.
type server struct {
	*httptest.Server
	dir    string
	decide func(r *http.Request) fault

	mu       sync.Mutex
	requests []string
	bytes    atomic.Int64
}

// serve starts a web server of a folder.
func serve(t testing.TB, dir string, decide func(r *http.Request) fault) *server {
	s := &server{dir: dir, decide: decide}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Server.Close)
	t.Cleanup(s.Server.CloseClientConnections)
	return s
}

// asked returns the requests since the last call.
func (s *server) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.requests
	s.requests = nil
	return out
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.Path+" "+r.Header.Get("Range"))
	s.mu.Unlock()
	f := faultNone
	if s.decide != nil {
		f = s.decide(r)
	}
	counted := countedWriter{w, s.bytes.Add}
	name := filepath.Join(s.dir, filepath.FromSlash(r.URL.Path))
	switch f {
	case faultNone:
		file, err := os.Open(name)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer file.Close()
		if strings.HasSuffix(name, "timestamp.json") {
			data, _ := os.ReadFile(name)
			w.Header().Set("ETag", `"`+sha(data)+`"`)
		}
		http.ServeContent(counted, r, "", time.Time{}, file)
		return
	case faultPage:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, "<html><body>Please log in.</body></html>")
		return
	case fault503:
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	data, err := os.ReadFile(name)
	if err != nil || f == fault404 {
		http.NotFound(w, r)
		return
	}
	from, to := int64(0), int64(len(data))
	ranged := false
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err == nil {
		ranged = true
		to = min(to+1, int64(len(data)))
	}
	// begin announces length bytes, as the range from first on.
	begin := func(first, length int64) {
		w.Header().Set("Content-Length", fmt.Sprint(length))
		if ranged {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, first+length-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
		}
	}
	switch f {
	case faultCut:
		begin(from, to-from)
		counted.Write(data[from : from+(to-from)/2])
		panic(http.ErrAbortHandler)
	case faultCorrupt:
		body := bytes.Clone(data[from:to])
		if len(body) > 0 {
			body[len(body)/2] ^= 4
		}
		begin(from, to-from)
		counted.Write(body)
	case faultTruncated:
		begin(from, (to-from)/2)
		counted.Write(data[from : from+(to-from)/2])
	case faultSlow:
		begin(from, to-from)
		for i := from; i < to; i++ {
			if _, err := counted.Write(data[i : i+1]); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	case faultNoRanges:
		ranged = false
		begin(0, int64(len(data)))
		counted.Write(data)
	case faultRange:
		begin(0, to-from)
		counted.Write(data[:to-from])
	}
}

// isModel says whether a request is for a model's file.
func isModel(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, ".gguf") }

// plenty is a disk without end.
func plenty(string) (int64, error) { return math.MaxInt64, nil }

// handlerServer starts a web server and returns its address.
func handlerServer(t testing.TB, h http.Handler) string {
	web := httptest.NewServer(h)
	t.Cleanup(web.Close)
	return web.URL
}

// answer is a server that answers with a status.
func answer(status int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
}
