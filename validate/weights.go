package validate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/quantize"
)

// A file that was quantized and nothing else differs from its source by
// rounding: every block of every row is off by about as much as the type's own
// encoder would be off on the same numbers, and what it is off by has no
// direction. What was trained into the weights, copied to a wrong place or
// damaged is off by more somewhere, or has one.
//
// For each tensor three figures are taken:
//
//   - of every row, the mean squared error relative to the row's own energy,
//     which finds rows that are unlike the others;
//   - of the rows that stand out most and of an even sample, block by block,
//     the error divided by that of the type's encoder on the source's numbers;
//   - of the same rows' errors, each row scaled to one, the share of their
//     energy in one direction, divided by that of the encoder's errors.
const (
	sampleRows  = 192     // of a tensor, evenly spread
	suspectRows = 64      // of a tensor, those with the largest relative error
	maxSample   = 2 << 20 // numbers of a tensor that are looked at closely
	tileNumbers = 1 << 18 // read at a time
	powerSteps  = 12      // of the power iteration
)

// limits are the largest ratios that pass (docs/validate.md has what was
// measured).
type limits struct{ row, block, direction float64 }

var (
	// known is for files whose encoder is known, importance matrix and all: it
	// is the type's own, or another one that is about as good.
	known = limits{row: 4, block: 12, direction: 4}
	// weighed is for files that state an importance matrix which is not at
	// hand: where columns matter less their errors are larger.
	weighed = limits{row: 12, block: 24, direction: 12}
)

// WeightsResult says whether the difference between both sides' weights is
// spread as rounding is.
type WeightsResult struct {
	OK         bool           `json:"ok"`
	Tensors    []TensorResult `json:"tensors"`
	Suspicious []string       `json:"suspicious,omitempty"`
	NotJudged  []string       `json:"not_judged,omitempty"`
	// Imatrix says which importance matrix the file was expected to be made
	// with: "none", "given", or "unknown" where the file states one and none
	// was given, and the limits are wider.
	Imatrix string `json:"imatrix"`
}

// TensorResult is how far one tensor is from its source.
type TensorResult struct {
	Name  string `json:"name"` // in the file
	Slot  string `json:"slot"`
	Layer int    `json:"layer"` // -1 outside of blocks
	Type  string `json:"type"`
	Bytes int64  `json:"bytes"`

	// NMSE is sum((file-source)^2) / sum(source^2).
	NMSE float64 `json:"nmse"`
	// RowRatio is the largest error of a row, BlockRatio that of a block,
	// relative to what the type's encoder makes of the source; Direction is
	// the share of the errors' energy in one direction, likewise.
	RowRatio   float64 `json:"row_ratio"`
	Row        int     `json:"row"` // that RowRatio is of
	BlockRatio float64 `json:"block_ratio"`
	BlockRow   int     `json:"block_row"`
	BlockCol   int     `json:"block_col"`
	Direction  float64 `json:"direction"`
}

// grain is the relative error that a number may have in a type that rounds
// numbers one by one, and that a block's largest number may have in the
// others: below it, figures are arithmetic's and not the file's.
func grain(t gguf.Type) float64 {
	switch t {
	case gguf.F32, gguf.F64:
		return 1e-6
	case gguf.F16:
		return 1.0 / (1 << 11)
	case gguf.BF16:
		return 1.0 / (1 << 8)
	}
	bits := float64(8*t.BlockBytes()) / float64(t.BlockElements())
	return math.Exp2(-bits - 2)
}

// compareWeights compares every tensor of two specifications of the same
// structure. h is the file's header, imatrix the importance matrix that it was
// made with, or nil; progress is called by several goroutines.
func compareWeights(ctx context.Context, source, file *spec.Model, h *gguf.Header, imatrix *quantize.Imatrix, progress func(done, total int)) (WeightsResult, error) {
	r := WeightsResult{OK: true, Imatrix: "none"}
	limit := known
	if imatrix != nil {
		r.Imatrix = "given"
	} else if _, stated := h.Metadata.Get("quantize.imatrix.file"); stated {
		r.Imatrix, limit = "unknown", weighed
	}
	tensors := map[string]gguf.TensorInfo{}
	for _, t := range h.Tensors {
		tensors[t.Name] = t
	}
	slots := make([]spec.Slot, 0, len(file.Weights))
	for s := range file.Weights {
		if w, ok := source.Weights[s]; ok && w.Rows == file.Weights[s].Rows && w.Cols == file.Weights[s].Cols {
			slots = append(slots, s)
		}
	}
	slices.SortFunc(slots, func(a, b spec.Slot) int {
		return cmp.Or(cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Role, b.Role), cmp.Compare(a.Expert, b.Expert))
	})
	ropes := map[int]*spec.Rope{}
	for layer := range file.Blocks {
		var err error
		if ropes[layer], err = rotation(ctx, source, file, layer); err != nil {
			return r, err
		}
	}
	results, unable := make([]*TensorResult, len(slots)), make([]error, len(slots))
	var done atomic.Int64
	workers, ctx := errgroup.WithContext(ctx)
	workers.SetLimit(runtime.GOMAXPROCS(0))
	for i, s := range slots {
		workers.Go(func() error {
			if s.Role == spec.Output && sameTensor(file.Weights[s], file.Weights[spec.Global(spec.TokenEmbd)]) {
				return nil // tied to the embedding
			}
			p, err := newPair(source, file, s, ropes[s.Layer], tensors)
			if err != nil {
				unable[i] = err
				return nil
			}
			p.imatrix = imatrix
			t, err := p.judge(ctx)
			if err != nil {
				return err
			}
			results[i] = &t
			if n := done.Add(1); progress != nil {
				progress(int(n), len(slots))
			}
			return nil
		})
	}
	if err := workers.Wait(); err != nil {
		return r, err
	}
	for i, t := range results {
		if unable[i] != nil {
			r.NotJudged = append(r.NotJudged, unable[i].Error())
		}
		if t != nil {
			r.Tensors = append(r.Tensors, *t)
			r.Suspicious = append(r.Suspicious, t.suspicion(limit)...)
		}
	}
	r.OK = len(r.Suspicious) == 0
	return r, nil
}

func sameTensor(a, b spec.Weight) bool { return slices.Equal(a.Names, b.Names) }

// suspicion says in words which figures no rounding explains.
func (t TensorResult) suspicion(limit limits) []string {
	var out []string
	if t.RowRatio > limit.row {
		out = append(out, fmt.Sprintf("tensor %s (%s): row %d is off by %.3g times what %s's rounding explains", t.Name, t.Slot, t.Row, t.RowRatio, t.Type))
	}
	if t.BlockRatio > limit.block {
		out = append(out, fmt.Sprintf("tensor %s (%s): row %d, columns from %d on, are off by %.3g times what %s's rounding explains", t.Name, t.Slot, t.BlockRow, t.BlockCol, t.BlockRatio, t.Type))
	}
	if t.Direction > limit.direction {
		out = append(out, fmt.Sprintf("tensor %s (%s): the difference from the source has a direction, %.3g times as strong as that of rounding", t.Name, t.Slot, t.Direction))
	}
	return out
}

// A pair is one tensor on both sides, read in the file's layout.
type pair struct {
	slot         spec.Slot
	name         string
	source, file spec.Weight
	codec        quantize.Codec
	rows, cols   int
	tile         int             // rows that are read together
	order        func(r int) int // the source's row, within a tile, of a row of the file
	add          [2]float32      // to the source's numbers and to the file's
	turned       int             // > 0: blocks of that many rows are stored turned
	tall         int             // rows of each matrix of a stack, as stored
	imatrix      *quantize.Imatrix
	bytes        int64
}

func newPair(source, file *spec.Model, s spec.Slot, rope *spec.Rope, tensors map[string]gguf.TensorInfo) (*pair, error) {
	p := &pair{slot: s, source: source.Weights[s], file: file.Weights[s]}
	p.rows, p.cols = p.file.Rows, p.file.Cols
	p.name = strings.Join(p.file.Names, ", ")
	t, err := gguf.ParseType(p.file.Type)
	if err != nil {
		return nil, fmt.Errorf("tensor %s: %w", p.name, err)
	}
	var ok bool
	if p.codec, ok = quantize.Lookup(t); !ok || p.codec.Encode == nil {
		return nil, fmt.Errorf("tensor %s: there is no encoder for %s to compare with", p.name, t)
	}
	p.add = [2]float32{normOffset(source, s), normOffset(file, s)}
	if info, ok := tensors[p.file.Names[0]]; ok && len(info.Shape) > 0 {
		if width := int(info.Shape[0]); width != p.cols && p.rows%width == 0 {
			p.turned = width
		}
		if len(info.Shape) > 2 {
			p.tall = int(info.Shape[1])
		}
	}
	if rowBytes, err := t.RowBytes(int64(p.encodedCols())); err == nil {
		p.bytes = int64(p.rows) * int64(p.cols) / int64(p.encodedCols()) * rowBytes
	} else {
		return nil, fmt.Errorf("tensor %s: %w", p.name, err)
	}
	group, order := rowOrder(file, s, rope)
	p.order = order
	switch {
	case p.turned > 0:
		p.tile = p.rows
	case order != nil:
		p.tile = max(1, tileNumbers/p.cols/group) * group
	default:
		p.tile = max(1, tileNumbers/p.cols)
	}
	return p, nil
}

// encodedCols is the length of a row as the file stores it.
func (p *pair) encodedCols() int {
	if p.turned > 0 {
		return p.turned
	}
	return p.cols
}

// normOffset is what is added to a norm's weight when it is used.
func normOffset(m *spec.Model, s spec.Slot) float32 {
	var n *spec.Norm
	if s.Layer == spec.None {
		switch s.Role {
		case spec.FinalNorm:
			n = m.FinalNorm
		case spec.EmbdNorm:
			n = m.Embedding.Norm
		}
	} else {
		b := &m.Blocks[s.Layer]
		switch s.Role {
		case spec.PreMix:
			n = b.PreMix
		case spec.PostMix:
			n = b.PostMix
		case spec.SumMix:
			n = b.SumMix
		case spec.PreFFN:
			n = b.PreFFN
		case spec.PostFFN:
			n = b.PostFFN
		case spec.SumFFN:
			n = b.SumFFN
		case spec.FFNInner:
			n = b.FFN.InnerNorm
		}
		if a := b.Attention; a != nil {
			switch s.Role {
			case spec.QNorm:
				n = a.QNorm
			case spec.KNorm:
				n = a.KNorm
			case spec.AttnInner:
				n = a.InnerNorm
			}
			if a.MLA != nil {
				switch s.Role {
				case spec.QANorm:
					n = a.MLA.QANorm
				case spec.KVANorm:
					n = a.MLA.KVANorm
				}
			}
		}
	}
	if n == nil {
		return 0
	}
	return n.Offset
}

// rotation is the file's rotary embedding of a layer where it stores pairs in
// another order than the source; nil where the orders are the same. A layer
// without positions has none, but its rows may have been put into the order of
// the other layers, which changes nothing as long as queries and keys agree:
// there the rows of the first query head tell.
func rotation(ctx context.Context, source, file *spec.Model, layer int) (*spec.Rope, error) {
	a, b := source.Blocks[layer].Attention, file.Blocks[layer].Attention
	switch {
	case a == nil || b == nil:
		return nil, nil
	case a.Rope != nil && b.Rope != nil:
		if a.Rope.Interleaved == b.Rope.Interleaved {
			return nil, nil
		}
		return b.Rope, nil
	case a.Rope != nil || b.Rope != nil || b.MLA != nil:
		return nil, nil
	}
	for i := range file.Blocks {
		x, y := source.Blocks[i].Attention, file.Blocks[i].Attention
		if x == nil || y == nil || x.Rope == nil || y.Rope == nil || x.Rope.Interleaved == y.Rope.Interleaved || y.KeyDim != b.KeyDim {
			continue
		}
		q, p := source.Weights[spec.At(layer, spec.Q)], file.Weights[spec.At(layer, spec.Q)]
		if q.Rows < b.KeyDim || p.Rows < b.KeyDim || q.Cols != p.Cols {
			return nil, nil
		}
		was, is := make([]float32, b.KeyDim*q.Cols), make([]float32, b.KeyDim*q.Cols)
		if err := errors.Join(q.Read(ctx, was, 0), p.Read(ctx, is, 0)); err != nil {
			return nil, err
		}
		order := pairOrder(y.Rope, b.KeyDim, y.Rope.Start)
		var same, turned float64
		for r := range b.KeyDim {
			for c := range q.Cols {
				v := float64(is[r*q.Cols+c])
				d, e := v-float64(was[r*q.Cols+c]), v-float64(was[order(r)*q.Cols+c])
				same, turned = same+d*d, turned+e*e
			}
		}
		if turned < same {
			return y.Rope, nil
		}
		return nil, nil
	}
	return nil, nil
}

// rowOrder says which row of the source is row r of the file, where the file's
// rotary embedding stores its pairs in the other order, within groups of so
// many rows (or columns, where the tensor is one row). It is nil where the
// tensor is in the same order on both sides.
func rowOrder(file *spec.Model, s spec.Slot, rope *spec.Rope) (group int, order func(r int) int) {
	if s.Layer == spec.None || rope == nil {
		return 0, nil
	}
	a := file.Blocks[s.Layer].Attention
	start := rope.Start // the first rotary row of a group
	switch role := spec.Role(strings.TrimSuffix(string(s.Role), ".bias")); {
	case a.MLA != nil && (role == spec.Q || role == spec.QB):
		group, start = a.KeyDim, a.MLA.Nope+start
	case a.MLA != nil && role == spec.KVA:
		group, start = a.MLA.KVRank+a.MLA.Rope, a.MLA.KVRank+start
	case a.MLA == nil && (role == spec.Q || role == spec.K || role == spec.QNorm || role == spec.KNorm):
		group = a.KeyDim
	default:
		return 0, nil
	}
	return group, pairOrder(rope, group, start)
}

// pairOrder is the order of the rows of groups whose rotary ones begin at
// start: where the file has pairs side by side, the source has them half of the
// rotary rows apart, and the other way round.
func pairOrder(rope *spec.Rope, group, start int) func(r int) int {
	half := len(rope.InvFreq)
	return func(r int) int {
		in := r%group - start
		if in < 0 || in >= 2*half {
			return r
		}
		if rope.Interleaved {
			return r - in + in/2 + in%2*half
		}
		return r - in + in%half*2 + in/half
	}
}

// read fills the tiles with n rows from row first on of both sides, in the
// file's layout, in which rows have encodedCols numbers.
func (p *pair) read(ctx context.Context, source, file []float32, first, n int) error {
	if err := p.source.Read(ctx, source, first); err != nil {
		return err
	}
	if err := p.file.Read(ctx, file, first); err != nil {
		return err
	}
	if p.order != nil {
		was := slices.Clone(source)
		if p.rows == 1 {
			for c := range source {
				source[c] = was[p.order(c)]
			}
		} else {
			for r := range n {
				from := p.order(first+r) - first
				copy(source[r*p.cols:(r+1)*p.cols], was[from*p.cols:(from+1)*p.cols])
			}
		}
	}
	if p.turned > 0 {
		for at := 0; at < len(source); at += p.turned * p.cols {
			turn(source[at:at+p.turned*p.cols], p.turned)
			turn(file[at:at+p.turned*p.cols], p.turned)
		}
	}
	for i := range source {
		source[i] += p.add[0]
		file[i] += p.add[1]
	}
	width := p.encodedCols()
	for i := range file {
		if x, y := float64(file[i]), float64(source[i]); x-x != 0 || y-y != 0 { // NaN or infinite
			return fmt.Errorf("tensor %s: row %d, column %d is %v, in the source %v", p.name, first*p.cols/width+i/width, i%width, x, y)
		}
	}
	return nil
}

// turn transposes a matrix of rows rows in place.
func turn(m []float32, rows int) {
	was := slices.Clone(m)
	cols := len(m) / rows
	for r := range rows {
		for c := range cols {
			m[c*rows+r] = was[r*cols+c]
		}
	}
}

// judge reads the tensor twice: once to find what is remarkable, once to look
// at it closely.
func (p *pair) judge(ctx context.Context) (TensorResult, error) {
	t := TensorResult{Name: p.name, Slot: p.slot.String(), Layer: p.slot.Layer, Type: p.codec.Type.String(), Bytes: p.bytes}
	width := p.encodedCols()
	relative, err := p.relativeErrors(ctx, &t)
	if err != nil {
		return t, err
	}
	return t, p.lookClosely(ctx, &t, remarkable(relative, max(1, maxSample/width)))
}

// relativeErrors returns each stored row's squared error relative to its own
// energy, and sets the tensor's.
func (p *pair) relativeErrors(ctx context.Context, t *TensorResult) ([]float64, error) {
	width := p.encodedCols()
	relative := make([]float64, p.rows*p.cols/width)
	var energy, errors float64
	err := p.tiles(ctx, nil, func(first int, source, file []float32) error {
		for r := 0; r*width < len(source); r++ {
			var e, d float64
			for i := r * width; i < (r+1)*width; i++ {
				x, y := float64(source[i]), float64(file[i])
				e += x * x
				d += (y - x) * (y - x)
			}
			energy, errors = energy+e, errors+d
			switch {
			case d == 0:
			case e == 0:
				relative[first+r] = math.Inf(1)
			default:
				relative[first+r] = d / e
			}
		}
		return nil
	})
	t.NMSE = ratio(errors, energy)
	return relative, err
}

// tiles calls each with the tiles of both sides in which there is one of the
// given stored rows, which are in order, or with all of them where rows is nil;
// first counts stored rows.
func (p *pair) tiles(ctx context.Context, rows []int, each func(first int, source, file []float32) error) error {
	width := p.encodedCols()
	source, file := make([]float32, min(p.tile, p.rows)*p.cols), make([]float32, min(p.tile, p.rows)*p.cols)
	for first := 0; first < p.rows; first += p.tile {
		n := min(p.tile, p.rows-first)
		if rows != nil {
			at, _ := slices.BinarySearch(rows, first*p.cols/width)
			if at == len(rows) || rows[at] >= (first+n)*p.cols/width {
				continue
			}
		}
		a, b := source[:n*p.cols], file[:n*p.cols]
		if err := p.read(ctx, a, b, first, n); err != nil {
			return err
		}
		if err := each(first*p.cols/width, a, b); err != nil {
			return err
		}
	}
	return nil
}

// ratio is a/b, 0 where a is 0, and bounded so that a report can hold it.
func ratio(a, b float64) float64 {
	if a == 0 {
		return 0
	}
	return min(a/b, 1e12)
}

// remarkable returns the rows with the largest values and an even sample of
// all, at most limit, in order.
func remarkable(values []float64, limit int) []int {
	rows := make([]int, len(values))
	for i := range rows {
		rows[i] = i
	}
	if len(rows) <= min(limit, sampleRows+suspectRows) {
		return rows
	}
	suspects, even := min(suspectRows, max(1, limit/2)), min(sampleRows, max(1, limit/2))
	slices.SortStableFunc(rows, func(a, b int) int { return cmp.Compare(values[b], values[a]) })
	rows = rows[:suspects]
	for i := range even {
		rows = append(rows, i*len(values)/even)
	}
	slices.Sort(rows)
	return slices.Compact(rows)
}

// lookClosely compares the errors of the given rows with those that the type's
// encoder makes, and sets the tensor's ratios.
func (p *pair) lookClosely(ctx context.Context, t *TensorResult, rows []int) error {
	width := p.encodedCols()
	rowBytes, err := p.codec.Type.RowBytes(int64(width))
	if err != nil {
		return fmt.Errorf("tensor %s: %w", p.name, err)
	}
	importance, matrix := []float32(nil), -1
	encoded, again := make([]byte, rowBytes), make([]float32, width)
	block := int(p.codec.Type.BlockElements())
	if block == 1 {
		block = min(32, width)
	}
	least := grain(p.codec.Type)
	var ours, theirs [][]float32 // errors of rows that have any
	next := 0
	err = p.tiles(ctx, rows, func(first int, source, file []float32) error {
		for ; next < len(rows) && rows[next] < first+len(source)/width; next++ {
			at := (rows[next] - first) * width
			x, y := source[at:at+width], file[at:at+width]
			if m := p.matrix(rows[next]); m != matrix {
				if importance, err = p.importance(m, width); err != nil {
					return err
				}
				matrix = m
			}
			p.codec.Encode(encoded, x, width, importance)
			p.codec.Decode(again, encoded)
			d, e := make([]float32, width), make([]float32, width)
			var rowD, rowE float64
			for b := 0; b < width; b += block {
				end := min(b+block, width)
				var sumD, sumE, largest float64
				for i := b; i < end; i++ {
					d[i], e[i] = y[i]-x[i], again[i]-x[i]
					sumD += float64(d[i]) * float64(d[i])
					sumE += float64(e[i]) * float64(e[i])
					largest = max(largest, math.Abs(float64(x[i])))
				}
				expected := max(sumE, least*least*largest*largest*float64(end-b))
				rowD, rowE = rowD+sumD, rowE+expected
				if q := math.Sqrt(ratio(sumD, expected)); q > t.BlockRatio {
					t.BlockRatio, t.BlockRow, t.BlockCol = q, rows[next], b
				}
			}
			if q := math.Sqrt(ratio(rowD, rowE)); q > t.RowRatio {
				t.RowRatio, t.Row = q, rows[next]
			}
			if normalize(d, math.Sqrt(rowE)/4) {
				ours = append(ours, d)
			}
			if normalize(e, 0) {
				theirs = append(theirs, e)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Noise of m rows and n columns has (sqrt(m)+sqrt(n))^2 / mn of its energy
	// in one direction (Marchenko and Pastur's edge).
	if m, n := float64(len(ours)), float64(width); m >= 8 && n >= 8 {
		noise := (math.Sqrt(m) + math.Sqrt(n)) * (math.Sqrt(m) + math.Sqrt(n)) / (m * n)
		t.Direction = direction(ours) / max(noise, direction(theirs))
	}
	return nil
}

// matrix is which of a stack of matrices a stored row belongs to.
func (p *pair) matrix(row int) int {
	m := max(0, p.slot.Expert)
	if p.tall > 0 {
		m += row / p.tall
	}
	return m
}

// importance is what the encoder is given for the columns of a matrix: nil
// where nothing is known, even importance where the type needs some.
func (p *pair) importance(matrix, width int) ([]float32, error) {
	if p.codec.Type.BlockElements() == 1 {
		return nil, nil
	}
	if p.imatrix != nil {
		values := make([]float32, width)
		ok, err := p.imatrix.Values(values, p.file.Names[0], int64(matrix))
		if err != nil {
			return nil, fmt.Errorf("tensor %s: importance: %w", p.name, err)
		}
		if ok {
			return values, nil
		}
	}
	if !p.codec.NeedsImportance {
		return nil, nil
	}
	return slices.Repeat([]float32{1}, width), nil
}

// normalize scales a row to length 1. A row that is not longer than least says
// nothing.
func normalize(row []float32, least float64) bool {
	var sum float64
	for _, x := range row {
		sum += float64(x) * float64(x)
	}
	length := math.Sqrt(sum)
	if length == 0 || length <= least {
		return false
	}
	for i := range row {
		row[i] = float32(float64(row[i]) / length)
	}
	return true
}

// direction is the share of the rows' energy that lies in one direction: the
// square of their largest singular value, found by power iteration, divided by
// the sum of squares, which is the number of rows.
func direction(rows [][]float32) float64 {
	if len(rows) == 0 {
		return 0
	}
	v := make([]float64, len(rows[0]))
	for i := range v {
		v[i] = 1 + float64(i*2654435761%1024)/1024 // any start that favours no column
		if i%2 == 1 {
			v[i] = -v[i]
		}
	}
	share := 0.0
	for range powerSteps {
		length := 0.0
		for _, x := range v {
			length += x * x
		}
		length = math.Sqrt(length)
		next := make([]float64, len(v))
		share = 0
		for _, row := range rows {
			dot := 0.0
			for i, x := range row {
				dot += float64(x) * v[i]
			}
			dot /= length
			share += dot * dot
			for i, x := range row {
				next[i] += dot * float64(x)
			}
		}
		v = next
		if share == 0 {
			break
		}
	}
	return share / float64(len(rows))
}
