package safetensors

import "fmt"

// DType is the type of a tensor's elements.
type DType uint8

// The types of the safetensors format, by the names that headers use.
const (
	Bool   DType = iota + 1 // BOOL, one byte
	U8                      // U8
	I8                      // I8
	U16                     // U16
	I16                     // I16
	U32                     // U32
	I32                     // I32
	U64                     // U64
	I64                     // I64
	F16                     // F16
	BF16                    // BF16
	F32                     // F32
	F64                     // F64
	C64                     // C64, two float32
	F8E4M3                  // F8_E4M3 (OCP, no infinities)
	F8E5M2                  // F8_E5M2
	F8E8M0                  // F8_E8M0, powers of two
	F6E2M3                  // F6_E2M3, packed
	F6E3M2                  // F6_E3M2, packed
	F4                      // F4 (E2M1), two to a byte
)

// dtypes gives each type's name and its bits per element.
var dtypes = [...]struct {
	name string
	bits int64
}{
	Bool: {"BOOL", 8}, U8: {"U8", 8}, I8: {"I8", 8}, U16: {"U16", 16}, I16: {"I16", 16},
	U32: {"U32", 32}, I32: {"I32", 32}, U64: {"U64", 64}, I64: {"I64", 64},
	F16: {"F16", 16}, BF16: {"BF16", 16}, F32: {"F32", 32}, F64: {"F64", 64}, C64: {"C64", 64},
	F8E4M3: {"F8_E4M3", 8}, F8E5M2: {"F8_E5M2", 8}, F8E8M0: {"F8_E8M0", 8},
	F6E2M3: {"F6_E2M3", 6}, F6E3M2: {"F6_E3M2", 6}, F4: {"F4", 4},
}

// Valid reports whether d is a type of the format.
func (d DType) Valid() bool { return d > 0 && int(d) < len(dtypes) }

// String returns the name of the type in a header, as in "F8_E4M3".
func (d DType) String() string {
	if !d.Valid() {
		return fmt.Sprintf("dtype(%d)", uint8(d))
	}
	return dtypes[d].name
}

// Bits returns the size of an element in bits: 4 to 64. It is 0 for a type
// that is not valid.
func (d DType) Bits() int64 {
	if !d.Valid() {
		return 0
	}
	return dtypes[d].bits
}

// ParseDType returns the type with the given name in a header.
func ParseDType(name string) (DType, error) {
	for d, info := range dtypes {
		if info.name == name && name != "" {
			return DType(d), nil
		}
	}
	return 0, fmt.Errorf("unknown dtype %s", clip(name))
}
