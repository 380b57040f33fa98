//go:build unix

package edge

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/trust"
	"github.com/modelpipe/modelpipe/publish"
)

// TestPlantedLinks plants links wherever the node writes: it must neither
// write through one nor serve what one leads to, and end well all the same.
func TestPlantedLinks(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	data := modelFile("one", 1, 10, 0)
	s.offer("alpha", data)
	hex := sha(data)
	for _, name := range []string{
		"blobs", "blobs/sha256", "pieces", "releases", "objects", "trust", "trust/metadata", "trust/targets",
		"state.json", ".state.json.new", ".lock", "current", ".current.new",
		"blobs/sha256/" + hex, "blobs/sha256/" + hex + ".partial", "blobs/sha256/" + hex + ".partial.journal",
		"pieces/" + hex + ".json", "releases/1", "releases/.1.new", "trust/first.root.json", "trust/metadata/timestamp.json", "poll.json",
	} {
		for _, kind := range []string{"link to a folder", "link to a file", "dangling link", "hard link", "pipe", "folder"} {
			outside := t.TempDir()
			secret := filepath.Join(outside, "secret")
			if err := os.WriteFile(secret, data[:1000], 0o644); err != nil { // the beginning of what will be fetched
				t.Fatal(err)
			}
			root := t.TempDir()
			at := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				t.Fatal(err)
			}
			var err error
			switch kind {
			case "link to a folder":
				err = os.Symlink(outside, at)
			case "link to a file":
				err = os.Symlink(secret, at)
			case "dangling link":
				err = os.Symlink(filepath.Join(outside, "fresh"), at)
			case "hard link":
				err = os.Link(secret, at)
			case "pipe":
				err = syscall.Mkfifo(at, 0o644)
			case "folder":
				err = os.Mkdir(at, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
			o := s.options(root)
			n, err := New(o)
			if err == nil {
				_, err = n.Sync(t.Context())
				n.Close()
			}
			// A person's folder is not taken away, and nobody's root of keys is
			// taken for another.
			refused := kind == "folder" && name == "current" || name == "trust/first.root.json"
			if (err != nil) != refused {
				t.Errorf("%s is a %s: %v", name, kind, err)
			}
			if err == nil {
				s.serves(root, "alpha", data)
			}
			got, err := os.ReadFile(secret)
			if err != nil || string(got) != string(data[:1000]) {
				t.Errorf("%s is a %s: what it leads to was changed: %v", name, kind, err)
			}
			if names, err := os.ReadDir(outside); err != nil || len(names) != 1 {
				t.Errorf("%s is a %s: something was written outside: %v, %v", name, kind, names, err)
			}
		}
	}
}

// TestDamage changes what is current: the next round makes it good.
func TestDamage(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	data := modelFile("one", 1, 10, 0)
	s.offer("alpha", data)
	root := t.TempDir()
	n := node(t, s.options(root))
	synced(t, n)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	served := func() string { return filepath.Join(root, "current", "alpha", "Q8_0", "alpha.gguf") }
	blob := filepath.Join(root, "blobs", "sha256", sha(data))
	replace := func(name, target string) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(name), os.Symlink(target, name)); err != nil {
			t.Fatal(err)
		}
	}
	for what, harm := range map[string]func(){
		"a link that leads elsewhere": func() { replace(served(), secret) },
		"a link gone":                 func() { os.Remove(served()) },
		"a file in place of a link": func() {
			os.Remove(served())
			os.WriteFile(served(), []byte("other"), 0o644)
		},
		"a folder replaced by a link": func() {
			dir := filepath.Join(filepath.Dir(root), "elsewhere")
			os.MkdirAll(dir, 0o755)
			os.WriteFile(filepath.Join(dir, "alpha.gguf"), []byte("other"), 0o644)
			replace(filepath.Join(root, "current", "alpha", "Q8_0"), dir)
		},
		"a blob that is a link": func() { replace(blob, secret) },
		"a blob that was written to": func() {
			os.Chmod(blob, 0o644)
			os.WriteFile(blob, append([]byte("x"), data[1:]...), 0o644)
		},
		"a blob gone":           func() { os.Remove(blob) },
		"current elsewhere":     func() { replace(filepath.Join(root, "current"), filepath.Dir(secret)) },
		"current climbs":        func() { replace(filepath.Join(root, "current"), "releases/../../elsewhere") },
		"current gone":          func() { os.Remove(filepath.Join(root, "current")) },
		"the releases gone":     func() { os.RemoveAll(filepath.Join(root, "releases")) },
		"release.json nonsense": func() { os.WriteFile(filepath.Join(root, "current", "release.json"), []byte("{"), 0o644) },
		"the state nonsense":    func() { os.WriteFile(filepath.Join(root, "state.json"), []byte("{"), 0o644) },
		"objects nonsense": func() {
			os.Remove(filepath.Join(root, "state.json"))
			names, _ := os.ReadDir(filepath.Join(root, "objects"))
			for _, e := range names {
				os.WriteFile(filepath.Join(root, "objects", e.Name()), []byte("{}"), 0o644)
			}
		},
	} {
		harm()
		n.Close()
		n = node(t, s.options(root))
		if _, err := n.Sync(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		s.serves(root, "alpha", data)
		if got, err := os.ReadFile(secret); err != nil || string(got) != "secret" {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
}

// TestTwoDaemons lets a second process in only when the first has gone.
func TestTwoDaemons(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	s.offer("alpha", modelFile("one", 1, 3, 0))
	o := s.options(t.TempDir())
	n := node(t, o)
	if _, err := New(o); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "another process syncs this folder") {
		t.Errorf("got %v", err)
	}
	n.Close()
	synced(t, node(t, o))
}

// TestClock sets the clock a year ahead, a year back, and right again.
func TestClock(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	one, two := modelFile("one", 1, 3, 0), modelFile("two", 2, 3, 0)
	s.offer("alpha", one)
	o := s.options(t.TempDir())
	off := time.Duration(0)
	o.Now = func() time.Time { return s.clock().Add(off) }
	n := node(t, o)
	synced(t, n)
	s.offer("alpha", two)
	off = 365 * 24 * time.Hour
	fails(t, n, trust.ErrExpired, "has expired", "the clock here says 2027-11-01T12:00:0")
	s.serves(o.Root, "alpha", one) // and goes on to
	off = -off
	synced(t, n) // nothing can be told to be too old, but nothing older is believed
	s.serves(o.Root, "alpha", two)
	off = 0
	synced(t, n)
	s.serves(o.Root, "alpha", two)
}

// TestRollback shows the node a store that was set back, and one of somebody
// else.
func TestRollback(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	one, two := modelFile("one", 1, 3, 0), modelFile("two", 2, 3, 0)
	s.offer("alpha", one)
	before := filepath.Join(t.TempDir(), "before")
	if err := os.CopyFS(before, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	s.offer("alpha", two)
	o := s.options(t.TempDir())
	n := node(t, o)
	synced(t, n)
	n.Close()
	o.Catalog = before
	n = node(t, o)
	fails(t, n, trust.ErrUntrusted)
	s.serves(o.Root, "alpha", two)
	n.Close()
	thief := newShop(t, "alpha")
	thief.offer("alpha", modelFile("evil", 3, 3, 0))
	o.Catalog = thief.dir
	n = node(t, o)
	fails(t, n, trust.ErrUntrusted)
	s.serves(o.Root, "alpha", two)
	n.Close()
	o.Root, o.FirstUse = t.TempDir(), false
	fails(t, node(t, o), trust.ErrUntrusted, "no root of keys is trusted yet")
}

// TestErrorPages lets the store answer 200 with a page, to some or to all.
func TestErrorPages(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	one, two := modelFile("one", 1, 3, 0), modelFile("two", 2, 3, 0)
	s.offer("alpha", one)
	page := ""
	web := serve(t, s.dir, nil)
	web.decide = func(r *http.Request) fault {
		if page != "" && strings.Contains(r.URL.Path, page) {
			return faultPage
		}
		return faultNone
	}
	o := s.options(t.TempDir())
	o.Catalog = web.URL
	n := node(t, o)
	synced(t, n)
	s.offer("alpha", two)
	for _, page = range []string{"/", "timestamp", "snapshot", "channel", "objects"} {
		fails(t, n, publish.ErrUnavailable, "answered 200 with a web page, not with the object")
		s.serves(o.Root, "alpha", one)
	}
	page = ".gguf"
	fails(t, n, publish.ErrMismatch, "answered 200 with 40 bytes", "text/html")
	s.serves(o.Root, "alpha", one)
	page = "pieces.json" // only costs that the file is fetched whole
	synced(t, n)
	s.serves(o.Root, "alpha", two)
}

// TestFullDisk fills the disk: before, in the midst, and for good.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	one, two := modelFile("one", 1, 40, 0), modelFile("two", 2, 40, 0)
	s.offer("alpha", one)
	o := s.options(t.TempDir())
	o.KeepFree = 1 << 20
	room := int64(1 << 40)
	var left atomic.Int64 // bytes until a write fails
	left.Store(1 << 40)
	n, err := open(o, func(op, name string) error {
		if op != "write" || !strings.HasSuffix(name, ".partial") {
			return nil
		}
		if left.Add(-bufferBytes) < 0 {
			return &fs.PathError{Op: "write", Path: name, Err: syscall.ENOSPC}
		}
		return nil
	}, func(string) (int64, error) { return room, nil })
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	synced(t, n)
	s.offer("alpha", two)
	room = int64(len(two))
	fails(t, n, ErrFull, "bytes are needed (1048576 of them are to stay free)", "model alpha, release 2")
	if _, err := os.Stat(filepath.Join(o.Root, "blobs", "sha256", sha(two)+".partial")); err == nil {
		t.Error("something was fetched")
	}
	room = 1 << 40
	left.Store(int64(len(two)) * 99 / 100)
	r := fails(t, n, ErrFull, "no space left on device", "what has arrived is kept for the next try")
	if r.Fetched == 0 {
		t.Errorf("got %+v", r)
	}
	s.serves(o.Root, "alpha", one)
	left.Store(1 << 40)
	if r = synced(t, n); r.Resumed == 0 {
		t.Errorf("nothing was gone on with: %+v", r)
	}
	s.serves(o.Root, "alpha", two)
}

// TestEvict makes room by the policies.
func TestEvict(t *testing.T) {
	t.Parallel()
	one, two, three := modelFile("one", 1, 10, 0), modelFile("two", 2, 10, 0), modelFile("three", 3, 10, 0)
	files := [][]byte{one, two, three}
	for _, c := range []struct {
		policy string
		fits   int // files that may be there at once
		fails  bool
	}{
		{EvictNever, 3, false}, {EvictNever, 2, true}, {EvictUnused, 3, false}, {EvictUnused, 2, true}, {EvictPrevious, 2, false}, {EvictPrevious, 1, true},
	} {
		s := newShop(t, "alpha")
		o := s.options(t.TempDir())
		o.Evict = c.policy
		blobs := filepath.Join(o.Root, "blobs", "sha256")
		n, err := open(o, nil, func(string) (int64, error) {
			free := int64(c.fits)*int64(len(one)+8192) + 1<<20
			names, err := os.ReadDir(blobs)
			for _, e := range names {
				if info, err := e.Info(); err == nil {
					free -= info.Size()
				}
			}
			return free, err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		failed := false
		for i, f := range files {
			s.offer("alpha", f)
			_, err := n.Sync(t.Context())
			if err == nil {
				s.serves(o.Root, "alpha", f)
				continue
			}
			if !errors.Is(err, ErrFull) {
				t.Fatalf("%s, %d fit: %v", c.policy, c.fits, err)
			}
			failed = true
			s.serves(o.Root, "alpha", files[i-1])
			break
		}
		if failed != c.fails {
			t.Errorf("%s, %d fit: failed %v, want %v", c.policy, c.fits, failed, c.fails)
		}
	}
}

// TestWithdrawn takes a release back in every situation of a node.
func TestWithdrawn(t *testing.T) {
	t.Parallel()
	one, two := modelFile("one", 1, 3, 0), modelFile("two", 2, 3, 0)
	t.Run("goes back", func(t *testing.T) {
		s := newShop(t, "alpha")
		s.offer("alpha", one)
		o := s.options(t.TempDir())
		n := node(t, o)
		synced(t, n)
		v := s.offer("alpha", two)
		synced(t, n)
		s.withdraw("alpha", v, "wrong template")
		synced(t, n)
		s.serves(o.Root, "alpha", one)
	})
	t.Run("pinned", func(t *testing.T) {
		s := newShop(t, "alpha")
		v := s.offer("alpha", one)
		s.offer("alpha", two)
		o := s.options(t.TempDir())
		o.Pins = []Pin{{"alpha", v}}
		n := node(t, o)
		synced(t, n)
		s.serves(o.Root, "alpha", one)
		s.withdraw("alpha", v, "leaks data")
		fails(t, n, ErrWithdrawn, "model alpha: release 1, to which it is pinned, was withdrawn at 2026-11-01T12:00:02Z: leaks data: the pin is passed over")
		s.serves(o.Root, "alpha", two)
		o.Pins = []Pin{{"alpha", 9}}
		n.Close()
		fails(t, node(t, o), nil, "release 9, to which it is pinned, is not in the catalog")
		s.serves(o.Root, "alpha", two)
	})
	t.Run("the next one cannot be had", func(t *testing.T) {
		s := newShop(t, "alpha", "beta")
		v := s.offer("alpha", one)
		s.offer("beta", one)
		o := s.options(t.TempDir())
		n := node(t, o)
		synced(t, n)
		id := s.put("alpha", two)
		s.release("alpha", id)
		os.Remove(filepath.Join(s.dir, catalog.VariantDir("alpha", id), "alpha.gguf"))
		s.withdraw("alpha", v, "leaks data")
		fails(t, n, fs.ErrNotExist, "model alpha, release 2")
		s.serves(o.Root, "alpha", nil)
		s.serves(o.Root, "beta", one)
	})
	t.Run("the next one is not well", func(t *testing.T) {
		s := newShop(t, "alpha")
		v := s.offer("alpha", one)
		o := s.options(t.TempDir())
		o.Health = Health{Command: `test ! -e "$MODELPIPE_CURRENT/alpha" || ! grep -q unwell "$MODELPIPE_CURRENT/alpha/Q8_0/alpha.gguf"`, Timeout: 10 * time.Second}
		n := node(t, o)
		synced(t, n)
		s.release("alpha", s.put("alpha", modelFile("unwell", 3, 3, 0)))
		s.withdraw("alpha", v, "leaks data")
		fails(t, n, ErrUnhealthy)
		s.serves(o.Root, "alpha", nil) // there is nothing that may be served and is well
		// A file that was withdrawn is not given to peers either.
		if _, ok := n.status().files[sha(one)]; ok {
			t.Error("what was withdrawn is served to peers")
		}
	})
}

// TestHealth takes releases back that are not well.
func TestHealth(t *testing.T) {
	t.Parallel()
	one, two, three := modelFile("one", 1, 3, 0), modelFile("two", 2, 3, 0), modelFile("three", 3, 3, 0)
	well := handlerServer(t, answer(200))
	for name, c := range map[string]struct {
		health Health
		words  []string
	}{
		"command":      {Health{Command: `echo "no: $MODELPIPE_RELEASE" >&2; ! grep -q two "$MODELPIPE_CURRENT"/alpha/Q8_0/alpha.gguf`}, []string{"health command: exit status 1", "no: 2"}},
		"hanging":      {Health{Command: `if grep -q two "$MODELPIPE_CURRENT"/alpha/Q8_0/alpha.gguf; then sleep 1000 & sleep 1000; fi`, Timeout: 300 * time.Millisecond}, []string{"health command: no answer within 300ms"}},
		"both":         {Health{Command: `! grep -q two "$MODELPIPE_CURRENT"/alpha/Q8_0/alpha.gguf`, URL: well}, []string{"exit status 1"}},
		"killed by it": {Health{Command: `if grep -q two "$MODELPIPE_CURRENT"/alpha/Q8_0/alpha.gguf; then kill -9 $$; fi`}, []string{"signal: killed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, "alpha")
			o := s.options(t.TempDir())
			o.Health = c.health
			if o.Health.Timeout == 0 {
				o.Health.Timeout = 20 * time.Second
			}
			n := node(t, o)
			s.offer("alpha", one)
			synced(t, n)
			s.offer("alpha", two)
			began := time.Now()
			fails(t, n, ErrUnhealthy, append(c.words, "release 1 is current again")...)
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("took %v", took)
			}
			s.serves(o.Root, "alpha", one)
			if r := fails(t, n, ErrUnhealthy, "is tried again after 2026-11-01T13:00:0"); r.Changed {
				t.Errorf("it was tried again at once: %+v", r)
			}
			s.pass(2 * time.Hour)
			if r := fails(t, n, ErrUnhealthy, c.words...); !r.Changed {
				t.Errorf("it was not tried again: %+v", r)
			}
			s.offer("alpha", three)
			synced(t, n)
			s.serves(o.Root, "alpha", three)
		})
	}
}

// TestHealthAddress asks a server until it is well.
func TestHealthAddress(t *testing.T) {
	asked := 0
	flaky := handlerServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked < 3 {
			w.WriteHeader(503)
		}
	}))
	r := &Release{Number: 1}
	if err := (Health{URL: flaky, Timeout: 20 * time.Second}).check(t.Context(), r, ""); err != nil || asked != 3 {
		t.Errorf("got %v after %d requests", err, asked)
	}
	err := Health{URL: handlerServer(t, answer(500)), Timeout: 100 * time.Millisecond}.check(t.Context(), r, "")
	if err == nil || !strings.Contains(err.Error(), "no answer within 100ms: last 500 Internal Server Error") {
		t.Errorf("got %v", err)
	}
}

// TestOffline lets a node miss twenty releases.
func TestOffline(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	s.offer("alpha", modelFile("zero", 1, 10, 0))
	o := s.options(t.TempDir())
	n := node(t, o)
	synced(t, n)
	var last []byte
	for i := range 20 {
		last = modelFile(strings.Repeat("x", i+1), 1, 10, 0)
		s.offer("alpha", last)
		s.pass(12 * time.Hour)
	}
	s.sign()
	r := synced(t, n)
	if r.Release != 2 || r.Fetched*20 > int64(len(last)) {
		t.Errorf("got %+v", r)
	}
	s.serves(o.Root, "alpha", last)
}

// TestPartOfARound lets one of two models fail: the other one comes.
func TestPartOfARound(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha", "beta")
	one, two, three := modelFile("one", 1, 3, 0), modelFile("two", 2, 3, 0), modelFile("three", 3, 3, 0)
	s.offer("alpha", one)
	s.offer("beta", one)
	o := s.options(t.TempDir())
	n := node(t, o)
	synced(t, n)
	id := s.put("alpha", two)
	s.release("alpha", id)
	lost := filepath.Join(s.dir, catalog.VariantDir("alpha", id), "alpha.gguf")
	if err := os.Rename(lost, lost+".away"); err != nil {
		t.Fatal(err)
	}
	s.offer("beta", three)
	fails(t, n, fs.ErrNotExist, "model alpha, release 2: alpha.gguf")
	s.serves(o.Root, "alpha", one)
	s.serves(o.Root, "beta", three)
	if err := os.Rename(lost+".away", lost); err != nil {
		t.Fatal(err)
	}
	synced(t, n)
	s.serves(o.Root, "alpha", two)
}

// TestLongTransfer withdraws a model while another one, which takes many
// rounds, is fetched: it leaves meanwhile, and nothing is fetched twice.
func TestLongTransfer(t *testing.T) {
	t.Parallel()
	for _, pieces := range []bool{true, false} {
		s := newShop(t, "alpha", "beta")
		one, large := modelFile("one", 1, 3, 0), modelFile("large", 2, 30, 20<<20)
		v := s.offer("beta", one)
		o := s.options(t.TempDir())
		n := node(t, o)
		synced(t, n)
		n.Close()
		s.release("alpha", s.putVariant("alpha", "Q8_0", large, pieces))
		s.sign()
		o.Round, o.Limit = 300*time.Millisecond, 16<<20
		n = node(t, o)
		r := synced(t, n)
		s.serves(o.Root, "beta", one)
		if !r.More {
			t.Fatalf("all was fetched at once: %+v", r)
		}
		s.withdraw("beta", v, "it is wrong")
		fetched, rounds := r.Fetched, 1
		for ; r.More; rounds++ {
			r = synced(t, n)
			fetched += r.Fetched
			s.serves(o.Root, "beta", nil)
		}
		s.serves(o.Root, "alpha", large)
		if most := int64(len(large)) + int64(rounds*n.o.Parallel)*bufferBytes; fetched > most {
			t.Errorf("%d of %d bytes in %d rounds", fetched, len(large), rounds)
		}
	}
}
