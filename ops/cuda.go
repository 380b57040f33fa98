package ops

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// CUDA is what XLA needs for an NVIDIA GPU, as far as it was found.
type CUDA struct {
	GPUs      []string // device files
	Plugin    string   // xla_cuda_plugin.so
	Libraries string   // the folder of NVIDIA's libraries that are Python packages
	Searched  []string // folders of Python packages
}

// cudaPackages are where jax's packages have the plugin, in a folder of
// packages; the newest CUDA first.
var cudaPackages = []string{"jax_plugins/xla_cuda13", "jax_plugins/xla_cuda12"}

// FindCUDA looks for GPUs, and for the plugin in the folders of Python packages:
// those of $VIRTUAL_ENV, of the python3 in $PATH, and of the usual places.
func FindCUDA() CUDA {
	var c CUDA
	c.GPUs, _ = filepath.Glob("/dev/nvidia[0-9]*")
	add := func(folders ...string) {
		for _, f := range folders {
			if f != "" && !slices.Contains(c.Searched, f) {
				c.Searched = append(c.Searched, f)
			}
		}
	}
	glob := func(pattern string) {
		folders, _ := filepath.Glob(pattern)
		slices.Reverse(folders) // the newest Python first
		add(folders...)
	}
	if env := os.Getenv("VIRTUAL_ENV"); env != "" {
		glob(filepath.Join(env, "lib/python3*/site-packages"))
	}
	add(pythonFolders()...)
	for _, pattern := range []string{"/opt/*/.venv", "/opt/*", "/opt/*/*", "/usr/local", "/usr"} {
		glob(pattern + "/lib/python3*/site-packages")
		glob(pattern + "/lib/python3*/dist-packages")
	}
	for _, folder := range c.Searched {
		for _, p := range cudaPackages {
			plugin := filepath.Join(folder, p, "xla_cuda_plugin.so")
			if _, err := os.Stat(plugin); err != nil {
				continue
			}
			c.Plugin = plugin
			for _, l := range []string{"nvidia/cu13", "nvidia"} {
				if s, err := os.Stat(filepath.Join(folder, l)); err == nil && s.IsDir() {
					c.Libraries = filepath.Join(folder, l)
					break
				}
			}
			return c
		}
	}
	return c
}

// pythonFolders asks python3 for the folders of its packages.
func pythonFolders() []string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "python3", "-c", "import sys; print('\\n'.join(sys.path))").Output()
	if err != nil {
		return nil
	}
	var folders []string
	for line := range strings.Lines(string(out)) {
		if f := strings.TrimSpace(line); strings.HasSuffix(f, "-packages") {
			folders = append(folders, f)
		}
	}
	return folders
}

// prepare sets what the plugin reads from the environment.
func (c CUDA) prepare() error {
	const flags = "XLA_FLAGS"
	value := os.Getenv(flags)
	if c.Libraries == "" || strings.Contains(value, "--xla_gpu_cuda_data_dir") {
		return nil
	}
	if err := os.Setenv(flags, strings.TrimSpace(value+" --xla_gpu_cuda_data_dir="+c.Libraries)); err != nil {
		return fmt.Errorf("set %s: %w", flags, err)
	}
	return nil
}

// Auto is the device that "auto" stands for: cuda where this build can load
// plugins, there is a GPU, and its plugin is found; else cpu.
func Auto() string {
	if !XLA {
		return "cpu"
	}
	if gpus, _ := filepath.Glob("/dev/nvidia[0-9]*"); len(gpus) == 0 {
		return "cpu"
	}
	if FindCUDA().Plugin == "" {
		return "cpu"
	}
	return "cuda"
}
