package ops

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFindCUDA finds a plugin and its libraries in a virtual environment.
func TestFindCUDA(t *testing.T) {
	env := t.TempDir()
	packages := filepath.Join(env, "lib/python3.12/site-packages")
	plugin := filepath.Join(packages, "jax_plugins/xla_cuda13/xla_cuda_plugin.so")
	libraries := filepath.Join(packages, "nvidia/cu13")
	for _, dir := range []string{filepath.Dir(plugin), libraries} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(plugin, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VIRTUAL_ENV", env)
	c := FindCUDA()
	if c.Plugin != plugin || c.Libraries != libraries {
		t.Errorf("%+v", c)
	}
	t.Setenv("XLA_FLAGS", "--xla_dump_to=x")
	t.Setenv("GOPJRT_CUDA_CHECKS", "")
	for range 2 {
		if err := c.prepare(); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := os.Getenv("XLA_FLAGS"), "--xla_dump_to=x --xla_gpu_cuda_data_dir="+libraries; got != want {
		t.Errorf("XLA_FLAGS %q, want %q", got, want)
	}
	if len(c.Searched) == 0 || !strings.HasPrefix(c.Searched[0], env) {
		t.Errorf("searched %v", c.Searched)
	}
}
