// Lattices: the IQ types below four bits write the magnitudes of a whole cell
// of weights as the index of a point in a fixed lattice. A cell that rounds to
// no point takes the nearest one.

package quantize

import (
	"math"
	"math/bits"
	"sync"

	"github.com/modelpipe/modelpipe/gguf"
)

// lattice is a set of points with, for every cell of rounded levels, its point
// or the points near it.
type lattice struct {
	cell   int   // coordinates of a point: 8 or 4
	bits   int   // per coordinate in a key: 2 or 3
	levels int32 // a coordinate is below this: 3 or 8

	points [][8]int8 // coordinates by index; those from cell on are 0
	// index maps a key, the coordinates side by side, to the point's index or
	// to -1 - n where near[n] lists the points to try.
	index []int32
	near  [][]uint16
}

// newLattice prepares the lookup of nearest points: for every key that is no
// point, the points of the shells smallest distances, nearest first and by
// index among equals (ggml-quants.c, iq2xs_init_impl and iq3xs_init_impl).
func newLattice(keys []uint16, cell, bits int, levels int32, shells int) *lattice {
	l := &lattice{cell: cell, bits: bits, levels: levels, points: make([][8]int8, len(keys))}
	for i, key := range keys {
		l.points[i] = l.coordinates(int(key))
	}
	l.index = make([]int32, 1<<(cell*bits))
	for key := range l.index {
		l.index[key] = math.MinInt32
	}
	for i, key := range keys {
		l.index[key] = int32(i)
	}
	// A squared distance is at most 8*2*2 or 4*7*7.
	var byDistance [197][]uint16
	for key := range l.index {
		at := l.coordinates(key)
		if l.index[key] >= 0 || !l.reachable(at) {
			continue
		}
		for i := range byDistance {
			byDistance[i] = byDistance[i][:0]
		}
		for i, p := range l.points {
			d := 0
			for k := range cell {
				diff := int(p[k]) - int(at[k])
				d += diff * diff
			}
			byDistance[d] = append(byDistance[d], uint16(i))
		}
		var list []uint16
		for found, d := 0, 0; found < shells && d < len(byDistance); d++ {
			if len(byDistance[d]) > 0 {
				list = append(list, byDistance[d]...)
				found++
			}
		}
		l.index[key] = -1 - int32(len(l.near))
		l.near = append(l.near, list)
	}
	return l
}

// coordinates takes a key apart.
func (l *lattice) coordinates(key int) (p [8]int8) {
	for k := range l.cell {
		p[k] = int8(key >> (k * l.bits) & (1<<l.bits - 1))
	}
	return p
}

// reachable reports whether rounding can yield these coordinates.
func (l *lattice) reachable(p [8]int8) bool {
	for _, c := range p {
		if int32(c) >= l.levels {
			return false
		}
	}
	return true
}

// find returns the index of the point at the given coordinates; where there is
// none, of the nearby point that value, weight and scale make the best, and
// false.
func (l *lattice) find(coordinates []int8, value, weight []float32, scale float32) (int, bool) {
	key := 0
	for k, c := range coordinates {
		key |= int(c) << (k * l.bits)
	}
	if i := l.index[key]; i >= 0 {
		return int(i), true
	}
	near := l.near[-1-l.index[key]]
	best, chosen := float32(math.MaxFloat32), near[0]
	for _, i := range near {
		var loss float32
		for k := range coordinates {
			diff := float32(scale*float32(2*l.points[i][k]+1)) - value[k]
			loss += float32(float32(weight[k]*diff) * diff)
		}
		if loss < best {
			best, chosen = loss, i
		}
	}
	return int(chosen), false
}

// round puts the levels of value/scale, scale given as its inverse, where a
// level l stands for 2l + 1.
func (l *lattice) round(levels []int8, value []float32, inverse float32) {
	for k, v := range value {
		levels[k] = int8(max(0, min(l.levels-1, nearestInt(float32(0.5*(float32(inverse*v)-1))))))
	}
}

// The lattices are built when they are first used.
var (
	latticeIQ1     = sync.OnceValue(func() *lattice { return newLattice(pointsIQ1[:], 8, 2, 3, 3) })
	latticeIQ2_XXS = sync.OnceValue(func() *lattice { return newLattice(pointsIQ2_XXS[:], 8, 2, 3, 2) })
	latticeIQ2_XS  = sync.OnceValue(func() *lattice { return newLattice(pointsIQ2_XS[:], 8, 2, 3, 2) })
	latticeIQ2_S   = sync.OnceValue(func() *lattice { return newLattice(pointsIQ2_S[:], 8, 2, 3, 1) })
	latticeIQ3_XXS = sync.OnceValue(func() *lattice { return newLattice(pointsIQ3_XXS[:], 4, 3, 8, 2) })
	latticeIQ3_S   = sync.OnceValue(func() *lattice { return newLattice(pointsIQ3_S[:], 4, 3, 8, 3) })
)

// latticeGroup is a group of weights under one scale on its way: 16 or 32 of
// them, in cells.
type latticeGroup struct {
	size      int
	magnitude [32]float32 // value without its sign; one of a cell may keep it
	weight    [32]float32
	near      [32]float32 // root of weight: what nearby points are judged by
	signs     [4]uint8    // of eight weights each, first weight lowest
	levels    [32]int8    // found coordinates
	points    [8]uint16   // found points, by cell
	skip      bool        // nothing to fit: the scale is 0
	start     float32     // the scale that the search begins with
	highest   float32     // what the highest level is mapped to
}

// load takes the values of a group. With parity the signs of eight weights
// must have an even number of minuses, so that seven bits are enough: of an
// odd number the least weight keeps its own sign in its magnitude.
func (g *latticeGroup) load(x, weight, near []float32, parity bool) {
	g.size = len(x)
	g.skip = false
	copy(g.weight[:], weight)
	copy(g.near[:], near)
	clear(g.levels[:])
	for k := range len(x) / 8 {
		var signs uint8
		for i, v := range x[8*k:][:8] {
			if !(v >= 0) {
				v = -v
				signs |= 1 << i
			}
			g.magnitude[8*k+i] = v
		}
		if parity && bits.OnesCount8(signs)%2 == 1 {
			least := 0
			var lowest float32
			for i, v := range x[8*k:][:8] {
				if loss := float32(float32(g.weight[8*k+i]*v) * v); i == 0 || loss < lowest {
					lowest, least = loss, i
				}
			}
			g.magnitude[8*k+least] = -g.magnitude[8*k+least]
			signs ^= 1 << least
		}
		g.signs[k] = signs
	}
}

// largest returns the largest magnitude.
func (g *latticeGroup) largest() float32 {
	largest := g.magnitude[0]
	for _, v := range g.magnitude[1:g.size] {
		if !(largest > v) {
			largest = v
		}
	}
	return largest
}

// latticeSearch is how a type looks for the scale of a group: it rounds with
// 2*trials + 1 scales around the one that maps the largest magnitude to the
// highest level, each time moving cells to points, and keeps the best; then it
// moves the cells once more with the scale that fits them best.
type latticeSearch struct {
	trials int
	step   float32
	// again says which cells are moved once more: all of them, or only those
	// that were on no point.
	again movedAgain
}

type movedAgain int

const (
	offPoint      movedAgain = iota // the cells that were on no point
	allIfOffPoint                   // all cells where one was on no point, or no trial was kept
	always                          // all cells
)

// fit finds the points of the group and returns their scale.
func (s latticeSearch) fit(l *lattice, g *latticeGroup) float32 {
	scale := s.fitLevels(l, g)
	for k := range g.size / l.cell {
		g.points[k] = uint16(g.at(l, k*l.cell))
	}
	return scale
}

func (s latticeSearch) fitLevels(l *lattice, g *latticeGroup) float32 {
	n, cell, scale := g.size, l.cell, g.start
	var trial [32]int8
	var onPoint, trialOnPoint [8]bool
	for k := range n / cell {
		onPoint[k] = s.again != allIfOffPoint
	}
	var best float32
	top := float32(2*l.levels - 1)
	for i := -s.trials; i <= s.trials; i++ {
		inverse := (top + float32(float32(i)*s.step)) / g.highest
		for k := 0; k < n; k += cell {
			trialOnPoint[k/cell] = s.move(l, g, trial[k:k+cell], k, inverse, 1/inverse)
		}
		sumqx, sumq2 := g.sums(trial[:n])
		if sumq2 > 0 && float32(sumqx*sumqx) > float32(best*sumq2) {
			scale = sumqx / sumq2
			best = float32(scale * sumqx)
			g.levels = trial
			onPoint = trialOnPoint
		}
	}
	if !(scale > 0) || !s.anyAgain(onPoint[:n/cell]) {
		return scale
	}
	inverse := 1 / scale
	for k := 0; k < n; k += cell {
		if s.again != offPoint || !onPoint[k/cell] {
			s.move(l, g, g.levels[k:k+cell], k, inverse, scale)
		}
	}
	if sumqx, sumq2 := g.sums(g.levels[:n]); sumq2 > 0 {
		scale = sumqx / sumq2
	}
	return scale
}

// move rounds the cell at k and takes it to a point; it reports whether it was
// on one.
func (s latticeSearch) move(l *lattice, g *latticeGroup, levels []int8, k int, inverse, scale float32) bool {
	value, weight := g.magnitude[k:k+l.cell], g.near[k:k+l.cell]
	l.round(levels, value, inverse)
	i, on := l.find(levels, value, weight, scale)
	if !on {
		copy(levels, l.points[i][:])
	}
	return on
}

func (s latticeSearch) anyAgain(onPoint []bool) bool {
	if s.again == always {
		return true
	}
	for _, on := range onPoint {
		if !on {
			return true
		}
	}
	return false
}

// sums returns the weighted sums of value * (2 level + 1) and (2 level + 1)^2.
func (g *latticeGroup) sums(levels []int8) (sumqx, sumq2 float32) {
	for i, level := range levels {
		w, q := g.weight[i], float32(2*level+1)
		sumqx += float32(float32(w*g.magnitude[i]) * q)
		sumq2 += float32(float32(w*q) * q)
	}
	return sumqx, sumq2
}

// latticeType is how a type differs from the others that look for lattice
// points in the same way.
type latticeType struct {
	typ    gguf.Type
	points func() *lattice
	group  int     // weights under a scale: 16 or 32
	parity bool    // seven signs of eight are written
	energy float32 // factor of the mean square, for the weights of errors
	least  float32 // groups whose largest magnitude is below have the scale 0

	// unweighted fills the weights of errors where there is no importance.
	unweighted func(weights, x []float32, energy float32)

	// start sets start and highest of a group, or skip.
	start  func(g *latticeGroup, largest float32)
	search latticeSearch

	// put writes the points and signs of group j, which is number fitted of
	// those that were not skipped; finish writes the scales of all, highest
	// being the largest.
	put    func(block []byte, j, fitted int, g *latticeGroup)
	finish func(block []byte, scales []float32, highest float32)
}

// latticeBlock is a super-block on its way.
type latticeBlock struct {
	weight, near [superBlock]float32 // of errors, and their roots
	groups       [superBlock / 16]latticeGroup
}

func (t *latticeType) encode(dst []byte, src []float32, cols int, importance []float32) {
	l, size := t.points(), int(t.typ.BlockBytes())
	b := new(latticeBlock)
	for at := 0; at < len(src); at += superBlock {
		x := src[at:][:superBlock]
		energy := float32(t.energy*sumSquares(x)) / superBlock
		if importance != nil {
			weigh(b.weight[:], importance[at%cols:], x, energy)
		} else {
			t.unweighted(b.weight[:], x, energy)
		}
		for i, w := range b.weight {
			b.near[i] = root(w)
		}
		t.load(b, x)
		for j := range b.groups[:superBlock/t.group] {
			if g := &b.groups[j]; !g.skip {
				t.start(g, g.largest())
			}
		}
		t.write(dst[:size], b, func(j int) float32 { return t.search.fit(l, &b.groups[j]) })
		dst = dst[size:]
	}
}

// load takes the groups of a super-block and marks those to skip.
func (t *latticeType) load(b *latticeBlock, x []float32) {
	for j := range b.groups[:superBlock/t.group] {
		g, i := &b.groups[j], j*t.group
		g.load(x[i:][:t.group], b.weight[i:][:t.group], b.near[i:][:t.group], t.parity)
		g.skip = g.largest() < t.least
	}
}

// write fits the groups of a super-block and writes it.
func (t *latticeType) write(block []byte, b *latticeBlock, fit func(j int) float32) {
	clear(block)
	var scales [superBlock / 16]float32
	var highest float32
	n, fitted := superBlock/t.group, 0
	for j := range n {
		g := &b.groups[j]
		if g.skip {
			continue
		}
		scales[j] = g.positive(fit(j))
		t.put(block, j, fitted, g)
		fitted++
		if !(highest > scales[j]) {
			highest = scales[j]
		}
	}
	if highest == 0 {
		// What was put stays where the type writes all eight signs.
		if t.parity {
			clear(block)
		}
		return
	}
	t.finish(block, scales[:n], highest)
}

// positive makes a negative scale, which the format cannot hold, positive.
func (g *latticeGroup) positive(scale float32) float32 {
	if !(scale < 0) {
		return scale
	}
	for k := range g.signs {
		g.signs[k] = ^g.signs[k]
	}
	return -scale
}

// at returns the index of the point that the cell at k was moved to.
func (g *latticeGroup) at(l *lattice, k int) int {
	key := 0
	for i := range l.cell {
		key |= int(g.levels[k+i]) << (i * l.bits)
	}
	return int(max(0, l.index[key]))
}

// scaleLevel quantizes a scale to l of top + 1 levels that stand for 2l + 1.
func scaleLevel(scale, inverse float32, top int32) uint8 {
	return uint8(max(0, min(top, nearestInt(float32(0.5*(float32(inverse*scale)-1))))))
}

// evenSigns completes seven sign bits so that the number of minuses is even.
func evenSigns(seven uint8) uint8 {
	parity := seven
	parity ^= parity >> 4
	parity ^= parity >> 2
	parity ^= parity >> 1
	return seven | parity<<7
}

// pointValues returns what the coordinates of each point stand for; beyond the
// cell there are zeros.
func pointValues(keys []uint16, cell, bits int, values []float32) [][8]float32 {
	l := lattice{cell: cell, bits: bits}
	out := make([][8]float32, len(keys))
	for i, key := range keys {
		at := l.coordinates(int(key))
		for k, c := range at[:cell] {
			out[i][k] = values[c]
		}
	}
	return out
}

// putEight and putFour write the weights of a cell: scale times its values,
// minus where the sign bit is set.
func putEight(dst []float32, values *[8]float32, scale float32, signs uint8) {
	dst = dst[:8]
	s := uint32(signs)
	dst[0] = signed(scale*values[0], s<<31)
	dst[1] = signed(scale*values[1], s>>1<<31)
	dst[2] = signed(scale*values[2], s>>2<<31)
	dst[3] = signed(scale*values[3], s>>3<<31)
	dst[4] = signed(scale*values[4], s>>4<<31)
	dst[5] = signed(scale*values[5], s>>5<<31)
	dst[6] = signed(scale*values[6], s>>6<<31)
	dst[7] = signed(scale*values[7], s>>7<<31)
}

func putFour(dst []float32, values *[8]float32, scale float32, signs uint8) {
	dst = dst[:4]
	s := uint32(signs)
	dst[0] = signed(scale*values[0], s<<31)
	dst[1] = signed(scale*values[1], s>>1<<31)
	dst[2] = signed(scale*values[2], s>>2<<31)
	dst[3] = signed(scale*values[3], s>>3<<31)
}

// signed flips the sign of v where sign has its highest bit set.
func signed(v float32, sign uint32) float32 {
	return math.Float32frombits(math.Float32bits(v) ^ sign)
}
