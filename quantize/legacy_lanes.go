//go:build (amd64 || arm64) && !purego

package quantize

import (
	"encoding/binary"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize/internal/simd"
)

// legacyEncoder encodes Q4_0, Q4_1, Q5_0 or Q5_1: in row order without
// importance, in lanes with it.
type legacyEncoder struct {
	*legacyKind
	kernels *simd.Kernels
	rows    func(dst []byte, src []float32, cols int, importance []float32)
}

// newLegacyEncoder returns the encoder of a type over its kernel for rows,
// which is nil where the instruction set has none.
func newLegacyEncoder(typ gguf.Type, k *simd.Kernels, rows func(dst *byte, src *float32, blocks int) int) func([]byte, []float32, int, []float32) {
	for i := range legacyKinds {
		if kind := &legacyKinds[i]; kind.typ == typ {
			e := &legacyEncoder{kind, k, kind.encode}
			if rows != nil {
				e.rows = encodeBlocks(rows, int(typ.BlockBytes()), kind.encode)
			}
			return e.encode
		}
	}
	return nil
}

func (e *legacyEncoder) encode(dst []byte, src []float32, cols int, importance []float32) {
	if importance == nil {
		e.rows(dst, src, cols, nil)
		return
	}
	ws := workspaces.Get().(*workspace)
	defer ws.release()
	if e.minimum {
		weightedSteps.prepare(&ws.minimum, int32(1)<<e.bits-1)
	} else {
		prepareScale(&ws.scale, int32(1)<<(e.bits-1))
	}
	size := int(e.typ.BlockBytes())
	for len(src) > 0 {
		// Eight rows share the sums of squares; their blocks are one run.
		rows := min(len(ws.runs), len(src)/cols)
		for i := range ws.runs {
			ws.runs[i] = &src[min(i, rows-1)*cols]
		}
		simd.SumSquares(&ws.energies, &ws.runs, cols)
		for i := range rows {
			ws.energies[i] /= float32(cols)
		}
		run := src[:rows*cols]
		for at := 0; at < len(run); at += len(ws.x) {
			batch := run[at:min(len(run), at+len(ws.x))]
			e.encodeBatch(ws, dst[:len(batch)/32*size], batch, at, cols, importance)
			dst = dst[len(batch)/32*size:]
		}
		src = src[rows*cols:]
	}
}

// encodeBatch encodes at most 64 blocks, the first of which is at the given
// offset in the run of rows whose energies ws holds.
func (e *legacyEncoder) encodeBatch(ws *workspace, dst []byte, x []float32, at, cols int, importance []float32) {
	k, size := e.kernels, int(e.typ.BlockBytes())
	for i := 0; i < len(x); {
		col := (at + i) % cols
		n := min(cols-col, len(x)-i)
		k.Weigh(&ws.weights[i], &importance[col], &x[i], ws.energies[(at+i)/cols], n)
		i += n
	}
	padded := x
	if len(x) < len(ws.x) {
		copy(ws.x[:], x)
		clear(ws.x[len(x):])
		padded = ws.x[:]
	}
	for first := 0; first < len(x)/32; first += k.Lanes {
		k.Transpose(&ws.lanesX[0], &padded[32*first], 32)
		k.Transpose(&ws.lanesW[0], &ws.weights[32*first], 32)
		scales, inverses, froms, worsts := &ws.scale.Scale, &ws.scale.Inverse, &ws.zeros, &ws.scale.Worst
		low, high, bias := -int32(1)<<(e.bits-1), int32(1)<<(e.bits-1)-1, int32(1)<<(e.bits-1)
		if e.minimum {
			k.SearchMinimumWeighted(&ws.lanesX[0], &ws.lanesW[0], &ws.lanesL[0], &ws.minimum.Scale[0], 32)
			scales, inverses, froms, worsts = &ws.minimum.Scale, &ws.minimum.Inverse, &ws.minimum.From, &ws.minimum.Worst
			low, high, bias = 0, int32(1)<<e.bits-1, 0
		} else {
			k.SearchScaleWeighted(&ws.lanesX[0], &ws.lanesW[0], &ws.lanesL[0], &ws.scale.Scale[0], 32, 2)
		}
		// Levels of all blocks at once, two runs of sixteen weights each.
		blocks := min(k.Lanes, len(x)/32-first)
		for i := range blocks {
			ws.scales[2*i], ws.scales[2*i+1] = inverses[i], inverses[i]
			ws.lows[2*i], ws.lows[2*i+1] = froms[i], froms[i]
		}
		k.MultiplyLevels(&ws.codes[0], &padded[32*first], &ws.scales[0], &ws.lows[0], 2*blocks, low, high, bias)
		for i := range blocks {
			out := dst[(first+i)*size:][:size]
			if !(worsts[i] < simd.Limit) {
				at := at + 32*(first+i)
				e.encodeWeighted(out, padded[32*(first+i):][:32], importance[at%cols:][:32], ws.energies[at/cols])
				continue
			}
			binary.LittleEndian.PutUint16(out, scaleBits(scales[i]))
			if e.minimum {
				binary.LittleEndian.PutUint16(out[2:], scaleBits(ws.minimum.Low[i]))
			}
			levels := (*[32]uint8)(ws.codes[32*i:])
			if inverses[i] == 0 {
				clear(levels[:])
			}
			if e.bits == 5 {
				binary.LittleEndian.PutUint32(out[e.head():], takeFifths(levels))
			}
			joinNibbles(out[size-16:], levels[:], levels[16:])
			joinNibbles(out[size-8:], levels[8:], levels[24:])
		}
	}
}

// takeFifths clears the fifth bits of 32 levels and returns them, level i's at
// bit i.
func takeFifths(levels *[32]uint8) (fifths uint32) {
	const (
		ones   = 0x0101010101010101
		gather = 0x0102040810204080 // moves bit 0 of byte i to bit 56 + i
	)
	for i := 0; i < 32; i += 8 {
		q := binary.LittleEndian.Uint64(levels[i:])
		fifths |= uint32((q>>4&ones)*gather>>56) << i
		binary.LittleEndian.PutUint64(levels[i:], q&(15*ones))
	}
	return fifths
}
