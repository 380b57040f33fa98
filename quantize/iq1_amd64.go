//go:build amd64 && !purego

package quantize

import (
	"math"
	"sync"

	"github.com/modelpipe/modelpipe/quantize/internal/simd"
)

func init() {
	for name, kernels := range map[string]*simd.IQKernels{"avx512": &simd.AVX512IQ, "avx2": &simd.AVX2IQ} {
		for _, e := range []*ternaryEncoder{
			{ternaryType: typeIQ1_S, kernels: kernels, search: kernels.SearchIQ1S, estimate: kernels.EstimateIQ1S},
			{ternaryType: typeIQ1_M, kernels: kernels, search: kernels.SearchIQ1M, estimate: kernels.EstimateIQ1M},
		} {
			e.workspaces.New = func() any { return e.newWorkspace() }
			accelerate(name, Codec{Type: e.typ, Encode: e.encode, Decode: pointDecoders[e.typ]})
		}
	}
}

// ternaryEncoder encodes IQ1_S or IQ1_M with the kernels of an instruction set.
type ternaryEncoder struct {
	*ternaryType
	kernels    *simd.IQKernels
	estimate   func(s *float32)
	search     func(s *float32)
	workspaces sync.Pool
}

// tablesIQ1 is the lattice of both types in the form that the kernels read.
var tablesIQ1 = sync.OnceValue(func() *latticeTables { return newLatticeTables(latticeIQ1()) })

// ternaryWorkspace holds what an encoder needs for one batch. Where it stands
// in memory is as with workspace.
type ternaryWorkspace struct {
	magnitudes, weights [batchBlocks * superBlock]float32
	signs               [superBlock / 8]uint8
	largest, reach      [superBlock / 8]float32 // of eight weights
	energies            [8]float32
	runs                [8]*float32
	search              [2]simd.TernaryState // of one group and of the next
	moves               simd.LatticeState
	groups              [superBlock / 16]ternary
	*lattice
	*latticeTables
}

func (e *ternaryEncoder) newWorkspace() *ternaryWorkspace {
	ws := &ternaryWorkspace{lattice: latticeIQ1(), latticeTables: tablesIQ1()}
	for k := range ws.search {
		s := &ws.search[k]
		for h := range s.SumX {
			for i := e.group + 1; i < len(s.SumX[h]); i++ {
				s.SumX[h][i], s.SumW[h][i] = float32(math.NaN()), float32(math.NaN())
			}
		}
	}
	return ws
}

// What the kernels are used for: with these limits losses do not overflow.
const (
	ternaryWeightLimit = 0x58800000 // the bits of 2^50
	ternaryScaleLimit  = 0x1p30
)

func (e *ternaryEncoder) encode(dst []byte, src []float32, cols int, importance []float32) {
	ws := e.workspaces.Get().(*ternaryWorkspace)
	defer e.workspaces.Put(ws)
	size := int(e.typ.BlockBytes())
	for at := 0; at < len(src); {
		blocks := min(batchBlocks, (len(src)-at)/superBlock)
		for i := range ws.runs {
			ws.runs[i] = &src[at+min(i, blocks-1)*superBlock]
		}
		simd.SumSquares(&ws.energies, &ws.runs, superBlock)
		for i := range blocks {
			e.encodeBlock(dst[:size], ws, src[at:][:superBlock], part(importance, at%cols, superBlock), ws.energies[i])
			dst = dst[size:]
			at += superBlock
		}
	}
}

func (e *ternaryEncoder) encodeBlock(block []byte, ws *ternaryWorkspace, x, importance []float32, sum float32) {
	if importance != nil {
		e.kernels.Weigh(&ws.weights[0], &importance[0], &x[0], float32(2*sum)/superBlock, superBlock)
	} else {
		squares(ws.weights[:superBlock], x, 0)
	}
	heaviest := simd.SplitSigns(&ws.magnitudes[0], &x[0], &ws.weights[0], &ws.signs[0], &ws.largest[0], &ws.reach[0], 0)
	if !(sum < energyLimit && heaviest < ternaryWeightLimit) {
		e.ternaryType.encode(block, x, superBlock, importance)
		return
	}
	// A group is sorted and summed before the one ahead of it is searched: the
	// search reads whole registers of sums, which takes long right after they
	// were written one by one.
	n, cells := superBlock/e.group, e.group/8
	var ahead *ternary
	next, s := &ws.search[0], &ws.search[1]
	for j := range ws.groups[:n] {
		g := &ws.groups[j]
		g.begin(x[j*e.group:][:e.group], ws.weights[j*e.group:][:e.group])
		largest := ws.reach[j*cells]
		for _, v := range ws.reach[j*cells+1 : (j+1)*cells] {
			largest = max(largest, v)
		}
		if largest < e.least {
			continue
		}
		e.sum(next, g)
		if ahead != nil {
			e.fit(ws, s, ahead)
		}
		ahead = g
		next, s = s, next
	}
	if ahead != nil {
		e.fit(ws, s, ahead)
	}
	e.write(block, ws.lattice, ws.groups[:n])
}

// fit finds the points of a group that sum has prepared.
func (e *ternaryEncoder) fit(ws *ternaryWorkspace, s *simd.TernaryState, g *ternary) {
	e.searchThresholds(s)
	if s.Found == 0 {
		return
	}
	reversed := e.begin(g, thresholds{int(s.Low), int(s.High), int(s.Move), s.Scale})
	if !(g.scale < ternaryScaleLimit) {
		g.split(int(s.Low), int(s.High), reversed)
		g.settle(ws.lattice, e.values)
		return
	}
	e.settle(ws, s, g, reversed)
}

// searchThresholds finds the thresholds that the plain search ends with.
//
// That search takes whatever beats the best score so far, often a hundred
// times. Beginning with a score a little below the best leaves few times, and
// is exact: as long as the plain search's best so far is not above ours it
// takes what ours takes, and from then on both go on alike. It can be above our
// start only by the rounding of a score, 2^-21 of it; so it is enough that the
// first score taken is above the start by more than that. Where the estimates
// are below the start by more than their error nothing can be taken.
func (e *ternaryEncoder) searchThresholds(s *simd.TernaryState) {
	e.estimate(&s.X[0])
	sumw := s.SumW[0][e.group]
	if e.group == 16 {
		sumw += s.SumW[1][e.group]
	}
	if start := s.First * (1 - 0x1p-11); start < 0x1p60 && sumw < 0x1p30 && sumw > 0x1p-60 && float32(start*sumw) > 0x1p-100 {
		s.Start, s.Least = start, start*(1-0x1p-11)
		if e.search(&s.X[0]); s.Found != 0 && s.First > start*(1+0x1p-18) {
			return
		}
	}
	s.Start, s.Least = -math.MaxFloat32, -1
	e.search(&s.X[0])
}

// sum sorts a group and sets the sums over the sorted weights.
func (e *ternaryEncoder) sum(s *simd.TernaryState, g *ternary) {
	copy(s.X[:], g.x)
	e.kernels.Ranks(&s.X[0], e.group)
	for i, rank := range s.Ranks[:e.group] {
		g.order[rank&31] = uint8(i)
	}
	if e.group == 32 {
		x, weight := (*[32]float32)(g.x), (*[32]float32)(g.weight)
		var sumx, sumw float32
		for j, i := range g.order {
			w := weight[i&31]
			sumx += float32(w * x[i&31])
			sumw += w
			s.SumX[0][j+1], s.SumW[0][j+1] = sumx, sumw
		}
		return
	}
	// Zeros, which leave a sum as it is, stand for the other half's weights.
	x, weight := (*[16]float32)(g.x), (*[16]float32)(g.weight)
	var products, weights [2][16]float32
	for h := range 2 {
		for i := 8 * h; i < 8*h+8; i++ {
			products[h][i], weights[h][i] = float32(weight[i]*x[i]), weight[i]
		}
	}
	var sumx0, sumx1, sumw0, sumw1 float32
	for j, i := range g.order[:16] {
		i &= 15
		sumx0 += products[0][i]
		sumx1 += products[1][i]
		sumw0 += weights[0][i]
		sumw1 += weights[1][i]
		s.SumX[0][j+1], s.SumX[1][j+1] = sumx0, sumx1
		s.SumW[0][j+1], s.SumW[1][j+1] = sumw0, sumw1
	}
}

// settle is split and ternary.settle.
func (e *ternaryEncoder) settle(ws *ternaryWorkspace, found *simd.TernaryState, g *ternary, reversed bool) {
	s, l, cells := &ws.moves, ws.lattice, e.group/8
	low, high := found.Low, found.High
	copy(s.Value[:], g.x)
	copy(s.Near[:], g.weight)
	moved := false
	for k := range cells {
		var key uint32
		for i, rank := range found.Ranks[8*k:][:8] {
			// One for each threshold that the rank has reached.
			level := uint32(low-1-rank)>>31 + uint32(high-1-rank)>>31
			key |= level << (2 * i)
		}
		if reversed {
			key = 0xaaaa - key // 2 less each coordinate
		}
		s.Keys[k][0] = int32(key)
		point := l.index[key]
		g.points[k] = int(point)
		if point < 0 {
			moved = true
		}
	}
	if !moved {
		return
	}
	for k := range cells {
		values := e.values(g.move, k)
		for i := 0; i < 16; i += 4 {
			copy(s.Q[k][i:], values[:])
		}
	}
	s.Scale[0] = g.scale
	e.kernels.Eights.Nearest(&s.Value[0], &ws.entries[0], &ws.latticeTables.points[0], cells, 1)
	for k := range cells {
		g.points[k] = int(l.index[l.key(s.Chosen[k][0])])
	}
	g.refit(l, e.values)
}
