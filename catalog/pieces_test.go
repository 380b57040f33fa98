package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
)

// modelFile is a GGUF file with some tensors of random content.
func modelFile(t testing.TB, template string, seed uint64) []byte {
	t.Helper()
	tokens := make([]string, 20000)
	words := rand.New(rand.NewPCG(7, 7))
	for i := range tokens {
		tokens[i] = strings.Repeat(string(rune('a'+words.IntN(26))), 1+words.IntN(12))
	}
	h := &gguf.Header{
		Metadata: gguf.Metadata{
			{Key: "general.architecture", Value: "llama"},
			{Key: "tokenizer.chat_template", Value: template},
			{Key: "tokenizer.ggml.tokens", Value: tokens},
		},
		Tensors: []gguf.TensorInfo{
			{Name: "a", Type: gguf.F32, Shape: []int64{256, 1024}},
			{Name: "b", Type: gguf.F32, Shape: []int64{64}},
			{Name: "c", Type: gguf.F32, Shape: []int64{1024, 5120}},
			{Name: "d", Type: gguf.F32, Shape: []int64{64}},
		},
	}
	size, err := h.Layout()
	if err != nil {
		t.Fatal(err)
	}
	b, err := h.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	head := len(b)
	b = append(b, make([]byte, size-int64(head))...)
	fill := rand.NewChaCha8(sha256.Sum256([]byte{byte(seed)}))
	fill.Read(b[head:])
	return b
}

// TestCutFile holds the pieces to the bytes they stand for, whatever the sizes
// of the writes, and to their bounds.
func TestCutFile(t *testing.T) {
	random := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{1}).Read(random)
	for name, data := range map[string][]byte{
		"gguf": modelFile(t, "{{ messages }}", 1), "other": random, "zeros": make([]byte, 200_000), "small": []byte("x"), "empty": {},
	} {
		got, err := CutFile(t.Context(), bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		at := 0
		for i, p := range got.Pieces {
			if p.Size > pieceBytes || DigestOf(data[at:at+int(p.Size)]) != p.SHA256 {
				t.Errorf("%s: piece %d of %d bytes is not what is there", name, i, p.Size)
			}
			at += int(p.Size)
		}
		if at != len(data) || got.SHA256 != DigestOf(data) {
			t.Errorf("%s: pieces of %d bytes, digest %s", name, at, got.SHA256)
		}
	}
	data := modelFile(t, "x", 1)
	h, err := gguf.ReadHeader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	want, err := CutFile(t.Context(), bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPieceHash(h, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 1+rand.IntN(100_000))
		if _, err := p.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	got, err := p.Pieces()
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(want)
	if b, _ := json.Marshal(got); !bytes.Equal(a, b) {
		t.Error("other pieces where the writes are of other sizes")
	}
	if _, err := p.Write([]byte{0}); err == nil {
		t.Error("more than the size was taken")
	}
}

// TestPiecesOfAnEdit asserts that another chat template leaves all but a few
// pieces as they were although every byte behind it has moved.
func TestPiecesOfAnEdit(t *testing.T) {
	cut := func(data []byte) FilePieces {
		f, err := CutFile(t.Context(), bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	old, edited := cut(modelFile(t, "{{ messages }}", 1)), cut(modelFile(t, "{{ messages }}, edited by a person", 1))
	have := map[Digest]bool{}
	for _, p := range old.Pieces {
		have[p.SHA256] = true
	}
	fresh := int64(0)
	for _, p := range edited.Pieces {
		if !have[p.SHA256] {
			fresh += p.Size
		}
	}
	if fresh == 0 || fresh*100 > edited.Size {
		t.Errorf("%d bytes of %d are new", fresh, edited.Size)
	}
}

// TestDecodePieces refuses pieces that are not of the files.
func TestDecodePieces(t *testing.T) {
	data := []byte("content")
	f, err := CutFile(t.Context(), bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	v := &Variant{Files: []File{{Path: "a", Size: f.Size, SHA256: f.SHA256}}}
	good, err := Encode(&Pieces{Schema: PiecesSchemaID, Files: []FilePieces{f}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodePieces(good, v); err != nil {
		t.Error(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{`"pieces":[`, `"pieces":[{"size":9223372036854775807,"sha256":"` + string(f.SHA256) + `"},`, "overflow"},
		{`"pieces":[`, `"pieces":[{"size":1,"sha256":"` + string(f.SHA256) + `"},`, "its pieces have 8 bytes, it has 7"},
		{`{"size":7,"sha256"`, `{"size":0,"sha256"`, "at least 1"},
		{`"files":[`, `"more":1,"files":[`, "unknown field"},
		{`{"size":7`, `{"size":8`, "the variant has"},
	} {
		// The file's own size comes first; the piece's is the second.
		text := string(good)
		if strings.HasPrefix(c.old, `{"size":7,`) {
			i := strings.LastIndex(text, c.old)
			text = text[:i] + c.new + text[i+len(c.old):]
		} else {
			text = strings.Replace(text, c.old, c.new, 1)
		}
		if _, err := DecodePieces([]byte(text), v); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.new, err, c.want)
		}
	}
}

// TestPutPieces leaves pieces that a record may refer to as they are.
func TestPutPieces(t *testing.T) {
	s := store(t, t.TempDir())
	o := operator(s, day)
	r := record(t, "alpha", "Q8_0", "content", day)
	cut, err := CutFile(t.Context(), strings.NewReader("content"), 7)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.PutPieces(t.Context(), r, &Pieces{Files: []FilePieces{cut}}); err != nil {
		t.Fatal(err)
	}
	first := *r.Variant.Pieces
	// Another version of the program cuts otherwise.
	cut.Pieces = []Piece{{3, DigestOf([]byte("con"))}, {4, DigestOf([]byte("tent"))}}
	r.Variant.Pieces = nil
	if err := o.PutPieces(t.Context(), r, &Pieces{Files: []FilePieces{cut}}); err != nil {
		t.Fatal(err)
	}
	if *r.Variant.Pieces != first {
		t.Errorf("got %+v, want %+v", r.Variant.Pieces, first)
	}
	if err := o.PutRecord(t.Context(), r, nil, nil); err != nil {
		t.Error(err)
	}
	cut.Size++
	if err := o.PutPieces(t.Context(), r, &Pieces{Files: []FilePieces{cut}}); err == nil || !strings.Contains(err.Error(), "the variant has") {
		t.Errorf("got %v", err)
	}
}
