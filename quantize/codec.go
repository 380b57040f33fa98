// Package quantize holds ggml's block codecs, llama-quantize's presets and
// importance matrices.
//
// Every tensor type has one row in a table: a [Codec]. The row written in
// plain Go is the definition of the type; where a processor has a faster way,
// [Lookup] returns that one, and tests hold the two byte-identical.
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

// definitions holds the plain rows.
var definitions = map[gguf.Type]Codec{}

// register adds the plain row of a type; each codec file calls it from its
// init function.
func register(c Codec) { definitions[c.Type] = c }

// instructionSet holds the faster functions of the types that have some for
// it; a nil function leaves the plain one.
type instructionSet struct {
	name   string
	codecs map[gguf.Type]Codec
}

// instructionSets are those that this processor can run, best first.
var instructionSets = detectInstructionSets()

// accelerate adds faster functions for a type, written for the named
// instruction set; they are ignored where the processor lacks it.
func accelerate(name string, c Codec) {
	for _, set := range instructionSets {
		if set.name == name {
			set.codecs[c.Type] = c
		}
	}
}

// Lookup returns the fastest codec of t that this processor can run, or false
// where there is none.
func Lookup(t gguf.Type) (Codec, bool) {
	c, ok := definitions[t]
	if !ok {
		return Codec{}, false
	}
	for i := len(instructionSets) - 1; i >= 0; i-- {
		c = instructionSets[i].apply(c)
	}
	return c, true
}

// apply returns c with the functions that s has for its type.
func (s instructionSet) apply(c Codec) Codec {
	fast := s.codecs[c.Type]
	if fast.Encode != nil {
		c.Encode = fast.Encode
	}
	if fast.Decode != nil {
		c.Decode = fast.Decode
	}
	return c
}

// Definition returns the plain Go codec of t, or false where there is none.
// It yields the same bytes and values as the codec of [Lookup], slowly.
func Definition(t gguf.Type) (Codec, bool) {
	c, ok := definitions[t]
	return c, ok
}
