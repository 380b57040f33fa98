package fromhf

import (
	"context"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/modelpipe/modelpipe/internal/golden"
	"github.com/modelpipe/modelpipe/ops/plain"
)

// with returns the model with fields of its config set; nil takes one away.
func with(t testing.TB, source fstest.MapFS, fields map[string]any) fstest.MapFS {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal(source["config.json"].Data, &config); err != nil {
		t.Fatal(err)
	}
	for k, v := range fields {
		if v == nil {
			delete(config, k)
		} else {
			config[k] = v
		}
	}
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	out := maps.Clone(source)
	out["config.json"] = &fstest.MapFile{Data: data}
	return out
}

type object = map[string]any

func TestBadConfigs(t *testing.T) {
	for _, test := range []struct {
		model  string
		fields object
		want   string // in the error
	}{
		{"llama3", object{"architectures": []string{"NoSuchModel"}}, "no reader for the model class NoSuchModel"},
		{"llama3", object{"architectures": nil}, "no architectures"},
		{"llama3", object{"hidden_size": nil}, "no hidden_size"},
		{"llama3", object{"hidden_size": -64}, "hidden_size is -64"},
		{"llama3", object{"hidden_size": 64.5}, "hidden_size is 64.5"},
		{"llama3", object{"hidden_size": "64"}, "want a number"},
		{"llama3", object{"hidden_size": 1e300}, "hidden_size is 1e+300"},
		{"llama3", object{"vocab_size": 513}, "model.embed_tokens.weight is [512 64]: want [513 64]"},
		{"llama3", object{"num_attention_heads": 0}, "num_attention_heads is 0"},
		{"llama3", object{"num_attention_heads": 3, "head_dim": nil}, "a width of 64 does not divide into 3 heads"},
		{"llama3", object{"num_attention_heads": 1 << 26}, "too many"},
		{"llama3", object{"num_key_value_heads": 3}, "4 heads do not share 3 key heads evenly"},
		{"llama3", object{"num_hidden_layers": 4}, "no tensor layers.3.input_layernorm.weight"},
		{"llama3", object{"num_hidden_layers": 2}, "nothing of the model claims, first model.layers.2."},
		{"llama3", object{"num_hidden_layers": 1 << 20}, "num_hidden_layers is 1048576: at most 4096"},
		{"llama3", object{"head_dim": 15}, "of a head's 15 values would turn"},
		{"llama3", object{"head_dim": 1 << 20}, "too many"},
		{"llama3", object{"attention_bias": true}, "no tensor layers.0.self_attn.q_proj.bias"},
		{"llama3", object{"hidden_act": "sine"}, `unknown activation "sine"`},
		{"llama3", object{"rms_norm_eps": -1}, "rms_norm_eps is -1"},
		{"llama3", object{"rope_theta": 0}, "rope_theta is 0"},
		{"llama3", object{"rope_scaling": object{"rope_type": "spiral"}}, `unknown kind of rope "spiral"`},
		{"llama3", object{"rope_scaling": object{"rope_type": "llama3", "factor": 8}}, "rope_scaling: no low_freq_factor"},
		{"llama3", object{"rope_scaling": object{"rope_type": "yarn", "factor": 0}}, "factor is 0"},
		{"llama3", object{"rope_scaling": 3}, "rope_scaling is no object"},
		{"llama3", object{"quantization_config": object{"quant_method": "alchemy"}}, `quant_method "alchemy" has no reader`},
		{"llama3", object{"tie_word_embeddings": "yes"}, "want true or false"},
		{"phi3", object{"rope_scaling": object{"rope_type": "longrope", "short_factor": []int{1}, "long_factor": []int{1}}}, "long_factor has 1 factors for 8 pairs"},
		{"gemma3", object{"layer_types": []string{"full_attention"}}, "layer_types has 1 entries for 7 layers"},
		{"gemma3", object{"layer_types": []int{1}}, "layer_types[0] is no string"},
		{"qwen3", object{"use_sliding_window": true, "layer_types": []string{"x", "x", "x"}}, `layer_types[0] is "x"`},
		{"mixtral", object{"num_local_experts": 5}, "block_sparse_moe.gate.weight is [4 64]: want [5 64]"},
		{"mixtral", object{"num_experts_per_tok": 5}, "5 of 4 experts"},
		{"mixtral", object{"num_local_experts": 3}, "block_sparse_moe.gate.weight is [4 64]: want [3 64]"},
		{"deepseek2", object{"qk_rope_head_dim": 1 << 20}, "too many"},
		{"deepseek2", object{"n_shared_experts": 1 << 25}, "too many"},
		{"deepseek-v3", object{"n_group": 3}, "8 experts in 2 of 3 groups"},
		{"falcon", object{"alibi": true}, "alibi"},
		{"xlm-roberta-reranker", object{"id2label": object{"0": "no", "1": "yes"}}, "classifier.out_proj.weight is [1 32]: want [2 32]"},
		{"bert-reranker", object{"id2label": 1}, "id2label is no object"},
		{"stablelm", object{"partial_rotary_factor": 2}, "partial_rotary_factor is 2"},
		{"int4-packed", object{"quantization_config": nil}, "no tensor layers.0.self_attn.q_proj.weight"},
		{"fp8-block", object{"quantization_config": nil}, "of type F8_E4M3, for which the config has no quantization"},
	} {
		source := with(t, golden.Unzip(t, filepath.Join(models, test.model, "hf.zip")), test.fields)
		m, err := Open(context.Background(), source)
		if err == nil {
			m.Close()
			t.Errorf("%s with %v: no error, want %q", test.model, test.fields, test.want)
		} else if !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s with %v: %v: want %q", test.model, test.fields, err, test.want)
		}
	}
}

// TestFieldNames reads the same model from configs in older forms.
func TestFieldNames(t *testing.T) {
	var ids []int32
	for _, id := range prompt {
		ids = append(ids, id%300)
	}
	for _, test := range []struct {
		model  string
		fields object
	}{
		{"stablelm", object{
			"architectures": []string{"StableLMEpochForCausalLM"}, "layer_norm_eps": nil, "norm_eps": 1e-5,
			"partial_rotary_factor": nil, "rope_pct": 0.25, "rope_theta": nil, "rotary_emb_base": 10000,
		}},
		{"falcon", object{
			"architectures": []string{"RWForCausalLM"}, "num_attention_heads": nil, "n_head": 4, "num_kv_heads": nil, "n_head_kv": 2,
			"num_hidden_layers": nil, "n_layer": 3, "rope_theta": nil, "ffn_hidden_size": nil, "num_ln_in_parallel_attn": nil,
		}},
		{"phi3", object{"rope_scaling": object{
			"type": "su", "long_factor": []float64{1, 2, 3, 4, 5, 6, 7, 8}, "short_factor": []float64{1, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35},
		}}},
		{"qwen3", object{"layer_types": nil, "rope_theta": nil, "rope_parameters": object{"rope_theta": 10000, "rope_type": "default"}}},
		{"gemma2", object{"layer_types": nil, "hidden_activation": nil, "hidden_act": "gelu"}},
		{"gemma3", object{"layer_types": nil, "rope_theta": nil, "rope_local_base_freq": nil, "rope_parameters": object{
			"full_attention": object{"rope_theta": 1e6, "rope_type": "default"}, "sliding_attention": object{"rope_theta": 1e4, "rope_type": "default"},
		}}},
		{"cohere2", object{"layer_types": nil, "sliding_window_pattern": 4}},
		{"gptoss", object{"layer_types": nil, "num_experts_per_tok": nil, "experts_per_token": 2, "swiglu_limit": nil}},
		{"smollm3", object{"layer_types": nil, "no_rope_layers": nil}},
		{"exaone4", object{"layer_types": nil}},
		{"llama4", object{"layer_types": nil, "no_rope_layers": []int{}, "moe_layers": nil, "attn_temperature_tuning": 4}},
		{"lfm2", object{"layer_types": nil}},
	} {
		source := golden.Unzip(t, filepath.Join(models, test.model, "hf.zip"))
		older, err := Open(context.Background(), with(t, source, test.fields))
		if err != nil {
			t.Errorf("%s with %v: %v", test.model, test.fields, err)
			continue
		}
		defer older.Close()
		if nmse, _ := compare(t, forward(t, older, ids), forward(t, open(t, test.model), ids)); nmse != 0 {
			t.Errorf("%s with %v: nmse %g", test.model, test.fields, nmse)
		}
	}
}

// TestTruncated cuts a checkpoint behind its header's promise, and a file that
// shrinks after it was opened.
func TestTruncated(t *testing.T) {
	dir := t.TempDir()
	source := golden.Unzip(t, filepath.Join(models, "smollm", "hf.zip"))
	for _, name := range []string{"config.json", "model.safetensors"} {
		if err := os.WriteFile(filepath.Join(dir, name), source[name].Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Open(context.Background(), os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := os.Truncate(filepath.Join(dir, "model.safetensors"), 20000); err != nil {
		t.Fatal(err)
	}
	_, err = plain.Forward(context.Background(), m, prompt)
	if err == nil || !strings.Contains(err.Error(), "model.safetensors: tensor model.") || !strings.Contains(err.Error(), "at offset") {
		t.Errorf("reading a file that shrank: %v", err)
	}
	if m, err := Open(context.Background(), os.DirFS(dir)); err == nil {
		m.Close()
		t.Error("opened a file that ends too early")
	}
}

// FuzzConfig reads models with one field of the config set to anything: there
// is a model that can be checked, or an error; no panic, and no allocation that
// only the config asks for.
func FuzzConfig(f *testing.F) {
	names, err := filepath.Glob(filepath.Join(models, "*", "hf.zip"))
	if err != nil || len(names) == 0 {
		f.Fatalf("no models: %v", err)
	}
	var sources []fs.FS
	var fields [][]string
	hostile := []string{
		`null`, `0`, `-1`, `1`, `2`, `3`, `67108864`, `4096`, `1e18`, `1.5`, `1e-300`, `1e400`, `"x"`, `true`, `false`, `[]`, `{}`, `[[]]`,
		`[0]`, `["sliding_attention"]`, `{"rope_type": "yarn", "factor": 1e300}`, `{"full_attention": {}}`, `{"sliding_attention": []}`,
		`{"long_factor": [1], "rope_type": "su"}`, `{"hidden_size": 0}`, `{"quant_method": "gptq", "bits": 3}`,
	}
	for i, name := range names {
		source := golden.Unzip(f, name)
		var config object
		if err := json.Unmarshal(source["config.json"].Data, &config); err != nil {
			f.Fatal(err)
		}
		keys := slices.Sorted(maps.Keys(config))
		sources, fields = append(sources, source), append(fields, keys)
		for j := i % 5; j < len(keys); j += 5 {
			f.Add(uint8(i), uint8(j), hostile[(i+j)%len(hostile)])
		}
	}
	f.Fuzz(func(t *testing.T, model, field uint8, value string) {
		i := int(model) % len(sources)
		keys := fields[i]
		var v any
		if json.Unmarshal([]byte(value), &v) != nil {
			t.Skip()
		}
		source := with(t, sources[i].(fstest.MapFS), object{keys[int(field)%len(keys)]: v})
		m, err := Open(context.Background(), source)
		if err != nil {
			return
		}
		defer m.Close()
		if _, err := plain.Forward(context.Background(), m, prompt[:3]); err != nil {
			t.Errorf("opened, but cannot run: %v", err)
		}
	})
}

// TestHeadless reads language models as the classes without head: what they
// give is what the head would get.
func TestHeadless(t *testing.T) {
	for model, class := range map[string]string{"llama3": "LlamaModel", "mistral": "MistralModel", "gpt2": "GPT2Model", "qwen3": "Qwen3Model"} {
		source := golden.Unzip(t, filepath.Join(models, model, "hf.zip"))
		m, err := Open(context.Background(), with(t, source, object{"architectures": []string{class}}))
		if err != nil {
			t.Errorf("%s: %v", class, err)
			continue
		}
		defer m.Close()
		got := forward(t, m, prompt[:8])
		var want [][]float64
		r := plain.Runner{Model: open(t, model), Trace: func(_ int, what string, x [][]float64) {
			if what == "final" {
				want = x
			}
		}}
		if _, err := r.Forward(context.Background(), prompt[:8]); err != nil {
			t.Fatal(err)
		}
		if nmse, _ := compare(t, got, want); nmse != 0 || m.Head != nil {
			t.Errorf("%s: nmse %g, head %v", class, nmse, m.Head)
		}
	}
}
