//go:build !(amd64 || arm64) || purego

package quantize

// detectInstructionSets finds none: every type is encoded by its definition.
func detectInstructionSets() []instructionSet { return nil }
