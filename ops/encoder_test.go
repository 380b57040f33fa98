package ops

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/encode"
	"github.com/modelpipe/modelpipe/quantize"
)

// BenchmarkEncode times the encoders over bfloat16 weights with several calls
// at once, uploads and downloads included, and says how many blocks are the
// canonical ones. Its figure is in bytes of float32.
func BenchmarkEncode(b *testing.B) {
	const rows, cols, calls = 8192, 4096, 8
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
		e, err := d.Encoder()
		if err != nil {
			continue
		}
		for _, t := range encode.Types() {
			for _, imp := range [][]float32{nil, importance} {
				b.Run(fmt.Sprintf("%s/%v/weighted=%v", d.Name(), t, imp != nil), func(b *testing.B) {
					size := int(t.BlockBytes())
					dst := make([]byte, rows*cols/int(t.BlockElements())*size)
					start := time.Now()
					if err := e.Encode(dst, t, gguf.BF16, raw, cols, imp); err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(time.Since(start).Seconds(), "compile-s")
					canonical, same := encoded(t, raw[:256*cols*2], cols, imp), 0
					for i := 0; i < len(canonical); i += size {
						if bytes.Equal(canonical[i:i+size], dst[i:i+size]) {
							same++
						}
					}
					b.ReportMetric(100*float64(same*size)/float64(len(canonical)), "%equal")
					b.SetBytes(4 * rows * cols * calls)
					b.ResetTimer()
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
				})
			}
		}
	}
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
