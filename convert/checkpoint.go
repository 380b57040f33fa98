package convert

import "slices"

// Tensor is a tensor of a checkpoint as the architecture table sees it: the
// weights that a quantized checkpoint stands for, not the way it packs them.
type Tensor struct {
	Name  string
	DType string  // as stored, "F32" where it is dequantized, "MXFP4" where it can be repacked
	Shape []int64 // outermost first
	From  Matrix
}

// Checkpoint is the tensors of a source.
type Checkpoint struct {
	Tensors []Tensor // in the order of the files
	Stored  []Leaf   // what the files hold, with the scales and packings
	Files   []string // in the order in which they are read

	byName map[string]int
}

// Get returns the tensor of that name.
func (c *Checkpoint) Get(name string) (Tensor, bool) {
	i, ok := c.byName[name]
	if !ok {
		return Tensor{}, false
	}
	return c.Tensors[i], true
}

// Names returns the names of all tensors, sorted.
func (c *Checkpoint) Names() []string {
	names := make([]string, 0, len(c.Tensors))
	for _, t := range c.Tensors {
		names = append(names, t.Name)
	}
	slices.Sort(names)
	return names
}
