//go:build !unix

package main

import "runtime"

// peakMemory returns what the Go runtime has asked the system for, in bytes,
// where the system cannot be asked for the most that it has given.
func peakMemory() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys)
}
