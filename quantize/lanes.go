//go:build (amd64 || arm64) && !purego

// Encoders over the kernels of internal/simd. They follow the plain encoders
// step by step: only the search and the packing of levels are done many
// sub-blocks at a time. Whatever the kernels are not made for goes to the
// plain code: super-blocks with values that are not finite, and sub-blocks
// whose scale rounds to zero, which keep the levels of their search.

package quantize

import (
	"sync"

	"github.com/modelpipe/modelpipe/quantize/internal/simd"
)

// batchBlocks is the number of super-blocks encoded together.
const batchBlocks = 8

// levelBatch is the number of weights whose codes a workspace holds.
const levelBatch = 2048

// workspace holds what an encoder needs for one batch. It is larger than 32
// KiB, so Go's allocator aligns it to a page and the kernels' loads to cache
// lines.
type workspace struct {
	x       [batchBlocks * superBlock]float32 // a batch that is not full, padded with zeros
	weights [batchBlocks * superBlock]float32 // of the errors, with importance
	lanesX  [32 * simd.MaxLanes]float32
	lanesW  [32 * simd.MaxLanes]float32
	lanesL  [32 * simd.MaxLanes]float32
	lanesQ  [80 * simd.MaxLanes]float32
	minimum simd.MinimumState
	scale   simd.ScaleState

	scaleOfScales simd.ScaleState
	positive      simd.PositiveState
	zeros         simd.Lanes

	// What the search found, by sub-block of the batch.
	scales, lows, sums [16 * simd.MaxLanes]float32
	failed             [batchBlocks]bool // super-blocks left to the plain encoder

	energies [batchBlocks]float32
	runs     [batchBlocks]*float32
	divisors [16]float32 // one per sixteen weights
	offsets  [16]float32
	levels   [superBlock]byte

	// By run of sixteen weights, and by weight, of up to levelBatch weights.
	peaks [levelBatch / 16]uint32
	codes [levelBatch]byte

	minimumBlock   minimumBlock
	symmetricBlock symmetricBlock
}

var workspaces = sync.Pool{New: func() any { return new(workspace) }}

// release gives the workspace back; it must not keep its caller's rows alive.
func (ws *workspace) release() {
	clear(ws.runs[:])
	workspaces.Put(ws)
}

// load takes the next batch off src: its weights, padded with zeros where
// there are fewer, and the number of super-blocks.
func (ws *workspace) load(src []float32) (x []float32, blocks int) {
	blocks = min(batchBlocks, len(src)/superBlock)
	if blocks == batchBlocks {
		return src[:batchBlocks*superBlock], blocks
	}
	n := copy(ws.x[:], src)
	clear(ws.x[n:])
	return ws.x[:], blocks
}

// sumSquares sets energies to the sums of squares of the batch's super-blocks.
func (ws *workspace) sumSquares(x []float32) {
	for i := range ws.runs {
		ws.runs[i] = &x[i*superBlock]
	}
	simd.SumSquares(&ws.energies, &ws.runs, superBlock)
}

// minimumEncoder encodes Q2_K, Q4_K or Q5_K.
type minimumEncoder struct {
	*minimumKind
	kernels *simd.Kernels
	search  func(x, w, l, s *float32, n int) // without importance
	pack    func(dst, levels *byte)
	packAt  int // where in the block
}

func (e *minimumEncoder) encode(dst []byte, src []float32, cols int, importance []float32) {
	ws := workspaces.Get().(*workspace)
	defer ws.release()
	s, size := e.plain, int(e.typ.BlockBytes())
	if importance != nil {
		s = weightedSteps
	}
	s.prepare(&ws.minimum, e.top)
	for at := 0; at < len(src); at += batchBlocks * superBlock {
		x, blocks := ws.load(src[at:])
		if importance != nil {
			ws.sumSquares(x)
			for i := range blocks {
				ws.energies[i] = float32(e.energyScale*ws.energies[i]) / superBlock
				e.kernels.Weigh(&ws.weights[i*superBlock], &importance[(at+i*superBlock)%cols], &x[i*superBlock], ws.energies[i], superBlock)
			}
		}
		e.searchBatch(ws, x, blocks, importance != nil)
		if importance != nil {
			e.searchScalesOfScales(ws)
		}
		for i := range blocks {
			block := (*[superBlock]float32)(x[i*superBlock:])
			var weights []float32
			if importance != nil {
				weights = importance[(at+i*superBlock)%cols:][:superBlock]
			}
			e.finishBatched(dst[:size], ws, block, i, weights)
			dst = dst[size:]
		}
	}
}

// prepare fills in what a search for scales and minimums is given.
func (s steps) prepare(state *simd.MinimumState, top int32) {
	for i := range state.Top {
		state.Top[i] = float32(top)
	}
	state.Steps = s.last + 1
	for i := range state.Steps {
		state.Numerators[i] = s.first + float32(s.delta*float32(i)) + float32(top)
	}
}

// searchBatch fits the sub-blocks of a batch.
func (e *minimumEncoder) searchBatch(ws *workspace, x []float32, blocks int, weighted bool) {
	k, n, s := e.kernels, e.length, &ws.minimum
	clear(ws.failed[:])
	perBlock := superBlock / n
	for j := 0; j < blocks*perBlock; j += k.Lanes {
		k.Transpose(&ws.lanesX[0], &x[j*n], n)
		if weighted {
			k.Transpose(&ws.lanesW[0], &ws.weights[j*n], n)
			k.SearchMinimumWeighted(&ws.lanesX[0], &ws.lanesW[0], &ws.lanesL[0], &s.Scale[0], n)
		} else {
			e.search(&ws.lanesX[0], &ws.lanesW[0], &ws.lanesL[0], &s.Scale[0], n)
		}
		copy(ws.scales[j:], s.Scale[:k.Lanes])
		copy(ws.lows[j:], s.Low[:k.Lanes])
		copy(ws.sums[j:], s.Sums[:k.Lanes])
		for i, worst := range s.Worst[:k.Lanes] {
			if !(worst < simd.Limit) {
				ws.failed[(j+i)/perBlock] = true
			}
		}
	}
}

// preparePositive fills in what a search for positive scales is given.
func preparePositive(state *simd.PositiveState, top int32) {
	for i := range state.Top {
		state.Top[i] = float32(top)
	}
	trial := 0
	for step := -4; step <= 4; step++ {
		if step != 0 {
			state.Numerators[trial] = float32(0.1*float32(step)) + float32(top)
			trial++
		}
	}
}

// searchScalesOfScales fits the scales of a batch's super-blocks to the scales
// and minimums of their sub-blocks: lane i has the scales of super-block i, and
// lane batchBlocks + i its minimums. The levels stay in the workspace's lanesL.
func (e *minimumEncoder) searchScalesOfScales(ws *workspace) {
	s, lanes, perBlock := &ws.positive, e.kernels.Lanes, superBlock/e.length
	for j := range perBlock {
		x, w := ws.lanesX[j*lanes:][:lanes], ws.lanesW[j*lanes:][:lanes]
		for i := range batchBlocks {
			sub := i*perBlock + j
			x[i], x[batchBlocks+i] = ws.scales[sub], -ws.lows[sub]
			w[i], w[batchBlocks+i] = ws.sums[sub], ws.sums[sub]
		}
		clear(x[2*batchBlocks:])
		clear(w[2*batchBlocks:])
	}
	preparePositive(s, e.scaleTop)
	e.kernels.SearchPositive(&ws.lanesX[0], &ws.lanesW[0], &ws.lanesL[0], &s.Scale[0], perBlock)
	for i := range batchBlocks {
		if !(s.Worst[i] < simd.Limit && s.Worst[batchBlocks+i] < simd.Limit) {
			ws.failed[i] = true
		}
	}
}

// finishBatched writes super-block i of the batch.
func (e *minimumEncoder) finishBatched(dst []byte, ws *workspace, x *[superBlock]float32, i int, importance []float32) {
	b, n := &ws.minimumBlock, e.length
	perBlock := superBlock / n
	if ws.failed[i] {
		if importance == nil {
			e.minimumKind.search(b, x, 0, perBlock)
		} else {
			e.searchWeighted(b, x, importance)
		}
		e.finish(dst, b, x, importance != nil)
		return
	}
	first := i * perBlock
	copy(b.scales[:], ws.scales[first:][:perBlock])
	copy(b.sums[:], ws.sums[first:][:perBlock])
	for j, low := range ws.lows[first:][:perBlock] {
		b.minimums[j] = -low
	}
	var d, dmin float32
	if importance == nil {
		d, dmin = e.spread(b.scales[:perBlock], &b.scaleLevels), e.spread(b.minimums[:perBlock], &b.minimumLevels)
	} else {
		d, dmin = ws.positive.Scale[i], ws.positive.Scale[batchBlocks+i]
		for j := range perBlock {
			row := ws.lanesL[j*e.kernels.Lanes:]
			b.scaleLevels[j], b.minimumLevels[j] = uint8(row[i]), uint8(row[batchBlocks+i])
		}
	}
	d, dmin = e.writeScales(dst, b, d, dmin, importance != nil)
	whole := true
	for j := range perBlock {
		scaleLevel, minimumLevel := e.scaleLevels(dst, j)
		scale, minimum := d*float32(scaleLevel), dmin*float32(minimumLevel)
		for run := j * n / 16; run < (j+1)*n/16; run++ {
			ws.divisors[run], ws.offsets[run] = scale, minimum
		}
		if scale != 0 {
			continue
		}
		whole = false
		if importance == nil {
			e.minimumKind.search(b, x, j, j+1)
		} else {
			e.searchWeightedAt(b, x, importance, ws.energies[i], j)
		}
	}
	if !whole {
		e.requantize(dst, b, x, d, dmin)
		e.minimumKind.pack(dst, &b.levels)
		return
	}
	e.kernels.DivideLevels(&ws.levels[0], &x[0], &ws.divisors[0], &ws.offsets[0], 16, 0, e.top, 0)
	e.pack(&dst[e.packAt], &ws.levels[0])
}

// scaleEncoder encodes the types that have a scale only.
type scaleEncoder struct{ *simd.Kernels }

// prepareScale fills in what a search for scales is given.
func prepareScale(state *simd.ScaleState, top int32) {
	if state.High[0] == float32(top-1) {
		return
	}
	for i := range state.Low {
		state.Low[i], state.High[i] = float32(-top), float32(top-1)
	}
	trial := 0
	for step := -9; step <= 9; step++ {
		if step != 0 {
			state.Numerators[trial] = -(float32(top) + float32(0.1*float32(step)))
			trial++
		}
	}
}

// search is how scaleEncoder fits sub-blocks.
type search int

const (
	bySquare search = iota // searchScale without importance
	weighted               // searchScale with the workspace's weights
	refined                // refineScale
)

// searchBatch fits the sub-blocks of a batch, of sixteen weights each.
func (e scaleEncoder) searchBatch(ws *workspace, x []float32, blocks int, how search) {
	s := &ws.scale
	clear(ws.failed[:])
	for j := 0; j < blocks*16; j += e.Lanes {
		e.Transpose(&ws.lanesX[0], &x[j*16], 16)
		switch how {
		case bySquare:
			e.SearchScaleBySquare(&ws.lanesX[0], &ws.lanesW[0], &ws.lanesL[0], &s.Scale[0], 16, 2)
		case weighted:
			e.Transpose(&ws.lanesW[0], &ws.weights[j*16], 16)
			e.SearchScaleWeighted(&ws.lanesX[0], &ws.lanesW[0], &ws.lanesL[0], &s.Scale[0], 16, 2)
		case refined:
			e.RefineScale(&ws.lanesX[0], &ws.lanesW[0], &ws.lanesL[0], &ws.lanesQ[0], &s.Scale[0])
		}
		copy(ws.scales[j:], s.Scale[:e.Lanes])
		copy(ws.sums[j:], s.Sums[:e.Lanes])
		for i, worst := range s.Worst[:e.Lanes] {
			if !(worst < simd.Limit) {
				ws.failed[(j+i)/16] = true
			}
		}
	}
}

func (e scaleEncoder) encodeQ3_K(dst []byte, src []float32, cols int, importance []float32) {
	ws := workspaces.Get().(*workspace)
	defer ws.release()
	for at := 0; at < len(src); at += batchBlocks * superBlock {
		x, blocks := ws.load(src[at:])
		how := refined
		if importance != nil {
			how = weighted
			ws.sumSquares(x)
			for i := range blocks {
				ws.energies[i] = float32(2*ws.energies[i]) / superBlock
				e.Weigh(&ws.weights[i*superBlock], &importance[(at+i*superBlock)%cols], &x[i*superBlock], ws.energies[i], superBlock)
			}
		}
		prepareScale(&ws.scale, 4)
		e.searchBatch(ws, x, blocks, how)
		if importance != nil {
			e.searchScalesOfScales(ws)
		}
		for i := range blocks {
			var weights []float32
			if importance != nil {
				weights = importance[(at+i*superBlock)%cols:][:superBlock]
			}
			e.finishQ3_K(dst[:sizeQ3_K], ws, (*[superBlock]float32)(x[i*superBlock:]), i, weights)
			dst = dst[sizeQ3_K:]
		}
	}
}

// searchScalesOfScales fits the scales of a batch's super-blocks to the scales
// of their sub-blocks, one super-block per lane.
func (e scaleEncoder) searchScalesOfScales(ws *workspace) {
	e.Transpose(&ws.lanesX[0], &ws.scales[0], 16)
	e.Transpose(&ws.lanesW[0], &ws.sums[0], 16)
	prepareScale(&ws.scaleOfScales, 32)
	e.SearchScaleWeighted(&ws.lanesX[0], &ws.lanesW[0], &ws.lanesL[0], &ws.scaleOfScales.Scale[0], 16, 1)
	for i, worst := range ws.scaleOfScales.Worst[:batchBlocks] {
		if !(worst < simd.Limit) {
			ws.failed[i] = true
		}
	}
}

// finishQ3_K writes super-block i of the batch.
func (e scaleEncoder) finishQ3_K(dst []byte, ws *workspace, x *[superBlock]float32, i int, importance []float32) {
	if ws.failed[i] {
		encodeQ3_K(dst, x[:], superBlock, importance)
		return
	}
	b := &ws.symmetricBlock
	scales := (*[16]float32)(ws.scales[i*16:])
	var d float32
	if importance == nil {
		b.scales = *scales
		d = b.spreadQ3_K()
	} else {
		d = ws.scaleOfScales.Scale[i]
		clear(b.scaleLevels[:])
		if inverse := ws.scaleOfScales.Inverse[i]; inverse != 0 {
			for j, scale := range scales {
				b.scaleLevels[j] = int8(32 + max(-32, min(31, nearestInt(float32(inverse*scale)))))
			}
		}
	}
	d = b.writeScalesQ3_K(dst, d)
	whole := true
	for j, level := range b.scaleLevels {
		scale := d * float32(level-32)
		ws.divisors[j], ws.offsets[j] = scale, 0
		if scale != 0 {
			continue
		}
		whole = false
		if importance != nil {
			searchWeightedQ3_K(b, x, importance, ws.energies[i], j)
		} else {
			refineScale(4, x[16*j:][:16], b.levels[16*j:])
		}
	}
	if !whole {
		b.writeQ3_K(dst, x, d)
		return
	}
	e.DivideLevels(&ws.levels[0], &x[0], &ws.divisors[0], &ws.offsets[0], 16, -4, 3, 4)
	simd.PackThrees(&dst[0], &ws.levels[0])
}

func (e scaleEncoder) encodeQ6_K(dst []byte, src []float32, cols int, importance []float32) {
	ws := workspaces.Get().(*workspace)
	defer ws.release()
	prepareScale(&ws.scale, 32)
	for at := 0; at < len(src); at += batchBlocks * superBlock {
		x, blocks := ws.load(src[at:])
		how := bySquare
		if importance != nil {
			how = weighted
			for i := range blocks {
				copy(ws.weights[i*superBlock:][:superBlock], importance[(at+i*superBlock)%cols:])
			}
		}
		e.searchBatch(ws, x, blocks, how)
		for i := range blocks {
			var weights []float32
			if importance != nil {
				weights = ws.weights[i*superBlock:][:superBlock]
			}
			e.finishQ6_K(dst[:sizeQ6_K], ws, (*[superBlock]float32)(x[i*superBlock:]), i, weights)
			dst = dst[sizeQ6_K:]
		}
	}
}

// finishQ6_K writes super-block i of the batch.
func (e scaleEncoder) finishQ6_K(dst []byte, ws *workspace, x *[superBlock]float32, i int, weights []float32) {
	if ws.failed[i] {
		encodeQ6_K(dst, x[:], superBlock, weights)
		return
	}
	b := &ws.symmetricBlock
	copy(b.scales[:], ws.scales[i*16:])
	d, ok := writeScalesQ6_K(dst, b)
	if !ok {
		clear(dst)
		return
	}
	whole := true
	for j := range 16 {
		scale := d * float32(int8(dst[192+j]))
		ws.divisors[j], ws.offsets[j] = scale, 0
		if scale != 0 {
			continue
		}
		whole = false
		var w []float32
		if weights != nil {
			w = weights[16*j:][:16]
		}
		searchScale(32, x[16*j:][:16], b.levels[16*j:], w)
	}
	if !whole {
		finishQ6_K(dst, b, x)
		return
	}
	e.DivideLevels(&ws.levels[0], &x[0], &ws.divisors[0], &ws.offsets[0], 16, -32, 31, 32)
	simd.PackSixes(&dst[0], &ws.levels[0])
}
