// Package publishtest holds what every sink and store must do, as tests that
// each kind runs, with servers in memory and a proxy that lets requests fail.
package publishtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/publish"
)

// A Target is a fresh, empty target for one test.
type Target struct {
	// Open opens it, as another process would.
	Open func(testing.TB) publish.Sink

	// Proxy stands before its server; nil for a folder.
	Proxy *Proxy

	// Damage changes a byte of what is stored under a name, unfinished or
	// not, if there are enough of them; it may be nil.
	Damage func(testing.TB, string) bool

	// Stored counts what is stored in any form, also unfinished, so that
	// nothing left behind stays unseen. It may be nil.
	Stored func(testing.TB) int

	// OneOfTwo says that of two publishers at the same moment both cannot
	// win, which a registry's tags do not promise.
	OneOfTwo bool
}

const (
	partSize  = 5 << 20
	manyParts = 17<<20 + 12345 // some parts, and odd bytes at the end
)

// bytesOf returns n bytes that look random, other ones for each seed.
func bytesOf(seed byte, n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

func sum(p []byte) string {
	s := sha256.Sum256(p)
	return hex.EncodeToString(s[:])
}

// model is an artifact of one file.
func model(name string, data []byte) *publish.Artifact {
	return &publish.Artifact{
		Files: []publish.File{{Name: name, Role: publish.RoleModel, Size: int64(len(data)), Content: bytes.NewReader(data)}},
		Model: publish.Model{Name: "test", Family: "llama", Parameters: 1000, Quantization: "F16"},
	}
}

// hooked calls f before each read, with the number of bytes read before.
type hooked struct {
	data []byte
	read atomic.Int64
	f    func(read int64) error
}

func (h *hooked) ReadAt(p []byte, off int64) (int, error) {
	if err := h.f(h.read.Add(int64(len(p))) - int64(len(p))); err != nil {
		return 0, err
	}
	return bytes.NewReader(h.data).ReadAt(p, off)
}

// cutOff makes the content of a interrupt ctx after n bytes.
func cutOff(a *publish.Artifact, data []byte, n int64) (*publish.Artifact, context.Context) {
	ctx, cancel := context.WithCancel(context.Background())
	cut := *a
	cut.Files = slices.Clone(a.Files)
	cut.Files[0].Content = &hooked{data: data, f: func(read int64) error {
		if read >= n {
			cancel()
		}
		return nil
	}}
	return &cut, ctx
}

// published publishes what must succeed.
func published(t *testing.T, s publish.Sink, a *publish.Artifact, opts publish.Options) *publish.Receipt {
	t.Helper()
	r, err := s.Publish(t.Context(), a, opts)
	if err != nil {
		t.Fatalf("publish: %v", err)
	}
	return r
}

// has fails where a name does not have the content, read whole and in part.
func has(t *testing.T, s publish.Sink, name string, data []byte) {
	t.Helper()
	for _, from := range []int{0, len(data) / 2, len(data)} {
		r, size, err := s.Open(t.Context(), name, int64(from))
		if err != nil {
			t.Fatalf("open %s from %d: %v", name, from, err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || size != int64(len(data)) || !bytes.Equal(got, data[from:]) {
			t.Fatalf("%s from %d: %d bytes of %d, %v: not what was published", name, from, len(got), size, err)
		}
	}
}

// missing fails where there is such a name.
func missing(t *testing.T, s publish.Sink, name string) {
	t.Helper()
	if r, _, err := s.Open(t.Context(), name, 0); err == nil {
		r.Close()
		t.Fatalf("%s is there", name)
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("open %s: %v: want fs.ErrNotExist", name, err)
	}
}

// clean fails where there is an unfinished upload.
func clean(t *testing.T, s publish.Sink) {
	t.Helper()
	rests, err := s.Abandoned(t.Context())
	if err != nil || len(rests) > 0 {
		t.Fatalf("abandoned: %v, %v: want none", rests, err)
	}
}

// fails holds an error to its kind and words.
func fails(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error: want %v", kind)
	}
	if kind != nil && !errors.Is(err, kind) {
		t.Fatalf("%v: want one that is %v", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Fatalf("%v: want %q in it", err, w)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\x00") || len(err.Error()) > 2000 {
		t.Fatalf("%.200q: is not one short line", err)
	}
}

// Run runs the suite. open returns a new target for each test.
func Run(t *testing.T, open func(testing.TB) *Target) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *Target)
	}{
		{"publish", publishes},
		{"again", again},
		{"create only", createOnly},
		{"digest", announcedDigest},
		{"short content", shortContent},
		{"failing content", failingContent},
		{"before naming", beforeNaming},
		{"attachments", attachments},
		{"resume", resumes},
		{"resume with other content", resumesOther},
		{"abandoned", abandoned},
		{"damaged rest", damagedRest},
		{"two at once", twoAtOnce},
		{"hostile names", hostileNames},
		{"read back", corruptedReadBack},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, open(t))
		})
	}
	t.Run("faults", func(t *testing.T) {
		t.Parallel()
		if open(t).Proxy == nil {
			t.Skip("has no server")
		}
		if testing.Short() {
			t.Skip("waits for many retries")
		}
		runFaults(t, open)
	})
	t.Run("store", func(t *testing.T) {
		t.Parallel()
		if _, ok := open(t).Open(t).(publish.Store); !ok {
			t.Skip("keeps no objects that change")
		}
		runStore(t, open)
	})
}

func publishes(t *testing.T, to *Target) {
	s := to.Open(t)
	a := &publish.Artifact{Model: publish.Model{Family: "llama"}}
	contents := map[string][]byte{}
	for i, n := range []int{manyParts, 1, pieceEdge, partSize, partSize + 1} {
		name := fmt.Sprintf("file-%d.gguf", i)
		contents[name] = bytesOf(byte(i), n)
		a.Files = append(a.Files, model(name, contents[name]).Files...)
	}
	progress := new(publish.Progress)
	r := published(t, s, a, publish.Options{PartSize: partSize, Progress: progress, Threads: 3})
	total := int64(0)
	for i, f := range a.Files {
		has(t, to.Open(t), f.Name, contents[f.Name])
		got := r.Files[i]
		if got.Name != f.Name || got.SHA256 != sum(contents[f.Name]) || got.Size != f.Size || got.Existed || got.Location == "" {
			t.Errorf("receipt: %+v", got)
		}
		total += f.Size
	}
	if progress.Done.Load() != total {
		t.Errorf("progress ends at %d: want %d", progress.Done.Load(), total)
	}
	clean(t, s)
}

// pieceEdge is one byte more than what is read at once.
const pieceEdge = 1<<20 + 1

func again(t *testing.T, to *Target) {
	data := bytesOf(1, manyParts)
	first := published(t, to.Open(t), model("m.gguf", data), publish.Options{PartSize: partSize})
	second := published(t, to.Open(t), model("m.gguf", data), publish.Options{PartSize: partSize})
	if f := second.Files[0]; !f.Existed || f.SHA256 != first.Files[0].SHA256 {
		t.Errorf("again: %+v", f)
	}
	if !slices.Equal(first.Manifests, second.Manifests) {
		t.Errorf("manifests: %v, then %v", first.Manifests, second.Manifests)
	}
	clean(t, to.Open(t))
}

func createOnly(t *testing.T, to *Target) {
	data := bytesOf(1, manyParts)
	s := to.Open(t)
	published(t, s, model("m.gguf", data), publish.Options{PartSize: partSize})
	for _, other := range [][]byte{bytesOf(2, manyParts), data[:manyParts-1], bytesOf(3, 7)} {
		_, err := s.Publish(t.Context(), model("m.gguf", other), publish.Options{PartSize: partSize})
		fails(t, err, publish.ErrExists)
		has(t, s, "m.gguf", data)
	}
	clean(t, s)
}

func announcedDigest(t *testing.T, to *Target) {
	s := to.Open(t)
	for _, n := range []int{100, manyParts} {
		a := model("m.gguf", bytesOf(1, n))
		a.Files[0].SHA256 = sum([]byte("other"))
		_, err := s.Publish(t.Context(), a, publish.Options{PartSize: partSize})
		fails(t, err, publish.ErrMismatch, "m.gguf", a.Files[0].SHA256)
		missing(t, s, "m.gguf")
		clean(t, s)
		a.Files[0].SHA256 = "abc"
		_, err = s.Publish(t.Context(), a, publish.Options{})
		fails(t, err, nil, "m.gguf", `"abc"`)
	}
}

func shortContent(t *testing.T, to *Target) {
	s := to.Open(t)
	a := model("m.gguf", bytesOf(1, manyParts))
	a.Files[0].Size++
	_, err := s.Publish(t.Context(), a, publish.Options{PartSize: partSize})
	fails(t, err, publish.ErrMismatch, "m.gguf", strconv.Itoa(manyParts))
	missing(t, s, "m.gguf")
	clean(t, s)
}

func failingContent(t *testing.T, to *Target) {
	s := to.Open(t)
	data := bytesOf(1, manyParts)
	broken := errors.New("disk is broken")
	a := model("m.gguf", data)
	a.Files[0].Content = &hooked{data: data, f: func(read int64) error {
		if read > 12<<20 {
			return broken
		}
		return nil
	}}
	_, err := s.Publish(t.Context(), a, publish.Options{PartSize: partSize})
	fails(t, err, broken, "m.gguf", "byte ")
	missing(t, s, "m.gguf")
	clean(t, s)
	// Where the caller says that the error may pass, the upload is kept.
	_, err = s.Publish(t.Context(), a, publish.Options{PartSize: partSize, Keep: func(err error) bool { return errors.Is(err, broken) }})
	fails(t, err, broken)
	missing(t, s, "m.gguf")
	a.Files[0].Content = bytes.NewReader(data)
	published(t, s, a, publish.Options{PartSize: partSize, Resume: true})
	has(t, s, "m.gguf", data)
	clean(t, s)
}

func beforeNaming(t *testing.T, to *Target) {
	s := to.Open(t)
	a := model("m.gguf", bytesOf(1, manyParts))
	a.Files = append(a.Files, model("LICENSE", []byte("terms")).Files...)
	no := errors.New("the source is not what it was")
	called := 0
	_, err := s.Publish(t.Context(), a, publish.Options{PartSize: partSize, BeforeNaming: func(context.Context) error { called++; return no }})
	fails(t, err, no)
	if called != 1 {
		t.Errorf("called %d times", called)
	}
	missing(t, s, "m.gguf")
	missing(t, s, "LICENSE")
	clean(t, s)
}

func attachments(t *testing.T, to *Target) {
	s := to.Open(t)
	a := model("m.gguf", bytesOf(1, 1000))
	a.Files = append(a.Files, publish.File{Name: "LICENSE", Role: publish.RoleLicense, Size: 5, Content: strings.NewReader("terms")})
	a.Attached = []publish.Attachment{
		{Name: "m.gguf.intoto.jsonl", MediaType: "application/vnd.in-toto+json", Data: []byte(`{"_type":"x"}`)},
		{Name: "m.gguf.report.json", MediaType: "application/vnd.modelpipe.report.v1+json", Data: []byte(`{"ok":true}`)},
	}
	for range 2 { // again changes nothing
		published(t, s, a, publish.Options{})
		for _, f := range a.Attached {
			has(t, s, f.Name, f.Data)
		}
		has(t, s, "LICENSE", []byte("terms"))
	}
	clean(t, s)
}

func resumes(t *testing.T, to *Target) {
	rnd := rand.New(rand.NewPCG(7, 7))
	for i := range 6 {
		name := fmt.Sprintf("m%d.gguf", i)
		data := bytesOf(byte(i), manyParts)
		a := model(name, data)
		if i%2 == 0 {
			a.Files[0].Identity = "plan-" + name
		}
		opts := publish.Options{PartSize: partSize, Resume: true, Threads: 2, MoveTag: true}
		for range 3 { // cut again and again
			cut, ctx := cutOff(a, data, rnd.Int64N(manyParts))
			if _, err := to.Open(t).Publish(ctx, cut, opts); err == nil {
				break // it was nearly complete
			}
			missing(t, to.Open(t), name)
		}
		r := published(t, to.Open(t), a, opts)
		if got := r.Files[0]; got.SHA256 != sum(data) {
			t.Errorf("receipt: %+v", got)
		}
		has(t, to.Open(t), name, data)
		clean(t, to.Open(t))
	}
	// What is known to have arrived is not read again.
	data := bytesOf(99, manyParts)
	a := model("known.gguf", data)
	a.Files[0].Identity = "plan"
	progress := new(publish.Progress)
	opts := publish.Options{PartSize: partSize, Threads: 1, MoveTag: true, Progress: progress}
	ctx, cancel := context.WithCancel(t.Context())
	cut := model("known.gguf", data)
	cut.Files[0].Identity = "plan"
	cut.Files[0].Content = &hooked{data: data, f: func(read int64) error {
		if read > 16<<20 {
			for progress.Done.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}
		return nil
	}}
	if _, err := to.Open(t).Publish(ctx, cut, opts); err == nil {
		t.Fatal("was not interrupted")
	}
	opts.Resume = true
	r := published(t, to.Open(t), a, opts)
	if r.Files[0].Resumed == 0 {
		t.Errorf("nothing of the first run was used: %+v", r.Files[0])
	}
	has(t, to.Open(t), "known.gguf", data)
	clean(t, to.Open(t))
}

func resumesOther(t *testing.T, to *Target) {
	data, other := bytesOf(1, manyParts), bytesOf(2, manyParts)
	for _, identities := range [][2]string{{"", ""}, {"plan 1", "plan 2"}} {
		a := model("m.gguf", data)
		a.Files[0].Identity = identities[0]
		cut, ctx := cutOff(a, data, 12<<20)
		if _, err := to.Open(t).Publish(ctx, cut, publish.Options{PartSize: partSize}); err == nil {
			t.Fatal("was not interrupted")
		}
		b := model("m.gguf", other)
		b.Files[0].Identity = identities[1]
		_, err := to.Open(t).Publish(t.Context(), b, publish.Options{PartSize: partSize, Resume: true})
		if err != nil { // a sink that knows what it would go on with refuses
			fails(t, err, nil, "m.gguf", "cannot go on", "--resume")
			missing(t, to.Open(t), "m.gguf")
			discardAll(t, to.Open(t))
			continue
		}
		has(t, to.Open(t), "m.gguf", other)
		clean(t, to.Open(t))
		return
	}
}

func discardAll(t *testing.T, s publish.Sink) {
	t.Helper()
	rests, err := s.Abandoned(t.Context())
	if err != nil || len(rests) == 0 {
		t.Fatalf("abandoned: %v, %v: want some", rests, err)
	}
	for _, r := range rests {
		if err := s.Discard(t.Context(), r); err != nil {
			t.Fatalf("discard: %v", err)
		}
		if err := s.Discard(t.Context(), r); err != nil {
			t.Fatalf("discard again: %v", err)
		}
	}
	clean(t, s)
}

func abandoned(t *testing.T, to *Target) {
	s := to.Open(t)
	data := bytesOf(1, manyParts)
	for _, name := range []string{"a.gguf", "b.gguf", "c.gguf"} {
		cut, ctx := cutOff(model(name, data), data, 12<<20)
		if _, err := s.Publish(ctx, cut, publish.Options{PartSize: partSize, Threads: 1}); err == nil {
			t.Fatal("was not interrupted")
		}
	}
	rests, err := s.Abandoned(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, r := range rests {
		names[r.Name] = true
		if age := time.Since(r.Started); age > time.Hour || age < -time.Hour {
			t.Errorf("%s was begun at %v", r.Name, r.Started)
		}
	}
	if len(names) != 3 || !names["a.gguf"] || !names["b.gguf"] || !names["c.gguf"] {
		t.Errorf("abandoned: %v", rests)
	}
	if err := s.Discard(t.Context(), publish.Rest{Name: "../a", ID: "../a.partial"}); err == nil {
		t.Error("discards what is not there")
	}
	discardAll(t, s)
	if to.Stored != nil {
		if n := to.Stored(t); n != 0 {
			t.Errorf("%d things are left behind", n)
		}
	}
	published(t, s, model("a.gguf", data), publish.Options{PartSize: partSize})
	has(t, s, "a.gguf", data)
}

func damagedRest(t *testing.T, to *Target) {
	if to.Damage == nil {
		t.Skip("cannot be damaged")
	}
	data := bytesOf(1, manyParts)
	a := model("m.gguf", data)
	cut, ctx := cutOff(a, data, 14<<20)
	if _, err := to.Open(t).Publish(ctx, cut, publish.Options{PartSize: partSize, Threads: 1}); err == nil {
		t.Fatal("was not interrupted")
	}
	to.Damage(t, "m.gguf")
	// Either the damage is found and mended, or nothing is published.
	_, err := to.Open(t).Publish(t.Context(), a, publish.Options{PartSize: partSize, Resume: true})
	if err != nil {
		missing(t, to.Open(t), "m.gguf")
		published(t, to.Open(t), a, publish.Options{PartSize: partSize})
	}
	has(t, to.Open(t), "m.gguf", data)
	clean(t, to.Open(t))
}

func twoAtOnce(t *testing.T, to *Target) {
	for round := range 3 {
		name := fmt.Sprintf("m%d.gguf", round)
		contents := [][]byte{bytesOf(1, manyParts+round), bytesOf(2, manyParts+round)}
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, data := range contents {
			wg.Go(func() {
				_, errs[i] = to.Open(t).Publish(t.Context(), model(name, data), publish.Options{PartSize: partSize, MoveTag: round > 0 && !to.OneOfTwo})
			})
		}
		wg.Wait()
		winners := 0
		for i, err := range errs {
			if err == nil {
				winners++
				if to.OneOfTwo {
					has(t, to.Open(t), name, contents[i])
				}
				continue
			}
			if !errors.Is(err, publish.ErrExists) && !errors.Is(err, publish.ErrBusy) {
				t.Errorf("the loser is told %v", err)
			}
		}
		if winners == 0 || to.OneOfTwo && winners != 1 {
			t.Errorf("%d of two have won: %v", winners, errs)
		}
		clean(t, to.Open(t))
	}
}

// Hostile are names that must be refused everywhere.
var Hostile = []string{
	"", ".", "..", "../m.gguf", "a/../../m.gguf", "a/./b", "/etc/passwd", "//host/share", `\\host\share`, `..\m.gguf`, `C:\m.gguf`, "C:m.gguf", "m.gguf:stream",
	"a//b", "a/", "m\x00.gguf", "m\n.gguf", "m\x7f.gguf", "\x1b[2Jm", "CON", "nul", "com1.gguf", "a/LPT9", "aux.tar.gz", "COM¹", "conin$",
	"m.gguf.", "m.gguf ", " m.gguf", "a /b", "a./b", "m\xff.gguf", "m\u202efugg.gguf", "m\u200b.gguf", "m\u00a0.gguf", "m\ufeff", "e\u0301.gguf", "a\u2215b", "a\uff0fb", "\uff0e\uff0e/m", "\u2025/m", "m\U000e0041", "m\ufe0f",
	"m<.gguf", "m>.gguf", "m|.gguf", "m?.gguf", "m*.gguf", `m".gguf`, "m.partial", "a/m.gguf.partial.journal", ".publish.lock",
	strings.Repeat("a", 256), strings.Repeat("a/", 600) + "m", strings.Repeat("n", 1<<20), strings.Repeat("../", 1<<18),
}

func hostileNames(t *testing.T, to *Target) {
	s := to.Open(t)
	store, _ := s.(publish.Store)
	for _, name := range Hostile {
		_, err := s.Publish(t.Context(), model(name, []byte("x")), publish.Options{})
		fails(t, err, nil, "name ")
		a := model("m.gguf", []byte("x"))
		a.Attached = []publish.Attachment{{Name: name, MediaType: "text/plain", Data: []byte("x")}}
		_, err = s.Publish(t.Context(), a, publish.Options{})
		fails(t, err, nil, "name ")
		_, _, err = s.Open(t.Context(), name, 0)
		fails(t, err, nil, "name ")
		if store != nil {
			_, err := store.Put(t.Context(), name, []byte("x"), publish.Absent)
			fails(t, err, nil, "name ")
			_, _, err = store.Get(t.Context(), name, 10)
			fails(t, err, nil, "name ")
			fails(t, store.Delete(t.Context(), name), nil, "name ")
		}
	}
	a := model("Model.gguf", []byte("x"))
	a.Files = append(a.Files, model("mODEL.GGUF", []byte("y")).Files...)
	_, err := s.Publish(t.Context(), a, publish.Options{})
	fails(t, err, nil, "twice")
	if to.Stored != nil {
		if n := to.Stored(t); n != 0 {
			t.Errorf("%d things are left behind", n)
		}
	}
	for _, name := range []string{"m.gguf", "a/b/c.json", "Qwen3-0.6B-Q4_K_M.gguf", "modèle.gguf", "模型.gguf", "with space.txt", "a+b,c=d@e.gguf", ".hidden", "console.txt", "auxiliary/com10"} {
		if err := publish.CheckName(name); err != nil {
			t.Errorf("%v", err)
		}
	}
}

func corruptedReadBack(t *testing.T, to *Target) {
	if to.Proxy == nil && to.Damage == nil {
		t.Skip("cannot be damaged")
	}
	s := to.Open(t)
	data := bytesOf(1, manyParts)
	a := model("m.gguf", data)
	switch {
	case to.Proxy != nil:
		to.Proxy.Set(&Fault{Match: reads, Answer: func(r *http.Response) {
			if r.ContentLength == manyParts {
				r.Body = &flipped{r.Body, manyParts / 2}
			}
		}})
	default:
		// The file is changed on its way, while it is written.
		var once sync.Once
		a.Files[0].Content = &hooked{data: data, f: func(read int64) error {
			if read > 16<<20 {
				once.Do(func() {
					for !to.Damage(t, "m.gguf") { // until its first part is written
						time.Sleep(time.Millisecond)
					}
				})
			}
			return nil
		}}
	}
	_, err := s.Publish(t.Context(), a, publish.Options{PartSize: partSize, Threads: 1})
	fails(t, err, publish.ErrMismatch, "m.gguf", "read back")
	if to.Proxy != nil {
		to.Proxy.Set()
	}
	missing(t, s, "m.gguf")
	clean(t, s)
}

// reads says whether a request reads content.
func reads(r *http.Request) bool {
	return r.Method == http.MethodGet && (strings.Contains(r.URL.Path, "/blobs/sha256:") || !strings.HasPrefix(r.URL.Path, "/v2/") && r.URL.RawQuery == "")
}

// flipped changes the byte at offset at.
type flipped struct {
	io.ReadCloser
	at int64
}

func (f *flipped) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if f.at >= 0 && f.at < int64(n) {
		p[f.at] ^= 1
	}
	f.at -= int64(n)
	return n, err
}
