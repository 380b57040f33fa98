package ops

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// xlaPackage carries XLA's CPU plugin.
const xlaPackage = "lammps-jax-pjrt-cpu==0.11.2"

// TestLargeXLA installs XLA's CPU plugin and holds its graphs to the same
// definition. MODELPIPE_XLA_PLUGIN names one that is there already.
func TestLargeXLA(t *testing.T) {
	if os.Getenv("MODELPIPE_LARGE") == "" {
		t.Skip("set MODELPIPE_LARGE=1: installs XLA's CPU plugin from PyPI")
	}
	if !XLA {
		t.Skip("this build cannot load plugins")
	}
	if os.Getenv("MODELPIPE_XLA_PLUGIN") == "" {
		dir, err := filepath.Abs("../out/large/xla")
		if err != nil {
			t.Fatal(err)
		}
		plugin := filepath.Join(dir, "lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so")
		if _, err := os.Stat(plugin); err != nil {
			out, err := exec.CommandContext(t.Context(), "python3", "-m", "pip", "-q", "install", "--no-deps", "--target", dir, xlaPackage).CombinedOutput()
			if err != nil {
				t.Fatalf("install %s: %v\n%s", xlaPackage, err, out)
			}
		}
		t.Setenv("MODELPIPE_XLA_PLUGIN", plugin)
	}
	t.Run("try", func(t *testing.T) {
		for _, d := range testDevices(t) {
			if rate, err := d.Try(); err != nil || rate <= 0 {
				t.Errorf("%s: %v operations a second, %v", d.Name(), rate, err)
			}
		}
	})
	t.Run("plain", TestEqualsPlain)
	t.Run("compare", TestCompare)
	t.Run("calibrate", TestCalibrate)
	t.Run("greedy", TestGreedy)
	t.Run("embed", TestEmbed)
	t.Run("information", TestFisherPredictsKLD)
	t.Run("encoders", TestEncoders)
	t.Run("requantize", TestEncodersRequantize)
	t.Run("decoders", TestDecoders)
	t.Run("stored", TestStored)
	t.Run("stored fails", TestStoredFails)
	t.Run("device gone", TestDeviceGone)
}
