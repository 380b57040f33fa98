package quantize

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/internal/wholefile"
)

// ImatrixFile is an importance matrix to write, in the GGUF format of
// llama-imatrix (tools/imatrix/imatrix.cpp save_imatrix): for each tensor, in
// the order of the names, NAME.in_sum2 [columns, experts] and NAME.counts
// [1, experts], both F32. The bytes are those that llama-imatrix would write.
type ImatrixFile struct {
	Datasets  []string // names of the texts
	Chunks    int      // of the calibration
	ChunkSize int      // tokens of a chunk
	Entries   []ImatrixSums

	// More are further keys, after those of llama-imatrix.
	More gguf.Metadata
}

// ImatrixSums is what calibration knows of one tensor.
type ImatrixSums struct {
	Name string // "blk.0.attn_q.weight"

	// Sums are the sums of squares of the inputs, one per column; of a stack of
	// experts those of each expert one after the other.
	Sums []float32

	// Counts is the number of tokens that were summed, one per expert. With one
	// count for several matrices, as llama-imatrix has it for matrices that
	// every token meets, their columns lie one after the other too.
	Counts []float32
}

// maxTensorName is GGML_MAX_NAME without its final zero.
const maxTensorName = 63

// header checks f and lays the file out; entries are those of f, sorted.
func (f *ImatrixFile) header() (h *gguf.Header, entries []ImatrixSums, size int64, err error) {
	if f.Chunks < 0 || f.ChunkSize < 0 || int64(f.Chunks) > math.MaxUint32 || int64(f.ChunkSize) > math.MaxUint32 {
		return nil, nil, 0, fmt.Errorf("%d chunks of %d tokens", f.Chunks, f.ChunkSize)
	}
	if len(f.Entries) == 0 {
		return nil, nil, 0, errors.New("it holds no data")
	}
	entries = slices.Clone(f.Entries)
	slices.SortFunc(entries, func(a, b ImatrixSums) int { return strings.Compare(a.Name, b.Name) })
	h = &gguf.Header{Metadata: gguf.Metadata{
		{Key: "general.type", Value: "imatrix"},
		{Key: keyImatrixDatasets, Value: append([]string{}, f.Datasets...)},
		{Key: keyImatrixChunks, Value: uint32(f.Chunks)},
		{Key: keyImatrixChunkSize, Value: uint32(f.ChunkSize)},
	}}
	for _, kv := range f.More {
		h.Metadata.Set(kv.Key, kv.Value)
	}
	for i, e := range entries {
		switch {
		case e.Name == "" || len(e.Name+".in_sum2") > maxTensorName:
			err = fmt.Errorf("a name of 1 to %d bytes", maxTensorName-len(".in_sum2"))
		case i > 0 && entries[i-1].Name == e.Name:
			err = errors.New("one entry")
		case len(e.Counts) == 0 || len(e.Sums) == 0 || len(e.Sums)%len(e.Counts) != 0:
			err = fmt.Errorf("as many sums for each of %d counts, not %d in all", len(e.Counts), len(e.Sums))
		case !slices.ContainsFunc(e.Counts, func(c float32) bool { return c > 0 }):
			err = errors.New("a token that was counted")
		}
		for _, v := range slices.Concat(e.Sums, e.Counts) {
			if !(v >= 0) || math.IsInf(float64(v), 0) {
				err = fmt.Errorf("finite numbers of at least 0, not %g", v)
			}
		}
		if err != nil {
			return nil, nil, 0, fmt.Errorf("%s: want %w", e.Name, err)
		}
		experts := int64(len(e.Counts))
		shape := func(cols int64) []int64 { // ggml leaves out trailing ones
			if experts > 1 {
				return []int64{cols, experts}
			}
			return []int64{cols}
		}
		h.Tensors = append(h.Tensors,
			gguf.TensorInfo{Name: e.Name + ".in_sum2", Type: gguf.F32, Shape: shape(int64(len(e.Sums)) / experts)},
			gguf.TensorInfo{Name: e.Name + ".counts", Type: gguf.F32, Shape: shape(1)})
	}
	size, err = h.Layout()
	return h, entries, size, err
}

// Write writes the file to w.
func (f *ImatrixFile) Write(w io.Writer) error {
	if err := f.write(w); err != nil {
		return fmt.Errorf("write imatrix: %w", err)
	}
	return nil
}

func (f *ImatrixFile) write(to io.Writer) error {
	h, entries, size, err := f.header()
	if err != nil {
		return err
	}
	head, err := h.AppendBinary(nil)
	if err != nil {
		return err
	}
	start, err := h.DataOffset()
	if err != nil {
		return err
	}
	w := &padded{w: bufio.NewWriter(to)}
	w.bytes(head)
	for i, e := range entries {
		w.pad(start + h.Tensors[2*i].Offset)
		w.floats(e.Sums)
		w.pad(start + h.Tensors[2*i+1].Offset)
		w.floats(e.Counts)
	}
	w.pad(size)
	return errors.Join(w.err, w.w.Flush())
}

// padded writes at increasing offsets.
type padded struct {
	w   *bufio.Writer
	at  int64
	err error
}

func (p *padded) bytes(b []byte) {
	if p.err == nil {
		_, p.err = p.w.Write(b)
		p.at += int64(len(b))
	}
}

// pad writes zeros up to offset.
func (p *padded) pad(offset int64) {
	if n := offset - p.at; n > 0 {
		p.bytes(make([]byte, n)) // less than the alignment
	}
}

func (p *padded) floats(v []float32) {
	var b [4]byte
	for _, f := range v {
		binary.LittleEndian.PutUint32(b[:], math.Float32bits(f))
		p.bytes(b[:])
	}
}

// Save writes the file to path: under another name in the same folder first,
// so that path never holds a part of it.
func (f *ImatrixFile) Save(path string) error {
	if err := wholefile.Write(path, f.Write); err != nil {
		return fmt.Errorf("write imatrix: %w", err)
	}
	return nil
}

// Sums returns what the matrix holds of a tensor, as ImatrixFile writes it; ok
// is false where it holds nothing.
func (m *Imatrix) Sums(name string) (s ImatrixSums, ok bool, err error) {
	e, ok := m.entries[name]
	if !ok {
		return s, false, nil
	}
	s = ImatrixSums{Name: name, Sums: make([]float32, e.cols*int64(len(e.counts))), Counts: slices.Clone(e.counts)}
	if err := readFloat32s(m.r, e.offset, s.Sums); err != nil {
		return s, false, fmt.Errorf("imatrix of %s: %w", name, err)
	}
	return s, true, nil
}
