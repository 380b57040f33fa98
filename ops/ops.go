// Package ops runs the models that ops/spec describes, as graphs of gomlx on
// its Go backend or through XLA, and measures what they predict.
//
// Weights come one layer at a time: a layer's matrices are read as float32,
// all sequences pass through it, and it is dropped while the next one is being
// read. So a model is judged on a machine that holds two layers and the
// activations. Graphs have their weights as parameters: one is compiled for
// each distinct form of block, and serves all layers of that form.
//
// All arithmetic is float32. Package ops/plain computes the same in float64
// and is the definition; tests hold the two equal.
//
// Every function here returns an error where the graph library panics, and
// stops between batches when its context is cancelled.
package ops

import (
	"context"
	"errors"

	"github.com/modelpipe/modelpipe/ops/measure"
	"github.com/modelpipe/modelpipe/ops/spec"
)

// Options bound and report an evaluation. The zero value is ready.
type Options struct {
	// Batch is how many tokens pass a block together, at least one sequence.
	// 0: what suits the device.
	Batch int

	// Weights bounds the bytes of float32 weights that are held at a time.
	// Below that bound the next layer is read while one is computed, and
	// Greedy keeps the whole model; a layer that is larger alone is held
	// nevertheless. 0: 8 GiB.
	Weights int64

	// Progress, where set, is called by one goroutine at a time as work is done.
	Progress func(Progress)
}

// Progress is how far an evaluation has come.
type Progress struct {
	Stage string // "layer", "head", "token"
	Done  int
	Total int
}

// Compare runs a reference and a candidate over chunks of token ids, all of
// the same length, and says how far the candidate's predictions are from the
// reference's: see package measure for the method. A caller whose vocabulary
// says so has put the beginning-of-sequence token in each chunk's first place.
func Compare(ctx context.Context, d *Device, ref, cand *spec.Model, chunks [][]int32, o Options) (*measure.Comparison, error) {
	all, err := CompareAll(ctx, d, ref, []*spec.Model{cand}, chunks, o)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// CompareAll is Compare for several candidates, for which the reference is
// computed once. The results are in the order of the candidates.
func CompareAll(ctx context.Context, d *Device, ref *spec.Model, cands []*spec.Model, chunks [][]int32, o Options) ([]*measure.Comparison, error) {
	return nil, errors.ErrUnsupported
}

// Perplexity is exp of the mean negative log-likelihood of the predictions
// that count in Compare.
func Perplexity(ctx context.Context, d *Device, m *spec.Model, chunks [][]int32, o Options) (float64, error) {
	return 0, errors.ErrUnsupported
}

// Logits returns a sequence's logits, [len(ids), m.Vocab].
func Logits(ctx context.Context, d *Device, m *spec.Model, ids []int32, o Options) ([]float32, error) {
	return nil, errors.ErrUnsupported
}

// Hidden returns a sequence's residual stream after the last norm,
// [len(ids), m.Width].
func Hidden(ctx context.Context, d *Device, m *spec.Model, ids []int32, o Options) ([]float32, error) {
	return nil, errors.ErrUnsupported
}

// Embed returns a vector for each sequence, pooled as the model says; it is
// not normalized to unit length.
func Embed(ctx context.Context, d *Device, m *spec.Model, seqs [][]int32, o Options) ([][]float32, error) {
	return nil, errors.ErrUnsupported
}

// Greedy continues each prompt by its n most probable tokens, one after the
// other; of equally probable ones, the lowest id. A continuation ends early
// after a token for which stop, where it is not nil, says so; that token is
// part of it. Prompts run side by side.
func Greedy(ctx context.Context, d *Device, m *spec.Model, prompts [][]int32, n int, stop func(id int32) bool, o Options) ([][]int32, error) {
	return nil, errors.ErrUnsupported
}

// Layers are the blocks from First up to, but without, End, and with Output
// the head.
type Layers struct {
	First, End int
	Output     bool
}

// A Tap gets, for the matrix at slot, the sum of the squares of each column
// of its input over count tokens; sumsq is its own. Matrices with the same input have one
// slot: Q stands for Q, K and V, Gate for Gate and Up (Up where there is no
// Gate), SharedGate for SharedGate and SharedUp. The others stand for
// themselves: AttnOut, Down, Router, SharedDown, SharedRouter, QA, QB, KVA,
// KB, VB, ConvIn, ConvOut, Output. An expert's slots have its number, and the
// tokens that reached it as count; experts that no token reached are left out.
type Tap func(slot spec.Slot, sumsq []float64, count int) error

// Calibrate runs chunks through a model and calls tap for each matrix of the
// layers, layer by layer in order and once per slot. Layers before the first
// are computed without taps, those after the last are not computed, so a run
// is resumed by asking for the layers that are missing: their results are the
// same.
func Calibrate(ctx context.Context, d *Device, m *spec.Model, chunks [][]int32, layers Layers, tap Tap, o Options) error {
	return errors.ErrUnsupported
}
