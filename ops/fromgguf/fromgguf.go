// Package fromgguf reads a GGUF file as a specification of what llama.cpp
// computes with it: metadata, tensor names and layouts are understood as
// llama.cpp's loader (llama-model.cpp, llama-hparams.cpp) and its graph
// builders (src/models, llama-graph.cpp) understand them, October 2026. It
// knows nothing of the converter that wrote the file, nor of the Hugging Face
// model that it came from.
//
//	f, err := gguf.Open("model.gguf")
//	m, err := fromgguf.Open(f) // f must stay open while weights are read
//
// An architecture is one literal in one file, arch_NAME.go. Reading is strict:
// an unknown architecture, a key without a default of llama.cpp's, a tensor
// that is missing, unexpected or of another shape is an error. Weights are
// decoded when they are read, a bounded number of blocks at a time.
package fromgguf

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/spec"
)

// Open specifies the model in f, which must stay open while weights are read.
func Open(f *gguf.File) (*spec.Model, error) {
	return read(f.Parts[0].Name, f.Header, func(i int) place {
		part, offset, _ := f.Locate(i)
		return place{f.Parts[part].Name, f.Data(i), offset}
	})
}

// OpenAt specifies the model in a single GGUF file of size bytes, which may be
// computed while it is read. Errors call it name.
func OpenAt(name string, r io.ReaderAt, size int64) (*spec.Model, error) {
	h, err := gguf.ReadHeader(r, size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	start, err := h.DataOffset()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return read(name, h, func(i int) place {
		offset := start + h.Tensors[i].Offset
		return place{name, io.NewSectionReader(r, offset, size-offset), offset}
	})
}

// place is where a tensor's data is: from the start of r, which is offset
// bytes from the start of the file.
type place struct {
	file   string
	r      io.ReaderAt
	offset int64
}

// architectures is the table, by general.architecture.
var architectures = map[string]architecture{}

func register(a architecture) struct{} {
	if _, dup := architectures[a.name]; dup {
		panic("fromgguf: architecture " + a.name + " is registered twice")
	}
	architectures[a.name] = a
	return struct{}{}
}

// Architectures returns the names that can be read, sorted.
func Architectures() []string { return slices.Sorted(maps.Keys(architectures)) }

func read(file string, h *gguf.Header, at func(i int) place) (*spec.Model, error) {
	name, err := h.Metadata.String("general.architecture")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	a, ok := architectures[name]
	if !ok {
		return nil, fmt.Errorf("%s: architecture %q cannot be run here: want one of %s", file, name, strings.Join(Architectures(), ", "))
	}
	m, err := a.read(h, at)
	if err != nil {
		return nil, fmt.Errorf("%s: read as %s: %w", file, name, err)
	}
	return m, nil
}

func (a architecture) read(h *gguf.Header, at func(i int) place) (*spec.Model, error) {
	p, err := a.hparams(h.Metadata)
	if err != nil {
		return nil, err
	}
	b := &builder{
		arch: a, hparams: p,
		model:   &spec.Model{Family: a.name, Vocab: p.vocab, Width: p.width, Context: p.context, Pooling: p.pooling, Weights: map[spec.Slot]spec.Weight{}},
		tensors: make(map[string]*tensor, len(h.Tensors)),
	}
	for i, info := range h.Tensors {
		b.tensors[info.Name] = &tensor{TensorInfo: info, place: at(i)}
	}
	b.build()
	if b.err == nil {
		b.rest()
	}
	if b.err != nil {
		return nil, b.err
	}
	return b.model, nil
}
