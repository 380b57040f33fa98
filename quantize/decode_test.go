package quantize

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"os"
	"strings"
	"testing"
)

// TestDecoded compares the values of the golden blocks with those of ggml:
// testdata/ggml/decoded.txt has for each golden file the first eight bytes of
// the SHA-256 of what ggml's dequantize_row_* (llama.cpp, October 2026) makes of
// it, as little-endian float32. No NaN is among them.
func TestDecoded(t *testing.T) {
	want := map[string]string{}
	file, err := os.Open("testdata/ggml/decoded.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, digest, _ := strings.Cut(lines.Text(), " ")
		want[name] = digest
	}
	forEachCodec(t, func(t *testing.T, c Codec) {
		compared := 0
		for name, digest := range want {
			if base, _, _ := strings.Cut(name, "."); base != c.Type.String() {
				continue
			}
			src, err := os.ReadFile("testdata/ggml/" + name + ".bin")
			if err != nil {
				t.Fatal(err)
			}
			values := make([]float32, int64(len(src))/c.Type.BlockBytes()*c.Type.BlockElements())
			c.Decode(values, src)
			for i, v := range values {
				if math.IsNaN(float64(v)) {
					t.Fatalf("%s: weight %d is NaN", name, i)
				}
			}
			raw := make([]byte, 4*len(values))
			encodeF32(raw, values, 0, nil)
			if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:8]) != digest {
				t.Errorf("%s: digest %x, want %s", name, sum[:8], digest)
			}
			compared++
		}
		if compared == 0 {
			t.Skip("decoded.txt has none of this type")
		}
	})
}
