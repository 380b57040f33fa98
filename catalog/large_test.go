//go:build unix

package catalog

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modelpipe/modelpipe/publish"
)

// counting counts what is read from and written to a store.
type counting struct {
	publish.Store
	gets, puts atomic.Int64
	largest    atomic.Int64
}

func (c *counting) Get(ctx context.Context, name string, limit int64) ([]byte, publish.Version, error) {
	data, v, err := c.Store.Get(ctx, name, limit)
	c.gets.Add(1)
	for n := int64(len(data)); n > c.largest.Load(); {
		c.largest.Store(n)
	}
	return data, v, err
}

func (c *counting) Put(ctx context.Context, name string, data []byte, prior publish.Version) (publish.Version, error) {
	c.puts.Add(1)
	return c.Store.Put(ctx, name, data, prior)
}

// manyModels writes the records of n models of two variants each, and returns
// their curation file. Records are written as files: what is measured is the
// catalog.
func manyModels(t testing.TB, dir string, n int) string {
	t.Helper()
	write := func(name string, data []byte) {
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	var text strings.Builder
	text.WriteString("[serving]\nmax_concurrent_requests = 8\ncache_ttl_seconds = 300\n[[serving.prices]]\nunit = \"input_token\"\nper = 1000000\namount = \"0.049\"\ncurrency = \"USD\"\n")
	for i := range n {
		slug := fmt.Sprintf("model-%06d", i)
		text.WriteString(modelTOML(slug, fmt.Sprintf("aliases = [\"also-%06d\"]\nlanguages = [\"en\", \"de\"]\ntags = [\"chat\", \"t%d\"]", i, i%97)))
		for _, name := range []string{"Q8_0", "Q4_K_M"} {
			r := record(t, slug, name, slug+name, day.Add(time.Duration(i)*time.Second))
			dir := VariantDir(slug, r.Variant.ID)
			var err error
			if r.Variant.Quality, err = readQuality(dir+"/"+ReportName, reportOf(slug+name), digest(slug+name)); err != nil {
				t.Fatal(err)
			}
			data, err := Encode(r)
			if err != nil {
				t.Fatal(err)
			}
			write(dir+"/"+RecordName, data)
		}
	}
	return text.String()
}

func measure(t *testing.T, n int, within time.Duration) {
	ctx := t.Context()
	dir := filepath.Join(t.TempDir(), "store")
	text := manyModels(t, dir, n)
	s := &counting{Store: store(t, dir)}
	var peak atomic.Uint64
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.Sys-m.HeapReleased))
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	fsys := fstest.MapFS{"catalog.toml": {Data: []byte(text)}}
	text = strings.Clone(strings.Replace(text, "A small model.", "Another text.", 1))
	runtime.GC()
	start, used := time.Now(), processor(t)
	c, err := ReadCuration(fsys, "catalog.toml")
	if err != nil {
		t.Fatal(err)
	}
	read := time.Since(start)
	result := build(t, c, s)
	total := time.Since(start)
	close(stop)
	watch.Wait()
	cpu := processor(t) - used
	t.Logf("build of %d models: %.1f s of wall time (of which the curation file %.1f s), %.1f s of the processors, %d objects, %d bytes, at most %d MiB of memory", n, total.Seconds(), read.Seconds(), cpu.Seconds(),
		result.Channels[0].Objects, result.Channels[0].Bytes, peak.Load()>>20)
	// Other work on the machine lengthens the wall time, not this.
	if spent := cpu / time.Duration(min(2, runtime.GOMAXPROCS(0))); spent > within {
		t.Errorf("build took %v of each processor, want at most %v", spent, within)
	}
	if peak.Load() > 1<<30 {
		t.Errorf("build took %d MiB, want at most 1024", peak.Load()>>20)
	}
	before := open(t, s)
	s.puts.Store(0)
	start = time.Now()
	build(t, curation(t, text), s)
	t.Logf("change of one model: %d objects in %.1f s of wall time", s.puts.Load(), time.Since(start).Seconds())
	if s.puts.Load() > 3 {
		t.Errorf("the change of one model wrote %d objects", s.puts.Load())
	}
	parts, gone, err := open(t, s).Changed(ctx, before)
	if err != nil || len(parts) != 1 || len(gone) != 0 {
		t.Errorf("%d parts have changed, %d models are gone: %v", len(parts), len(gone), err)
	}

	s.gets.Store(0)
	s.largest.Store(0)
	if _, err := open(t, s).Lookup(ctx, fmt.Sprintf("model-%06d", n/2)); err != nil {
		t.Fatal(err)
	}
	t.Logf("lookup: %d objects of at most %d bytes", s.gets.Load(), s.largest.Load())
	if s.gets.Load() > 3 || s.largest.Load() > 64<<10 {
		t.Errorf("lookup read %d objects of up to %d bytes", s.gets.Load(), s.largest.Load())
	}
	s.gets.Store(0)
	if _, err := open(t, s).Lookup(ctx, fmt.Sprintf("also-%06d", n/2)); err != nil || s.gets.Load() > 5 {
		t.Errorf("lookup by alias read %d objects: %v", s.gets.Load(), err)
	}

	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	f, err := FromHTTP(server.URL, server.Client())
	if err != nil {
		t.Fatal(err)
	}
	start, used = time.Now(), processor(t)
	r, err := OpenChannel(ctx, f, "stable")
	if err != nil {
		t.Fatal(err)
	}
	work := make(chan Ref)
	var group sync.WaitGroup
	var objects, bytes atomic.Int64
	for range 8 {
		group.Go(func() {
			for ref := range work {
				data, err := r.Fetch(ctx, ref)
				if err != nil {
					t.Error(err)
				}
				objects.Add(1)
				bytes.Add(int64(len(data)))
			}
		})
	}
	for ref, err := range r.Refs(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		work <- ref
	}
	close(work)
	group.Wait()
	took := time.Since(start)
	cpu = processor(t) - used
	t.Logf("first sync over loopback: %d objects, %d bytes of documents in %.1f s of wall time, %.1f s of the processors, the server's among them", objects.Load(), bytes.Load(), took.Seconds(), cpu.Seconds())
	if spent := cpu / time.Duration(min(2, runtime.GOMAXPROCS(0))); spent > 5*time.Second {
		t.Errorf("the first sync took %v of each processor", spent)
	}
}

// processor is the processor time that this process has used.
func processor(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestLargeCatalog holds a catalog of 100,000 models to its bounds.
func TestLargeCatalog(t *testing.T) {
	if os.Getenv("MODELPIPE_LARGE") == "" {
		t.Skip("set MODELPIPE_LARGE=1")
	}
	measure(t, 100_000, time.Minute)
}

// TestManyModels holds a catalog with two levels of indices to the same bounds.
func TestManyModels(t *testing.T) {
	if testing.Short() {
		t.Skip("writes some hundred files to the disk")
	}
	measure(t, 520, time.Minute)
}
