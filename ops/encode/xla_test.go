//go:build cgo && linux && amd64

package encode

import _ "github.com/gomlx/go-xla/compute/xla"
