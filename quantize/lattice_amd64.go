//go:build amd64 && !purego

package quantize

import (
	"sync"

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
		t.entries[key] = uint32(len(t.points)/16<<16 | sixteens<<8 | eights)
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
			accelerate(name, Codec{Type: t.typ, Encode: newLatticeEncoder(t, kernels).encode})
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
	blocks   [batchBlocks]latticeBlock
	energies [8]float32
	runs     [8]*float32
	state    simd.LatticeState
	*lattice
	*latticeTables
}

func (e *latticeEncoder) newWorkspace() *latticeWorkspace {
	ws := &latticeWorkspace{lattice: e.points(), latticeTables: e.tables()}
	for k := range ws.state.Q {
		for i := range ws.state.Q[k] {
			ws.state.Q[k][i] = float32(2*(i%(32/ws.cell)) + 1)
		}
	}
	return ws
}

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
			x, b := src[at+i*superBlock:][:superBlock], &ws.blocks[i]
			energy := float32(e.energy*ws.energies[i]) / superBlock
			if importance != nil {
				e.kernels.Weigh(&b.weight[0], &importance[(at+i*superBlock)%cols], &x[0], energy, superBlock)
			} else {
				e.unweighted(b.weight[:], x, energy)
			}
			e.kernels.Roots(&b.near[0], &b.weight[0], superBlock)
			e.load(b, x)
		}
		e.startGroups(ws, blocks)
		for i := range blocks {
			e.write(dst[:size], &ws.blocks[i], func(g *latticeGroup) float32 { return e.fit(ws, g) })
			dst = dst[size:]
		}
		at += blocks * superBlock
	}
}

// startGroups prepares the groups of a batch for their search.
func (e *latticeEncoder) startGroups(ws *latticeWorkspace, blocks int) {
	for i := range blocks {
		for j := range ws.blocks[i].groups[:superBlock/e.group] {
			if g := &ws.blocks[i].groups[j]; !g.skip {
				e.start(g, g.largest())
			}
		}
	}
}

// fit is latticeSearch.fit with all trials at once.
func (e *latticeEncoder) fit(ws *latticeWorkspace, g *latticeGroup) float32 {
	s, search, l := &ws.state, &e.search, ws.lattice
	if !e.usual(g) {
		return search.fit(l, g)
	}
	s.Value, s.Near, s.Weight = g.magnitude, g.near, g.weight
	cells, trials := g.size/l.cell, 2*search.trials+1
	top := float32(2*l.levels - 1)
	for t := range s.Inverse {
		inverse := (top + float32(float32(min(t, trials-1)-search.trials)*search.step)) / g.highest
		s.Inverse[t], s.Scale[t] = inverse, 1/inverse
	}
	e.move(ws, cells, trials)
	kept, scale, best := -1, g.start, float32(0)
	for t := range trials {
		sumqx, sumq2 := s.SumQX[t], s.SumQ2[t]
		if sumq2 > 0 && float32(sumqx*sumqx) > float32(best*sumq2) {
			scale = sumqx / sumq2
			best = float32(scale * sumqx)
			kept = t
		}
	}
	if kept < 0 || !(scale > 0) {
		return search.fit(l, g)
	}
	var chosen [8]uint32
	var onPoint [8]bool
	offPoints := 0
	for k := range cells {
		chosen[k] = s.Chosen[k][kept]
		onPoint[k] = l.index[s.Keys[k][kept]] >= 0
		if !onPoint[k] {
			offPoints++
		}
	}
	if search.again == always || offPoints > 0 {
		inverse := 1 / scale
		if !e.inReach(g, inverse) {
			return search.fit(l, g)
		}
		for t := range 16 {
			s.Inverse[t], s.Scale[t] = inverse, scale
		}
		e.moves.Round(&s.Value[0], cells, 1)
		e.moves.Nearest(&s.Value[0], &ws.entries[0], &ws.latticeTables.points[0], cells, 1)
		for k := range cells {
			if search.again != offPoint || !onPoint[k] {
				chosen[k] = s.Chosen[k][0]
			} else {
				s.Chosen[k][0] = chosen[k]
			}
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

// move rounds the cells under all trials, takes them to points and sums.
func (e *latticeEncoder) move(ws *latticeWorkspace, cells, trials int) {
	s := &ws.state.Value[0]
	e.moves.Round(s, cells, trials)
	e.moves.Nearest(s, &ws.entries[0], &ws.latticeTables.points[0], cells, trials)
	e.moves.Sum(s, cells, trials)
}

// usual reports whether the kernels round and compare as the plain search
// does: nothing overflows, and scales have inverses.
func (e *latticeEncoder) usual(g *latticeGroup) bool {
	var largest, near float32
	for i, v := range g.magnitude[:g.size] {
		largest = max(largest, absolute(v))
		near = max(near, g.near[i])
	}
	return largest < 0x1p40 && near < 0x1p40 && g.highest > 0x1p-80 && g.highest < 0x1p40 &&
		largest < float32(g.highest*0x1p16)
}

// inReach reports whether values times inverse are rounded exactly.
func (e *latticeEncoder) inReach(g *latticeGroup, inverse float32) bool {
	for _, v := range g.magnitude[:g.size] {
		if !(absolute(float32(v*inverse)) < 0x1p20) {
			return false
		}
	}
	return true
}
