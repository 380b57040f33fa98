package main

import (
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/hub/hubtest"
	"github.com/modelpipe/modelpipe/internal/golden"
	"github.com/modelpipe/modelpipe/safetensors"
)

// testModel is a model in each form that inspect reads.
func testModel(t *testing.T) fstest.MapFS {
	h := &gguf.Header{
		Metadata: gguf.Metadata{
			{Key: "general.architecture", Value: "llama"},
			{Key: "general.description", Value: strings.Repeat("long é ", 30) + "\n"},
			{Key: "llama.block_count", Value: uint32(2)},
			{Key: "llama.rope.freq_base", Value: float32(10000)},
			{Key: "llama.nan", Value: float32(math.NaN())},
			{Key: "tokenizer.ggml.add_bos_token", Value: true},
			{Key: "tokenizer.ggml.tokens", Value: []string{"<s>", "\n", "a", "b", "c", "d", "e", "f", "g"}},
			{Key: "tokenizer.ggml.scores", Value: []float32{0, -1.5}},
			{Key: "nested", Value: gguf.Nested{[]int32{1, 2}, []string{"x"}}},
			{Key: "bytes", Value: []uint8{1, 2}},
		},
		Tensors: []gguf.TensorInfo{
			{Name: "token_embd.weight", Type: gguf.Q4_K, Shape: []int64{256, 9}},
			{Name: "blk.0.attn_q.weight", Type: gguf.F16, Shape: []int64{256, 64}},
			{Name: "output_norm.weight", Type: gguf.F32, Shape: []int64{256}},
		},
	}
	fsys := fstest.MapFS{"README.md": {Data: []byte("model\n")}}
	add := func(name string, h *gguf.Header) {
		size, err := h.Layout()
		if err != nil {
			t.Fatal(err)
		}
		b, err := h.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		fsys[name] = &fstest.MapFile{Data: append(b, make([]byte, size-int64(len(b)))...)}
	}
	add("whole.gguf", h)
	parts, err := gguf.Split(h, gguf.SplitLimit{MaxTensors: 2})
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range parts {
		add(gguf.SplitName("split", i, len(parts)), p)
	}
	s := &safetensors.Header{
		Metadata: map[string]string{"format": "pt"},
		Tensors: []safetensors.Tensor{
			{Name: "model.embed_tokens.weight", DType: safetensors.BF16, Shape: []int64{9, 256}},
			{Name: "scale", DType: safetensors.F32},
		},
	}
	size, err := s.Layout()
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	fsys["st/model.safetensors"] = &fstest.MapFile{Data: append(b, make([]byte, size)...)}
	return fsys
}

// unpack writes the files to a folder and changes to it.
func unpack(t *testing.T, fsys fstest.MapFS) {
	t.Chdir(t.TempDir())
	if err := os.CopyFS(".", fsys); err != nil {
		t.Fatal(err)
	}
}

func TestInspect(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	unpack(t, testModel(t))
	outputs := map[string]string{}
	for name, args := range map[string][]string{
		"whole.txt":  {"whole.gguf"},
		"whole.json": {"whole.gguf", "--json"},
		"split.txt":  {"split-00001-of-00002.gguf"},
		"file.txt":   {".", "--file", "whole.gguf", "--full"},
		"folder.txt": {"st"},
		"st.json":    {"st/model.safetensors", "--json"},
	} {
		code, stdout, stderr := try(t, append([]string{"inspect"}, args...)...)
		if code != exitDone || stderr != "" {
			t.Errorf("%s: exit %d, %s", name, code, stderr)
		}
		outputs[name] = stdout
	}
	if _, second, _ := try(t, "inspect", "split-00002-of-00002.gguf"); strings.Replace(second, "split-00002", "split-00001", 1) != outputs["split.txt"] {
		t.Error("the second part of a split shows another model than the first")
	}
	t.Chdir(here)
	for name, out := range outputs {
		golden.Check(t, "inspect-"+name, out)
	}
}

// TestInspectRemote reads the same model from a Hub and from URLs, and must
// show what it shows locally.
func TestInspectRemote(t *testing.T) {
	fsys := testModel(t)
	server := hubtest.NewServer(t)
	commit := server.AddRepo(hubtest.Repo{ID: "org/model", FS: fsys})
	server.AddRepo(hubtest.Repo{ID: "org/checkpoint", FS: fstest.MapFS{"model.safetensors": fsys["st/model.safetensors"]}})
	t.Setenv("HF_ENDPOINT", server.URL)
	t.Setenv("HF_HOME", t.TempDir())
	unpack(t, fsys)
	tensors := func(args ...string) inspection {
		code, stdout, stderr := try(t, append([]string{"inspect", "--json"}, args...)...)
		var v inspection
		if err := json.Unmarshal([]byte(stdout), &v); code != exitDone || err != nil {
			t.Fatalf("%q: exit %d, %s%v", args, code, stderr, err)
		}
		return v
	}
	same := func(got, want inspection) {
		t.Helper()
		got.Source, got.Repository, got.Commit, got.BytesRead, want.Source = "", "", "", 0, ""
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		if string(g) != string(w) {
			t.Errorf("got  %s\nwant %s", g, w)
		}
	}
	repo := tensors("hf://org/model", "--file", "whole.gguf")
	if repo.Commit != commit || repo.Repository != "org/model" || repo.BytesRead == 0 {
		t.Errorf("%s at %s, %d bytes read", repo.Repository, repo.Commit, repo.BytesRead)
	}
	same(repo, tensors("whole.gguf"))
	same(tensors("hf://org/checkpoint@main"), tensors("st"))
	base := server.URL + "/org/model/resolve/main/"
	url := tensors(base + "whole.gguf")
	if url.BytesRead == 0 {
		t.Error("no bytes read from a URL")
	}
	same(url, tensors("whole.gguf"))
	same(tensors(base+"split-00002-of-00002.gguf"), tensors("split-00001-of-00002.gguf"))

	server.Inject(hubtest.Fault{Status: 404})
	if code, _, stderr := try(t, "inspect", base+"whole.gguf"); code != exitFailed {
		t.Errorf("not found: exit %d, %s", code, stderr)
	}
}

// TestSecretsInURLs: the user and the query of a URL are shown nowhere.
func TestSecretsInURLs(t *testing.T) {
	fsys := testModel(t)
	web := httptest.NewServer(http.FileServerFS(fsys))
	defer web.Close()
	t.Setenv("HF_HOME", t.TempDir())
	base := strings.Replace(web.URL, "http://", "http://user:secret@", 1)
	for _, args := range [][]string{
		{"inspect", base + "/whole.gguf?sig=secret"},
		{"inspect", "--json", base + "/whole.gguf?sig=secret"},
		{"inspect", base + "/nope.gguf?sig=secret"},
		{"inspect", base + "/?sig=secret"},
		{"inspect", base + "/%zz?sig=secret"},
		{"plan", base + "/whole.gguf?sig=secret"},
		{"plan", base + "/README.md?sig=secret"},
		{"convert", base + "/nope.gguf?sig=secret", "-o", "x.gguf"},
	} {
		_, stdout, stderr := try(t, args...)
		if strings.Contains(stdout+stderr, "secret") {
			t.Errorf("%q: stdout %q, stderr %q", args, stdout, stderr)
		}
	}
}

// TestInspectManyEntries: what inspect does with the metadata of a safetensors
// file grows with their number alone; a loop over all for each took minutes.
func TestInspectManyEntries(t *testing.T) {
	s := &safetensors.Header{Metadata: map[string]string{}}
	for i := range 200_000 {
		s.Metadata[strconv.Itoa(i)] = "value"
	}
	b, err := s.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	unpack(t, fstest.MapFS{"model.safetensors": {Data: b}})
	start := time.Now()
	code, stdout, stderr := try(t, "inspect", "model.safetensors")
	if d := time.Since(start); code != exitDone || !strings.Contains(stdout, "metadata (200000)") || d > 20*time.Second {
		t.Errorf("exit %d after %v: %s", code, d, stderr)
	}
}

func TestInspectErrors(t *testing.T) {
	fsys := testModel(t)
	fsys["bad.gguf"] = &fstest.MapFile{Data: fsys["whole.gguf"].Data[:200]}
	fsys["note.txt"] = &fstest.MapFile{Data: []byte("just a text that is longer than eight bytes")}
	fsys["empty/note.txt"] = fsys["note.txt"]
	unpack(t, fsys)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{}, exitUsage, "accepts 1 arg(s), received 0"},
		{[]string{"nope"}, exitFailed, "inspect nope: stat nope: no such file"},
		{[]string{"bad.gguf"}, exitFailed, `inspect bad.gguf: bad.gguf: key "general.description" at byte`},
		{[]string{"note.txt"}, exitFailed, "not a safetensors file, or damaged"},
		{[]string{"empty"}, exitFailed, "inspect empty: no model there: neither *.safetensors nor *.gguf files"},
		{[]string{"."}, exitFailed, "3 GGUF models (bad.gguf, split-00001-of-00002.gguf, whole.gguf): choose one with --file"},
		{[]string{".", "--file", "../x"}, exitUsage, "--file ../x: want the name of a file"},
		{[]string{"whole.gguf", "--file", "x"}, exitUsage, "--file x: want the name of a file"},
		{[]string{".", "--file", "nope.gguf"}, exitFailed, "nope.gguf: no such file"},
		{[]string{".", "--file", "empty"}, exitFailed, "is a folder"},
		{[]string{"https://host/"}, exitUsage, `URL "https://host/" does not name a file`},
		{[]string{"hf://a/b/c/d"}, exitUsage, "want org/name"},
	} {
		code, stdout, stderr := try(t, append([]string{"inspect"}, c.args...)...)
		if code != c.code || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("%q: exit %d, stdout %q, stderr %q, want %d, %s", c.args, code, stdout, stderr, c.code, c.want)
		}
		if code == exitFailed && strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: stderr %q is not one line", c.args, stderr)
		}
	}
}
