package bulkhash

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding"
	"hash"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

func TestComputesTheSame(t *testing.T) {
	data := make([]byte, 5*pieceBytes+7)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	for name, of := range map[string]func() hash.Hash{"sha256": sha256.New, "sha1": sha1.New} {
		for _, size := range []int{0, 1, 63, 64, pieceBytes - 1, pieceBytes, pieceBytes + 1, len(data)} {
			want := of()
			want.Write(data[:size])
			got := New(of())
			if n, err := got.Write(data[:size]); n != size || err != nil {
				t.Fatalf("%s: %d bytes: wrote %d, %v", name, size, n, err)
			}
			if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
				t.Errorf("%s of %d bytes differs", name, size)
			}
		}
	}
}

func TestStateGoesOn(t *testing.T) {
	data := bytes.Repeat([]byte("midstate"), pieceBytes)
	for cut := 0; cut <= len(data); cut += 999 {
		first := NewSHA256()
		first.Write(data[:cut])
		state, err := first.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		// What the standard library's hash wrote before is taken over too.
		plain := sha256.New()
		plain.Write(data[:cut])
		if s, err := plain.(encoding.BinaryMarshaler).MarshalBinary(); err != nil || !bytes.Equal(s, state) {
			t.Fatalf("cut at %d: the state is not that of crypto/sha256 (%v)", cut, err)
		}
		second := NewSHA256()
		if err := second.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
			t.Fatal(err)
		}
		second.Write(data[cut:])
		if want := sha256.Sum256(data); !bytes.Equal(second.Sum(nil), want[:]) {
			t.Errorf("cut at %d: differs", cut)
		}
	}
	opaque := New(struct{ hash.Hash }{sha256.New()})
	if _, err := opaque.(encoding.BinaryMarshaler).MarshalBinary(); err == nil {
		t.Error("marshaled the state of a hash that cannot")
	}
	if err := opaque.(encoding.BinaryUnmarshaler).UnmarshalBinary(nil); err == nil {
		t.Error("unmarshaled the state of a hash that cannot")
	}
}

// recorder notes the sizes of its writes and what comes before each.
type recorder struct {
	hash.Hash
	sizes []int
	calls int
	bad   int // writes without exactly one call before
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.calls != 1 {
		r.bad++
	}
	r.calls = 0
	r.sizes = append(r.sizes, len(p))
	return r.Hash.Write(p)
}

func TestClearsBeforeEveryPiece(t *testing.T) {
	r := &recorder{Hash: crc32.NewIEEE()}
	h := &pieces{r, func() { r.calls++ }}
	h.Write(make([]byte, 2*pieceBytes+5))
	h.Write(make([]byte, 3))
	if want := []int{pieceBytes, pieceBytes, 5, 3}; r.bad > 0 || !slices.Equal(r.sizes, want) {
		t.Errorf("pieces of %d bytes, want %d; %d not cleared before", r.sizes, want, r.bad)
	}
}

// TestStaysFast hashes for long enough to be preempted often, while the
// encoders keep the other processors and the vector registers busy. Where the
// upper halves stay in use on an Intel processor, all but the first megabytes
// take ten times longer and more. It can only fail when built with
// GOEXPERIMENT=simd, on such a processor.
func TestStaysFast(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	codec, _ := quantize.Lookup(gguf.Q8_0)
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			row := make([]float32, 64<<10)
			for i := range row {
				row[i] = float32(i%251) - 125
			}
			out := make([]byte, len(row)/32*34)
			for !stop.Load() {
				codec.Encode(out, row, len(row), nil)
			}
		})
	}
	defer wg.Wait()
	defer stop.Store(true)
	h := NewSHA256()
	data := make([]byte, 1<<20)
	var took []time.Duration
	for start := time.Now(); time.Since(start) < time.Second; {
		t := time.Now()
		h.Write(data)
		took = append(took, time.Since(t))
	}
	slices.Sort(took)
	// The processors are shared, so that many writes wait for their turn
	// once, but not ten times; those that do not are of one speed.
	best, third := took[0], took[len(took)/3]
	if third > 8*best {
		t.Errorf("the best of %d MiB took %v, a third of them more than %v", len(took), best, third)
	}
}

func BenchmarkSHA256(b *testing.B) {
	data := make([]byte, 1<<20)
	for name, of := range map[string]func() hash.Hash{"bulk": NewSHA256, "crypto": sha256.New} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			h := of()
			for b.Loop() {
				h.Write(data)
			}
		})
	}
}
