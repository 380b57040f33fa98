package hub_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/modelpipe/modelpipe/hub"
	"github.com/modelpipe/modelpipe/hub/hubtest"
)

const token = "hf_secretTokenOfTheTest"

// noise is made once: filling it takes longer than most tests.
var noise = sync.OnceValue(func() []byte {
	p := make([]byte, 0, 64<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for len(p) < cap(p) {
		p = binary.LittleEndian.AppendUint64(p, r.Uint64())
	}
	return p
})

// random returns n <= 60 MiB reproducible bytes, others for each seed, to be read only.
func random(n int, seed int) []byte { return noise()[seed*1001:][:n:n] }

// tiny is a repository with a file in git, one in a folder, and a weight file of the given size in LFS.
func tiny(size int) fstest.MapFS {
	return fstest.MapFS{
		"config.json":           {Data: []byte(`{"architectures":["LlamaForCausalLM"]}`)},
		"1_Pooling/config.json": {Data: []byte(`{"word_embedding_dimension":384}`)},
		"empty.txt":             {Data: nil},
		"model.safetensors":     {Data: random(size, 7)},
	}
}

// quick retries without making the tests slow.
var quick = hub.Retry{Attempts: 4, Base: time.Millisecond, Cap: 5 * time.Millisecond, MaxWait: 3 * time.Second}

func newClient(t testing.TB, o hub.Options) *hub.Client {
	t.Helper()
	if o.Retry == (hub.Retry{}) {
		o.Retry = quick
	}
	c, err := hub.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func snapshot(t testing.TB, c *hub.Client, repo, rev string) *hub.Snapshot {
	t.Helper()
	s, err := c.Snapshot(context.Background(), repo, rev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func open(t testing.TB, s *hub.Snapshot, name string) hub.File {
	t.Helper()
	f, err := s.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f.(hub.File)
}

// serve starts a Hub with org/tiny and a client with a token.
func serve(t testing.TB, fsys fs.FS) (*hubtest.Server, *hub.Client) {
	t.Helper()
	srv := hubtest.NewServer(t)
	srv.AddRepo(hubtest.Repo{ID: "org/tiny", FS: fsys, Tokens: []string{token}})
	return srv, newClient(t, hub.Options{Endpoint: srv.URL, Token: token, TokenFrom: "HF_TOKEN"})
}

// readAll reads a file in order with reads of the given size.
func readAll(f hub.File, chunk int) ([]byte, error) {
	out := make([]byte, 0, f.Size())
	buf := make([]byte, chunk)
	for off := int64(0); off < f.Size(); {
		n, err := f.ReadAt(buf, off)
		out = append(out, buf[:n]...)
		off += int64(n)
		if err != nil && err != io.EOF {
			return out, err
		}
	}
	return out, nil
}

func TestSnapshotIsAFileSystem(t *testing.T) {
	_, c := serve(t, tiny(100_000))
	s := snapshot(t, c, "org/tiny", "")
	if err := fstest.TestFS(s, "config.json", "1_Pooling/config.json", "empty.txt", "model.safetensors"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open("no.json"); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, hub.ErrEntryNotFound) {
		t.Errorf("open of a missing file: %v", err)
	}
	if err := s.Verify(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestSnapshotIsPinned(t *testing.T) {
	srv, c := serve(t, tiny(1000))
	s := snapshot(t, c, "org/tiny", "main")
	srv.Push("org/tiny", "main", fstest.MapFS{"config.json": {Data: []byte("{}")}})
	data, err := s.ReadFile("config.json")
	if err != nil || !bytes.Contains(data, []byte("Llama")) {
		t.Fatalf("after a push: %q, %v", data, err)
	}
	if len(s.Commit()) != 40 {
		t.Errorf("commit %q", s.Commit())
	}
	byCommit := snapshot(t, c, "org/tiny", s.Commit())
	if len(byCommit.Files()) != 4 {
		t.Errorf("by commit: %v", byCommit.Files())
	}
	srv.Push("org/tiny", "refs/pr/1", tiny(10))
	if pr := snapshot(t, c, "org/tiny", "refs/pr/1"); pr.Commit() == s.Commit() {
		t.Error("refs/pr/1 is main")
	}
}

func TestFilesNameSizesAndDigests(t *testing.T) {
	content := tiny(70_000)
	sum := sha256.Sum256(content["model.safetensors"].Data)
	for _, bare := range []bool{false, true} {
		srv, c := serve(t, content)
		srv.SetBareListing(bare)
		srv.SetPageSize(1)
		files := snapshot(t, c, "org/tiny", "").Files()
		if len(files) != 4 {
			t.Fatalf("bare %v: %v", bare, files)
		}
		want := hub.Entry{Path: "model.safetensors", Size: 70_000, SHA256: hex.EncodeToString(sum[:]), BlobID: files[3].BlobID}
		if files[3] != want {
			t.Errorf("bare %v: %+v, want %+v", bare, files[3], want)
		}
		if files[1].SHA256 != "" || len(files[1].BlobID) != 40 {
			t.Errorf("bare %v: git file %+v", bare, files[1])
		}
	}
}

func TestHeadersAloneAreCheap(t *testing.T) {
	srv, c := serve(t, tiny(40<<20))
	s := snapshot(t, c, "org/tiny", "")
	f := open(t, s, "model.safetensors")
	before := s.BytesRead()
	buf := make([]byte, 30_000)
	if _, err := f.ReadAt(buf[:8], 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(buf, 8); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if n := s.BytesRead() - before; n > 35_000 {
		t.Errorf("%d bytes for a header of 30 KB", n)
	}
	if n := srv.BytesSent(hubtest.CDN); n > 35_000 {
		t.Errorf("the CDN sent %d bytes for a header of 30 KB", n)
	}
}

func TestReadInOrderFetchesEveryByteOnce(t *testing.T) {
	content := tiny(50<<20 + 12345)
	for _, chunk := range []int{100_000, 1 << 20, 5_000_000, 64 << 20} {
		srv, c := serve(t, content)
		s := snapshot(t, c, "org/tiny", "")
		got, err := readAll(open(t, s, "model.safetensors"), chunk)
		if err != nil || !bytes.Equal(got, content["model.safetensors"].Data) {
			t.Fatalf("chunk %d: %d bytes, %v", chunk, len(got), err)
		}
		if p := s.Unverified(); len(p) != 0 {
			t.Errorf("chunk %d: unverified %v", chunk, p)
		}
		if n, size := srv.BytesSent(hubtest.CDN), int64(len(got)); n > size+100_000 {
			t.Errorf("chunk %d: %d bytes sent for a file of %d", chunk, n, size)
		}
	}
}

// TestWorkersInRoughOrder is how a conversion reads: header, then ranges that several workers take in ascending order.
func TestWorkersInRoughOrder(t *testing.T) {
	content := tiny(59<<20 + 999)
	data := content["model.safetensors"].Data
	srv, c := serve(t, content)
	srv.SetLatency(2 * time.Millisecond)
	s := snapshot(t, c, "org/tiny", "")
	f := open(t, s, "model.safetensors")
	header := make([]byte, 50_000)
	f.ReadAt(header[:8], 0)
	f.ReadAt(header, 8)

	const chunk = 1<<20 + 17
	work := make(chan int64)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := rand.New(rand.NewPCG(uint64(w), 1))
			buf := make([]byte, chunk)
			for off := range work {
				time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond)
				n, err := f.ReadAt(buf[:min(chunk, f.Size()-off)], off)
				if err != nil && err != io.EOF || !bytes.Equal(buf[:n], data[off:off+int64(n)]) {
					t.Errorf("at %d: %v", off, err)
				}
			}
		}()
	}
	for off := int64(50_008); off < f.Size(); off += chunk {
		if off > 20<<20 && off < 22<<20 {
			continue // a tensor that nobody wants
		}
		work <- off
	}
	close(work)
	wg.Wait()
	if p := s.Unverified(); len(p) != 0 {
		t.Errorf("unverified: %+v", p)
	}
	if n := srv.BytesSent(hubtest.CDN); n > int64(len(data))+6<<20 {
		t.Errorf("%d bytes sent for a file of %d", n, len(data))
	}
}

func TestRandomReadsAreRight(t *testing.T) {
	content := tiny(9<<20 + 3)
	data := content["model.safetensors"].Data
	_, c := serve(t, content)
	s := snapshot(t, c, "org/tiny", "")
	f := open(t, s, "model.safetensors")
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := rand.New(rand.NewPCG(uint64(w), 2))
			for range 60 {
				off := r.Int64N(f.Size())
				p := make([]byte, 1+r.IntN(1<<uint(r.IntN(22))))
				n, err := f.ReadAt(p, off)
				short := int64(len(p)) > f.Size()-off
				if short != (err == io.EOF) || err != nil && err != io.EOF || !bytes.Equal(p[:n], data[off:off+int64(n)]) {
					t.Errorf("read %d at %d: %d, %v", len(p), off, n, err)
				}
			}
		}()
	}
	wg.Wait()
	if err := s.Verify(context.Background()); err != nil {
		t.Error(err)
	}
	if p := s.Unverified(); len(p) != 0 {
		t.Errorf("unverified after Verify: %v", p)
	}
}

func TestCorruption(t *testing.T) {
	content := tiny(20 << 20)
	for _, chunk := range []int{1 << 20, 30 << 20} {
		srv, c := serve(t, content)
		srv.Inject(hubtest.Fault{Stage: hubtest.CDN, CorruptAt: 11 << 20})
		s := snapshot(t, c, "org/tiny", "")
		_, err := readAll(open(t, s, "model.safetensors"), chunk)
		if !errors.Is(err, hub.ErrMismatch) || !strings.Contains(err.Error(), "model.safetensors") {
			t.Errorf("chunk %d: %v", chunk, err)
		}
		if err := s.Verify(context.Background()); !errors.Is(err, hub.ErrMismatch) {
			t.Errorf("verify: %v", err)
		}
		if err := s.Close(); !errors.Is(err, hub.ErrMismatch) {
			t.Errorf("close: %v", err)
		}
	}
	srv, c := serve(t, content)
	srv.Inject(hubtest.Fault{Stage: hubtest.Cache, Corrupt: true})
	s := snapshot(t, c, "org/tiny", "")
	if _, err := s.ReadFile("config.json"); !errors.Is(err, hub.ErrMismatch) {
		t.Errorf("git file: %v", err)
	}
	// What was read in part is verified when asked for.
	srv, c = serve(t, content)
	srv.Inject(hubtest.Fault{Stage: hubtest.CDN, CorruptAt: 11 << 20})
	s = snapshot(t, c, "org/tiny", "")
	if _, err := open(t, s, "model.safetensors").ReadAt(make([]byte, 100), 0); err != nil {
		t.Fatal(err)
	}
	if p := s.Unverified(); len(p) != 1 || p[0].Path != "model.safetensors" || p[0].Bytes < 19<<20 {
		t.Errorf("unverified: %+v", p)
	}
	if err := s.Verify(context.Background()); !errors.Is(err, hub.ErrMismatch) {
		t.Errorf("verify: %v", err)
	}
}
