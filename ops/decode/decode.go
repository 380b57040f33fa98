// Package decode reads ggml's blocks on an accelerator: the decoders of package
// quantize as graphs over bytes that are uploaded as a file has them.
//
// A weight is a product of a binary16 scale and of small integers, for some
// types less a second such product. Each product has at most 24 significant
// bits, so it is exact, and one difference rounds once: fused or reordered, the
// values are those of package quantize bit for bit. Only NaNs can differ, in
// their payloads, and where a device flushes subnormal numbers to zero.
//
//	weights := decode.Weights(gguf.Q4_K, rows, cols)
package decode

import (
	"maps"
	"slices"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/modelpipe/modelpipe/gguf"
)

// decoders has one row per type: from the bytes of blocks, [blocks, bytes of a
// block], to their weights, [blocks, ...]. Each family's file adds its own.
var decoders = map[gguf.Type]func(b *Node) *Node{}

func register(t gguf.Type, build func(b *Node) *Node) { decoders[t] = build }

// Types returns the types that can be decoded, in the order of their ids.
func Types() []gguf.Type { return slices.Sorted(maps.Keys(decoders)) }

// Can reports whether a type has a graph.
func Can(t gguf.Type) bool { return decoders[t] != nil }

// Weights returns the weights, float32 of [rows, cols], of rows of a type that
// can be decoded, as they are stored: uint8 of [rows, bytes of a row]. Like the
// library's operations it panics where the shapes do not fit.
func Weights(t gguf.Type, stored *Node, cols int) *Node {
	rows := stored.Shape().Dimensions[0]
	blocks := rows * cols / int(t.BlockElements())
	return Reshape(decoders[t](Reshape(stored, blocks, int(t.BlockBytes()))), rows, cols)
}
