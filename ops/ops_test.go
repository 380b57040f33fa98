package ops

import (
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/modelpipe/modelpipe/ops/plain"
	"github.com/modelpipe/modelpipe/ops/spec"
)

// testDevices are the Go backend, and XLA where MODELPIPE_XLA_PLUGIN names a
// plugin.
func testDevices(t testing.TB) []*Device {
	names := []string{"cpu"}
	if p := os.Getenv("MODELPIPE_XLA_PLUGIN"); p != "" {
		names = append(names, "xla:"+p)
	}
	var devices []*Device
	for _, name := range names {
		d, err := Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		devices = append(devices, d)
	}
	return devices
}

// nmse is sum((got-want)^2) / sum(want^2).
func nmse(got []float32, want [][]float64) float64 {
	var difference, squares float64
	i := 0
	for _, row := range want {
		for _, w := range row {
			d := float64(got[i]) - w
			difference += d * d
			squares += w * w
			i++
		}
	}
	if i != len(got) {
		return math.Inf(1)
	}
	return difference / squares
}

// TestEqualsPlain runs random specifications on every device and in float64.
func TestEqualsPlain(t *testing.T) {
	n := 60
	if testing.Short() {
		n = 15
	}
	for _, d := range testDevices(t) {
		for seed := range uint64(n) {
			causal := seed%4 != 0
			m := randomModel(seed, causal)
			t.Run(fmt.Sprint(d.Name(), " ", seed), func(t *testing.T) {
				ids := randomIDs(m, seed, 5+int(seed%13))
				want, err := plain.Forward(t.Context(), m, ids)
				if err != nil {
					t.Fatal(err)
				}
				got, err := Logits(t.Context(), d, m, ids, Options{})
				if err != nil {
					t.Fatal(err)
				}
				e := nmse(got, want)
				t.Logf("NMSE %g", e)
				if !(e < 1e-9) {
					t.Errorf("NMSE %g", e)
				}
			})
		}
	}
}

var _ = spec.None
