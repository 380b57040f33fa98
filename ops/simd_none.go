//go:build !(goexperiment.simd && amd64)

package ops

// SIMD says whether this build has the Go backend's vector kernels.
const SIMD = false
