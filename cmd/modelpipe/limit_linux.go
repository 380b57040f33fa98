package main

import "syscall"

// limitMemory bounds what the process may allocate, beyond what it has at its
// start. The kernel counts what is writable and private, which Go's reservations
// of addresses are not.
func limitMemory(bytes uint64) {
	limit := syscall.Rlimit{Cur: bytes, Max: bytes}
	_ = syscall.Setrlimit(syscall.RLIMIT_DATA, &limit) // where it is refused watchMemory is left
}
