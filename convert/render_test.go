package convert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

// planOf lays out tensors, which have their name, type, shape and matrix.
func planOf(t testing.TB, steps ...Step) *Plan {
	t.Helper()
	p := &Plan{Steps: steps, Header: gguf.Header{Version: gguf.Version, Alignment: 32, Metadata: gguf.Metadata{{Key: "general.architecture", Value: "test"}}}}
	for _, s := range steps {
		p.Header.Tensors = append(p.Header.Tensors, gguf.TensorInfo{Name: s.Name, Type: s.Type, Shape: s.Shape})
	}
	var err error
	if p.Size, err = p.Header.Layout(); err != nil {
		t.Fatal(err)
	}
	if p.HeaderSize, err = p.Header.DataOffset(); err != nil {
		t.Fatal(err)
	}
	for i, info := range p.Header.Tensors {
		if steps[i].Size, err = info.Size(); err != nil {
			t.Fatal(err)
		}
		steps[i].Offset = p.HeaderSize + info.Offset
	}
	return p
}

var sampled struct {
	once sync.Once
	plan *Plan
	src  fs.FS
	want []byte
}

// sample is a plan with all kinds of steps, its source and its file, which
// is worked out element by element.
func sample(t testing.TB) (*Plan, fs.FS, []byte) {
	s := &sampled
	s.once.Do(func() { s.plan, s.src, s.want = makeSample(t) })
	return s.plan, s.src, s.want
}

func makeSample(t testing.TB) (*Plan, fs.FS, []byte) {
	g := &grower{rnd: rand.New(rand.NewPCG(1, 2))}
	wide := g.leaf("BF16", 2, 700_000) // rows of more than a chunk
	tall := g.leaf("BF16", 2048, 512)
	steps := []Step{
		{Name: "norm", Type: gguf.F32, Shape: []int64{100}, From: Affine{g.leaf("F16", 100), 1, 1}},
		{Name: "wide", Type: gguf.F32, Shape: []int64{700_000, 2}, From: wide},
		{Name: "wide16", Type: gguf.BF16, Shape: []int64{700_000, 2}, From: wide},
		{Name: "same", Type: gguf.BF16, Shape: []int64{512, 2048}, From: RopePermute{tall, 16}},
		{Name: "half", Type: gguf.F16, Shape: []int64{512, 2048}, From: Affine{tall, 0, 1}},
		{Name: "turned", Type: gguf.BF16, Shape: []int64{1024, 512, 2}, From: Transpose{tall, 2}},
		{Name: "blocks", Type: gguf.Q8_0, Shape: []int64{512, 1024}, From: Rows{tall, 2, 1, 1}},
		{Name: "odd", Type: gguf.F32, Shape: []int64{7, 3}, From: g.leaf("F8_E4M3", 3, 7)},
	}
	p := planOf(t, steps...)
	want, err := p.Header.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, make([]byte, p.Size-int64(len(want)))...)
	for _, s := range p.Steps {
		codec, ok := quantize.Definition(s.Type)
		if !ok {
			t.Fatalf("no codec for %s", s.Type)
		}
		at := s.Offset
		for _, row := range whole(s.From, g.data) {
			n, _ := s.Type.RowBytes(int64(len(row)))
			codec.Encode(want[at:at+n], row, len(row), nil)
			at += n
		}
	}
	return p, fstest.MapFS{"f": {Data: g.data}}, want
}

// memory is an output in memory.
type memory struct {
	mu sync.Mutex
	b  []byte
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(m.b[off:], p), nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(p, m.b[off:]), nil
}

func TestRenderIsTheSameHowever(t *testing.T) {
	p, src, want := sample(t)
	for _, opts := range []RenderOptions{{Threads: 1}, {Threads: 2}, {Threads: 7}, {Threads: 3, SourceOrder: true}} {
		out := &memory{b: bytes.Repeat([]byte{0xaa}, int(p.Size))}
		res, err := Render(t.Context(), p, src, out, opts)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.b, want) {
			i := 0
			for out.b[i] == want[i] {
				i++
			}
			t.Fatalf("%+v: byte %d is %#x: want %#x", opts, i, out.b[i], want[i])
		}
		if res.SHA256 != sha256.Sum256(want) {
			t.Errorf("%+v: digest %x", opts, res.SHA256)
		}
	}
}

func TestViewReadsAnyRange(t *testing.T) {
	p, src, want := sample(t)
	v, err := NewView(p, src, RenderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range 300 {
		n := rnd.IntN(5000)
		if i%50 == 0 {
			n = rnd.IntN(3 << 20)
		}
		off := rnd.IntN(len(want))
		got := make([]byte, n)
		m, err := v.ReadAt(got, int64(off))
		if end := min(len(want), off+n); m != end-off || (err != nil) != (off+n > end) || err != nil && err != io.EOF {
			t.Fatalf("%d bytes at %d: %d, %v", n, off, m, err)
		}
		if !bytes.Equal(got[:m], want[off:off+m]) {
			t.Fatalf("%d bytes at %d differ", n, off)
		}
	}
	if _, err := v.ReadAt(make([]byte, 1), p.Size); err != io.EOF {
		t.Errorf("past the end: %v", err)
	}
}

// counted counts what is read.
type counted struct {
	fs.FS
	bytes, reads atomic.Int64
}

type countedFile struct {
	fs.File
	c *counted
}

func (c *counted) Open(name string) (fs.File, error) {
	f, err := c.FS.Open(name)
	return countedFile{f, c}, err
}

func (f countedFile) ReadAt(p []byte, off int64) (int, error) {
	f.c.bytes.Add(int64(len(p)))
	f.c.reads.Add(1)
	return f.File.(io.ReaderAt).ReadAt(p, off)
}

// TestSourceOrderServesTheDigest looks at the order of a checkpoint whose last
// tensor is a small one at the beginning of the output: it is read first, and
// everything else as it lies in the source.
func TestSourceOrderServesTheDigest(t *testing.T) {
	const big, small = 24 << 20, 4 << 10
	names := []string{"output", "output_norm", "blk.0", "blk.1", "blk.2", "blk.10"}
	places := []int{0, 5, 1, 2, 4, 3} // in the source
	sizes := []int64{big, small, big, big, big, big}
	offsets := make([]int64, len(names))
	var end int64
	for at := range places {
		i := slices.Index(places, at)
		offsets[i] = end
		end += sizes[i]
	}
	var steps []Step
	for i, name := range names {
		n := sizes[i] / 2 / 1024
		steps = append(steps, Step{Name: name, Type: gguf.BF16, Shape: []int64{1024, n},
			From: Leaf{File: "f", Name: name, DType: "BF16", Offset: offsets[i], Size: sizes[i], Shape: []int64{n, 1024}}})
	}
	v, err := NewView(planOf(t, steps...), fstest.MapFS{}, RenderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	c := cut(v, turnedChunk(2))
	order := c.bySource()
	norm := c.first[1]
	if order[0] != norm {
		t.Errorf("begins with chunk %d: want %d, of %s", order[0], norm, names[1])
	}
	var want []int
	for i := range c.head {
		want = append(want, i)
	}
	for at := range places {
		step := slices.Index(places, at)
		if step == 1 {
			continue
		}
		last := c.n
		if step+1 < len(c.first) {
			last = c.first[step+1]
		}
		for i := c.first[step]; i < last; i++ {
			want = append(want, i)
		}
	}
	if !slices.Equal(order[1:], want) {
		t.Errorf("then %v: want %v", order[1:], want)
	}
}

// TestTurnedIsReadOnce holds tensors that are turned over to long reads of
// each byte once, where the source is remote and one worker reads it.
func TestTurnedIsReadOnce(t *testing.T) {
	g := &grower{rnd: rand.New(rand.NewPCG(22, 23))}
	l := g.leaf("BF16", 3*2048, 768)
	p := planOf(t, Step{Name: "x", Type: gguf.BF16, Shape: []int64{2048, 768, 3}, From: Transpose{l, 3}})
	src := &counted{FS: fstest.MapFS{"f": {Data: g.data}}}
	remote, local := &memory{b: make([]byte, p.Size)}, &memory{b: make([]byte, p.Size)}
	if _, err := Render(t.Context(), p, src, remote, RenderOptions{Threads: 1, SourceOrder: true}); err != nil {
		t.Fatal(err)
	}
	if n, reads := src.bytes.Load(), src.reads.Load(); n != l.Size || reads > 4*l.Size/chunkBytes {
		t.Errorf("%d bytes in %d reads of %d", n, reads, l.Size)
	}
	// With more workers than a part has chunks a part may be gone before all of
	// them have had it, and is read again: what they make of it is the same.
	if _, err := Render(t.Context(), p, src, remote, RenderOptions{Threads: 8, SourceOrder: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := Render(t.Context(), p, src, local, RenderOptions{Threads: 8}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(remote.b, local.b) {
		t.Error("another file")
	}
}

// faultyFS fails reads of more than zero bytes that reach past limit.
type faultyFS struct {
	fs.FS
	limit int64
	err   error
}

type faultyFile struct {
	fs.File
	f *faultyFS
}

func (f *faultyFS) Open(name string) (fs.File, error) {
	file, err := f.FS.Open(name)
	return &faultyFile{file, f}, err
}

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.f.limit {
		return 0, f.f.err
	}
	return f.File.(io.ReaderAt).ReadAt(p, off)
}

// left returns the names in dir.
func left(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestWriteFiles(t *testing.T) {
	p, src, want := sample(t)
	dir := t.TempDir()
	out := filepath.Join(dir, "o.gguf")
	res, err := WriteFiles(t.Context(), []Output{{out, p}, {filepath.Join(dir, "p.gguf"), p}}, src, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the file differs (%v)", err)
	}
	if len(res) != 2 || res[1].SHA256 != sha256.Sum256(want) {
		t.Errorf("results: %v", res)
	}
	if l := left(t, dir); l != "o.gguf p.gguf" {
		t.Errorf("left: %s", l)
	}
}

// TestErrorsLeaveNothing has the errors of a conversion under way, with what
// they say.
func TestErrorsLeaveNothing(t *testing.T) {
	p, src, _ := sample(t)
	bad := func(dtype string, at int, bits ...byte) (*Plan, fs.FS) {
		g := &grower{rnd: rand.New(rand.NewPCG(5, 6))}
		l := g.leaf(dtype, 64, 64)
		copy(g.data[at:], bits)
		return planOf(t, Step{Name: "blk.0.x", Type: gguf.F16, Shape: []int64{64, 64}, From: RopePermute{l, 4}}), fstest.MapFS{"f": {Data: g.data}}
	}
	nanPlan, nanSrc := bad("BF16", 4100, 0xc0, 0x7f)
	infPlan, infSrc := bad("F16", 4100, 0x00, 0xfc)
	bigPlan, bigSrc := bad("F32", 4100, 0x00, 0x00, 0x80, 0x47)
	short := t.TempDir()
	if err := os.WriteFile(filepath.Join(short, "f"), make([]byte, 3_000_000), 0o644); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		plan *Plan
		src  fs.FS
		want string
	}{
		"read error": {p, &faultyFS{src, 3_000_000, errors.New("bad sector")}, ": read f at offset "},
		"truncated":  {p, os.DirFS(short), ": unexpected EOF"},
		"missing":    {p, fstest.MapFS{"g": {Data: make([]byte, 1000)}}, "file does not exist"},
		"nan":        {nanPlan, nanSrc, "tensor blk.0.x: NaN at element 2050 of t0 (offset 4100 of f): give --allow-nonfinite to convert it all the same"},
		"inf":        {infPlan, infSrc, "tensor blk.0.x: -Inf at element 2050 of t0 (offset 4100 of f): give --allow-nonfinite to convert it all the same"},
		"overflow":   {bigPlan, bigSrc, "tensor blk.0.x: 65536 in row 16, column 1 is more than F16 can hold: choose --type bf16 or f32, or give --allow-nonfinite"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := WriteFiles(t.Context(), []Output{{filepath.Join(dir, "o.gguf"), c.plan}}, c.src, FileOptions{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v: want %s", err, c.want)
			}
			if l := left(t, dir); l != "" {
				t.Errorf("left: %s", l)
			}
		})
	}
	t.Run("kept", func(t *testing.T) {
		dir := t.TempDir()
		_, err := WriteFiles(t.Context(), []Output{{filepath.Join(dir, "o.gguf"), p}}, cases["read error"].src, FileOptions{Keep: func(error) bool { return true }})
		var interrupted *InterruptedError
		if !errors.As(err, &interrupted) || !strings.Contains(err.Error(), ": bad sector: ") || !strings.Contains(err.Error(), "--resume") {
			t.Errorf("error %v", err)
		}
		if l := left(t, dir); l != "o.gguf.partial o.gguf.partial.journal" {
			t.Errorf("left: %s", l)
		}
	})
}

func TestAllowNonfinite(t *testing.T) {
	for _, typ := range []gguf.Type{gguf.F32, gguf.F16, gguf.BF16, gguf.Q8_0} {
		for _, dtype := range []string{"F32", "F16", "BF16"} {
			g := &grower{rnd: rand.New(rand.NewPCG(5, 6))}
			l := g.leaf(dtype, 64, 64)
			u, _ := unitOf(dtype)
			for _, i := range []int64{7, 8, 4095} {
				for b := range u.bytes {
					g.data[i*u.bytes+b] = 0xff // a NaN in each of the three
				}
			}
			p := planOf(t, Step{Name: "x", Type: typ, Shape: []int64{64, 64}, From: l})
			out := &memory{b: make([]byte, p.Size)}
			res, err := Render(t.Context(), p, fstest.MapFS{"f": {Data: g.data}}, out, RenderOptions{AllowNonfinite: true})
			if err != nil {
				t.Fatal(err)
			}
			want := int64(3)
			if dtype == "F32" && typ == gguf.F16 {
				want = 0 // counted below: random float32s overflow
				flat := make([]float32, 4096)
				u.decode(flat, g.data)
				for _, v := range flat {
					if !(math.Abs(float64(v)) < 65520) {
						want++
					}
				}
			}
			if res.Nonfinite["x"] != want {
				t.Errorf("%s to %s: %d non-finite elements: want %d", dtype, typ, res.Nonfinite["x"], want)
			}
		}
	}
}

// TestScanFindsOne puts one element that is not finite anywhere in rows of
// any length, where plain Go and the processor's instructions take turns.
func TestScanFindsOne(t *testing.T) {
	rnd := rand.New(rand.NewPCG(18, 19))
	for typ, l := range exponents {
		for range 300 {
			n := 1 + rnd.IntN(3*scanBlock/l.bytes)
			p, at := make([]byte, n*l.bytes), rnd.IntN(n)
			for i := range p {
				p[i] = byte(rnd.Uint32()) & 0xbb // no exponent of all ones
			}
			if got := firstNonfinite(typ, p); got != -1 {
				t.Fatalf("%s: element %d of %d finite ones", typ, got, n)
			}
			for i := range l.bytes {
				p[at*l.bytes+i] |= byte(l.mask >> (8 * i))
			}
			if got := firstNonfinite(typ, p); got != int64(at) {
				t.Fatalf("%s: element %d of %d: want %d", typ, got, n, at)
			}
			if typ == gguf.F32 {
				v := make([]float32, n)
				codec, _ := quantize.Definition(gguf.F32)
				codec.Decode(v, p)
				if got := firstNonfiniteValue(v); got != int64(at) {
					t.Fatalf("value %d of %d: want %d", got, n, at)
				}
			}
		}
	}
}

func TestFirstNonfinite(t *testing.T) {
	rnd := rand.New(rand.NewPCG(8, 9))
	for typ, l := range exponents {
		for range 2000 {
			p := make([]byte, l.bytes*rnd.IntN(80))
			for i := range p {
				p[i] = byte(rnd.Uint32() | rnd.Uint32()) // many ones
			}
			want, n := int64(-1), int64(0)
			for i := 0; i < len(p); i += l.bytes {
				var w [8]byte
				copy(w[:], p[i:i+l.bytes])
				mask := l.mask & (1<<(8*l.bytes) - 1)
				if binary.LittleEndian.Uint64(w[:])&mask == mask {
					n++
					if want < 0 {
						want = int64(i / l.bytes)
					}
				}
			}
			if got := firstNonfinite(typ, p); got != want {
				t.Fatalf("%s %x: %d: want %d", typ, p, got, want)
			}
			if got := countNonfinite(typ, p); got != n {
				t.Fatalf("%s %x: %d elements: want %d", typ, p, got, n)
			}
		}
	}
}

// slow is a source that takes its time, so that a run can be ended in it.
type slow struct{ fs.FS }

type slowFile struct{ fs.File }

func (s slow) Open(name string) (fs.File, error) {
	f, err := s.FS.Open(name)
	return slowFile{f}, err
}

func (f slowFile) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(time.Millisecond)
	return f.File.(io.ReaderAt).ReadAt(p, off)
}

func TestInterruptAndResume(t *testing.T) {
	p, src, want := sample(t)
	dir := t.TempDir()
	out := filepath.Join(dir, "o.gguf")
	rnd := rand.New(rand.NewPCG(10, 11))
	for i := range 10 {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Duration(1+rnd.IntN(20))*time.Millisecond, errors.New("interrupted"))
		_, err := WriteFiles(ctx, []Output{{out, p}}, slow{src}, FileOptions{Resume: true, RenderOptions: RenderOptions{Threads: 1 + i%3, SourceOrder: i%2 == 0}})
		cancel()
		var interrupted *InterruptedError
		if err == nil {
			break
		}
		if !errors.As(err, &interrupted) {
			t.Fatal(err)
		}
		// What follows the last sync may be lost with the power.
		if i%3 == 2 {
			f, err := os.OpenFile(out+partialSuffix, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			f.WriteAt([]byte("lost"), rnd.Int64N(p.Size-4))
			f.Close()
			forgetSyncs(t, out+journalSuffix)
		}
	}
	res, err := WriteFiles(t.Context(), []Output{{out, p}}, src, FileOptions{Resume: true})
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file differs (%v)", err)
	}
	if res[0].SHA256 != sha256.Sum256(want) {
		t.Errorf("digest %x", res[0].SHA256)
	}
	if l := left(t, dir); l != "o.gguf" {
		t.Errorf("left: %s", l)
	}
}

// TestResumeAnyChunks goes on where any chunks, in any order, are there.
func TestResumeAnyChunks(t *testing.T) {
	g := &grower{rnd: rand.New(rand.NewPCG(20, 21))}
	p := planOf(t, Step{Name: "x", Type: gguf.F32, Shape: []int64{512, 6000}, From: g.leaf("BF16", 6000, 512)})
	src := fstest.MapFS{"f": {Data: g.data}}
	out := &memory{b: make([]byte, p.Size)}
	full, err := Render(t.Context(), p, src, out, RenderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(out.b)
	v, err := NewView(p, src, RenderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := cut(v, turnedChunk(1))
	for range 15 {
		dir := t.TempDir()
		path := filepath.Join(dir, "o")
		unfinished, err := openPartial(Output{path, p}, src, FileOptions{RenderOptions: RenderOptions{Threads: 1}})
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range g.rnd.Perm(c.n)[:g.rnd.IntN(c.n+1)] {
			at := c.at(i)
			b := want[at.off : at.off+at.size]
			if _, err := unfinished.data.WriteAt(b, at.off); err != nil {
				t.Fatal(err)
			}
			if err := unfinished.log.written(i, crc32.Checksum(b, castagnoli)); err != nil {
				t.Fatal(err)
			}
		}
		unfinished.close()
		res, err := WriteFiles(t.Context(), []Output{{path, p}}, src, FileOptions{Resume: true, RenderOptions: RenderOptions{Threads: 1 + g.rnd.IntN(3)}})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) || res[0].SHA256 != full.SHA256 {
			t.Fatalf("another file (%v)", err)
		}
	}
}

// forgetSyncs takes the sync records out of a journal.
func forgetSyncs(t *testing.T, path string) {
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	line, rest, _ := bytes.Cut(raw, []byte{'\n'})
	out := append(line, '\n')
	for len(rest) >= 6 {
		n := 6 + int(rest[1])
		if rest[0] != recordSync {
			out = append(out, rest[:n]...)
		}
		rest = rest[n:]
	}
	if err := os.WriteFile(path, append(out, "torn"...), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestResumeRefuses(t *testing.T) {
	p, src, _ := sample(t)
	stop := func(t *testing.T) string {
		out := filepath.Join(t.TempDir(), "o.gguf")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("interrupted"))
		if _, err := WriteFiles(ctx, []Output{{out, p}}, src, FileOptions{}); err == nil || !strings.Contains(err.Error(), "interrupted: 0 B of ") {
			t.Fatalf("error %v", err)
		}
		return out
	}
	other := *p
	other.Header.Metadata = append(gguf.Metadata{}, gguf.KV{Key: "general.architecture", Value: "nest"})
	changed := fstest.MapFS{"f": {Data: src.(fstest.MapFS)["f"].Data, ModTime: time.Unix(1, 0)}}
	for _, c := range []struct {
		name string
		plan *Plan
		src  fs.FS
		do   func(out string)
		want string
	}{
		{"source", p, changed, nil, "source file f has changed since: convert again without --resume"},
		{"plan", &other, src, nil, "it was made with other options, from another source or by another version: convert again without --resume"},
		{"journal", p, src, func(out string) { os.WriteFile(out+journalSuffix, []byte("{"), 0o644) }, "its journal is damaged"},
		{"data", p, src, func(out string) { os.Remove(out + partialSuffix) }, "it is gone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := stop(t)
			if c.do != nil {
				c.do(out)
			}
			_, err := WriteFiles(t.Context(), []Output{{out, c.plan}}, c.src, FileOptions{Resume: true})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v: want %s", err, c.want)
			}
			if _, err := WriteFiles(t.Context(), []Output{{out, c.plan}}, c.src, FileOptions{}); err != nil {
				t.Errorf("again: %v", err)
			}
		})
	}
}

func TestSecondWriterIsRefused(t *testing.T) {
	p, src, _ := sample(t)
	out := filepath.Join(t.TempDir(), "o.gguf")
	first, err := openPartial(Output{out, p}, src, FileOptions{RenderOptions: RenderOptions{Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = WriteFiles(t.Context(), []Output{{out, p}}, src, FileOptions{})
	if err == nil || !strings.Contains(err.Error(), "another process is writing this output") {
		t.Errorf("error %v", err)
	}
	first.close()
	if _, err = WriteFiles(t.Context(), []Output{{out, p}}, src, FileOptions{}); err != nil {
		t.Errorf("after the first: %v", err)
	}
}

func TestSpaceIsChecked(t *testing.T) {
	err := checkSpace(t.TempDir(), 1<<62)
	if err == nil || !strings.Contains(err.Error(), "it needs 4612 PB") && !strings.Contains(err.Error(), "it needs 4.61 EB") {
		t.Errorf("error %v", err)
	}
}

func TestFormatBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.00 kB", 9_996_000: "10 MB", 2_200_000_000: "2.20 GB", 999_600: "1.00 MB", 123_456: "123 kB"} {
		if got := formatBytes(n); got != want {
			t.Errorf("%d: %s: want %s", n, got, want)
		}
	}
}

// fullDisk is an output that runs out of room.
type fullDisk struct {
	memory
	limit int64
}

func (f *fullDisk) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.limit {
		return 0, errors.New("no space left on device")
	}
	return f.memory.WriteAt(p, off)
}

func TestDiskFull(t *testing.T) {
	p, src, _ := sample(t)
	out := &fullDisk{memory{b: make([]byte, p.Size)}, 5 << 20}
	_, err := Render(t.Context(), p, src, out, RenderOptions{Threads: 2})
	if err == nil || !strings.Contains(err.Error(), "write output at offset ") || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("error %v", err)
	}
}

func TestMXFP4(t *testing.T) {
	rnd := rand.New(rand.NewPCG(12, 13))
	const rows, n = 6, 5
	data := make([]byte, rows*n*17)
	for i := range data {
		data[i] = byte(rnd.IntN(255))
	}
	m := MXFP4{
		Blocks: Leaf{File: "f", Name: "b", DType: "U8", Shape: []int64{2, rows / 2, n, 16}, Size: rows * n * 16},
		Scales: Leaf{File: "f", Name: "s", DType: "U8", Shape: []int64{2, rows / 2, n}, Offset: rows * n * 16, Size: rows * n},
	}
	if err := Check(m); err != nil {
		t.Fatal(err)
	}
	codec, ok := quantize.Definition(gguf.MXFP4)
	if !ok {
		t.Skip("there is no MXFP4 codec in this build")
	}
	e := &evaluator{src: &sources{fsys: fstest.MapFS{"f": {Data: data}}}}
	packed, decoded, values := make([]byte, rows*n*17), make([]float32, rows*n*32), make([]float32, rows*n*32)
	if err := e.rawTile(m, gguf.MXFP4, 0, rows, 0, n*17, packed); err != nil {
		t.Fatal(err)
	}
	if err := e.tile(m, 0, rows, 0, n*32, values); err != nil {
		t.Fatal(err)
	}
	codec.Decode(decoded, packed)
	for i := range values {
		if values[i] != decoded[i] {
			t.Fatalf("element %d: %v: ggml's block has %v", i, values[i], decoded[i])
		}
	}
	part := make([]byte, 2*2*17)
	if err := e.rawTile(m, gguf.MXFP4, 3, 5, 17, 3*17, part); err != nil {
		t.Fatal(err)
	}
	for r := range 2 {
		if !bytes.Equal(part[r*34:(r+1)*34], packed[((3+r)*n+1)*17:][:34]) {
			t.Errorf("row %d of a part differs", 3+r)
		}
	}
}
