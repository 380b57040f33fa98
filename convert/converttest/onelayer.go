package converttest

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/safetensors"
)

// OneLayer writes the first layer of the Llama of five in a folder, that of
// testdata/stories260K, into another folder. The low bits of its weights are
// others for each seed.
func OneLayer(t testing.TB, from, to string, seed uint64) {
	t.Helper()
	if err := os.MkdirAll(to, 0o777); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(to, name), data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"} {
		write(name, read(name))
	}
	write("config.json", bytes.Replace(read("config.json"), []byte(`"num_hidden_layers": 5`), []byte(`"num_hidden_layers": 1`), 1))
	weights := read("model.safetensors")
	all, err := safetensors.ReadHeader(bytes.NewReader(weights), int64(len(weights)))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(seed, 1))
	var header safetensors.Header
	var data []byte
	for _, x := range all.Tensors {
		if strings.Contains(x.Name, ".layers.") && !strings.Contains(x.Name, ".layers.0.") {
			continue
		}
		begin := all.DataOffset + x.Offset
		part := slices.Clone(weights[begin : begin+x.Size])
		for i := 0; i < len(part); i += 4 { // the low bits of float32s
			part[i] ^= byte(random.Uint32())
			part[i+1] ^= byte(random.Uint32())
		}
		x.Offset = int64(len(data))
		data = append(data, part...)
		header.Tensors = append(header.Tensors, x)
	}
	head, err := header.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	write("model.safetensors", append(head, data...))
}
