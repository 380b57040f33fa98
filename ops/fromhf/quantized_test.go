package fromhf

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/modelpipe/modelpipe/internal/golden"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/safetensors"
)

// roles has the places of tensors that llama.cpp's converter neither permutes
// nor stacks.
var roles = map[string]spec.Role{
	"attn_v": spec.V, "attn_output": spec.AttnOut, "ffn_gate": spec.Gate, "ffn_up": spec.Up, "ffn_down": spec.Down,
}

var listing = regexp.MustCompile(`(?m)^tensor blk\.(\d+)\.(\w+)\.weight (BF16|F16|F32) \[[\d, ]*\] sha256:([0-9a-f]{64})$`)

// TestQuantizedValues compares the values of quantized matrices with the
// digests of what llama.cpp's converter makes of them, rounded as it does.
func TestQuantizedValues(t *testing.T) {
	for _, model := range []string{
		"awq", "fp8-block", "fp8-channel", "fp8-fbgemm", "fp8-modelopt", "fp8-static", "fp8-tensor",
		"gptq-8bit", "gptq-actorder", "gptq-asym", "gptq-asym-actorder-v2", "gptq-sym",
		"int4-packed", "int4-packed-actorder", "int4-packed-asym", "int8-packed", "int8-packed-group", "int8-w8a8",
	} {
		t.Run(model, func(t *testing.T) {
			t.Parallel()
			m := open(t, model)
			text, err := os.ReadFile(filepath.Join(models, model, "upstream.txt"))
			if err != nil {
				t.Fatal(err)
			}
			compared := 0
			for _, line := range listing.FindAllStringSubmatch(string(text), -1) {
				role, ok := roles[line[2]]
				if !ok {
					continue
				}
				var layer int
				fmt.Sscan(line[1], &layer)
				w, err := m.Weight(spec.At(layer, role))
				if err != nil {
					t.Fatal(err)
				}
				compared++
				if got := digest(t, w, line[3]); got != line[4] {
					t.Errorf("%v (%s): digest %s, want %s", spec.At(layer, role), w.Type, got, line[4])
				}
			}
			if compared != 5*len(m.Blocks) {
				t.Errorf("compared %d tensors of %d layers", compared, len(m.Blocks))
			}
		})
	}
}

// digest is the SHA-256 of a weight's values, read in uneven pieces, in a type.
func digest(t *testing.T, w spec.Weight, as string) string {
	t.Helper()
	sum := sha256.New()
	for row, n := 0, 1; row < w.Rows; row, n = row+n, n%7+1 {
		n = min(n, w.Rows-row)
		values := make([]float32, n*w.Cols)
		if err := w.Read(context.Background(), values, row); err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			bits := math.Float32bits(v)
			switch as {
			case "BF16":
				bits += 0x7fff + bits>>16&1
				sum.Write(binary.LittleEndian.AppendUint16(nil, uint16(bits>>16)))
			case "F16":
				sum.Write(binary.LittleEndian.AppendUint16(nil, toHalf(v)))
			default:
				sum.Write(binary.LittleEndian.AppendUint32(nil, bits))
			}
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// toHalf rounds a value that is no NaN and within binary16's range to even.
func toHalf(v float32) uint16 {
	sign := uint16(0)
	if math.Signbit(float64(v)) {
		sign = 0x8000
	}
	exp := -13
	if v != 0 {
		_, exp = math.Frexp(float64(v))
		exp = max(exp, -13)
	}
	steps := math.RoundToEven(math.Ldexp(math.Abs(float64(v)), 11-exp))
	return sign | (uint16(exp+13)<<10 + uint16(steps))
}

// TestMXFP4 decodes blocks by hand.
func TestMXFP4(t *testing.T) {
	m := open(t, "gptoss-mxfp4")
	source := golden.Unzip(t, filepath.Join(models, "gptoss-mxfp4", "hf.zip"))
	data := source["model.safetensors"].Data
	value := func(code byte) float64 { // sign, two bits of exponent, one of fraction
		v := []float64{0, 0.5, 1, 1.5, 2, 3, 4, 6}[code&7]
		if code&8 != 0 {
			v = -v
		}
		return v
	}
	checkpoint, err := safetensors.Open(context.Background(), source)
	if err != nil {
		t.Fatal(err)
	}
	defer checkpoint.Close()
	at := func(name string) []byte {
		f, tensor, ok := checkpoint.Find(name)
		if !ok {
			t.Fatalf("no tensor %s", name)
		}
		return data[f.DataOffset+tensor.Offset:][:tensor.Size]
	}
	blocks, scales := at("model.layers.1.mlp.experts.gate_up_proj_blocks"), at("model.layers.1.mlp.experts.gate_up_proj_scales")
	bias := at("model.layers.1.mlp.experts.gate_up_proj_bias")
	width, inner := m.Width, m.Blocks[1].FFN.MoE.Inner
	for expert := range 4 {
		for part, role := range []spec.Role{spec.Gate, spec.Up} {
			w := m.Weights[spec.Slot{Layer: 1, Role: role, Expert: expert}]
			b := m.Weights[spec.Slot{Layer: 1, Role: role.Bias(), Expert: expert}]
			got, err := w.Floats(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			gotBias, err := b.Floats(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			for i := range inner {
				row := expert*2*inner + 2*i + part // alternating
				if want := uint32(binary.LittleEndian.Uint16(bias[2*row:])) << 16; math.Float32bits(gotBias[i]) != want {
					t.Fatalf("expert %d %s: bias %d is %v", expert, role, i, gotBias[i])
				}
				for j := range width {
					code := blocks[(row*width+j)/2] >> (j % 2 * 4) & 15
					want := value(code) * math.Exp2(float64(scales[(row*width+j)/32])-127)
					if float64(got[i*width+j]) != want {
						t.Fatalf("expert %d %s: value at row %d, column %d is %v: want %v", expert, role, i, j, got[i*width+j], want)
					}
				}
			}
		}
	}
}
