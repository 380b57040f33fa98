package convert

import (
	"context"
	"fmt"
	"io/fs"
	"slices"

	"github.com/modelpipe/modelpipe/safetensors"
)

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

// ReadCheckpoint reads the headers of a source's safetensors files, whichever
// there are, and nothing of their data. Where the config says that the weights
// are quantized, the tensors are the weights meant, and their scales, zero
// points and packings are no tensors any more.
func ReadCheckpoint(ctx context.Context, src fs.FS, config *Config) (*Checkpoint, error) {
	files, err := safetensors.Open(ctx, src)
	if err != nil {
		return nil, err
	}
	defer files.Close()
	c := &Checkpoint{}
	for _, f := range files.Files {
		c.Files = append(c.Files, f.Name)
	}
	for f, t := range files.All() {
		c.Stored = append(c.Stored, Leaf{File: f.Name, Name: t.Name, DType: t.DType.String(), Shape: t.Shape, Offset: f.DataOffset + t.Offset, Size: t.Size})
	}
	q, err := readQuantization(src, config)
	if err != nil {
		return nil, err
	}
	if c.Tensors, err = dequantize(c.Stored, q); err != nil {
		return nil, err
	}
	c.byName = make(map[string]int, len(c.Tensors))
	for i, t := range c.Tensors {
		if _, twice := c.byName[t.Name]; twice {
			return nil, fmt.Errorf("tensor %s is there twice, once quantized", t.Name)
		}
		c.byName[t.Name] = i
	}
	return c, nil
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
