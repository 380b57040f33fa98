//go:build amd64 && !purego

package quantize

import (
	"sync"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize/internal/simd"
)

// latticeTables are a lattice in the form that the kernels read.
type latticeTables struct {
	entries []uint32 // by key
	points  []uint32 // sixteen by sixteen
}

// newLatticeTables lists for each key its point, or those near it. Lists are
// filled up with copies that no kernel prefers: of equals in the same lane it
// takes the first.
func newLatticeTables(l *lattice) *latticeTables {
	t := &latticeTables{entries: make([]uint32, len(l.index))}
	place := func(i uint16) (point uint32) {
		for k := range l.cell {
			point |= simd.Place(int(l.points[i][k]), k, l.cell) << (4 * k)
		}
		return point
	}
	for key, i := range l.index {
		if !l.reachable(l.coordinates(key)) {
			continue
		}
		list := []uint16{uint16(i)}
		if i < 0 {
			list = l.near[-1-i]
		}
		sixteens, eights := (len(list)+15)/16, (len(list)+7)/8
		t.entries[key] = uint32(len(t.points) / 16 << 16)
		if i < 0 {
			t.entries[key] |= uint32(sixteens<<8 | eights)
		}
		from := len(t.points)
		for _, i := range list {
			t.points = append(t.points, place(i))
		}
		for i := len(list); i < 16*sixteens; i++ {
			t.points = append(t.points, t.points[from:][before(i, len(list))])
		}
	}
	return t
}

// before returns what position i beyond a list is a copy of: what the same
// lane has seen before.
func before(i, n int) int {
	switch {
	case i >= 16:
		return i - 16
	case n > 8:
		return i - 8
	default:
		return 0 // there is only one register of candidates
	}
}

// key returns the key of a point in the form that the kernels read.
func (l *lattice) key(point uint32) int {
	if l.cell == 8 {
		point &= 0x33333333
		point = (point | point>>2) & 0x0f0f0f0f
		point = (point | point>>4) & 0x00ff00ff
		return int((point | point>>8) & 0xffff)
	}
	point = point&0x0707 | point>>1&0x3838
	return int(point&0x3f | point>>2&0xfc0)
}

func init() {
	for name, kernels := range map[string]*simd.IQKernels{"avx512": &simd.AVX512IQ, "avx2": &simd.AVX2IQ} {
		for _, t := range []*latticeType{typeIQ2_XXS, typeIQ2_XS, typeIQ2_S, typeIQ3_XXS, typeIQ3_S} {
			accelerate(name, Codec{Type: t.typ, Encode: newLatticeEncoder(t, kernels).encode, Decode: pointDecoders[t.typ]})
		}
	}
}

// latticeEncoder encodes a type with the kernels of an instruction set.
type latticeEncoder struct {
	*latticeType
	kernels    *simd.IQKernels
	moves      *simd.LatticeKernels
	tables     func() *latticeTables
	workspaces sync.Pool
}

func newLatticeEncoder(t *latticeType, kernels *simd.IQKernels) *latticeEncoder {
	e := &latticeEncoder{latticeType: t, kernels: kernels}
	e.tables = sync.OnceValue(func() *latticeTables { return newLatticeTables(t.points()) })
	e.workspaces.New = func() any { return e.newWorkspace() }
	e.moves = &kernels.Eights
	if t.group == 32 && t.search.step == 0.2 {
		e.moves = &kernels.Fours
	}
	return e
}

// latticeWorkspace holds what an encoder needs for one batch. Where it stands
// in memory is as with workspace.
type latticeWorkspace struct {
	magnitudes, weights, near [batchBlocks * superBlock]float32
	signs                     [batchBlocks * superBlock / 8]uint8
	largest, reach            [batchBlocks * superBlock / 8]float32 // of eight weights: magnitudes, absolute values
	failed                    [batchBlocks]bool                     // super-blocks left to the plain encoder
	energies                  [8]float32
	runs                      [8]*float32
	state                     simd.LatticeState
	block                     latticeBlock

	// For types that start with a search of their own.
	lanesX, lanesW, lanesL [32 * simd.MaxLanes]float32
	positive               simd.PositiveState
	starts                 [batchBlocks * superBlock / 32]float32
	*lattice
	*latticeTables
}

func (e *latticeEncoder) newWorkspace() *latticeWorkspace {
	ws := &latticeWorkspace{lattice: e.points(), latticeTables: e.tables()}
	s := &ws.state
	for k := range s.Q {
		for i := range s.Q[k] {
			s.Q[k][i] = float32(2*(i%(32/ws.cell)) + 1)
		}
	}
	preparePositive(&ws.positive, 4)
	for t := range s.Numerators {
		trial := min(t, 2*e.search.trials) - e.search.trials
		s.Numerators[t] = float32(2*ws.levels-1) + float32(float32(trial)*e.search.step)
	}
	return ws
}

// What the kernels are used for: with these limits nothing overflows, and
// levels are rounded as the plain search does.
const (
	energyLimit  = 0x1p50
	weightLimit  = 0x5d800000 // the bits of 2^60
	leastHighest = 0x1p-60
	levelLimit   = 0x1p20
)

func (e *latticeEncoder) encode(dst []byte, src []float32, cols int, importance []float32) {
	ws := e.workspaces.Get().(*latticeWorkspace)
	defer e.workspaces.Put(ws)
	size := int(e.typ.BlockBytes())
	for at := 0; at < len(src); {
		blocks := min(batchBlocks, (len(src)-at)/superBlock)
		for i := range ws.runs {
			ws.runs[i] = &src[at+min(i, blocks-1)*superBlock]
		}
		simd.SumSquares(&ws.energies, &ws.runs, superBlock)
		for i := range blocks {
			e.prepare(ws, i, src[at+i*superBlock:][:superBlock], part(importance, (at+i*superBlock)%cols, superBlock))
		}
		if e.typ == gguf.IQ2_XXS {
			e.searchStarts(ws, blocks)
		}
		for i := range blocks {
			x := src[at+i*superBlock:][:superBlock]
			if ws.failed[i] {
				e.latticeType.encode(dst[:size], x, superBlock, part(importance, (at+i*superBlock)%cols, superBlock))
			} else {
				e.start(ws, i)
				e.write(dst[:size], &ws.block, func(j int) float32 { return e.fit(ws, x, i, j) })
			}
			dst = dst[size:]
		}
		at += blocks * superBlock
	}
}

// prepare weighs super-block i of the batch and takes its signs off.
func (e *latticeEncoder) prepare(ws *latticeWorkspace, i int, x, importance []float32) {
	from, eight := i*superBlock, i*superBlock/8
	weights := ws.weights[from:][:superBlock]
	energy := float32(e.energy*ws.energies[i]) / superBlock
	if importance != nil {
		e.kernels.Weigh(&weights[0], &importance[0], &x[0], energy, superBlock)
	} else {
		e.unweighted(weights, x, energy)
	}
	e.kernels.Roots(&ws.near[from], &weights[0], superBlock)
	parity := 0
	if e.parity {
		parity = 1
	}
	heaviest := simd.SplitSigns(&ws.magnitudes[from], &x[0], &weights[0], &ws.signs[eight], &ws.largest[eight], &ws.reach[eight], parity)
	ws.failed[i] = !(ws.energies[i] < energyLimit && heaviest < weightLimit)
}

// searchStarts is the search of typeIQ2_XXS.start for the groups of a batch.
// Magnitudes that kept their sign count as there.
func (e *latticeEncoder) searchStarts(ws *latticeWorkspace, blocks int) {
	k, p := e.kernels, &ws.positive
	for j := 0; j < blocks*superBlock/32; j += k.Lanes {
		k.Transpose(&ws.lanesX[0], &ws.magnitudes[32*j], 32)
		k.Transpose(&ws.lanesW[0], &ws.weights[32*j], 32)
		k.SearchPositive(&ws.lanesX[0], &ws.lanesW[0], &ws.lanesL[0], &p.Scale[0], 32)
		copy(ws.starts[j:], p.Scale[:k.Lanes])
	}
}

// start prepares the groups of super-block i for their search.
func (e *latticeEncoder) start(ws *latticeWorkspace, i int) {
	eights := e.group / 8
	for j := range superBlock / e.group {
		g, from := &ws.block.groups[j], i*superBlock/8+j*eights
		g.size = e.group
		largest := ws.largest[from]
		for _, v := range ws.largest[from+1 : from+eights] {
			largest = max(largest, v)
		}
		copy(g.signs[:], ws.signs[from:][:eights])
		if g.skip = largest < e.least; g.skip {
			continue
		}
		switch {
		case e.typ != gguf.IQ2_XXS:
			e.latticeType.start(g, largest)
		case ws.reachOf(from, eights) < float32(largest*levelLimit)/16:
			g.startAt(ws.starts[i*superBlock/32+j])
		default:
			copy(g.magnitude[:], ws.magnitudes[8*from:])
			copy(g.weight[:], ws.weights[8*from:])
			e.latticeType.start(g, largest)
		}
	}
}

// reachOf returns the largest absolute value of n eights.
func (ws *latticeWorkspace) reachOf(eight, n int) float32 {
	reach := ws.reach[eight]
	for _, v := range ws.reach[eight+1 : eight+n] {
		reach = max(reach, v)
	}
	return reach
}

// fit is latticeSearch.fit of group j of super-block i, whose values are x,
// with all trials at once.
func (e *latticeEncoder) fit(ws *latticeWorkspace, x []float32, i, j int) float32 {
	s, search, l, g := &ws.state, &e.search, ws.lattice, &ws.block.groups[j]
	from := i*superBlock + j*e.group
	reach := ws.reachOf(from/8, e.group/8)
	if !(g.highest > leastHighest && reach < float32(g.highest*levelLimit)/16) {
		return e.fitPlain(ws, x, i, j)
	}
	copy(s.Value[:e.group], ws.magnitudes[from:])
	copy(s.Near[:e.group], ws.near[from:])
	copy(s.Weight[:e.group], ws.weights[from:])
	cells, trials := e.group/l.cell, 2*search.trials+1
	e.kernels.TrialScales(&s.Value[0], g.highest)
	e.move(ws, cells, trials)
	kept, scale, best := -1, g.start, float32(0)
	for t, sumqx := range s.SumQX[:trials] {
		if sumq2 := s.SumQ2[t]; sumq2 > 0 && float32(sumqx*sumqx) > float32(best*sumq2) {
			scale = sumqx / sumq2
			best = float32(scale * sumqx)
			kept = t
		}
	}
	if kept < 0 || !(scale > 0) {
		return e.fitPlain(ws, x, i, j)
	}
	var chosen [8]uint32
	var onPoint [8]bool
	again := search.again == always
	for k := range cells {
		chosen[k] = s.Chosen[k][kept]
		onPoint[k] = l.index[s.Keys[k][kept]] >= 0
		again = again || !onPoint[k]
	}
	if again {
		inverse := 1 / scale
		if !(float32(reach*inverse) < levelLimit) {
			return e.fitPlain(ws, x, i, j)
		}
		for t := range s.Inverse[:16] {
			s.Inverse[t] = inverse
		}
		s.Scale[0] = scale
		e.moves.Round(&s.Value[0], cells, 1)
		e.moves.Nearest(&s.Value[0], &ws.entries[0], &ws.latticeTables.points[0], cells, 1)
		for k := range cells {
			if search.again == offPoint && onPoint[k] {
				s.Chosen[k][0] = chosen[k]
			}
			chosen[k] = s.Chosen[k][0]
		}
		e.moves.Sum(&s.Value[0], cells, 1)
		if sumqx, sumq2 := s.SumQX[0], s.SumQ2[0]; sumq2 > 0 {
			scale = sumqx / sumq2
		}
	}
	for k := range cells {
		g.points[k] = uint16(l.index[l.key(chosen[k])])
	}
	return scale
}

// fitPlain is the plain search for group j of super-block i.
func (e *latticeEncoder) fitPlain(ws *latticeWorkspace, x []float32, i, j int) float32 {
	g, from := &ws.block.groups[j], i*superBlock+j*e.group
	g.load(x[j*e.group:][:e.group], ws.weights[from:][:e.group], ws.near[from:][:e.group], e.parity)
	e.latticeType.start(g, g.largest())
	return e.search.fit(ws.lattice, g)
}

// move rounds the cells under all trials, takes them to points and sums.
func (e *latticeEncoder) move(ws *latticeWorkspace, cells, trials int) {
	s := &ws.state.Value[0]
	e.moves.Round(s, cells, trials)
	e.moves.Nearest(s, &ws.entries[0], &ws.latticeTables.points[0], cells, trials)
	e.moves.Sum(s, cells, trials)
}
