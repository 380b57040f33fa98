package gguf

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
)

// TestTypes holds the type table to upstream's (testdata/gguf-py/types.txt).
func TestTypes(t *testing.T) {
	b, err := os.ReadFile("testdata/gguf-py/types.txt")
	if err != nil {
		t.Fatal(err)
	}
	known := map[Type]bool{}
	for line := range strings.Lines(string(b)) {
		var id Type
		var name string
		var elements, bytes int64
		if _, err := fmt.Sscan(line, &id, &name, &elements, &bytes); err != nil {
			t.Fatal(err)
		}
		known[id] = true
		if id == Q8_1 {
			bytes = 36 // upstream's Python says 40, its block_q8_1 has two halves and 32 bytes
		}
		if !id.Valid() || id.String() != name || id.BlockElements() != elements || id.BlockBytes() != bytes {
			t.Errorf("type %d is %s of %d in %d bytes, want %s", id, id, id.BlockElements(), id.BlockBytes(), line)
		}
		if back, err := ParseType(strings.ToLower(name)); err != nil || back != id {
			t.Errorf("ParseType(%s): %v, %v", name, back, err)
		}
		if n, err := id.RowBytes(3 * elements); err != nil || n != 3*bytes {
			t.Errorf("three blocks of %s are %d bytes, %v", name, n, err)
		}
	}
	for id := Type(0); id < 100; id++ {
		if id.Valid() && !known[id] {
			t.Errorf("type %d (%s) is not one of upstream's", id, id)
		}
	}
	for _, bad := range []Type{4, 5, 31, 38, 43, math.MaxUint32} {
		if bad.Valid() || bad.BlockBytes() != 0 || bad.BlockElements() != 0 || bad.String() != fmt.Sprintf("type(%d)", uint32(bad)) {
			t.Errorf("type %d is %s", uint32(bad), bad)
		}
		if _, err := bad.RowBytes(32); err == nil {
			t.Errorf("type %d has rows", uint32(bad))
		}
	}
	for _, c := range []struct {
		t Type
		n int64
	}{{Q4_K, 128}, {F32, 0}, {F32, -1}, {F32, math.MaxInt64}} {
		if n, err := c.t.RowBytes(c.n); err == nil {
			t.Errorf("a row of %d weights of %s is %d bytes", c.n, c.t, n)
		}
	}
	if _, err := ParseType("Q4_L"); err == nil {
		t.Error("Q4_L is a type")
	}
}
