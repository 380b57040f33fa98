package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/publish"
)

var day = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func digest(text string) Digest {
	sum := sha256.Sum256([]byte(text))
	return Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// header is that of a small model.
func header(template string) *gguf.Header {
	return &gguf.Header{
		Metadata: gguf.Metadata{
			{Key: "general.architecture", Value: "llama"},
			{Key: "llama.context_length", Value: uint32(2048)},
			{Key: "llama.embedding_length", Value: uint32(256)},
			{Key: "llama.block_count", Value: uint32(4)},
			{Key: "llama.attention.head_count", Value: uint32(8)},
			{Key: "llama.attention.head_count_kv", Value: uint32(2)},
			{Key: "tokenizer.ggml.tokens", Value: []string{"<s>", "</s>", "a"}},
			{Key: "tokenizer.ggml.bos_token_id", Value: uint32(0)},
			{Key: "tokenizer.ggml.eos_token_id", Value: uint32(1)},
			{Key: "tokenizer.chat_template", Value: template},
		},
		Tensors: []gguf.TensorInfo{
			{Name: "token_embd.weight", Type: gguf.Q8_0, Shape: []int64{256, 96}},
			{Name: "output_norm.weight", Type: gguf.F32, Shape: []int64{256}},
		},
	}
}

// record makes the record of a variant whose file has the content.
func record(t testing.TB, slug, name, content string, created time.Time) *Record {
	t.Helper()
	d := digest(content)
	files := []File{{Path: slug + "-" + name + ".gguf", Size: int64(len(content)), SHA256: d, Role: RoleModel}}
	from := Provenance{
		Source:  Source{Repository: "hf://org/" + slug, Commit: "c1899de289a04d12100db370d81485cdf75e47ca"},
		Tool:    Tool{Name: "modelpipe", Version: "v0.3.0"},
		Recipe:  digest("recipe"),
		Created: created,
	}
	r, err := NewRecord(slug, name, name, header("{{ messages }}"), files, []Location{{Kind: KindStore, URI: VariantDir(slug, VariantID(name, d))}}, from)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// reportOf is the report about a file with the content.
func reportOf(content string) []byte {
	return fmt.Appendf(nil, `{"schema":"modelpipe.report/1","pass":true,"candidate":{"sha256":%q},
"kld":{"mean":0.04,"p99":0.5,"max":6},"top1":0.92,"ppl":{"reference":12.4,"candidate":12.9},
"tokens":{"equal":true},"structure":{"ok":true},"gates":[{"name":"structure.ok","limit":true,"value":true,"pass":true},
{"name":"kld.mean","limit":0.06,"value":0.04,"pass":true}],"more":1}`, strings.TrimPrefix(string(digest(content)), "sha256:"))
}

func store(t testing.TB, dir string) publish.Store {
	t.Helper()
	s, err := publish.OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// modelTOML is a model of a curation file.
func modelTOML(slug, more string) string {
	return fmt.Sprintf(`
[[model]]
slug = %q
source = "hf://org/%s"
vendor = "org"
display_name = "Model"
description = "A small model."
task = "text-generation"
%s
[model.license]
spdx = "Apache-2.0"
[[model.variant]]
name = "Q8_0"
[[model.variant]]
name = "Q4_K_M"
`, slug, slug, more)
}

func curation(t testing.TB, text string) *Curation {
	t.Helper()
	c, err := ReadCuration(fstest.MapFS{"catalog.toml": {Data: []byte(text)}}, "catalog.toml")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// operator is one whose clock stands still.
func operator(s publish.Store, now time.Time) *Operator {
	return &Operator{Store: s, Actor: "tester", Now: func() time.Time { return now }}
}

// shop is a store with two models of two variants each.
func shop(t testing.TB) (string, publish.Store) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	s := store(t, dir)
	o := operator(s, day)
	for _, slug := range []string{"alpha", "beta"} {
		for _, name := range []string{"Q8_0", "Q4_K_M"} {
			if err := o.PutRecord(t.Context(), record(t, slug, name, slug+name, day), reportOf(slug+name), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir, s
}
