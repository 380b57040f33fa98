package fromgguf_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/fromgguf"
)

// file is the bytes of a GGUF file in memory, taken apart.
type file struct {
	header *gguf.Header
	data   []byte // the data section
}

func loaded(t testing.TB, name, preset string) file {
	t.Helper()
	_, view := converted(t, name, preset)
	all, err := io.ReadAll(io.NewSectionReader(view, 0, view.Size()))
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.ReadHeader(bytes.NewReader(all), int64(len(all)))
	if err != nil {
		t.Fatal(err)
	}
	start, err := h.DataOffset()
	if err != nil {
		t.Fatal(err)
	}
	return file{h, all[start:]}
}

// bytes is the file again.
func (f file) bytes(t testing.TB) []byte {
	t.Helper()
	head, err := f.header.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	start, err := f.header.DataOffset()
	if err != nil {
		t.Fatal(err)
	}
	head = append(head, make([]byte, int(start)-len(head))...)
	return append(head, f.data...)
}

func (f file) open(t testing.TB) error {
	data := f.bytes(t)
	_, err := fromgguf.OpenAt("m.gguf", bytes.NewReader(data), int64(len(data)))
	return err
}

func (f file) tensor(t testing.TB, name string) *gguf.TensorInfo {
	t.Helper()
	i := slices.IndexFunc(f.header.Tensors, func(t gguf.TensorInfo) bool { return t.Name == name })
	if i < 0 {
		t.Fatalf("no tensor %s", name)
	}
	return &f.header.Tensors[i]
}

// without removes a key.
func (f file) without(key string) {
	f.header.Metadata = slices.DeleteFunc(f.header.Metadata, func(kv gguf.KV) bool { return kv.Key == key })
}

// TestStrict changes one thing of a good file at a time.
func TestStrict(t *testing.T) {
	for _, test := range []struct {
		name, model string
		change      func(t *testing.T, f file)
		want        string
	}{
		{"architecture", "llama3", func(_ *testing.T, f file) { f.header.Metadata.Set("general.architecture", "mamba") }, `m.gguf: architecture "mamba" cannot be run here: want one of arcee, bert,`},
		{"no architecture", "llama3", func(_ *testing.T, f file) { f.without("general.architecture") }, `m.gguf: metadata "general.architecture": key is missing`},
		{"missing key", "llama3", func(_ *testing.T, f file) { f.without("llama.block_count") }, `m.gguf: read as llama: metadata "llama.block_count": key is missing`},
		{"missing epsilon", "gpt2", func(_ *testing.T, f file) { f.without("gpt2.attention.layer_norm_epsilon") }, `metadata "gpt2.attention.layer_norm_epsilon": key is missing`},
		{"key of an architecture", "deepseek2", func(_ *testing.T, f file) { f.without("deepseek2.attention.kv_lora_rank") }, `metadata "deepseek2.attention.kv_lora_rank": key is missing`},
		{"type of a key", "llama3", func(_ *testing.T, f file) { f.header.Metadata.Set("llama.rope.freq_base", uint32(10000)) }, `metadata "llama.rope.freq_base" is uint32, want float32`},
		{"many layers", "llama3", func(_ *testing.T, f file) { f.header.Metadata.Set("llama.block_count", uint32(1<<31)) }, `metadata "llama.block_count" is 2147483648: want at most 512`},
		{"many experts", "mixtral", func(_ *testing.T, f file) { f.header.Metadata.Set("llama.expert_count", uint32(1<<31)) }, `want at most 1024`},
		{"more layers than tensors", "llama3", func(_ *testing.T, f file) { f.header.Metadata.Set("llama.block_count", uint32(4)) }, `tensor blk.3.attn_norm.weight is missing`},
		{"fewer layers than tensors", "llama3", func(_ *testing.T, f file) { f.header.Metadata.Set("llama.block_count", uint32(2)) }, `tensor blk.2.`},
		{"heads", "llama3", func(_ *testing.T, f file) { f.header.Metadata.Set("llama.attention.head_count", uint32(0)) }, `want a number of heads`},
		{"key heads", "llama3", func(_ *testing.T, f file) {
			f.header.Metadata.Set("llama.attention.head_count_kv", []uint32{2, 2, 3})
		}, `layer 2: 4 heads and 3 key heads`},
		{"values of layers", "llama3", func(_ *testing.T, f file) {
			f.header.Metadata.Set("llama.attention.head_count_kv", []int32{2, 2})
		}, `metadata "llama.attention.head_count_kv" has 2 values: want 3, one for each layer`},
		{"layers that differ", "llama3", func(_ *testing.T, f file) { f.header.Metadata.Set("llama.feed_forward_length", []int32{96, 96, 95}) }, `layers that differ in it cannot be run here`},
		{"scaling", "llama3", func(_ *testing.T, f file) { f.header.Metadata.Set("llama.rope.scaling.type", "su") }, `metadata "llama.rope.scaling.type" is "su": want none, linear, yarn or longrope`},
		{"base", "llama3", func(_ *testing.T, f file) { f.header.Metadata.Set("llama.rope.freq_base", float32(-1)) }, `rotary base -1`},
		{"experts used", "mixtral", func(_ *testing.T, f file) { f.header.Metadata.Set("llama.expert_used_count", uint32(9)) }, `experts are used`},
		{"groups", "deepseek2", func(_ *testing.T, f file) { f.header.Metadata.Set("deepseek2.expert_group_count", uint32(3)) }, `groups of 4 experts are used`},
		{"gating", "deepseek2", func(_ *testing.T, f file) { f.header.Metadata.Set("deepseek2.expert_gating_func", uint32(4)) }, `want 1 (softmax)`},
		{"sections", "glm4", func(_ *testing.T, f file) {
			f.header.Metadata.Set("glm4.rope.dimension_sections", []int32{8, 12, 12, 0})
		}, `rotation by sections cannot be run here`},
		{"window", "gemma3", func(_ *testing.T, f file) { f.header.Metadata.Set("gemma3.attention.causal", false) }, `cannot be run here`},
		{"reranker", "llama3", func(_ *testing.T, f file) { f.header.Metadata.Set("llama.pooling_type", uint32(4)) }, `"llama.pooling_type" is 4: rerankers of this architecture cannot be run here`},
		{"classifier of an embedder", "xlm-roberta-reranker", func(_ *testing.T, f file) { f.header.Metadata.Set("bert.pooling_type", uint32(2)) }, `a classifier of this form cannot be run here`},
		{"classifier's labels", "xlm-roberta-reranker", func(_ *testing.T, f file) {
			f.header.Metadata.Set("bert.classifier.output_labels", []string{"a", "b"})
		}, `tensor cls.output.weight: shape [32 1]: want [32 2]`},
		{"unexpected tensor", "llama3", func(t *testing.T, f file) { f.tensor(t, "rope_freqs.weight").Name = "blk.0.attn_gate.weight" }, `m.gguf: tensor blk.0.attn_gate.weight: llama.cpp has no use for it in this architecture`},
		{"missing tensor", "llama3", func(t *testing.T, f file) { f.tensor(t, "blk.1.ffn_up.weight").Name = "x" }, `tensor blk.1.ffn_up.weight is missing`},
		{"missing expert stack", "mixtral", func(t *testing.T, f file) { f.tensor(t, "blk.1.ffn_up_exps.weight").Name = "x" }, `tensor blk.1.ffn_up_exps.weight is missing`},
		{"shape", "llama3", func(t *testing.T, f file) {
			shape := f.tensor(t, "blk.1.ffn_down.weight").Shape
			shape[0], shape[1] = shape[1], shape[0]
		}, `m.gguf: tensor blk.1.ffn_down.weight: shape [64 96]: want [96 64]`},
		{"type of a tensor", "llama3", func(t *testing.T, f file) { f.tensor(t, "output_norm.weight").Type = gguf.I32 }, `tensor output_norm.weight: type I32 cannot be decoded`},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := loaded(t, test.model, "f32")
			test.change(t, f)
			err := f.open(t)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v: want %q", err, test.want)
			}
		})
	}
}

// TestReadRows reads each weight by rows, in parts and as a whole: plain rows,
// parts of fused tensors, transposed and stacked matrices, blocks of types.
func TestReadRows(t *testing.T) {
	ctx := context.Background()
	for model, preset := range map[string]string{"deepseek2": "", "gpt2": "q8_0", "phi3": "q4_0", "gptoss-mxfp4": "", "bitnet-packed": "", "mixtral": "f16"} {
		t.Run(model, func(t *testing.T) {
			m := opened(t, model, preset)
			for slot, w := range m.Weights {
				whole, err := w.Floats(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for first := range w.Rows {
					n := min(1+first%3, w.Rows-first)
					part := make([]float32, n*w.Cols)
					if err := w.Read(ctx, part, first); err != nil {
						t.Fatalf("%v: rows %d to %d: %v", slot, first, first+n, err)
					}
					if !slices.Equal(part, whole[first*w.Cols:(first+n)*w.Cols]) {
						t.Fatalf("%v: rows %d to %d differ", slot, first, first+n)
					}
				}
				for first, n := range map[int]int{w.Rows: 1, -1: 1, 0: w.Rows + 1} {
					if err := w.Read(ctx, make([]float32, n*w.Cols), first); err == nil {
						t.Fatalf("%v: %d rows from %d on are read: there are %d", slot, n, first, w.Rows)
					}
				}
			}
		})
	}
}

// TestReadErrors reads weights of a file that ends early, and after its
// context is done.
func TestReadErrors(t *testing.T) {
	f := loaded(t, "llama3", "f32")
	data := f.bytes(t)
	cut := &shortened{bytes.NewReader(data), int64(len(data))}
	m, err := fromgguf.OpenAt("m.gguf", cut, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	cut.size /= 2
	ctx, cancel := context.WithCancel(context.Background())
	failed := 0
	for _, w := range m.Weights {
		if _, err := w.Floats(ctx); err != nil {
			failed++
			if !strings.HasPrefix(err.Error(), "m.gguf: tensor "+w.Names[0]+" at offset ") || !strings.HasSuffix(err.Error(), "unexpected EOF") {
				t.Errorf("error %v", err)
			}
		}
	}
	if failed == 0 {
		t.Error("all weights of half a file are read")
	}
	cancel()
	for slot, w := range m.Weights {
		if _, err := w.Floats(ctx); err == nil {
			t.Fatalf("%v is read after its context is done", slot)
		}
	}
}

// shortened is a file that ends after size bytes.
type shortened struct {
	*bytes.Reader
	size int64
}

func (s *shortened) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.size {
		return 0, io.EOF
	}
	if int64(len(p)) > s.size-off {
		n, _ := s.Reader.ReadAt(p[:s.size-off], off)
		return n, io.EOF
	}
	return s.Reader.ReadAt(p, off)
}

// FuzzOpen opens files with any header before zeros, and reads a row of each
// weight.
func FuzzOpen(f *testing.F) {
	for _, name := range []string{"deepseek2", "gemma3", "lfm2", "bert", "llama4"} {
		file := loaded(f, name, "")
		file.header.Metadata = slices.DeleteFunc(file.header.Metadata, func(kv gguf.KV) bool { return strings.HasPrefix(kv.Key, "tokenizer.") })
		file.header.Metadata.Set(name+".vocab_size", uint32(512))
		file.header.Metadata.Set("tokenizer.ggml.token_type_count", uint32(2))
		head, err := file.header.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(head)
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		file := zeroed{head, int64(len(head)) + 1<<21}
		m, err := fromgguf.OpenAt("m.gguf", file, file.size)
		if err != nil {
			return
		}
		for s, w := range m.Weights {
			if err := w.Read(context.Background(), make([]float32, w.Cols), 0); err != nil {
				t.Errorf("%v: %v", s, err)
			}
		}
	})
}

// TestHostile gives each key of an architecture values that no model has, and
// changes bytes of the header at random: errors are right, panics are not, and
// of what opens every weight can be read.
func TestHostile(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"deepseek2", "gemma3", "lfm2", "llama4", "phi3-longrope", "modernbert"} {
		file := loaded(t, name, "f32")
		opens := func(what string) {
			data := file.bytes(t)
			m, err := fromgguf.OpenAt("m.gguf", bytes.NewReader(data), int64(len(data)))
			if err != nil {
				return
			}
			for s, w := range m.Weights {
				if err := w.Read(context.Background(), make([]float32, w.Cols), w.Rows-1); err != nil {
					t.Errorf("%s: %s: %v: %v", name, what, s, err)
				}
			}
		}
		for i, kv := range file.header.Metadata {
			var values []any
			switch kv.Value.(type) {
			case uint32:
				values = []any{uint32(0), uint32(1), uint32(3), uint32(1 << 16), uint32(math.MaxUint32)}
			case float32:
				values = []any{float32(0), float32(-1), float32(math.NaN()), float32(math.Inf(1)), float32(math.MaxFloat32)}
			case []int32:
				values = []any{[]int32{}, []int32{-1, 0, 1}, []int32{math.MaxInt32, math.MaxInt32, math.MaxInt32}}
			}
			for _, v := range values {
				file.header.Metadata[i].Value = v
				if kv.Key != "general.alignment" {
					opens(fmt.Sprint(kv.Key, " ", v))
				}
			}
			file.header.Metadata[i].Value = kv.Value
		}
		head, err := file.header.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 400 {
			changed := slices.Clone(head)
			for range 1 + random.IntN(3) {
				changed[random.IntN(len(changed))] = byte(random.Uint32())
			}
			z := zeroed{changed, int64(len(changed)) + 1<<22}
			if m, err := fromgguf.OpenAt("m.gguf", z, z.size); err == nil {
				if err := m.Check(); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// zeroed is a file that begins with head; the rest is zeros.
type zeroed struct {
	head []byte
	size int64
}

func (z zeroed) ReadAt(p []byte, off int64) (int, error) {
	if off >= z.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), z.size-off))
	clear(p[:n])
	if off < int64(len(z.head)) {
		copy(p[:n], z.head[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
