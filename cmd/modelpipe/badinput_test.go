package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/safetensors"
)

// Bad input, as a user meets it: a model folder with something wrong in it,
// what the command says, and that it leaves nothing.

// stored is a tensor of a model folder that a test may spoil.
type stored struct {
	safetensors.Tensor
	data []byte
}

// folder is a model folder in memory: the bundled model in two shards.
type folder struct {
	config map[string]any
	files  map[string][]byte    // but for the config and the shards
	shards map[string][]*stored // by file name
	index  map[string]string    // weight_map

	last func(dir string) // what is left to spoil when all is written
}

const (
	firstShard  = "model-00001-of-00002.safetensors"
	secondShard = "model-00002-of-00002.safetensors"
)

func newFolder(t *testing.T) *folder {
	t.Helper()
	f := &folder{files: map[string][]byte{}, shards: map[string][]*stored{}, index: map[string]string{}}
	for _, name := range []string{"tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"} {
		data, err := os.ReadFile(filepath.Join(stories, name))
		if err != nil {
			t.Fatal(err)
		}
		f.files[name] = data
	}
	data, err := os.ReadFile(filepath.Join(stories, "config.json"))
	if err == nil {
		err = json.Unmarshal(data, &f.config)
	}
	if err != nil {
		t.Fatal(err)
	}
	ck, err := safetensors.Open(t.Context(), os.DirFS(stories))
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	for file, tensor := range ck.All() {
		s := &stored{tensor, make([]byte, tensor.Size)}
		if _, err := file.Data(tensor).ReadAt(s.data, 0); err != nil {
			t.Fatal(err)
		}
		shard := firstShard
		if len(f.index) >= ck.Len()/2 {
			shard = secondShard
		}
		f.shards[shard] = append(f.shards[shard], s)
		f.index[tensor.Name] = shard
	}
	return f
}

// tensor returns the tensor of that name.
func (f *folder) tensor(t *testing.T, name string) *stored {
	t.Helper()
	for _, s := range f.shards[f.index[name]] {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no tensor %s", name)
	return nil
}

// set puts a value into a tensor of F32.
func (s *stored) set(i int, v float32) {
	s.data = slices.Clone(s.data)
	binary.LittleEndian.PutUint32(s.data[4*i:], math.Float32bits(v))
}

// write writes the folder and returns where it is.
func (f *folder) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range f.files {
		write(t, filepath.Join(dir, name), data)
	}
	writeJSON(t, filepath.Join(dir, "config.json"), f.config)
	if f.index != nil {
		writeJSON(t, filepath.Join(dir, "model.safetensors.index.json"), map[string]any{"weight_map": f.index})
	}
	for name, tensors := range f.shards {
		var h safetensors.Header
		var data []byte
		for _, s := range tensors {
			s.Offset, s.Size = int64(len(data)), int64(len(s.data))
			h.Tensors = append(h.Tensors, s.Tensor)
			data = append(data, s.data...)
		}
		head, err := h.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), append(head, data...))
	}
	if f.last != nil {
		f.last(dir)
	}
	return dir
}

func writeJSON(t *testing.T, name string, v any) {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	write(t, name, data)
}

// refused runs a command that must fail with the exit code and, in one line,
// all of want, and must leave nothing in the folder of its output.
func refused(t *testing.T, code int, want []string, command string, args ...string) {
	t.Helper()
	dir := t.TempDir()
	args = append([]string{command}, args...)
	if command == "convert" {
		args = append(args, "-o", filepath.Join(dir, "o.gguf"))
	}
	got, stdout, stderr := try(t, args...)
	if got != code || stdout != "" {
		t.Errorf("%q: exit %d, stdout %q, stderr %q: want exit %d", args, got, stdout, stderr, code)
	}
	var said []string
	for line := range strings.Lines(stderr) {
		if rest, ok := strings.CutPrefix(line, "modelpipe: "); ok {
			said = append(said, rest)
		}
	}
	if len(said) != 1 {
		t.Fatalf("%q: %d errors are reported: %s", args, len(said), stderr)
	}
	for _, w := range want {
		if !strings.Contains(said[0], w) {
			t.Errorf("%q says %swant %s", args, said[0], w)
		}
	}
	if l := listDir(t, dir); l != "" {
		t.Errorf("%q left %s", args, l)
	}
}

// TestBadInput has every way in which a local model is refused.
func TestBadInput(t *testing.T) {
	const up = "model.layers.2.mlp.up_proj.weight"
	for _, c := range []struct {
		name   string
		spoil  func(t *testing.T, f *folder)
		args   []string
		render bool // only the weights show it: the plan is made
		code   int  // exitFailed where it is 0
		want   []string
	}{
		{name: "missing shard", spoil: func(_ *testing.T, f *folder) { delete(f.shards, secondShard) },
			want: []string{secondShard, "is missing"}},
		{name: "dangling shard", spoil: func(_ *testing.T, f *folder) {
			for name, shard := range f.index {
				if shard == secondShard {
					delete(f.index, name)
				}
			}
		}, want: []string{secondShard, "is not listed in"}},
		{name: "tensor that the index does not list", spoil: func(_ *testing.T, f *folder) { delete(f.index, up) },
			want: []string{fmt.Sprintf("tensor %q", up), "is not listed in model.safetensors.index.json"}},
		{name: "tensor that the shard does not have", spoil: func(_ *testing.T, f *folder) { f.index["model.layers.2.mlp.x_proj.weight"] = firstShard },
			want: []string{"model.layers.2.mlp.x_proj.weight", firstShard, "does not have it"}},
		{name: "duplicate tensor", spoil: func(t *testing.T, f *folder) {
			s := *f.tensor(t, "model.embed_tokens.weight")
			f.shards[secondShard] = append(f.shards[secondShard], &s)
		}, want: []string{"model.embed_tokens.weight", "is in both " + firstShard + " and " + secondShard}},
		{name: "truncated file", spoil: func(t *testing.T, f *folder) {
			f.last = func(dir string) {
				if err := os.Truncate(filepath.Join(dir, secondShard), 100_000); err != nil {
					t.Fatal(err)
				}
			}
		}, want: []string{secondShard, "is cut off", "offset "}},
		{name: "empty file", spoil: func(t *testing.T, f *folder) {
			f.last = func(dir string) { write(t, filepath.Join(dir, firstShard), nil) }
		}, want: []string{firstShard, "file of 0 bytes is too small"}},
		{name: "header cut off", spoil: func(t *testing.T, f *folder) {
			f.last = func(dir string) {
				write(t, filepath.Join(dir, firstShard), []byte("\x00\x01\x00\x00\x00\x00\x00\x00{"))
			}
		}, want: []string{firstShard}},
		{name: "unknown dtype", spoil: func(t *testing.T, f *folder) {
			f.last = func(dir string) {
				name := filepath.Join(dir, secondShard)
				data, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				write(t, name, []byte(strings.Replace(string(data), `"F32"`, `"F31"`, 1)))
			}
		}, want: []string{secondShard, `"F31"`, "dtype"}},
		{name: "dtype without values", spoil: func(t *testing.T, f *folder) {
			s := f.tensor(t, up)
			s.DType, s.Shape = safetensors.C64, []int64{172, 32}
		}, want: []string{up}},
		{name: "wrong shape for the config", spoil: func(_ *testing.T, f *folder) { f.config["intermediate_size"] = 171 },
			want: []string{"plan llama: tensor model.layers.0.mlp.", "172", "171", "intermediate_size"}},
		{name: "wrong shape of one tensor", spoil: func(t *testing.T, f *folder) { f.tensor(t, up).Shape = []int64{64, 172} },
			want: []string{up, "shape [64 172]: want [172 64] from intermediate_size"}},
		{name: "tensor that no rule claims", spoil: func(_ *testing.T, f *folder) {
			s := &stored{safetensors.Tensor{Name: "model.layers.0.mlp.extra.weight", DType: safetensors.F32, Shape: []int64{1}}, make([]byte, 4)}
			f.shards[firstShard], f.index[s.Name] = append(f.shards[firstShard], s), firstShard
		}, want: []string{"model.layers.0.mlp.extra.weight", "no rule of llama claims this tensor"}},
		{name: "missing tensor", spoil: func(t *testing.T, f *folder) {
			shard := f.index[up]
			f.shards[shard] = slices.DeleteFunc(f.shards[shard], func(s *stored) bool { return s.Name == up })
			delete(f.index, up)
		}, want: []string{up, "missing: llama needs it for blk.2.ffn_up.weight"}},
		{name: "NaN", spoil: func(t *testing.T, f *folder) { f.tensor(t, up).set(777, float32(math.NaN())) }, render: true,
			want: []string{"blk.2.ffn_up.weight", "NaN at element 777 of " + up, "offset ", ".safetensors", "--allow-nonfinite"}},
		{name: "NaN, quantized", spoil: func(t *testing.T, f *folder) { f.tensor(t, up).set(777, float32(math.NaN())) }, render: true, args: []string{"--type", "Q5_0"},
			want: []string{"blk.2.ffn_up.weight", "NaN at element 777 of " + up, "offset ", ".safetensors", "--allow-nonfinite"}},
		{name: "infinity", spoil: func(t *testing.T, f *folder) { f.tensor(t, up).set(778, float32(math.Inf(-1))) }, render: true, args: []string{"--type", "bf16"},
			want: []string{"blk.2.ffn_up.weight", "-Inf at element 778 of " + up, "offset ", ".safetensors", "--allow-nonfinite"}},
		{name: "more than the type holds", spoil: func(t *testing.T, f *folder) { f.tensor(t, up).set(64, 1e30) }, render: true, args: []string{"--type", "f16"},
			want: []string{"blk.2.ffn_up.weight", "1e+30 in row 1, column 0 is more than F16 can hold", "--type bf16 or f32"}},
		{name: "no architectures", spoil: func(_ *testing.T, f *folder) { delete(f.config, "architectures") },
			want: []string{"config.json: no architectures"}},
		{name: "unknown architecture", spoil: func(_ *testing.T, f *folder) { f.config["architectures"] = []string{"LlammaForCausalLM"} },
			want: []string{"architecture LlammaForCausalLM is not known; the nearest are", "LlamaForCausalLM"}},
		{name: "missing config field", spoil: func(_ *testing.T, f *folder) { delete(f.config, "rms_norm_eps") },
			want: []string{"config.json: rms_norm_eps", "is missing"}},
		{name: "no config", spoil: func(t *testing.T, f *folder) {
			f.last = func(dir string) { os.Remove(filepath.Join(dir, "config.json")) }
		}, want: []string{"config.json is not there"}},
		{name: "config cut off", spoil: func(t *testing.T, f *folder) {
			f.last = func(dir string) { write(t, filepath.Join(dir, "config.json"), []byte(`{"architectures":["Lla`)) }
		}, want: []string{"parse config.json"}},
		{name: "unsupported quantization", spoil: func(_ *testing.T, f *folder) {
			f.config["quantization_config"] = map[string]any{"quant_method": "bitsandbytes"}
		}, want: []string{`config.json: quantization_config: quant_method "bitsandbytes" is not supported`}},
		{name: "missing tokenizer", spoil: func(_ *testing.T, f *folder) { f.files = nil },
			want: []string{"no tokenizer files: want tokenizer.json"}},
		{name: "pre-tokenizer not recognised", spoil: func(_ *testing.T, f *folder) {
			f.files = map[string][]byte{"tokenizer.json": []byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]},"pre_tokenizer":{"type":"Sequence","pretokenizers":[
				{"type":"Split","pattern":{"Regex":"x+y"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]},"decoder":{"type":"ByteLevel"}}`)}
		}, want: []string{"pre-tokenizer not recognised", "--pre NAME", "x+y"}},
		{name: "vocabulary larger than the embedding", spoil: func(t *testing.T, f *folder) {
			f.config["vocab_size"] = 500
			s := f.tensor(t, "model.embed_tokens.weight")
			s.Shape, s.data = []int64{500, 64}, s.data[:500*64*4]
		}, want: []string{"the vocabulary has 512 tokens, more than the 500 rows of the token embedding"}},
		{name: "unknown type", args: []string{"--type", "Q4_K_X"}, code: exitUsage, want: []string{"--type Q4_K_X: want auto, a tensor type or one of"}},
		{name: "expression that matches nothing", args: []string{"--type", "Q8_0", "--tensor-type", "ffn_nope=Q5_0"}, want: []string{"ffn_nope=Q5_0 matches no tensor"}},
		{name: "broken expression", args: []string{"--type", "Q8_0", "--tensor-type", "ffn_(=Q5_0"}, want: []string{"ffn_("}},
		{name: "row that cannot hold its type", args: []string{"--type", "Q4_K_M", "--strict-types"}, want: []string{"blk.", "does not hold Q4_K"}},
		{name: "recipe that is not there", args: []string{"--recipe", "none.toml"}, want: []string{"none.toml"}},
		{name: "imatrix that is not there", args: []string{"--imatrix", "none.gguf"}, want: []string{"none.gguf"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFolder(t)
			if c.spoil != nil {
				c.spoil(t, f)
			}
			dir := f.write(t)
			before := listDir(t, dir)
			if c.code == 0 {
				c.code = exitFailed
			}
			args := append([]string{dir}, c.args...)
			refused(t, c.code, c.want, "convert", args...)
			if !c.render {
				refused(t, c.code, c.want, "plan", args...)
			} else if code, _, stderr := try(t, append([]string{"plan"}, args...)...); code != exitDone {
				t.Errorf("plan: exit %d, %s", code, stderr)
			}
			if l := listDir(t, dir); l != before {
				t.Errorf("the source has %s: it had %s", l, before)
			}
		})
	}
}

// TestNonfiniteAllowed converts NaNs and infinities that are asked for, and
// counts them.
func TestNonfiniteAllowed(t *testing.T) {
	f := newFolder(t)
	f.tensor(t, "model.norm.weight").set(3, float32(math.NaN()))
	up := f.tensor(t, "model.layers.1.mlp.up_proj.weight")
	up.set(5, float32(math.Inf(1)))
	up.set(6, float32(math.Inf(-1)))
	v, _ := converted(t, f.write(t), "--type", "bf16", "--allow-nonfinite")
	if want := map[string]int64{"output_norm.weight": 1, "blk.1.ffn_up.weight": 2}; !maps.Equal(v.Nonfinite, want) {
		t.Errorf("counted %v: want %v", v.Nonfinite, want)
	}
}

// TestSmallVocabularyIsPadded gives an embedding with more rows than there are
// tokens as many tokens as rows.
func TestSmallVocabularyIsPadded(t *testing.T) {
	f := newFolder(t)
	f.config["vocab_size"] = 520
	s := f.tensor(t, "model.embed_tokens.weight")
	s.Shape, s.data = []int64{520, 64}, append(slices.Clone(s.data), make([]byte, 8*64*4)...)
	out := filepath.Join(t.TempDir(), "o.gguf")
	if code, _, stderr := try(t, "convert", f.write(t), "-o", out); code != exitDone {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	g, err := gguf.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	tokens, err := g.Header.Metadata.Strings("tokenizer.ggml.tokens")
	if err != nil || len(tokens) != 520 || tokens[519] != "[PAD519]" {
		t.Errorf("%d tokens, the last %q, %v", len(tokens), tokens[len(tokens)-1], err)
	}
}

// TestBadOutputs has the paths that no file can be written to.
func TestBadOutputs(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(dir, "source")
	if err := os.CopyFS(source, os.DirFS(newFolder(t).write(t))); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "model.gguf")
	if code, _, stderr := try(t, "convert", source, "-o", file); code != exitDone {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	readOnly := filepath.Join(dir, "kept.gguf")
	write(t, readOnly, []byte("kept"))
	link, device := filepath.Join(dir, "link.gguf"), filepath.Join(dir, "device.gguf")
	blocked := filepath.Join(dir, "blocked.gguf")
	for _, err := range []error{os.Chmod(readOnly, 0o444), os.Symlink(file, link), os.Symlink(os.DevNull, device), os.Mkdir(blocked+".partial", 0o777)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	tree := func() map[string]string {
		m := map[string]string{}
		if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				var data []byte
				data, err = os.ReadFile(path)
				m[path] = string(data)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return m
	}
	before := tree()
	long := filepath.Join(dir, strings.Repeat("n", 250)+".gguf")
	for _, c := range []struct {
		source, out string
		code        int
		want        string
	}{
		{os.DevNull, filepath.Join(dir, "o.gguf"), exitFailed, os.DevNull + ": is not a regular file or a folder"},
		{source, dir, exitUsage, "is a folder: want the path of the file"},
		{source, filepath.Join(dir, "none", "o.gguf"), exitFailed, "none does not exist"},
		{source, filepath.Join(file, "o.gguf"), exitFailed, "not a directory"},
		{source, readOnly, exitFailed, "kept.gguf: is there and is read-only"},
		{source, device, exitFailed, "device.gguf: is not a regular file"},
		{source, os.DevNull, exitFailed, os.DevNull + ": is not a regular file"},
		{source, long, exitFailed, "file name too long"},
		{source, blocked, exitFailed, "is a directory"},
		{source, filepath.Join(source, secondShard), exitFailed, "is " + secondShard + " of the source: choose another path"},
		{file, file, exitFailed, "model.gguf: is model.gguf of the source: choose another path"},
		{file, link, exitFailed, "link.gguf: is model.gguf of the source: choose another path"},
		{link, file, exitFailed, "model.gguf: is link.gguf of the source: choose another path"},
	} {
		code, stdout, stderr := try(t, "convert", c.source, "-o", c.out, "--type", "q8_0")
		if code != c.code || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("-o %s: exit %d, stdout %q, stderr %s: want exit %d and %s", c.out, code, stdout, stderr, c.code, c.want)
		}
		if now := tree(); !maps.Equal(now, before) {
			t.Fatalf("-o %s changed or left something: %v", c.out, slices.Sorted(maps.Keys(now)))
		}
	}
	// A new name inside the source is none of these.
	if code, _, stderr := try(t, "convert", source, "-o", filepath.Join(source, "model.gguf")); code != exitDone {
		t.Errorf("inside the source: exit %d, %s", code, stderr)
	}
}
