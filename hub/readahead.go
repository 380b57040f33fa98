package hub

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"
)

// Reading ahead.
//
// A reader turns ReadAts on one remote file into ranged GETs so that
//   - a lone small read (a header) costs one small GET,
//   - reads that follow each other, also roughly and from several goroutines, find their bytes already there: the amount
//     read ahead grows with what was read in order, from nothing up to window,
//   - every byte goes to the digest in order, once, without being fetched again,
//   - buffered bytes of all files together stay below pool.limit.
//
// The unit is the segment: a range that was fetched or is being fetched. Segments of a file never overlap.
const (
	blockSize = 3 << 20 // largest single GET

	// How far ahead of a stream of reads, and how far ahead of the digest, bytes are kept: twice what eight
	// connections carry, for the line would be idle whenever ranges that were asked for together end together.
	window = 48 << 20

	smallRead = 4 << 10 // a smaller read fetches this much, for the reads that follow
	gapLimit  = 8 << 20 // a hole of up to this between what was read is fetched for the digest's sake
	parallel  = 4       // GETs of one large read
	maxStream = 8       // places of a file that are read in order at the same time
	staleTime = 2 * time.Second
)

// ranger fetches ranges of one file; ranges outside it are the caller's fault.
type ranger interface {
	readRange(ctx context.Context, p []byte, off int64) error
	// inOrder reports that ranges should be asked for one after the other.
	inOrder() bool
}

func (o *object) inOrder() bool { return o.whole.active() }

// pool bounds the buffers of a client and keeps the full-sized ones for use again.
type pool struct {
	mu      sync.Mutex
	limit   int64
	used    int64
	peak    int64
	free    [][]byte
	readers map[*reader]struct{}
}

// get returns a buffer of n <= blockSize bytes, or nil if the budget does not allow it.
func (p *pool) get(n int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	size := int64(n)
	if n > blockSize/2 {
		size = blockSize // pooled buffers are of one size
	}
	if p.used+size > p.limit {
		return nil
	}
	if size < blockSize {
		// Spare buffers are memory too.
		for len(p.free) > 0 && p.used+size+int64(len(p.free))*blockSize > p.limit {
			p.free = p.free[:len(p.free)-1]
		}
	}
	p.used += size
	p.peak = max(p.peak, p.used)
	if size < blockSize {
		return make([]byte, n)
	}
	if k := len(p.free); k > 0 {
		b := p.free[k-1]
		p.free = p.free[:k-1]
		return b[:n]
	}
	return make([]byte, n, blockSize)
}

func (p *pool) put(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cap(b) == blockSize {
		p.used -= blockSize
		p.free = append(p.free, b)
	} else {
		p.used -= int64(len(b))
	}
}

func (p *pool) join(r *reader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readers == nil {
		p.readers = map[*reader]struct{}{}
	}
	p.readers[r] = struct{}{}
}

// leave forgets r, and the spare buffers once nobody is left to use them.
func (p *pool) leave(r *reader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.readers, r)
	if len(p.readers) == 0 {
		p.free = nil
	}
}

// others returns the readers besides r.
func (p *pool) others(r *reader) []*reader {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*reader
	for o := range p.readers {
		if o != r {
			out = append(out, o)
		}
	}
	return out
}

type segment struct {
	off   int64
	buf   []byte
	ready chan struct{} // closed when buf is filled or err is set
	done  bool          // ready is closed (guarded by reader.mu)
	err   error
	read  int64 // bytes handed to readers
	refs  int   // readers that are using buf
}

func (s *segment) end() int64 { return s.off + int64(len(s.buf)) }

// stream is a place of the file that is being read in order.
type stream struct {
	front int64 // end of the farthest read
	bytes int64 // read so far
	hits  int   // reads that continued it
	used  uint64
}

// reader is the shared state of all open handles of one remote file.
type reader struct {
	ctx   context.Context
	from  ranger
	size  int64
	pool  *pool
	slots chan struct{}
	wg    *sync.WaitGroup

	mu      sync.Mutex
	hashed  sync.Cond  // signalled when pos moves or hashing ends
	segs    []*segment // by off
	direct  [][2]int64 // ranges being fetched straight into a caller's buffer
	streams []*stream
	clock   uint64
	last    time.Time
	touched bool
	closed  bool

	sum     *digest // nil: nothing to hold the bytes to
	pos     int64   // bytes that went through sum
	hashing bool    // a goroutine is feeding sum
	bad     error   // the digest did not match: sticky
}

func newReader(ctx context.Context, from ranger, size int64, sum *digest, p *pool, slots chan struct{}, wg *sync.WaitGroup) *reader {
	r := &reader{ctx: ctx, from: from, size: size, pool: p, slots: slots, wg: wg, sum: sum}
	r.hashed.L = &r.mu
	if sum != nil && size == 0 {
		r.bad = sum.check()
	}
	p.join(r)
	return r
}

// piece is a part of one ReadAt: within a segment, or (seg nil) to be fetched straight into the caller's buffer.
type piece struct {
	seg      *segment
	off, end int64
}

var errClosed = errors.New("snapshot is closed")

func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if off >= r.size {
		return 0, io.EOF
	}
	eof := false
	if int64(len(p)) > r.size-off {
		p, eof = p[:r.size-off], true
	}
	if len(p) > 0 {
		if err := r.read(p, off); err != nil {
			return 0, err
		}
	}
	if eof {
		return len(p), io.EOF
	}
	return len(p), nil
}

func (r *reader) read(p []byte, off int64) error {
	end := off + int64(len(p))
	r.mu.Lock()
	if err := r.state(); err != nil {
		r.mu.Unlock()
		return err
	}
	r.touched, r.last = true, time.Now()
	pieces := r.cut(off, end)
	r.ahead(r.follow(off, end))
	r.mu.Unlock()

	var first error
	fetched := make(chan error, len(pieces))
	holes := 0
	for _, pc := range pieces {
		if pc.seg == nil {
			holes++
			go func() { fetched <- r.fetchDirect(p[pc.off-off:pc.end-off], pc.off) }()
		}
	}
	for _, pc := range pieces {
		if pc.seg == nil {
			continue
		}
		select {
		case <-pc.seg.ready:
			if pc.seg.err == nil {
				copy(p[pc.off-off:pc.end-off], pc.seg.buf[pc.off-pc.seg.off:])
			} else if first == nil {
				first = pc.seg.err
			}
		case <-r.ctx.Done():
			if first == nil {
				first = context.Cause(r.ctx)
			}
		}
	}
	for range holes {
		if err := <-fetched; err != nil && first == nil {
			first = err
		}
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	for _, pc := range pieces {
		if pc.seg != nil {
			pc.seg.refs--
			pc.seg.read += pc.end - pc.off
		}
	}
	// The last bytes of a file wait for the digest's verdict, so that a mismatch fails one of the reads.
	for r.hashing && r.size-r.pos <= window {
		r.hashed.Wait()
	}
	r.sweep()
	if r.bad != nil {
		return r.bad
	}
	return first
}

func (r *reader) state() error {
	switch {
	case r.bad != nil:
		return r.bad
	case r.closed:
		return errClosed
	case r.ctx.Err() != nil:
		return context.Cause(r.ctx)
	}
	return nil
}

// cut divides [off, end) into pieces, taking references on segments. Small holes become segments. Called with mu held.
func (r *reader) cut(off, end int64) []piece {
	var out []piece
	for at := off; at < end; {
		i, seg := r.find(at)
		if seg != nil {
			to := min(end, seg.end())
			seg.refs++
			out = append(out, piece{seg, at, to})
			at = to
			continue
		}
		limit := r.size // where the hole that begins at at ends
		if i < len(r.segs) {
			limit = r.segs[i].off
		}
		to := min(end, limit)
		if to-at < smallRead {
			if seg := r.start(at, min(at+smallRead, limit), true); seg != nil {
				continue // found by the next turn
			}
		}
		r.direct = append(r.direct, [2]int64{at, to})
		out = append(out, piece{nil, at, to})
		at = to
	}
	return out
}

// find returns the segment that holds at, or nil and the index of the first segment behind at.
func (r *reader) find(at int64) (int, *segment) {
	i, ok := slices.BinarySearchFunc(r.segs, at, func(s *segment, at int64) int {
		switch {
		case s.end() <= at:
			return -1
		case s.off > at:
			return 1
		}
		return 0
	})
	if ok {
		return i, r.segs[i]
	}
	return i, nil
}

// start begins to fetch [off, end), at most blockSize, as a segment; nil if memory does not allow it. A reader that
// waits for the bytes (urgent) does not queue behind those that are read ahead. Called with mu held.
func (r *reader) start(off, end int64, urgent bool) *segment {
	n := int(end - off)
	buf := r.pool.get(n)
	if buf == nil {
		r.makeRoom()
		if buf = r.pool.get(n); buf == nil {
			return nil
		}
	}
	s := &segment{off: off, buf: buf, ready: make(chan struct{})}
	i, _ := r.find(off)
	r.segs = slices.Insert(r.segs, i, s)
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		err := r.fetch(s, urgent)
		r.mu.Lock()
		s.err = err
		s.done = true
		if err != nil {
			r.remove(s) // a later read tries again
		}
		r.digestReady()
		r.mu.Unlock()
		close(s.ready)
	}()
	return s
}

func (r *reader) fetch(s *segment, urgent bool) error {
	if !urgent {
		select {
		case r.slots <- struct{}{}:
			defer func() { <-r.slots }()
		case <-r.ctx.Done():
			return context.Cause(r.ctx)
		}
	}
	return r.from.readRange(r.ctx, s.buf, s.off)
}

// fetchDirect fills p, in parallel parts if it is large, and shows it to the digest.
func (r *reader) fetchDirect(p []byte, off int64) error {
	ways := parallel
	if r.from.inOrder() {
		ways = 1
	}
	parts := make(chan int)
	errs := make(chan error, ways)
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	ways = min(ways, (len(p)+blockSize-1)/blockSize)
	for range ways {
		go func() {
			var first error
			for at := range parts {
				if first == nil {
					if first = r.from.readRange(ctx, p[at:min(at+blockSize, len(p))], off+int64(at)); first != nil {
						cancel()
					}
				}
			}
			errs <- first
		}()
	}
	for at := 0; at < len(p); at += blockSize {
		parts <- at
	}
	close(parts)
	var err error
	for range ways {
		if e := <-errs; e != nil && (err == nil || errors.Is(err, context.Canceled)) {
			err = e
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.direct, [2]int64{off, off + int64(len(p))}); i >= 0 {
		r.direct = slices.Delete(r.direct, i, i+1)
	}
	if err == nil {
		r.offer(p, off)
	}
	return err
}

// follow accounts a read to the stream that it continues, or begins one. Called with mu held.
func (r *reader) follow(off, end int64) *stream {
	r.clock++
	for _, s := range r.streams {
		// How far off a continuing read may be grows with what was read in order, for goroutines that overtake
		// each other and for gaps that nobody reads.
		tolerance := min(window/2, max(smallRead, 2*s.bytes))
		if off < s.front-tolerance || off > s.front+min(tolerance, gapLimit) {
			continue
		}
		s.front = max(s.front, end)
		s.bytes += end - off
		s.hits++
		s.used = r.clock
		return s
	}
	s := &stream{front: end, bytes: end - off, used: r.clock}
	if len(r.streams) < maxStream {
		r.streams = append(r.streams, s)
		return s
	}
	oldest := 0
	for i, s := range r.streams {
		if s.used < r.streams[oldest].used {
			oldest = i
		}
	}
	r.streams[oldest] = s
	return s
}

// ahead fetches what st will want next. Called with mu held.
func (r *reader) ahead(st *stream) {
	// A length field, and the header of that length, are two reads: they must not start anything.
	if st.hits < 3 {
		return
	}
	amount := min(window, st.bytes)
	if r.from.inOrder() {
		amount = min(amount, blockSize)
	}
	if r.sum != nil && r.pos < st.front {
		r.fillGap()
	}
	target := min(r.size, st.front+amount)
	chunk := min(blockSize, max(smallRead*8, amount/2))
	for at := st.front; at < target; {
		i, seg := r.find(at)
		if seg != nil {
			at = seg.end()
			continue
		}
		end := min(target, at+chunk)
		if i < len(r.segs) {
			end = min(end, r.segs[i].off)
		}
		if d, ok := r.underWay(at); ok {
			at = d[1]
			continue
		}
		if end-at < chunk && end == target && target < r.size {
			return // too little for a GET: the next read will ask for more
		}
		if r.start(at, end, false) == nil {
			return
		}
		at = end
	}
}

// underWay returns the direct read that covers at.
func (r *reader) underWay(at int64) ([2]int64, bool) {
	for _, d := range r.direct {
		if d[0] <= at && at < d[1] {
			return d, true
		}
	}
	return [2]int64{}, false
}

// fillGap fetches the hole in front of the digest if that is all that keeps it from going on: bytes that no tensor
// claims, or that a slower reader is about to ask for. Called with mu held.
func (r *reader) fillGap() {
	i, seg := r.find(r.pos)
	if seg != nil || i == len(r.segs) {
		return
	}
	end := r.segs[i].off
	for _, d := range r.direct {
		if d[0] <= r.pos && r.pos < d[1] {
			return
		}
		if d[0] > r.pos {
			end = min(end, d[0])
		}
	}
	if end-r.pos > gapLimit {
		return
	}
	for at := r.pos; at < end; {
		to := min(end, at+blockSize)
		if r.start(at, to, false) == nil {
			return
		}
		at = to
	}
}

// awaited reports whether the digest may still want s: it is near, and somebody reads there who may yet deliver what
// comes before s. Called with mu held.
func (r *reader) awaited(s *segment) bool {
	if r.sum == nil || r.bad != nil || s.end() <= r.pos || s.off-r.pos > window {
		return false
	}
	return slices.ContainsFunc(r.streams, func(st *stream) bool {
		return r.clock-st.used < 64 && st.front <= r.pos+window+gapLimit
	})
}

// wanted reports whether s lies where a stream is about to read, or where its stragglers may be. Called with mu held.
func (r *reader) wanted(s *segment) bool {
	return slices.ContainsFunc(r.streams, func(st *stream) bool {
		return s.end() > st.front-window/2 && s.off <= st.front+window
	})
}

// coming reports whether a stream has yet to reach the end of s. Called with mu held.
func (r *reader) coming(s *segment) bool {
	return slices.ContainsFunc(r.streams, func(st *stream) bool {
		return s.end() > st.front && s.off <= st.front+window
	})
}

// sweep lets go of segments that nobody will ask for. Called with mu held.
func (r *reader) sweep() {
	r.dropIf(func(s *segment) bool {
		return !r.awaited(s) && (s.read >= int64(len(s.buf)) || !r.wanted(s))
	})
}

// makeRoom lets go of what is least likely to be missed, here and in other files that are not being read. Called with
// mu held.
func (r *reader) makeRoom() {
	r.dropIf(func(s *segment) bool { return !r.awaited(s) && !r.coming(s) })
	for _, o := range r.pool.others(r) {
		if !o.mu.TryLock() {
			continue // busy: not idle
		}
		idle := time.Since(o.last) > staleTime
		o.dropIf(func(s *segment) bool { return idle || !o.awaited(s) && !o.coming(s) })
		o.mu.Unlock()
	}
}

func (r *reader) dropIf(drop func(*segment) bool) {
	r.segs = slices.DeleteFunc(r.segs, func(s *segment) bool {
		if !s.done || s.refs > 0 || !drop(s) {
			return false
		}
		r.pool.put(s.buf)
		return true
	})
}

// remove takes a failed segment out. Those who wait for it look at its error, not at its buffer. Called with mu held.
func (r *reader) remove(s *segment) {
	if i := slices.Index(r.segs, s); i >= 0 {
		r.segs = slices.Delete(r.segs, i, i+1)
		r.pool.put(s.buf)
	}
}

// offer shows bytes that were read straight into a caller's buffer to the digest, or keeps a copy until their turn.
// Called with mu held.
func (r *reader) offer(p []byte, off int64) {
	if r.sum == nil {
		return
	}
	for {
		end := off + int64(len(p))
		switch {
		case end <= r.pos || r.bad != nil:
			return
		case off > r.pos:
			if off-r.pos <= window {
				r.keep(p, off)
			}
			return
		case r.hashing:
			r.hashed.Wait()
			continue
		}
		r.feed(p[r.pos-off:])
		r.digestReady()
		return
	}
}

// keep copies p into segments for the digest. Called with mu held.
func (r *reader) keep(p []byte, off int64) {
	for len(p) > 0 {
		i, seg := r.find(off)
		n := min(len(p), blockSize)
		switch {
		case seg != nil:
			n = min(len(p), int(seg.end()-off))
		default:
			if i < len(r.segs) {
				n = min(n, int(min(r.segs[i].off-off, blockSize)))
			}
			buf := r.pool.get(n)
			if buf == nil {
				return
			}
			copy(buf, p)
			s := &segment{off: off, buf: buf, ready: make(chan struct{}), done: true, read: int64(n)}
			close(s.ready)
			r.segs = slices.Insert(r.segs, i, s)
		}
		p, off = p[n:], off+int64(n)
	}
}

// digestReady feeds the digest with the segments that continue it. Called with mu held, which it gives up while
// hashing; one goroutine at a time does so, for all.
func (r *reader) digestReady() {
	if r.sum == nil || r.hashing {
		return
	}
	for r.bad == nil {
		_, s := r.find(r.pos)
		if s == nil || !s.done || s.err != nil {
			return
		}
		s.refs++
		r.feed(s.buf[r.pos-s.off:])
		s.refs--
	}
}

// feed hashes p, which begins at pos. Called with mu held and hashing false; mu is given up meanwhile.
func (r *reader) feed(p []byte) {
	r.hashing = true
	r.mu.Unlock()
	r.sum.Write(p)
	r.mu.Lock()
	r.hashing = false
	r.pos += int64(len(p))
	if r.pos == r.size {
		r.bad = r.sum.check()
	}
	r.hashed.Broadcast()
}

// missing is how many bytes have not gone through the digest; 0 when the file is verified, or cannot be.
func (r *reader) missing() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sum == nil || !r.touched {
		return 0
	}
	return r.size - r.pos
}

// verify reads on from where the digest stands, to the end.
func (r *reader) verify(ctx context.Context) error {
	if r.missing() == 0 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.bad
	}
	buf := make([]byte, 1<<20)
	for {
		r.mu.Lock()
		for r.hashing {
			r.hashed.Wait()
		}
		pos, bad := r.pos, r.bad
		r.mu.Unlock()
		if bad != nil || pos == r.size {
			return bad
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := r.read(buf[:min(int64(len(buf)), r.size-pos)], pos); err != nil {
			return err
		}
	}
}

// shut refuses further reads.
func (r *reader) shut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// free gives the buffers back, after shut, and after the fetches were ended through ctx and waited for. It returns the
// mismatch, if one was found.
func (r *reader) free() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropIf(func(*segment) bool { return true })
	r.pool.leave(r)
	return r.bad
}
