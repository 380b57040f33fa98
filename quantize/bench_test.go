package quantize

import (
	"math/rand/v2"
	"testing"
)

// benchRows returns 64 rows of 4096 weights like those of a model, and an
// importance.
func benchRows() (rows, importance []float32) {
	r := rand.New(rand.NewPCG(1, 2))
	rows, importance = make([]float32, 64*4096), make([]float32, 4096)
	for i := range rows {
		rows[i] = float32(r.NormFloat64() * 0.02)
	}
	for i := range importance {
		importance[i] = float32(r.ExpFloat64())
	}
	return rows, importance
}

// forEachBenchmark runs f for the definition and every faster codec; bytes per
// second are of float32.
func forEachBenchmark(b *testing.B, f func(b *testing.B, c Codec)) {
	for _, typ := range registered() {
		definition, _ := Definition(typ)
		b.Run("type="+typ.String()+"/codec=plain", func(b *testing.B) { f(b, definition) })
		for _, set := range instructionSets {
			if _, ok := set.codecs[typ]; ok {
				b.Run("type="+typ.String()+"/codec="+set.name, func(b *testing.B) { f(b, set.apply(definition)) })
			}
		}
	}
}

func benchmarkEncode(b *testing.B, weighted bool) {
	rows, importance := benchRows()
	if !weighted {
		importance = nil
	}
	forEachBenchmark(b, func(b *testing.B, c Codec) {
		if c.NeedsImportance && !weighted {
			b.Skip("this type is only encoded with importance")
		}
		dst := make([]byte, int64(len(rows))/c.Type.BlockElements()*c.Type.BlockBytes())
		b.SetBytes(int64(4 * len(rows)))
		for b.Loop() {
			c.Encode(dst, rows, 4096, importance)
		}
	})
}

func BenchmarkEncode(b *testing.B)         { benchmarkEncode(b, false) }
func BenchmarkEncodeWeighted(b *testing.B) { benchmarkEncode(b, true) }

func BenchmarkDecode(b *testing.B) {
	rows, importance := benchRows()
	forEachBenchmark(b, func(b *testing.B, c Codec) {
		src := make([]byte, int64(len(rows))/c.Type.BlockElements()*c.Type.BlockBytes())
		c.Encode(src, rows, 4096, importance)
		dst := make([]float32, len(rows))
		b.SetBytes(int64(4 * len(rows)))
		for b.Loop() {
			c.Decode(dst, src)
		}
	})
}
