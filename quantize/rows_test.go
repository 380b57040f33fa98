package quantize

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// rowCols and rowCount are the shape of every kind of rows below. 768 is a
// multiple of every block length and leaves odd numbers of super-blocks.
const (
	rowCols  = 768
	rowCount = 7
)

// rowKind makes one kind of data; the generator is seeded by its name, so the
// rows are the same on every machine.
type rowKind struct {
	name string
	make func(r *rand.Rand, row, col int) float32
}

// rowKinds are the data that a quantizer meets, and what it should never meet.
var rowKinds = []rowKind{
	{"normal", func(r *rand.Rand, _, _ int) float32 { return float32(r.NormFloat64()) }},
	{"small", func(r *rand.Rand, _, _ int) float32 { return float32(r.NormFloat64() * 0.01) }},
	{"cubed", func(r *rand.Rand, _, _ int) float32 { return float32(math.Pow(r.NormFloat64(), 3)) }},
	{"shifted", func(r *rand.Rand, _, _ int) float32 { return float32(r.NormFloat64() + 3) }},
	{"negative", func(r *rand.Rand, _, _ int) float32 { return -float32(r.ExpFloat64()) }},
	{"positive", func(r *rand.Rand, _, _ int) float32 { return float32(r.ExpFloat64()) }},
	{"sparse", func(r *rand.Rand, _, _ int) float32 {
		if r.IntN(20) > 0 {
			return 0
		}
		return float32(r.NormFloat64())
	}},
	{"one", func(_ *rand.Rand, row, col int) float32 {
		if col%256 == 37*row {
			return 1.5 - float32(row)
		}
		return 0
	}},
	{"constant", func(_ *rand.Rand, row, col int) float32 { return float32(row-3) / 7 }},
	{"steps", func(_ *rand.Rand, row, col int) float32 { return float32(col/(row+1)%9-4) / 3 }},
	{"signs", func(r *rand.Rand, _, _ int) float32 { return float32(2*r.IntN(2) - 1) }},
	{"trits", func(r *rand.Rand, _, _ int) float32 { return float32(r.IntN(3)-1) * 0.3 }},
	{"zeros", func(r *rand.Rand, _, _ int) float32 { return float32(math.Copysign(0, r.Float64()-0.5)) }},
	{"halves", func(r *rand.Rand, _, _ int) float32 { return float32(r.IntN(33)-16) / 2 }},
	{"belowpowers", func(r *rand.Rand, row, col int) float32 {
		return math.Float32frombits(uint32(127+col/32%16-8)<<23 - uint32(r.IntN(60)))
	}},
	{"outliers", func(r *rand.Rand, row, col int) float32 {
		if col%97 == row {
			return 1000
		}
		return float32(r.NormFloat64())
	}},
	{"uneven", func(r *rand.Rand, row, col int) float32 {
		return float32(r.NormFloat64() * math.Pow(10, float64(col/16%12-6)))
	}},
	{"tiny", func(r *rand.Rand, row, _ int) float32 {
		return float32(r.NormFloat64() * math.Pow(10, -float64(3*row)))
	}},
	{"edges", func(r *rand.Rand, row, _ int) float32 { return float32(r.NormFloat64()) * 1e-15 }},
	{"denormal", func(r *rand.Rand, row, _ int) float32 {
		return math.Float32frombits(r.Uint32() & 0x80ffffff >> (row % 3))
	}},
	{"least", func(r *rand.Rand, _, _ int) float32 { return math.Float32frombits(r.Uint32() & 0x80000003) }},
	{"huge", func(r *rand.Rand, row, _ int) float32 {
		return float32(r.NormFloat64() * 1e5 * math.Pow(10, float64(4*row)))
	}},
	{"bits", func(r *rand.Rand, _, _ int) float32 {
		b := r.Uint32()
		if b&0x7f800000 == 0x7f800000 {
			b &^= 0x40000000
		}
		return math.Float32frombits(b)
	}},
	{"narrow", func(r *rand.Rand, row, _ int) float32 { return 1 + float32(r.IntN(3*row+1))*0x1p-23 }},
	{"infinite", func(r *rand.Rand, row, col int) float32 {
		if col%(97+row) == 5 {
			return float32(math.Inf(r.IntN(2)*2 - 1))
		}
		return float32(r.NormFloat64())
	}},
	{"nan", func(r *rand.Rand, row, col int) float32 {
		if col%(61+row) == row {
			return math.Float32frombits(r.Uint32() | 0x7f800000)
		}
		return float32(r.NormFloat64())
	}},
	{"anybits", func(r *rand.Rand, _, _ int) float32 { return math.Float32frombits(r.Uint32()) }},
}

// importanceKinds are weights of columns; nil is none.
var importanceKinds = []struct {
	name string
	make func(r *rand.Rand, col int) float32
}{
	{"none", nil},
	{"usual", func(r *rand.Rand, _ int) float32 { return float32(r.ExpFloat64()) }},
	{"holes", func(r *rand.Rand, col int) float32 { return float32(max(0, r.IntN(40)-30) * (col / 64 % 2)) }},
	{"zero", func(*rand.Rand, int) float32 { return 0 }},
	{"wide", func(r *rand.Rand, _ int) float32 { return float32(math.Exp(r.NormFloat64() * 8)) }},
}

func seeded(name string) *rand.Rand {
	sum := sha256.Sum256([]byte(name))
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:])))
}

func (k rowKind) rows() []float32 {
	r := seeded(k.name)
	out := make([]float32, rowCount*rowCols)
	for i := range out {
		out[i] = k.make(r, i/rowCols, i%rowCols)
	}
	return out
}

// importances returns every kind of importance by name.
func importances() map[string][]float32 {
	out := map[string][]float32{}
	for _, k := range importanceKinds {
		var weights []float32
		if k.make != nil {
			r := seeded("importance " + k.name)
			weights = make([]float32, rowCols)
			for i := range weights {
				weights[i] = k.make(r, i)
			}
		}
		out[k.name] = weights
	}
	return out
}

// TestRows compares every type with the digests of what ggml writes for the
// kinds of rows above. testdata/ggml/digests.txt has lines of type, kind of
// rows, kind of importance and the first eight bytes of the SHA-256 of the
// blocks, made with ggml's ggml_quantize_chunk (llama.cpp, October 2026, x86-64
// without contraction) from the rows that this test writes into the folder
// named by QUANTIZE_DUMP_ROWS. Rows with NaNs have digests for F16 and BF16
// only: in a scale ggml's compiler decides on the sign of a NaN.
func TestRows(t *testing.T) {
	if folder := os.Getenv("QUANTIZE_DUMP_ROWS"); folder != "" {
		dumpRows(t, folder)
	}
	want := map[string]string{}
	file, err := os.Open("testdata/ggml/digests.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		f := strings.Fields(lines.Text())
		want[strings.Join(f[:3], " ")] = f[3]
	}
	weights := importances()
	rowsOf := map[string][]float32{}
	for _, kind := range rowKinds {
		rowsOf[kind.name] = kind.rows()
	}
	forEachCodec(t, func(t *testing.T, c Codec) {
		compared := 0
		for _, kind := range rowKinds {
			rows := rowsOf[kind.name]
			got := make([]byte, int64(len(rows))/c.Type.BlockElements()*c.Type.BlockBytes())
			for name, importance := range weights {
				digest, ok := want[fmt.Sprintf("%s %s %s", c.Type, kind.name, name)]
				if !ok {
					continue
				}
				c.Encode(got, rows, rowCols, importance)
				sum := sha256.Sum256(got)
				if hex.EncodeToString(sum[:8]) != digest {
					t.Errorf("rows %q with importance %q: digest %x, want %s", kind.name, name, sum[:8], digest)
				}
				compared++
			}
		}
		if compared == 0 {
			t.Skip("digests.txt has none of this type")
		}
	})
}

// dumpRows writes what ggml needs to make the digests.
func dumpRows(t *testing.T, folder string) {
	write := func(name string, values []float32) {
		raw := make([]byte, 4*len(values))
		encodeF32(raw, values, 0, nil)
		if err := os.WriteFile(filepath.Join(folder, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range rowKinds {
		write("rows."+kind.name, kind.rows())
	}
	for name, values := range importances() {
		write("importance."+name, values)
	}
}
