// Package calibrate makes importance matrices: for each matrix of a model the
// sums of squares of what it is multiplied by, over a text. It computes no
// model. An Engine runs one that a GGUF file specifies and taps the inputs of
// its matrices; this package gives them the names and the layout that
// llama-imatrix gives them (tools/imatrix/imatrix.cpp), layer by layer, so
// that a run can be interrupted, done in parts and put together.
package calibrate

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/quantize"
)

// Layers are the blocks from First up to, but without, End, and with Output
// the head.
type Layers struct {
	First, End int
	Output     bool
}

// A Tap gets, for the matrix at slot, the sum of the squares of each column of
// its input over count tokens. Matrices with the same input have one slot: Q
// stands for Q, K and V, Gate for Gate and Up (Up where there is no Gate),
// SharedGate for SharedGate and SharedUp; the others stand for themselves. An
// expert's slots have its number.
type Tap = func(slot spec.Slot, sumsq []float64, count int) error

// An Engine runs chunks of token ids through a model and calls tap for the
// matrices of the layers, one layer after the other.
type Engine func(ctx context.Context, m *spec.Model, chunks [][]int32, layers Layers, tap Tap) error

// Calibration is an importance matrix in the making.
type Calibration struct {
	model   *spec.Model
	tensors map[string]gguf.TensorInfo
	output  bool
	inputs  string // digest of all that the sums depend on

	layers  []layer
	head    layer
	leftOut map[string]bool
}

// layer is what is known of one layer.
type layer struct {
	done    bool
	entries map[string]*entry
}

// entry is one tensor's: a run of columns for each count.
type entry struct {
	slot   spec.Slot // that the sums came from
	sums   []float64
	counts []float64
}

// New begins a calibration of the model that a GGUF file with these tensors
// specifies. inputs is a digest of all that the sums depend on: parts of a
// calibration belong together where it is the same. With output the head's
// matrix gets an entry too, where the file has one of its own: llama-imatrix's
// --process-output.
func New(m *spec.Model, tensors []gguf.TensorInfo, inputs string, output bool) *Calibration {
	c := &Calibration{model: m, tensors: map[string]gguf.TensorInfo{}, inputs: inputs, layers: make([]layer, len(m.Blocks)), leftOut: map[string]bool{}}
	for _, t := range tensors {
		c.tensors[t.Name] = t
	}
	if w, ok := m.Weights[spec.Global(spec.Output)]; ok && m.Head != nil {
		c.output = output && w.Names[0] == "output.weight"
	}
	c.head.done = !c.output
	return c
}

// Output says whether the head's matrix gets an entry.
func (c *Calibration) Output() bool { return c.output }

// Layers is the number of the model's blocks.
func (c *Calibration) Layers() int { return len(c.layers) }

// Missing returns what is still to be computed of the layers asked for, in
// runs without gaps.
func (c *Calibration) Missing(of Layers) []Layers {
	var runs []Layers
	for i := of.First; i < of.End; i++ {
		if c.layers[i].done {
			continue
		}
		if n := len(runs); n > 0 && runs[n-1].End == i {
			runs[n-1].End++
		} else {
			runs = append(runs, Layers{First: i, End: i + 1})
		}
	}
	if of.Output && !c.head.done {
		if n := len(runs); n > 0 && runs[n-1].End == len(c.layers) {
			runs[n-1].Output = true
		} else {
			runs = append(runs, Layers{First: len(c.layers), End: len(c.layers), Output: true})
		}
	}
	return runs
}

// All are all layers of the model, and its head where that gets an entry.
func (c *Calibration) All() Layers { return Layers{0, len(c.layers), c.output} }

// Complete says whether nothing is missing.
func (c *Calibration) Complete() bool { return len(c.Missing(c.All())) == 0 }

// LeftOut returns the tensors that get no entry though llama-imatrix has one,
// because the engine does not compute what they are multiplied by there: those
// of latent attention, whose keys and values it does not absorb.
func (c *Calibration) LeftOut() []string { return slices.Sorted(maps.Keys(c.leftOut)) }

// saveEvery is how often Run asks to save at most: the state of many experts
// is large.
const saveEvery = 30 * time.Second

// Run has an engine compute what is missing of the layers asked for. It calls
// save now and then, and before it returns, when layers have been done since.
func (c *Calibration) Run(ctx context.Context, engine Engine, chunks [][]int32, of Layers, save func() error) error {
	if of.First < 0 || of.End > len(c.layers) || of.First >= of.End {
		return fmt.Errorf("layers %d:%d: the model has %d", of.First, of.End, len(c.layers))
	}
	for _, run := range c.Missing(of) {
		if err := c.run(ctx, engine, chunks, run, save); err != nil {
			return err
		}
	}
	return nil
}

func (c *Calibration) run(ctx context.Context, engine Engine, chunks [][]int32, run Layers, save func() error) error {
	last, unsaved := time.Now(), false
	current := spec.None - 1 // no layer yet
	finish := func() error {
		if current < spec.None {
			return nil
		}
		if err := c.finish(current); err != nil {
			return err
		}
		unsaved = true
		if time.Since(last) < saveEvery {
			return nil
		}
		last, unsaved = time.Now(), false
		return save()
	}
	err := engine(ctx, c.model, chunks, run, func(s spec.Slot, sumsq []float64, count int) error {
		if s.Layer != current {
			if err := finish(); err != nil {
				return err
			}
			current = s.Layer
			if current >= spec.None && current < len(c.layers) {
				c.at(current).entries = nil // of a run that failed
			}
		}
		if inside := s.Layer >= run.First && s.Layer < run.End; !inside && !(run.Output && s == spec.Global(spec.Output)) {
			return fmt.Errorf("calibrate: %v was not asked for", s)
		}
		return c.tap(s, sumsq, count)
	})
	if err == nil {
		err = finish()
		for _, left := range c.Missing(run) {
			if err == nil {
				err = fmt.Errorf("calibrate: the engine gave nothing for layer %d", left.First)
			}
		}
	}
	if unsaved {
		if e := save(); err == nil {
			err = e
		}
	}
	return err
}

// shared says which matrices get the input of a slot's.
var shared = map[spec.Role][]spec.Role{
	spec.Q:          {spec.Q, spec.K, spec.V},
	spec.Gate:       {spec.Gate, spec.Up},
	spec.SharedGate: {spec.SharedGate, spec.SharedUp},
}

// at returns what is known of a layer or, for spec.None, of the head.
func (c *Calibration) at(i int) *layer {
	if i == spec.None {
		return &c.head
	}
	return &c.layers[i]
}

// tap takes in the sums for one slot.
func (c *Calibration) tap(s spec.Slot, sumsq []float64, count int) error {
	if _, ok := c.model.Weights[s]; !ok {
		return fmt.Errorf("calibrate: %v is no matrix of the model", s)
	}
	if count < 1 {
		return fmt.Errorf("calibrate: %v: %d tokens", s, count)
	}
	for i, v := range sumsq {
		if !(v >= 0) || v > math.MaxFloat32 {
			return fmt.Errorf("calibrate: %v: column %d has a sum of squares of %g: the model's activations are not finite", s, i, v)
		}
	}
	roles := shared[s.Role]
	if roles == nil {
		roles = []spec.Role{s.Role}
	}
	seen := map[string]bool{}
	for _, role := range roles {
		w, ok := c.model.Weights[spec.Slot{Layer: s.Layer, Role: role, Expert: s.Expert}]
		if !ok || seen[w.Names[0]] {
			continue
		}
		seen[w.Names[0]] = true
		if err := c.add(s, w.Names[0], sumsq, count); err != nil {
			return err
		}
	}
	return nil
}

// add gives one tensor of the file its sums. A stack of experts has sums and a
// count for each; any other tensor has one count, and sums for the matrices of
// a stack one after the other.
func (c *Calibration) add(s spec.Slot, name string, sumsq []float64, count int) error {
	if !strings.HasPrefix(name, "blk.") && !(c.output && name == "output.weight") {
		return nil
	}
	t, ok := c.tensors[name]
	if !ok {
		return fmt.Errorf("calibrate: %v: the file has no tensor %s", s, name)
	}
	cols, matrices := int(t.Shape[0]), 1
	for _, n := range t.Shape[min(2, len(t.Shape)):] {
		matrices *= int(n)
	}
	width, offset, counts := cols*matrices, 0, 1
	if s.Expert != spec.None {
		width, offset, counts = cols, s.Expert*cols, matrices
		if s.Expert < 0 || s.Expert >= matrices {
			return fmt.Errorf("calibrate: %v: tensor %s has %d experts", s, name, matrices)
		}
	}
	if len(sumsq) != width {
		if s.Role == spec.KB || s.Role == spec.VB {
			c.leftOut[name] = true
			return nil
		}
		return fmt.Errorf("calibrate: %v: sums of %d columns: tensor %s has %d", s, len(sumsq), name, width)
	}
	l := c.at(s.Layer)
	if l.entries == nil {
		l.entries = map[string]*entry{}
	}
	e := l.entries[name]
	if e == nil {
		e = &entry{slot: s, sums: make([]float64, cols*matrices), counts: make([]float64, counts)}
		l.entries[name] = e
	}
	if e.slot.Role != s.Role {
		return nil // keys and values of one tensor, whose input is one
	}
	index := max(s.Expert, 0)
	e.counts[index] += float64(count)
	for i, v := range sumsq {
		e.sums[offset+i] += v
	}
	return nil
}

// needed are the roles of matrices that an engine must tap where they are, by
// themselves.
var needed = []spec.Role{
	spec.Q, spec.AttnOut, spec.QA, spec.QB, spec.KVA, spec.Router, spec.SharedRouter, spec.SharedGate, spec.SharedDown, spec.ConvIn, spec.ConvOut,
}

// finish marks a layer as done, if nothing of it is missing.
func (c *Calibration) finish(i int) error {
	l := c.at(i)
	missing := func(s spec.Slot) error {
		w, ok := c.model.Weights[s]
		if !ok || l.entries[w.Names[0]] != nil {
			return nil
		}
		return fmt.Errorf("calibrate: the engine gave no input of %v", s)
	}
	if i == spec.None {
		if err := missing(spec.Global(spec.Output)); err != nil {
			return err
		}
		l.done = true
		return nil
	}
	slots := []spec.Slot{spec.At(i, spec.Up), spec.At(i, spec.Down), {Layer: i, Role: spec.Up, Expert: 0}, {Layer: i, Role: spec.Down, Expert: 0}}
	for _, role := range needed {
		slots = append(slots, spec.At(i, role))
	}
	for _, s := range slots {
		if err := missing(s); err != nil {
			return err
		}
	}
	l.done = true
	return nil
}

// File is the importance matrix of all layers that are done.
func (c *Calibration) File(dataset string, chunks, ctx int) *quantize.ImatrixFile {
	f := &quantize.ImatrixFile{Datasets: []string{dataset}, Chunks: chunks, ChunkSize: ctx}
	for _, l := range append(slices.Clone(c.layers), c.head) {
		if !l.done {
			continue
		}
		for name, e := range l.entries {
			f.Entries = append(f.Entries, quantize.ImatrixSums{Name: name, Sums: float32s(e.sums), Counts: float32s(e.counts)})
		}
	}
	return f
}

func float32s(v []float64) []float32 {
	f := make([]float32, len(v))
	for i, x := range v {
		f[i] = float32(x)
	}
	return f
}

// Idle returns "NAME: 3 of 64 experts met no token" for each stack with such
// experts, sorted.
func (c *Calibration) Idle() []string {
	var idle []string
	for _, l := range c.layers {
		for name, e := range l.entries {
			n := 0
			for _, count := range e.counts {
				if count == 0 {
					n++
				}
			}
			if n > 0 {
				idle = append(idle, fmt.Sprintf("%s: %d of %d experts met no token", name, n, len(e.counts)))
			}
		}
	}
	slices.Sort(idle)
	return idle
}

// Chunks cuts a text into at most n chunks of ctx tokens, 0 for as many as it
// has, as llama-imatrix and llama-perplexity do: every ctx tokens, the first
// token of each being bos where the vocabulary adds one, and spec.None where
// it does not.
func Chunks(ids []int32, bos int32, n, ctx int) ([][]int32, error) {
	if n < 0 || ctx < 1 {
		return nil, fmt.Errorf("%d chunks of %d tokens", n, ctx)
	}
	if len(ids) < ctx {
		return nil, fmt.Errorf("the text has %d tokens: fewer than a chunk of %d", len(ids), ctx)
	}
	all := len(ids) / ctx
	if n == 0 || n > all {
		n = all
	}
	chunks := make([][]int32, n)
	for i := range chunks {
		chunks[i] = slices.Clone(ids[i*ctx : (i+1)*ctx])
		if bos != spec.None {
			chunks[i][0] = bos
		}
	}
	return chunks, nil
}
