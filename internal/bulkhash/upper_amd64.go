//go:build !purego

package bulkhash

import "golang.org/x/sys/cpu"

// clearUpper zeroes the upper halves of the vector registers.
func clearUpper() {
	if cpu.X86.HasAVX {
		vzeroupper()
	}
}

func vzeroupper()

// fillUpper sets the upper halves of the registers that SHA-256 uses. AVX2 is
// needed.
func fillUpper()

// stateInUse is the processor's bitmap of the extended states that are not in
// their initial configuration. XGETBV with ECX=1 is needed.
func stateInUse() uint32
