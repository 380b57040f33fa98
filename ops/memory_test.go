package ops

import (
	"runtime"
	"testing"
)

// TestMemory: eight times the layers need no more memory, as the next layer is
// all that is read ahead.
func TestMemory(t *testing.T) {
	d := testDevices(t)[0]
	peak := func(layers int) int64 {
		m := llama(layers, 300, 128, 512, 4, 2)
		chunks := [][]int32{randomIDs(m, 1, 32), randomIDs(m, 2, 32)}
		live := func() int64 {
			runtime.GC()
			runtime.GC() // what a pool held goes with the second
			var s runtime.MemStats
			runtime.ReadMemStats(&s)
			return int64(s.HeapAlloc)
		}
		before, most := live(), int64(0)
		if _, err := Compare(t.Context(), d, m, m, chunks, Options{Progress: func(Progress) { most = max(most, live()) }}); err != nil {
			t.Fatal(err)
		}
		return most - before
	}
	peak(2)
	layer := int64(4 * (2*128*128 + 2*64*128 + 3*512*128))
	small, large := peak(2), peak(16)
	t.Logf("a layer has %d bytes of weights; 2 layers: %d, 16 layers: %d", layer, small, large)
	if small < layer {
		t.Errorf("%d bytes with 2 layers: less than the layer of %d that is being computed", small, layer)
	}
	if large > small+layer/2 {
		t.Errorf("%d bytes with 16 layers, %d with 2", large, small)
	}
}
