package convert

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/internal/bulkhash"
	"github.com/modelpipe/modelpipe/quantize"
)

// RenderOptions is how to render. But for AllowNonfinite and Imatrix none of
// it changes the bytes.
type RenderOptions struct {
	// Threads is the number of workers. Zero is GOMAXPROCS, which follows
	// the processors and the CPU limit of the container.
	Threads int

	// AllowNonfinite lets NaNs and infinities pass and counts them.
	AllowNonfinite bool

	// Imatrix, where it is not nil, weighs the columns of the tensors that it
	// knows. It is part of what the bytes depend on.
	Imatrix *quantize.Imatrix

	// Encoder, where it is not nil, encodes what it can, and the codecs of
	// package quantize do the rest. Its bytes can differ from theirs.
	Encoder Encoder

	// SourceOrder renders in the order of the source files, not of the
	// output, so that a remote source is read ahead and only once. The output
	// must implement io.ReaderAt for its digest to be taken.
	SourceOrder bool

	// Progress, where it is not nil, is kept up to date while Render runs.
	Progress *Progress

	log *journal
}

// Encoder encodes rows of weights elsewhere, such as on an accelerator. It is
// called by several workers at once.
type Encoder interface {
	// Can reports whether rows stored as one type can be encoded as another.
	Can(t, stored gguf.Type) bool
	// Batch is the number of weights that a call should bring.
	Batch() int64
	// Calls is the number of calls under way that keep the device busy: some
	// upload and download while another one's weights are encoded.
	Calls() int
	// Encode writes the blocks of whole rows of cols weights, stored as they
	// are in the source, to dst. importance is as a quantize.Codec has it.
	Encode(dst []byte, t, stored gguf.Type, rows []byte, cols int, importance []float32) error
}

// Progress is what a display polls.
type Progress struct {
	Done   atomic.Int64 // bytes of the outputs that are written
	tensor atomic.Pointer[string]
}

// Tensor is the name of the tensor that was last worked on.
func (p *Progress) Tensor() string {
	if name := p.tensor.Load(); name != nil {
		return *name
	}
	return ""
}

// Stats is where the time went, summed over the workers.
type Stats struct {
	Wall                                   time.Duration
	Read, Convert, Hash, Write, Wait, Sync time.Duration
	BytesRead, BytesWritten                int64
	Threads                                int
	Bound                                  string // "source", "cpu", "output": the largest of the above
}

// Result is what Render found out.
type Result struct {
	SHA256    [sha256.Size]byte
	Size      int64
	Nonfinite map[string]int64 // by output tensor, where they are allowed
	Stats     Stats
}

const (
	// chunkBytes is the usual size of the output that a worker renders and
	// writes at once: it stays in the second cache of today's processors.
	chunkBytes = 1 << 20

	// turnedBytes bounds chunks of transposed tensors for all workers
	// together. Their reads are as long as the chunk has rows.
	turnedBytes = 16 << 20

	// blockElements bounds the elements of a chunk that is quantized, so
	// that the slowest types still share out their work.
	blockElements = 512 << 10
)

// turnedChunk is the size of chunks of transposed tensors.
func turnedChunk(threads int) int64 {
	return min(max(turnedBytes/int64(threads), 256<<10), 4<<20)
}

// chunk is what one worker renders at once: a part of the header, or rows
// (of scalars, perhaps columns of one row) with the padding that follows.
type chunk struct {
	off, size      int64 // in the file
	step           int   // -1 for the header
	r0, r1, c0, c1 int64
}

// chunks cuts a file into chunks, which cover it without a gap. They are
// computed when they are asked for: a file has a million of them.
type chunks struct {
	v     *View
	width []int64 // rows of each step in a chunk, or columns where negative
	first []int   // number of each step's first chunk
	head  int     // chunks of the header
	n     int
}

// cut fixes the chunks for a size of those of transposed tensors.
func cut(v *View, turned int64) *chunks {
	c := &chunks{v: v, head: int(ceilDiv(v.plan.HeaderSize, chunkBytes))}
	c.n = c.head
	for i := range v.steps {
		s := &v.steps[i]
		limit := v.usualChunk(s)
		if s.turned && !s.device {
			limit = turned
		}
		rows := max(1, min(s.rows, limit/s.rowBytes))
		if !alone(s.Type) && !s.raw && !s.device {
			rows = max(1, min(rows, blockElements/s.cols))
		}
		c.first = append(c.first, c.n)
		if alone(s.Type) && s.rowBytes > 2*limit {
			cols := limit / s.Type.BlockBytes()
			c.width = append(c.width, -cols)
			c.n += int(s.rows * ceilDiv(s.cols, cols))
			continue
		}
		c.width = append(c.width, rows)
		c.n += int(ceilDiv(s.rows, rows))
	}
	return c
}

// largest returns the size of the largest chunk.
func (c *chunks) largest() int64 {
	size := min(c.v.plan.HeaderSize, chunkBytes)
	for i := range c.v.steps {
		size = max(size, c.at(c.first[i]).size)
		if i+1 < len(c.first) {
			size = max(size, c.at(c.first[i+1]-1).size)
		}
	}
	return max(size, c.at(c.n-1).size)
}

// at returns chunk i.
func (c *chunks) at(i int) chunk {
	if i < c.head {
		off := int64(i) * chunkBytes
		end := min(off+chunkBytes, c.v.plan.HeaderSize)
		if len(c.v.steps) == 0 && i == c.head-1 {
			end = c.v.plan.Size
		}
		return chunk{off: off, size: end - off, step: -1}
	}
	n := sort.SearchInts(c.first, i+1) - 1
	s := &c.v.steps[n]
	k := int64(i - c.first[n])
	out := chunk{step: n, c1: s.cols}
	if w := c.width[n]; w < 0 {
		per := ceilDiv(s.cols, -w)
		out.r0, out.c0 = k/per, k%per*-w
		out.r1, out.c1 = out.r0+1, min(s.cols, out.c0-w)
		out.off = s.Offset + out.r0*s.rowBytes + out.c0*s.Type.BlockBytes()
		out.size = (out.c1 - out.c0) * s.Type.BlockBytes()
	} else {
		out.r0, out.r1 = k*w, min(s.rows, (k+1)*w)
		out.off = s.Offset + out.r0*s.rowBytes
		out.size = (out.r1 - out.r0) * s.rowBytes
	}
	if out.r1 == s.rows && out.c1 == s.cols {
		next := c.v.plan.Size
		if n+1 < len(c.v.steps) {
			next = c.v.steps[n+1].Offset
		}
		out.size = next - out.off
	}
	return out
}

const (
	// strayBytes bounds a chunk that is read before its turn in the source,
	// and strays how many there are: each costs a request of its own.
	strayBytes = 256 << 10
	strays     = 64

	// strayLag is by how much later, in bytes of the output, a chunk must come
	// than all before it in the output to be read early.
	strayLag = 64 << 20
)

// bySource returns the numbers of the chunks in the order in which their
// first rows lie in the source. A few small ones come first: those that the
// digest of the output would wait for long, as for the norm at the end of a
// checkpoint that is at the beginning of a GGUF.
func (c *chunks) bySource() []int {
	type place struct {
		chunk int
		size  int64
		file  string
		off   int64
	}
	places := make([]place, c.n)
	for i := range places {
		at := c.at(i)
		places[i].chunk, places[i].size = i, at.size
		if at.step >= 0 {
			l, _, off, _ := locate(c.v.steps[at.step].From, at.r0, at.c0)
			places[i].file, places[i].off = l.File, off
		}
	}
	slices.SortStableFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.off, b.off))
	})
	// When each chunk comes: after how many bytes of others.
	comes, sizes := make([]int64, c.n), make([]int64, c.n)
	var sum int64
	for _, p := range places {
		comes[p.chunk], sizes[p.chunk] = sum, p.size
		sum += p.size
	}
	order := make([]int, 0, c.n)
	early := map[int]bool{}
	var reached int64
	for i, at := range comes {
		if at > reached+strayLag && sizes[i] <= strayBytes && len(order) < strays {
			early[i] = true
			order = append(order, i)
			continue
		}
		reached = max(reached, at)
	}
	for _, p := range places {
		if !early[p.chunk] {
			order = append(order, p.chunk)
		}
	}
	return order
}

// fill renders a chunk into p, which has its size.
func (v *View) fill(e *evaluator, c chunk, p []byte, count func(int64)) error {
	if c.step < 0 {
		clear(p)
		if c.off < int64(len(v.head)) {
			copy(p, v.head[c.off:])
		}
		return nil
	}
	s := &v.steps[c.step]
	n := (c.r1 - c.r0) * s.rowBytes
	if c.r1-c.r0 == 1 && c.c1-c.c0 < s.cols {
		n = (c.c1 - c.c0) * s.Type.BlockBytes()
	}
	clear(p[n:])
	return v.region(e, s, c.r0, c.r1, c.c0, c.c1, p[:n], count)
}

// Render writes the file of plan to w. Workers take chunks of all tensors in
// turn, so that none waits for another's tensor; memory does not grow with
// the model. The digest is of the file from its first byte to its last, taken
// while later chunks are rendered. The bytes do not depend on opts.
//
// When ctx ends, Render returns its cause after the chunks under way.
func Render(ctx context.Context, plan *Plan, src fs.FS, w io.WriterAt, opts RenderOptions) (*Result, error) {
	v, err := NewView(plan, src, opts)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	if opts.Threads <= 0 {
		opts.Threads = runtime.GOMAXPROCS(0)
	}
	turned := turnedChunk(opts.Threads)
	if opts.log != nil {
		turned = opts.log.id.Turned
	}
	c := cut(v, turned)
	r := &render{v: v, chunks: c, w: w, opts: opts, log: opts.log, sum: bulkhash.NewSHA256(), pending: map[int][]byte{}}
	r.back, _ = w.(io.ReaderAt)
	r.result.Nonfinite = map[string]int64{}
	if opts.SourceOrder {
		if r.back == nil {
			return nil, errors.New("render: in the order of the source: the output cannot be read back")
		}
		r.order = c.bySource()
	}
	if r.log != nil {
		if err := r.resume(); err != nil {
			return nil, err
		}
	}
	if opts.Progress != nil {
		opts.Progress.Done.Add(r.skipped)
	}
	if err := r.run(ctx); err != nil {
		return nil, err
	}
	r.sum.Sum(r.result.SHA256[:0])
	r.result.Size = plan.Size
	return &r.result, nil
}

// render is one run of Render.
type render struct {
	v      *View
	chunks *chunks
	w      io.WriterAt
	back   io.ReaderAt // w, where it can be read
	opts   RenderOptions
	log    *journal
	order  []int // of rendering; nil is that of the file

	next    atomic.Int64 // in order
	skipped int64        // bytes that an earlier run has written

	mu       sync.Mutex
	sum      hash.Hash
	hashed   int            // chunks whose bytes are in sum
	hashing  bool           // a worker is at it
	pending  map[int][]byte // chunks written after those; nil bytes are read back
	result   Result
	released chan []byte // buffers
}

// castagnoli is the polynomial of the journal's checksums.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (r *render) run(ctx context.Context) error {
	start := time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	threads := r.opts.Threads
	if e := r.opts.Encoder; e != nil {
		threads += e.Calls() // these wait for the device and take no processor
	}
	threads = min(threads, max(1, r.chunks.n))
	buffers := threads + max(2, threads/2)
	r.released = make(chan []byte, buffers)
	for range buffers {
		r.released <- nil
	}
	largest := r.chunks.largest()
	var wg sync.WaitGroup
	for range threads {
		wg.Go(func() {
			if err := r.work(ctx, largest); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := r.hashPending(); err != nil {
		return err
	}
	if r.hashed != r.chunks.n {
		return fmt.Errorf("render: %d of %d chunks were written", r.hashed, r.chunks.n)
	}
	s := &r.result.Stats
	s.Wall, s.Threads = time.Since(start), threads
	s.Bound = "cpu"
	if s.Read > s.Convert+s.Hash {
		s.Bound = "source"
	}
	if s.Write > s.Convert+s.Hash && s.Write > s.Read {
		s.Bound = "output"
	}
	return nil
}

// work renders chunks until there are none left.
func (r *render) work(ctx context.Context, largest int64) error {
	e := &evaluator{src: r.v.src}
	var stats Stats
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		s := &r.result.Stats
		s.Read += e.reading
		s.Convert += stats.Convert - e.reading
		s.Hash += stats.Hash
		s.Write += stats.Write
		s.Wait += stats.Wait
		s.BytesRead += e.read
		s.BytesWritten += stats.BytesWritten
	}()
	for {
		t := time.Now()
		var buf []byte
		select {
		case <-ctx.Done():
			return nil
		case buf = <-r.released:
		}
		stats.Wait += time.Since(t)
		i, ok := r.take()
		if !ok {
			r.released <- buf
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		if buf == nil {
			buf = make([]byte, largest)
		}
		c := r.chunks.at(i)
		p := buf[:c.size]
		t = time.Now()
		err := r.v.fill(e, c, p, func(n int64) {
			r.mu.Lock()
			r.result.Nonfinite[r.v.steps[c.step].Name] += n
			r.mu.Unlock()
		})
		stats.Convert += time.Since(t)
		if err != nil {
			return err
		}
		t = time.Now()
		if _, err := r.w.WriteAt(p, c.off); err != nil {
			return fmt.Errorf("write output at offset %d: %w", c.off, err)
		}
		stats.BytesWritten += c.size
		stats.Write += time.Since(t)
		if r.log != nil {
			if err := r.log.written(i, crc32.Checksum(p, castagnoli)); err != nil {
				return err
			}
		}
		if p := r.opts.Progress; p != nil {
			p.Done.Add(c.size)
			if c.step >= 0 {
				p.tensor.Store(&r.v.steps[c.step].Name)
			}
		}
		t = time.Now()
		if err := r.done(i, p); err != nil {
			return err
		}
		stats.Hash += time.Since(t)
	}
}

// take returns the number of the next chunk to render.
func (r *render) take() (int, bool) {
	for {
		n := int(r.next.Add(1) - 1)
		if n >= r.chunks.n {
			return 0, false
		}
		if r.order != nil {
			n = r.order[n]
		}
		if r.log == nil || !r.log.has(n) {
			return n, true
		}
	}
}

// done hands chunk i to the digest. Whoever finds the next chunks of the file
// complete takes them all, while the others go on rendering.
func (r *render) done(i int, p []byte) error {
	r.mu.Lock()
	switch {
	case i < r.hashed: // rendered again after a power failure
		r.released <- p[:cap(p)]
	case r.order != nil && i != r.hashed:
		// It may be long until its turn: it is read back then.
		r.pending[i] = nil
		r.released <- p[:cap(p)]
	default:
		r.pending[i] = p
	}
	busy, ready := r.hashing, r.ready()
	r.hashing = busy || ready
	r.mu.Unlock()
	if busy || !ready {
		return nil
	}
	return r.hashPending()
}

// ready says whether the next chunk of the digest is in the file, of this run
// or of an earlier one. r.mu is the caller's.
func (r *render) ready() bool {
	return r.complete(r.hashed)
}

// complete says whether chunk i, which is not hashed, is in the file. r.mu is
// the caller's.
func (r *render) complete(i int) bool {
	if _, ok := r.pending[i]; ok {
		return true
	}
	return r.log != nil && r.log.has(i)
}

// hashPending takes the digest over every complete chunk that follows what is
// hashed. r.hashing is the caller's.
func (r *render) hashPending() error {
	var back readBack
	defer back.wait()
	for {
		r.mu.Lock()
		i := r.hashed
		if !r.ready() {
			r.hashing = false
			r.mu.Unlock()
			return nil
		}
		p := r.pending[i]
		delete(r.pending, i)
		another := i+1 < r.chunks.n && r.pending[i+1] == nil && r.complete(i+1)
		r.mu.Unlock()
		if p != nil {
			r.sum.Write(p)
			r.released <- p[:cap(p)]
		} else {
			b, err := back.take(r, i)
			if err != nil {
				return err
			}
			if another {
				back.begin(r, i+1)
			}
			r.sum.Write(b)
		}
		r.mu.Lock()
		r.hashed++
		if r.log != nil && r.hashed%hashEvery == 0 {
			if err := r.logHash(); err != nil {
				r.mu.Unlock()
				return err
			}
		}
		r.mu.Unlock()
	}
}

// readBack reads chunks of the output for the digest, each while the one before
// it is hashed.
type readBack struct {
	buffers [2][]byte
	chunk   int        // being read, where done is not nil
	done    chan error // of that
}

// begin reads chunk i into the buffer that the last one is not in.
func (b *readBack) begin(r *render, i int) {
	b.buffers[0], b.buffers[1] = b.buffers[1], b.buffers[0]
	if b.buffers[0] == nil {
		b.buffers[0] = make([]byte, r.chunks.largest())
	}
	b.chunk, b.done = i, make(chan error, 1)
	c, p, done := r.chunks.at(i), b.buffers[0], b.done
	go func() {
		_, err := r.back.ReadAt(p[:c.size], c.off)
		if err != nil {
			err = fmt.Errorf("read the output back at offset %d: %w", c.off, err)
		}
		done <- err
	}()
}

// take returns the bytes of chunk i; they stay until the second begin from now.
func (b *readBack) take(r *render, i int) ([]byte, error) {
	if b.done == nil || b.chunk != i {
		b.wait()
		b.begin(r, i)
	}
	err := b.wait()
	return b.buffers[0][:r.chunks.at(i).size], err
}

// wait ends what begin began.
func (b *readBack) wait() (err error) {
	if b.done != nil {
		err = <-b.done
		b.done = nil
	}
	return err
}

// hashEvery is how many chunks of the digest go by between two records of it:
// so many are read back after a kill. The journal of a terabyte takes some
// thirty megabytes so.
const hashEvery = 16

// logHash records how far the digest is.
func (r *render) logHash() error {
	state, err := r.sum.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return fmt.Errorf("render: digest: %w", err)
	}
	return r.log.digest(r.hashed, state)
}

// resume takes over what the journal says an earlier run has done.
func (r *render) resume() error {
	if err := r.log.verify(r.chunks); err != nil {
		return err
	}
	if r.log.state != nil {
		if err := r.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(r.log.state); err != nil {
			return fmt.Errorf("render: digest: %w", err)
		}
		r.hashed = r.log.hashed
	}
	for i := range r.chunks.n {
		if r.log.has(i) {
			r.skipped += r.chunks.at(i).size
		}
	}
	return nil
}
