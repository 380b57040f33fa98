package hub

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fakeRemote serves ranges from memory, late and out of order, and counts them.
type fakeRemote struct {
	data  []byte
	delay time.Duration // at most
	fail  func(off int64) error
	sent  atomic.Int64
	gets  atomic.Int64
}

func (f *fakeRemote) inOrder() bool { return false }

func (f *fakeRemote) readRange(ctx context.Context, p []byte, off int64) error {
	if f.delay > 0 {
		if err := sleep(ctx, rand.N(f.delay)); err != nil {
			return err
		}
	}
	if f.fail != nil {
		if err := f.fail(off); err != nil {
			return err
		}
	}
	if copy(p, f.data[off:]) != len(p) {
		return fmt.Errorf("range of %d at %d is outside the file", len(p), off)
	}
	f.sent.Add(int64(len(p)))
	f.gets.Add(1)
	return nil
}

func fakeReader(t testing.TB, f *fakeRemote, memory int64) *reader {
	sum := sha256.Sum256(f.data)
	p := &pool{limit: memory}
	ctx, cancel := context.WithCancelCause(t.Context())
	var wg sync.WaitGroup
	e := Entry{Path: "file", Size: int64(len(f.data)), SHA256: hex.EncodeToString(sum[:])}
	r := newReader(ctx, f, e.Size, newDigest(e), p, make(chan struct{}, 8), &wg)
	t.Cleanup(func() {
		r.shut()
		cancel(errClosed)
		wg.Wait()
		r.free()
		if p.used != 0 || len(r.segs) != 0 || len(r.direct) != 0 {
			t.Errorf("left: %d bytes, %d segments, %d direct reads", p.used, len(r.segs), len(r.direct))
		}
		if p.peak > memory {
			t.Errorf("peak of %d bytes, %d allowed", p.peak, memory)
		}
	})
	return r
}

// checkSegments holds the reader to what its comment promises.
func (r *reader) checkSegments(t testing.TB) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := int64(0)
	for _, s := range r.segs {
		if s.off < at || len(s.buf) == 0 || s.end() > r.size || s.refs < 0 {
			t.Errorf("segment %d-%d after %d, %d references", s.off, s.end(), at, s.refs)
		}
		at = s.end()
	}
}

func pattern(n int) []byte {
	p := make([]byte, 0, n+8)
	r := rand.New(rand.NewPCG(9, 9))
	for len(p) < n {
		p = binary.LittleEndian.AppendUint64(p, r.Uint64())
	}
	return p[:n]
}

// TestReaderUnderEveryPattern reads in many ways at once, from a remote that answers out of order, with plenty of memory
// and with little: the bytes must be right, the digest must come out right, and the bookkeeping must hold.
func TestReaderUnderEveryPattern(t *testing.T) {
	data := pattern(20<<20 + 4321)
	size := int64(len(data))
	for _, memory := range []int64{0, 5 << 20, 17 << 20, 64 << 20} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("memory=%d/seed=%d", memory>>20, seed), func(t *testing.T) {
				t.Parallel()
				f := &fakeRemote{data: data, delay: time.Millisecond}
				r := fakeReader(t, f, memory)
				read := func(off int64, n int) {
					n = int(min(int64(n), size-off))
					p := make([]byte, n)
					if k, err := r.ReadAt(p, off); k != n || err != nil && err != io.EOF || !bytes.Equal(p, data[off:off+int64(n)]) {
						t.Errorf("read %d at %d: %d, %v", n, off, k, err)
					}
				}
				var wg sync.WaitGroup
				for w := range 6 {
					wg.Add(1)
					go func() {
						defer wg.Done()
						rng := rand.New(rand.NewPCG(seed, uint64(w)))
						switch w {
						case 0: // in order, all
							for off := int64(0); off < size; off += 1 << 20 {
								read(off, 1<<20)
								r.checkSegments(t)
							}
						case 1: // in order from the middle, with gaps
							for off := size / 2; off < size; off += 700_000 + rng.Int64N(3_000_000) {
								read(off, 500_000)
							}
						case 2: // backwards
							for off := size - 300_000; off > 0; off -= 300_000 {
								read(off, 300_000)
							}
						case 3: // small and close
							off := size / 3
							for range 300 {
								read(off, 100)
								off += rng.Int64N(300)
							}
						default: // anywhere
							for range 40 {
								read(rng.Int64N(size), 1+rng.IntN(1<<rng.IntN(23)))
							}
						}
					}()
				}
				wg.Wait()
				r.checkSegments(t)
				if err := r.verify(t.Context()); err != nil {
					t.Error(err)
				}
				if n := r.missing(); n != 0 {
					t.Errorf("%d bytes not verified", n)
				}
			})
		}
	}
}

// TestReaderCosts: what reads of each kind fetch, in bytes beyond those read and in GETs.
func TestReaderCosts(t *testing.T) {
	data := pattern(40 << 20)
	tests := []struct {
		name  string
		reads func(read func(off int64, n int))
		read  int64
		over  int64
		gets  int64
	}{
		{"one byte", func(read func(int64, int)) { read(5000, 1) }, 1, smallRead, 1},
		{"header", func(read func(int64, int)) { read(0, 8); read(8, 60_000) }, 60_008, 0, 2},
		{"long header", func(read func(int64, int)) { read(0, 8); read(8, 12<<20) }, 12<<20 + 8, 0, 5},
		{"header by a buffered parser", func(read func(int64, int)) {
			for off := int64(0); off < 256<<10; off += 4096 {
				read(off, 4096)
			}
		}, 256 << 10, 512 << 10, 20},
		{"far apart", func(read func(int64, int)) {
			for i := range int64(9) {
				read(i*4_500_000, 10_000)
			}
		}, 90_000, 0, 9},
		{"whole, at once", func(read func(int64, int)) { read(0, 40<<20) }, 40 << 20, 0, 14},
		{"whole, in parts", func(read func(int64, int)) {
			for off := int64(0); off < 40<<20; off += 1 << 20 {
				read(off, 1<<20)
			}
		}, 40 << 20, 0, 25},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &fakeRemote{data: data}
			r := fakeReader(t, f, 64<<20)
			tt.reads(func(off int64, n int) {
				if _, err := r.ReadAt(make([]byte, n), off); err != nil && err != io.EOF {
					t.Error(err)
				}
			})
			time.Sleep(20 * time.Millisecond) // what is read ahead may still be under way
			if sent, gets := f.sent.Load(), f.gets.Load(); sent < tt.read || sent > tt.read+tt.over || gets > tt.gets {
				t.Errorf("%d bytes in %d GETs; want %d to %d in at most %d", sent, gets, tt.read, tt.read+tt.over, tt.gets)
			}
		})
	}
}

// TestReaderFailsAndGoesOn: a range that fails fails the reads that need it, and no others, and may succeed later.
func TestReaderFailsAndGoesOn(t *testing.T) {
	data := pattern(30 << 20)
	broken := errors.New("broken")
	var on atomic.Bool
	on.Store(true)
	f := &fakeRemote{data: data, fail: func(off int64) error {
		if on.Load() && off > 15<<20 {
			return broken
		}
		return nil
	}}
	r := fakeReader(t, f, 64<<20)
	p := make([]byte, 1<<20)
	off := int64(0)
	for ; off < int64(len(data)); off += 1 << 20 {
		if _, err := r.ReadAt(p, off); err != nil {
			if !errors.Is(err, broken) || off < 12<<20 {
				t.Fatalf("at %d: %v", off, err)
			}
			break
		}
	}
	if off == int64(len(data)) {
		t.Fatal("nothing failed")
	}
	on.Store(false)
	for ; off < int64(len(data)); off += 1 << 20 {
		if _, err := r.ReadAt(p, off); err != nil && err != io.EOF || !bytes.Equal(p, data[off:][:1<<20]) {
			t.Fatalf("at %d, later: %v", off, err)
		}
	}
	if err := r.verify(t.Context()); err != nil {
		t.Error(err)
	}
}
