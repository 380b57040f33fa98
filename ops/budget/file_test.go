package budget

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

// TestFile writes losses and reads them again.
func TestFile(t *testing.T) {
	losses := quantize.Losses{
		"blk.0.attn_k.weight": {gguf.Q4_K: 1.8e-4, gguf.Q6_K: 0},
		"token_embd.weight":   {gguf.IQ4_XS: 3},
	}
	f := NewFile(losses)
	f.Model, f.Imatrix, f.Text, f.Chunks, f.Ctx = "sha256:1", "sha256:2", "text", 8, 512
	name := filepath.Join(t.TempDir(), "l.json")
	if err := f.Save(name); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, f) {
		t.Errorf("%+v: want %+v", got, f)
	}
	table, err := got.Table()
	if err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(table, losses, func(a, b map[gguf.Type]float64) bool { return maps.Equal(a, b) }) {
		t.Errorf("%v: want %v", table, losses)
	}
	if err := f.Save(filepath.Join(t.TempDir(), "none", "l.json")); err == nil {
		t.Error("a file is saved in a folder that is not there")
	}
}

// TestFileErrors reads what is not a losses file.
func TestFileErrors(t *testing.T) {
	const head = `{"schema":"modelpipe.losses/1","model":"m","text":"t","chunks":1,"ctx":8,"losses":`
	for text, want := range map[string]string{
		``:                                      "EOF",
		head:                                    "unexpected EOF",
		`[]`:                                    "cannot unmarshal array",
		`{"schema":"modelpipe.losses/2"}`:       `schema "modelpipe.losses/2": want modelpipe.losses/1`,
		head + `{},"extra":1}`:                  `unknown field "extra"`,
		head + `{"a":{"Q9_K":1}}}`:              "tensor a: ",
		head + `{"a":{"Q4_K":-1}}}`:             "tensor a: Q4_K loses -1: want a number of nats",
		head + `{"a":{"Q4_K":1e999}}}`:          "1e999",
		head + `{"a":{"Q4_K":"NaN"}}}`:          "cannot unmarshal string",
		head + `{"a":{"Q4_K":1,"q4_k":2}}}`:     "tensor a: Q4_K is there twice",
		head + `{"a":{"Q4_K":1}}} {"schema":1}`: "more than one value",
	} {
		name := filepath.Join(t.TempDir(), "l.json")
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFile(name); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), name+": ") {
			t.Errorf("%s: %v: want %q", text, err, want)
		}
	}
}
