package publish

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"

	"github.com/minio/crc64nvme"

	"github.com/modelpipe/modelpipe/internal/bulkhash"
)

// pieceBytes is how much of the content one goroutine reads at once: the size
// of a chunk of a conversion, which stays in a processor's cache.
const pieceBytes = 1 << 20

// part is consecutive bytes of a content.
type part struct {
	n    int // number, from zero on
	off  int64
	data []byte
}

// A stream reads a content in parts of one size, the last shorter, and hands
// each to a digest, in order, and to a delivery, several at a time. Parts are
// read ahead by all threads; there are never more than buffers of them.
type stream struct {
	content io.ReaderAt
	size    int64 // of the content
	part    int64 // size of the parts
	first   int   // part to begin with
	threads int
	senders int // deliveries at a time
	buffers int

	digest  func(part) error
	deliver func(context.Context, part) error
}

// parts is the number of parts.
func (s *stream) parts() int { return int((s.size + s.part - 1) / s.part) }

// reading is a part whose pieces are being read.
type reading struct {
	part
	pieces sync.WaitGroup
	users  sync.WaitGroup // of the data
}

// run ends when every part is digested and delivered, or with the first error.
func (s *stream) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if s.threads <= 0 {
		s.threads = runtime.GOMAXPROCS(0)
	}
	type piece struct {
		r   *reading
		off int64
		p   []byte
	}
	var (
		pieces    = make(chan piece)
		ordered   = make(chan *reading, s.buffers)
		toDigest  = make(chan *reading, s.buffers)
		toDeliver = make(chan *reading, s.buffers)
		free      = make(chan []byte, s.buffers)
		wg        sync.WaitGroup
	)
	for range s.buffers {
		free <- nil
	}
	for range s.threads {
		wg.Go(func() {
			for p := range pieces {
				if ctx.Err() == nil {
					if err := readFull(s.content, p.p, p.off); err != nil {
						cancel(err)
					}
				}
				p.r.pieces.Done()
			}
		})
	}
	wg.Go(func() { // begins parts as buffers come free
		defer close(ordered)
		defer close(pieces)
		for n := s.first; n < s.parts(); n++ {
			var buf []byte
			select {
			case <-ctx.Done():
				return
			case buf = <-free:
			}
			if buf == nil {
				buf = make([]byte, min(s.part, s.size))
			}
			r := &reading{part: part{n: n, off: int64(n) * s.part}}
			r.data = buf[:min(s.part, s.size-r.off)]
			r.pieces.Add(int((int64(len(r.data)) + pieceBytes - 1) / pieceBytes))
			ordered <- r
			for at := int64(0); at < int64(len(r.data)); at += pieceBytes {
				pieces <- piece{r, r.off + at, r.data[at:min(at+pieceBytes, int64(len(r.data)))]}
			}
		}
	})
	wg.Go(func() { // passes parts on when they are whole
		defer close(toDigest)
		defer close(toDeliver)
		for r := range ordered {
			r.pieces.Wait()
			if ctx.Err() != nil {
				continue
			}
			r.users.Add(2)
			toDigest <- r
			toDeliver <- r
			go func() {
				r.users.Wait()
				free <- r.data[:cap(r.data)]
			}()
		}
	})
	use := func(from chan *reading, f func(part) error) {
		wg.Go(func() {
			for r := range from {
				if ctx.Err() == nil {
					if err := f(r.part); err != nil {
						cancel(err)
					}
				}
				r.users.Done()
			}
		})
	}
	use(toDigest, s.digest)
	for range s.senders {
		use(toDeliver, func(p part) error { return s.deliver(ctx, p) })
	}
	wg.Wait()
	return context.Cause(ctx)
}

// readFull reads len(p) bytes of content at off.
func readFull(content io.ReaderAt, p []byte, off int64) error {
	n, err := content.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("content ends at byte %d: %w", off+int64(n), ErrMismatch)
	}
	return fmt.Errorf("read content at byte %d: %w", off+int64(n), err)
}

// digests are what is computed of a content in the order of its bytes.
type digests struct {
	sum hash.Hash // SHA-256
	crc uint64    // CRC-64/NVME
}

func newDigests() *digests { return &digests{sum: bulkhash.NewSHA256()} }

func (d *digests) write(p []byte) {
	d.sum.Write(p)
	d.crc = crc64nvme.Update(d.crc, p)
}

func (d *digests) sha256() string { return hex.EncodeToString(d.sum.Sum(nil)) }

// state is digests after a number of parts, as it can be kept.
type state struct {
	Parts  int    `json:"parts"`
	SHA256 []byte `json:"sha256_state"` // of crypto/sha256
	CRC64  uint64 `json:"crc64nvme"`
}

func (d *digests) state(parts int) (state, error) {
	b, err := d.sum.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return state{}, fmt.Errorf("digest: %w", err)
	}
	return state{parts, b, d.crc}, nil
}

// restore returns the digests of a state.
func (s state) restore() (*digests, error) {
	d := newDigests()
	if s.Parts == 0 {
		return d, nil
	}
	if err := d.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(s.SHA256); err != nil {
		return nil, fmt.Errorf("digest: %w", err)
	}
	d.crc = s.CRC64
	return d, nil
}

// A frontier follows up to where parts are both digested and delivered, which
// is where a later run can go on.
type frontier struct {
	mu        sync.Mutex
	states    map[int]state // after the digest of so many parts
	delivered map[int]bool
	at        state
}

func newFrontier(from state) *frontier {
	return &frontier{states: map[int]state{}, delivered: map[int]bool{}, at: from}
}

func (f *frontier) digested(s state) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.states[s.Parts] = s
	f.advance()
}

func (f *frontier) deliveredPart(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delivered[n] = true
	f.advance()
}

func (f *frontier) advance() {
	for {
		s, ok := f.states[f.at.Parts+1]
		if !ok || !f.delivered[f.at.Parts] {
			return
		}
		delete(f.delivered, f.at.Parts)
		delete(f.states, s.Parts)
		f.at = s
	}
}

func (f *frontier) state() state {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at
}

// digestReader returns the digests of what is read from r, which must be size
// bytes.
func digestReader(r io.Reader, size int64) (*digests, error) {
	d := newDigests()
	buf := make([]byte, pieceBytes)
	n, err := io.CopyBuffer(writerFunc(func(p []byte) (int, error) { d.write(p); return len(p), nil }), struct{ io.Reader }{io.LimitReader(r, size+1)}, buf)
	if err != nil {
		return nil, err
	}
	if n != size {
		return nil, fmt.Errorf("%d bytes or more: want %d: %w", n, size, ErrMismatch)
	}
	return d, nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// checkArtifact says what is wrong with an artifact before anything is done.
func checkArtifact(a *Artifact) error {
	if len(a.Files) == 0 {
		return errors.New("nothing to publish")
	}
	seen := map[string]bool{}
	name := func(n string) error {
		if err := CheckName(n); err != nil {
			return err
		}
		if seen[fold(n)] {
			return fmt.Errorf("name %s is there twice, at least where case does not count", shownName(n))
		}
		seen[fold(n)] = true
		return nil
	}
	for _, f := range a.Files {
		if err := name(f.Name); err != nil {
			return err
		}
		if f.Size < 0 || f.Content == nil {
			return fmt.Errorf("%s: has no content", f.Name)
		}
		if f.SHA256 != "" {
			if b, err := hex.DecodeString(f.SHA256); err != nil || len(b) != sha256.Size {
				return fmt.Errorf("%s: digest %.80q: want a SHA-256 in hexadecimal", f.Name, f.SHA256)
			}
		}
	}
	for _, t := range a.Attached {
		if err := name(t.Name); err != nil {
			return err
		}
	}
	return nil
}

// digestContent reads a whole content by several goroutines.
func digestContent(ctx context.Context, f File, threads int) (*digests, error) {
	d := newDigests()
	s := &stream{content: f.Content, size: f.Size, part: 8 * pieceBytes, threads: threads, senders: 1, buffers: 4,
		digest:  func(p part) error { d.write(p.data); return nil },
		deliver: func(context.Context, part) error { return nil },
	}
	return d, s.run(ctx)
}

// checkDigest compares what a content was found to be with what was announced.
func checkDigest(f File, got string) error {
	if f.SHA256 != "" && f.SHA256 != got {
		return fmt.Errorf("%s: sha256 is %s: want %s: %w", f.Name, got, f.SHA256, ErrMismatch)
	}
	return nil
}
