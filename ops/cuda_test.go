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
	for _, file := range []string{plugin, filepath.Join(libraries, "nvvm/libdevice/libdevice.10.bc")} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("VIRTUAL_ENV", env)
	c := FindCUDA()
	if c.Plugin != plugin || c.Libraries != libraries || c.Toolkit != libraries {
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

// TestCUDAUnusable says why a plugin that is there cannot be used.
func TestCUDAUnusable(t *testing.T) {
	if !XLA {
		t.Skip("this build cannot load plugins")
	}
	env := t.TempDir()
	plugin := filepath.Join(env, "lib/python3.12/site-packages/jax_plugins/xla_cuda13/xla_cuda_plugin.so")
	if err := os.MkdirAll(filepath.Dir(plugin), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(plugin, []byte("no library"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VIRTUAL_ENV", env)
	t.Setenv("GOPJRT_CUDA_CHECKS", "0")
	t.Setenv("XLA_FLAGS", "")
	for _, name := range []string{"cuda", "xla:" + plugin} {
		d, err := Open(name)
		if err == nil {
			d.Close()
			t.Fatalf("%s: a file that is no library is opened", name)
		}
		for _, want := range []string{"device " + name, plugin} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v: want %q", name, err, want)
			}
		}
	}
}

// TestNoPlugin names what is missing, and where it was looked for.
func TestNoPlugin(t *testing.T) {
	env := t.TempDir()
	t.Setenv("VIRTUAL_ENV", env)
	t.Setenv("XLA_FLAGS", "")
	if err := os.MkdirAll(filepath.Join(env, "lib/python3.12/site-packages"), 0o755); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(env, "none.so")
	cases := map[string][]string{"xla:" + missing: {"device xla:", missing}, "xla:none.so": {"absolute path"}, "tpu": {`device "tpu"`, "want cpu, cuda"}}
	if FindCUDA().Plugin == "" {
		cases["cuda"] = []string{"jax-cuda13-pjrt", filepath.Join(env, "lib/python3.12/site-packages")}
	}
	for name, wants := range cases {
		d, err := Open(name)
		if err == nil {
			d.Close()
			t.Errorf("%s: is opened", name)
			continue
		}
		if !XLA && strings.HasPrefix(name, "xla:/") {
			wants = []string{"takes cgo"}
		}
		for _, want := range wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v: want %q", name, err, want)
			}
		}
	}
}
