package convert

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/safetensors"
)

// packer writes a checkpoint tensor by tensor.
type packer struct {
	h    safetensors.Header
	data []byte
}

func (p *packer) add(name string, dtype safetensors.DType, shape []int64, data []byte) {
	p.h.Tensors = append(p.h.Tensors, safetensors.Tensor{Name: name, DType: dtype, Shape: shape, Offset: int64(len(p.data)), Size: int64(len(data))})
	p.data = append(p.data, data...)
}

func (p *packer) floats(name string, shape []int64, v []float32) {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	p.add(name, safetensors.F32, shape, b)
}

func (p *packer) words(name string, shape []int64, v []uint32) {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	p.add(name, safetensors.I32, shape, b)
}

func (p *packer) fs(t *testing.T) fs.FS {
	head, err := p.h.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{"model.safetensors": {Data: append(head, p.data...)}}
}

// codes is random values below limit, in rows.
func codes(rnd *rand.Rand, rows, cols, limit int) [][]int {
	out := make([][]int, rows)
	for r := range out {
		out[r] = make([]int, cols)
		for c := range out[r] {
			out[r][c] = rnd.IntN(limit)
		}
	}
	return out
}

// packAcross packs the values of a row into words, those at place i of eight
// (of 32/bits) in slot where[i].
func packAcross(v [][]int, bits int, where []int) []uint32 {
	n := 32 / bits
	var out []uint32
	for _, row := range v {
		for c := 0; c < len(row); c += n {
			w := uint32(0)
			for i := 0; i < n && c+i < len(row); i++ {
				w |= uint32(row[c+i]) << (bits * where[i])
			}
			out = append(out, w)
		}
	}
	return out
}

// packDown packs n rows into one of words.
func packDown(v [][]int, bits int) []uint32 {
	n := 32 / bits
	var out []uint32
	for r := 0; r < len(v); r += n {
		for c := range v[r] {
			w := uint32(0)
			for i := 0; i < n && r+i < len(v); i++ {
				w |= uint32(v[r+i][c]) << (bits * i)
			}
			out = append(out, w)
		}
	}
	return out
}

func scales(rnd *rand.Rand, rows, cols int) ([][]float32, []float32) {
	out, flat := make([][]float32, rows), []float32(nil)
	for r := range out {
		for range cols {
			out[r] = append(out[r], rnd.Float32()+0.01)
		}
		flat = append(flat, out[r]...)
	}
	return out, flat
}

var straight = []int{0, 1, 2, 3, 4, 5, 6, 7}

// TestPackings packs known codes as each method does and reads them back.
func TestPackings(t *testing.T) {
	const out, in, group = 24, 64, 16
	rnd := rand.New(rand.NewPCG(1, 1))
	cases := map[string]struct {
		config string
		pack   func(p *packer) func(r, c int) float32
	}{
		"gptq": {`{"quant_method":"gptq","bits":4,"group_size":16,"desc_act":true}`, func(p *packer) func(r, c int) float32 {
			w, z := codes(rnd, in, out, 16), codes(rnd, in/group, out, 16)
			s, flat := scales(rnd, in/group, out)
			idx := make([]uint32, in)
			for i, j := range rnd.Perm(in) {
				idx[i] = uint32(j / group)
			}
			p.words("a.qweight", []int64{in / 8, out}, packDown(w, 4))
			p.words("a.qzeros", []int64{in / group, out / 8}, packAcross(z, 4, straight))
			p.floats("a.scales", []int64{in / group, out}, flat)
			p.words("a.g_idx", []int64{in}, idx)
			return func(r, c int) float32 { g := idx[c]; return float32(w[c][r]-z[g][r]-1) * s[g][r] }
		}},
		"gptq v2 of 8 bits without g_idx": {`{"quant_method":"gptq","bits":8,"group_size":16,"checkpoint_format":"gptq_v2"}`, func(p *packer) func(r, c int) float32 {
			w, z := codes(rnd, in, out, 256), codes(rnd, in/group, out, 256)
			s, flat := scales(rnd, in/group, out)
			p.words("a.qweight", []int64{in / 4, out}, packDown(w, 8))
			p.words("a.qzeros", []int64{in / group, out / 4}, packAcross(z, 8, straight))
			p.floats("a.scales", []int64{in / group, out}, flat)
			return func(r, c int) float32 { g := c / group; return float32(w[c][r]-z[g][r]) * s[g][r] }
		}},
		"awq": {`{"quant_method":"awq","bits":4,"group_size":16,"zero_point":true,"version":"gemm"}`, func(p *packer) func(r, c int) float32 {
			w, z := codes(rnd, in, out, 16), codes(rnd, in/group, out, 16)
			s, flat := scales(rnd, in/group, out)
			where := []int{0, 4, 1, 5, 2, 6, 3, 7} // of columns 0, 1, 2 ...: AutoAWQ's order the other way round
			p.words("a.qweight", []int64{in, out / 8}, packAcross(w, 4, where))
			p.words("a.qzeros", []int64{in / group, out / 8}, packAcross(z, 4, where))
			p.floats("a.scales", []int64{in / group, out}, flat)
			return func(r, c int) float32 { g := c / group; return float32(w[c][r]-z[g][r]) * s[g][r] }
		}},
		"int4 with zero points": {`{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"g":{"weights":{"num_bits":4,"type":"int","strategy":"group","group_size":16,"symmetric":false}}}}`, func(p *packer) func(r, c int) float32 {
			w, z := codes(rnd, out, in, 16), codes(rnd, out, in/group, 16)
			s, flat := scales(rnd, out, in/group)
			p.words("a.weight_packed", []int64{out, in / 8}, packAcross(w, 4, straight))
			p.words("a.weight_zero_point", []int64{out / 8, in / group}, packDown(z, 4))
			p.floats("a.weight_scale", []int64{out, in / group}, flat)
			p.add("a.weight_shape", safetensors.I64, []int64{2}, append(binary.LittleEndian.AppendUint64(nil, out), binary.LittleEndian.AppendUint64(nil, in)...))
			return func(r, c int) float32 { return float32(w[r][c]-z[r][c/group]) * s[r][c/group] }
		}},
		"int8 packed by channel": {`{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"g":{"weights":{"num_bits":8,"type":"int","strategy":"channel"}}}}`, func(p *packer) func(r, c int) float32 {
			w := codes(rnd, out, in, 256)
			s, flat := scales(rnd, out, 1)
			p.words("a.weight_packed", []int64{out, in / 4}, packAcross(w, 8, straight))
			p.floats("a.weight_scale", []int64{out, 1}, flat)
			return func(r, c int) float32 { return float32(w[r][c]-128) * s[r][0] }
		}},
		"int4 reordered": {`{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"g":{"weights":{"num_bits":4,"type":"int","strategy":"group","group_size":16,"actorder":"group"}}}}`, func(p *packer) func(r, c int) float32 {
			w := codes(rnd, out, in, 16)
			s, flat := scales(rnd, out, in/group)
			idx := make([]uint32, in)
			for i, j := range rnd.Perm(in) {
				idx[i] = uint32(j / group)
			}
			p.words("a.weight_packed", []int64{out, in / 8}, packAcross(w, 4, straight))
			p.floats("a.weight_scale", []int64{out, in / group}, flat)
			p.words("a.weight_g_idx", []int64{in}, idx)
			return func(r, c int) float32 { return float32(w[r][c]-8) * s[r][idx[c]] }
		}},
		"int8 with zero points": {`{"quant_method":"compressed-tensors","format":"int-quantized","config_groups":{"g":{"weights":{"num_bits":8,"type":"int","strategy":"channel"}}}}`, func(p *packer) func(r, c int) float32 {
			w, z := codes(rnd, out, in, 256), codes(rnd, out, 1, 256)
			s, flat := scales(rnd, out, 1)
			var wb, zb []byte
			for r := range w {
				zb = append(zb, byte(z[r][0]))
				for _, v := range w[r] {
					wb = append(wb, byte(v))
				}
			}
			p.add("a.weight", safetensors.I8, []int64{out, in}, wb)
			p.add("a.weight_zero_point", safetensors.I8, []int64{out, 1}, zb)
			p.floats("a.weight_scale", []int64{out, 1}, flat)
			p.floats("a.input_scale", []int64{1}, []float32{3})
			return func(r, c int) float32 {
				return float32(int(int8(w[r][c]))-int(int8(z[r][0]))) * s[r][0]
			}
		}},
		"float8 in blocks that are cut off": {`{"quant_method":"fp8","weight_block_size":[16,24]}`, func(p *packer) func(r, c int) float32 {
			w := codes(rnd, out, in, 127)
			s, flat := scales(rnd, 2, 3)
			var wb []byte
			for r := range w {
				for _, v := range w[r] {
					wb = append(wb, byte(v))
				}
			}
			p.add("a.weight", safetensors.F8E4M3, []int64{out, in}, wb)
			p.floats("a.weight_scale_inv", []int64{2, 3}, flat)
			return func(r, c int) float32 { return decodeE4M3(byte(w[r][c])) * s[r/16][c/24] }
		}},
		"float8 of stacked experts": {`{"quant_method":"fp8","weight_block_size":[4,16]}`, func(p *packer) func(r, c int) float32 {
			w := codes(rnd, out, in, 127)
			s, flat := scales(rnd, 6, 4)
			var wb []byte
			for r := range w {
				for _, v := range w[r] {
					wb = append(wb, byte(v))
				}
			}
			p.add("a.weight", safetensors.F8E4M3, []int64{3, out / 3, in}, wb)
			p.floats("a.weight_scale_inv", []int64{3, 2, 4}, flat)
			return func(r, c int) float32 { return decodeE4M3(byte(w[r][c])) * s[r/4][c/16] }
		}},
		"float8 with one scale": {`{"quant_method":"fp8","activation_scheme":"static"}`, func(p *packer) func(r, c int) float32 {
			w := codes(rnd, out, in, 123)
			var wb []byte
			for r := range w {
				for _, v := range w[r] {
					wb = append(wb, byte(v))
				}
			}
			p.add("a.weight", safetensors.F8E5M2, []int64{out, in}, wb)
			p.floats("a.weight_scale", nil, []float32{0.3})
			p.floats("a.input_scale", nil, []float32{7})
			return func(r, c int) float32 { return decodeE5M2(byte(w[r][c])) * 0.3 }
		}},
		"bitnet": {`{"quant_method":"bitnet"}`, func(p *packer) func(r, c int) float32 {
			w := codes(rnd, out, in, 3)
			b := make([]byte, out/4*in)
			for r := range w {
				for c, v := range w[r] {
					b[r%(out/4)*in+c] |= byte(v) << (2 * (r / (out / 4)))
				}
			}
			p.add("a.weight", safetensors.U8, []int64{out / 4, in}, b)
			p.floats("a.weight_scale", []int64{1}, []float32{1.7})
			return func(r, c int) float32 { return float32(w[r][c]-1) / 1.7 }
		}},
		"bitnet that multiplies": {`{"quant_method":"bitnet","linear_class":"autobitlinear"}`, func(p *packer) func(r, c int) float32 {
			w := codes(rnd, out, in, 3)
			b := make([]byte, out/4*in)
			for r := range w {
				for c, v := range w[r] {
					b[r%(out/4)*in+c] |= byte(v) << (2 * (r / (out / 4)))
				}
			}
			p.add("a.weight", safetensors.U8, []int64{out / 4, in}, b)
			p.floats("a.weight_scale", []int64{1}, []float32{1.7})
			return func(r, c int) float32 { return float32(w[r][c]-1) * 1.7 }
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var p packer
			value := c.pack(&p)
			p.floats("a.bias", []int64{2}, []float32{1, 2})
			config, err := ParseConfig(fmt.Appendf(nil, `{"quantization_config":%s}`, c.config))
			if err != nil {
				t.Fatal(err)
			}
			src := p.fs(t)
			ck, err := ReadCheckpoint(t.Context(), src, config)
			if err != nil {
				t.Fatal(err)
			}
			if names := strings.Join(ck.Names(), " "); names != "a.bias a.weight" {
				t.Fatalf("tensors %s", names)
			}
			w, _ := ck.Get("a.weight")
			if n := product(w.Shape); n != out*in || w.DType != "F32" {
				t.Fatalf("weight %s %v", w.DType, w.Shape)
			}
			e := &evaluator{src: &sources{fsys: src}}
			for range 20 {
				r0, c0 := rnd.IntN(out), rnd.IntN(in)
				r1, c1 := r0+1+rnd.IntN(out-r0), c0+1+rnd.IntN(in-c0)
				got := make([]float32, (r1-r0)*(c1-c0))
				if err := e.tile(w.From, int64(r0), int64(r1), int64(c0), int64(c1), got); err != nil {
					t.Fatal(err)
				}
				for i, v := range got {
					r, c := r0+i/(c1-c0), c0+i%(c1-c0)
					if want := value(r, c); v != want {
						t.Fatalf("[%d][%d] of tile %d:%d %d:%d is %v: want %v", r, c, r0, r1, c0, c1, v, want)
					}
				}
			}
		})
	}
}

func TestQuantizationRefused(t *testing.T) {
	var p packer
	p.add("a.weight", safetensors.U8, []int64{4, 4}, make([]byte, 16))
	p.floats("a.weight_scale", []int64{1}, []float32{1})
	p.words("a.qweight", []int64{4, 4}, make([]uint32, 16))
	for config, want := range map[string]string{
		`{"quant_method":"bitsandbytes"}`:                  `config.json: quantization_config: quant_method "bitsandbytes" is not supported (known are fp8,`,
		`{"bits":4}`:                                       "config.json: quantization_config: no quant_method",
		`{"quant_method":"gptq","bits":4}`:                 "tensor a.qweight: there is no a.qzeros beside it",
		`{"quant_method":"fp8"}`:                           "tensor a.weight_scale: a.weight is U8: want float8 or int8 beside a scale",
		`{"quant_method":"modelopt","quant_algo":"NVFP4"}`: "tensor a.weight_scale: a.weight is U8: only modelopt's FP8 can be read (quant_algo NVFP4)",
		`{"quant_method":"compressed-tensors","format":"marlin-24","config_groups":{"g":{"weights":{}}}}`: `config.json: quantization_config: format "marlin-24" of compressed-tensors is not supported`,
		`{"quant_method":"compressed-tensors","config_groups":{}}`:                                        "config.json: quantization_config: 0 config_groups: only checkpoints with one can be read",
		`7`: "config.json: quantization_config: want an object, got 7",
	} {
		c, err := ParseConfig(fmt.Appendf(nil, `{"quantization_config":%s}`, config))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = ReadCheckpoint(t.Context(), p.fs(t), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v: want %s", config, err, want)
		}
	}
}

func TestFloat8(t *testing.T) {
	for b, want := range map[byte]float32{0x00: 0, 0x01: 1.0 / 512, 0x08: 1.0 / 64, 0x38: 1, 0x7e: 448, 0xfe: -448, 0xb9: -1.125} {
		if got := decodeE4M3(b); got != want {
			t.Errorf("E4M3 %#x is %v: want %v", b, got, want)
		}
	}
	for b, want := range map[byte]float32{0x00: 0, 0x01: 1.0 / 65536, 0x3c: 1, 0x7b: 57344, 0xfc: float32(math.Inf(-1)), 0xbd: -1.25} {
		if got := decodeE5M2(b); got != want {
			t.Errorf("E5M2 %#x is %v: want %v", b, got, want)
		}
	}
	if v := decodeE4M3(0xff); v == v {
		t.Errorf("E4M3 0xff is %v", v)
	}
	if v := decodeE4M3(0x80); v != 0 || !math.Signbit(float64(v)) {
		t.Errorf("E4M3 0x80 is %v", v)
	}
}

// TestMXFP4Weight renders gpt-oss's experts from a checkpoint.
func TestMXFP4Weight(t *testing.T) {
	var p packer
	p.add("x_blocks", safetensors.U8, []int64{2, 3, 4, 16}, make([]byte, 2*3*4*16))
	p.add("x_scales", safetensors.U8, []int64{2, 3, 4}, make([]byte, 2*3*4))
	config, _ := ParseConfig([]byte(`{"quantization_config":{"quant_method":"mxfp4"}}`))
	ck, err := ReadCheckpoint(t.Context(), p.fs(t), config)
	if err != nil {
		t.Fatal(err)
	}
	x, ok := ck.Get("x")
	if typ, native := Native(x.From); !ok || !native || typ != gguf.MXFP4 || fmt.Sprint(x.Shape) != "[2 3 128]" || x.DType != "MXFP4" {
		t.Errorf("%v", x)
	}
}
