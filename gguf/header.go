package gguf

// ValueType is the type id of a metadata value.
type ValueType uint32

// The metadata value types of the GGUF specification, with the Go type that
// carries each in a KV's Value.
const (
	Uint8   ValueType = 0  // uint8
	Int8    ValueType = 1  // int8
	Uint16  ValueType = 2  // uint16
	Int16   ValueType = 3  // int16
	Uint32  ValueType = 4  // uint32
	Int32   ValueType = 5  // int32
	Float32 ValueType = 6  // float32
	Bool    ValueType = 7  // bool
	String  ValueType = 8  // string
	Array   ValueType = 9  // a slice of one of these types, or []Nested
	Uint64  ValueType = 10 // uint64
	Int64   ValueType = 11 // int64
	Float64 ValueType = 12 // float64
)

// KV is one metadata entry. Value holds the Go type that the ValueType
// constants name; arrays are typed slices ([]string, []float32, []int32, ...).
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
	Version   uint32
	Metadata  Metadata
	Tensors   []TensorInfo
	Alignment int64 // bytes; general.alignment, 32 where the file does not say
}
