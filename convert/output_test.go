package convert

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/modelpipe/modelpipe/gguf"
)

// changing is a source whose file is another one once it was read.
type changing struct {
	fs.FS
	stats int // how often it was asked
}

type changedInfo struct{ fs.FileInfo }

func (i changedInfo) ModTime() time.Time { return time.Unix(7, 0) }

// Stat implements fs.StatFS.
func (c *changing) Stat(name string) (fs.FileInfo, error) {
	info, err := fs.Stat(c.FS, name)
	if c.stats++; c.stats > 1 && err == nil {
		info = changedInfo{info}
	}
	return info, err
}

func TestSourceThatChangesIsRefused(t *testing.T) {
	p, src, _ := sample(t)
	dir := t.TempDir()
	_, err := WriteFiles(t.Context(), []Output{{filepath.Join(dir, "o.gguf"), p}}, &changing{FS: src}, FileOptions{})
	if err == nil || err.Error() != "source file f has changed since it was first read: convert again" {
		t.Errorf("error %v", err)
	}
	if l := left(t, dir); l != "" {
		t.Errorf("left: %s", l)
	}
}

// TestSecondOutputCannotBeOpened leaves nothing of the first, and what is in
// the way of the second as it is.
func TestSecondOutputCannotBeOpened(t *testing.T) {
	p, src, _ := sample(t)
	for name, block := range map[string]func(path string) error{
		"locked": func(path string) error {
			f, err := lock(path + journalSuffix)
			if err == nil {
				t.Cleanup(func() { f.Close() })
			}
			return err
		},
		"folder":       func(path string) error { return os.Mkdir(path, 0o777) },
		"partial":      func(path string) error { return os.Mkdir(path+partialSuffix, 0o777) },
		"other resume": func(path string) error { return os.WriteFile(path+journalSuffix, []byte("{"), 0o666) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			second := filepath.Join(dir, "p.gguf")
			if err := block(second); err != nil {
				t.Fatal(err)
			}
			before := left(t, dir)
			_, err := WriteFiles(t.Context(), []Output{{filepath.Join(dir, "o.gguf"), p}, {second, p}}, src, FileOptions{Resume: true})
			if err == nil || !strings.Contains(err.Error(), second) {
				t.Errorf("error %v", err)
			}
			if l := left(t, dir); l != before {
				t.Errorf("left %s: there was %s", l, before)
			}
		})
	}
}

// boundless is a source of one file that is larger than any disk.
type boundless struct{ fs.FS }

type boundlessInfo struct{ fs.FileInfo }

func (boundlessInfo) Size() int64 { return 1 << 60 }

// Stat implements fs.StatFS.
func (b boundless) Stat(name string) (fs.FileInfo, error) {
	info, err := fs.Stat(b.FS, name)
	return boundlessInfo{info}, err
}

// TestNoSpaceLeavesEverythingAsItWas refuses to begin, and to go on, where
// there is no room; what an interrupted run has written stays.
func TestNoSpaceLeavesEverythingAsItWas(t *testing.T) {
	g := &grower{rnd: rand.New(rand.NewPCG(1, 2))}
	g.leaf("F32", 1)
	l := Leaf{File: "f", Name: "x", DType: "F32", Shape: []int64{1 << 40, 1 << 10}, Size: 1 << 52}
	p := planOf(t, Step{Name: "x", Type: gguf.F32, Shape: []int64{1 << 10, 1 << 40}, From: l})
	src := boundless{fstest.MapFS{"f": {Data: g.data}}}
	dir := t.TempDir()
	outputs := []Output{{filepath.Join(dir, "o.gguf"), p}}
	for _, resume := range []bool{false, true} {
		_, err := WriteFiles(t.Context(), outputs, src, FileOptions{Resume: resume})
		if err == nil || !strings.Contains(err.Error(), "no space for the output in "+dir+": it needs 4.50 PB") {
			t.Errorf("error %v", err)
		}
		if l := left(t, dir); l != "" {
			t.Errorf("left: %s", l)
		}
	}
	begun, err := openPartial(outputs[0], src, FileOptions{RenderOptions: RenderOptions{Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := begun.data.WriteAt([]byte("written"), 0); err != nil {
		t.Fatal(err)
	}
	begun.close()
	if _, err := WriteFiles(t.Context(), outputs, src, FileOptions{Resume: true}); err == nil || !strings.Contains(err.Error(), "no space for the output") {
		t.Errorf("error %v", err)
	}
	if data, err := os.ReadFile(outputs[0].Path + partialSuffix); err != nil || string(data) != "written" {
		t.Errorf("the unfinished output is %q, %v", data, err)
	}
}

// TestRestIsDiscardedLoudly starts over without Resume, and says so.
func TestRestIsDiscardedLoudly(t *testing.T) {
	p, src, _ := sample(t)
	out := filepath.Join(t.TempDir(), "o.gguf")
	begun, err := openPartial(Output{out, p}, src, FileOptions{RenderOptions: RenderOptions{Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	begun.close()
	var told []string
	opts := FileOptions{Discarded: func(path string) { told = append(told, path) }}
	for range 2 { // the second has nothing to discard
		if _, err := WriteFiles(t.Context(), []Output{{out, p}}, src, opts); err != nil {
			t.Fatal(err)
		}
	}
	if len(told) != 1 || told[0] != out+partialSuffix {
		t.Errorf("told of %q", told)
	}
	if _, err := os.Stat(out + partialSuffix); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the rest: %v", err)
	}
}

// TestResumeBetweenNames goes on where a run was killed when the first of its
// files had its name already.
func TestResumeBetweenNames(t *testing.T) {
	p, src, want := sample(t)
	dir := t.TempDir()
	outputs := []Output{{filepath.Join(dir, "o.gguf"), p}, {filepath.Join(dir, "p.gguf"), p}}
	opts := FileOptions{RenderOptions: RenderOptions{Threads: 1}}
	for i, o := range outputs {
		f, err := openPartial(o, src, opts)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.render(t.Context(), o, src, opts); err != nil {
			t.Fatal(err)
		}
		f.close()
		if i == 0 { // killed after this
			if err := os.Rename(o.Path+partialSuffix, o.Path); err != nil {
				t.Fatal(err)
			}
		}
	}
	opts.Resume = true
	results, err := WriteFiles(t.Context(), outputs, src, opts)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range outputs {
		if data, err := os.ReadFile(o.Path); err != nil || !bytes.Equal(data, want) || results[i].SHA256 != sha256.Sum256(want) {
			t.Errorf("%s: another file (%v)", o.Path, err)
		}
	}
	if l := left(t, dir); l != "o.gguf p.gguf" {
		t.Errorf("left: %s", l)
	}
}

// TestResumeRefusesOtherInputs does not go on with another importance matrix,
// or with weights that an earlier run would have refused.
func TestResumeRefusesOtherInputs(t *testing.T) {
	p, src, _ := sample(t)
	dir := t.TempDir()
	outputs := []Output{{filepath.Join(dir, "o.gguf"), p}}
	begun, err := openPartial(outputs[0], src, FileOptions{Inputs: "a", RenderOptions: RenderOptions{Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	begun.close()
	for _, opts := range []FileOptions{
		{Resume: true, Inputs: "b"},
		{Resume: true, Inputs: "a", RenderOptions: RenderOptions{AllowNonfinite: true}},
	} {
		if _, err := WriteFiles(t.Context(), outputs, src, opts); err == nil || !strings.Contains(err.Error(), "it was made with other options") {
			t.Errorf("error %v", err)
		}
		if l := left(t, dir); l != "o.gguf.partial o.gguf.partial.journal" {
			t.Fatalf("left: %s", l)
		}
	}
	if _, err := WriteFiles(t.Context(), outputs, src, FileOptions{Resume: true, Inputs: "a", RenderOptions: RenderOptions{Threads: 3}}); err != nil {
		t.Error(err)
	}
}
