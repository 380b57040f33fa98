package gguf

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// The rules that hold for a header wherever it comes from: the reader applies
// them to what a file says, the writer to what it is asked to write.

const (
	// MaxDims is the number of dimensions that ggml knows (GGML_MAX_DIMS).
	MaxDims = 4
	// MaxName is the longest name of a tensor in bytes: GGML_MAX_NAME less
	// the terminating NUL.
	MaxName = 63

	maxKey           = 1<<16 - 1 // bytes, by the GGUF specification
	maxDepth         = 16        // of arrays in arrays
	maxAlignment     = 1 << 20   // bytes; so that padding stays small
	maxHeader        = 256 << 20 // bytes up to the data section
	defaultAlignment = 32        // bytes, by the GGUF specification

	keyAlignment    = "general.alignment"
	keyArchitecture = "general.architecture"
)

// FormatError says what is wrong with a GGUF file, and where.
type FormatError struct {
	Kind   string // "key", "tensor", or empty for the file itself
	Name   string // of the key or the tensor; may be empty where it is not read yet
	Offset int64  // in bytes from the start of the file, -1 where nothing is read
	Reason string
}

func (e *FormatError) Error() string {
	var b strings.Builder
	if e.Kind != "" {
		fmt.Fprintf(&b, "%s %s", e.Kind, clip(e.Name))
	}
	if e.Offset >= 0 {
		if b.Len() > 0 {
			b.WriteString(" ")
		}
		fmt.Fprintf(&b, "at byte %d", e.Offset)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(e.Reason)
	return b.String()
}

// clip quotes a name from a file so that it cannot fill or break a line.
func clip(name string) string {
	const most = 80
	if len(name) > most {
		return fmt.Sprintf("%q...", name[:most])
	}
	return fmt.Sprintf("%q", name)
}

// checkKey says what is wrong with the name of a KV, or "".
func checkKey(key string) string {
	switch {
	case key == "":
		return "key is empty"
	case len(key) > maxKey:
		return fmt.Sprintf("key of %d bytes is longer than %d", len(key), maxKey)
	case !utf8.ValidString(key) || strings.IndexByte(key, 0) >= 0:
		return "key is not UTF-8 text"
	}
	return ""
}

// checkValue says what is wrong with the value of one of the keys that the
// format itself gives a meaning, or "".
func checkValue(key string, v any) string {
	switch key {
	case keyAlignment:
		a, ok := v.(uint32)
		if !ok {
			return "is " + describe(v) + ", want uint32"
		}
		return checkAlignment(int64(a))
	case keyArchitecture:
		if s, ok := v.(string); !ok {
			return "is " + describe(v) + ", want string"
		} else if s == "" {
			return "is empty"
		}
	case KeySplitNo, KeySplitCount:
		if _, ok := v.(uint16); !ok {
			return "is " + describe(v) + ", want uint16"
		}
	case KeySplitTensors:
		if n, ok := v.(int32); !ok {
			return "is " + describe(v) + ", want int32"
		} else if n < 0 {
			return fmt.Sprintf("is negative: %d", n)
		}
	}
	return ""
}

func checkAlignment(a int64) string {
	if a <= 0 || a&(a-1) != 0 {
		return fmt.Sprintf("alignment %d is not a power of two", a)
	}
	if a > maxAlignment {
		return fmt.Sprintf("alignment %d is more than %d", a, maxAlignment)
	}
	return ""
}

// checkName says what is wrong with the name of a tensor, or "".
func checkName(name string) string {
	switch {
	case name == "":
		return "name is empty"
	case len(name) > MaxName:
		return fmt.Sprintf("name of %d bytes is longer than the %d that ggml allows", len(name), MaxName)
	case !utf8.ValidString(name) || strings.IndexByte(name, 0) >= 0:
		return "name is not UTF-8 text"
	}
	return ""
}

// Elements returns the number of weights of the tensor. It fails where the
// shape has no dimension or more than MaxDims, one that is not positive, or
// a product that overflows.
func (t TensorInfo) Elements() (int64, error) {
	if len(t.Shape) == 0 || len(t.Shape) > MaxDims {
		return 0, fmt.Errorf("%d dimensions, want 1 to %d", len(t.Shape), MaxDims)
	}
	n := int64(1)
	for _, d := range t.Shape {
		if d <= 0 {
			return 0, fmt.Errorf("shape %d has a dimension that is not positive", t.Shape)
		}
		if n > math.MaxInt64/d {
			return 0, fmt.Errorf("shape %d overflows", t.Shape)
		}
		n *= d
	}
	return n, nil
}

// Size returns the size of the tensor's data in bytes, without padding. It
// fails where Elements fails, the type is unknown, a row is not a multiple of
// the type's block, or the size overflows.
func (t TensorInfo) Size() (int64, error) {
	n, err := t.Elements()
	if err != nil {
		return 0, err
	}
	row, err := t.Type.RowBytes(t.Shape[0])
	if err != nil {
		return 0, err
	}
	rows := n / t.Shape[0]
	if rows > math.MaxInt64/row {
		return 0, fmt.Errorf("shape %d of type %s overflows in bytes", t.Shape, t.Type)
	}
	return rows * row, nil
}

// pad rounds n up to a multiple of the alignment, a power of two.
func pad(n, alignment int64) (int64, error) {
	if n > math.MaxInt64-(alignment-1) {
		return 0, fmt.Errorf("%d bytes overflow when padded to %d", n, alignment)
	}
	return (n + alignment - 1) &^ (alignment - 1), nil
}

// checkLayout checks that every tensor starts where the one before it ends,
// padded, and that all of them end within a data section of size bytes. It
// returns the index of the tensor that the error is about.
func checkLayout(tensors []TensorInfo, alignment, size int64) (int, error) {
	next := int64(0)
	for i, t := range tensors {
		n, err := t.Size()
		if err != nil {
			return i, err
		}
		switch {
		case t.Offset%alignment != 0:
			return i, fmt.Errorf("offset %d is not a multiple of the alignment %d", t.Offset, alignment)
		case t.Offset < next:
			return i, fmt.Errorf("offset %d overlaps the tensor before it, which ends at %d", t.Offset, next)
		case t.Offset > next:
			return i, fmt.Errorf("offset %d leaves a gap after the tensor before it, which ends at %d", t.Offset, next)
		case n > math.MaxInt64-t.Offset:
			return i, fmt.Errorf("%d bytes at offset %d overflow", n, t.Offset)
		}
		if t.Offset+n > size {
			return i, fmt.Errorf("data of %d bytes at offset %d is cut off: the data section has %d bytes", n, t.Offset, size)
		}
		if next, err = pad(t.Offset+n, alignment); err != nil {
			return i, err
		}
	}
	return 0, nil
}
