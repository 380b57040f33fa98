package quantize

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
)

// FuzzEncode holds the faster encoders of every type to the plain one: on
// numbers of any bits, and on numbers of one size that stands for what a model
// has.
func FuzzEncode(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, uint8(seed), []byte{})
	}
	f.Add(uint64(1), uint8(3), []byte("\x00\x00\x80\x7f\x00\x00\xc0\xff\x01\x00\x00\x00\xff\xff\x7f\x7f"))
	f.Fuzz(func(t *testing.T, seed uint64, kind uint8, bits []byte) {
		const cols = 768
		r := rand.New(rand.NewPCG(seed, 1))
		size := math.Exp2(float64(int(kind)%80 - 40))
		rows := make([]float32, 3*cols)
		for i := range rows {
			rows[i] = float32(r.NormFloat64() * size)
			if kind > 127 { // many equal numbers
				rows[i] = float32(math.Round(r.NormFloat64()*2) * size)
			}
		}
		for i := 0; i+4 <= len(bits) && i < 64*4; i += 4 {
			rows[r.IntN(len(rows))] = math.Float32frombits(binary.LittleEndian.Uint32(bits[i:]))
		}
		importance := make([]float32, cols)
		for i := range importance {
			importance[i] = float32(math.Exp(r.NormFloat64() * float64(kind%5)))
		}
		for _, set := range instructionSets {
			for typ := range set.codecs {
				definition, _ := Definition(typ)
				fast := set.apply(definition)
				for _, weights := range [][]float32{nil, importance} {
					if weights == nil && definition.NeedsImportance {
						continue
					}
					want := make([]byte, int64(len(rows))/typ.BlockElements()*typ.BlockBytes())
					got := make([]byte, len(want))
					definition.Encode(want, rows, cols, weights)
					fast.Encode(got, rows, cols, weights)
					if at := firstDifference(got, want); at >= 0 {
						t.Errorf("%s with %s, importance %t: byte %d of block %d differs", typ, set.name, weights != nil,
							int64(at)%typ.BlockBytes(), int64(at)/typ.BlockBytes())
					}
				}
			}
		}
	})
}
