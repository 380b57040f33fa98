//go:build !purego

package convert

import "golang.org/x/sys/cpu"

// scanStep is what scan takes at once, in bytes.
const scanStep = 128

// scan says whether p, whose length is a multiple of scanStep, may hold an
// element that is not finite. Plain Go looks at what it does not take.
var scan = detectScan()

func detectScan() func(p []byte, l lanes) bool {
	if !cpu.X86.HasAVX2 {
		return nil
	}
	return func(p []byte, l lanes) bool {
		return len(p) > 0 && scanAVX2(&p[0], len(p), l.mask, l.one, l.top)
	}
}

// scanAVX2 adds one to each masked lane and says whether a top bit came up.
// n is a multiple of scanStep and not 0.
//
//go:noescape
func scanAVX2(p *byte, n int, mask, one, top uint64) bool
