package main

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
)

const bundled = "../../testdata/stories260K"

// convertTo converts the bundled model and returns what --json says.
func convertTo(t *testing.T, flags ...string) convertJSON {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.gguf")
	code, stdout, stderr := try(t, append([]string{"convert", bundled, "-o", out, "--json"}, flags...)...)
	if code != exitDone {
		t.Fatalf("%q: exit %d: %s", flags, code, stderr)
	}
	var v convertJSON
	if err := json.Unmarshal([]byte(stdout), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestRecipeFileAndFlagsAgree(t *testing.T) {
	file := filepath.Join(t.TempDir(), "recipe.toml")
	text := "type = \"q4_k_m\"\noutput-type = \"Q5_0\"\n[[tensor]]\nmatch = \"attn_v\"\ntype = \"Q8_0\"\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	one := convertTo(t, "--recipe", file)
	two := convertTo(t, "--type", "Q4_K_M", "--output-type", "Q5_0", "--tensor-type", "attn_v=Q8_0")
	if one.SHA256 != two.SHA256 || one.RecipeDigest != two.RecipeDigest {
		t.Errorf("the file gives %s of recipe %s, the flags %s of %s", one.SHA256, one.RecipeDigest, two.SHA256, two.RecipeDigest)
	}
	three := convertTo(t, "--type", "Q4_K_M")
	if three.SHA256 == two.SHA256 || three.RecipeDigest == two.RecipeDigest {
		t.Error("another recipe gives the same file or digest")
	}
}

// writeGGUF writes a file of F32 tensors, all zero but for the values that fill
// sets.
func writeGGUF(t *testing.T, md gguf.Metadata, tensors []gguf.TensorInfo, fill func(tensor, i int) float32) string {
	t.Helper()
	h := gguf.Header{Version: gguf.Version, Alignment: 32, Metadata: md, Tensors: tensors}
	size, err := h.Layout()
	if err != nil {
		t.Fatal(err)
	}
	b, err := h.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	start := len(b)
	b = append(b, make([]byte, int(size)-start)...)
	for k, x := range h.Tensors {
		n, err := x.Elements()
		if err != nil {
			t.Fatal(err)
		}
		for i := range int(n) {
			binary.LittleEndian.PutUint32(b[start+int(x.Offset)+4*i:], math.Float32bits(fill(k, i)))
		}
	}
	name := filepath.Join(t.TempDir(), "file.gguf")
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// writeImatrix writes importance data of value v for one tensor.
func writeImatrix(t *testing.T, tensor string, cols int, v float32) string {
	t.Helper()
	return writeGGUF(t, gguf.Metadata{
		{Key: "general.type", Value: "imatrix"}, {Key: "imatrix.datasets", Value: []string{"text.txt"}},
		{Key: "imatrix.chunk_count", Value: uint32(1)}, {Key: "imatrix.chunk_size", Value: uint32(512)},
	}, []gguf.TensorInfo{
		{Name: tensor + ".in_sum2", Type: gguf.F32, Shape: []int64{int64(cols), 1}},
		{Name: tensor + ".counts", Type: gguf.F32, Shape: []int64{1, 1}},
	}, func(k, i int) float32 {
		if k == 1 {
			return 1
		}
		return v * float32(i+1)
	})
}

// TestPresetsThatNeedAnImatrix plans such a preset but does not convert it;
// with --pure the encoders that can do without are free to.
func TestPresetsThatNeedAnImatrix(t *testing.T) {
	source := writeGGUF(t, gguf.Metadata{
		{Key: "general.architecture", Value: "llama"}, {Key: "llama.block_count", Value: uint32(1)},
		{Key: "llama.attention.head_count", Value: uint32(8)},
	}, []gguf.TensorInfo{
		{Name: "blk.0.ffn_up.weight", Type: gguf.F32, Shape: []int64{256, 4}},
	}, func(_, i int) float32 { return float32(i%7) - 3 })
	im := writeImatrix(t, "blk.0.ffn_up.weight", 256, 1)
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"--type", "IQ2_XXS"}, exitFailed},
		{[]string{"--type", "Q2_K_S"}, exitFailed},
		{[]string{"--type", "IQ3_XXS"}, exitFailed},
		{[]string{"--type", "IQ2_XXS", "--pure"}, exitFailed},
		{[]string{"--type", "IQ3_XXS", "--pure"}, exitDone},
		{[]string{"--type", "Q2_K"}, exitDone},
		{[]string{"--type", "IQ2_XXS", "--imatrix", im}, exitDone},
		{[]string{"--type", "Q2_K_S", "--imatrix", im}, exitDone},
	} {
		out := filepath.Join(t.TempDir(), "out.gguf")
		code, _, stderr := try(t, append([]string{"convert", source, "-o", out}, c.args...)...)
		if code != c.code || (code != exitDone && !strings.Contains(stderr, "1 tensors need importance data to be encoded, blk.0.ffn_up.weight first: give --imatrix")) {
			t.Errorf("%q: exit %d, want %d: %s", c.args, code, c.code, stderr)
		}
		if code, _, stderr := try(t, append([]string{"plan", source}, c.args...)...); code != exitDone {
			t.Errorf("plan %q: exit %d: %s", c.args, code, stderr)
		}
	}
}

func TestImatrixIsUsedAndRecorded(t *testing.T) {
	im := writeImatrix(t, "blk.0.attn_q.weight", 64, 1)
	with := convertTo(t, "--type", "Q5_0", "--imatrix", im)
	without := convertTo(t, "--type", "Q5_0")
	if with.SHA256 == without.SHA256 || !strings.HasPrefix(with.ImatrixDigest, "sha256:") {
		t.Errorf("with an imatrix %s (%s), without %s", with.SHA256, with.ImatrixDigest, without.SHA256)
	}
	out := filepath.Join(t.TempDir(), "out.gguf")
	if code, _, stderr := try(t, "convert", bundled, "--type", "Q5_0", "--imatrix", im, "-o", out); code != exitDone {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	f, err := gguf.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if name, err := f.Header.Metadata.String("quantize.imatrix.file"); err != nil || name != im {
		t.Errorf("quantize.imatrix.file %q: %v", name, err)
	}
	if n, err := f.Header.Metadata.Uint32("quantize.imatrix.entries_count"); err != nil || n != 1 {
		t.Errorf("quantize.imatrix.entries_count %d: %v", n, err)
	}
}

func TestTypeErrors(t *testing.T) {
	recipe := filepath.Join(t.TempDir(), "recipe.toml")
	if err := os.WriteFile(recipe, []byte("type = \"Q8_0\"\npur = true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"unknown type", []string{"--type", "Q9_K"}, exitUsage, "--type Q9_K: want auto, a tensor type or one of F32"},
		{"no such tensor", []string{"--type", "Q8_0", "--tensor-type", "attn_z=Q4_0"}, exitFailed, "tensor type attn_z=Q4_0 matches no tensor"},
		{"override without a type", []string{"--type", "Q8_0", "--tensor-type", "attn_v"}, exitUsage, "want REGEX=TYPE"},
		{"row too short", []string{"--type", "Q4_K_M", "--strict-types"}, exitFailed, "a row of 64 weights does not hold Q4_K"},
		{"recipe and flags", []string{"--recipe", recipe, "--pure"}, exitUsage, "--recipe holds what the other flags"},
		{"recipe with an unknown key", []string{"--recipe", recipe}, exitFailed, `line 2: unknown key "pur"; did you mean "pure"?`},
		{"imatrix of another model", []string{"--type", "Q5_0", "--imatrix", writeImatrix(t, "blk.0.attn_q.weight", 32, 1)}, exitFailed, "imatrix of another model"},
		{"imatrix without a tensor of this one", []string{"--type", "Q5_0", "--imatrix", writeImatrix(t, "blk.9.attn_q.weight", 64, 1)}, exitFailed, "none of its 1 tensors is in this one"},
		{"negative importance", []string{"--type", "Q5_0", "--imatrix", writeImatrix(t, "blk.0.attn_q.weight", 64, -1)}, exitFailed, "want a finite number of at least 0"},
		{"importance not a number", []string{"--type", "Q5_0", "--imatrix", writeImatrix(t, "blk.0.attn_q.weight", 64, float32(math.NaN()))}, exitFailed, "want a finite number of at least 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out.gguf")
			code, stdout, stderr := try(t, append([]string{"convert", bundled, "-o", out}, c.args...)...)
			if code != c.code || stdout != "" || !strings.Contains(stderr, c.want) {
				t.Errorf("exit %d, stdout %q, stderr %q: want exit %d and %q", code, stdout, stderr, c.code, c.want)
			}
			left, err := os.ReadDir(filepath.Dir(out))
			if err != nil || len(left) != 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}
