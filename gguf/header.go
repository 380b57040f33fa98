// Package gguf reads and writes the GGUF file format: versions 2 and 3,
// little-endian, every metadata and tensor type, split files.
//
// A file is a header (magic, version, counts, metadata, tensor infos, padding
// to the alignment) and the data section, in which the tensors lie one after
// the other in the order of their infos, each padded to the alignment:
//
//	h, err := gguf.ReadHeader(f, size) // one part, from any io.ReaderAt
//	f, err := gguf.Open("m-00001-of-00003.gguf") // all parts as one file
//
// Reading is strict. Whatever ggml's own reader (ggml/src/gguf.cpp) refuses
// is refused, and also what it would accept and then misuse: tensors of no
// elements, data past the end of the file, keys with NUL bytes. A file is
// hostile until it is checked: no input makes the reader panic, and what it
// allocates is bounded by the bytes that it has seen.
//
// Writing starts from the same Header: Layout fixes the offset of every
// tensor and the size of the file before a weight is known, AppendBinary
// gives the bytes up to the data section.
package gguf

// Version is the version of the format that is written unless a Header says
// otherwise.
const Version = 3

// KV is one metadata entry. Value holds the Go type that the ValueType
// constants name; arrays are typed slices ([]string, []float32, []int32, ...)
// and Nested.
type KV struct {
	Key   string
	Value any
}

// Metadata is the ordered list of a file's KVs. Keys are unique.
type Metadata []KV

// Get returns the value of key.
func (m Metadata) Get(key string) (any, bool) {
	for _, kv := range m {
		if kv.Key == key {
			return kv.Value, true
		}
	}
	return nil, false
}

// Set gives key the value v: in place where the key is there, at the end
// where it is not.
func (m *Metadata) Set(key string, v any) {
	for i := range *m {
		if (*m)[i].Key == key {
			(*m)[i].Value = v
			return
		}
	}
	*m = append(*m, KV{key, v})
}

// TensorInfo describes one tensor. Shape is in ggml's ne order: Shape[0] is
// the length of a row. Offset is in bytes from the start of the data section.
type TensorInfo struct {
	Name   string
	Type   Type
	Shape  []int64
	Offset int64
}

// Header is everything of a GGUF file that comes before the tensor data.
type Header struct {
	Version   uint32 // 2 or 3; 0 is written as Version
	Metadata  Metadata
	Tensors   []TensorInfo
	Alignment int64 // bytes; general.alignment, 32 where the file does not say; 0 is taken from Metadata
}
