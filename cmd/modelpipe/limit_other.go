//go:build !linux

package main

// limitMemory does nothing: no limit of the system holds Go's memory.
func limitMemory(uint64) {}
