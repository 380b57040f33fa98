package convert

import (
	"fmt"
	"slices"
)

// A block of weights on its way from the checkpoint to the output: its rows,
// and its shape with the outermost dimension first.
type operand struct {
	from  Matrix
	shape []int64
}

// rowsOf splits a shape into the number of rows and their length.
func rowsOf(shape []int64) (rows, cols int64) {
	rows, cols = 1, 1
	if len(shape) > 0 {
		cols = shape[len(shape)-1]
		for _, n := range shape[:len(shape)-1] {
			rows *= n
		}
	}
	return rows, cols
}

// A Transform is one named step that an architecture's tensor rule asks for.
// Sizes are dimension expressions (see Dim).
type Transform interface {
	apply(m *Model, bid int, x operand) (operand, error)
}

// permute undoes transformers' rotate-half order of a query or key projection,
// or of its bias, for Heads heads.
type permute struct{ Heads string }

func (t permute) apply(m *Model, bid int, x operand) (operand, error) {
	heads, err := m.eval(t.Heads, bid)
	if err != nil {
		return x, err
	}
	from := x.from
	if len(x.shape) == 1 { // a bias: one value per row
		from = Reshape{Of: from, Cols: 1}
	}
	if x.shape[0]%(2*heads) != 0 {
		return x, fmt.Errorf("%d rows cannot be permuted in %d heads", x.shape[0], heads)
	}
	from = RopePermute{Of: from, Heads: heads}
	if len(x.shape) == 1 {
		from = Reshape{Of: from, Cols: x.shape[0]}
	}
	return operand{from, x.shape}, nil
}

// affine is x*Scale + Bias.
type affine struct{ Scale, Bias float32 }

// plusOne is for norms whose checkpoints store the weight less one.
var plusOne = affine{Scale: 1, Bias: 1}

func (t affine) apply(_ *Model, _ int, x operand) (operand, error) {
	return operand{Affine{Of: x.from, Scale: t.Scale, Bias: t.Bias}, x.shape}, nil
}

// transpose swaps the two innermost dimensions.
type transpose struct{}

func (transpose) apply(_ *Model, _ int, x operand) (operand, error) {
	n := len(x.shape)
	if n < 2 {
		return x, fmt.Errorf("shape %v has nothing to transpose", x.shape)
	}
	batch := int64(1)
	for _, d := range x.shape[:n-2] {
		batch *= d
	}
	shape := slices.Clone(x.shape)
	shape[n-1], shape[n-2] = shape[n-2], shape[n-1]
	return operand{Transpose{Of: x.from, Batch: batch}, shape}, nil
}

// rows takes Count indices, from Start, of each group of Every along the last
// dimension but one; of a vector, along its only dimension. An empty Every is
// the whole dimension, an empty Start 0.
type rows struct{ Every, Start, Count string }

func (t rows) apply(m *Model, bid int, x operand) (operand, error) {
	axis := max(len(x.shape)-2, 0)
	every, start := x.shape[axis], int64(0)
	var err error
	if t.Every != "" {
		if every, err = m.eval(t.Every, bid); err != nil {
			return x, err
		}
	}
	if t.Start != "" {
		if start, err = m.eval(t.Start, bid); err != nil {
			return x, err
		}
	}
	count, err := m.eval(t.Count, bid)
	if err != nil {
		return x, err
	}
	if every <= 0 || x.shape[axis]%every != 0 || start < 0 || count <= 0 || start+count > every {
		return x, fmt.Errorf("shape %v has no rows %d to %d in groups of %d", x.shape, start, start+count, every)
	}
	shape := slices.Clone(x.shape)
	shape[axis] = shape[axis] / every * count
	if len(shape) == 1 {
		from := Rows{Of: Reshape{Of: x.from, Cols: 1}, Every: every, Start: start, Count: count}
		return operand{Reshape{Of: from, Cols: shape[0]}, shape}, nil
	}
	return operand{Rows{Of: x.from, Every: every, Start: start, Count: count}, shape}, nil
}

// reshape gives the same elements other dimensions.
type reshape struct{ Shape string }

func (t reshape) apply(m *Model, bid int, x operand) (operand, error) {
	shape, err := m.shape(t.Shape, bid)
	if err != nil {
		return x, err
	}
	rows, cols := rowsOf(shape)
	haveRows, haveCols := rowsOf(x.shape)
	if rows*cols != haveRows*haveCols {
		return x, fmt.Errorf("shape %v cannot be seen as %v", x.shape, shape)
	}
	if cols == haveCols {
		return operand{x.from, shape}, nil
	}
	return operand{Reshape{Of: x.from, Cols: cols}, shape}, nil
}

// ungroup takes rows that are stored in groups of Every, each of which has the
// same Parts, and puts all first parts first, then all second ones, and so on.
type ungroup struct {
	Every string
	Parts []string
}

func (t ungroup) apply(m *Model, bid int, x operand) (operand, error) {
	every, err := m.eval(t.Every, bid)
	if err != nil {
		return x, err
	}
	if len(x.shape) != 2 || every <= 0 || x.shape[0]%every != 0 {
		return x, fmt.Errorf("shape %v is not rows in groups of %d", x.shape, every)
	}
	var stack Stack
	start := int64(0)
	for _, part := range t.Parts {
		count, err := m.eval(part, bid)
		if err != nil {
			return x, err
		}
		stack.Parts = append(stack.Parts, Rows{Of: x.from, Every: every, Start: start, Count: count})
		start += count
	}
	if start != every {
		return x, fmt.Errorf("parts of a group of %d rows have %d", every, start)
	}
	return operand{stack, x.shape}, nil
}
