package quantize

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
)

// models are the tensor lists that the golden recipes were made for. A name
// with %d stands for one tensor per layer.
var models = []struct {
	golden  string
	model   Model
	tensors []Tensor
}{
	{"qwen3-0.6b", Model{Arch: "qwen3", Layers: 28, Heads: 16, HeadsKV: 8}, []Tensor{
		weight("token_embd", 1024, 151936), weight("output", 1024, 151936), weight("output_norm", 1024),
		weight("blk.%d.attn_norm", 1024), weight("blk.%d.ffn_norm", 1024),
		weight("blk.%d.attn_q", 1024, 2048), weight("blk.%d.attn_k", 1024, 1024), weight("blk.%d.attn_v", 1024, 1024),
		weight("blk.%d.attn_output", 2048, 1024), weight("blk.%d.attn_q_norm", 128),
		weight("blk.%d.ffn_gate", 1024, 3072), weight("blk.%d.ffn_up", 1024, 3072), weight("blk.%d.ffn_down", 3072, 1024),
	}},
	{"gemma-3-4b-it", Model{Arch: "gemma3", Layers: 34, Heads: 8, HeadsKV: 4}, []Tensor{
		weight("token_embd", 2560, 262144), weight("output_norm", 2560),
		weight("blk.%d.attn_norm", 2560),
		weight("blk.%d.attn_q", 2560, 2048), weight("blk.%d.attn_k", 2560, 1024), weight("blk.%d.attn_v", 2560, 1024),
		weight("blk.%d.attn_output", 2048, 2560),
		weight("blk.%d.ffn_gate", 2560, 10240), weight("blk.%d.ffn_up", 2560, 10240), weight("blk.%d.ffn_down", 10240, 2560),
	}},
	{"meta-llama-3.1-70b-instruct", Model{Arch: "llama", Layers: 80, Heads: 64, HeadsKV: 8}, []Tensor{
		weight("token_embd", 8192, 128256), weight("output", 8192, 128256), weight("output_norm", 8192),
		weight("blk.%d.attn_norm", 8192),
		weight("blk.%d.attn_q", 8192, 8192), weight("blk.%d.attn_k", 8192, 1024), weight("blk.%d.attn_v", 8192, 1024),
		weight("blk.%d.attn_output", 8192, 8192),
		weight("blk.%d.ffn_gate", 8192, 28672), weight("blk.%d.ffn_up", 8192, 28672), weight("blk.%d.ffn_down", 28672, 8192),
	}},
	{"gpt-oss-120b", Model{Arch: "gpt-oss", Layers: 36, Heads: 64, HeadsKV: 8, Experts: 128}, []Tensor{
		weight("token_embd", 2880, 201088), weight("output", 2880, 201088), weight("output_norm", 2880),
		weight("blk.%d.attn_norm", 2880), weight("blk.%d.ffn_gate_inp", 2880, 128),
		weight("blk.%d.attn_q", 2880, 4096), weight("blk.%d.attn_k", 2880, 512), weight("blk.%d.attn_v", 2880, 512),
		weight("blk.%d.attn_output", 4096, 2880),
		weight("blk.%d.ffn_gate_exps", 2880, 2880, 128), weight("blk.%d.ffn_up_exps", 2880, 2880, 128), weight("blk.%d.ffn_down_exps", 2880, 2880, 128),
	}},
}

func weight(name string, shape ...int64) Tensor {
	return Tensor{Name: name + ".weight", Shape: shape, Type: gguf.F32}
}

// perLayer writes out the names with a %d.
func perLayer(tensors []Tensor, layers int) []Tensor {
	var out []Tensor
	for _, t := range tensors {
		if !strings.Contains(t.Name, "%d") {
			out = append(out, t)
			continue
		}
		for i := range layers {
			u := t
			u.Name = fmt.Sprintf(t.Name, i)
			out = append(out, u)
		}
	}
	return out
}

// schema reads llama.cpp's list of expected types: per preset a default and
// the tensors that differ from it.
func schema(t *testing.T, file string) map[string]map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]string{}
	var preset map[string]string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) != 2 || fields[0] == "#":
		case strings.HasPrefix(fields[0], "["):
			preset = map[string]string{"": fields[1]}
			out[strings.Trim(fields[0], "[]")] = preset
		default:
			preset[fields[0]] = fields[1]
		}
	}
	return out
}

func TestPresetsAsLlamaQuantize(t *testing.T) {
	for _, m := range models {
		tensors := perLayer(m.tensors, m.model.Layers)
		want := schema(t, filepath.Join("testdata/recipes", m.golden+".schema"))
		if len(want) < 30 {
			t.Fatalf("%s: only %d presets", m.golden, len(want))
		}
		for name, types := range want {
			t.Run(m.golden+"/"+name, func(t *testing.T) {
				got, err := Recipe{Preset: name}.Assign(m.model, tensors, false)
				if err != nil {
					t.Fatal(err)
				}
				seen := 1 // the default
				for i, tensor := range tensors {
					expect, differs := types[tensor.Name]
					if differs {
						seen++
					} else {
						expect = types[""]
					}
					if !Quantizable(tensor.Name, tensor.Shape) {
						expect = tensor.Type.String()
					}
					if !strings.EqualFold(got.Choices[i].Type.String(), expect) {
						t.Errorf("%s: got %s, want %s", tensor.Name, got.Choices[i].Type, expect)
					}
				}
				if seen != len(types) {
					t.Errorf("%d of %d listed tensors are in the model", seen, len(types))
				}
			})
		}
	}
}

// TestChoices holds what the golden recipes do not show.
func TestChoices(t *testing.T) {
	q := func(t gguf.Type) *gguf.Type { return &t }
	llama := Model{Arch: "llama", Layers: 16, Heads: 32, HeadsKV: 8}
	mixtral := Model{Arch: "llama", Layers: 16, Heads: 32, HeadsKV: 8, Experts: 8}
	falcon := Model{Arch: "falcon", Layers: 32, Heads: 71, HeadsKV: 1}
	base := perLayer([]Tensor{
		weight("token_embd", 1024, 1000), weight("output", 1024, 1000),
		weight("blk.%d.attn_v", 1024, 256), weight("blk.%d.attn_k", 1024, 256), weight("blk.%d.attn_qkv", 1024, 256), weight("blk.%d.attn_output", 1024, 1024),
		weight("blk.%d.ffn_up", 1024, 4096), weight("blk.%d.ffn_down", 4096, 1024),
	}, 16)
	for i := range base {
		base[i].Type = gguf.BF16
	}
	tied := slices.DeleteFunc(slices.Clone(base), func(t Tensor) bool { return t.Name == "output.weight" })
	for _, c := range []struct {
		name       string
		recipe     Recipe
		model      Model
		tensors    []Tensor
		importance bool
		tensor     string
		want       gguf.Type
	}{
		{"tied embedding is the output", Recipe{Preset: "Q4_K_M"}, llama, tied, false, "token_embd.weight", gguf.Q6_K},
		{"tied embedding below 3 bits", Recipe{Preset: "IQ2_M"}, llama, tied, true, "token_embd.weight", gguf.Q5_K},
		{"output type of a tied embedding", Recipe{Preset: "Q4_K_M", Output: q(gguf.Q8_0)}, llama, tied, false, "token_embd.weight", gguf.Q8_0},
		{"embedding type", Recipe{Preset: "Q4_K_M", Embedding: q(gguf.Q3_K)}, llama, tied, false, "token_embd.weight", gguf.Q3_K},
		{"output left", Recipe{Preset: "Q4_K_M", LeaveOutput: true}, llama, base, false, "output.weight", gguf.BF16},
		{"pure", Recipe{Preset: "Q4_K_M", Pure: true}, llama, base, false, "output.weight", gguf.Q4_K},
		{"preset of that name", Recipe{Preset: "IQ2_S"}, llama, base, true, "blk.3.ffn_up.weight", gguf.IQ2_XS},
		{"alias", Recipe{Preset: "q5_k"}, llama, base, false, "blk.0.ffn_down.weight", gguf.Q6_K},
		{"fused attention counts as values", Recipe{Preset: "Q5_K_M"}, llama, base, false, "blk.0.attn_qkv.weight", gguf.Q6_K},
		{"8 experts: values", Recipe{Preset: "Q4_K_M"}, mixtral, base, false, "blk.5.attn_v.weight", gguf.Q8_0},
		{"8 experts: keys", Recipe{Preset: "Q3_K_M"}, mixtral, base, false, "blk.5.attn_k.weight", gguf.Q8_0},
		{"8 experts: attention output", Recipe{Preset: "Q4_K_S"}, mixtral, base, false, "blk.5.attn_output.weight", gguf.Q5_K},
		{"8 experts: attention output of Q3_K_L", Recipe{Preset: "Q3_K_L"}, mixtral, base, false, "blk.5.attn_output.weight", gguf.Q3_K},
		{"8 experts below 3 bits: keys", Recipe{Preset: "IQ2_XS"}, mixtral, base, true, "blk.5.attn_k.weight", gguf.Q4_K},
		{"falcon: output", Recipe{Preset: "Q4_K_M"}, falcon, base, false, "output.weight", gguf.Q8_0},
		{"falcon: attention output", Recipe{Preset: "Q2_K"}, falcon, base, false, "blk.5.attn_output.weight", gguf.Q2_K},
		{"falcon: Q3_K_L", Recipe{Preset: "Q3_K_L"}, falcon, base, false, "blk.5.ffn_down.weight", gguf.Q4_K},
		{"with importance", Recipe{Preset: "Q4_0"}, llama, base, true, "blk.0.ffn_down.weight", gguf.Q4_1},
		{"without importance", Recipe{Preset: "Q4_0"}, llama, base, false, "blk.0.ffn_down.weight", gguf.Q4_0},
		{"importance spares ffn_down", Recipe{Preset: "IQ4_XS"}, llama, base, true, "blk.0.ffn_down.weight", gguf.IQ4_XS},
		{"override", Recipe{Preset: "Q4_K_M", Overrides: []Override{{`FFN_down`, gguf.Q3_K}}}, llama, base, false, "blk.0.ffn_down.weight", gguf.Q3_K},
		{"first override decides", Recipe{Preset: "Q4_K_M", Overrides: []Override{{`\.0\.ffn`, gguf.Q8_0}, {`ffn`, gguf.Q3_K}}}, llama, base, false, "blk.0.ffn_down.weight", gguf.Q8_0},
		{"not quantized", Recipe{Preset: "F16"}, llama, base, false, "blk.0.ffn_down.weight", gguf.F16},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.recipe.Assign(c.model, c.tensors, c.importance)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(c.tensors, func(t Tensor) bool { return t.Name == c.tensor })
			if got.Choices[i].Type != c.want {
				t.Errorf("%s: got %s, want %s", c.tensor, got.Choices[i].Type, c.want)
			}
		})
	}
}

func TestFallback(t *testing.T) {
	one := func(cols int64) []Tensor { return []Tensor{weight("blk.0.ffn_up", cols, 64)} }
	m := Model{Arch: "llama", Layers: 1, Heads: 4, HeadsKV: 4}
	for _, c := range []struct {
		preset string
		cols   int64
		want   gguf.Type
	}{
		{"Q4_K_M", 256, gguf.Q4_K}, {"Q4_K_M", 288, gguf.Q5_0}, {"Q5_K_M", 288, gguf.Q5_1}, {"Q6_K", 288, gguf.Q8_0},
		{"Q2_K", 288, gguf.Q4_0}, {"IQ4_XS", 288, gguf.IQ4_NL}, {"TQ1_0", 288, gguf.Q4_0},
		{"Q4_K_M", 40, gguf.F16}, {"Q8_0", 40, gguf.F16}, {"Q4_0", 33, gguf.F16},
	} {
		r := Recipe{Preset: c.preset}
		got, err := r.Assign(m, one(c.cols), false)
		if err != nil {
			t.Fatal(err)
		}
		if got.Choices[0].Type != c.want {
			t.Errorf("%s in rows of %d: got %s, want %s", c.preset, c.cols, got.Choices[0].Type, c.want)
		}
		r.Strict = true
		if _, err := r.Assign(m, one(c.cols), false); (err != nil) != (got.Choices[0].Type != got.Choices[0].Wanted) {
			t.Errorf("%s in rows of %d, strict: error %v", c.preset, c.cols, err)
		}
	}
}

func TestRecipeErrors(t *testing.T) {
	q := func(t gguf.Type) *gguf.Type { return &t }
	m := Model{Arch: "llama", Layers: 1, Heads: 4, HeadsKV: 4}
	tensors := []Tensor{weight("blk.0.ffn_up", 256, 64)}
	for _, c := range []struct {
		recipe Recipe
		model  Model
		want   string
	}{
		{Recipe{Preset: "Q4_K_X"}, m, `unknown type or preset "Q4_K_X"; want one of F32, F16`},
		{Recipe{Preset: "Q8_1"}, m, "type Q8_1 cannot be written: it has no encoder"},
		{Recipe{Preset: "Q4_K_M", Overrides: []Override{{"attn_z", gguf.Q8_0}}}, m, "tensor type attn_z=Q8_0 matches no tensor"},
		{Recipe{Preset: "Q4_K_M", Overrides: []Override{{"(", gguf.Q8_0}}}, m, "tensor type (=Q8_0: error parsing regexp"},
		{Recipe{Preset: "Q4_K_M", Overrides: []Override{{"ffn", gguf.I32}}}, m, "tensor type ffn=I32: type I32 cannot be written"},
		{Recipe{Preset: "Q4_K_M", Output: q(gguf.I8)}, m, "type I8 cannot be written"},
		{Recipe{Preset: "Q4_K_M"}, Model{Arch: "llama", Layers: 0, Experts: 4}, "tensor blk.0.ffn_up.weight: no block of 0 in the name"},
	} {
		_, err := c.recipe.Assign(c.model, tensors, false)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want %s", c.recipe, err, c.want)
		}
	}
}

func TestNeedsImportance(t *testing.T) {
	m := Model{Arch: "llama", Layers: 16, Heads: 32, HeadsKV: 8}
	tensors := []Tensor{weight("token_embd", 256, 64), weight("output", 256, 64), weight("blk.9.ffn_up", 256, 64)}
	for _, c := range []struct {
		recipe Recipe
		want   bool
	}{
		{Recipe{Preset: "Q2_K_S"}, true}, {Recipe{Preset: "Q2_K"}, false}, {Recipe{Preset: "IQ3_XXS"}, true},
		{Recipe{Preset: "IQ2_M"}, true}, {Recipe{Preset: "IQ4_XS"}, false},
	} {
		got, err := c.recipe.Assign(m, tensors, false)
		if err != nil {
			t.Fatal(err)
		}
		if got.Choices[2].NeedsImportance != c.want || got.Choices[1].NeedsImportance {
			t.Errorf("%+v: %+v, want %v for the last alone", c.recipe, got.Choices, c.want)
		}
	}
}
