//go:build amd64 && !purego

package quantize

import (
	"golang.org/x/sys/cpu"

	"github.com/modelpipe/modelpipe/gguf"
)

// detectInstructionSets returns AVX-512 (F, BW, DQ, VL) and AVX2 with F16C and BMI
// where the processor and the operating system support them.
func detectInstructionSets() []instructionSet {
	var sets []instructionSet
	x := &cpu.X86
	// With AVX2 comes F16C: no processor has one without the other.
	avx2 := x.HasAVX2 && x.HasBMI1 && x.HasBMI2 && x.HasPOPCNT
	if avx2 && x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL {
		sets = append(sets, instructionSet{"avx512", map[gguf.Type]Codec{}})
	}
	if avx2 {
		sets = append(sets, instructionSet{"avx2", map[gguf.Type]Codec{}})
	}
	return sets
}
