// Package safetensors reads the safetensors file format, and the checkpoints
// that are cut into several such files.
//
// A file is the length of the header (8 bytes, little-endian), the header (a
// JSON object from tensor names to dtype, shape and place) and the data
// section, which the tensors cover without gap or overlap.
//
// Reading is as strict as the format's own implementation (huggingface/
// safetensors, tensor.rs), and refuses also duplicate keys and unknown
// fields. A file is hostile until it is checked: no input makes the reader
// panic, and what it allocates is bounded by the bytes that it has seen.
// Headers are read as a stream, so that a checkpoint of hundreds of thousands
// of tensors takes little more memory than its list of tensors.
package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxHeader is the longest header in bytes that the format allows.
const MaxHeader = 100_000_000

// metadataKey is the key of a header that holds no tensor.
const metadataKey = "__metadata__"

// Tensor describes one tensor of a file.
type Tensor struct {
	Name   string
	DType  DType
	Shape  []int64 // outermost first, as PyTorch prints it; empty for a scalar
	Offset int64   // of the data, in bytes from the start of the data section
	Size   int64   // of the data in bytes
}

// Elements returns the number of elements. It fails where a dimension is
// negative or the product overflows.
func (t Tensor) Elements() (int64, error) {
	n := int64(1)
	for _, d := range t.Shape {
		if d < 0 {
			return 0, fmt.Errorf("shape %s has a negative dimension", t.shape())
		}
		if d > 0 && n > math.MaxInt64/d {
			return 0, fmt.Errorf("shape %s overflows", t.shape())
		}
		n *= d
	}
	return n, nil
}

// shape is the shape in an error: a file may give a tensor any number of
// dimensions.
func (t Tensor) shape() string {
	const most = 16
	if len(t.Shape) > most {
		return fmt.Sprintf("%d... (%d dimensions)", t.Shape[:most], len(t.Shape))
	}
	return fmt.Sprint(t.Shape)
}

// bytes returns the size in bytes that dtype and shape imply.
func (t Tensor) bytes() (int64, error) {
	n, err := t.Elements()
	if err != nil {
		return 0, err
	}
	bits := t.DType.Bits()
	if bits == 0 {
		return 0, errors.New("has no dtype")
	}
	if n > math.MaxInt64/bits {
		return 0, fmt.Errorf("shape %s of %s overflows in bits", t.shape(), t.DType)
	}
	if n *= bits; n%8 != 0 {
		return 0, fmt.Errorf("shape %s of %s does not fill whole bytes", t.shape(), t.DType)
	}
	return n / 8, nil
}

// Header is everything of a file but the data.
type Header struct {
	Metadata map[string]string // of __metadata__; nil where the file has none
	Tensors  []Tensor          // in the order of their data
	// DataOffset is where the data section begins, in bytes from the start of
	// the file.
	DataOffset int64
}

// FormatError says what is wrong with a file, and where.
type FormatError struct {
	Tensor string // may be empty
	Offset int64  // in bytes from the start of the file; -1 where the JSON is right but what it says is not
	Reason string
}

func (e *FormatError) Error() string {
	var b strings.Builder
	if e.Tensor != "" {
		fmt.Fprintf(&b, "tensor %s: ", clip(e.Tensor))
	}
	if e.Offset >= 0 {
		fmt.Fprintf(&b, "at byte %d: ", e.Offset)
	}
	b.WriteString(e.Reason)
	return b.String()
}

// clip quotes a name from a file so that it cannot fill or break a line.
func clip(name string) string {
	const most = 200
	if len(name) > most {
		return fmt.Sprintf("%q...", name[:most])
	}
	return fmt.Sprintf("%q", name)
}

// ReadHeader reads and checks the header of a file of size bytes. It touches
// the header only, in blocks that grow from 256 KiB to 4 MiB, so that it needs
// few reads of a remote file.
//
// What is wrong with the file is a *FormatError; any other error is one of r's.
func ReadHeader(r io.ReaderAt, size int64) (*Header, error) {
	fail := func(format string, args ...any) error {
		return &FormatError{Offset: -1, Reason: fmt.Sprintf(format, args...)}
	}
	if size < 8 {
		return nil, fail("file of %d bytes is too small for a safetensors header", size)
	}
	// The first block has the length and, of most files, the whole header.
	first := make([]byte, min(size, firstBlock))
	if err := readFull(r, first, 0); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(first)
	if n > MaxHeader {
		return nil, fail("header of %d bytes is larger than %d: not a safetensors file, or damaged", n, MaxHeader)
	}
	if n > uint64(size-8) {
		return nil, fail("header of %d bytes is cut off: the file has %d bytes", n, size)
	}
	h := &Header{DataOffset: 8 + int64(n)}
	s := &scanner{r: r, end: h.DataOffset, buf: first[:min(int64(len(first)), h.DataOffset)], pos: 8, block: 2 * firstBlock}
	if err := h.parse(s); err != nil {
		return nil, err
	}
	if err := h.check(size - h.DataOffset); err != nil {
		return nil, err
	}
	return h, nil
}

func (h *Header) parse(s *scanner) error {
	seen := map[string]struct{}{}
	var shapes []int64 // shapes are cut from blocks: most have two dimensions
	s.object(func(key []byte) {
		name := string(key)
		if _, dup := seen[name]; dup {
			s.fail("tensor %s is there twice", clip(name))
			return
		}
		seen[name] = struct{}{}
		if name == metadataKey {
			h.Metadata = metadata(s)
			return
		}
		var t Tensor
		t, shapes = tensor(s, name, shapes)
		if s.err == nil {
			h.Tensors = append(h.Tensors, t)
			return
		}
		var format *FormatError
		if errors.As(s.err, &format) {
			format.Tensor = name
		}
	})
	s.done()
	return s.err
}

// metadata takes the value of __metadata__.
func metadata(s *scanner) map[string]string {
	m := map[string]string{}
	s.object(func(key []byte) {
		k := string(key)
		if _, dup := m[k]; dup {
			s.fail("key %s of %s is there twice", clip(k), metadataKey)
			return
		}
		m[k] = string(s.string())
	})
	return m
}

// tensor takes the description of a tensor. Its shape is cut from shapes,
// whose rest is returned.
func tensor(s *scanner, name string, shapes []int64) (Tensor, []int64) {
	t := Tensor{Name: name}
	var have struct{ dtype, shape, offsets bool }
	once := func(field *bool, name string) bool {
		if *field {
			s.fail("field %q is there twice", name)
			return false
		}
		*field = true
		return true
	}
	var begin, end int64
	s.object(func(key []byte) {
		switch string(key) {
		case "dtype":
			if once(&have.dtype, "dtype") {
				text := s.string()
				if s.err == nil {
					var err error
					if t.DType, err = ParseDType(string(text)); err != nil {
						s.fail("%v", err)
					}
				}
			}
		case "shape":
			if once(&have.shape, "shape") {
				start := len(shapes)
				s.array(func() {
					if len(shapes) == cap(shapes) {
						grown := make([]int64, len(shapes)-start, max(1024, 2*(len(shapes)-start)))
						copy(grown, shapes[start:])
						shapes, start = grown, 0
					}
					shapes = append(shapes, s.size())
				})
				t.Shape = shapes[start:len(shapes):len(shapes)]
			}
		case "data_offsets":
			if once(&have.offsets, "data_offsets") {
				s.expect('[')
				begin = s.size()
				s.expect(',')
				end = s.size()
				s.expect(']')
			}
		default:
			s.fail("unknown field %s", clip(string(key)))
		}
	})
	if s.err != nil {
		return t, shapes
	}
	switch {
	case !have.dtype:
		s.fail("field \"dtype\" is missing")
	case !have.shape:
		s.fail("field \"shape\" is missing")
	case !have.offsets:
		s.fail("field \"data_offsets\" is missing")
	case end < begin:
		s.fail("data ends at %d before it begins at %d", end, begin)
	}
	t.Offset, t.Size = begin, end-begin
	if size, err := t.bytes(); err != nil {
		s.fail("%v", err)
	} else if size != t.Size {
		s.fail("shape %s of %s takes %d bytes, but data_offsets have %d", t.shape(), t.DType, size, t.Size)
	}
	return t, shapes
}

// check puts the tensors in the order of their data and checks that they
// cover a data section of size bytes.
func (h *Header) check(size int64) error {
	slices.SortStableFunc(h.Tensors, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Size, b.Size))
	})
	next, last := int64(0), ""
	for _, t := range h.Tensors {
		fail := func(format string, args ...any) error {
			return &FormatError{Tensor: t.Name, Offset: -1, Reason: fmt.Sprintf(format, args...)}
		}
		switch {
		case t.Offset < next:
			return fail("data at offset %d overlaps tensor %s, which ends at %d", t.Offset, clip(last), next)
		case t.Offset > next:
			return fail("data at offset %d leaves a hole after offset %d", t.Offset, next)
		case t.Size > size-t.Offset:
			return fail("data of %d bytes at offset %d is cut off: the data section has %d bytes", t.Size, t.Offset, size)
		}
		next, last = t.Offset+t.Size, t.Name
	}
	if next != size {
		return &FormatError{Offset: h.DataOffset + next, Reason: fmt.Sprintf("%d bytes after the last tensor belong to none", size-next)}
	}
	return nil
}

// Layout sets Offset and Size of every tensor, in the order of Tensors, and
// returns the size of the data section.
func (h *Header) Layout() (int64, error) {
	next := int64(0)
	for i := range h.Tensors {
		t := &h.Tensors[i]
		size, err := t.bytes()
		if err != nil {
			return 0, fmt.Errorf("tensor %s: %w", clip(t.Name), err)
		}
		if size > math.MaxInt64-next {
			return 0, fmt.Errorf("tensor %s: size of the file overflows", clip(t.Name))
		}
		t.Offset, t.Size = next, size
		next += size
	}
	return next, nil
}

// AppendBinary appends what comes before the data in a file: the length and
// the JSON of the header, padded with spaces to a multiple of 8 bytes as the
// format's own implementation does. It does the layout. DataOffset is not
// used.
func (h *Header) AppendBinary(b []byte) ([]byte, error) {
	if _, err := h.Layout(); err != nil {
		return b, err
	}
	var j bytes.Buffer
	j.WriteByte('{')
	field := func(name string) error {
		if !utf8.ValidString(name) {
			return fmt.Errorf("%s is not UTF-8", clip(name))
		}
		if last := j.Bytes()[j.Len()-1]; last != '{' {
			j.WriteByte(',')
		}
		quoted, err := json.Marshal(name)
		j.Write(quoted)
		j.WriteByte(':')
		return err
	}
	if h.Metadata != nil {
		if err := field(metadataKey); err != nil {
			return b, err
		}
		j.WriteByte('{')
		for _, k := range slices.Sorted(maps.Keys(h.Metadata)) {
			v := h.Metadata[k]
			if !utf8.ValidString(v) {
				return b, fmt.Errorf("metadata %s is not UTF-8", clip(k))
			}
			if err := field(k); err != nil {
				return b, err
			}
			quoted, err := json.Marshal(v)
			if err != nil {
				return b, err
			}
			j.Write(quoted)
		}
		j.WriteByte('}')
	}
	seen := map[string]struct{}{metadataKey: {}}
	for _, t := range h.Tensors {
		if _, dup := seen[t.Name]; dup {
			return b, fmt.Errorf("tensor %s is there twice", clip(t.Name))
		}
		seen[t.Name] = struct{}{}
		if err := field(t.Name); err != nil {
			return b, err
		}
		fmt.Fprintf(&j, `{"dtype":"%s","shape":[`, t.DType)
		for i, d := range t.Shape {
			if i > 0 {
				j.WriteByte(',')
			}
			fmt.Fprint(&j, d)
		}
		fmt.Fprintf(&j, `],"data_offsets":[%d,%d]}`, t.Offset, t.Offset+t.Size)
	}
	j.WriteByte('}')
	for j.Len()%8 != 0 {
		j.WriteByte(' ')
	}
	if j.Len() > MaxHeader {
		return b, fmt.Errorf("header of %d bytes is larger than %d", j.Len(), MaxHeader)
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(j.Len()))
	return append(b, j.Bytes()...), nil
}
