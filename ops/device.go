package ops

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
)

// A Device computes graphs. Evaluations share its compiled graphs, and may run
// at the same time.
type Device struct {
	name       string
	backend    compute.Backend
	shares     bool // its tensors are in the host's memory, open to us
	decodes    bool // quantized weights are brought to it as they are stored
	concurrent int  // graphs that it computes best side by side
	batch      int  // tokens that suit it

	mu       sync.Mutex
	programs map[string]*program
}

// Open returns the device of a name:
//
//   - "cpu": gomlx's Go backend; fast where modelpipe is built with
//     GOEXPERIMENT=simd, and slow otherwise
//   - "xla:/path/plugin.so": XLA through that PJRT plugin
//   - "cuda": XLA on an NVIDIA GPU, with the plugin that CUDAPlugin finds
//   - "auto" or "": cuda where a GPU and its plugin are there, else cpu
//
// Nothing is ever downloaded.
func Open(device string) (d *Device, err error) {
	defer recovered(&err)
	kind, plugin, _ := strings.Cut(device, ":")
	switch {
	case device == "cpu":
		// Operations run one after the other, each on all cores: side by side
		// they take all workers of the pool and then wait for workers.
		b, err := gobackend.New("ops_sequential")
		if err != nil {
			return nil, fmt.Errorf("device cpu: %w", err)
		}
		// Many of its operations use one core: sequences side by side use all.
		return &Device{name: "cpu", backend: b, shares: true, concurrent: runtime.GOMAXPROCS(0), batch: 512, programs: map[string]*program{}}, nil
	case kind == "xla":
		if !filepath.IsAbs(plugin) {
			return nil, fmt.Errorf("device %s: want xla: and the absolute path of a PJRT plugin", device)
		}
		return openXLA(device, plugin, 2048)
	case device == "cuda":
		p := FindCUDA()
		if p.Plugin == "" {
			return nil, fmt.Errorf("device cuda: no xla_cuda_plugin.so of the Python package jax-cuda13-pjrt or jax-cuda12-pjrt in %s", strings.Join(p.Searched, ", "))
		}
		if err := p.prepare(); err != nil {
			return nil, fmt.Errorf("device cuda: %w", err)
		}
		return openXLA(device, p.Plugin, 8192)
	case device == "auto" || device == "":
		return Open(Auto())
	}
	return nil, fmt.Errorf("device %q: want cpu, cuda, auto or xla:/path/to/plugin.so", device)
}

// Name is what the device was opened as, with auto resolved.
func (d *Device) Name() string { return d.name }

// Description is what the backend says about itself and its hardware.
func (d *Device) Description() string {
	return strings.TrimSpace(d.backend.Description() + " " + d.backend.DeviceDescription(0))
}

// Close frees what the device holds. No evaluation may be running.
func (d *Device) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.programs {
		p.graph.Finalize()
	}
	d.programs = nil
	d.backend.Finalize()
}
