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

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(Codec{Type: gguf.IQ1_S, Encode: encodeIQ1_S, Decode: decodeIQ1_S, NeedsImportance: true})
	register(Codec{Type: gguf.IQ1_M, Encode: encodeIQ1_M, Decode: decodeIQ1_M})
}

const (
	sizeIQ1_S = 50
	sizeIQ1_M = 56

	negligibleIQ1_S = 1e-12 // GROUP_MAX_EPS_IQ1_S
	negligibleIQ1_M = 1e-7  // GROUP_MAX_EPS_IQ1_M
)

// The coordinates' values when they are moved up or down.
var movedIQ1 = [2][3]float32{{-0.875, 0.125, 1.125}, {-1.125, -0.125, 0.875}}

const (
	movedUp   = 0
	movedDown = 1
)

// ternary is a group of 16 or 32 weights on its way.
type ternary struct {
	size   int
	weight [32]float32
	order  [32]uint8 // of the weights by value, equal ones as they stand
	levels [32]int8  // coordinates: 0, 1, 2
	points [4]int
}

// load sorts a group; it returns the largest magnitude.
func (g *ternary) load(x []float32) float32 {
	g.size = len(x)
	largest := absolute(x[0])
	for i, v := range x {
		if a := absolute(v); !(largest > a) {
			largest = a
		}
		j := i
		for ; j > 0 && v < x[g.order[j-1]]; j-- {
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
	for j, i := range g.order[:g.size] {
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
// coordinates. Where a cell was moved it returns the scale that fits best now.
func (g *ternary) settle(l *lattice, x []float32, values func(cell int) *[3]float32, scale float32) float32 {
	moved := false
	for k := range g.size / 8 {
		i, on := g.nearest(l, x[8*k:][:8], k, values(k), scale)
		g.points[k] = i
		moved = moved || !on
	}
	if !moved {
		return scale
	}
	var sumqx, sumq2 float32
	for k := range g.size / 8 {
		table := values(k)
		for i, c := range l.points[g.points[k]] {
			w, q := g.weight[8*k+i], table[c]
			sumqx += float32(float32(w*q) * x[8*k+i])
			sumq2 += float32(float32(w*q) * q)
		}
	}
	if sumqx > 0 && sumq2 > 0 {
		return sumqx / sumq2
	}
	return scale
}

// nearest returns the point of a cell and whether the cell was on it
// (iq1_find_best_neighbour2).
func (g *ternary) nearest(l *lattice, x []float32, k int, values *[3]float32, scale float32) (int, bool) {
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
			diff := float32(scale*values[c]) - x[i]
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
func (g *ternary) searchIQ1_S(x []float32) (thresholds, bool) {
	var sumx, sumw [33]float32
	for j, i := range g.order[:g.size] {
		sumx[j+1] = sumx[j] + float32(g.weight[i]*x[i])
		sumw[j+1] = sumw[j] + g.weight[i]
	}
	n := g.size
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

func encodeIQ1_S(dst []byte, src []float32, cols int, importance []float32) {
	l := latticeIQ1()
	for at := 0; at < len(src); at += superBlock {
		x, block := src[at:][:superBlock], dst[:sizeIQ1_S]
		dst = dst[sizeIQ1_S:]
		clear(block)
		energy := float32(2*sumSquares(x)) / superBlock
		var scales [8]float32
		var codes [8]uint16
		var highest float32
		for j := range scales {
			var g ternary
			sub := x[32*j:][:32]
			weigh(g.weight[:], importance[at%cols+32*j:][:32], sub, energy)
			if g.load(sub) < negligibleIQ1_S {
				continue
			}
			t, ok := g.searchIQ1_S(sub)
			if !ok {
				continue
			}
			if t.scale < 0 {
				t.scale, t.move = -t.scale, 1-t.move
				g.split(t.low, t.high, true)
			} else {
				g.split(t.low, t.high, false)
			}
			scales[j] = g.settle(l, sub, func(int) *[3]float32 { return &movedIQ1[t.move] }, t.scale)
			codes[j] = uint16(t.move) << 15
			for k, p := range g.points {
				block[2+4*j+k] = uint8(p)
				codes[j] |= uint16(p>>8) << (3 * k)
			}
			if !(highest > scales[j]) {
				highest = scales[j]
			}
		}
		var inverse float32
		if highest != 0 {
			d := highest / 15
			binary.LittleEndian.PutUint16(block, halfBits(float32(d*1.125)))
			inverse = 1 / d
		}
		for j, code := range codes {
			if highest == 0 {
				code &= 0xfff
			}
			code |= uint16(scaleLevel(scales[j], inverse, 7)) << 12
			binary.LittleEndian.PutUint16(block[34+2*j:], code)
		}
	}
}

func decodeIQ1_S(dst []float32, src []byte) {
	l := latticeIQ1()
	for ; len(src) > 0; src = src[sizeIQ1_S:] {
		d := halfValue(binary.LittleEndian.Uint16(src))
		for j := range 8 {
			code := binary.LittleEndian.Uint16(src[34+2*j:])
			scale := float32(d * float32(2*(code>>12&7)+1))
			for k := range 4 {
				point := int(src[2+4*j+k]) | int(code>>(3*k)&7)<<8
				putMoved(dst[:8], &l.points[point], &movedIQ1[code>>15], scale)
				dst = dst[8:]
			}
		}
	}
}

func putMoved(dst []float32, point *[8]int8, values *[3]float32, scale float32) {
	for i, c := range point {
		dst[i] = float32(scale * values[c])
	}
}

// searchIQ1_M tries all pairs of thresholds with every pair of moves, one for
// each half of the group (quantize_row_iq1_m_impl). Neighbouring values differ
// by 1 in both moves, so the sum of weight * value over three groups is that of
// the highest value for all, less the sums below the two thresholds.
func (g *ternary) searchIQ1_M(x []float32) (thresholds, bool) {
	const n = 16
	var px, pw [2][n + 1]float32 // prefix sums of each half
	for j, i := range g.order[:n] {
		h := int(i) / 8
		px[h][j+1] = px[h][j] + float32(g.weight[i]*x[i])
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

// encodeIQ1_M is quantize_row_iq1_m_impl (ggml-quants.c).
func encodeIQ1_M(dst []byte, src []float32, cols int, importance []float32) {
	l := latticeIQ1()
	for at := 0; at < len(src); at += superBlock {
		x, block := src[at:][:superBlock], dst[:sizeIQ1_M]
		dst = dst[sizeIQ1_M:]
		clear(block)
		energy := float32(2*sumSquares(x)) / superBlock
		var groups [16]ternary
		var scales [16]float32
		var pairs [16]int
		var highest float32
		for j := range scales {
			g := &groups[j]
			sub := x[16*j:][:16]
			weighIQ3(g.weight[:16], part(importance, at%cols+16*j, 16), sub, energy)
			if g.load(sub) < negligibleIQ1_M {
				continue
			}
			t, ok := g.searchIQ1_M(sub)
			if !ok {
				continue
			}
			if t.scale < 0 {
				t.scale, t.move = -t.scale, 3-t.move
				g.split(t.low, t.high, true)
			} else {
				g.split(t.low, t.high, false)
			}
			pairs[j] = t.move
			scales[j] = g.settle(l, sub, func(half int) *[3]float32 { return pairMoves(t.move, half) }, t.scale)
			block[2*j], block[2*j+1] = uint8(g.points[0]), uint8(g.points[1])
			block[32+j] = uint8(g.points[0]>>8) | uint8(g.points[1]>>8)<<4
			if !(highest > scales[j]) {
				highest = scales[j]
			}
		}
		if highest == 0 {
			continue
		}
		d := highest / 15
		inverse := 1 / d
		var packed [4]uint16
		var sumqx, sumq2 float32
		for j := range scales {
			level := scaleLevel(scales[j], inverse, 7)
			packed[j/4] |= uint16(level) << (3 * (j % 4))
			block[32+j] |= uint8(pairs[j]>>1)<<3 | uint8(pairs[j]&1)<<7
			for k := range 2 {
				values := pairMoves(pairs[j], k)
				for i, c := range l.points[groups[j].points[k]] {
					w := groups[j].weight[8*k+i]
					q := float32(values[c] * float32(2*level+1))
					sumqx += float32(float32(w*q) * x[16*j+8*k+i])
					sumq2 += float32(float32(w*q) * q)
				}
			}
		}
		if sumq2 > 0 {
			d = sumqx / sumq2
		}
		half := halfBits(float32(d * 1.1125))
		for i := range packed {
			packed[i] |= half >> (4 * i) & 15 << 12
			binary.LittleEndian.PutUint16(block[48+2*i:], packed[i])
		}
	}
}

func decodeIQ1_M(dst []float32, src []byte) {
	l := latticeIQ1()
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
				putMoved(dst[:8], &l.points[point], &movedIQ1[high>>3&1], scale)
				dst = dst[8:]
			}
		}
	}
}
