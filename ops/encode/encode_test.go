package encode

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/gomlx/compute"
	_ "github.com/gomlx/compute/gobackend"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

// device opens the backend that MODELPIPE_XLA_PLUGIN names, or gomlx's own.
func device(t testing.TB) compute.Backend {
	name := "go"
	if plugin := os.Getenv("MODELPIPE_XLA_PLUGIN"); plugin != "" {
		t.Setenv("GOMLX_NO_AUTO_INSTALL", "1")
		name = "xla:" + plugin
	}
	b, err := compute.NewWithConfig(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// weights is rows of many kinds of data: plain, heavy-tailed, positive,
// sparse, constant, zero, with outliers.
func weights(rows, cols int) []float32 {
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
		sum += w * float64(x[i]-y[i]) * float64(x[i]-y[i])
	}
	return sum
}

// TestAgainstCanonical holds the graphs to package quantize: at least 98 % of
// the blocks equal, the weighted error within 0.1 %.
func TestAgainstCanonical(t *testing.T) {
	e := New(device(t))
	rows, cols := 16, 1024
	if os.Getenv("MODELPIPE_XLA_PLUGIN") != "" {
		rows, cols = 256, 4096
	}
	x := weights(rows, cols)
	importance := make([]float32, cols)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range importance {
		importance[i] = float32(r.ExpFloat64() * 10)
	}
	for _, typ := range Types() {
		for _, imp := range [][]float32{nil, importance} {
			t.Run(fmt.Sprintf("%v weighted=%v", typ, imp != nil), func(t *testing.T) {
				codec, _ := quantize.Lookup(typ)
				size := int(typ.BlockBytes())
				want := make([]byte, len(x)/int(typ.BlockElements())*size)
				codec.Encode(want, x, cols, imp)
				got := make([]byte, len(want))
				start := time.Now()
				if err := e.Encode(got, typ, gguf.F32, littleEndian(x), cols, imp); err != nil {
					t.Fatal(err)
				}
				first := time.Since(start)
				start = time.Now()
				if err := e.Encode(got, typ, gguf.F32, littleEndian(x), cols, imp); err != nil {
					t.Fatal(err)
				}
				second := time.Since(start)
				same, n := 0, len(want)/size
				var kinds [8]int
				for i := range n {
					if bytes.Equal(got[i*size:][:size], want[i*size:][:size]) {
						same++
					} else {
						kinds[i/(cols/int(typ.BlockElements()))%8]++
					}
				}
				t.Log("different, by kind of data:", kinds)
				a, b := lost(typ, x, want, cols, imp), lost(typ, x, got, cols, imp)
				t.Logf("%d of %d blocks equal (%.2f %%), error %.6g against %.6g (%+.4f %%); %v with compiling, then %v (%.0f MB/s)",
					same, n, 100*float64(same)/float64(n), b, a, 100*(b/a-1), first, second, float64(4*len(x))/1e6/second.Seconds())
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
