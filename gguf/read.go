package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strings"
)

// The smallest KV is a one-byte key with a one-byte value; the smallest tensor
// info has a one-byte name and one dimension. They bound the counts that a
// file of a given size can hold.
const (
	minKV         = 8 + 1 + 4 + 1
	minTensorInfo = 8 + 1 + 4 + 8 + 4 + 8
)

// ReadHeader reads and checks the header of a GGUF file of size bytes. It
// touches the header only, in blocks that grow from 256 KiB to 4 MiB, so that
// it needs few reads of a remote file.
//
// What is wrong with the file is a *FormatError; any other error is one of r's.
// Every tensor of a header that was read lies within the file, right after
// the one before it.
func ReadHeader(r io.ReaderAt, size int64) (*Header, error) {
	d := &decoder{r: r, size: size, limit: min(size, maxHeader), block: firstBlock}
	h := &Header{}
	if err := d.header(h); err != nil {
		return nil, err
	}
	return h, nil
}

const (
	firstBlock = 256 << 10
	lastBlock  = 4 << 20
)

// decoder reads a header front to back. Where an error is reported it is
// about the key or tensor that kind and name hold.
type decoder struct {
	r     io.ReaderAt
	size  int64 // of the file
	limit int64 // no byte of a header lies at or after it
	block int64 // size of the next read

	buf   []byte // bytes of the file at [off, off+len(buf))
	off   int64
	pos   int // in buf, of the next byte to decode
	start int64

	kind, name string
}

// at returns the offset in the file of the next byte.
func (d *decoder) at() int64 { return d.off + int64(d.pos) }

// remain returns how many bytes the header may still have.
func (d *decoder) remain() int64 { return d.limit - d.at() }

// begin marks the start of a value that errors refer to.
func (d *decoder) begin() { d.start = d.at() }

func (d *decoder) fail(format string, args ...any) error {
	return &FormatError{Kind: d.kind, Name: d.name, Offset: d.start, Reason: fmt.Sprintf(format, args...)}
}

// short reports that n of what cannot be there.
func (d *decoder) short(n uint64, what string) error {
	where := "the file ends at"
	if d.limit < d.size {
		where = "a header may not go beyond"
	}
	return d.fail("%d %s cannot fit: %s byte %d", n, what, where, d.limit)
}

// next returns the next n bytes, which stay valid until the next call. The
// caller has checked that n is small or that the file has that many.
func (d *decoder) next(what string, n int64) ([]byte, error) {
	if n > d.remain() {
		return nil, d.short(uint64(n), "bytes of "+what)
	}
	if have := int64(len(d.buf) - d.pos); have < n {
		if err := d.fill(n); err != nil {
			return nil, err
		}
	}
	b := d.buf[d.pos : d.pos+int(n)]
	d.pos += int(n)
	return b, nil
}

// fill reads on so that at least n bytes are buffered.
func (d *decoder) fill(n int64) error {
	at, rest := d.at(), len(d.buf)-d.pos
	want := min(max(n, d.block), d.remain())
	d.block = min(d.block*2, lastBlock)
	buf := d.buf
	if int64(cap(buf)) < want {
		buf = make([]byte, want)
	}
	buf = buf[:want]
	copy(buf, d.buf[d.pos:])
	got, err := d.r.ReadAt(buf[rest:], at+int64(rest))
	d.buf, d.off, d.pos = buf, at, 0
	if got < len(buf)-rest {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes at byte %d: %w", len(buf)-rest, at+int64(rest), err)
	}
	return nil
}

func (d *decoder) uint32(what string) (uint32, error) {
	d.begin()
	b, err := d.next(what, 4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (d *decoder) uint64(what string) (uint64, error) {
	d.begin()
	b, err := d.next(what, 8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// count reads a number of things that take at least unit bytes each.
func (d *decoder) count(what string, unit int64) (uint64, error) {
	n, err := d.uint64("number of " + what)
	if err != nil {
		return 0, err
	}
	if n > uint64(d.remain()/unit) {
		return 0, d.short(n, what)
	}
	return n, nil
}

func (d *decoder) string(what string) (string, error) {
	n, err := d.uint64("length of " + what)
	if err != nil {
		return "", err
	}
	if n > uint64(d.remain()) {
		return "", d.short(n, "bytes of "+what)
	}
	if n > lastBlock { // larger than the buffer should grow
		var long strings.Builder
		for left := int64(n); left > 0; {
			b, err := d.next(what, min(left, lastBlock))
			if err != nil {
				return "", err
			}
			long.Write(b)
			left -= int64(len(b))
		}
		return long.String(), nil
	}
	b, err := d.next(what, int64(n))
	return string(b), err
}

func (d *decoder) header(h *Header) error {
	nTensors, nKV, err := d.preamble(h)
	if err != nil {
		return err
	}
	if err := d.metadata(h, nKV); err != nil {
		return err
	}
	return d.tensors(h, nTensors)
}

// preamble reads the magic, the version and the counts.
func (d *decoder) preamble(h *Header) (nTensors, nKV uint64, err error) {
	magic, err := d.next("magic", 4)
	if err != nil {
		return 0, 0, err
	}
	if string(magic) != "GGUF" {
		return 0, 0, d.fail("not a GGUF file: it starts with %q", magic)
	}
	if h.Version, err = d.uint32("version"); err != nil {
		return 0, 0, err
	}
	switch swapped := bits.ReverseBytes32(h.Version); {
	case h.Version == 2 || h.Version == 3:
	case swapped >= 1 && swapped <= 3:
		return 0, 0, d.fail("big-endian GGUF version %d is not supported: make a little-endian file with gguf-py's gguf_convert_endian", swapped)
	case h.Version == 1:
		return 0, 0, d.fail("GGUF version 1 is not supported: convert the model again with a newer converter")
	default:
		return 0, 0, d.fail("GGUF version %d is not supported, want 2 or 3", h.Version)
	}
	if nTensors, err = d.uint64("number of tensors"); err != nil {
		return 0, 0, err
	}
	if nTensors > uint64(d.remain()/minTensorInfo) {
		return 0, 0, d.short(nTensors, "tensors")
	}
	nKV, err = d.count("metadata keys", minKV)
	return nTensors, nKV, err
}

func (d *decoder) metadata(h *Header, n uint64) error {
	seen := make(map[string]struct{}, min(n, 256))
	for i := range n {
		d.kind, d.name = "key", fmt.Sprintf("#%d", i)
		begin := d.at()
		key, err := d.string("key")
		if err != nil {
			return err
		}
		d.name, d.start = key, begin
		if reason := checkKey(key); reason != "" {
			return d.fail("%s", reason)
		}
		if _, dup := seen[key]; dup {
			return d.fail("key is there twice")
		}
		seen[key] = struct{}{}
		typ, err := d.uint32("value type")
		if err != nil {
			return err
		}
		begin = d.at()
		v, err := d.value(ValueType(typ), 0)
		if err != nil {
			return err
		}
		d.start = begin
		if reason := checkValue(key, v); reason != "" {
			return d.fail("%s", reason)
		}
		h.Metadata = append(h.Metadata, KV{key, v})
	}
	h.Alignment = h.Metadata.alignment()
	d.kind, d.name = "", ""
	return nil
}

// alignment returns general.alignment, which checkValue has approved.
func (m Metadata) alignment() int64 {
	if a, err := m.Uint32(keyAlignment); err == nil {
		return int64(a)
	}
	return defaultAlignment
}

func (d *decoder) value(t ValueType, depth int) (any, error) {
	switch t {
	case Array:
		return d.array(depth + 1)
	case String:
		return d.string("string")
	}
	if int64(t) >= int64(len(valueTypes)) {
		return nil, d.fail("unknown value type %d", uint32(t))
	}
	d.begin()
	b, err := d.next(t.String(), valueTypes[t].size)
	if err != nil {
		return nil, err
	}
	switch t {
	case Uint8:
		return b[0], nil
	case Int8:
		return int8(b[0]), nil
	case Uint16:
		return binary.LittleEndian.Uint16(b), nil
	case Int16:
		return int16(binary.LittleEndian.Uint16(b)), nil
	case Uint32:
		return binary.LittleEndian.Uint32(b), nil
	case Int32:
		return int32(binary.LittleEndian.Uint32(b)), nil
	case Float32:
		return math.Float32frombits(binary.LittleEndian.Uint32(b)), nil
	case Bool:
		return d.bool(b[0])
	case Uint64:
		return binary.LittleEndian.Uint64(b), nil
	case Int64:
		return int64(binary.LittleEndian.Uint64(b)), nil
	default: // Float64
		return math.Float64frombits(binary.LittleEndian.Uint64(b)), nil
	}
}

func (d *decoder) bool(b byte) (bool, error) {
	if b > 1 {
		return false, d.fail("bool is %d, want 0 or 1", b)
	}
	return b == 1, nil
}

func (d *decoder) array(depth int) (any, error) {
	if depth > maxDepth {
		return nil, d.fail("arrays are nested more than %d deep", maxDepth)
	}
	typ, err := d.uint32("type of array elements")
	if err != nil {
		return nil, err
	}
	t := ValueType(typ)
	if int64(t) >= int64(len(valueTypes)) {
		return nil, d.fail("unknown type %d of array elements", typ)
	}
	unit := valueTypes[t].size
	switch t {
	case String:
		unit = 8
	case Array:
		unit = 4 + 8
	}
	n, err := d.count("array elements", unit)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	switch t {
	case Uint8:
		return fixed(d, t, n, func(b []byte) uint8 { return b[0] })
	case Int8:
		return fixed(d, t, n, func(b []byte) int8 { return int8(b[0]) })
	case Uint16:
		return fixed(d, t, n, le.Uint16)
	case Int16:
		return fixed(d, t, n, func(b []byte) int16 { return int16(le.Uint16(b)) })
	case Uint32:
		return fixed(d, t, n, le.Uint32)
	case Int32:
		return fixed(d, t, n, func(b []byte) int32 { return int32(le.Uint32(b)) })
	case Float32:
		return fixed(d, t, n, func(b []byte) float32 { return math.Float32frombits(le.Uint32(b)) })
	case Uint64:
		return fixed(d, t, n, le.Uint64)
	case Int64:
		return fixed(d, t, n, func(b []byte) int64 { return int64(le.Uint64(b)) })
	case Float64:
		return fixed(d, t, n, func(b []byte) float64 { return math.Float64frombits(le.Uint64(b)) })
	case Bool:
		return varying(n, []bool{}, func() (bool, error) {
			d.begin()
			b, err := d.next("bool", 1)
			if err != nil {
				return false, err
			}
			return d.bool(b[0])
		})
	case String:
		return varying(n, []string{}, func() (string, error) { return d.string("string") })
	default: // Array
		return varying(n, Nested{}, func() (any, error) { return d.array(depth + 1) })
	}
}

// fixed reads n elements of one size. It allocates as it reads.
func fixed[T any](d *decoder, t ValueType, n uint64, decode func([]byte) T) ([]T, error) {
	const chunk = 8192
	size := int(valueTypes[t].size)
	out := make([]T, 0, min(n, chunk))
	for n > 0 {
		k := int(min(n, chunk))
		b, err := d.next("array", int64(k*size))
		if err != nil {
			return nil, err
		}
		for i := range k {
			out = append(out, decode(b[i*size:]))
		}
		n -= uint64(k)
	}
	return out, nil
}

// varying appends n elements to out.
func varying[S ~[]T, T any](n uint64, out S, read func() (T, error)) (S, error) {
	for range n {
		v, err := read()
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (d *decoder) tensors(h *Header, n uint64) error {
	seen := make(map[string]struct{}, min(n, 1024))
	offsets := make([]int64, 0, min(n, 1024)) // of the infos in the file, for errors
	for i := range n {
		d.kind, d.name = "tensor", fmt.Sprintf("#%d", i)
		begin := d.at()
		name, err := d.string("name")
		if err != nil {
			return err
		}
		d.name, d.start = name, begin
		if reason := checkName(name); reason != "" {
			return d.fail("%s", reason)
		}
		if _, dup := seen[name]; dup {
			return d.fail("tensor is there twice")
		}
		seen[name] = struct{}{}
		info, err := d.tensor(name)
		if err != nil {
			return err
		}
		h.Tensors = append(h.Tensors, info)
		offsets = append(offsets, begin)
	}
	d.kind, d.name, d.start = "", "", d.at()
	dataStart, err := pad(d.at(), h.Alignment)
	if err != nil {
		return d.fail("%v", err)
	}
	bad, err := checkLayout(h.Tensors, h.Alignment, max(d.size-dataStart, 0))
	if err != nil {
		return &FormatError{Kind: "tensor", Name: h.Tensors[bad].Name, Offset: offsets[bad], Reason: err.Error()}
	}
	return nil
}

// tensor reads what follows the name of a tensor.
func (d *decoder) tensor(name string) (TensorInfo, error) {
	info := TensorInfo{Name: name}
	dims, err := d.uint32("number of dimensions")
	if err != nil {
		return info, err
	}
	if dims == 0 || dims > MaxDims {
		return info, d.fail("%d dimensions, want 1 to %d", dims, MaxDims)
	}
	info.Shape = make([]int64, dims)
	begin := d.at()
	for i := range info.Shape {
		n, err := d.uint64("dimension")
		if err != nil {
			return info, err
		}
		if n > math.MaxInt64 {
			return info, d.fail("dimension %d is %d: too large", i, n)
		}
		info.Shape[i] = int64(n)
	}
	typ, err := d.uint32("type")
	if err != nil {
		return info, err
	}
	info.Type = Type(typ)
	if !info.Type.Valid() {
		return info, d.fail("tensor type %d is unknown or was withdrawn by ggml", typ)
	}
	d.start = begin
	if _, err := info.Size(); err != nil {
		return info, d.fail("%v", err)
	}
	offset, err := d.uint64("offset")
	if err != nil {
		return info, err
	}
	if offset > math.MaxInt64 {
		return info, d.fail("offset %d is too large", offset)
	}
	info.Offset = int64(offset)
	return info, nil
}
