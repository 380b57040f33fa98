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
	Toolkit   string   // the folder with nvvm/libdevice, which graphs with exp or tanh are linked with
	Searched  []string // folders of Python packages
}

// cudaPlugin is where jax's packages (jax-cuda13-pjrt, jax-cuda12-pjrt) have
// the plugin, in a folder of packages.
const cudaPlugin = "jax_plugins/*/xla_cuda_plugin.so"

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
		plugins, _ := filepath.Glob(filepath.Join(folder, cudaPlugin))
		if len(plugins) == 0 {
			continue
		}
		c.Plugin = plugins[len(plugins)-1] // of the newest CUDA
		for _, l := range []string{"nvidia/cu13", "nvidia"} {
			if s, err := os.Stat(filepath.Join(folder, l)); err == nil && s.IsDir() {
				c.Libraries = filepath.Join(folder, l)
				break
			}
		}
		c.Toolkit = toolkit(filepath.Join(folder, "nvidia"))
		return c
	}
	return c
}

// toolkit looks for libdevice in NVIDIA's Python packages (nvidia-nvvm of CUDA
// 13, nvidia-cuda-nvcc of CUDA 12), and in an installed toolkit.
func toolkit(packages string) string {
	for _, folder := range []string{
		filepath.Join(packages, "cu13"), filepath.Join(packages, "cuda_nvcc"), os.Getenv("CUDA_HOME"), "/usr/local/cuda",
	} {
		if folder == "" {
			continue
		}
		if found, _ := filepath.Glob(filepath.Join(folder, "nvvm/libdevice/libdevice*.bc")); len(found) > 0 {
			return folder
		}
	}
	return ""
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

// prepare sets what the plugin and its loader read from the environment, but
// for what the user has set. The libraries are found by the plugin itself,
// which looks beside it, in ../../nvidia (its RPATH); the driver's libcuda.so.1
// by the system's loader.
func (c CUDA) prepare() error {
	const flags, checks = "XLA_FLAGS", "GOPJRT_CUDA_CHECKS"
	// The loader looks for the libraries in one place only, and warns.
	if c.Libraries != "" && os.Getenv(checks) == "" {
		if err := os.Setenv(checks, "0"); err != nil {
			return fmt.Errorf("set %s: %w", checks, err)
		}
	}
	value := os.Getenv(flags)
	if c.Toolkit == "" || strings.Contains(value, "--xla_gpu_cuda_data_dir") {
		return nil
	}
	if err := os.Setenv(flags, strings.TrimSpace(value+" --xla_gpu_cuda_data_dir="+c.Toolkit)); err != nil {
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
