package convert

import (
	"fmt"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
)

// A Matrix says how the rows of an output tensor come from the source: a
// tree of plain values whose leaves are source tensors. It holds no data and
// no open file, so that a Plan can be printed and compared. Every tensor of
// more than two dimensions is seen as rows of its innermost one: a stack of
// experts [E, out, in] is E*out rows of in columns. A tensor of one dimension
// is one row.
//
// Nodes are values, never pointers. Check says whether a tree is consistent;
// Dims of an inconsistent one is meaningless.
type Matrix interface {
	// Dims returns the number of rows and the length of a row.
	Dims() (rows, cols int64)
	// String names the sources and what is done to them, for plans and errors.
	String() string
}

// Leaf is a tensor of the checkpoint, read as it is stored.
type Leaf struct {
	File   string  // path in the source
	Name   string  // tensor name in the file
	DType  string  // safetensors dtype, or ggml type name where the file is a GGUF
	Shape  []int64 // outermost first, as Hugging Face writes it
	Offset int64   // of the first byte in File
	Size   int64   // bytes
}

// Stack is the rows of its parts one after the other: experts that become one
// 3-D tensor, or q, k and v that are fused. All parts have the same columns.
type Stack struct{ Parts []Matrix }

// Rows takes Count rows, from Start, of each group of Every rows. A plain
// split has one group (Every is the number of rows); Every 2 and Count 1
// takes interleaved rows apart; the heads of a fused projection are groups.
type Rows struct {
	Of                  Matrix
	Every, Start, Count int64
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

// Affine is x*Scale + Bias for each element, in float32. Where Of is stored
// in half precision the result is rounded to it, as upstream's tensors are,
// which keep float16 and take everything else to float32.
type Affine struct {
	Of          Matrix
	Scale, Bias float32
}

// Constant holds values that the config fixes, such as RoPE factors.
type Constant struct {
	Cols   int64
	Values []float32
}

// Unpack is the unsigned integers of Bits bits that are packed into the
// integers of a tensor. Several rows of values share a row of integers where
// Down is set, several columns where it is not. Slot i of an integer holds
// the value Order[i] places after its first, and slot 0 is the lowest bits.
type Unpack struct {
	Of         Leaf
	Bits       int
	Down       bool
	Order      []int // a permutation of the slots
	Planes     bool  // slot i is plane i: the values of a slot are contiguous rows (with Down)
	Rows, Cols int64 // without the padding at the end of the packed dimension
}

// Scaled is (x - zero) * scale for weights that are stored as codes with one
// scale, and perhaps one zero point, for a block of GroupRows x GroupCols of
// them. Scale and Zero have one element per block; a GroupRows or GroupCols
// that reaches over all rows or columns says that there is one scale for all.
type Scaled struct {
	Of                   Matrix
	Scale                Matrix
	Zero                 Matrix // nil where the codes are centred
	GroupRows, GroupCols int64
	Index                Leaf // row r uses row Index[r] of Scale and Zero (GPTQ's g_idx); no Name where there is none
	Inverse              bool // divide by the scale
}

// MXFP4 is blocks of 32 4-bit floats with one power of two each, as gpt-oss
// stores them: Blocks is [..., n, 16] with element 2i in the low and 2i+1 in
// the high half of byte i, Scales is [..., n].
type MXFP4 struct{ Blocks, Scales Leaf }

func product(dims []int64) int64 {
	n := int64(1)
	for _, d := range dims {
		n *= d
	}
	return n
}

func (m Leaf) Dims() (rows, cols int64) {
	if len(m.Shape) == 0 {
		return 1, 1
	}
	last := len(m.Shape) - 1
	return product(m.Shape[:last]), m.Shape[last]
}

func (m Stack) Dims() (rows, cols int64) {
	for _, p := range m.Parts {
		r, c := p.Dims()
		rows, cols = rows+r, c
	}
	return rows, cols
}

func (m Rows) Dims() (rows, cols int64) {
	rows, cols = m.Of.Dims()
	if m.Every < 1 {
		return 0, cols
	}
	return rows / m.Every * m.Count, cols
}

func (m RopePermute) Dims() (rows, cols int64) { return m.Of.Dims() }

func (m Transpose) Dims() (rows, cols int64) {
	rows, cols = m.Of.Dims()
	if m.Batch < 1 {
		return 0, 0
	}
	return cols * m.Batch, rows / m.Batch
}

func (m Reshape) Dims() (rows, cols int64) {
	rows, cols = m.Of.Dims()
	if m.Cols < 1 {
		return 0, 0
	}
	return rows * cols / m.Cols, m.Cols
}

func (m Pad) Dims() (rows, cols int64) {
	_, cols = m.Of.Dims()
	return m.Count, cols
}

func (m Affine) Dims() (rows, cols int64) { return m.Of.Dims() }

func (m Constant) Dims() (rows, cols int64) {
	if m.Cols < 1 {
		return 0, 0
	}
	return int64(len(m.Values)) / m.Cols, m.Cols
}

func (m Unpack) Dims() (rows, cols int64) { return m.Rows, m.Cols }

func (m Scaled) Dims() (rows, cols int64) { return m.Of.Dims() }

func (m MXFP4) Dims() (rows, cols int64) {
	rows, n := m.Scales.Dims()
	return rows, n * 32
}

func (m Leaf) String() string { return m.Name }

func (m Stack) String() string {
	if len(m.Parts) > 3 {
		return fmt.Sprintf("stack(%v, ... %v)", m.Parts[0], m.Parts[len(m.Parts)-1])
	}
	parts := make([]string, len(m.Parts))
	for i, p := range m.Parts {
		parts[i] = p.String()
	}
	return "stack(" + strings.Join(parts, ", ") + ")"
}

func (m Rows) String() string {
	rows, _ := m.Of.Dims()
	if rows == m.Every {
		return fmt.Sprintf("%v[%d:%d]", m.Of, m.Start, m.Start+m.Count)
	}
	return fmt.Sprintf("%v[%d:%d of %d]", m.Of, m.Start, m.Start+m.Count, m.Every)
}

func (m RopePermute) String() string { return fmt.Sprintf("rope_permute(%v, %d heads)", m.Of, m.Heads) }
func (m Transpose) String() string   { return fmt.Sprintf("transpose(%v)", m.Of) }
func (m Reshape) String() string     { return fmt.Sprintf("reshape(%v, %d)", m.Of, m.Cols) }
func (m Pad) String() string         { return fmt.Sprintf("pad(%v, %d)", m.Of, m.Count) }
func (m Affine) String() string      { return fmt.Sprintf("%v*%g%+g", m.Of, m.Scale, m.Bias) }
func (m Constant) String() string    { return fmt.Sprintf("constant(%d)", len(m.Values)) }
func (m Unpack) String() string      { return fmt.Sprintf("unpack(%v, %d bits)", m.Of, m.Bits) }
func (m Scaled) String() string      { return fmt.Sprintf("scaled(%v, %v)", m.Of, m.Scale) }
func (m MXFP4) String() string       { return fmt.Sprintf("mxfp4(%v)", m.Blocks) }

// Step renders one output tensor.
type Step struct {
	Name   string
	Type   gguf.Type
	Shape  []int64 // ne order: Shape[0] is the row length
	Offset int64   // of the first byte in the output file
	Size   int64   // bytes, without padding
	From   Matrix
}
