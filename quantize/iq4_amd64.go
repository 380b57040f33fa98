//go:build amd64 && !purego

package quantize

import (
	"encoding/binary"
	"sync"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize/internal/simd"
)

// iq4Groups is the number of groups of 32 weights encoded together.
const iq4Groups = batchBlocks * superBlock / 32

// iq4Workspace holds what an encoder needs for one batch. Where it stands in
// memory is as with workspace.
type iq4Workspace struct {
	x, weights     [32 * iq4Groups]float32
	lanesX, lanesW [32 * simd.MaxLanes]float32
	state          simd.IQ4State
	energies       [iq4Groups]float32
	scales         [iq4Groups]float32
	inverses       [iq4Groups]float32
	runs           [8]*float32
}

var iq4Workspaces = sync.Pool{New: func() any {
	ws := new(iq4Workspace)
	for i := range ws.state.Numerators {
		ws.state.Numerators[i] = float32(i-7) + valuesIQ4[0]
	}
	return ws
}}

// tablesIQ4 are nearestIQ4 for every half, which stands for what follows it up
// to the next: no border between two codes lies between halves.
var tablesIQ4 = sync.OnceValues(func() (*simd.IQ4Values, *simd.IQ4Codes) {
	values, codes := new(simd.IQ4Values), new(simd.IQ4Codes)
	for i := -512; i < 512; i++ {
		code := nearestIQ4(float32(i) / 2)
		values[i&1023], codes[i&1023] = valuesIQ4[code], int32(code)
	}
	return values, codes
})

func init() {
	for name, kernels := range map[string]*simd.IQKernels{"avx512": &simd.AVX512IQ, "avx2": &simd.AVX2IQ} {
		e := iq4Codec{kernels}
		accelerate(name, Codec{Type: gguf.IQ4_NL, Encode: e.encodeNL, Decode: e.decodeNL})
		accelerate(name, Codec{Type: gguf.IQ4_XS, Encode: e.encodeXS, Decode: e.decodeXS})
	}
}

// iq4Codec encodes and decodes IQ4_NL and IQ4_XS.
type iq4Codec struct{ *simd.IQKernels }

// search fits the groups of a batch: x holds them, at is where they begin in
// the whole, and perEnergy groups share an energy. It reports whether it could:
// a batch with numbers that are not finite is left to the plain encoder.
func (e iq4Codec) search(ws *iq4Workspace, x []float32, groups, perEnergy, at, cols int, importance []float32) bool {
	n := 32 * perEnergy
	for i := 0; i < iq4Groups; i += 8 * perEnergy {
		var sums [8]float32
		for k := range ws.runs {
			ws.runs[k] = &x[(i+k*perEnergy)*32]
		}
		simd.SumSquares(&sums, &ws.runs, n)
		for k, sum := range sums {
			if !isFinite(sum) {
				return false
			}
			for j := range perEnergy {
				ws.energies[i+k*perEnergy+j] = float32(sum * (2 / float32(n)))
			}
		}
	}
	if importance != nil {
		for i := range groups {
			e.Weigh(&ws.weights[32*i], &importance[(at+32*i)%cols], &x[32*i], ws.energies[i], 32)
		}
	}
	values, _ := tablesIQ4()
	for i := 0; i < groups; i += e.Lanes {
		e.Transpose(&ws.lanesX[0], &x[32*i], 32)
		if importance != nil {
			e.Transpose(&ws.lanesW[0], &ws.weights[32*i], 32)
			e.SearchIQ4Weighted(&ws.lanesX[0], &ws.lanesW[0], &values[0], &ws.state.Scale[0])
		} else {
			e.SearchIQ4BySquare(&ws.lanesX[0], &ws.lanesW[0], &values[0], &ws.state.Scale[0])
		}
		copy(ws.scales[i:], ws.state.Scale[:e.Lanes])
	}
	return true
}

// load takes the next batch off src, padded with zeros where there is less.
func (ws *iq4Workspace) load(src []float32) (x []float32, n int) {
	if len(src) >= len(ws.x) {
		return src[:len(ws.x)], len(ws.x)
	}
	n = copy(ws.x[:], src)
	clear(ws.x[n:])
	return ws.x[:], n
}

func (e iq4Codec) encodeNL(dst []byte, src []float32, cols int, importance []float32) {
	ws := iq4Workspaces.Get().(*iq4Workspace)
	defer iq4Workspaces.Put(ws)
	_, codes := tablesIQ4()
	for at := 0; at < len(src); {
		x, n := ws.load(src[at:])
		groups := n / 32
		block := dst[:groups*sizeIQ4_NL]
		dst = dst[len(block):]
		if e.search(ws, x, groups, 1, at, cols, importance) {
			for i := range groups {
				scale := ws.scales[i]
				binary.LittleEndian.PutUint16(block[i*sizeIQ4_NL:], scaleBits(scale))
				ws.inverses[i] = inverseOf(scale)
			}
			e.PackIQ4(&block[2], sizeIQ4_NL, &x[0], &ws.inverses[0], &codes[0], groups)
		} else {
			for i := range groups {
				encodeIQ4_NL(block[i*sizeIQ4_NL:][:sizeIQ4_NL], x[32*i:][:32], 32, part(importance, (at+32*i)%cols, 32))
			}
		}
		at += n
	}
}

func (e iq4Codec) encodeXS(dst []byte, src []float32, cols int, importance []float32) {
	ws := iq4Workspaces.Get().(*iq4Workspace)
	defer iq4Workspaces.Put(ws)
	_, codes := tablesIQ4()
	for at := 0; at < len(src); {
		x, n := ws.load(src[at:])
		searched := e.search(ws, x, n/32, 8, at, cols, importance)
		for i := 0; i < n; i += superBlock {
			block := dst[:sizeIQ4_XS]
			dst = dst[sizeIQ4_XS:]
			if searched {
				putScalesIQ4_XS(block, (*[8]float32)(ws.scales[i/32:]), (*[8]float32)(ws.inverses[:]))
				e.PackIQ4(&block[8], 16, &x[i], &ws.inverses[0], &codes[0], 8)
			} else {
				encodeIQ4_XS(block, x[i:][:superBlock], superBlock, part(importance, (at+i)%cols, superBlock))
			}
		}
		at += n
	}
}

// isFinite reports whether v is neither infinite nor NaN.
func isFinite(v float32) bool { return v-v == 0 }

func (e iq4Codec) decodeNL(dst []float32, src []byte) {
	ws := workspaces.Get().(*workspace)
	defer ws.release()
	for len(dst) > 0 {
		n := min(levelBatch, len(dst))
		for i := 0; i < n; i += 32 {
			ws.unpackIQ4(i, src[2:sizeIQ4_NL], halfValue(binary.LittleEndian.Uint16(src)))
			src = src[sizeIQ4_NL:]
		}
		e.ValuesIQ4(&dst[0], &ws.codes[0], &ws.scales[0], n/16)
		dst = dst[n:]
	}
}

func (e iq4Codec) decodeXS(dst []float32, src []byte) {
	ws := workspaces.Get().(*workspace)
	defer ws.release()
	for len(dst) > 0 {
		n := min(levelBatch, len(dst))
		for i := 0; i < n; i += superBlock {
			for j, scale := range groupScalesIQ4_XS(src) {
				ws.unpackIQ4(i+32*j, src[8+16*j:][:16], scale)
			}
			src = src[sizeIQ4_XS:]
		}
		e.ValuesIQ4(&dst[0], &ws.codes[0], &ws.scales[0], n/16)
		dst = dst[n:]
	}
}

// unpackIQ4 takes the codes and the scale of the 32 weights from i on.
func (ws *workspace) unpackIQ4(i int, codes []byte, scale float32) {
	ws.scales[i/16], ws.scales[i/16+1] = scale, scale
	splitNibbles(ws.codes[i:], ws.codes[i+16:], codes)
	splitNibbles(ws.codes[i+8:], ws.codes[i+24:], codes[8:])
}
