//go:build !amd64 || purego

package convert

// scanStep is what scan would take at once, in bytes.
const scanStep = 128

// scan is nil where plain Go looks at everything.
var scan func(p []byte, l lanes) bool
