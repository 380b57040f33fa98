package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Layout sets the Offset of every tensor, in the order of Tensors and each
// padded to the alignment, and returns the size of the whole file in bytes.
// As upstream's writers do, the last tensor is padded too.
func (h *Header) Layout() (fileSize int64, err error) {
	size, err := h.DataOffset()
	if err != nil {
		return 0, err
	}
	alignment, _ := h.alignment()
	next := int64(0)
	for i := range h.Tensors {
		t := &h.Tensors[i]
		n, err := t.Size()
		if err != nil {
			return 0, fmt.Errorf("tensor %s: %w", clip(t.Name), err)
		}
		t.Offset = next
		if n > math.MaxInt64-next {
			return 0, fmt.Errorf("tensor %s: file size overflows", clip(t.Name))
		}
		if next, err = pad(next+n, alignment); err != nil {
			return 0, fmt.Errorf("tensor %s: %w", clip(t.Name), err)
		}
	}
	if next > math.MaxInt64-size {
		return 0, errors.New("file size overflows")
	}
	return size + next, nil
}

// DataOffset returns the offset in the file of the data section, which is the
// size of the header with its padding, and the length of what AppendBinary
// appends. It depends on the metadata and on the names and the numbers of
// dimensions of the tensors only.
func (h *Header) DataOffset() (int64, error) {
	alignment, err := h.alignment()
	if err != nil {
		return 0, err
	}
	n := int64(4 + 4 + 8 + 8)
	for _, kv := range h.Metadata {
		size, err := valueSize(kv.Value, 0)
		if err != nil {
			return 0, fmt.Errorf("metadata %s: %w", clip(kv.Key), err)
		}
		n += 8 + int64(len(kv.Key)) + 4 + size
	}
	for _, t := range h.Tensors {
		n += 8 + int64(len(t.Name)) + 4 + 8*int64(len(t.Shape)) + 4 + 8
	}
	if n > maxHeader {
		return 0, fmt.Errorf("header of %d bytes is larger than %d", n, maxHeader)
	}
	return pad(n, alignment)
}

// alignment returns the alignment that metadata and the Alignment field agree
// on.
func (h *Header) alignment() (int64, error) {
	if v, ok := h.Metadata.Get(keyAlignment); ok {
		if reason := checkValue(keyAlignment, v); reason != "" {
			return 0, fmt.Errorf("metadata %q: %s", keyAlignment, reason)
		}
	}
	a := h.Metadata.alignment()
	if h.Alignment != 0 && h.Alignment != a {
		return 0, fmt.Errorf("alignment is %d but metadata %q says %d", h.Alignment, keyAlignment, a)
	}
	return a, nil
}

// AppendBinary appends the header with its padding, up to where the data of
// the first tensor begins. It refuses everything that ReadHeader would.
func (h *Header) AppendBinary(b []byte) ([]byte, error) {
	size, err := h.DataOffset()
	if err != nil {
		return b, err
	}
	if err := h.check(); err != nil {
		return b, err
	}
	version := h.Version
	if version == 0 {
		version = Version
	}
	start := len(b)
	le := binary.LittleEndian
	b = append(b, "GGUF"...)
	b = le.AppendUint32(b, version)
	b = le.AppendUint64(b, uint64(len(h.Tensors)))
	b = le.AppendUint64(b, uint64(len(h.Metadata)))
	for _, kv := range h.Metadata {
		b = appendString(b, kv.Key)
		t, _, _, _ := TypeOf(kv.Value)
		b = le.AppendUint32(b, uint32(t))
		b = appendValue(b, kv.Value)
	}
	for _, t := range h.Tensors {
		b = appendString(b, t.Name)
		b = le.AppendUint32(b, uint32(len(t.Shape)))
		for _, d := range t.Shape {
			b = le.AppendUint64(b, uint64(d))
		}
		b = le.AppendUint32(b, uint32(t.Type))
		b = le.AppendUint64(b, uint64(t.Offset))
	}
	return append(b, make([]byte, start+int(size)-len(b))...), nil
}

// WriteTo writes what AppendBinary appends.
func (h *Header) WriteTo(w io.Writer) (int64, error) {
	b, err := h.AppendBinary(nil)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(b)
	return int64(n), err
}

// check applies the reader's rules.
func (h *Header) check() error {
	if h.Version != 0 && h.Version != 2 && h.Version != 3 {
		return fmt.Errorf("GGUF version %d is not supported, want 2 or 3", h.Version)
	}
	bad := func(kind, name, reason string) error {
		return &FormatError{Kind: kind, Name: name, Offset: -1, Reason: reason}
	}
	seen := make(map[string]struct{}, len(h.Metadata))
	for _, kv := range h.Metadata {
		if reason := checkKey(kv.Key); reason != "" {
			return bad("key", kv.Key, reason)
		}
		if reason := checkValue(kv.Key, kv.Value); reason != "" {
			return bad("key", kv.Key, reason)
		}
		if _, dup := seen[kv.Key]; dup {
			return bad("key", kv.Key, "key is there twice")
		}
		seen[kv.Key] = struct{}{}
	}
	seen = make(map[string]struct{}, len(h.Tensors))
	for _, t := range h.Tensors {
		if reason := checkName(t.Name); reason != "" {
			return bad("tensor", t.Name, reason)
		}
		if _, dup := seen[t.Name]; dup {
			return bad("tensor", t.Name, "tensor is there twice")
		}
		seen[t.Name] = struct{}{}
	}
	alignment, err := h.alignment()
	if err != nil {
		return err
	}
	if i, err := checkLayout(h.Tensors, alignment, math.MaxInt64); err != nil {
		return bad("tensor", h.Tensors[i].Name, err.Error())
	}
	return nil
}

// valueSize returns the encoded size of v in bytes, without its type.
func valueSize(v any, depth int) (int64, error) {
	t, elem, n, ok := TypeOf(v)
	if !ok {
		return 0, fmt.Errorf("value is of %s", describe(v))
	}
	if t != Array {
		if s, ok := v.(string); ok {
			return 8 + int64(len(s)), nil
		}
		return valueTypes[t].size, nil
	}
	if depth++; depth > maxDepth {
		return 0, fmt.Errorf("arrays are nested more than %d deep", maxDepth)
	}
	size := int64(4 + 8)
	switch v := v.(type) {
	case []string:
		for _, s := range v {
			size += 8 + int64(len(s))
		}
	case Nested:
		for i, e := range v {
			if t, _, _, ok := TypeOf(e); !ok || t != Array {
				return 0, fmt.Errorf("element %d of a nested array is of %s, want an array", i, describe(e))
			}
			n, err := valueSize(e, depth)
			if err != nil {
				return 0, err
			}
			size += n
		}
	default:
		size += int64(n) * valueTypes[elem].size
	}
	return size, nil
}

func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
	return append(b, s...)
}

// appendValue appends a value that valueSize has accepted.
func appendValue(b []byte, v any) []byte {
	le := binary.LittleEndian
	if t, elem, n, _ := TypeOf(v); t == Array {
		b = le.AppendUint32(b, uint32(elem))
		b = le.AppendUint64(b, uint64(n))
	}
	switch v := v.(type) {
	case uint8:
		return append(b, v)
	case int8:
		return append(b, byte(v))
	case uint16:
		return le.AppendUint16(b, v)
	case int16:
		return le.AppendUint16(b, uint16(v))
	case uint32:
		return le.AppendUint32(b, v)
	case int32:
		return le.AppendUint32(b, uint32(v))
	case float32:
		return le.AppendUint32(b, math.Float32bits(v))
	case bool:
		return append(b, boolByte(v))
	case string:
		return appendString(b, v)
	case uint64:
		return le.AppendUint64(b, v)
	case int64:
		return le.AppendUint64(b, uint64(v))
	case float64:
		return le.AppendUint64(b, math.Float64bits(v))
	case []uint8:
		return append(b, v...)
	case []int8:
		return each(b, v, func(b []byte, e int8) []byte { return append(b, byte(e)) })
	case []uint16:
		return each(b, v, le.AppendUint16)
	case []int16:
		return each(b, v, func(b []byte, e int16) []byte { return le.AppendUint16(b, uint16(e)) })
	case []uint32:
		return each(b, v, le.AppendUint32)
	case []int32:
		return each(b, v, func(b []byte, e int32) []byte { return le.AppendUint32(b, uint32(e)) })
	case []float32:
		return each(b, v, func(b []byte, e float32) []byte { return le.AppendUint32(b, math.Float32bits(e)) })
	case []bool:
		return each(b, v, func(b []byte, e bool) []byte { return append(b, boolByte(e)) })
	case []string:
		return each(b, v, appendString)
	case []uint64:
		return each(b, v, le.AppendUint64)
	case []int64:
		return each(b, v, func(b []byte, e int64) []byte { return le.AppendUint64(b, uint64(e)) })
	case []float64:
		return each(b, v, func(b []byte, e float64) []byte { return le.AppendUint64(b, math.Float64bits(e)) })
	default: // Nested
		return each(b, v.(Nested), appendValue)
	}
}

func each[T any](b []byte, v []T, appendOne func([]byte, T) []byte) []byte {
	for _, e := range v {
		b = appendOne(b, e)
	}
	return b
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}
