package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/quantize"
)

// skeleton makes a folder with the headers of a model in the shape of
// Llama-3.1-8B over 16 GB of nothing, which take no space.
func skeleton(t *testing.T) string {
	t.Helper()
	const width, inner, layers, kv, vocab = 4096, 14336, 32, 1024, 128256
	dir := t.TempDir()
	header, end := map[string]any{}, int64(0)
	tensor := func(name string, shape ...int64) {
		size := int64(2)
		for _, n := range shape {
			size *= n
		}
		header[name] = map[string]any{"dtype": "BF16", "shape": shape, "data_offsets": []int64{end, end + size}}
		end += size
	}
	tensor("model.embed_tokens.weight", vocab, width)
	tensor("lm_head.weight", vocab, width)
	tensor("model.norm.weight", width)
	for i := range layers {
		block := fmt.Sprintf("model.layers.%d.", i)
		tensor(block+"input_layernorm.weight", width)
		tensor(block+"post_attention_layernorm.weight", width)
		tensor(block+"self_attn.q_proj.weight", width, width)
		tensor(block+"self_attn.k_proj.weight", kv, width)
		tensor(block+"self_attn.v_proj.weight", kv, width)
		tensor(block+"self_attn.o_proj.weight", width, width)
		tensor(block+"mlp.gate_proj.weight", inner, width)
		tensor(block+"mlp.up_proj.weight", inner, width)
		tensor(block+"mlp.down_proj.weight", width, inner)
	}
	raw, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	raw = append(raw, strings.Repeat(" ", -len(raw)&7)...)
	name := filepath.Join(dir, "model.safetensors")
	if err := os.WriteFile(name, append(binary.LittleEndian.AppendUint64(nil, uint64(len(raw))), raw...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 8+int64(len(raw))+end); err != nil {
		t.Skipf("no file of %d bytes: %v", end, err)
	}
	config := fmt.Sprintf(`{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": %d, "intermediate_size": %d,
		"num_hidden_layers": %d, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": %d, "rms_norm_eps": 1e-05,
		"rope_theta": 500000.0, "max_position_embeddings": 131072, "hidden_act": "silu", "torch_dtype": "bfloat16", "tie_word_embeddings": false}`,
		width, inner, layers, vocab)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"tokenizer.model", "tokenizer_config.json"} {
		b, err := os.ReadFile(filepath.Join("../../testdata/stories260K", file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestFitPlans8B plans 5 GB of an 8B model: the limit is used up, the expected
// divergence is said, and it takes no time.
func TestFitPlans8B(t *testing.T) {
	dir := skeleton(t)
	start := time.Now()
	code, stdout, stderr := try(t, "plan", dir, "--max-size", "5GB", "--json")
	if code != exitDone {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	took := time.Since(start)
	var r planJSON
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatal(err)
	}
	const limit = 5_000_000_000
	if r.Size > limit || float64(r.Size) < 0.995*limit {
		t.Errorf("%d bytes of %d", r.Size, limit)
	}
	if b := r.Budget; b == nil || b.Losses != "priors" || !(b.ExpectedKLD > 0.001 && b.ExpectedKLD < 0.2) || b.Preset == nil || b.Preset.ExpectedKLD < b.ExpectedKLD {
		t.Errorf("budget: %+v", r.Budget)
	}
	t.Logf("%d bytes, expected KLD %.4f, %v", r.Size, r.Budget.ExpectedKLD, took)
	if took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

// madeUpImatrix writes an importance matrix with even importance for named
// tensors of so many columns.
func madeUpImatrix(t *testing.T, path string, columns map[string]int) {
	t.Helper()
	f := &quantize.ImatrixFile{Datasets: []string{"made up"}, Chunks: 1, ChunkSize: 1}
	for name, n := range columns {
		sums := make([]float32, n)
		for i := range sums {
			sums[i] = 1
		}
		f.Entries = append(f.Entries, quantize.ImatrixSums{Name: name, Sums: sums, Counts: []float32{1}})
	}
	if err := f.Save(path); err != nil {
		t.Fatal(err)
	}
}

// TestFitBadInput says what is wrong with limits, constraints and importance
// matrices, with the figures that help.
func TestFitBadInput(t *testing.T) {
	const model = "../../testdata/stories260K"
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	own := map[string]int{"output.weight": 64}
	for i := range 5 {
		own[fmt.Sprintf("blk.%d.attn_q.weight", i)] = 64
	}
	madeUpImatrix(t, in("own.gguf"), own)
	madeUpImatrix(t, in("narrow.gguf"), map[string]int{"blk.0.attn_q.weight": 32})
	madeUpImatrix(t, in("deep.gguf"), map[string]int{"blk.0.attn_q.weight": 64, "blk.7.attn_q.weight": 64})
	madeUpImatrix(t, in("other.gguf"), map[string]int{"encoder.weight": 64})
	text := in("text")
	if err := os.WriteFile(text, []byte(strings.Repeat("Once upon a time there was a little girl named Lily. ", 20)), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := try(t, "losses", model, "--text", text, "--chunks", "1", "--ctx", "32", "--imatrix", in("own.gguf"), "--device", "cpu"); code != exitDone {
		t.Fatalf("losses: exit %d: %s", code, stderr)
	}
	// The losses beside the importance matrix are found, budget after budget.
	for _, size := range []string{"280KB", "320KB"} {
		code, stdout, stderr := try(t, "plan", model, "--max-size", size, "--imatrix", in("own.gguf"))
		if want := "(measured, " + in("own.gguf") + pipeline.LossesSuffix + ")"; code != exitDone || !strings.Contains(stdout, want) {
			t.Errorf("plan --max-size %s: exit %d: %s%s: want %q", size, code, stdout, stderr, want)
		}
	}

	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		// Below the smallest file, and above the model.
		{exitGate, "--max-size 10KB: the smallest file has 2", []string{"--max-size", "10KB"}},
		{exitGate, " bytes, at an expected KL divergence of ", []string{"--max-size", "10KB"}},
		{exitGate, "; with --imatrix there are smaller types", []string{"--max-size", "10KB"}},
		{exitDone, "the model takes 535968 bytes as it is: nothing is quantized", []string{"--max-size", "1GB"}},
		// Constraints that cannot be met.
		{exitGate, "--max-size 290KB: the smallest file that the constraints allow has 535", []string{"--max-size", "290KB", "--tensor-type", ".=F16"}},
		{exitGate, "--max-kld 1e-09: the constraints leave an expected KL divergence of at least ", []string{"--max-kld", "1e-9", "--output-type", "Q4_0"}},
		{exitFailed, "does not hold Q4_K", []string{"--max-size", "290KB", "--strict-types", "--tensor-type", "ffn_up=Q4_K"}},
		{exitFailed, "matches no tensor", []string{"--max-size", "290KB", "--tensor-type", "nothing=Q8_0"}},
		{exitUsage, "--max-kld -1: want a number of nats", []string{"--max-kld", "-1"}},
		{exitUsage, "--max-kld NaN: want a number of nats", []string{"--max-kld", "NaN"}},
		{exitUsage, "--max-size 0: want a size", []string{"--max-size", "0"}},
		{exitUsage, "--max-size -5GB: want a size", []string{"--max-size", "-5GB"}},
		// Importance of other tensors, and of another model.
		{exitFailed, "blk.0.attn_q.weight", []string{"--max-size", "290KB", "--imatrix", in("narrow.gguf")}},
		{exitFailed, "blk.7.attn_q.weight", []string{"--max-size", "290KB", "--imatrix", in("deep.gguf")}},
		{exitFailed, "another model", []string{"--max-size", "290KB", "--imatrix", in("other.gguf")}},
		{exitFailed, "no such file", []string{"--max-size", "290KB", "--imatrix", in("none.gguf")}},
		// Losses that were measured with another importance matrix.
		{exitFailed, "was measured with another importance matrix", []string{"--max-size", "290KB", "--losses", in("own.gguf") + pipeline.LossesSuffix}},
	} {
		code, stdout, stderr := try(t, append([]string{"plan", model}, c.args...)...)
		if code != c.code || !strings.Contains(stdout+stderr, c.want) {
			t.Errorf("plan %v: exit %d: %s: want %d, %q", c.args, code, stderr, c.code, c.want)
		}
	}
	if code, _, stderr := try(t, "losses", model, "--text", text, "--ctx", "32", "--imatrix", in("other.gguf"), "-o", in("l.json")); code == exitDone || !strings.Contains(stderr, "another model") {
		t.Errorf("losses by another model's importance matrix: exit %d: %s", code, stderr)
	}
}
