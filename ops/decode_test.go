package ops

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gomlx/compute"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/decode"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/quantize"
)

// blocksOf are blocks of a type, cols weights to a row: those that ggml wrote
// for package quantize's tests, then bytes at random, and blocks of which all
// bytes are equal.
func blocksOf(t testing.TB, typ gguf.Type, cols int) []byte {
	t.Helper()
	files, err := filepath.Glob("../quantize/testdata/ggml/" + typ.String() + ".*bin")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []byte
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, raw...)
	}
	size := int(typ.BlockBytes())
	r := rand.New(rand.NewPCG(uint64(typ), 5))
	for range 4096 * size {
		blocks = append(blocks, byte(r.Uint32()))
	}
	for v := range 256 {
		for range size {
			blocks = append(blocks, byte(v))
		}
	}
	row, err := typ.RowBytes(int64(cols))
	if err != nil {
		t.Fatal(err)
	}
	return blocks[:len(blocks)/int(row)*int(row)]
}

// TestDecoders holds the graphs to package quantize's definitions, bit for bit
// on every device, over all that can be in a block. NaNs count as equal.
func TestDecoders(t *testing.T) {
	const cols = 512
	for typ := gguf.Type(0); typ < 64; typ++ {
		if _, ok := quantize.Definition(typ); ok != decode.Can(typ) {
			t.Errorf("%v: a codec: %v, a graph: %v", typ, ok, decode.Can(typ))
		}
	}
	for _, d := range testDevices(t) {
		for _, typ := range decode.Types() {
			t.Run(fmt.Sprint(d.Name(), " ", typ), func(t *testing.T) {
				raw := blocksOf(t, typ, cols)
				want := make([]float32, int64(len(raw))/typ.BlockBytes()*typ.BlockElements())
				codec, _ := quantize.Definition(typ)
				codec.Decode(want, raw)
				b, err := d.decoded(typ, raw, len(want)/cols, cols)
				if err != nil {
					t.Fatal(err)
				}
				defer free(b)
				got, err := download(b)
				if err != nil {
					t.Fatal(err)
				}
				wrong := 0
				for i, w := range want {
					if math.Float32bits(got[i]) == math.Float32bits(w) || got[i] != got[i] && w != w {
						continue
					}
					if wrong++; wrong <= 5 {
						t.Errorf("weight %d of block %d: %g (%08x), want %g (%08x)", int64(i)%typ.BlockElements(),
							int64(i)/typ.BlockElements(), got[i], math.Float32bits(got[i]), w, math.Float32bits(w))
					}
				}
				if wrong > 0 {
					t.Errorf("%d of %d weights differ", wrong, len(want))
				}
			})
		}
	}
}

// BenchmarkDecode times the decoders: whole, from bytes in the host's memory
// to weights in the device's, and then upload and graph each by itself, and
// what decoding by the processor and uploading float32 takes instead. Its
// figures are in bytes of float32; GB/s-stored is what the upload moves.
func BenchmarkDecode(b *testing.B) {
	const rows, cols = 8192, 4096
	for _, d := range testDevices(b) {
		for _, typ := range decode.Types() {
			b.Run(fmt.Sprintf("%s/%v", benchName(d), typ), func(b *testing.B) {
				if d.shares {
					b.Skip("weights are decoded by the processor where the memory is the host's")
				}
				row, err := typ.RowBytes(cols)
				if err != nil {
					b.Fatal(err)
				}
				raw := make([]byte, rows*row)
				r := rand.New(rand.NewPCG(1, 2))
				for i := 0; i+8 <= len(raw); i += 8 {
					binary.LittleEndian.PutUint64(raw[i:], r.Uint64())
				}
				once := func(f func() (compute.Buffer, error)) time.Duration {
					start := time.Now()
					w, err := f()
					if err != nil {
						b.Fatal(err)
					}
					free(w)
					return time.Since(start)
				}
				whole := func() (compute.Buffer, error) { return d.decoded(typ, raw, rows, cols) }
				compile := once(whole)
				b.SetBytes(4 * rows * cols)
				for b.Loop() {
					once(whole)
				}
				stored, err := d.upload(raw, rows, int(row))
				if err != nil {
					b.Fatal(err)
				}
				defer free(stored)
				p, err := d.decoder(typ, rows, cols)
				if err != nil {
					b.Fatal(err)
				}
				codec, _ := quantize.Lookup(typ)
				rate := func(f func() (compute.Buffer, error)) float64 {
					best := once(f)
					for range 4 {
						best = min(best, once(f))
					}
					return 4 * rows * cols / 1e9 / best.Seconds()
				}
				upload := rate(func() (compute.Buffer, error) { return d.upload(raw, rows, int(row)) })
				b.ReportMetric(compile.Seconds(), "compile-s")
				b.ReportMetric(upload, "GB/s-upload")
				b.ReportMetric(upload*float64(len(raw))/(4*rows*cols), "GB/s-stored")
				b.ReportMetric(rate(func() (compute.Buffer, error) {
					out, err := p.run(map[string]compute.Buffer{"stored": stored})
					if err != nil {
						return nil, err
					}
					return out[0], nil
				}), "GB/s-graph")
				b.ReportMetric(rate(func() (compute.Buffer, error) {
					values := make([]float32, rows*cols)
					var wg sync.WaitGroup
					const step = 128 // rows
					for first := 0; first < rows; first += step {
						wg.Go(func() { codec.Decode(values[first*cols:][:step*cols], raw[first*int(row):][:step*int(row)]) })
					}
					wg.Wait()
					return d.upload(values, rows, cols)
				}), "GB/s-processor")
			})
		}
	}
}

// quantized is m with its matrices encoded, of the given types in turn.
func quantized(t testing.TB, m *spec.Model, types ...gguf.Type) (_ *spec.Model, undecoded *atomic.Int64) {
	t.Helper()
	c := *m
	c.Weights = map[spec.Slot]spec.Weight{}
	undecoded = new(atomic.Int64)
	slots := slices.SortedFunc(maps.Keys(m.Weights), func(a, b spec.Slot) int { return strings.Compare(a.String(), b.String()) })
	for i, slot := range slots {
		w := m.Weights[slot]
		if w.Rows == 1 {
			c.Weights[slot] = w
			continue
		}
		typ := types[i%len(types)]
		codec, _ := quantize.Lookup(typ)
		x, err := w.Floats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		row, err := typ.RowBytes(int64(w.Cols))
		if err != nil {
			t.Fatal(err)
		}
		raw := make([]byte, int64(w.Rows)*row)
		importance := slices.Repeat([]float32{1}, w.Cols)
		codec.Encode(raw, x, w.Cols, importance)
		codec.Decode(x, raw)
		w = memory(slot.String(), w.Rows, w.Cols, x)
		w.Stored = &spec.Stored{Type: typ, Read: func(_ context.Context, dst []byte, first int) error {
			undecoded.Add(int64(copy(dst, raw[int64(first)*row:])))
			return nil
		}}
		c.Weights[slot] = w
	}
	return &c, undecoded
}

// TestStored runs a model of quantized matrices from its decoded rows, and from
// its stored ones where the device decodes: the logits are the same.
func TestStored(t *testing.T) {
	m, undecoded := quantized(t, llama(2, 300, 256, 512, 4, 2), decode.Types()...)
	decoded := *m
	decoded.Weights = maps.Clone(m.Weights)
	for slot, w := range decoded.Weights {
		w.Stored = nil
		decoded.Weights[slot] = w
	}
	ids := randomIDs(m, 1, 9)
	for _, d := range testDevices(t) {
		d.decodes = !d.shares // XLA's CPU plugin can, but is not asked to
		want, err := Logits(t.Context(), d, &decoded, ids, Options{})
		if err != nil {
			t.Fatal(err)
		}
		undecoded.Store(0)
		got, err := Logits(t.Context(), d, m, ids, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: logits of stored rows differ from those of decoded ones: NMSE %g", d.Name(), nmse(got, rowsOf(want, m.Vocab)))
		}
		if (undecoded.Load() > 0) == d.shares {
			t.Errorf("%s: %d bytes were brought to the device undecoded", d.Name(), undecoded.Load())
		}
	}
}

// TestStoredFails passes on what reading stored rows says.
func TestStoredFails(t *testing.T) {
	m, _ := quantized(t, llama(1, 300, 256, 512, 4, 2), gguf.Q4_K)
	at := spec.At(0, spec.Up)
	w := m.Weights[at]
	gone := errors.New("file model.gguf: tensor blk.0.ffn_up.weight at offset 17: gone")
	w.Read = func(context.Context, []float32, int) error { return gone }
	w.Stored = &spec.Stored{Type: gguf.Q4_K, Read: func(context.Context, []byte, int) error { return gone }}
	m.Weights[at] = w
	for _, d := range testDevices(t) {
		d.decodes = !d.shares
		if _, err := Logits(t.Context(), d, m, randomIDs(m, 1, 9), Options{}); !errors.Is(err, gone) {
			t.Errorf("%s: %v", d.Name(), err)
		}
	}
}

// rowsOf is values in rows, in float64.
func rowsOf(values []float32, cols int) [][]float64 {
	var rows [][]float64
	for row := range slices.Chunk(values, cols) {
		wide := make([]float64, cols)
		for i, v := range row {
			wide[i] = float64(v)
		}
		rows = append(rows, wide)
	}
	return rows
}
