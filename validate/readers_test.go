package validate

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/modelpipe/modelpipe/ops/fromgguf"
	"github.com/modelpipe/modelpipe/ops/fromhf"
	"github.com/modelpipe/modelpipe/safetensors"
)

// otherwise is what llama.cpp computes in another way than the source, of
// models that it does not support as they are.
var otherwise = map[string]string{
	"bert-reranker": "classifier, dense: the source has true, the file false", // the pooler is dropped, as by upstream's converter
	"bitnet-packed": "FFN, activation: the source has relu2, the file silu",   // it knows the first such models' only
	"dsv2-tied":     "FFN, mo E, groups: the source has 0, the file 2",        // it takes no heed of topk_method
	"exaone4":       "attention, rope: the source has none",                   // it knows layers without positions in models of 64 layers only
	"exaone4-b":     "attention, rope: the source has none",
}

// unread are models that llama.cpp does not load.
var unread = map[string]string{
	"deepseek-v3-noqlora": `metadata "deepseek2.attention.q_lora_rank": key is missing`, // where there are not 26, 27 or 48 layers
}

// TestReaders holds what one reader makes of each of the converter's tiny
// models to what the other makes of its file in f32: every figure, and every
// number of every tensor.
func TestReaders(t *testing.T) {
	folders := map[string]fstest.MapFS{"deepseek-v2-lite": deepseekLite(t), "modernbert-reranker": modernReranker(t)}
	for _, name := range goldenNames(t) {
		folders[name] = goldenModel(t, name)
	}
	for name, folder := range folders {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source, err := fromhf.Open(t.Context(), folder)
			if err != nil {
				t.Fatal(err)
			}
			defer source.Close()
			f := openGGUF(t, converted(t, folder, name, "f32"))
			file, err := fromgguf.Open(f)
			if says, ok := unread[name]; ok {
				if err == nil || !strings.Contains(err.Error(), says) {
					t.Errorf("error %v: want %q", err, says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if file.Classifier != nil && source.Head != nil {
				s, err := openSource(t, folder).ranking([]string{"yes", "no"})
				if err != nil {
					t.Fatal(err)
				}
				source = s.Model
			}
			differences, _ := compareSpecs(source, file, f.Header.Metadata)
			if text, want := strings.Join(differences, "\n"), otherwise[name]; !strings.Contains(text, want) || want == "" && text != "" {
				t.Errorf("differences: %s\nwant %q", text, want)
			}
			r, err := compareWeights(t.Context(), source, file, f.Header, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.NotJudged) > 0 || len(r.Tensors) == 0 {
				t.Errorf("%d tensors, not judged: %q", len(r.Tensors), r.NotJudged)
			}
			for _, w := range r.Tensors {
				if !(w.NMSE <= 1e-13) {
					t.Errorf("tensor %s (%s): NMSE %g", w.Name, w.Slot, w.NMSE)
				}
			}
		})
	}
}

// deepseekLite is a model of DeepSeek-V2-Lite's form: queries without ranks in
// 27 layers, and YaRN. Its layers with experts have the same weights.
func deepseekLite(t testing.TB) fstest.MapFS {
	t.Helper()
	const layers = 27
	return remade(t, "deepseek-v3-noqlora", object{
		"architectures": []any{"DeepseekV2ForCausalLM"}, "model_type": "deepseek_v2", "num_hidden_layers": layers,
		"n_group": 1, "topk_group": 1, "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": false, "routed_scaling_factor": 1,
		"rope_scaling": object{"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707,
			"original_max_position_embeddings": 4096},
	}, func(name string) []string {
		if strings.HasSuffix(name, "e_score_correction_bias") {
			return nil
		}
		names := []string{name}
		if rest, ok := strings.CutPrefix(name, "model.layers.1."); ok {
			for i := 2; i < layers; i++ {
				names = append(names, "model.layers."+strconv.Itoa(i)+"."+rest)
			}
		}
		return names
	}, nil)
}

// modernReranker is a ModernBERT that ranks.
func modernReranker(t testing.TB) fstest.MapFS {
	t.Helper()
	const width = 32
	folder := remade(t, "modernbert", object{
		"architectures": []any{"ModernBertForSequenceClassification"}, "id2label": object{"0": "LABEL_0"}, "classifier_pooling": "mean",
	}, func(name string) []string { return []string{"model." + name} }, map[string][]int64{
		"head.dense.weight": {width, width}, "head.norm.weight": {width}, "classifier.weight": {1, width}, "classifier.bias": {1},
	})
	for _, of := range []string{"modules.json", "1_Pooling/config.json"} { // an embedder
		delete(folder, of)
	}
	return folder
}

// remade is a tiny model with other fields in its config, with tensors under
// all the names that names gives for one, and with further ones, by shape.
func remade(t testing.TB, model string, fields object, names func(string) []string, more map[string][]int64) fstest.MapFS {
	t.Helper()
	folder := maps.Clone(goldenModel(t, model))
	var config object
	if err := json.Unmarshal(folder["config.json"].Data, &config); err != nil {
		t.Fatal(err)
	}
	maps.Copy(config, fields)
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	checkpoint, err := safetensors.Open(t.Context(), folder)
	if err != nil {
		t.Fatal(err)
	}
	defer checkpoint.Close()
	header, body := &safetensors.Header{}, []byte{}
	for f, tensor := range checkpoint.All() {
		data := make([]byte, tensor.Size)
		if _, err := f.Data(tensor).ReadAt(data, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		for _, tensor.Name = range names(tensor.Name) {
			header.Tensors, body = append(header.Tensors, tensor), append(body, data...)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, name := range slices.Sorted(maps.Keys(more)) {
		n := int64(1)
		for _, d := range more[name] {
			n *= d
		}
		header.Tensors = append(header.Tensors, safetensors.Tensor{Name: name, DType: safetensors.F32, Shape: more[name], Size: 4 * n})
		for range n {
			body = binary.LittleEndian.AppendUint32(body, math.Float32bits(float32(random.NormFloat64())))
		}
	}
	if _, err := header.Layout(); err != nil {
		t.Fatal(err)
	}
	head, err := header.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	folder["config.json"], folder["model.safetensors"] = &fstest.MapFile{Data: text}, &fstest.MapFile{Data: append(head, body...)}
	return folder
}
