package convert

import (
	"math/rand/v2"
	"testing"
	"testing/fstest"
)

// BenchmarkTile measures how fast values come from each kind of source, in
// bytes of float32.
func BenchmarkTile(b *testing.B) {
	const rows, cols = 512, 4096
	g := &grower{rnd: rand.New(rand.NewPCG(1, 1))}
	packed := func(down bool) Unpack {
		u := Unpack{Bits: 4, Order: inOrder(8), Down: down, Rows: rows, Cols: cols}
		u.Of = g.leaf("I32", rows, cols/8)
		if down {
			u.Of = g.leaf("I32", rows/8, cols)
		}
		return u
	}
	for _, c := range []struct {
		name string
		m    Matrix
	}{
		{"bf16", g.leaf("BF16", rows, cols)},
		{"f32", g.leaf("F32", rows, cols)},
		{"rope", RopePermute{g.leaf("BF16", rows, cols), 4}},
		{"alternate", Rows{g.leaf("BF16", 2*rows, cols), 2, 1, 1}},
		{"transpose", Transpose{g.leaf("BF16", cols, rows), 1}},
		{"fp8", Scaled{Of: g.leaf("F8_E4M3", rows, cols), Scale: g.leaf("F32", rows/128, cols/128), GroupRows: 128, GroupCols: 128}},
		{"int4", Scaled{Of: Affine{packed(false), 1, -8}, Scale: g.leaf("BF16", rows, cols/128), GroupRows: 1, GroupCols: 128}},
		{"gptq", Transpose{Scaled{Of: Transpose{packed(false), 1}, Scale: g.leaf("F16", cols/128, rows), Zero: g.leaf("F16", cols/128, rows), GroupRows: 128, GroupCols: 1}, 1}},
		{"mxfp4", MXFP4{Blocks: g.leaf("U8", rows, cols/32, 16), Scales: g.leaf("U8", rows, cols/32)}},
	} {
		e := &evaluator{src: &sources{fsys: fstest.MapFS{"f": {Data: g.data}}}}
		dst := make([]float32, rows*cols)
		b.Run(c.name, func(b *testing.B) {
			if err := Check(c.m); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(rows * cols * 4)
			for b.Loop() {
				if err := e.tile(c.m, 0, rows, 0, cols, dst); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
