package pipeline

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/ops/calibrate"
	"github.com/modelpipe/modelpipe/ops/fromgguf"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/tokenizer"
)

// Model is a model as its GGUF file specifies it, which may be computed while
// it is read.
type Model struct {
	Spec   *spec.Model
	Header *gguf.Header
	Close  func() error
}

// OpenModel opens a .gguf, or a model in Hugging Face's layout as the GGUF file
// that convert would write with a pre-tokenizer, "" for the one it recognises.
func OpenModel(ctx context.Context, s *Source, pre string) (*Model, error) {
	if s.File != "" {
		if !strings.HasSuffix(s.File, ".gguf") {
			return nil, usage(fmt.Errorf("%s: want a model folder, hf://org/name or a .gguf file", s.Arg))
		}
		if pre != "" {
			return nil, usage(fmt.Errorf("--pre: %s says itself what its pre-tokenizer is", s.Arg))
		}
		f, err := gguf.OpenFS(s.FS, s.File)
		if err != nil {
			return nil, err
		}
		m, err := fromgguf.Open(f)
		if err != nil {
			f.Close()
			return nil, err
		}
		return &Model{m, f.Header, f.Close}, nil
	}
	p, err := convert.NewPlan(ctx, s.FS, convert.Options{Source: cmp.Or(s.Repo, s.Name), Repository: s.Repo, Commit: s.Commit, Pre: pre})
	if err != nil {
		return nil, err
	}
	view, err := convert.NewView(p, s.FS, convert.RenderOptions{})
	if err != nil {
		return nil, err
	}
	m, err := fromgguf.OpenAt(s.Name+", converted", view, view.Size())
	if err != nil {
		view.Close()
		return nil, err
	}
	return &Model{m, &p.Header, view.Close}, nil
}

// Chunks encodes the text of a file and cuts it, as llama-imatrix does, into
// at most n chunks of ctx tokens; n 0 is all.
func (m *Model) Chunks(name string, n, ctx int) ([][]int32, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, tokenizer.MaxText+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	chunks, err := m.Cut(string(text), n, ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return chunks, nil
}

// Cut is Chunks of a text.
func (m *Model) Cut(text string, n, ctx int) ([][]int32, error) {
	e, err := tokenizer.NewGGUFEncoder(m.Header.Metadata)
	if err != nil {
		return nil, err
	}
	bos, err := beginning(e, m.Spec.Pooling)
	if err != nil {
		return nil, err
	}
	ids, err := e.Encode(strings.TrimSuffix(text, "\n"), tokenizer.EncodeOptions{AddSpecial: true})
	if err != nil {
		return nil, err
	}
	return calibrate.Chunks(ids, bos, n, ctx)
}

// beginning returns the token that a vocabulary puts before a text, spec.None
// where it puts none. One that also puts a token behind it is refused, as
// llama-imatrix refuses it, unless the model's result is that of the last
// token.
func beginning(e *tokenizer.GGUFEncoder, pooling spec.Pooling) (int32, error) {
	const sample = "a"
	plain, err := e.Encode(sample, tokenizer.EncodeOptions{})
	if err != nil {
		return 0, err
	}
	full, err := e.Encode(sample, tokenizer.EncodeOptions{AddSpecial: true})
	if err != nil {
		return 0, err
	}
	before := 0
	for before+len(plain) <= len(full) && !slices.Equal(full[before:before+len(plain)], plain) {
		before++
	}
	if before+len(plain) < len(full) && pooling != spec.PoolLast {
		return 0, errors.New("the vocabulary ends texts with a token of its own, which chunks of a text do not have: such a model cannot be calibrated")
	}
	if before == 0 {
		return spec.None, nil
	}
	return full[0], nil
}

// Digest tells models apart: by the header of the GGUF file without what the
// model is called, and by its weights (the commit of a repository on the Hub,
// the first row of each elsewhere).
func (m *Model) Digest(ctx context.Context, s *Source) (string, error) {
	h := sha256.New()
	header := *m.Header
	header.Metadata = slices.DeleteFunc(slices.Clone(header.Metadata), func(kv gguf.KV) bool {
		return strings.HasPrefix(kv.Key, "general.") && kv.Key != "general.alignment"
	})
	head, err := header.AppendBinary(nil)
	if err != nil {
		return "", err
	}
	h.Write(head)
	fmt.Fprintf(h, "%q %q\n", s.Repo, s.Commit)
	if s.Commit == "" {
		var b [4]byte
		if err := firstRows(ctx, m.Spec, func(v float32) {
			binary.LittleEndian.PutUint32(b[:], math.Float32bits(v))
			h.Write(b[:])
		}); err != nil {
			return "", err
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// CalibrationDigest is of all that the sums of a calibration depend on: the
// model and the tokens.
func (m *Model) CalibrationDigest(ctx context.Context, s *Source, chunks [][]int32, length int, processOutput bool) (string, error) {
	model, err := m.Digest(ctx, s)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %t %d %d\n", model, processOutput, length, len(chunks))
	for _, ids := range chunks {
		if err := binary.Write(h, binary.LittleEndian, ids); err != nil {
			return "", err
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// firstRows calls f with the first row of each weight, of experts those of the
// first.
func firstRows(ctx context.Context, m *spec.Model, f func(float32)) error {
	var slots []spec.Slot
	for s := range m.Weights {
		if s.Expert <= 0 {
			slots = append(slots, s)
		}
	}
	slices.SortFunc(slots, func(a, b spec.Slot) int {
		return cmp.Or(cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Role, b.Role), cmp.Compare(a.Expert, b.Expert))
	})
	for _, s := range slots {
		w := m.Weights[s]
		row := make([]float32, w.Cols)
		if err := w.Read(ctx, row, 0); err != nil {
			return err
		}
		for _, v := range row {
			f(v)
		}
	}
	return nil
}

// CalibrateOn returns an engine that calibrates on a device.
func CalibrateOn(d *ops.Device, o ops.Options) calibrate.Engine {
	return func(ctx context.Context, m *spec.Model, chunks [][]int32, of calibrate.Layers, tap calibrate.Tap) error {
		return ops.Calibrate(ctx, d, m, chunks, ops.Layers(of), tap, o)
	}
}
