//go:build !(cgo && linux && amd64)

package ops

import "fmt"

// XLA says whether this build can load PJRT plugins.
const XLA = false

func openXLA(name, _ string, _ int) (*Device, error) {
	return nil, fmt.Errorf("device %s: this build cannot load XLA plugins: it takes cgo on linux/amd64", name)
}
