// Package quantize holds ggml's block codecs, llama-quantize's presets and
// importance matrices.
package quantize

import "github.com/modelpipe/modelpipe/gguf"

// Codec encodes and decodes the rows of one tensor type.
type Codec struct {
	Type gguf.Type

	// Encode writes the blocks of whole rows of cols weights each. len(src)
	// is a multiple of cols, cols a multiple of the type's block length, and
	// dst has exactly the encoded size. importance holds cols non-negative
	// weights, one per column, or is nil; types that know no importance
	// ignore it. The bytes are those of ggml's reference quantizers built
	// without fused multiply-add.
	Encode func(dst []byte, src []float32, cols int, importance []float32)

	// Decode writes the exact values of whole blocks; len(dst) is the number
	// of weights that src holds.
	Decode func(dst []float32, src []byte)

	// NeedsImportance says that ggml refuses to encode this type without an
	// importance matrix.
	NeedsImportance bool
}

var codecs = map[gguf.Type]Codec{}

// register adds a row to the table of codecs; each codec file calls it from
// its init function.
func register(c Codec) { codecs[c.Type] = c }

// Lookup returns the codec of t, or false where there is none.
func Lookup(t gguf.Type) (Codec, bool) {
	c, ok := codecs[t]
	return c, ok
}
