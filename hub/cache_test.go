package hub_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/modelpipe/modelpipe/hub"
	"github.com/modelpipe/modelpipe/hub/hubtest"
)

var everything = []string{"1_Pooling/config.json", "config.json", "empty.txt", "model.safetensors"}

// cached serves org/tiny and gives the client a cache in a temporary folder.
func cached(t *testing.T, size int) (srv *hubtest.Server, o hub.Options, content fstest.MapFS) {
	t.Helper()
	content = tiny(size)
	srv, _ = serve(t, content)
	return srv, hub.Options{Endpoint: srv.URL, CacheDir: filepath.Join(t.TempDir(), "hub")}, content
}

func TestDownloadWritesTheHubsLayout(t *testing.T) {
	srv, o, content := cached(t, 21<<20)
	s := snapshot(t, newClient(t, o), "org/tiny", "")
	if err := s.Download(t.Context(), everything...); err != nil {
		t.Fatal(err)
	}
	repo := filepath.Join(o.CacheDir, "models--org--tiny")
	if ref, err := os.ReadFile(filepath.Join(repo, "refs", "main")); err != nil || string(ref) != s.Commit() {
		t.Errorf("refs/main: %q, %v", ref, err)
	}
	for _, e := range s.Files() {
		path := filepath.Join(repo, "snapshots", s.Commit(), filepath.FromSlash(e.Path))
		etag := e.SHA256
		if etag == "" {
			etag = e.BlobID
		}
		up := strings.Repeat("../", 2+strings.Count(e.Path, "/"))
		if target, err := os.Readlink(path); err != nil || target != up+"blobs/"+etag {
			t.Errorf("%s links to %q, %v", e.Path, target, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content[e.Path].Data) {
			t.Errorf("%s: %v", e.Path, err)
		}
	}
	left, _ := filepath.Glob(filepath.Join(repo, "blobs", "*incomplete*"))
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}

	// What is there is not fetched again, by the same snapshot or by a later one.
	srv.ResetLog()
	later := snapshot(t, newClient(t, o), "org/tiny", "")
	for _, s := range []*hub.Snapshot{s, later} {
		if err := s.Download(t.Context(), everything...); err != nil {
			t.Error(err)
		}
		if got, err := s.ReadFile("model.safetensors"); err != nil || !bytes.Equal(got, content["model.safetensors"].Data) {
			t.Error(err)
		}
	}
	if r := srv.Requests(); len(r) != 1 || r[0].Stage != hubtest.API {
		t.Errorf("requests for what is cached: %v", r)
	}
}

func TestOffline(t *testing.T) {
	srv, o, content := cached(t, 100_000)
	online := snapshot(t, newClient(t, o), "org/tiny", "")
	if err := online.Download(t.Context(), "config.json", "model.safetensors", "1_Pooling/config.json"); err != nil {
		t.Fatal(err)
	}
	srv.Close()
	o.Offline = true
	c := newClient(t, o)
	for _, rev := range []string{"", "main", online.Commit()} {
		s := snapshot(t, c, "org/tiny", rev)
		if s.Commit() != online.Commit() || len(s.Files()) != 3 {
			t.Errorf("%q: commit %s, files %v", rev, s.Commit(), s.Files())
		}
		if err := fstest.TestFS(s, "config.json", "model.safetensors", "1_Pooling/config.json"); err != nil {
			t.Error(err)
		}
		got, err := readAll(open(t, s, "model.safetensors"), 9999)
		if err != nil || !bytes.Equal(got, content["model.safetensors"].Data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if err := s.Verify(t.Context()); err != nil || s.BytesRead() != 0 {
			t.Errorf("verify: %v; %d bytes from the network", err, s.BytesRead())
		}
		if _, err := s.Open("empty.txt"); !errors.Is(err, hub.ErrEntryNotFound) || !strings.Contains(err.Error(), "HF_HUB_OFFLINE") {
			t.Errorf("not cached: %v", err)
		}
	}
	for _, ref := range [][2]string{{"org/tiny", "v2"}, {"org/other", ""}, {"org/tiny", strings.Repeat("b", 40)}} {
		if _, err := c.Snapshot(t.Context(), ref[0], ref[1]); !errors.Is(err, hub.ErrOffline) || !strings.Contains(err.Error(), "HF_HUB_OFFLINE") {
			t.Errorf("%v: %v", ref, err)
		}
	}
	if _, err := c.OpenURL(t.Context(), "https://example.com/x"); !errors.Is(err, hub.ErrOffline) {
		t.Errorf("URL: %v", err)
	}

	// A network that is down says that the cache has it.
	o.Offline = false
	if _, err := newClient(t, o).Snapshot(t.Context(), "org/tiny", ""); !errors.Is(err, hub.ErrUnavailable) || !strings.Contains(err.Error(), "HF_HUB_OFFLINE=1 to use commit "+online.Commit()) {
		t.Errorf("network down: %v", err)
	}
}

func TestCachedFileIsVerifiedWhenAsked(t *testing.T) {
	_, o, _ := cached(t, 100_000)
	s := snapshot(t, newClient(t, o), "org/tiny", "")
	if err := s.Download(t.Context(), "model.safetensors"); err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(o.CacheDir, "models--org--tiny", "blobs", s.Files()[3].SHA256)
	data, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	data[50_000] ^= 1
	if err := os.WriteFile(blob, data, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadFile("model.safetensors"); err != nil {
		t.Fatal(err)
	}
	if p := s.Unverified(); len(p) != 1 || !p[0].Local || p[0].Bytes != 100_000 {
		t.Errorf("unverified: %+v", p)
	}
	if err := s.Verify(t.Context()); !errors.Is(err, hub.ErrMismatch) {
		t.Errorf("verify: %v", err)
	}
}

// TestDownloadGoesOn: an interrupted download keeps its prefix, and the next one fetches the rest alone.
func TestDownloadGoesOn(t *testing.T) {
	srv, o, content := cached(t, 30<<20)
	c := newClient(t, o)
	s := snapshot(t, c, "org/tiny", "")
	remove := srv.Inject(hubtest.Fault{Stage: hubtest.CDN, Skip: 4, Status: 500})
	if err := s.Download(t.Context(), "model.safetensors"); !errors.Is(err, hub.ErrUnavailable) {
		t.Fatalf("%v", err)
	}
	remove()
	blob := filepath.Join(o.CacheDir, "models--org--tiny", "blobs", s.Files()[3].SHA256)
	st, err := os.Stat(blob + ".incomplete")
	if err != nil {
		t.Fatal(err)
	}
	part, _ := os.ReadFile(blob + ".incomplete")
	if !bytes.HasPrefix(content["model.safetensors"].Data, part) {
		t.Fatal("what is there is no prefix of the file")
	}
	srv.ResetLog()
	if err := s.Download(t.Context(), "model.safetensors"); err != nil {
		t.Fatal(err)
	}
	if n := srv.BytesSent(hubtest.CDN); n != 30<<20-st.Size() {
		t.Errorf("%d bytes for the rest of %d", n, 30<<20-st.Size())
	}

	// A prefix of something else is found out and replaced.
	os.Remove(blob)
	os.RemoveAll(filepath.Join(o.CacheDir, "models--org--tiny", "snapshots"))
	if err := os.WriteFile(blob+".incomplete", random(1<<20, 99), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := s.Download(t.Context(), "model.safetensors"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(blob); err != nil || !bytes.Equal(got, content["model.safetensors"].Data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestDownloadThroughFaults(t *testing.T) {
	for _, fault := range []hubtest.Fault{
		{Stage: hubtest.CDN, DropAfter: 800_000},
		{Stage: hubtest.CDN, IgnoreRange: true},
		{Stage: hubtest.CDN, Status: 503, Times: 3},
	} {
		srv, o, content := cached(t, 13<<20)
		srv.Inject(fault)
		s := snapshot(t, newClient(t, o), "org/tiny", "")
		if err := s.Download(t.Context(), "model.safetensors"); err != nil {
			t.Errorf("%+v: %v", fault, err)
			continue
		}
		if got, err := s.ReadFile("model.safetensors"); err != nil || !bytes.Equal(got, content["model.safetensors"].Data) {
			t.Errorf("%+v: %v", fault, err)
		}
	}
	srv, o, _ := cached(t, 13<<20)
	srv.Inject(hubtest.Fault{Stage: hubtest.CDN, CorruptAt: 5 << 20})
	s := snapshot(t, newClient(t, o), "org/tiny", "")
	if err := s.Download(t.Context(), "model.safetensors"); !errors.Is(err, hub.ErrMismatch) {
		t.Errorf("corrupted: %v", err)
	}
	blobs, _ := filepath.Glob(filepath.Join(o.CacheDir, "models--org--tiny", "blobs", "*"))
	links, _ := filepath.Glob(filepath.Join(o.CacheDir, "models--org--tiny", "snapshots", "*", "*"))
	if len(blobs)+len(links) != 0 {
		t.Errorf("left behind: %v %v", blobs, links)
	}
}

func TestDownloadsTakeTurns(t *testing.T) {
	srv, o, _ := cached(t, 9<<20)
	srv.SetLatency(5 * time.Millisecond)
	var wg sync.WaitGroup
	for range 4 {
		s := snapshot(t, newClient(t, o), "org/tiny", "")
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := s.Download(context.Background(), everything...); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if n := srv.BytesSent(hubtest.CDN); n != 9<<20 {
		t.Errorf("%d bytes sent for a file of %d", n, 9<<20)
	}
}
