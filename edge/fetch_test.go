package edge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/publish/publishtest"
)

// TestFaults lets a web server do to the first requests for a file whatever a
// fault is: the node ends with the whole file.
func TestFaults(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	data := modelFile("one", 1, 40, 3<<20)
	s.offer("alpha", data)
	for _, pieces := range []bool{true, false} {
		if !pieces {
			s.release("alpha", s.putVariant("alpha", "Q8_0", modelFile("two", 2, 40, 20<<20), false))
			s.sign()
			data = modelFile("two", 2, 40, 20<<20)
		}
		for f := faultCut; f < faults; f++ {
			t.Run(fmt.Sprintf("pieces=%v/%d", pieces, f), func(t *testing.T) {
				var count atomic.Int64
				web := serve(t, s.dir, func(r *http.Request) fault {
					if isModel(r) && (count.Add(1) <= 2 || f == faultNoRanges) {
						return f
					}
					return faultNone
				})
				root := t.TempDir()
				o := s.options(root)
				o.Catalog, o.Stall = web.URL, 10*time.Second
				if f == faultSlow {
					o.Stall = 500 * time.Millisecond
				}
				n := node(t, o)
				// A page, 404 or a wrong answer is final for the one place; what
				// was signed stays wanted, so that the next round gets it.
				_, err := n.Sync(t.Context())
				for range 3 {
					if err == nil {
						break
					}
					s.serves(root, "alpha", nil)
					_, err = n.Sync(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
				s.serves(root, "alpha", data)
			})
		}
	}
}

// TestFallOver gives places that are bad for good before one that is not.
func TestFallOver(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	data := modelFile("one", 1, 40, 3<<20)
	var mirrors []catalog.Location
	for f := faultCut; f < faults; f++ {
		if f == faultNoRanges {
			continue
		}
		web := serve(t, s.dir, func(*http.Request) fault { return f })
		mirrors = append(mirrors, catalog.Location{Kind: catalog.KindHTTP, URI: web.URL + "/bad"})
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "alpha.gguf"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	mirrors = append(mirrors, catalog.Location{Kind: catalog.KindFile, URI: "file://" + dir})
	s.release("alpha", s.putVariant("alpha", "Q8_0", data, true, mirrors...))
	s.sign()
	// The store itself has lost the file, and the mirrors have it under /bad.
	id := catalog.VariantID("Q8_0", catalog.Digest("sha256:"+sha(data)))
	from := filepath.Join(s.dir, catalog.VariantDir("alpha", id), "alpha.gguf")
	if err := os.Mkdir(filepath.Join(s.dir, "bad"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(from, filepath.Join(s.dir, "bad", "alpha.gguf")); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	o := s.options(root)
	o.Stall = 500 * time.Millisecond
	n := node(t, o)
	r := synced(t, n)
	s.serves(root, "alpha", data)
	if r.Fetched < int64(len(data)) {
		t.Errorf("got %+v", r)
	}
	// Without the good one every place is named with what it did.
	if err := os.Remove(filepath.Join(dir, "alpha.gguf")); err != nil {
		t.Fatal(err)
	}
	o.Root = t.TempDir()
	fails(t, node(t, o), nil, "model alpha, release 1: alpha.gguf: ", "no place has them", "the answer was cut", "a piece has other content", "200 with ", "text/html", "content-range is", "503", "fewer than 16384 bytes in 500ms", "no such file")
	s.serves(o.Root, "alpha", nil)
}

// TestKinds fetches from every kind of place.
func TestKinds(t *testing.T) {
	t.Parallel()
	data := modelFile("one", 1, 40, 1<<20)
	s3 := publishtest.NewS3(t)
	registry := strings.TrimPrefix(publishtest.NewRegistry(t), "http://")
	env := func(name string) string {
		return map[string]string{"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
			"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "XDG_CACHE_HOME": t.TempDir()}[name]
	}
	upload := func(target string, vars func(string) string) {
		sink, err := publish.OpenEnv(target, vars)
		if err != nil {
			t.Fatal(err)
		}
		a := &publish.Artifact{Files: []publish.File{{Name: "alpha.gguf", Role: publish.RoleModel, Size: int64(len(data)), Content: strings.NewReader(string(data))}},
			Model: publish.Model{Name: "alpha", Family: "llama", Parameters: 1, Quantization: "Q8_0"}}
		if _, err := sink.Publish(t.Context(), a, publish.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	upload("s3://bucket/models", func(name string) string {
		if name == "AWS_ENDPOINT_URL" {
			return s3.URL
		}
		return env(name)
	})
	upload("oci://"+registry+"/team/alpha:q8_0", env)
	web := t.TempDir()
	if err := os.WriteFile(filepath.Join(web, "alpha.gguf"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, l := range []catalog.Location{
		{Kind: catalog.KindFile, URI: "file://" + web},
		{Kind: catalog.KindHTTP, URI: serve(t, web, nil).URL},
		{Kind: catalog.KindS3, URI: "s3://bucket/models", Endpoint: s3.URL},
		{Kind: catalog.KindOCI, URI: "oci://" + registry + "/team/alpha:q8_0"},
	} {
		t.Run(l.Kind, func(t *testing.T) {
			s := newShop(t, "alpha")
			id := s.putVariant("alpha", "Q8_0", data, true, l)
			s.release("alpha", id)
			s.sign()
			if err := os.Remove(filepath.Join(s.dir, catalog.VariantDir("alpha", id), "alpha.gguf")); err != nil {
				t.Fatal(err)
			}
			o := s.options(t.TempDir())
			o.Getenv = env
			synced(t, node(t, o))
			s.serves(o.Root, "alpha", data)
		})
	}
}

// TestS3Store follows a catalog in a bucket.
func TestS3Store(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	data := modelFile("one", 1, 10, 0)
	s.offer("alpha", data)
	s3 := publishtest.NewS3(t)
	env := func(name string) string {
		return map[string]string{"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_ENDPOINT_URL": s3.URL,
			"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}[name]
	}
	sink, err := publish.OpenEnv("s3://bucket/store", env)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(s.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.dir, name)
		if err != nil {
			return err
		}
		_, err = sink.(publish.Store).Put(t.Context(), filepath.ToSlash(rel), data, publish.Any)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	o := s.options(t.TempDir())
	o.Catalog, o.Getenv = "s3://bucket/store", env
	n := node(t, o)
	synced(t, n)
	s.serves(o.Root, "alpha", data)
	if r := synced(t, n); r.Requests > 2 || r.Metadata > 10_000 {
		t.Errorf("nothing is new: %+v", r)
	}
}

// TestResume stops a transfer in the midst and goes on with it.
func TestResume(t *testing.T) {
	t.Parallel()
	for _, pieces := range []bool{true, false} {
		s := newShop(t, "alpha")
		data := modelFile("one", 1, 40, 24<<20)
		s.release("alpha", s.putVariant("alpha", "Q8_0", data, pieces))
		s.sign()
		var allowed atomic.Int64
		allowed.Store(1)
		web := serve(t, s.dir, func(r *http.Request) fault {
			if isModel(r) && allowed.Add(-1) < 0 {
				return fault503
			}
			return faultNone
		})
		o := s.options(t.TempDir())
		o.Catalog, o.Parallel = web.URL, 4
		n := node(t, o)
		first := fails(t, n, publish.ErrUnavailable, "503")
		if first.Fetched == 0 {
			t.Fatalf("nothing was fetched: %+v", first)
		}
		n.Close()
		allowed.Store(1000)
		web.asked()
		n = node(t, o)
		r := synced(t, n)
		if r.Resumed == 0 || r.Resumed+r.Fetched != int64(len(data)) {
			t.Errorf("pieces=%v: got %+v", pieces, r)
		}
		s.serves(o.Root, "alpha", data)
	}
}

// TestDelta fetches no more than the header where a tensor was not changed,
// and copies nothing that has rotted on the node's own disk.
func TestDelta(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	one, two := modelFile("one", 1, 10, 8<<20), modelFile("two is another template", 1, 10, 8<<20)
	s.offer("alpha", one)
	o := s.options(t.TempDir())
	n := node(t, o)
	synced(t, n)
	s.offer("alpha", two)
	if r := synced(t, n); r.Fetched*100 > int64(len(two)) {
		t.Errorf("%d of %d bytes were fetched", r.Fetched, len(two))
	}
	s.serves(o.Root, "alpha", two)
	// A byte changes behind the file system's back: size and time are the same.
	blob := filepath.Join(o.Root, "blobs", "sha256", sha(two))
	info, err := os.Stat(blob)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(blob, 0o644); err != nil {
		t.Fatal(err)
	}
	rotten := append([]byte{}, two...)
	rotten[len(rotten)-1000] ^= 1
	f, err := os.OpenFile(blob, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(rotten, 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.Chtimes(blob, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	three := modelFile("three", 1, 10, 8<<20)
	s.offer("alpha", three)
	if r := synced(t, n); r.Copied == 0 || r.Fetched < 1<<20 {
		t.Errorf("got %+v", r)
	}
	s.serves(o.Root, "alpha", three)
}

// TestPeers fetches from another node, and from the store what it does not
// have; a peer that lies is found out.
func TestPeers(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha", "beta")
	alpha, beta := modelFile("one", 1, 40, 1<<20), modelFile("two", 2, 10, 0)
	s.offer("alpha", alpha)
	o := s.options(t.TempDir())
	first := node(t, o)
	synced(t, first)
	peer := handlerServer(t, first.Handler())
	s.offer("beta", beta)
	web := serve(t, s.dir, nil)
	liar := handlerServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(strings.Repeat("lie", 1+len(alpha)/3)[:len(alpha)]))
	}))
	o.Root, o.Catalog, o.Peers = t.TempDir(), web.URL, []string{liar, peer + "/"}
	synced(t, node(t, o))
	s.serves(o.Root, "alpha", alpha)
	s.serves(o.Root, "beta", beta)
	for _, r := range web.asked() {
		if strings.Contains(r, "alpha.gguf") {
			t.Errorf("the store was asked for what a peer has: %s", r)
		}
	}
	if first.counters.served.Load() < int64(len(alpha)) {
		t.Errorf("the peer has served %d bytes", first.counters.served.Load())
	}
}

// TestLimit holds transfers to a bandwidth.
func TestLimit(t *testing.T) {
	s := newShop(t, "alpha")
	data := modelFile("one", 1, 16, 0)
	s.offer("alpha", data)
	o := s.options(t.TempDir())
	o.Limit, o.Stall = 1<<20, 250*time.Millisecond // the limit must not look like a stall
	n := node(t, o)
	began := time.Now()
	synced(t, n)
	want := time.Duration(float64(len(data))/(1<<20)*float64(time.Second)) - 150*time.Millisecond
	if took := time.Since(began); took < want {
		t.Errorf("%d bytes took %v, want at least %v", len(data), took, want)
	}
}

// TestWrongPieces offers pieces that do not make up the file: it is fetched as
// a whole.
func TestWrongPieces(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	data, other := modelFile("one", 1, 10, 0), modelFile("one", 2, 10, 0)
	n := node(t, s.options(t.TempDir()))
	file := catalog.File{Path: "a", Size: int64(len(data)), SHA256: catalog.DigestOf(data)}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	from, err := n.location(catalog.Location{Kind: catalog.KindFile, URI: "file://" + dir})
	if err != nil {
		t.Fatal(err)
	}
	good, err := catalog.CutFile(t.Context(), strings.NewReader(string(data)), file.Size)
	if err != nil {
		t.Fatal(err)
	}
	lies, err := catalog.CutFile(t.Context(), strings.NewReader(string(other)), file.Size)
	if err != nil {
		t.Fatal(err)
	}
	// The places do not have what these pieces say.
	if err := n.fetch(t.Context(), file, lies.Pieces, nil, []source{from}); err == nil || !strings.Contains(err.Error(), "a piece has other content") {
		t.Errorf("got %v", err)
	}
	// The node has a file with the pieces, but it is not the file.
	wrong := file
	wrong.SHA256 = catalog.DigestOf(other)
	if err := n.fetch(t.Context(), wrong, good.Pieces, nil, []source{from}); err == nil || !errors.Is(err, errOther) {
		t.Errorf("got %v", err)
	}
	if err := n.fetch(t.Context(), file, good.Pieces, nil, []source{from}); err != nil {
		t.Error(err)
	}
	if err := n.fetch(context.Background(), catalog.File{Path: "empty", SHA256: catalog.DigestOf(nil)}, nil, nil, []source{from}); err != nil {
		t.Errorf("empty file: %v", err)
	}
}
