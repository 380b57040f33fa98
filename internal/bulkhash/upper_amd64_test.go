//go:build !purego

package bulkhash

import (
	"hash"
	"hash/crc32"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/cpu"
)

// avxInUse is the bit of the upper halves in stateInUse.
const avxInUse = 1 << 2

// dirtier looks at the upper halves in each write, and leaves them in use.
type dirtier struct {
	hash.Hash
	writes, dirty int
}

func (d *dirtier) Write(p []byte) (int, error) {
	d.writes++
	if stateInUse()&avxInUse != 0 {
		d.dirty++
	}
	n, err := d.Hash.Write(p)
	fillUpper()
	return n, err
}

// TestUpperHalvesAreClear asks the processor: whatever happened to the vector
// registers before, a piece is hashed with their upper halves clear.
func TestUpperHalvesAreClear(t *testing.T) {
	if info, err := os.ReadFile("/proc/cpuinfo"); err != nil || !strings.Contains(string(info), " xgetbv1") || !cpu.X86.HasAVX2 {
		t.Skip("needs AVX2, XGETBV with ECX=1 and /proc/cpuinfo")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fillUpper()
	if stateInUse()&avxInUse == 0 {
		t.Skip("the processor does not say that the upper halves are in use")
	}
	d := &dirtier{Hash: crc32.NewIEEE()}
	h := New(d)
	for range 100 {
		fillUpper()
		h.Write(make([]byte, 3*pieceBytes))
	}
	// A preemption between the clearing and the look may set them again.
	if d.writes != 300 || d.dirty > 3 {
		t.Errorf("the upper halves were in use in %d of %d pieces", d.dirty, d.writes)
	}
}
