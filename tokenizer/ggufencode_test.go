package tokenizer

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
)

// gunzip returns the contents of a gzipped file of testdata.
func gunzip(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func ggufEncoder(t testing.TB, name string) *GGUFEncoder {
	t.Helper()
	data := gunzip(t, name)
	h, err := gguf.ReadHeader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewGGUFEncoder(h.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestVectors holds the encoder to llama.cpp's own vectors: the texts of .inp
// and the ids of .out, made by Hugging Face's tokenizers without special
// tokens added.
func TestVectors(t *testing.T) {
	files, err := filepath.Glob("testdata/vocab/*.gguf.gz")
	if err != nil || len(files) == 0 {
		t.Fatal("no vocabularies", err)
	}
	for _, file := range files {
		base := strings.TrimSuffix(file, ".gz")
		t.Run(filepath.Base(base), func(t *testing.T) {
			t.Parallel()
			e := ggufEncoder(t, file)
			in, err := os.ReadFile(base + ".inp")
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(base + ".out")
			if err != nil {
				t.Fatal(err)
			}
			texts := strings.Split(strings.TrimSuffix(string(in), separator), separator)
			lines := strings.Split(strings.TrimSuffix(string(want), "\n"), "\n")
			if len(texts) != len(lines) {
				t.Fatalf("%d texts, %d lines of ids", len(texts), len(lines))
			}
			for i, text := range texts {
				ids, err := parseIDs(lines[i])
				if err != nil {
					t.Fatal(err)
				}
				got, err := e.Encode(text, EncodeOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got, ids) {
					t.Errorf("%q:\ngot  %v\nwant %v", text, got, ids)
				}
			}
		})
	}
}

// separator stands between the texts of an .inp, and after the last.
const separator = "\n__ggml_vocab_test__\n"

func parseIDs(line string) ([]int32, error) {
	var ids []int32
	for _, f := range strings.Fields(line) {
		id, err := strconv.ParseInt(f, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("ids: %w", err)
		}
		ids = append(ids, int32(id))
	}
	return ids, nil
}
