package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/hub/hubtest"
	"github.com/modelpipe/modelpipe/internal/golden"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/safetensors"
)

// asCommand is set in the processes that are the command itself.
const asCommand = "MODELPIPE_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Setenv(asCommand, "1") // for what the command itself starts
	os.Exit(m.Run())
}

const stories = "../../testdata/stories260K"

// makeModel writes a Llama of the given layers, each of some 9 MB, in two
// shards, into a new folder.
func makeModel(t testing.TB, layers int) string {
	t.Helper()
	dir := t.TempDir()
	const hidden, ff, vocab = 512, 2048, 512
	for _, name := range []string{"tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"} {
		data, err := os.ReadFile(filepath.Join(stories, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), data)
	}
	write(t, filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":%d,
		"intermediate_size":%d,"max_position_embeddings":512,"num_attention_heads":8,"num_key_value_heads":8,"num_hidden_layers":%d,
		"rms_norm_eps":1e-5,"rope_theta":10000,"vocab_size":%d,"tie_word_embeddings":false,"torch_dtype":"bfloat16","hidden_act":"silu"}`, hidden, ff, layers, vocab))
	var heads [2]safetensors.Header
	var data [2][]byte
	random := rand.NewChaCha8([32]byte{7})
	where := map[string]string{}
	add := func(shard int, name string, shape ...int64) {
		n := int64(2)
		for _, d := range shape {
			n *= d
		}
		p := make([]byte, n)
		random.Read(p)
		for i := 1; i < len(p); i += 2 {
			p[i] = p[i]&0x83 | 0x38 // small numbers
		}
		heads[shard].Tensors = append(heads[shard].Tensors, safetensors.Tensor{Name: name, DType: safetensors.BF16, Shape: shape, Offset: int64(len(data[shard])), Size: n})
		data[shard] = append(data[shard], p...)
		where[name] = fmt.Sprintf("model-%05d-of-00002.safetensors", shard+1)
	}
	add(0, "model.embed_tokens.weight", vocab, hidden)
	for i := range layers {
		shard, l := i*2/layers, fmt.Sprintf("model.layers.%d.", i)
		for _, name := range []string{"q", "k", "v", "o"} {
			add(shard, l+"self_attn."+name+"_proj.weight", hidden, hidden)
		}
		add(shard, l+"mlp.gate_proj.weight", ff, hidden)
		add(shard, l+"mlp.up_proj.weight", ff, hidden)
		add(shard, l+"mlp.down_proj.weight", hidden, ff)
		add(shard, l+"input_layernorm.weight", hidden)
		add(shard, l+"post_attention_layernorm.weight", hidden)
	}
	add(1, "model.norm.weight", hidden)
	add(1, "lm_head.weight", vocab, hidden)
	for i := range heads {
		head, err := heads[i].AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, fmt.Sprintf("model-%05d-of-00002.safetensors", i+1)), append(head, data[i]...))
	}
	index, err := json.Marshal(map[string]any{"weight_map": where})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "model.safetensors.index.json"), index)
	return dir
}

func write(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// converted runs convert and returns what it says and the bytes of the file.
func converted(t *testing.T, args ...string) (convertJSON, []byte) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "o.gguf")
	code, stdout, stderr := try(t, append([]string{"convert", "--json", "-o", out}, args...)...)
	if code != exitDone {
		t.Fatalf("convert %q: exit %d, %s", args, code, stderr)
	}
	var v convertJSON
	if err := json.Unmarshal([]byte(stdout), &v); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(data); v.SHA256 != hex.EncodeToString(sum[:]) || v.Size != int64(len(data)) || v.Output != out {
		t.Errorf("convert %q says %+v", args, v)
	}
	if l := listDir(t, filepath.Dir(out)); l != "o.gguf" {
		t.Errorf("convert %q left %s", args, l)
	}
	return v, data
}

func listDir(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestPlanIsWhatConvertWrites(t *testing.T) {
	for _, typ := range []string{"auto", "f32", "q8_0", "Q4_K_M"} {
		code, stdout, stderr := try(t, "plan", stories, "--type", typ, "--json")
		var p planJSON
		if err := json.Unmarshal([]byte(stdout), &p); err != nil || code != exitDone {
			t.Fatalf("plan: exit %d, %v, %s", code, err, stderr)
		}
		_, data := converted(t, stories, "--type", typ)
		h, err := gguf.ReadHeader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		start, err := h.DataOffset()
		if err != nil || p.Size != int64(len(data)) || p.HeaderSize != start || len(p.Tensors) != len(h.Tensors) || p.Architecture != "llama" || p.Parameters != 260032 {
			t.Errorf("%s: plan %s: the file has %d bytes, %d of them header, %v", typ, stdout, len(data), start, err)
		}
		for i, info := range h.Tensors {
			size, err := info.Size()
			got := p.Tensors[i]
			if err != nil || got.Name != info.Name || got.Type != info.Type.String() || got.Offset != start+info.Offset || got.Size != size || fmt.Sprint(got.Shape) != fmt.Sprint(info.Shape) {
				t.Errorf("%s: planned %+v: the file has %+v", typ, got, info)
			}
		}
	}
}

func TestPlanText(t *testing.T) {
	code, stdout, stderr := try(t, "plan", stories, "--type", "q8_0")
	if code != exitDone {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	golden.Check(t, "plan.txt", stdout)
}

// TestTheSameBytes holds the file equal for any number of threads, from a
// folder and from the Hub, cached or not, and through a .gguf that loses
// nothing.
func TestTheSameBytes(t *testing.T) {
	dir := makeModel(t, 3)
	_, want := converted(t, dir, "--threads", "1", "--name", "m")
	for _, threads := range []string{"2", "9"} {
		if _, got := converted(t, dir, "--threads", threads, "--name", "m"); !bytes.Equal(got, want) {
			t.Errorf("%s threads: another file", threads)
		}
	}

	server := hubtest.NewServer(t)
	commit := server.AddRepo(hubtest.Repo{ID: "org/m", FS: os.DirFS(dir)})
	t.Setenv("HF_ENDPOINT", server.URL)
	t.Setenv("HF_HOME", t.TempDir())
	v, remote := converted(t, "hf://org/m", "--name", "m")
	if v.Repository != "org/m" || v.Commit != commit || v.NetworkRead < v.BytesRead {
		t.Errorf("from the Hub: %+v", v)
	}
	same := func(what string, remote []byte) {
		t.Helper()
		got, err := gguf.ReadHeader(bytes.NewReader(remote), int64(len(remote)))
		if err != nil {
			t.Fatal(err)
		}
		local, err := gguf.ReadHeader(bytes.NewReader(want), int64(len(want)))
		if err != nil {
			t.Fatal(err)
		}
		a, _ := got.DataOffset()
		b, _ := local.DataOffset()
		if !bytes.Equal(remote[a:], want[b:]) {
			t.Errorf("%s: other tensors", what)
		}
		if s, _ := got.Metadata.String("general.source.huggingface.commit"); what != "requantized" && s != commit {
			t.Errorf("%s: commit %q", what, s)
		}
	}
	same("hub", remote)
	if server.BytesSent(hubtest.CDN) > 2*v.BytesRead {
		t.Errorf("%d bytes were sent for %d", server.BytesSent(hubtest.CDN), v.BytesRead)
	}
	_, cached := converted(t, "hf://org/m", "--name", "m", "--cache")
	if !bytes.Equal(cached, remote) {
		t.Error("through the cache: another file")
	}
	sent := server.BytesSent(hubtest.CDN)
	if _, again := converted(t, "hf://org/m", "--name", "m"); !bytes.Equal(again, remote) || server.BytesSent(hubtest.CDN) != sent {
		t.Errorf("from the cache: another file, or %d bytes sent", server.BytesSent(hubtest.CDN)-sent)
	}

	file := filepath.Join(t.TempDir(), "m.gguf")
	write(t, file, want)
	_, kept := converted(t, file)
	same("requantized", kept)
	_, direct := converted(t, dir, "--type", "q8_0", "--name", "m")
	_, twice := converted(t, file, "--type", "q8_0")
	if !bytes.Equal(direct[len(direct)-1000:], twice[len(twice)-1000:]) || len(direct) != len(twice) {
		t.Error("q8_0 of the bf16 file is another than that of the model")
	}
}

func TestRequantizingWarns(t *testing.T) {
	_, q := converted(t, stories, "--type", "q8_0")
	file := filepath.Join(t.TempDir(), "q.gguf")
	write(t, file, q)
	v, _ := converted(t, file, "--type", "f16")
	if notes := strings.Join(v.Notes, "\n"); !strings.Contains(notes, "the source is quantized (") || !strings.Contains(notes, "of Q8_0") {
		t.Errorf("notes %q", notes)
	}
}

func TestSplit(t *testing.T) {
	dir := makeModel(t, 2)
	_, whole := converted(t, dir)
	out := t.TempDir()
	code, stdout, stderr := try(t, "convert", dir, "-o", filepath.Join(out, "o.gguf"), "--split-max-size", "6M", "--name", "m", "--json")
	var v convertJSON
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != exitDone {
		t.Fatalf("exit %d, %v, %s", code, err, stderr)
	}
	f, err := gguf.Open(filepath.Join(out, "o-00001-of-00004.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := gguf.ReadHeader(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	start, _ := h.DataOffset()
	if len(v.Parts) != 4 || len(f.Header.Tensors) != len(h.Tensors) {
		t.Fatalf("%d parts of %d tensors", len(v.Parts), len(f.Header.Tensors))
	}
	for i, info := range h.Tensors {
		size, _ := info.Size()
		got := make([]byte, size)
		if _, err := f.Data(i).ReadAt(got, 0); err != nil || !bytes.Equal(got, whole[start+info.Offset:][:size]) {
			t.Errorf("tensor %s differs (%v)", info.Name, err)
		}
	}
	if l := listDir(t, out); strings.Count(l, " ") != 3 || strings.Contains(l, "partial") {
		t.Errorf("left %s", l)
	}
}

// TestKilled kills conversions at random points and goes on with them.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	dir := makeModel(t, 8)
	start := time.Now()
	_, want := converted(t, dir, "--type", "q8_0", "--threads", "2")
	whole := time.Since(start)
	out := filepath.Join(t.TempDir(), "o.gguf")
	command := func(ctx context.Context) *exec.Cmd {
		c := exec.CommandContext(ctx, os.Args[0], "convert", dir, "--type", "q8_0", "--threads", "2", "-o", out, "--resume")
		c.Env = append(os.Environ(), asCommand+"=1")
		return c
	}
	rnd := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	killed := 0
	for range 20 {
		after := 5*time.Millisecond + time.Duration(rnd.Int64N(int64(whole)))
		ctx, cancel := context.WithTimeout(t.Context(), after)
		output, err := command(ctx).CombinedOutput() // ends with SIGKILL
		cancel()
		if err == nil {
			got, err := os.ReadFile(out)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("after %d kills: another file (%v)", killed, err)
			}
			if l := listDir(t, filepath.Dir(out)); l != "o.gguf" {
				t.Fatalf("left %s", l)
			}
			os.Remove(out)
			continue
		}
		if ctx.Err() == nil {
			t.Fatalf("%v: %s", err, output)
		}
		killed++
		// Under its name it is complete: the process was killed after naming it.
		if got, err := os.ReadFile(out); err == nil && !bytes.Equal(got, want) || err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("a killed conversion left %s (%v)", out, err)
		}
	}
	if output, err := command(t.Context()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
		t.Errorf("after %d kills: another file (%v)", killed, err)
	}
}

// TestFileTooLarge has the system refuse the file's size, as a quota does.
func TestFileTooLarge(t *testing.T) {
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skip(err)
	}
	out := filepath.Join(t.TempDir(), "o.gguf")
	c := exec.Command(shell, "-c", `ulimit -f 1000; exec "$@"`, "bash", os.Args[0], "convert", makeModel(t, 1), "-o", out)
	c.Env = append(os.Environ(), asCommand+"=1")
	output, err := c.CombinedOutput()
	if err == nil || !strings.Contains(string(output), "write output: ") || !strings.Contains(string(output), "file too large") {
		t.Errorf("%v: %s", err, output)
	}
	if l := listDir(t, filepath.Dir(out)); l != "" {
		t.Errorf("left %s", l)
	}
}

// recorded returns how many chunks the journal of an unfinished output has at
// least: a record takes 14 bytes and follows the first line.
func recorded(out string) int {
	journal, err := os.ReadFile(out + ".partial.journal")
	if err != nil {
		return 0
	}
	_, records, _ := bytes.Cut(journal, []byte{'\n'})
	return len(records) / 14
}

func TestInterrupted(t *testing.T) {
	dir := makeModel(t, 4)
	out := filepath.Join(t.TempDir(), "o.gguf")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr strings.Builder
	// The plan is made before anything is written.
	if code := run(ctx, []string{"convert", dir, "-o", out}, &stdout, &stderr); code != exitFailed {
		t.Fatalf("exit %d, %s", code, stderr.String())
	}
	c := exec.Command(os.Args[0], "convert", dir, "-o", out, "--type", "q4_k", "--threads", "1")
	c.Env = append(os.Environ(), asCommand+"=1")
	var said bytes.Buffer
	c.Stderr = &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); { // until the first chunks are written
		if recorded(out) > 5 {
			break
		}
		time.Sleep(time.Millisecond)
		if _, err := os.Stat(out); err == nil {
			t.Skip("this machine is too fast to be interrupted")
		}
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil {
		t.Skip("this machine is too fast to be interrupted")
	}
	if !strings.Contains(said.String(), "are written: give --resume to go on") {
		t.Errorf("stderr %s", said.String())
	}
	if code, _, stderr := try(t, "convert", dir, "-o", out, "--type", "q4_k", "--resume"); code != exitDone {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	_, want := converted(t, dir, "--type", "q4_k")
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
		t.Errorf("another file (%v)", err)
	}
}

// TestUnavailable keeps what was written when the Hub goes away.
func TestUnavailable(t *testing.T) {
	dir := makeModel(t, 2)
	server := hubtest.NewServer(t)
	server.AddRepo(hubtest.Repo{ID: "org/m", FS: os.DirFS(dir)})
	t.Setenv("HF_ENDPOINT", server.URL)
	t.Setenv("HF_HOME", t.TempDir())
	_, want := converted(t, "hf://org/m")
	mend := server.Inject(hubtest.Fault{Stage: hubtest.CDN, Path: "*model-00002*", Status: 403})
	out := filepath.Join(t.TempDir(), "o.gguf")
	code, _, stderr := try(t, "convert", "hf://org/m", "-o", out)
	mend()
	if code == exitDone {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	if code == exitUnavailable {
		if code, _, stderr = try(t, "convert", "hf://org/m", "-o", out, "--resume"); code != exitDone {
			t.Fatalf("exit %d, %s", code, stderr)
		}
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
			t.Errorf("another file (%v)", err)
		}
		return
	}
	if l := listDir(t, filepath.Dir(out)); l != "" {
		t.Errorf("left %s", l)
	}
}

func TestCorruptDownload(t *testing.T) {
	server := hubtest.NewServer(t)
	server.AddRepo(hubtest.Repo{ID: "org/m", FS: os.DirFS(makeModel(t, 2))})
	t.Setenv("HF_ENDPOINT", server.URL)
	t.Setenv("HF_HOME", t.TempDir())
	server.Inject(hubtest.Fault{Path: "*00002.safetensors", CorruptAt: 5 << 20})
	out := filepath.Join(t.TempDir(), "o.gguf")
	code, _, stderr := try(t, "convert", "hf://org/m", "-o", out)
	if code != exitFailed || !strings.Contains(stderr, "mismatch") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if l := listDir(t, filepath.Dir(out)); l != "" {
		t.Errorf("left %s", l)
	}
}

func TestConvertErrors(t *testing.T) {
	dir := t.TempDir()
	model := makeModel(t, 1)
	stories, err := filepath.Abs(stories)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	write(t, filepath.Join(dir, "x.txt"), []byte("x"))
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{filepath.Join(dir, "none")}, exitFailed, "no such file or directory"},
		{[]string{dir}, exitFailed, "config.json is not there: the source is not a model in Hugging Face's layout"},
		{[]string{filepath.Join(dir, "x.txt")}, exitUsage, "want a model folder, hf://org/name or a .gguf file"},
		{[]string{stories, "--type", "q9"}, exitUsage, "--type q9: want auto, a tensor type or one of F32"},
		{[]string{stories, "--threads", "-1"}, exitUsage, "--threads -1: want a number of workers"},
		{[]string{stories, "--split-max-size", "many"}, exitUsage, "--split-max-size many: want a size as in 500M, 5G or 2GiB"},
		{[]string{stories, "-o", dir}, exitUsage, "is a folder: want the path of the file"},
		{[]string{stories, "-o", filepath.Join(dir, "a", "b.gguf")}, exitFailed, "folder " + filepath.Join(dir, "a") + " does not exist"},
		{[]string{stories, "--meta", "x"}, exitUsage, "--meta x: want KEY=VALUE or KEY:TYPE=VALUE"},
		{[]string{stories, "--meta", "x:u32=y"}, exitUsage, "--meta x:u32=y: invalid syntax"},
		{[]string{stories, "--meta", "x:u9=1"}, exitUsage, `--meta x:u9=1: type "u9": want str`},
		{[]string{stories, "--recipe", "r.toml", "--pure"}, exitUsage, "--recipe holds what the other flags about types say"},
		{[]string{stories, "--tensor-type", "x"}, exitUsage, "--tensor-type x: want REGEX=TYPE"},
		{[]string{stories, "--output-type", "q9"}, exitUsage, `--output-type: unknown tensor type "q9"`},
		{[]string{stories, "--imatrix", filepath.Join(dir, "x.txt")}, exitFailed, "read imatrix"},
		{[]string{model, "--type", "IQ1_S"}, exitFailed, "need importance data to be encoded"},
		{nil, exitUsage, "accepts 1 arg(s), received 0"},
	} {
		code, stdout, stderr := try(t, append([]string{"convert"}, c.args...)...)
		if code != c.code || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("convert %q: exit %d, stdout %q, stderr %q: want exit %d, %s", c.args, code, stdout, stderr, c.code, c.want)
		}
	}
}

func TestDefaultName(t *testing.T) {
	model, err := filepath.Abs(stories)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if code, stdout, stderr := try(t, "convert", model, "--dry-run"); code != exitDone || stdout != "would write stories260K-F16.gguf (535968 bytes)\n" {
		t.Errorf("exit %d, %q, %s", code, stdout, stderr)
	}
	if l := listDir(t, "."); l != "" {
		t.Errorf("--dry-run left %s", l)
	}
	code, stdout, stderr := try(t, "convert", model, "--type", "Q4_K_M", "--meta", "a.b:u32=7")
	if code != exitDone || !strings.HasSuffix(stdout, "  stories260K-Q4_K_M.gguf\n") {
		t.Errorf("exit %d, %q, %s", code, stdout, stderr)
	}
	f, err := gguf.Open("stories260K-Q4_K_M.gguf")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := f.Header.Metadata.Uint32("a.b"); err != nil || n != 7 {
		t.Errorf("a.b is %d, %v", n, err)
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"": 0, "500M": 500e6, "5G": 5e9, "5GB": 5e9, "2GiB": 2 << 30, "1.5k": 1500, "100": 100} {
		if n, err := pipeline.ParseSize(s); err != nil || n != want {
			t.Errorf("%q is %d, %v: want %d", s, n, err, want)
		}
	}
	for _, s := range []string{"G", "-1", "5X", "1e30T", "0", "NaN"} {
		if n, err := pipeline.ParseSize(s); err == nil {
			t.Errorf("%q is %d", s, n)
		}
	}
}
