//go:build cgo && linux && amd64

package ops

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/go-xla/compute/xla"
)

// XLA says whether this build can load PJRT plugins.
const XLA = true

// openXLA loads a plugin. TF32 would round the inputs of products to 10 bits.
func openXLA(name, plugin string, batch int) (*Device, error) {
	if _, err := os.Stat(plugin); err != nil {
		return nil, fmt.Errorf("device %s: %w", name, err)
	}
	// A missing plugin is an error for the user, never a download.
	xla.EnableAutoInstall(false)
	if err := os.Setenv(xla.NoAutoInstallEnv, "1"); err != nil {
		return nil, err
	}
	options := ",tf32=false"
	if strings.Contains(filepath.Base(plugin), "cuda") {
		options += ",preallocate=false" // other plugins do not know it
	}
	b, err := compute.NewWithConfig("xla:" + plugin + options)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", name, err)
	}
	// Where the device computes in the host's memory, package quantize decodes
	// faster than graphs, and there is no upload to save.
	return &Device{name: name, backend: b, decodes: !b.HasSharedBuffers(), concurrent: 1, batch: batch, programs: map[string]*program{}}, nil
}
