// IQ1_S and IQ1_M: super-blocks of 256 weights in cells of eight, each a point
// of a lattice with the coordinates -1, 0 and 1, all moved by plus or minus
// 1/8. weight = d * (1 + 2 scale) * (coordinate +- 1/8).
//
//	IQ1_S  d binary16, points [32]uint8 (low bits), qh [8]uint16: per 32
//	       weights four times three high bits, the scale in three bits, and
//	       the sign of the move
//	IQ1_M  points [32]uint8 (low bits), qh [16]uint8: per 16 weights two times
//	       three high bits and the sign of the move; scales [4]uint16: four
//	       times three bits per 16 weights, and four bits of d
//
// The coordinates are found exactly but for the lattice: of three values the
// best two thresholds are among the sorted weights.

package quantize

import (
	"encoding/binary"
	"math"
	"sync"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(Codec{Type: gguf.IQ1_S, Encode: typeIQ1_S.encode, Decode: decodeIQ1_S, NeedsImportance: true})
	register(Codec{Type: gguf.IQ1_M, Encode: typeIQ1_M.encode, Decode: decodeIQ1_M})
}

const (
	sizeIQ1_S = 50
	sizeIQ1_M = 56

	negligibleIQ1_S = 1e-12 // GROUP_MAX_EPS_IQ1_S
	negligibleIQ1_M = 1e-7  // GROUP_MAX_EPS_IQ1_M
)

// The coordinates' values when they are moved up, and when they are moved down.
var movedIQ1 = [2][3]float32{{-0.875, 0.125, 1.125}, {-1.125, -0.125, 0.875}}

// What the points stand for under each move.
var valuesIQ1 = sync.OnceValue(func() (values [2][][8]float32) {
	for move := range values {
		values[move] = pointValues(pointsIQ1[:], 8, 2, movedIQ1[move][:])
	}
	return values
})

// ternary is a group of 16 or 32 weights on its way.
type ternary struct {
	x, weight []float32 // weight of the error
	order     [32]uint8 // of the weights by value, equal ones as they stand
	levels    [32]int8  // coordinates: 0, 1, 2

	// What was found. A group that is not fitted has the scale 0.
	fitted bool
	points [4]int
	move   int
	scale  float32
}

// begin takes the values of a group.
func (g *ternary) begin(x, weight []float32) {
	*g = ternary{x: x, weight: weight}
}

// sort orders a group; it returns the largest magnitude.
func (g *ternary) sort() float32 {
	largest := absolute(g.x[0])
	for i, v := range g.x {
		if a := absolute(v); !(largest > a) {
			largest = a
		}
		j := i
		for ; j > 0 && v < g.x[g.order[j-1]]; j-- {
			g.order[j] = g.order[j-1]
		}
		g.order[j] = uint8(i)
	}
	return largest
}

// split gives the weights their coordinates: 0 to the first low of the sorted,
// 1 to those before high, 2 to the others; reversed where the scale is
// negative.
func (g *ternary) split(low, high int, reversed bool) {
	for j, i := range g.order[:len(g.x)] {
		level := int8(2)
		if j < low {
			level = 0
		} else if j < high {
			level = 1
		}
		if reversed {
			level = 2 - level
		}
		g.levels[i] = level
	}
}

// settle takes each cell to a point of the lattice; values are those of its
// coordinates. Where a cell was moved it sets the scale that fits best now.
func (g *ternary) settle(l *lattice, values func(move, cell int) *[3]float32) {
	moved := false
	for k := range len(g.x) / 8 {
		i, on := g.nearest(l, k, values(g.move, k))
		g.points[k] = i
		moved = moved || !on
	}
	if moved {
		g.refit(l, values)
	}
}

// refit sets the scale that fits the points best.
func (g *ternary) refit(l *lattice, values func(move, cell int) *[3]float32) {
	var sumqx, sumq2 float32
	for k := range len(g.x) / 8 {
		table, x, weight := values(g.move, k), g.x[8*k:][:8], g.weight[8*k:][:8]
		for i, c := range l.points[g.points[k]] {
			w, q := weight[i], table[c]
			sumqx += float32(float32(w*q) * x[i])
			sumq2 += float32(float32(w*q) * q)
		}
	}
	if sumqx > 0 && sumq2 > 0 {
		g.scale = sumqx / sumq2
	}
}

// nearest returns the point of a cell and whether the cell was on it
// (iq1_find_best_neighbour2).
func (g *ternary) nearest(l *lattice, k int, values *[3]float32) (int, bool) {
	key := 0
	for i := range 8 {
		key |= int(g.levels[8*k+i]) << (2 * i)
	}
	if i := l.index[key]; i >= 0 {
		return int(i), true
	}
	near := l.near[-1-l.index[key]]
	best, chosen := float32(math.MaxFloat32), near[0]
	for _, p := range near {
		var loss float32
		for i, c := range l.points[p] {
			diff := float32(g.scale*values[c]) - g.x[8*k+i]
			loss += float32(float32(g.weight[8*k+i]*diff) * diff)
		}
		if loss < best {
			best, chosen = loss, p
		}
	}
	return int(chosen), false
}

// thresholds are two places in the sorted weights and what they give.
type thresholds struct {
	low, high int
	move      int // index of the move, or of the pair of moves
	scale     float32
}

// better is the running best of a search: it maximises sumqx^2 / sumq2.
type better struct {
	thresholds
	score float32
	found bool
}

func (b *better) offer(sumqx, sumq2 float32, low, high, move int) {
	if sumq2 > 0 && float32(sumqx*sumqx) > float32(b.score*sumq2) {
		scale := sumqx / sumq2
		b.thresholds = thresholds{low, high, move, scale}
		b.score = float32(scale * sumqx)
		b.found = true
	}
}

// searchIQ1_S tries all pairs of thresholds with both moves
// (quantize_row_iq1_s_impl).
func (g *ternary) searchIQ1_S() (thresholds, bool) {
	var sumx, sumw [33]float32
	for j, i := range g.order {
		sumx[j+1] = sumx[j] + float32(g.weight[i]*g.x[i])
		sumw[j+1] = sumw[j] + g.weight[i]
	}
	const n = 32
	best := better{score: -math.MaxFloat32}
	for low := 0; low <= n; low++ {
		for high := low; high <= n; high++ {
			x0, x1, x2 := sumx[low]-sumx[0], sumx[high]-sumx[low], sumx[n]-sumx[high]
			w0, w1, w2 := sumw[low]-sumw[0], sumw[high]-sumw[low], sumw[n]-sumw[high]
			for move, v := range &movedIQ1 {
				sumqx := float32(x0*v[0]) + float32(x1*v[1]) + float32(x2*v[2])
				sumq2 := float32(float32(w0*v[0])*v[0]) + float32(float32(w1*v[1])*v[1]) + float32(float32(w2*v[2])*v[2])
				best.offer(sumqx, sumq2, low, high, move)
			}
		}
	}
	return best.thresholds, best.found
}

// ternaryType is what the two types differ in.
type ternaryType struct {
	typ   gguf.Type
	group int     // weights under a scale: 16 or 32
	least float32 // groups whose largest magnitude is below have the scale 0
	moves int     // number of moves, or of pairs of moves

	search func(g *ternary) (thresholds, bool)
	values func(move, cell int) *[3]float32 // of the coordinates in a cell
	write  func(block []byte, l *lattice, groups []ternary)
}

func (t *ternaryType) encode(dst []byte, src []float32, cols int, importance []float32) {
	l, size := latticeIQ1(), int(t.typ.BlockBytes())
	var weights [superBlock]float32
	var groups [superBlock / 16]ternary
	for at := 0; at < len(src); at += superBlock {
		x := src[at:][:superBlock]
		weighIQ3(weights[:], part(importance, at%cols, superBlock), x, float32(2*sumSquares(x))/superBlock)
		n := superBlock / t.group
		for j := range groups[:n] {
			g := &groups[j]
			g.begin(x[j*t.group:][:t.group], weights[j*t.group:][:t.group])
			if !(g.sort() < t.least) {
				t.fit(l, g)
			}
		}
		t.write(dst[:size], l, groups[:n])
		dst = dst[size:]
	}
}

// fit finds the points of a sorted group.
func (t *ternaryType) fit(l *lattice, g *ternary) {
	if best, ok := t.search(g); ok {
		reversed := t.begin(g, best)
		g.split(best.low, best.high, reversed)
		g.settle(l, t.values)
	}
}

// begin takes scale and move from the thresholds. A negative scale, which the
// format cannot hold, is made positive: then the levels are reversed.
func (t *ternaryType) begin(g *ternary, best thresholds) (reversed bool) {
	g.fitted, g.scale, g.move = true, best.scale, best.move
	if g.scale < 0 {
		g.scale, g.move = -g.scale, t.moves-1-g.move
		return true
	}
	return false
}

// highestScale returns the largest scale of the groups.
func highestScale(groups []ternary) (highest float32) {
	for i := range groups {
		if g := &groups[i]; g.fitted && !(highest > g.scale) {
			highest = g.scale
		}
	}
	return highest
}

// typeIQ1_S is quantize_row_iq1_s_impl (ggml-quants.c).
var typeIQ1_S = &ternaryType{
	typ: gguf.IQ1_S, group: 32, least: negligibleIQ1_S, moves: 2,
	search: (*ternary).searchIQ1_S,
	values: func(move, _ int) *[3]float32 { return &movedIQ1[move] },
	write:  writeIQ1_S,
}

func writeIQ1_S(block []byte, _ *lattice, groups []ternary) {
	clear(block)
	highest := highestScale(groups)
	var inverse float32
	if highest != 0 {
		d := highest / 15
		binary.LittleEndian.PutUint16(block, scaleBits(float32(d*1.125)))
		inverse = 1 / d
	}
	for j := range groups {
		g := &groups[j]
		var code uint16
		for k, p := range g.points {
			block[2+4*j+k] = uint8(p)
			code |= uint16(p>>8) << (3 * k)
		}
		if highest != 0 {
			code |= uint16(g.move) << 15
		}
		code |= uint16(scaleLevel(g.scale, inverse, 7)) << 12
		binary.LittleEndian.PutUint16(block[34+2*j:], code)
	}
}

func decodeIQ1_S(dst []float32, src []byte) {
	values := valuesIQ1()
	for ; len(src) > 0; src = src[sizeIQ1_S:] {
		d := halfValue(binary.LittleEndian.Uint16(src))
		for j := range 8 {
			code := binary.LittleEndian.Uint16(src[34+2*j:])
			scale := float32(d * float32(2*(code>>12&7)+1))
			for k := range 4 {
				point := int(src[2+4*j+k]) | int(code>>(3*k)&7)<<8
				putEight(dst, &values[code>>15][point], scale, 0)
				dst = dst[8:]
			}
		}
	}
}

// searchIQ1_M tries all pairs of thresholds with every pair of moves, one for
// each half of the group (quantize_row_iq1_m_impl). Neighbouring values differ
// by 1 in both moves, so the sum of weight * value over three groups is that of
// the highest value for all, less the sums below the two thresholds.
func (g *ternary) searchIQ1_M() (thresholds, bool) {
	const n = 16
	var px, pw [2][n + 1]float32 // prefix sums of each half
	for j, i := range g.order[:n] {
		h := int(i) / 8
		px[h][j+1] = px[h][j] + float32(g.weight[i]*g.x[i])
		pw[h][j+1] = pw[h][j] + g.weight[i]
		px[1-h][j+1] = px[1-h][j]
		pw[1-h][j+1] = pw[1-h][j]
	}
	best := better{score: -math.MaxFloat32}
	for low := 0; low <= n; low++ {
		for high := low; high <= n; high++ {
			var qx, q2 [2][2]float32 // by half and move
			for h := range 2 {
				below := px[h][low] + px[h][high]
				for move, v := range &movedIQ1 {
					top := v[2]
					first, second := v[0]*v[0]-v[1]*v[1], v[1]*v[1]-v[2]*v[2] // exact
					qx[h][move] = float32(px[h][n]*top) - below
					q2[h][move] = float32(float32(pw[h][n]*top)*top) + float32(pw[h][low]*first) + float32(pw[h][high]*second)
				}
			}
			for pair := range 4 {
				a, b := pair>>1, pair&1
				best.offer(qx[0][a]+qx[1][b], q2[0][a]+q2[1][b], low, high, pair)
			}
		}
	}
	return best.thresholds, best.found
}

// pairMoves returns the values of the coordinates in a half under a pair of
// moves.
func pairMoves(pair, half int) *[3]float32 { return &movedIQ1[pair>>(1-half)&1] }

// typeIQ1_M is quantize_row_iq1_m_impl (ggml-quants.c).
var typeIQ1_M = &ternaryType{
	typ: gguf.IQ1_M, group: 16, least: negligibleIQ1_M, moves: 4,
	search: (*ternary).searchIQ1_M,
	values: pairMoves,
	write:  writeIQ1_M,
}

// writeIQ1_M also fits the scale of the super-block anew to all that was found.
func writeIQ1_M(block []byte, l *lattice, groups []ternary) {
	clear(block)
	for j := range groups {
		g := &groups[j]
		block[2*j], block[2*j+1] = uint8(g.points[0]), uint8(g.points[1])
		block[32+j] = uint8(g.points[0]>>8) | uint8(g.points[1]>>8)<<4
	}
	highest := highestScale(groups)
	if highest == 0 {
		return
	}
	d := highest / 15
	inverse := 1 / d
	var packed [4]uint16
	var sumqx, sumq2 float32
	for j := range groups {
		g := &groups[j]
		level := scaleLevel(g.scale, inverse, 7)
		packed[j/4] |= uint16(level) << (3 * (j % 4))
		block[32+j] |= uint8(g.move>>1)<<3 | uint8(g.move&1)<<7
		for k := range 2 {
			values, x, weight := *pairMoves(g.move, k), g.x[8*k:][:8], g.weight[8*k:][:8]
			for i := range values {
				values[i] *= float32(2*level + 1)
			}
			for i, c := range l.points[g.points[k]] {
				w, q := weight[i], values[c]
				sumqx += float32(float32(w*q) * x[i])
				sumq2 += float32(float32(w*q) * q)
			}
		}
	}
	if sumq2 > 0 {
		d = sumqx / sumq2
	}
	half := scaleBits(float32(d * 1.1125))
	for i := range packed {
		packed[i] |= half >> (4 * i) & 15 << 12
		binary.LittleEndian.PutUint16(block[48+2*i:], packed[i])
	}
}

func decodeIQ1_M(dst []float32, src []byte) {
	values := valuesIQ1()
	for ; len(src) > 0; src = src[sizeIQ1_M:] {
		var packed [4]uint16
		var half uint16
		for i := range packed {
			packed[i] = binary.LittleEndian.Uint16(src[48+2*i:])
			half |= packed[i] >> 12 << (4 * i)
		}
		d := halfValue(half)
		for j := range 16 {
			level := packed[j/4] >> (3 * (j % 4)) & 7
			scale := float32(d * float32(2*level+1))
			for k := range 2 {
				high := src[32+j] >> (4 * k)
				point := int(src[2*j+k]) | int(high&7)<<8
				putEight(dst, &values[high>>3&1][point], scale, 0)
				dst = dst[8:]
			}
		}
	}
}
