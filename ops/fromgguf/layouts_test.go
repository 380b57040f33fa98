package fromgguf_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/fromgguf"
	"github.com/modelpipe/modelpipe/ops/plain"
	"github.com/modelpipe/modelpipe/ops/spec"
)

// tensors are the contents of a file whose tensors are all F32.
type tensors struct {
	metadata gguf.Metadata
	names    []string
	shapes   map[string][]int64
	values   map[string][]float32
}

func contents(t *testing.T, name string) *tensors {
	t.Helper()
	f := loaded(t, name, "f32")
	c := &tensors{f.header.Metadata, nil, map[string][]int64{}, map[string][]float32{}}
	for _, info := range f.header.Tensors {
		if info.Type != gguf.F32 {
			t.Fatalf("%s is %s", info.Name, info.Type)
		}
		n, err := info.Elements()
		if err != nil {
			t.Fatal(err)
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = math.Float32frombits(binary.LittleEndian.Uint32(f.data[info.Offset+4*int64(i):]))
		}
		c.put(info.Name, info.Shape, v)
	}
	return c
}

func (c *tensors) put(name string, shape []int64, values []float32) {
	if _, there := c.values[name]; !there {
		c.names = append(c.names, name)
	}
	c.shapes[name], c.values[name] = shape, values
}

// take removes a tensor.
func (c *tensors) take(name string) []float32 {
	c.names = slices.DeleteFunc(c.names, func(n string) bool { return n == name })
	v := c.values[name]
	delete(c.values, name)
	return v
}

func (c *tensors) open(t *testing.T) *spec.Model {
	t.Helper()
	h := gguf.Header{Metadata: c.metadata}
	for _, name := range c.names {
		h.Tensors = append(h.Tensors, gguf.TensorInfo{Name: name, Type: gguf.F32, Shape: c.shapes[name]})
	}
	size, err := h.Layout()
	if err != nil {
		t.Fatal(err)
	}
	data, err := h.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	start, err := h.DataOffset()
	if err != nil {
		t.Fatal(err)
	}
	data = append(data, make([]byte, size-int64(len(data)))...)
	for i, name := range c.names {
		for j, v := range c.values[name] {
			binary.LittleEndian.PutUint32(data[start+h.Tensors[i].Offset+4*int64(j):], math.Float32bits(v))
		}
	}
	m, err := fromgguf.OpenAt("m.gguf", bytes.NewReader(data), size)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestOtherLayouts writes models in other forms that llama.cpp reads too, and
// that the converter does not write. Each computes the same as before.
func TestOtherLayouts(t *testing.T) {
	ids := []int32{5, 15, 39, 77, 129, 195, 275, 3, 3, 8}
	for _, test := range []struct {
		name, model string
		change      func(c *tensors)
	}{
		{"keys and values of latent attention in one tensor", "deepseek2", func(c *tensors) {
			const heads, nope, rank, value = 4, 16, 32, 16
			c.metadata = slices.DeleteFunc(c.metadata, func(kv gguf.KV) bool { return strings.HasSuffix(kv.Key, "_mla") })
			c.metadata.Set("deepseek2.attention.head_count_kv", uint32(heads))
			c.metadata.Set("deepseek2.attention.key_length", uint32(nope+16))
			c.metadata.Set("deepseek2.attention.value_length", uint32(value))
			for layer := range 3 {
				k, v := c.take(fmt.Sprintf("blk.%d.attn_k_b.weight", layer)), c.take(fmt.Sprintf("blk.%d.attn_v_b.weight", layer))
				var both []float32
				for h := range heads {
					for i := range nope {
						for r := range rank {
							both = append(both, k[h*rank*nope+r*nope+i])
						}
					}
					both = append(both, v[h*value*rank:(h+1)*value*rank]...)
				}
				c.put(fmt.Sprintf("blk.%d.attn_kv_b.weight", layer), []int64{rank, heads * (nope + value)}, both)
			}
		}},
		{"gates and ups of experts in one tensor", "deepseek2", func(c *tensors) {
			const experts, width, inner = 4, 64, 48
			for layer := 1; layer < 3; layer++ {
				gate, up := c.take(fmt.Sprintf("blk.%d.ffn_gate_exps.weight", layer)), c.take(fmt.Sprintf("blk.%d.ffn_up_exps.weight", layer))
				var both []float32
				for x := range experts {
					both = append(both, gate[x*width*inner:(x+1)*width*inner]...)
					both = append(both, up[x*width*inner:(x+1)*width*inner]...)
				}
				c.put(fmt.Sprintf("blk.%d.ffn_gate_up_exps.weight", layer), []int64{width, 2 * inner, experts}, both)
			}
		}},
		{"queries, keys and values in one tensor", "qwen2", func(c *tensors) {
			for layer := range 3 {
				var both, bias []float32
				for _, name := range []string{"attn_q", "attn_k", "attn_v"} {
					both = append(both, c.take(fmt.Sprintf("blk.%d.%s.weight", layer, name))...)
					bias = append(bias, c.values[fmt.Sprintf("blk.%d.%s.bias", layer, name)]...)
				}
				c.put(fmt.Sprintf("blk.%d.attn_qkv.weight", layer), []int64{64, int64(len(both) / 64)}, both)
				if layer > 0 { // in the first the biases stay apart
					for _, name := range []string{"attn_q", "attn_k", "attn_v"} {
						c.take(fmt.Sprintf("blk.%d.%s.bias", layer, name))
					}
					c.put(fmt.Sprintf("blk.%d.attn_qkv.bias", layer), []int64{int64(len(bias))}, bias)
				}
			}
		}},
		{"scales of matrices and experts", "mixtral", func(c *tensors) {
			for name, scales := range map[string][]float32{"blk.0.attn_q": {2}, "blk.1.attn_output": {0.5}, "blk.1.ffn_down_exps": {2, 4, 0.25, 1}, "blk.2.ffn_gate_exps": {0.5, 1, 2, 8}} {
				v := c.values[name+".weight"]
				per := len(v) / len(scales)
				for i := range v {
					v[i] /= scales[i/per]
				}
				c.put(name+".scale", []int64{int64(len(scales))}, scales)
			}
			c.put("blk.0.attn_q.input_scale", []int64{1}, []float32{3})
		}},
		{"one period for the pattern of windows", "gemma3", func(c *tensors) {
			c.metadata.Set("gemma3.attention.sliding_window_pattern", uint32(6))
		}},
		{"a pattern of windows for each layer", "gemma3", func(c *tensors) {
			c.metadata.Set("gemma3.attention.sliding_window_pattern", []bool{true, true, true, true, true, false, true})
		}},
		{"an output of its own", "qwen3", func(c *tensors) {
			c.put("output.weight", c.shapes["token_embd.weight"], slices.Clone(c.values["token_embd.weight"]))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := contents(t, test.model)
			want, err := plain.Forward(context.Background(), c.open(t), ids)
			if err != nil {
				t.Fatal(err)
			}
			before := len(c.names)
			test.change(c)
			got, err := plain.Forward(context.Background(), c.open(t), ids)
			if err != nil {
				t.Fatal(err)
			}
			for i, row := range got {
				if !slices.Equal(row, want[i]) {
					t.Fatalf("token %d differs (%d tensors, before %d)", i, len(c.names), before)
				}
			}
		})
	}
}

// TestLongContext reads rotary factors for sequences longer than the context
// that the model was first trained for.
func TestLongContext(t *testing.T) {
	c := contents(t, "phi3-longrope")
	original, err := c.metadata.Int("phi3.rope.scaling.original_context_length")
	if err != nil {
		t.Fatal(err)
	}
	r := c.open(t).Blocks[0].Attention.Rope
	if r.LongFrom != int(original) || len(r.Long) != len(r.InvFreq) || r.LongMagnitude != r.Magnitude {
		t.Fatalf("%+v: original context %d", r, original)
	}
	short, long := c.values["rope_factors_short.weight"], c.values["rope_factors_long.weight"]
	for i := range r.Long {
		if got, want := r.InvFreq[i]/r.Long[i], float64(long[i])/float64(short[i]); math.Abs(got/want-1) > 1e-12 {
			t.Errorf("pair %d: short by long is %g: want %g", i, got, want)
		}
	}
}
