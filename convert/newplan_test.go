package convert

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// A badModel is a golden with something wrong, and what the plan says of it.
type badModel struct {
	name   string
	golden string
	config map[string]any            // fields to set; nil deletes
	header func(h map[string]any)    // edits the safetensors header
	files  func(source fstest.MapFS) // edits the files
	want   string
}

const wide = 1 << 40

// TestBadModels holds every refusal to its message: each names the thing and,
// where there is a choice, what was wanted.
func TestBadModels(t *testing.T) {
	for _, bad := range []badModel{
		{name: "no config", golden: "qwen3", files: func(s fstest.MapFS) { delete(s, "config.json") },
			want: "plan: config.json is not there: the source is not a model in Hugging Face's layout"},
		{name: "config is not JSON", golden: "qwen3", files: func(s fstest.MapFS) { s["config.json"] = textFile("{\n") },
			want: "plan: parse config.json: "},
		{name: "NaN", golden: "qwen3", files: func(s fstest.MapFS) {
			s["config.json"].Data = []byte(strings.Replace(string(s["config.json"].Data), `"rms_norm_eps": 1e-06`, `"rms_norm_eps": NaN`, 1))
		}, want: "NaN is not a number"},
		{name: "no architectures", golden: "qwen3", config: map[string]any{"architectures": nil},
			want: "plan: config.json: no architectures: cannot tell what model this is"},
		{name: "unknown architecture", golden: "qwen3", config: map[string]any{"architectures": []string{"Qwen9ForCausalLM"}},
			want: "plan: architecture Qwen9ForCausalLM is not known; the nearest are Qwen2ForCausalLM, Qwen3ForCausalLM, "},
		{name: "missing field", golden: "qwen3", config: map[string]any{"num_attention_heads": nil},
			want: "config.json: num_attention_heads (or n_head, n_heads) is missing"},
		{name: "missing norm epsilon", golden: "qwen3", config: map[string]any{"rms_norm_eps": nil},
			want: "plan qwen3: qwen3.attention.layer_norm_rms_epsilon: config.json: rms_norm_eps (or norm_eps) is missing"},
		{name: "missing rope base", golden: "qwen3", config: map[string]any{"rope_theta": nil},
			want: "plan qwen3: qwen3.rope.freq_base: config.json: rope_theta is missing"},
		{name: "missing vocabulary size", golden: "qwen3", config: map[string]any{"vocab_size": nil},
			want: "plan qwen3: config.json: vocab_size is missing"},
		{name: "field of another kind", golden: "qwen3", config: map[string]any{"num_hidden_layers": "three"},
			want: "plan qwen3: config.json: num_hidden_layers: want a whole number, got three"},
		{name: "fraction", golden: "qwen3", config: map[string]any{"hidden_size": 63.5},
			want: "config.json: hidden_size: want a whole number, got 63.5"},
		{name: "absurd layers", golden: "qwen3", config: map[string]any{"num_hidden_layers": wide},
			want: "plan qwen3: config.json: num_hidden_layers: 1099511627776 is out of range"},
		{name: "too many layers", golden: "deepseek2", config: map[string]any{"num_hidden_layers": 2_000_000_000},
			want: "plan deepseek2: config.json: num_hidden_layers: 2000000000 is out of range"},
		{name: "negative heads", golden: "qwen3", config: map[string]any{"num_attention_heads": -4},
			want: "num_attention_heads: -4 is out of range"},
		{name: "wrong shape", golden: "qwen3", config: map[string]any{"head_dim": 30},
			want: "plan qwen3: tensor model.layers.0.self_attn.q_proj.weight: shape [128 64]: want [120 64] from num_attention_heads x head_dim"},
		{name: "wrong number of dimensions", golden: "qwen3", header: func(h map[string]any) {
			h["model.norm.weight"].(map[string]any)["shape"] = []int{1, 64}
		}, want: "plan qwen3: tensor model.norm.weight: shape [1 64]: want [64] from hidden_size"},
		{name: "more layers than tensors", golden: "qwen3", config: map[string]any{"num_hidden_layers": 4},
			want: "plan qwen3: tensor model.layers.3.self_attn.q_proj.weight: missing: qwen3 needs it for blk.3.attn_q.weight"},
		{name: "fewer layers than tensors", golden: "qwen3", config: map[string]any{"num_hidden_layers": 2},
			want: "block 2: num_hidden_layers is 2"},
		{name: "tensor that no rule claims", golden: "qwen3", header: rename("model.norm.weight", "model.norm.gain"),
			want: "plan qwen3: tensor model.norm.gain: no rule of qwen3 claims this tensor"},
		{name: "tensor missing", golden: "qwen3", header: drop("model.layers.1.mlp.up_proj.weight"),
			want: "plan qwen3: tensor model.layers.1.mlp.up_proj.weight: missing: qwen3 needs it for blk.1.ffn_up.weight"},
		{name: "untied head missing", golden: "mistral", header: drop("lm_head.weight"),
			want: "plan llama: tensor lm_head.weight: missing: llama needs it for output.weight"},
		{name: "the same tensor twice", golden: "qwen3", header: rename("model.layers.0.self_attn.k_norm.weight", "layers.0.self_attn.q_norm.weight"),
			want: "are the same one"},
		{name: "expert missing", golden: "qwen3moe", header: drop("model.layers.0.mlp.experts.3.up_proj.weight"),
			want: "plan qwen3moe: tensor model.layers.0.mlp.experts.3.up_proj.weight: missing: want 4 from num_local_experts"},
		{name: "fewer experts than tensors", golden: "qwen3moe", config: map[string]any{"num_local_experts": 3},
			want: "tensor model.layers.0.mlp.gate.weight: shape [4 64]: want [3 64] from num_local_experts"},
		{name: "layer types", golden: "exaone4", config: map[string]any{"layer_types": []string{"sliding_attention"}},
			want: "config.json: layer_types: 1 entries: num_hidden_layers is "},
		{name: "rope settings", golden: "llama3", config: map[string]any{"rope_scaling": map[string]any{"rope_type": "llama3", "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 256}},
			want: `plan llama: config.json: rope settings of type "llama3": factor is missing`},
		{name: "rotary share", golden: "glm4", config: map[string]any{"partial_rotary_factor": 1.5},
			want: "partial_rotary_factor: want more than 0 and at most 1, got 1.5"},
		{name: "rope factors", golden: "phi3", config: map[string]any{"rope_scaling": map[string]any{"rope_type": "longrope", "long_factor": []float64{1, 2}, "short_factor": []float64{1, 2}, "original_max_position_embeddings": 256}},
			want: "plan phi3: config.json: rope settings: 2 long and 2 short factors: want 8 of each"},
		{name: "router", golden: "deepseek2", config: map[string]any{"scoring_func": "tanh"},
			want: "config.json: scoring_func: want softmax, sigmoid or sqrtsoftplus, got tanh"},
		{name: "alibi", golden: "falcon", config: map[string]any{"alibi": true},
			want: "config.json: alibi: ggml's Falcon has rotary positions only"},
		{name: "soft cap that ggml does not apply", golden: "gemma3", config: map[string]any{"attn_logit_softcapping": 50.0},
			want: "config.json: attn_logit_softcapping: 50: want null"},
		{name: "experts in every other block", golden: "ernie45-moe", config: map[string]any{"moe_layer_interval": 2, "num_hidden_layers": 2},
			header: func(h map[string]any) {
				maps.DeleteFunc(h, func(name string, _ any) bool { return strings.HasPrefix(name, "model.layers.2.") })
			},
			want: "config.json: moe_layer_interval: 2: want 1"},
		{name: "bias that ggml does not add", golden: "qwen3", header: rename("model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.o_proj.bias"),
			want: "plan qwen3: tensor model.layers.0.self_attn.o_proj.bias: no rule of qwen3 claims this tensor"},
		{name: "bias that ggml needs", golden: "starcoder2", header: drop("model.layers.0.mlp.c_fc.bias"),
			want: "plan starcoder2: tensor model.layers.0.mlp.c_fc.bias: missing: starcoder2 needs it for blk.0.ffn_up.bias"},
		{name: "bias that one block has lost", golden: "seed-oss", header: drop("model.layers.1.self_attn.k_proj.bias"), config: map[string]any{"attention_bias": nil},
			want: "plan seed_oss: tensor model.layers.1.self_attn.k_proj.bias: missing: block 0 has model.layers.0.self_attn.k_proj.bias"},
		{name: "bias that the config asks for", golden: "seed-oss", header: drop("model.layers.1.self_attn.k_proj.bias"),
			want: "plan seed_oss: tensor model.layers.1.self_attn.k_proj.bias: missing: seed_oss needs it for blk.1.attn_k.bias"},
		{name: "rope factors missing", golden: "phi3", config: map[string]any{"rope_scaling": map[string]any{"rope_type": "longrope", "short_factor": []float64{1, 2}}},
			want: `rope settings of type "longrope": long_factor is missing`},
		{name: "bias that the class always has", golden: "qwen2", header: drop("model.layers.1.self_attn.k_proj.bias"),
			want: "plan qwen2: tensor model.layers.1.self_attn.k_proj.bias: missing: qwen2 needs it for blk.1.attn_k.bias"},
		{name: "integers", golden: "qwen3", header: func(h map[string]any) { h["model.norm.weight"].(map[string]any)["dtype"] = "I16" },
			want: "plan qwen3: tensor model.norm.weight: I16 are no weights"},
		{name: "block behind the last", golden: "deepseek2", header: rename("model.layers.2.input_layernorm.weight", "model.layers.9.input_layernorm.weight"),
			want: "tensor model.layers.9.input_layernorm.weight: block 9: num_hidden_layers is 3"},
		{name: "context of nothing", golden: "qwen3", config: map[string]any{"max_position_embeddings": 0},
			want: "plan qwen3: qwen3.context_length: config.json: max_position_embeddings: 0 is out of range"},
		{name: "negative epsilon", golden: "qwen3", config: map[string]any{"rms_norm_eps": -1},
			want: "config.json: rms_norm_eps: -1 is out of range"},
		{name: "more experts than there are", golden: "qwen3moe", config: map[string]any{"num_experts_per_tok": 5},
			want: "plan qwen3moe: qwen3moe.expert_used_count: 5 is more than expert_count, which is 4"},
		{name: "unknown rope type", golden: "qwen3", config: map[string]any{"rope_scaling": map[string]any{"rope_type": "spiral", "factor": 2}},
			want: "plan: config.json: rope settings: rope_type: want default, linear, "},
		{name: "rope factor without a type", golden: "qwen3", config: map[string]any{"rope_scaling": map[string]any{"factor": 2}},
			want: "rope settings: rope_type is missing beside factor"},
		{name: "yarn without a factor", golden: "qwen3", config: map[string]any{"rope_scaling": map[string]any{"type": "yarn"}},
			want: `rope settings of type "yarn": factor is missing`},
		{name: "tied or not", golden: "qwen3", config: map[string]any{"tie_word_embeddings": "yes"},
			want: "config.json: tie_word_embeddings: want true or false, got yes"},
		{name: "unsupported quantization", golden: "qwen3", config: map[string]any{"quantization_config": map[string]any{"quant_method": "bitsandbytes"}},
			want: `quant_method "bitsandbytes" is not supported`},
		{name: "no tokenizer", golden: "qwen3", files: func(s fstest.MapFS) {
			for name := range s {
				if name != "config.json" && !strings.HasSuffix(name, ".safetensors") {
					delete(s, name)
				}
			}
		}, want: "plan qwen3: tokenizer: "},
		{name: "no weights", golden: "qwen3", files: func(s fstest.MapFS) { delete(s, "model.safetensors") },
			want: "plan qwen3: "},
		{name: "vocabulary larger than the embedding", golden: "qwen3", config: map[string]any{"vocab_size": 300}, header: func(h map[string]any) {
			h["model.embed_tokens.weight"].(map[string]any)["shape"] = []int{300, 64}
			h["model.embed_tokens.weight"].(map[string]any)["data_offsets"] = []int{0, 300 * 64 * 2}
		}, want: "plan qwen3: tokenizer: the vocabulary has 506 tokens, more than the 300 rows of the token embedding"},
		{name: "broken generation config", golden: "qwen3", files: func(s fstest.MapFS) { s["generation_config.json"] = textFile(`{"top_k": "many"}`) },
			want: "generation_config.json: top_k: want a whole number, got many"},
	} {
		t.Run(bad.name, func(t *testing.T) {
			source := fstest.MapFS{}
			golden, ok := openModel(t, "testdata/golden/"+bad.golden).(fstest.MapFS)
			if !ok {
				t.Fatal("no such golden")
			}
			for name, f := range golden {
				source[name] = &fstest.MapFile{Data: f.Data}
			}
			if bad.config != nil {
				editConfig(t, source, bad.config)
			}
			if bad.header != nil {
				editHeader(t, source, bad.header)
			}
			if bad.files != nil {
				bad.files(source)
			}
			_, err := NewPlan(context.Background(), source, Options{})
			if err == nil {
				t.Fatalf("planned; want %q", bad.want)
			}
			if !strings.Contains(err.Error(), bad.want) {
				t.Fatalf("got  %v\nwant %s", err, bad.want)
			}
		})
	}
}

// TestTiedOutput: where ggml has no fallback on the embedding, a model that
// shares it with its head gets a copy, which does not count as parameters.
func TestTiedOutput(t *testing.T) {
	for _, golden := range []string{"olmo2", "qwen2moe", "gptoss", "stablelm", "nemotron"} {
		source, ok := openModel(t, "testdata/golden/"+golden).(fstest.MapFS)
		if !ok {
			t.Fatal("no such golden")
		}
		untied, err := NewPlan(context.Background(), source, Options{})
		if err != nil {
			t.Fatal(err)
		}
		editConfig(t, source, map[string]any{"tie_word_embeddings": true})
		editHeader(t, source, drop("lm_head.weight"))
		tied, err := NewPlan(context.Background(), source, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(tied.Steps) != len(untied.Steps) {
			t.Errorf("%s: %d tensors: want %d as with a head of its own", golden, len(tied.Steps), len(untied.Steps))
		}
		at := func(name string) Step {
			return tied.Steps[slices.IndexFunc(tied.Steps, func(s Step) bool { return s.Name == name })]
		}
		if output, embedding := at("output.weight"), at("token_embd.weight"); output.Type != embedding.Type || !slices.Equal(output.Shape, embedding.Shape) {
			t.Errorf("%s: output.weight is %v %v: want the embedding's %v %v", golden, output.Type, output.Shape, embedding.Type, embedding.Shape)
		}
		label := func(p *Plan) any { v, _ := p.Header.Metadata.Get("general.size_label"); return v }
		if label(tied) == label(untied) {
			t.Errorf("%s: the copy counts in %v", golden, label(tied))
		}
	}
}

func textFile(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }

func rename(from, to string) func(map[string]any) {
	return func(h map[string]any) {
		h[to] = h[from]
		delete(h, from)
	}
}

func drop(name string) func(map[string]any) {
	return func(h map[string]any) { delete(h, name) }
}

func editConfig(t *testing.T, source fstest.MapFS, fields map[string]any) {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal(source["config.json"].Data, &config); err != nil {
		t.Fatal(err)
	}
	for k, v := range fields {
		if v == nil {
			delete(config, k)
			continue
		}
		config[k] = v
	}
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	source["config.json"] = &fstest.MapFile{Data: data}
}

// editHeader changes a checkpoint's header and lays the tensors out anew, each
// with as many zeros as its shape asks for.
func editHeader(t *testing.T, source fstest.MapFS, edit func(map[string]any)) {
	t.Helper()
	const name = "model.safetensors"
	data := source[name].Data
	n := binary.LittleEndian.Uint64(data)
	var header map[string]any
	if err := json.Unmarshal(data[8:8+n], &header); err != nil {
		t.Fatal(err)
	}
	delete(header, "__metadata__")
	edit(header)
	offset := 0
	for _, key := range slices.Sorted(maps.Keys(header)) {
		info := header[key].(map[string]any)
		size := map[string]int{"BF16": 2, "F16": 2, "I16": 2, "F32": 4}[info["dtype"].(string)]
		shape, err := json.Marshal(info["shape"])
		if err != nil {
			t.Fatal(err)
		}
		var dims []int
		if err := json.Unmarshal(shape, &dims); err != nil {
			t.Fatal(err)
		}
		for _, d := range dims {
			size *= d
		}
		info["data_offsets"] = []int{offset, offset + size}
		offset += size
	}
	text, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	out = append(out, text...)
	source[name] = &fstest.MapFile{Data: append(out, make([]byte, offset)...)}
}
