package convert

import "github.com/modelpipe/modelpipe/gguf"

// A Matrix says how the rows of an output tensor come from the source: a
// tree of plain values whose leaves are source tensors. It holds no data and
// no open file, so that a Plan can be printed and compared. Every tensor of
// more than two dimensions is seen as rows of its innermost one: a stack of
// experts [E, out, in] is E*out rows of in columns.
type Matrix interface {
	// Dims returns the number of rows and the length of a row.
	Dims() (rows, cols int64)
	// String names the sources and what is done to them, for plans and errors.
	String() string
}

// Leaf is a tensor of the checkpoint, read as it is stored.
type Leaf struct {
	File   string // path in the source
	Name   string // tensor name in the file
	DType  string // safetensors dtype, or ggml type name where the file is a GGUF
	Shape  []int64
	Offset int64 // of the first byte in File
	Size   int64 // bytes
}

// Stack is the rows of its parts one after the other: experts that become one
// 3-D tensor, or q, k and v that are fused.
type Stack struct{ Parts []Matrix }

// Rows selects Count rows of Of: Start, Start+Step, Start+2*Step, ...
// It splits fused tensors (Step 1) and takes interleaved ones apart (Step 2).
type Rows struct {
	Of                 Matrix
	Start, Count, Step int64
}

// RopePermute reorders the rows of a query or key projection from the
// rotate-half layout of transformers to ggml's interleaved pairs: within each
// of the Heads heads, reshape(2, d/2).swapaxes(0, 1).
type RopePermute struct {
	Of    Matrix
	Heads int64
}

// Transpose swaps rows and columns of each of Batch equally tall parts.
type Transpose struct {
	Of    Matrix
	Batch int64 // 1 for a plain matrix
}

// Reshape reads the same elements as rows of Cols columns.
type Reshape struct {
	Of   Matrix
	Cols int64
}

// Pad appends rows of zeros until there are Count.
type Pad struct {
	Of    Matrix
	Count int64
}

// Affine is x*Scale + Bias for each element, in float32.
type Affine struct {
	Of          Matrix
	Scale, Bias float32
}

// Constant holds values that the config fixes, such as RoPE factors.
type Constant struct {
	Cols   int64
	Values []float32
}

// Step renders one output tensor.
type Step struct {
	Name   string
	Type   gguf.Type
	Shape  []int64 // ne order: Shape[0] is the row length
	Offset int64   // of the first byte in the output file
	Size   int64   // bytes, without padding
	From   Matrix
}
