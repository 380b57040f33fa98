package ops

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// llama is a model of TinyLlama's form with its layers' weights repeated from
// one random one.
func llama(layers, vocab, width, inner, heads, kvHeads int) *spec.Model {
	r := rand.New(rand.NewPCG(1, 2))
	shared := map[spec.Role]spec.Weight{}
	m := &spec.Model{Family: "llama", Vocab: vocab, Width: width, Weights: map[spec.Slot]spec.Weight{}}
	add := func(s spec.Slot, rows, cols int) {
		w, ok := shared[s.Role]
		if !ok {
			data := make([]float32, rows*cols)
			for i := range data {
				data[i] = float32(r.NormFloat64() / math.Sqrt(float64(cols)))
			}
			w = memory(string(s.Role), rows, cols, data)
			shared[s.Role] = w
		}
		m.Weights[s] = w
	}
	norm := &spec.Norm{Kind: spec.RMSNorm, Eps: 1e-5}
	dim := width / heads
	rope := &spec.Rope{Magnitude: 1}
	for i := range dim / 2 {
		rope.InvFreq = append(rope.InvFreq, math.Pow(10000, -2*float64(i)/float64(dim)))
	}
	m.Embedding.Scale = 1
	add(spec.Global(spec.TokenEmbd), vocab, width)
	for i := range layers {
		m.Blocks = append(m.Blocks, spec.Block{PreMix: norm, PreFFN: norm, ResidualScale: 1,
			Attention: &spec.Attention{Heads: heads, KVHeads: kvHeads, KeyDim: dim, ValueDim: dim, Scale: 1 / math.Sqrt(float64(dim)), Causal: true, Rope: rope},
			FFN:       spec.FFN{Gated: true, Activation: spec.SiLU, Inner: inner}})
		for _, w := range []struct {
			role       spec.Role
			rows, cols int
		}{
			{spec.Q, width, width}, {spec.K, kvHeads * dim, width}, {spec.V, kvHeads * dim, width}, {spec.AttnOut, width, width},
			{spec.Gate, inner, width}, {spec.Up, inner, width}, {spec.Down, width, inner}, {spec.PreMix, 1, width}, {spec.PreFFN, 1, width},
		} {
			add(spec.At(i, w.role), w.rows, w.cols)
		}
	}
	m.FinalNorm, m.Head = norm, &spec.Head{Scale: 1}
	add(spec.Global(spec.FinalNorm), 1, width)
	add(spec.Global(spec.Output), vocab, width)
	return m
}

// BenchmarkCompare times blocks of TinyLlama's form, a reference and a
// candidate over 4 chunks of 512 tokens, and its head over the same.
func BenchmarkCompare(b *testing.B) {
	for _, d := range testDevices(b) {
		for _, layers := range []int{1, 3} {
			b.Run(fmt.Sprint(d.Name(), "/", layers), func(b *testing.B) {
				m := llama(layers, 32000, 2048, 5632, 32, 4)
				var chunks [][]int32
				for i := range 4 {
					chunks = append(chunks, randomIDs(m, uint64(i), 512))
				}
				for b.Loop() {
					if _, err := Compare(b.Context(), d, m, m, chunks, Options{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
