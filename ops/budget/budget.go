// Package budget says what each type would lose on each tensor of a model, in
// nats of Kullback-Leibler divergence per prediction: the table from which
// quantize.Allocate chooses types for a number of bytes.
//
// A tensor is quantized to every type as the converter would do it, and the
// squares of what that changes are weighed by the Fisher information of its
// weights (ops.Fisher), which one pass over a calibration text gives. To
// second order the losses of tensors add up.
package budget

import (
	"context"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/quantize"
)

// Options are how losses are measured.
type Options struct {
	ops.Options

	// Types returns the types to measure for a tensor with rows of cols
	// weights; none leaves it out.
	Types func(tensor string, cols int) []gguf.Type

	// Importance, where it is not nil, weighs the columns in the encoders. It
	// must be what the file will be made with.
	Importance *quantize.Imatrix

	// Seed fixes what is drawn.
	Seed uint64
}

// Measure runs a text through a model that a GGUF file with unquantized
// weights specifies. The losses depend on the arguments and the device alone.
func Measure(ctx context.Context, d *ops.Device, m *spec.Model, chunks [][]int32, o Options) (quantize.Losses, error) {
	losses := quantize.Losses{}
	err := ops.Fisher(ctx, d, m, chunks, o.Seed, func(in ops.Information) error {
		w, err := m.Weight(in.Slot)
		if err != nil {
			return err
		}
		if len(w.Names) != 1 {
			return fmt.Errorf("%v: is made of %d tensors", in.Slot, len(w.Names))
		}
		name := w.Names[0]
		sums, err := o.measure(ctx, w, in)
		if err != nil {
			return fmt.Errorf("tensor %s: %w", name, err)
		}
		for t, loss := range sums {
			if losses[name] == nil {
				losses[name] = map[gguf.Type]float64{}
			}
			losses[name][t] += loss
		}
		return nil
	}, o.Options)
	return losses, err
}

// measure says what each type loses on the rows of a matrix.
func (o *Options) measure(ctx context.Context, w spec.Weight, in ops.Information) (map[gguf.Type]float64, error) {
	name := w.Names[0]
	types := o.Types(name, w.Cols)
	if len(types) == 0 {
		return nil, nil
	}
	var importance []float32
	if o.Importance != nil {
		values := make([]float32, w.Cols)
		ok, err := o.Importance.Values(values, name, int64(max(0, in.Slot.Expert)))
		if err != nil {
			return nil, err
		}
		if ok {
			importance = values
		}
	}
	step := max(1, piece/w.Cols)
	parts := make([][]float64, (len(in.Rows)+step-1)/step) // by piece and type
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.SetLimit(runtime.GOMAXPROCS(0))
	for i := range parts {
		tasks.Go(func() error {
			first := i * step
			rows := in.Rows[first:min(first+step, len(in.Rows))]
			x := make([]float32, len(rows)*w.Cols)
			if err := read(ctx, w, rows, x); err != nil {
				return err
			}
			for _, t := range types {
				loss, err := lost(t, x, w.Cols, importance, in.F[first*w.Cols:][:len(x)])
				if err != nil {
					return err
				}
				parts[i] = append(parts[i], loss)
			}
			return ctx.Err()
		})
	}
	if err := tasks.Wait(); err != nil {
		return nil, err
	}
	sums := map[gguf.Type]float64{}
	for _, p := range parts { // in order, so that the sums are the same each time
		for k, t := range types {
			sums[t] += p[k]
		}
	}
	return sums, nil
}

// piece is how many weights are quantized at a time.
const piece = 64 << 10

// read reads rows of given numbers, neighbours together.
func read(ctx context.Context, w spec.Weight, rows []int, dst []float32) error {
	for i := 0; i < len(rows); {
		n := 1
		for i+n < len(rows) && rows[i+n] == rows[i]+n {
			n++
		}
		if err := w.Read(ctx, dst[i*w.Cols:(i+n)*w.Cols], rows[i]); err != nil {
			return err
		}
		i += n
	}
	return nil
}

// lost is half the sum of f times the squares of what a type changes.
func lost(t gguf.Type, x []float32, cols int, importance, f []float32) (float64, error) {
	codec, ok := quantize.Lookup(t)
	if !ok {
		return 0, fmt.Errorf("there is no encoder for %s", t)
	}
	if codec.NeedsImportance && importance == nil {
		return 0, fmt.Errorf("%s cannot be encoded without importance", t)
	}
	size, err := t.RowBytes(int64(cols))
	if err != nil {
		return 0, err
	}
	encoded, y := make([]byte, int(size)*len(x)/cols), make([]float32, len(x))
	codec.Encode(encoded, x, cols, importance)
	codec.Decode(y, encoded)
	sum := 0.0
	for i, v := range x {
		d := float64(y[i] - v)
		sum += float64(f[i]) * d * d
	}
	return sum / 2, nil
}
