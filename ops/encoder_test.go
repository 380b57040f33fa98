package ops

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/encode"
	"github.com/modelpipe/modelpipe/quantize"
)

// manyKinds is rows of many kinds of data: plain, heavy-tailed, positive,
// sparse, constant, zero, with outliers.
func manyKinds(rows, cols int) []float32 {
	r := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, rows*cols)
	for i := range rows {
		for j := range cols {
			v := float32(r.NormFloat64() * 0.02)
			switch i % 8 {
			case 1:
				v = float32(r.ExpFloat64()*0.05) * float32(1-2*(j%2))
			case 2:
				v = float32(math.Abs(float64(v))) + 0.01
			case 3:
				if r.IntN(10) > 0 {
					v = 0
				}
			case 4:
				v = 0.25
			case 5:
				if j/256%2 == 0 {
					v = 0
				}
			case 6:
				if j%97 == 0 {
					v *= 50
				}
			}
			x[i*cols+j] = v
		}
	}
	return x
}

func littleEndian(x []float32) []byte {
	b, _ := binary.Append(nil, binary.LittleEndian, x)
	return b
}

// lost is the weighted error of encoded rows.
func lost(t gguf.Type, x []float32, b []byte, cols int, importance []float32) (sum float64) {
	codec, _ := quantize.Lookup(t)
	y := make([]float32, len(x))
	codec.Decode(y, b)
	for i := range x {
		w := 1.0
		if importance != nil {
			w = float64(importance[i%cols])
		}
		d := float64(x[i]) - float64(y[i])
		if d*d < 1 { // not of a block with a NaN or a huge value
			sum += w * d * d
		}
	}
	return sum
}

// TestEncoders holds the graphs to package quantize on XLA: at least 98 % of the
// blocks equal, the weighted error within 0.1 %; values that no graph is used
// for are there too.
func TestEncoders(t *testing.T) {
	const rows, cols = 64, 1024
	x := manyKinds(rows, cols)
	for i, v := range []float32{float32(math.NaN()), float32(math.Inf(1)), 1e-30, 1e30, math.MaxFloat32} {
		x[(7+8*i)*cols+300] = v
	}
	importance := make([]float32, cols)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range importance {
		importance[i] = float32(r.ExpFloat64() * 10)
	}
	tried := false
	for _, d := range testDevices(t) {
		e, err := d.Encoder()
		if err != nil {
			continue // the Go backend
		}
		tried = true
		for _, typ := range encode.Types() {
			for _, imp := range [][]float32{nil, importance} {
				t.Run(fmt.Sprintf("%v weighted=%v", typ, imp != nil), func(t *testing.T) {
					codec, _ := quantize.Lookup(typ)
					size := int(typ.BlockBytes())
					want := make([]byte, len(x)/int(typ.BlockElements())*size)
					codec.Encode(want, x, cols, imp)
					got := make([]byte, len(want))
					if err := e.Encode(got, typ, gguf.F32, littleEndian(x), cols, imp); err != nil {
						t.Fatal(err)
					}
					same, n := 0, len(want)/size
					for i := range n {
						if bytes.Equal(got[i*size:][:size], want[i*size:][:size]) {
							same++
						}
					}
					a, b := lost(typ, x, want, cols, imp), lost(typ, x, got, cols, imp)
					t.Logf("%d of %d blocks equal (%.2f %%), error %.6g against %.6g (%+.4f %%)",
						same, n, 100*float64(same)/float64(n), b, a, 100*(b/a-1))
					if float64(same) < 0.98*float64(n) {
						t.Errorf("%d of %d blocks equal the canonical ones: want 98 %%", same, n)
					}
					if math.Abs(b-a) > 0.001*a {
						t.Errorf("weighted error %g: want %g within 0.1 %%", b, a)
					}
				})
			}
		}
		if s := e.Stats(); s.Canonical == 0 {
			t.Error("no block was left to the canonical encoder")
		}
	}
	if !tried {
		t.Skip("MODELPIPE_XLA_PLUGIN names no plugin")
	}
}

// TestEncodersRequantize holds encoding from blocks to decoding and encoding by
// package quantize, with rows that do not fill a batch.
func TestEncodersRequantize(t *testing.T) {
	const rows, cols = 24, 768
	x := manyKinds(rows, cols)
	importance := make([]float32, cols)
	for i := range importance {
		importance[i] = float32(1 + i%7)
	}
	for _, d := range testDevices(t)[1:] {
		e, err := d.Encoder()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ to, from gguf.Type }{
			{gguf.Q4_K, gguf.Q8_0}, {gguf.Q8_0, gguf.Q6_K}, {gguf.Q4_0, gguf.IQ4_XS}, {gguf.Q6_K, gguf.Q5_1},
		} {
			t.Run(fmt.Sprint(c.from, " to ", c.to), func(t *testing.T) {
				read, _ := quantize.Lookup(c.from)
				write, _ := quantize.Lookup(c.to)
				bytesOf := func(t gguf.Type) int { return len(x) / int(t.BlockElements()) * int(t.BlockBytes()) }
				stored, want, got := make([]byte, bytesOf(c.from)), make([]byte, bytesOf(c.to)), make([]byte, bytesOf(c.to))
				read.Encode(stored, x, cols, nil)
				copy(stored[5*int(c.from.BlockBytes()):], bytes.Repeat([]byte{0xff}, int(c.from.BlockBytes()))) // scales that are NaN
				values := make([]float32, len(x))
				read.Decode(values, stored)
				write.Encode(want, values, cols, importance)
				if err := e.Encode(got, c.to, c.from, stored, cols, importance); err != nil {
					t.Fatal(err)
				}
				size, same := int(c.to.BlockBytes()), 0
				for i := 0; i < len(want); i += size {
					if bytes.Equal(got[i:i+size], want[i:i+size]) {
						same++
					}
				}
				a, b := lost(c.to, values, want, cols, importance), lost(c.to, values, got, cols, importance)
				n := len(want) / size
				t.Logf("%d of %d blocks equal, error %.6g against %.6g (%+.4f %%)", same, n, b, a, 100*(b/a-1))
				if float64(same) < 0.98*float64(n) {
					t.Errorf("%d of %d blocks equal the canonical ones: want 98 %%", same, n)
				}
				if math.Abs(b-a) > 0.001*a {
					t.Errorf("weighted error %g: want %g within 0.1 %%", b, a)
				}
			})
		}
	}
}

// TestEncoderRefuses names what is wrong with a call.
func TestEncoderRefuses(t *testing.T) {
	e := encode.New(testDevices(t)[0].backend)
	for _, c := range []struct {
		t, stored gguf.Type
		rows      int // bytes
		cols      int
		dst       int
		weights   int
	}{
		{gguf.IQ1_S, gguf.F32, 1024, 256, 50, 0},
		{gguf.Q4_K, gguf.I8, 1024, 256, 144, 0},
		{gguf.Q4_K, gguf.Q8_0, 273, 256, 144, 0},
		{gguf.Q4_0, gguf.Q4_K, 144, 32, 144, 0},
		{gguf.Q4_0, gguf.Q4_K, 144, 288, 162, 0},
		{gguf.Q4_K, gguf.F32, 1024, 128, 144, 0},
		{gguf.Q4_K, gguf.F32, 1000, 256, 144, 0},
		{gguf.Q4_K, gguf.F32, 1024, 256, 143, 0},
		{gguf.Q4_K, gguf.F32, 1024, 256, 144, 3},
		{gguf.Q4_K, gguf.F32, 1024, -256, 144, 0},
	} {
		var imp []float32
		if c.weights > 0 {
			imp = make([]float32, c.weights)
		}
		if err := e.Encode(make([]byte, c.dst), c.t, c.stored, make([]byte, c.rows), c.cols, imp); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

// BenchmarkEncode times the encoders over bfloat16 weights with several calls
// at once, uploads and downloads included, and then what one call at a time
// spends on each. Its figures are in bytes of float32; %equal says how many
// blocks are the canonical ones.
func BenchmarkEncode(b *testing.B) {
	const cols = 4096
	rows, calls := 4096, 8 // a whole batch each
	if os.Getenv("MODELPIPE_XLA_PLUGIN") != "cuda" {
		rows, calls = 256, 2 // the smaller batch: a processor is slow at this
	}
	raw := make([]byte, rows*cols*2)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range rows * cols {
		binary.LittleEndian.PutUint16(raw[2*i:], uint16(math.Float32bits(float32(r.NormFloat64()*0.02))>>16))
	}
	importance := make([]float32, cols)
	for i := range importance {
		importance[i] = float32(r.ExpFloat64() * 10)
	}
	for _, d := range testDevices(b) {
		for _, t := range encode.Types() {
			for _, imp := range [][]float32{nil, importance} {
				b.Run(fmt.Sprintf("%s/%v/weighted=%v", benchName(d), t, imp != nil), func(b *testing.B) {
					e, err := d.Encoder()
					if err != nil {
						b.Skip(err)
					}
					size := int(t.BlockBytes())
					dst := make([]byte, rows*cols/int(t.BlockElements())*size)
					start := time.Now()
					if err := e.Encode(dst, t, gguf.BF16, raw, cols, imp); err != nil {
						b.Fatal(err)
					}
					compile := time.Since(start)
					canonical, same := encoded(t, raw[:256*cols*2], cols, imp), 0
					for i := 0; i < len(canonical); i += size {
						if bytes.Equal(canonical[i:i+size], dst[i:i+size]) {
							same++
						}
					}
					before := e.Stats()
					if err := e.Encode(dst, t, gguf.BF16, raw, cols, imp); err != nil {
						b.Fatal(err)
					}
					after := e.Stats()
					b.SetBytes(int64(4 * rows * cols * calls))
					for b.Loop() {
						var wg sync.WaitGroup
						for range calls {
							wg.Go(func() {
								out := make([]byte, len(dst))
								if err := e.Encode(out, t, gguf.BF16, raw, cols, imp); err != nil {
									b.Error(err)
								}
							})
						}
						wg.Wait()
					}
					rate := func(took time.Duration) float64 { return float64(4*rows*cols) / 1e9 / took.Seconds() }
					b.ReportMetric(compile.Seconds(), "compile-s")
					b.ReportMetric(100*float64(same*size)/float64(len(canonical)), "%equal")
					b.ReportMetric(rate(after.Upload-before.Upload), "GB/s-upload")
					b.ReportMetric(rate(after.Compute-before.Compute), "GB/s-graph")
					b.ReportMetric(rate(after.Download-before.Download), "GB/s-download")
				})
			}
		}
	}
}

// benchName names a device without its plugin's folder.
func benchName(d *Device) string {
	kind, _, _ := strings.Cut(d.Name(), ":")
	return kind
}

// encoded encodes rows of bfloat16 by package quantize.
func encoded(t gguf.Type, raw []byte, cols int, importance []float32) []byte {
	read, _ := quantize.Lookup(gguf.BF16)
	write, _ := quantize.Lookup(t)
	x := make([]float32, len(raw)/2)
	read.Decode(x, raw)
	out := make([]byte, len(x)/int(t.BlockElements())*int(t.BlockBytes()))
	write.Encode(out, x, cols, importance)
	return out
}

// TestDeviceGone makes errors of what a device that is gone does: those of a
// device that was lost on the way come from the same calls.
func TestDeviceGone(t *testing.T) {
	x := littleEndian(manyKinds(8, 256))
	for _, d := range testDevices(t)[1:] {
		e, err := d.Encoder()
		if err != nil {
			t.Fatal(err)
		}
		dst := make([]byte, 8*144)
		if err := e.Encode(dst, gguf.Q4_K, gguf.F32, x, 256, nil); err != nil {
			t.Fatal(err)
		}
		w, err := d.decoded(gguf.Q4_K, dst, 8, 256)
		if err != nil {
			t.Fatal(err)
		}
		free(w)
		d.backend.Finalize()
		for range 2 * e.Calls() { // a batch that fails gives its place back
			if err := e.Encode(dst, gguf.Q4_K, gguf.F32, x, 256, nil); err == nil || !strings.Contains(err.Error(), "encode Q4_K on xla: upload: ") {
				t.Fatalf("a device that is gone encodes: %v", err)
			}
		}
		if _, err := d.decoded(gguf.Q4_K, dst, 8, 256); err == nil {
			t.Error("a device that is gone decodes")
		}
	}
}
