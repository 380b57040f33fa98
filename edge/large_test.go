package edge

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/gguf"
)

// writeLarge writes a GGUF file of n tensors of 64 MiB, and returns its size.
func writeLarge(name, template string, n int) (_ int64, err error) {
	tokens := make([]string, 32000)
	for i := range tokens {
		tokens[i] = fmt.Sprintf("token%d", i*7919%100003)
	}
	h := &gguf.Header{Metadata: gguf.Metadata{
		{Key: "general.architecture", Value: "llama"},
		{Key: "llama.context_length", Value: uint32(2048)},
		{Key: "tokenizer.chat_template", Value: template},
		{Key: "tokenizer.ggml.tokens", Value: tokens},
	}}
	for i := range n {
		h.Tensors = append(h.Tensors, gguf.TensorInfo{Name: fmt.Sprintf("blk.%d.weight", i), Type: gguf.F32, Shape: []int64{4096, 4096}})
	}
	size, err := h.Layout()
	if err != nil {
		return 0, err
	}
	f, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	head, err := h.WriteTo(w)
	if err != nil {
		return 0, err
	}
	if _, err := io.CopyN(w, rand.NewChaCha8([32]byte{1}), size-head); err != nil {
		return 0, err
	}
	return size, w.Flush()
}

// putLarge releases a large file that lies in the store already.
func (s *shop) putLarge(slug, template string, n int) catalog.File {
	s.t.Helper()
	temporary := filepath.Join(s.dir, "large")
	size, err := writeLarge(temporary, template, n)
	if err != nil {
		s.t.Fatal(err)
	}
	f, err := os.Open(temporary)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	cut, err := catalog.CutFile(context.Background(), f, size)
	if err != nil {
		s.t.Fatal(err)
	}
	h, err := gguf.ReadHeader(f, size)
	if err != nil {
		s.t.Fatal(err)
	}
	file := catalog.File{Path: slug + ".gguf", Size: size, SHA256: cut.SHA256, Role: catalog.RoleModel}
	id := catalog.VariantID("Q8_0", cut.SHA256)
	dir := catalog.VariantDir(slug, id)
	if err := errors.Join(os.MkdirAll(filepath.Join(s.dir, dir), 0o755), os.Rename(temporary, filepath.Join(s.dir, dir, file.Path))); err != nil {
		s.t.Fatal(err)
	}
	r, err := catalog.NewRecord(slug, "Q8_0", "Q8_0", h, []catalog.File{file}, []catalog.Location{{Kind: catalog.KindStore, URI: dir}},
		catalog.Provenance{Source: catalog.Source{Repository: "hf://org/" + slug}, Tool: catalog.Tool{Name: "modelpipe", Version: "v1"}, Created: s.clock()})
	if err == nil {
		err = s.op.PutPieces(context.Background(), r, &catalog.Pieces{Files: []catalog.FilePieces{cut}})
	}
	if err == nil {
		err = s.op.PutRecord(context.Background(), r, nil, nil)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.release(slug, id)
	s.sign()
	return file
}

// watchMemory returns the peak resident memory of a process in bytes, as Linux
// tells it while the process runs, or 0 elsewhere. (What a parent learns when
// its child has ended counts the parent's own memory before the exec, too.)
func watchMemory(pid int, stop <-chan struct{}, peak chan<- int64) {
	most := int64(0)
	for {
		if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
			if _, line, ok := strings.Cut(string(data), "VmHWM:"); ok {
				var kib int64
				fmt.Sscan(line, &kib)
				most = max(most, kib<<10)
			}
		}
		select {
		case <-stop:
			peak <- most
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// usage is what a process has taken.
type usage struct {
	peak            int64 // resident memory, bytes
	wall, processor time.Duration
}

func (u usage) String() string {
	return fmt.Sprintf("%.2f s, %.2f s of the processors, peak memory %.1f MiB", u.wall.Seconds(), u.processor.Seconds(), float64(u.peak)/(1<<20))
}

// syncProcess runs a node as a process, and returns what it has done and what
// it took. MODELPIPE_BINARY names a program to take instead of the test's own.
func syncProcess(t *testing.T, catalog, root, selection string) (*Result, usage) {
	t.Helper()
	c := exec.Command(os.Args[0])
	if binary := os.Getenv("MODELPIPE_BINARY"); binary != "" {
		c = exec.Command(binary, "sync", "--catalog", catalog, "--root", root, "--trust-first-use", "--json")
		if selection != "" {
			c.Args = append(c.Args, "--select", selection)
		}
	}
	c.Env = append(os.Environ(), "MODELPIPE_TEST_NODE="+root, "MODELPIPE_TEST_CATALOG="+catalog, "MODELPIPE_TEST_SELECT="+selection)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, os.Stderr
	began := time.Now()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	stop, peak := make(chan struct{}), make(chan int64)
	go watchMemory(c.Process.Pid, stop, peak)
	err := c.Wait()
	took := time.Since(began)
	close(stop)
	u := usage{<-peak, took, c.ProcessState.UserTime() + c.ProcessState.SystemTime()}
	if err != nil {
		t.Fatal(err)
	}
	var r Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	return &r, u
}

// TestLargeFile fetches a file of 4 GiB into another process, whose memory
// must stay below 64 MiB, and then an edit of its chat template.
func TestLargeFile(t *testing.T) {
	if os.Getenv("MODELPIPE_LARGE") == "" {
		t.Skip("set MODELPIPE_LARGE=1")
	}
	s := newShop(t, "alpha")
	s.now = time.Now().Truncate(time.Second)
	file := s.putLarge("alpha", "{{ messages }}", 64)
	web := serve(t, s.dir, nil)
	root := t.TempDir()
	sync := func() (*Result, usage) {
		t.Helper()
		return syncProcess(t, web.URL, root, "")
	}
	r, u := sync()
	t.Logf("%d bytes at %.0f MB/s: %v", file.Size, float64(file.Size)/1e6/u.wall.Seconds(), u)
	if r.Fetched != file.Size || u.peak > 64<<20 {
		t.Errorf("fetched %d of %d bytes, peak memory %d", r.Fetched, file.Size, u.peak)
	}
	web.asked()
	before := web.bytes.Load()
	r, u = sync()
	if requests := web.asked(); r.Changed || len(requests) > 2 || web.bytes.Load()-before > 10_000 {
		t.Errorf("unchanged: %d bytes, requests %v", web.bytes.Load()-before, requests)
	} else {
		t.Logf("unchanged: %d requests, %d bytes, %v", len(requests), web.bytes.Load()-before, u)
	}
	file = s.putLarge("alpha", "{{ messages }} edited", 64)
	before = web.bytes.Load()
	r, u = sync()
	sent := web.bytes.Load() - before
	t.Logf("template edited: %d bytes sent (%.4f %%), %d of them of the file, %d copied, %v", sent, 100*float64(sent)/float64(file.Size), r.Fetched, r.Copied, u)
	if sent*100 > file.Size || r.Copied+r.Fetched != file.Size || u.peak > 64<<20 {
		t.Errorf("got %+v, %d bytes sent, peak memory %d", r, sent, u.peak)
	}
	got, err := os.Open(filepath.Join(root, "current", "alpha", "Q8_0", "alpha.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if hex, err := sum(got); err != nil || hex != hexOf(file.SHA256) {
		t.Errorf("serves %s, %v", hex, err)
	}
}

// putMany writes the records and the ledgers of n models of two variants each,
// as files: the operator would log each. Of the model in the middle there is the
// file, and it alone has the tag "chosen". Its slug is returned.
func (s *shop) putMany(n int) string {
	s.t.Helper()
	h := &gguf.Header{
		Metadata: gguf.Metadata{
			{Key: "general.architecture", Value: "llama"},
			{Key: "llama.context_length", Value: uint32(2048)},
			{Key: "llama.embedding_length", Value: uint32(256)},
			{Key: "llama.block_count", Value: uint32(4)},
			{Key: "llama.attention.head_count", Value: uint32(8)},
			{Key: "tokenizer.chat_template", Value: "{{ messages }}"},
		},
		Tensors: []gguf.TensorInfo{{Name: "token_embd.weight", Type: gguf.Q8_0, Shape: []int64{256, 96}}},
	}
	write := func(name string, data []byte, err error) {
		if err == nil {
			name = filepath.Join(s.dir, filepath.FromSlash(name))
			err = errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, data, 0o644))
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	chosen := ""
	var text strings.Builder
	for i := range n {
		slug := fmt.Sprintf("model-%06d", i)
		tag := fmt.Sprintf("t%d", i%97)
		if i == n/2 {
			chosen, tag = slug, "chosen"
		}
		text.WriteString(strings.Replace(fmt.Sprintf(modelTOML, slug, slug), `"small"`, `"small", "`+tag+`"`, 1) + "[[model.variant]]\nname = \"Q4_K_M\"\n")
		ledger := catalog.NewLedger(slug)
		var ids []string
		for _, name := range []string{"Q8_0", "Q4_K_M"} {
			content := []byte("the file of " + slug + " in " + name)
			digest := catalog.DigestOf(content)
			id := catalog.VariantID(name, digest)
			dir := catalog.VariantDir(slug, id)
			file := catalog.File{Path: slug + "-" + name + ".gguf", Size: int64(len(content)), SHA256: digest, Role: catalog.RoleModel}
			r, err := catalog.NewRecord(slug, name, name, h, []catalog.File{file}, []catalog.Location{{Kind: catalog.KindStore, URI: dir}},
				catalog.Provenance{Source: catalog.Source{Repository: "hf://org/" + slug}, Tool: catalog.Tool{Name: "modelpipe", Version: "v1"}, Created: s.clock()})
			if err != nil {
				s.t.Fatal(err)
			}
			data, err := catalog.Encode(r)
			write(dir+"/"+catalog.RecordName, data, err)
			if slug == chosen {
				write(dir+"/"+file.Path, content, nil)
			}
			ids = append(ids, id)
		}
		if _, _, err := ledger.Publish(catalog.DefaultChannel, ids, "", s.clock()); err != nil {
			s.t.Fatal(err)
		}
		data, err := catalog.Encode(ledger)
		write(catalog.LedgerName(slug), data, err)
	}
	s.curate(text.String())
	return chosen
}

// TestLargeCatalog follows a signed catalog of 100,000 models of which a node
// takes one, by its name, which is looked up, and by its tag, for which all of
// the catalog must be read.
func TestLargeCatalog(t *testing.T) {
	if os.Getenv("MODELPIPE_LARGE") == "" {
		t.Skip("set MODELPIPE_LARGE=1")
	}
	s := newShop(t)
	s.now = time.Now().Truncate(time.Second)
	chosen := s.putMany(100_000)
	s.sign()
	web := serve(t, s.dir, nil)
	for _, c := range []struct {
		selection     string
		from, catalog string
		requests      int64 // at most, of a first sync; 0: any number
	}{
		{"model=" + chosen, "a web server", web.URL, 12},
		{"tag=chosen", "a web server", web.URL, 0},
		{"tag=chosen", "a folder", s.dir, 0},
	} {
		root := t.TempDir()
		for _, round := range []string{"first sync", "unchanged"} {
			web.asked()
			before := web.bytes.Load()
			r, u := syncProcess(t, c.catalog, root, c.selection)
			asked, sent := web.asked(), web.bytes.Load()-before
			t.Logf("%s from %s, %s: %d requests, %d bytes of metadata, %v", c.selection, c.from, round, r.Requests, r.Metadata, u)
			if len(r.Models) != 1 || r.Models[0].Model != chosen || u.peak > 64<<20 {
				t.Errorf("serves %+v, peak memory %d bytes", r.Models, u.peak)
			}
			switch {
			case round == "unchanged" && (r.Changed || r.Requests > 2 || len(asked) > 2 || sent > 10_000 || u.processor > time.Second):
				t.Errorf("unchanged: %+v, %d bytes, requests %v, %v", r, sent, asked, u)
			case c.requests > 0 && r.Requests > c.requests:
				t.Errorf("%d requests, want at most %d", r.Requests, c.requests)
			}
		}
	}
}
