//go:build arm64 && !purego

package quantize

import "github.com/modelpipe/modelpipe/gguf"

// detectInstructionSets returns NEON, which every arm64 processor has.
func detectInstructionSets() []instructionSet {
	return []instructionSet{{"neon", map[gguf.Type]Codec{}}}
}
