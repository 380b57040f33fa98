package ops

import (
	"errors"

	"github.com/gomlx/compute"
)

// A Device computes graphs.
type Device struct {
	name    string
	backend compute.Backend
}

// Open returns the device of a name:
//
//   - "cpu": gomlx's Go backend; fast where modelpipe is built with
//     GOEXPERIMENT=simd, and slow otherwise
//   - "xla:/path/plugin.so": XLA through that PJRT plugin, which is not
//     searched for or downloaded
//   - "cuda": XLA on an NVIDIA GPU, with the plugin of the Python package
//     jax-cuda12-pjrt or jax-cuda13-pjrt, see Plugins
//   - "auto" or "": cuda where a GPU and its plugin are there, else cpu
func Open(device string) (*Device, error) {
	return open(device)
}

// Name is what the device was opened as, with auto resolved.
func (d *Device) Name() string { return d.name }

// Close frees what the device holds.
func (d *Device) Close() {
	d.backend.Finalize()
}

func open(device string) (*Device, error) { return nil, errors.ErrUnsupported }
