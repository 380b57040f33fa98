// Package bulkhash keeps hashing of large data at the processor's speed.
//
// The SHA instructions of amd64 have only legacy SSE encodings, which Intel's
// processors execute many times slower (SHA-256 at 20 MB/s instead of 1.2
// GB/s) while the upper halves of the vector registers are in use. Assembly
// leaves them clear, but Go's asynchronous preemption does not: built with
// GOEXPERIMENT=simd the runtime restores all 512 bits of every register after
// it, whatever was in them, and nothing in a loop that hashes clears them
// again. Slow hashing is preempted more often per byte, so it stays slow.
//
// The hashes of this package clear the upper halves before every piece of a
// few KiB. One preemption then costs the rest of one piece.
package bulkhash

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
)

// pieceBytes is what is hashed between two clearings, a multiple of every
// block size: short beside the ten milliseconds between two preemptions even
// at the slow speed (0.2 ms at 20 MB/s), long beside the calls (2 to 3 us).
const pieceBytes = 4 << 10

// NewSHA256 returns a SHA-256 for bulk data.
func NewSHA256() hash.Hash { return New(sha256.New()) }

// New returns h for bulk data: it computes the same, and has the state of h
// where that can be marshaled. h must not be used beside it.
func New(h hash.Hash) hash.Hash { return &pieces{h, clearUpper} }

// pieces writes to its hash in pieces.
type pieces struct {
	hash.Hash
	before func() // each piece
}

func (h *pieces) Write(p []byte) (int, error) {
	written := 0
	for {
		h.before()
		n, err := h.Hash.Write(p[:min(len(p), pieceBytes)])
		written += n
		p = p[n:]
		if err != nil || len(p) == 0 {
			return written, err
		}
	}
}

// MarshalBinary is the state of the hash below.
func (h *pieces) MarshalBinary() ([]byte, error) {
	m, ok := h.Hash.(encoding.BinaryMarshaler)
	if !ok {
		return nil, fmt.Errorf("the state of %T cannot be marshaled", h.Hash)
	}
	return m.MarshalBinary()
}

// UnmarshalBinary takes over a state of the hash below.
func (h *pieces) UnmarshalBinary(state []byte) error {
	m, ok := h.Hash.(encoding.BinaryUnmarshaler)
	if !ok {
		return fmt.Errorf("the state of %T cannot be unmarshaled", h.Hash)
	}
	return m.UnmarshalBinary(state)
}

// Digest returns the SHA-256 of what a reader has, in hexadecimal. It ends with
// its context.
func Digest(ctx context.Context, r io.Reader) (string, error) {
	h := NewSHA256()
	buffer := make([]byte, 1<<20)
	for {
		n, err := r.Read(buffer)
		h.Write(buffer[:n])
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return "", err
		}
	}
}
