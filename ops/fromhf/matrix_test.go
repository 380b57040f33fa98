package fromhf

import (
	"context"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/modelpipe/modelpipe/internal/golden"
)

// stored are models that between them have every way of storing a matrix.
var stored = []string{
	"awq", "bitnet-packed", "falcon", "fp8-block", "gpt2", "gptoss", "gptoss-mxfp4", "gptq-actorder", "granitemoe",
	"int4-packed-asym", "lfm2", "llama4", "phi3", "roberta", "stablelm",
}

// TestPieces reads every weight at once, and in pieces by several goroutines.
func TestPieces(t *testing.T) {
	ctx := context.Background()
	for _, model := range stored {
		for slot, w := range open(t, model).Weights {
			want, err := w.Floats(ctx)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]float32, len(want))
			var wait sync.WaitGroup
			for first := 0; first < w.Rows; first += 5 {
				wait.Go(func() {
					last := min(first+5, w.Rows)
					if err := w.Read(ctx, got[first*w.Cols:last*w.Cols], first); err != nil {
						t.Error(err)
					}
				})
			}
			wait.Wait()
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v in pieces is not what it is at once", model, slot)
			}
			for _, bad := range []struct{ values, first int }{{w.Cols, -1}, {w.Cols, w.Rows}, {2 * w.Cols, w.Rows - 1}, {w.Cols + 1, 0}} {
				if w.Cols > 1 && w.Read(ctx, make([]float32, bad.values), bad.first) == nil {
					t.Errorf("%s: %v: read %d values from row %d on", model, slot, bad.values, bad.first)
				}
			}
		}
	}
}

// counted counts the bytes that are read of its files by offset.
type counted struct {
	fstest.MapFS
	bytes *atomic.Int64
}

type countedFile struct {
	fs.File
	bytes *atomic.Int64
}

func (c counted) Open(name string) (fs.File, error) {
	f, err := c.MapFS.Open(name)
	return countedFile{f, c.bytes}, err
}

func (f countedFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.(io.ReaderAt).ReadAt(p, off)
	f.bytes.Add(int64(n))
	return n, err
}

// TestReadsLittle reads one row of every weight: it takes no more than that of
// the files, but for the scales, and the neighbours of what lies alternately.
func TestReadsLittle(t *testing.T) {
	for _, model := range stored {
		var n atomic.Int64
		m, err := Open(context.Background(), counted{golden.Unzip(t, filepath.Join(models, model, "hf.zip")), &n})
		if err != nil {
			t.Fatal(err)
		}
		for slot, w := range m.Weights {
			n.Store(0)
			if err := w.Read(context.Background(), make([]float32, w.Cols), w.Rows-1); err != nil {
				t.Fatal(err)
			}
			// At most 4 bytes a value, twice where two matrices alternate, and
			// with it as much of scales, zeros and groups.
			if most := int64(16*w.Cols + 16); n.Load() > most {
				t.Errorf("%s: %v: a row of %d values took %d bytes", model, slot, w.Cols, n.Load())
			}
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestSmallFloats(t *testing.T) {
	for bits, want := range map[uint16]float64{
		0x0000: 0, 0x3c00: 1, 0xc000: -2, 0x7bff: 65504, 0x0001: math.Ldexp(1, -24), 0x03ff: math.Ldexp(1023, -24),
		0x0400: math.Ldexp(1, -14), 0x3555: 0.333251953125, 0x7c00: math.Inf(1), 0xfc00: math.Inf(-1),
	} {
		if got := float64(half(bits)); got != want {
			t.Errorf("half %#04x is %v, want %v", bits, got, want)
		}
	}
	for bits, want := range map[byte]float64{
		0x00: 0, 0x38: 1, 0xc0: -2, 0x7e: 448, 0x01: math.Ldexp(1, -9), 0x07: math.Ldexp(7, -9), 0x08: math.Ldexp(1, -6), 0x3c: 1.5,
	} {
		if got := float64(e4m3(bits)); got != want {
			t.Errorf("e4m3 %#02x is %v, want %v", bits, got, want)
		}
	}
	if !math.IsNaN(float64(half(0x7e00))) || !math.IsNaN(float64(e4m3(0x7f))) || !math.IsNaN(float64(e4m3(0xff))) {
		t.Error("not a number is one")
	}
}
