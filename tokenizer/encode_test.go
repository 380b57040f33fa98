package tokenizer

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// corpus returns the texts that all encoders are compared on: many scripts,
// code, white space, control characters, texts of special tokens.
func corpus(t testing.TB) []string {
	t.Helper()
	data, err := os.ReadFile("testdata/encode/corpus.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for line := range bytes.Lines(data) {
		var text string
		if err := json.Unmarshal(line, &text); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	return texts
}

// repository returns the files of a repository of testdata: testdata/real has
// real tokenizers, gzipped, testdata/golden tiny ones of many kinds.
func repository(t testing.TB, name string) fs.FS {
	t.Helper()
	names, err := filepath.Glob("testdata/real/" + name + "/*.gz")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		return os.DirFS("testdata/golden/" + name)
	}
	fsys := fstest.MapFS{}
	for _, n := range names {
		fsys[strings.TrimSuffix(filepath.Base(n), ".gz")] = &fstest.MapFile{Data: gunzip(t, n)}
	}
	return fsys
}

func load(t testing.TB, name string) *Files {
	t.Helper()
	files, err := Load(repository(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestLibraries holds the encoders to the ids that the libraries themselves
// give (testdata/encode/make.py).
func TestLibraries(t *testing.T) {
	texts := corpus(t)
	files, err := filepath.Glob("testdata/encode/*.ids.gz")
	if err != nil || len(files) == 0 {
		t.Fatal("no expected ids", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".ids.gz")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var e Encoder
			var err error
			opts := EncodeOptions{AddSpecial: true, ParseSpecial: true}
			switch name {
			case "gpt2-files":
				e, err = load(t, name).Encoder()
			case "mistral-v3":
				e, err = load(t, name).Encoder()
				opts = EncodeOptions{} // the library adds and reads none
			default:
				var d *Definition
				if d, err = load(t, name).Definition(); err == nil {
					e, err = NewHFEncoder(d)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSuffix(string(gunzip(t, file)), "\n"), "\n")
			if len(lines) != len(texts) {
				t.Fatalf("%d texts, %d lines of ids", len(texts), len(lines))
			}
			for i, text := range texts {
				want, err := parseIDs(lines[i])
				if err != nil {
					t.Fatal(err)
				}
				got, err := e.Encode(text, opts)
				if err != nil {
					t.Fatalf("%q: %v", text, err)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%q:\ngot  %v\nwant %v", text, got, want)
				}
			}
		})
	}
}

// upstreamDifferences are the texts on which a GGUF file cannot give the ids
// of its source, because llama.cpp's rules have no way to say it.
var upstreamDifferences = []struct {
	why     string
	applies func(v *Vocabulary, d *Definition, text string, add bool) bool
}{
	{"llama.cpp does not normalize the text of a BPE", func(v *Vocabulary, d *Definition, text string, _ bool) bool {
		return v.Model == "gpt2" && d.has("NFC") && !norm.NFC.IsNormalString(text)
	}},
	{"control characters that are white space separate words in llama.cpp; BERT drops them", func(v *Vocabulary, _ *Definition, text string, _ bool) bool {
		return v.Model == "bert" && strings.ContainsAny(text, "\v\f\x1c\x1d\x1e\x1f\u0085")
	}},
	{"llama.cpp keeps one code point of a decomposition, so of Hangul the first consonant", func(v *Vocabulary, _ *Definition, text string, _ bool) bool {
		return v.Model == "bert" && strings.ContainsFunc(text, func(r rune) bool { return r >= 0xAC00 && r <= 0xD7A3 })
	}},
	{"llama.cpp strips all marks; BERT those that take no space", func(v *Vocabulary, _ *Definition, text string, _ bool) bool {
		return v.Model == "bert" && strings.ContainsFunc(norm.NFD.String(text), func(r rune) bool { return unicode.In(r, unicode.Mc, unicode.Me) })
	}},
	{"llama.cpp has no limit on the length of a word; BERT's words of more than 100 characters are unknown", func(v *Vocabulary, _ *Definition, text string, _ bool) bool {
		return v.Model == "bert" && slices.ContainsFunc(strings.Fields(text), func(w string) bool { return len(w) > 100 })
	}},
	{"llama.cpp takes U+2581 in a Unigram text for a character", func(v *Vocabulary, _ *Definition, text string, _ bool) bool {
		return v.Model == "t5" && strings.Contains(text, escapedSpace)
	}},
	{"white space that is not in the charsmap separates words by WhitespaceSplit, not in llama.cpp", func(v *Vocabulary, d *Definition, text string, _ bool) bool {
		return v.Model == "t5" && strings.ContainsFunc(text, func(r rune) bool { return unicode.IsSpace(r) && !strings.ContainsRune(" \t\n\r", r) })
	}},
	{"llama.cpp adds a BOS for the pre-tokenizer's name where the file does not say", func(v *Vocabulary, _ *Definition, _ string, add bool) bool {
		row, err := lookupPre(v.Pre)
		_, stated := v.Flag("add_bos_token")
		return add && v.Model == "gpt2" && err == nil && row.addBOS && !stated
	}},
	{"the architecture says that no space goes in front, the tiny checkpoint's tokenizer puts one", func(v *Vocabulary, d *Definition, _ string, _ bool) bool {
		prefix, stated := v.Flag("add_space_prefix")
		return v.Model == "llama" && stated && !prefix && d.has("Prepend")
	}},
}

// has tells whether d has a normalizer.
func (d *Definition) has(kind string) bool {
	return slices.ContainsFunc(d.Normalizers, func(n Normalizer) bool { return n.Type == kind })
}

// TestCompare holds the two ways to ids together: what the repository's
// tokenizer gives, and what llama.cpp gives with the GGUF vocabulary made of
// it. Every text is equal or has a reason above, and no reason is idle.
func TestCompare(t *testing.T) {
	used := make([]atomic.Int64, len(upstreamDifferences))
	t.Run("repositories", func(t *testing.T) {
		for _, name := range compared(t) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				compareRepository(t, name, used)
			})
		}
	})
	for i, d := range upstreamDifferences {
		if used[i].Load() == 0 {
			t.Errorf("no text shows that %s", d.why)
		}
	}
}

// compared are the repositories of testdata.
func compared(t *testing.T) []string {
	var names []string
	for _, pattern := range []string{"testdata/real/*", "testdata/golden/*"} {
		dirs, err := filepath.Glob(pattern)
		if err != nil || len(dirs) == 0 {
			t.Fatal("no repositories", err)
		}
		for _, dir := range dirs {
			names = append(names, filepath.Base(dir))
		}
	}
	return names
}

func compareRepository(t *testing.T, name string, used []atomic.Int64) {
	files := load(t, name)
	want, err := files.Encoder()
	if err != nil {
		t.Fatal(err)
	}
	options := goldenOptions[name]
	if size, ok := files.config.integer("vocab_size"); ok && options.Size == 0 {
		options.Size = int(size)
	}
	v, err := files.Vocabulary(options)
	if err != nil {
		t.Fatal(err)
	}
	m := v.Metadata()
	if name == "phi-3-mini" {
		m.Set("general.name", name) // llama.cpp knows by it what Phi-3's special tokens strip
	}
	got, err := NewGGUFEncoder(m)
	if err != nil {
		t.Fatal(err)
	}
	d := &Definition{}
	if e, ok := want.(*HFEncoder); ok {
		d = e.def
	}
	for _, opts := range []EncodeOptions{{ParseSpecial: true}, {ParseSpecial: true, AddSpecial: true}} {
		for _, text := range corpus(t) {
			diff := Compare(want, got, []string{text}, opts)
			if diff == nil {
				continue
			}
			known := false
			for i, u := range upstreamDifferences {
				if u.applies(v, d, text, opts.AddSpecial) {
					used[i].Add(1)
					known = true
				}
			}
			if !known {
				t.Errorf("%+v: %q: %v", opts, text, diff)
			}
		}
	}
}
