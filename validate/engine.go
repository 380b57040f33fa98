package validate

import (
	"context"

	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/ops/measure"
	"github.com/modelpipe/modelpipe/ops/spec"
)

// An Engine runs models.
type Engine interface {
	// Name is the device, for the report.
	Name() string
	// Compare measures how far each candidate's predictions are from the
	// reference's over chunks of equal length, in one pass.
	Compare(ctx context.Context, reference *spec.Model, candidates []*spec.Model, chunks [][]int32) ([]*measure.Comparison, error)
	// Logits returns a sequence's logits, [len(ids), Vocab].
	Logits(ctx context.Context, m *spec.Model, ids []int32) ([]float32, error)
	// Embed returns a vector for each sequence, pooled as the model says, or
	// where it says nothing the hidden states one after the other.
	Embed(ctx context.Context, m *spec.Model, sequences [][]int32) ([][]float32, error)
	// Greedy continues each prompt by its n most probable tokens, or until
	// stop says so of one.
	Greedy(ctx context.Context, m *spec.Model, prompts [][]int32, n int, stop func(int32) bool) ([][]int32, error)
}

// OnDevice is the engine of package ops.
func OnDevice(d *ops.Device, o ops.Options) Engine { return device{d, o} }

type device struct {
	d *ops.Device
	o ops.Options
}

func (e device) Name() string { return e.d.Name() }

func (e device) Compare(ctx context.Context, reference *spec.Model, candidates []*spec.Model, chunks [][]int32) ([]*measure.Comparison, error) {
	return ops.CompareAll(ctx, e.d, reference, candidates, chunks, e.o)
}

func (e device) Logits(ctx context.Context, m *spec.Model, ids []int32) ([]float32, error) {
	return ops.Logits(ctx, e.d, m, ids, e.o)
}

func (e device) Embed(ctx context.Context, m *spec.Model, sequences [][]int32) ([][]float32, error) {
	if m.Pooling != spec.PoolNone {
		return ops.Embed(ctx, e.d, m, sequences, e.o)
	}
	var out [][]float32
	for _, ids := range sequences {
		v, err := ops.Hidden(ctx, e.d, m, ids, e.o)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (e device) Greedy(ctx context.Context, m *spec.Model, prompts [][]int32, n int, stop func(int32) bool) ([][]int32, error) {
	return ops.Greedy(ctx, e.d, m, prompts, n, stop, e.o)
}
