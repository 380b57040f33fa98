package quantize

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
)

// Imatrix is an importance matrix: for each column of a weight matrix the mean
// of the squared activations that met it in calibration. Values stay in the
// file until they are asked for, so that memory does not grow with the number
// of experts. It is safe for concurrent use.
//
// Two formats are read: GGUF as llama-imatrix writes it (for each tensor
// NAME.in_sum2, sums of squares, and NAME.counts, one per expert) and the
// older .dat (per tensor the sums over all calls, and one number of calls).
type Imatrix struct {
	Datasets []string // texts of the calibration
	Chunks   int64    // of the calibration; 0 where the file does not say

	r       io.ReaderAt
	entries map[string]imatrixEntry
}

// imatrixEntry is the data of one tensor: experts runs of cols little-endian
// float32 from offset on, each to be divided by its count.
type imatrixEntry struct {
	offset int64
	cols   int64
	counts []float32 // one per expert; 0: the expert met no token
}

// Keys of an importance matrix in GGUF and of a file made with one
// (tools/imatrix/imatrix.cpp, tools/quantize/quantize.cpp).
const (
	keyImatrixDatasets  = "imatrix.datasets"
	keyImatrixChunks    = "imatrix.chunk_count"
	keyImatrixChunkSize = "imatrix.chunk_size"
)

// ReadImatrix reads an importance matrix of either format from r, which has
// size bytes and must stay readable. It refuses values that are negative or
// not finite.
func ReadImatrix(r io.ReaderAt, size int64) (*Imatrix, error) {
	var magic [4]byte
	if _, err := r.ReadAt(magic[:], 0); err != nil {
		return nil, fmt.Errorf("read imatrix: %w", unexpected(err))
	}
	m := &Imatrix{r: r, entries: map[string]imatrixEntry{}}
	var err error
	if string(magic[:]) == "GGUF" {
		err = m.readGGUF(size)
	} else {
		err = m.readLegacy(size)
	}
	if err != nil {
		return nil, fmt.Errorf("read imatrix: %w", err)
	}
	if len(m.entries) == 0 {
		return nil, errors.New("read imatrix: it holds no data")
	}
	for _, name := range m.Names() {
		if err := m.check(name); err != nil {
			return nil, fmt.Errorf("read imatrix: %w", err)
		}
	}
	return m, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (m *Imatrix) readGGUF(size int64) error {
	h, err := gguf.ReadHeader(m.r, size)
	if err != nil {
		return err
	}
	if m.Datasets, err = h.Metadata.Strings(keyImatrixDatasets); err != nil {
		return err
	}
	if m.Chunks, err = h.Metadata.Int(keyImatrixChunks); err != nil {
		return err
	}
	if _, err = h.Metadata.Int(keyImatrixChunkSize); err != nil {
		return err
	}
	start, err := h.DataOffset()
	if err != nil {
		return err
	}
	infos := map[string]gguf.TensorInfo{}
	for _, t := range h.Tensors {
		if t.Type != gguf.F32 {
			return fmt.Errorf("tensor %s: type %s: want F32", t.Name, t.Type)
		}
		infos[t.Name] = t
	}
	for _, t := range h.Tensors {
		name, isSums := strings.CutSuffix(t.Name, ".in_sum2")
		if !isSums {
			name, isCounts := strings.CutSuffix(t.Name, ".counts")
			if _, ok := infos[name+".in_sum2"]; !isCounts || !ok {
				return fmt.Errorf("tensor %s: no sums belong to it", t.Name)
			}
			continue
		}
		c, ok := infos[name+".counts"]
		if !ok {
			return fmt.Errorf("tensor %s: %s.counts is missing", t.Name, name)
		}
		sums, err := t.Elements()
		if err != nil {
			return err
		}
		experts, err := c.Elements()
		if err != nil {
			return err
		}
		if sums%experts != 0 {
			return fmt.Errorf("tensor %s: %d sums do not divide by %d counts", t.Name, sums, experts)
		}
		counts := make([]float32, experts)
		if err := readFloat32s(m.r, start+c.Offset, counts); err != nil {
			return fmt.Errorf("tensor %s: %w", c.Name, err)
		}
		for i := range counts {
			if !(counts[i] >= 0) || math.IsInf(float64(counts[i]), 0) {
				return fmt.Errorf("tensor %s: count %g of expert %d", c.Name, counts[i], i)
			}
			counts[i] = float32(math.Round(float64(counts[i])))
		}
		m.entries[name] = imatrixEntry{offset: start + t.Offset, cols: sums / experts, counts: counts}
	}
	return nil
}

// maxNameLength bounds the names of the older format; ggml's own limit for
// the name of a tensor is 64 bytes.
const maxNameLength = 1 << 10

// readLegacy reads: int32 entries; per entry int32 length, name, int32 calls,
// int32 values, float32 values; then, optionally, int32 chunks, int32 length,
// name of the dataset.
func (m *Imatrix) readLegacy(size int64) error {
	s := &legacyScanner{r: bufio.NewReaderSize(io.NewSectionReader(m.r, 0, size), 1<<16), size: size}
	entries := s.count("number of entries", size/12)
	if s.err == nil && entries < 1 {
		return fmt.Errorf("%d entries: neither GGUF nor imatrix.dat", entries)
	}
	for i := int64(0); i < entries && s.err == nil; i++ {
		name := s.text(fmt.Sprintf("entry %d: name", i))
		calls := s.count(name+": calls", math.MaxInt32)
		cols := s.count(name+": values", (size-s.at)/4)
		if s.err != nil {
			break
		}
		if cols < 1 {
			return fmt.Errorf("%s: %d values at offset %d", name, cols, s.at)
		}
		if _, twice := m.entries[name]; twice {
			return fmt.Errorf("%s stands twice, again before offset %d", name, s.at)
		}
		// Without a call the sums stand as they are.
		m.entries[name] = imatrixEntry{offset: s.at, cols: cols, counts: []float32{float32(max(calls, 1))}}
		s.skip(4 * cols)
	}
	if s.err == nil && s.at < size {
		m.Chunks = s.count("chunks", math.MaxInt32)
		if s.at < size {
			m.Datasets = []string{s.text("dataset")}
		}
		if s.err == nil && s.at != size {
			return fmt.Errorf("%d bytes follow the data at offset %d", size-s.at, s.at)
		}
	}
	return s.err
}

// legacyScanner reads the fields of the older format one by one; after the
// first error it reads nothing.
type legacyScanner struct {
	r        *bufio.Reader
	at, size int64
	err      error
}

// count reads an int32 that must lie in [0, most].
func (s *legacyScanner) count(what string, most int64) int64 {
	if s.err != nil {
		return 0
	}
	var b [4]byte
	if _, err := io.ReadFull(s.r, b[:]); err != nil {
		s.err = fmt.Errorf("%s at offset %d: %w", what, s.at, unexpected(err))
		return 0
	}
	n := int64(int32(binary.LittleEndian.Uint32(b[:])))
	if n < 0 || n > most {
		s.err = fmt.Errorf("%s at offset %d: %d is out of range", what, s.at, n)
		return 0
	}
	s.at += 4
	return n
}

// text reads a length and as many bytes.
func (s *legacyScanner) text(what string) string {
	n := s.count(what, min(maxNameLength, s.size-s.at))
	if s.err != nil {
		return ""
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(s.r, b); err != nil {
		s.err = fmt.Errorf("%s at offset %d: %w", what, s.at, unexpected(err))
		return ""
	}
	s.at += n
	return string(b)
}

func (s *legacyScanner) skip(n int64) {
	if s.err != nil {
		return
	}
	done, err := io.CopyN(io.Discard, s.r, n)
	s.at += done
	if err != nil {
		s.err = fmt.Errorf("values at offset %d: %w", s.at, unexpected(err))
	}
}

// readFloat32s fills dst with little-endian float32 from offset on.
func readFloat32s(r io.ReaderAt, offset int64, dst []float32) error {
	buf := make([]byte, 4*len(dst))
	if n, err := r.ReadAt(buf, offset); n < len(buf) {
		return fmt.Errorf("at offset %d: %w", offset+int64(n), unexpected(err))
	}
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(buf[4*i:]))
	}
	return nil
}

// check reads all values of a tensor once.
func (m *Imatrix) check(name string) error {
	e := m.entries[name]
	buf := make([]float32, min(e.cols, 1<<14))
	for at := int64(0); at < e.cols*int64(len(e.counts)); {
		part := buf[:min(int64(len(buf)), e.cols*int64(len(e.counts))-at)]
		if err := readFloat32s(m.r, e.offset+4*at, part); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for i, v := range part {
			if !(v >= 0) || math.IsInf(float64(v), 0) {
				return fmt.Errorf("%s: value %d is %g at offset %d: want a finite number of at least 0", name, at+int64(i), v, e.offset+4*(at+int64(i)))
			}
		}
		at += int64(len(part))
	}
	return nil
}

// Names returns the names of the tensors that have data, sorted.
func (m *Imatrix) Names() []string { return slices.Sorted(maps.Keys(m.entries)) }

// Values fills dst, one weight per column, with the importance of an expert's
// matrix (0 where the tensor is no stack of experts). It returns false where
// the matrix has no data of this size, which Match has told before. An expert
// that met no token gets all ones, as in llama-quantize: even importance,
// never zero.
func (m *Imatrix) Values(dst []float32, name string, expert int64) (bool, error) {
	e, ok := m.entries[name]
	cols := int64(len(dst))
	switch {
	case !ok || cols == 0 || expert < 0:
		return false, nil
	case cols == e.cols && expert < int64(len(e.counts)):
		return true, m.scaled(dst, name, e.offset+4*expert*cols, e.counts[expert])
	case len(e.counts) == 1 && e.cols%cols == 0 && expert < e.cols/cols:
		// The older format has one number of calls for all experts.
		return true, m.scaled(dst, name, e.offset+4*expert*cols, e.counts[0])
	}
	return false, nil
}

func (m *Imatrix) scaled(dst []float32, name string, offset int64, count float32) error {
	if count == 0 {
		for i := range dst {
			dst[i] = 1
		}
		return nil
	}
	if err := readFloat32s(m.r, offset, dst); err != nil {
		return fmt.Errorf("imatrix of %s: %w", name, err)
	}
	for i := range dst {
		dst[i] /= count
	}
	return nil
}

// Coverage says what an importance matrix lacks for a model.
type Coverage struct {
	Missing []string // quantizable tensors without data
	Idle    []string // "NAME: 3 of 64 experts met no token"
}

// Match compares the matrix with the tensors of a model. It fails where not a
// single tensor has data, the sizes of one differ, or there is data for a block
// that the model lacks: then the matrix is another model's. The token embedding,
// which is looked up and not multiplied, may differ.
func (m *Imatrix) Match(tensors []Tensor) (Coverage, error) {
	var c Coverage
	found := false
	blocks := 0
	for _, t := range tensors {
		blocks = max(blocks, blockOf(t.Name)+1)
		if !Quantizable(t.Name, t.Shape) {
			continue
		}
		e, ok := m.entries[t.Name]
		if !ok {
			c.Missing = append(c.Missing, t.Name)
			continue
		}
		experts := int64(1)
		if len(t.Shape) > 2 {
			experts = t.Shape[2]
		}
		if got, want := e.cols*int64(len(e.counts)), t.Shape[0]*experts; got != want || (len(e.counts) > 1 && int64(len(e.counts)) != experts) {
			if roleOf(t.Name) == tokenEmbd {
				c.Missing = append(c.Missing, t.Name)
				continue
			}
			return Coverage{}, fmt.Errorf("imatrix of another model: %s has %d values in %d rows: want %d in %d", t.Name, got, len(e.counts), want, experts)
		}
		found = true
		idle := 0
		for _, n := range e.counts {
			if n == 0 {
				idle++
			}
		}
		if idle > 0 {
			c.Idle = append(c.Idle, fmt.Sprintf("%s: %d of %d experts met no token", t.Name, idle, len(e.counts)))
		}
	}
	if !found {
		return Coverage{}, fmt.Errorf("imatrix of another model: none of its %d tensors is in this one (it begins with %s)", len(m.entries), m.Names()[0])
	}
	for _, name := range m.Names() {
		if blockOf(name) >= blocks {
			return Coverage{}, fmt.Errorf("imatrix of another model: it has data for %s: this one has %d blocks", name, blocks)
		}
	}
	return c, nil
}

// Metadata returns the keys that llama-quantize records for the matrix read
// from file; text is cut to the 127 bytes that it keeps.
func (m *Imatrix) Metadata(file string) gguf.Metadata {
	kv := gguf.Metadata{{Key: "quantize.imatrix.file", Value: cut(file)}}
	if len(m.Datasets) > 0 {
		kv.Set("quantize.imatrix.dataset", cut(m.Datasets[0]))
	}
	kv.Set("quantize.imatrix.entries_count", uint32(len(m.entries)))
	if m.Chunks > 0 {
		kv.Set("quantize.imatrix.chunks_count", uint32(min(m.Chunks, math.MaxUint32)))
	}
	return kv
}

// cut shortens s to 127 bytes without breaking a character.
func cut(s string) string {
	const most = 127
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}
