package trust

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/publish/publishtest"
)

var day = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// workshop is a store with a signed channel, and who may sign it.
type workshop struct {
	t     *testing.T
	dir   string // of keys and policy
	store string
	repo  *Repository
	now   time.Time
}

const policyText = `
[root]
keys = ["alice", "bob"]
threshold = 2
[targets]
keys = ["alice"]
[snapshot]
keys = ["online"]
[timestamp]
keys = ["online"]
[channel.stable]
keys = ["release"]
[key.alice]
public = "alice.pub"
sign = "file:alice.pem"
[key.bob]
public = "bob.pub"
sign = "file:bob.pem"
[key.online]
public = "online.pub"
sign = "file:online.pem"
[key.release]
public = "release.pub"
sign = "file:release.pem"
`

func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	w := &workshop{t: t, dir: t.TempDir(), store: filepath.Join(t.TempDir(), "store"), now: day}
	for _, name := range []string{"alice", "bob", "online", "release"} {
		if _, err := Generate(w.dir, name); err != nil {
			t.Fatal(err)
		}
	}
	s, err := publish.OpenStore(w.store)
	if err != nil {
		t.Fatal(err)
	}
	w.repo = &Repository{Store: s, Actor: "tester", Now: func() time.Time { return w.now }}
	w.policy(policyText)
	w.index("one")
	return w
}

func (w *workshop) policy(text string) {
	w.t.Helper()
	name := filepath.Join(w.dir, "trust.toml")
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	p, err := ReadPolicy(name)
	if err != nil {
		w.t.Fatal(err)
	}
	w.repo.Policy = p
}

// index builds an empty catalog whose bytes depend on the text.
func (w *workshop) index(text string) {
	w.t.Helper()
	c := &catalog.Catalog{Schema: catalog.SchemaID, Channel: "stable", Models: []catalog.Model{}, Extensions: catalog.Extensions{"t": json.RawMessage(`"` + text + `"`)}}
	doc, err := catalog.Encode(c)
	if err != nil {
		w.t.Fatal(err)
	}
	ref := catalog.Ref{SHA256: catalog.DigestOf(doc), Size: int64(len(doc))}
	index, err := catalog.Encode(&catalog.Index{Schema: catalog.IndexSchemaID, Channel: "stable", Nodes: []catalog.Ref{ref}})
	if err != nil {
		w.t.Fatal(err)
	}
	for name, data := range map[string][]byte{ref.Name(): doc, catalog.IndexName("stable"): index} {
		if _, err := w.repo.Store.Put(w.t.Context(), name, data, publish.Any); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *workshop) sign() *Result {
	w.t.Helper()
	r, err := w.repo.Sign(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *workshop) read(name string) []byte {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.store, filepath.FromSlash(name)))
	if err != nil {
		w.t.Fatal(err)
	}
	return data
}

// client is a fresh one with the first root.
func (w *workshop) client(f catalog.Fetcher) *Client {
	w.t.Helper()
	if f == nil {
		f = catalog.FromFS(os.DirFS(w.store))
	}
	c, err := NewClient(ClientOptions{Root: w.read("metadata/1.root.json"), Dir: w.t.TempDir(), Fetch: f, Now: func() time.Time { return w.now }})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// text is what the channel says that a client sees.
func text(ctx context.Context, c *Client) (string, error) {
	s, err := c.Refresh(ctx)
	if err != nil {
		return "", err
	}
	r, err := s.Channel(ctx, "stable")
	if err != nil {
		return "", err
	}
	for ref, err := range r.Refs(ctx) {
		if err != nil {
			return "", err
		}
		data, err := r.Fetch(ctx, ref)
		if err != nil {
			return "", err
		}
		part, err := catalog.Decode(data)
		if err != nil {
			return "", err
		}
		return string(part.Extensions["t"]), nil
	}
	return "", errors.New("no part")
}

func (w *workshop) sees(c *Client, want string) {
	w.t.Helper()
	if got, err := text(w.t.Context(), c); err != nil || got != `"`+want+`"` {
		w.t.Fatalf("got %s, %v, want %q", got, err, want)
	}
}

func (w *workshop) refuses(what string, c *Client, is error, want string) {
	w.t.Helper()
	if got, err := text(w.t.Context(), c); !errors.Is(err, is) || !strings.Contains(fmt.Sprint(err), want) {
		w.t.Errorf("%s: got %s, %v, want %q", what, got, err, want)
	}
}

func TestSign(t *testing.T) {
	w := newWorkshop(t)
	r := w.sign()
	if last := r.Written[len(r.Written)-1]; last != "metadata/timestamp.json" || r.Root != 1 || r.Channels[0].Version != 1 {
		t.Errorf("got %+v", r)
	}
	c := w.client(nil)
	w.sees(c, "one")
	// Nothing has changed: nothing is written.
	if r := w.sign(); len(r.Written) != 0 {
		t.Errorf("written: %q", r.Written)
	}
	// Later only the timestamp is.
	w.now = w.now.Add(36 * time.Hour)
	if r := w.sign(); !slices.Equal(r.Written, []string{"metadata/timestamp.json"}) {
		t.Errorf("written: %q", r.Written)
	}
	w.index("two")
	if r := w.sign(); len(r.Written) != 4 || r.Channels[0].Version != 2 {
		t.Errorf("got %+v", r)
	}
	w.sees(c, "two")
	s, err := c.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	anchor, err := s.Anchor(t.Context(), "stable")
	if err != nil || anchor.Sequence != 3 { // rotate, sign, sign
		t.Errorf("got %+v, %v", anchor, err)
	}
	if n, err := catalog.NewLog(w.repo.Store).Verify(t.Context(), w.now, anchor); err != nil || n != 3 {
		t.Errorf("log of %d entries: %v", n, err)
	}
	if err := w.repo.Store.Delete(t.Context(), "log/000000000003.json"); err != nil {
		t.Fatal(err)
	}
	if _, err := catalog.NewLog(w.repo.Store).Verify(t.Context(), w.now, anchor); err == nil {
		t.Error("a log without its end verifies")
	}
	if _, err := s.Channel(t.Context(), "beta"); !errors.Is(err, ErrUntrusted) {
		t.Errorf("a channel that nobody signed: %v", err)
	}
}

// TestPoll counts what a poll costs that finds nothing new.
func TestPoll(t *testing.T) {
	w := newWorkshop(t)
	w.sign()
	var requests, bytes atomic.Int64
	files := http.FileServer(http.Dir(w.store))
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		requests.Add(1)
		files.ServeHTTP(&countingWriter{rw, &bytes}, req)
	}))
	defer server.Close()
	f, err := catalog.FromHTTP(server.URL, server.Client())
	if err != nil {
		t.Fatal(err)
	}
	c := w.client(f)
	w.sees(c, "one")
	t.Logf("first sync: %d requests, %d bytes", requests.Load(), bytes.Load())
	requests.Store(0)
	bytes.Store(0)
	s, err := c.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Channel(t.Context(), "stable"); err != nil {
		t.Fatal(err)
	}
	t.Logf("unchanged poll: %d requests, %d bytes", requests.Load(), bytes.Load())
	if requests.Load() > 2 || bytes.Load() > 10_000 {
		t.Errorf("an unchanged poll took %d requests and %d bytes", requests.Load(), bytes.Load())
	}
	server.Close()
	w.refuses("no server", c, publish.ErrUnavailable, "unavailable")
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.n.Add(int64(len(p)))
	return w.ResponseWriter.Write(p)
}

// TestAttacks: a store that lies is not believed.
func TestAttacks(t *testing.T) {
	w := newWorkshop(t)
	w.sign()
	old := map[string][]byte{} // the store at first
	err := filepath.WalkDir(w.store, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(w.store, name)
		if err != nil {
			return err
		}
		old[filepath.ToSlash(rel)], err = os.ReadFile(name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	honest := catalog.FromFS(os.DirFS(w.store))
	lies := map[string][]byte{}
	liar := catalog.FetchFunc(func(ctx context.Context, name string, limit int64) ([]byte, error) {
		if data, ok := lies[name]; ok {
			if int64(len(data)) > limit {
				return nil, fmt.Errorf("%s: %w", name, catalog.ErrTooLarge)
			}
			return data, nil
		}
		return honest.Fetch(ctx, name, limit)
	})
	c := w.client(liar)
	w.now = w.now.Add(time.Hour)
	w.index("two")
	w.sign()
	w.sees(c, "two")

	lies["metadata/timestamp.json"] = old["metadata/timestamp.json"]
	w.refuses("rollback", c, ErrUntrusted, "new timestamp version 1 must be >= 2")
	clear(lies)

	// The old snapshot under the name of the new one.
	fresh := w.client(liar)
	lies["metadata/2.snapshot.json"] = old["metadata/1.snapshot.json"]
	w.refuses("mix and match, snapshot", fresh, ErrUntrusted, "expected 2, got 1")
	clear(lies)
	fresh = w.client(liar)
	lies["metadata/2.channel-stable.json"] = old["metadata/1.channel-stable.json"]
	w.refuses("mix and match, channel", fresh, ErrUntrusted, "version 2, got 1")
	clear(lies)

	// Another index under the name of the signed one.
	var target string
	for _, name := range listing(w.store) {
		if strings.HasPrefix(name, "channels/") && name != "channels/stable.json" && old[name] == nil {
			target = name
		}
	}
	fresh = w.client(liar)
	lies[target] = old["channels/stable.json"]
	w.refuses("swapped target", fresh, ErrUntrusted, "hash verification failed")
	lies[target] = append(bytes.Clone(w.read(target)), ' ')
	w.refuses("oversized target", fresh, ErrUntrusted, "larger than it may be")
	clear(lies)

	lies["metadata/timestamp.json"] = make([]byte, maxTimestamp+1)
	w.refuses("oversized timestamp", c, ErrUntrusted, "larger than it may be")
	lies["metadata/timestamp.json"] = []byte("<html>502 Bad Gateway</html>")
	w.refuses("error page", c, ErrUntrusted, "invalid character")
	clear(lies)
	lies["metadata/2.root.json"] = old["metadata/1.root.json"]
	w.refuses("root of the wrong version", c, ErrUntrusted, "bad version number")
	clear(lies)

	// Signed with a key that the root does not name.
	mallory, err := Generate(w.dir, "mallory")
	if err != nil {
		t.Fatal(err)
	}
	forged, err := new(metadata.Metadata[metadata.TimestampType]).FromBytes(w.read("metadata/timestamp.json"))
	if err != nil {
		t.Fatal(err)
	}
	forged.Signed.Version++
	if err := sign(t.Context(), forged, roleTimestamp, []*Key{mallory}, 1); err != nil {
		t.Fatal(err)
	}
	if lies["metadata/timestamp.json"], err = forged.ToBytes(false); err != nil {
		t.Fatal(err)
	}
	w.refuses("wrong key", c, ErrUntrusted, "not enough signatures")
	clear(lies)
	// A signature of the right key, of something else.
	lies["metadata/timestamp.json"] = bytes.Replace(w.read("metadata/timestamp.json"), []byte(`"version":2`), []byte(`"version":9`), 1)
	w.refuses("changed after signing", c, ErrUntrusted, "not enough signatures")
	clear(lies)

	w.sees(c, "two")
	// Frozen: the same timestamp for ever.
	w.now = w.now.Add(49 * time.Hour)
	w.refuses("freeze", c, ErrExpired, "the clock here says 2026-11-03T14:00:00Z")
	w.now = w.now.AddDate(1, 0, 0)
	w.refuses("expired root", c, ErrExpired, "root.json is expired")
	w.now = day.Add(time.Hour)
	w.sees(c, "two")
}

func listing(dir string) []string {
	var out []string
	fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, name)
		}
		return err
	})
	return out
}

// TestEndless: a server that never stops sending is left.
func TestEndless(t *testing.T) {
	w := newWorkshop(t)
	w.sign()
	files := http.FileServer(http.Dir(w.store))
	var endless string
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.URL.Path != endless {
			files.ServeHTTP(rw, req)
			return
		}
		chunk := bytes.Repeat([]byte(" "), 4096)
		for {
			if _, err := rw.Write(chunk); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	f, err := catalog.FromHTTP(server.URL, server.Client())
	if err != nil {
		t.Fatal(err)
	}
	for _, endless = range []string{"/metadata/timestamp.json", "/metadata/1.snapshot.json", "/metadata/1.targets.json", "/metadata/1.channel-stable.json", "/metadata/2.root.json"} {
		w.refuses("endless "+endless, w.client(f), ErrUntrusted, "larger than it may be")
	}
}

// TestRotate changes every key, those of the root one by one.
func TestRotate(t *testing.T) {
	w := newWorkshop(t)
	w.sign()
	c := w.client(nil)
	w.sees(c, "one")
	for _, name := range []string{"carol", "online2", "release2"} {
		if _, err := Generate(w.dir, name); err != nil {
			t.Fatal(err)
		}
	}
	next := strings.NewReplacer(`"alice", "bob"`, `"carol", "bob"`, `["online"]`, `["online2"]`, `["release"]`, `["release2"]`).Replace(policyText) + `
[key.carol]
public = "carol.pub"
sign = "file:carol.pem"
[key.online2]
public = "online2.pub"
sign = "file:online2.pem"
[key.release2]
public = "release2.pub"
sign = "file:release2.pem"
`
	w.policy(next)
	if _, err := w.repo.Sign(t.Context()); err == nil || !strings.Contains(err.Error(), "run rotate first") {
		t.Errorf("got %v", err)
	}
	// Bob is elsewhere: what Alice and Carol sign is kept for him.
	hidden := filepath.Join(w.dir, "bob.pem")
	if err := os.Rename(hidden, hidden+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.repo.Rotate(t.Context()); !errors.Is(err, ErrMissingSignatures) {
		t.Fatalf("got %v", err)
	}
	w.sees(c, "one")
	if err := os.Rename(hidden+".away", hidden); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alice.pem", "carol.pem"} {
		if err := os.Rename(filepath.Join(w.dir, name), filepath.Join(w.dir, name+".away")); err != nil {
			t.Fatal(err)
		}
	}
	r, err := w.repo.Rotate(t.Context())
	if err != nil || r.Root != 2 {
		t.Fatalf("got %+v, %v", r, err)
	}
	if err := os.Rename(filepath.Join(w.dir, "alice.pem.away"), filepath.Join(w.dir, "alice.pem")); err != nil {
		t.Fatal(err)
	}
	w.index("two")
	w.sign()
	w.sees(c, "two")
	w.sees(w.client(nil), "two")
	// Later on without the key that was rotated out.
	w.now = w.now.AddDate(0, 0, 1)
	w.index("three")
	w.sign()
	w.sees(c, "three")
	// The old keys no longer count.
	w.policy(policyText)
	if _, err := w.repo.Sign(t.Context()); err == nil {
		t.Error("signed with keys that were rotated out")
	}
}

// TestTwoSigners: the loser is told, and readers see what the winner signed.
func TestTwoSigners(t *testing.T) {
	w := newWorkshop(t)
	w.sign()
	w.index("two")
	winner := *w.repo
	w.repo.Store = publishtest.Racing{Store: winner.Store, Before: func(name string) {
		if name == "metadata/timestamp.json" {
			if _, err := winner.Sign(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}}
	if _, err := w.repo.Sign(t.Context()); !errors.Is(err, publish.ErrChanged) || !strings.Contains(err.Error(), "somebody else has signed") {
		t.Errorf("got %v", err)
	}
	w.repo = &winner
	w.sees(w.client(nil), "two")
	if r := w.sign(); len(r.Written) != 0 {
		t.Errorf("written: %q", r.Written)
	}
}

// TestKilled: a signer that is killed at any write leaves what readers see,
// and the next one goes on.
func TestKilled(t *testing.T) {
	for at := range 4 {
		w := newWorkshop(t)
		w.sign()
		w.index("two")
		killed := *w.repo
		n := 0
		killed.Store = failing{w.repo.Store, func() error {
			if n++; n > at+2 { // two writes are the log's
				return errors.New("killed")
			}
			return nil
		}}
		if _, err := killed.Sign(t.Context()); err == nil {
			t.Fatalf("at write %d: not killed", at)
		}
		w.sees(w.client(nil), "one")
		w.sign()
		w.sees(w.client(nil), "two")
	}
}

type failing struct {
	publish.Store
	before func() error
}

func (f failing) Put(ctx context.Context, name string, data []byte, prior publish.Version) (publish.Version, error) {
	if err := f.before(); err != nil {
		return publish.Absent, err
	}
	return f.Store.Put(ctx, name, data, prior)
}

func TestClock(t *testing.T) {
	w := newWorkshop(t)
	w.sign()
	w.index("two")
	w.now = w.now.AddDate(-1, 0, 0)
	if _, err := w.repo.Sign(t.Context()); !errors.Is(err, catalog.ErrClock) || !strings.Contains(err.Error(), "it says 2025-11-01T12:00:00Z, but the timestamp was signed at 2026-11-01T12:00:00Z") {
		t.Errorf("got %v", err)
	}
}

func TestKeys(t *testing.T) {
	w := newWorkshop(t)
	k := w.repo.Policy.keys["alice"]
	with := func(from string) *Key {
		c := *k
		c.from = from
		return &c
	}
	text, err := os.ReadFile(filepath.Join(w.dir, "alice.pem"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("ALICE_KEY", string(text))
	if _, err := with("env:ALICE_KEY").Sign(t.Context(), []byte("x")); err != nil {
		t.Error(err)
	}
	sig, err := k.Sign(t.Context(), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(w.dir, "hsm.sh")
	body := "#!/bin/sh\ntest \"$(cat)\" = x && test \"$1\" = slot1 && echo " + base64.StdEncoding.EncodeToString(sig) + "\n"
	if err := os.WriteFile(script, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := with("command:./hsm.sh slot1").Sign(t.Context(), []byte("x")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "open.pem"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]string{
		"command:./hsm.sh slot2": "./hsm.sh: exit status 1",
		"command:./missing":      "no such file",
		"command:echo !!":        "is not base64",
		"command:echo AAAA":      "is not the private half",
		"command:":               "the program is missing",
		"file:bob.pem":           "is not the private half",
		"file:alice.pub":         "others may read it (mode 0644): want 0600",
		"file:open.pem":          "others may read it",
		"file:nowhere.pem":       "not on this machine",
		"env:NOT_SET_ANYWHERE":   "environment variable NOT_SET_ANYWHERE is not set",
		"hsm:1":                  "want file:PATH",
		"":                       "not on this machine",
	} {
		if _, err := with(from).Sign(t.Context(), []byte("x")); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "key alice: ") {
			t.Errorf("%s: got %v, want %q", from, err, want)
		}
	}
	if _, err := Generate(w.dir, "alice"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a key was overwritten: %v", err)
	}
}

func TestPolicy(t *testing.T) {
	w := newWorkshop(t)
	for change, want := range map[string]string{
		"threshold = 2>treshold = 2":                 `unknown key "root.treshold"; did you mean "threshold"?`,
		"threshold = 2>threshold = 3":                "root: threshold 3 of 2 keys",
		`keys = ["release"]>keys = ["relase"]`:       `channel-stable: key "relase" is not in the file; did you mean "release"?`,
		`"alice", "bob">"alice", "alice"`:            "root: key alice is there twice",
		`public = "bob.pub">public = "alice.pub"`:    "keys alice and bob are the same",
		`public = "bob.pub">public = "bob.pem"`:      "want PEM with PUBLIC KEY",
		`public = "bob.pub">public = "gone.pub"`:     "no such file",
		"[channel.stable]>[channel.\"../up\"]":       "want a plain name",
		"threshold = 2>threshold = \"two\"":          "line 4, column 13",
		"threshold = 2>threshold = 2\ndays = 100000": "days = 100000",
	} {
		from, to, _ := strings.Cut(change, ">")
		name := filepath.Join(w.dir, "bad.toml")
		if err := os.WriteFile(name, []byte(strings.Replace(policyText, from, to, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadPolicy(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", change, err)
		}
	}
}

func TestProvenance(t *testing.T) {
	w := newWorkshop(t)
	v := &catalog.Variant{Preset: "Q4_K_M", Files: []catalog.File{{Path: "m.gguf", Size: 4, SHA256: catalog.DigestOf([]byte("data")), Role: catalog.RoleModel}}}
	v.Provenance = catalog.Provenance{
		Source: catalog.Source{Repository: "hf://org/m", Commit: strings.Repeat("a", 40)}, Tool: catalog.Tool{Name: "modelpipe", Version: "v1"},
		Recipe: catalog.DigestOf([]byte("r")), Imatrix: catalog.DigestOf([]byte("i")), Created: day,
	}
	s, err := NewStatement("m", v)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := w.repo.Policy.ChannelKeys("stable")
	if err != nil {
		t.Fatal(err)
	}
	data, err := Attest(t.Context(), s, keys...)
	if err != nil {
		t.Fatal(err)
	}
	back, err := VerifyAttestation(data, v, keys...)
	if err != nil || len(back.Predicate.BuildDefinition.ResolvedDependencies) != 3 {
		t.Errorf("got %+v, %v", back, err)
	}
	// Another implementation agrees.
	var e dsse.Envelope
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatal(err)
	}
	verifier, err := dsse.NewEnvelopeVerifier(outside{keys[0]})
	if err != nil {
		t.Fatal(err)
	}
	if accepted, err := verifier.Verify(t.Context(), &e); err != nil || len(accepted) != 1 {
		t.Errorf("got %v, %v", accepted, err)
	}
	other := *v
	other.Files = []catalog.File{{Path: "m.gguf", SHA256: catalog.DigestOf([]byte("other"))}}
	if _, err := VerifyAttestation(data, &other, keys...); !errors.Is(err, ErrUntrusted) {
		t.Errorf("of another file: %v", err)
	}
	if _, err := VerifyAttestation(data, v, w.repo.Policy.keys["bob"]); !errors.Is(err, ErrUntrusted) {
		t.Errorf("of another key: %v", err)
	}
	if _, err := VerifyAttestation(bytes.Replace(data, []byte("ZXh"), []byte("ZXg"), 1), v, keys...); err == nil {
		t.Error("a changed statement verifies")
	}
}

// outside verifies with go-tuf's library.
type outside struct{ key *Key }

func (o outside) Verify(_ context.Context, data, sig []byte) error {
	v, err := signature.LoadVerifier(o.key.public, 0)
	if err != nil {
		return err
	}
	return v.VerifySignature(bytes.NewReader(sig), bytes.NewReader(data))
}
func (o outside) KeyID() (string, error)   { return o.key.ID, nil }
func (o outside) Public() crypto.PublicKey { return o.key.public }

func TestList(t *testing.T) {
	w := newWorkshop(t)
	list, err := w.repo.Policy.List()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range list {
		names := []string{}
		for _, k := range r.Keys {
			names = append(names, k.Name)
		}
		got[r.Role] = fmt.Sprint(r.Threshold, names, r.Days)
	}
	want := map[string]string{"root": "2 [alice bob] 365", "targets": "1 [alice] 90", "snapshot": "1 [online] 14", "timestamp": "1 [online] 2", "channel-stable": "1 [release] 30"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}
