package gguf

import (
	"errors"
	"fmt"
)

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
	Array   ValueType = 9  // a slice of one of the other types, or Nested
	Uint64  ValueType = 10 // uint64
	Int64   ValueType = 11 // int64
	Float64 ValueType = 12 // float64
)

// valueTypes gives the name and the size in bytes of each value type; the
// size is 0 where it varies.
var valueTypes = [...]struct {
	name string
	size int64
}{
	Uint8: {"uint8", 1}, Int8: {"int8", 1}, Uint16: {"uint16", 2}, Int16: {"int16", 2},
	Uint32: {"uint32", 4}, Int32: {"int32", 4}, Float32: {"float32", 4}, Bool: {"bool", 1},
	String: {"string", 0}, Array: {"array", 0},
	Uint64: {"uint64", 8}, Int64: {"int64", 8}, Float64: {"float64", 8},
}

// String returns the name of the type, as in "uint32".
func (t ValueType) String() string {
	if int64(t) >= int64(len(valueTypes)) {
		return fmt.Sprintf("value type %d", uint32(t))
	}
	return valueTypes[t].name
}

// Nested is an array whose elements are arrays themselves. Each element is a
// typed slice or another Nested; GGUF lets them differ in type and length.
type Nested []any

// TypeOf returns the type of a metadata value. For an array elem is the type
// of its elements and count their number; for another value elem is its own
// type and count is 1. ok is false for a Go type that GGUF cannot hold.
func TypeOf(v any) (t, elem ValueType, count int, ok bool) {
	scalar := func(t ValueType) (ValueType, ValueType, int, bool) { return t, t, 1, true }
	array := func(t ValueType, n int) (ValueType, ValueType, int, bool) { return Array, t, n, true }
	switch v := v.(type) {
	case uint8:
		return scalar(Uint8)
	case int8:
		return scalar(Int8)
	case uint16:
		return scalar(Uint16)
	case int16:
		return scalar(Int16)
	case uint32:
		return scalar(Uint32)
	case int32:
		return scalar(Int32)
	case float32:
		return scalar(Float32)
	case bool:
		return scalar(Bool)
	case string:
		return scalar(String)
	case uint64:
		return scalar(Uint64)
	case int64:
		return scalar(Int64)
	case float64:
		return scalar(Float64)
	case []uint8:
		return array(Uint8, len(v))
	case []int8:
		return array(Int8, len(v))
	case []uint16:
		return array(Uint16, len(v))
	case []int16:
		return array(Int16, len(v))
	case []uint32:
		return array(Uint32, len(v))
	case []int32:
		return array(Int32, len(v))
	case []float32:
		return array(Float32, len(v))
	case []bool:
		return array(Bool, len(v))
	case []string:
		return array(String, len(v))
	case []uint64:
		return array(Uint64, len(v))
	case []int64:
		return array(Int64, len(v))
	case []float64:
		return array(Float64, len(v))
	case Nested:
		return array(Array, len(v))
	}
	return 0, 0, 0, false
}

// describe names the type of a metadata value for errors: "array of 3 string".
func describe(v any) string {
	t, elem, n, ok := TypeOf(v)
	switch {
	case !ok:
		return fmt.Sprintf("Go type %T, which GGUF cannot hold", v)
	case t == Array:
		return fmt.Sprintf("array of %d %s", n, elem)
	}
	return t.String()
}

// ErrNoKey says that the metadata does not have the key that was asked for.
var ErrNoKey = errors.New("key is missing")

// Value returns the value of key where its type is exactly T, as in
// Value[[]string](m, "tokenizer.ggml.tokens"). The error names the key; it is
// ErrNoKey where there is none, and otherwise names the type found.
func Value[T any](m Metadata, key string) (T, error) {
	var want T
	v, ok := m.Get(key)
	if !ok {
		return want, fmt.Errorf("metadata %q: %w", key, ErrNoKey)
	}
	got, ok := v.(T)
	if !ok {
		t, elem, _, known := TypeOf(any(want))
		name := t.String()
		if t == Array {
			name = "array of " + elem.String()
		}
		if !known {
			name = fmt.Sprintf("%T", want)
		}
		return want, fmt.Errorf("metadata %q is %s, want %s", key, describe(v), name)
	}
	return got, nil
}

// Uint32 returns the uint32 of key; errors as Value's.
func (m Metadata) Uint32(key string) (uint32, error) { return Value[uint32](m, key) }

// Float32 returns the float32 of key; errors as Value's.
func (m Metadata) Float32(key string) (float32, error) { return Value[float32](m, key) }

// Bool returns the bool of key; errors as Value's.
func (m Metadata) Bool(key string) (bool, error) { return Value[bool](m, key) }

// String returns the string of key; errors as Value's.
func (m Metadata) String(key string) (string, error) { return Value[string](m, key) }

// Strings returns the array of strings of key; errors as Value's.
func (m Metadata) Strings(key string) ([]string, error) { return Value[[]string](m, key) }

// Float32s returns the array of float32 of key; errors as Value's.
func (m Metadata) Float32s(key string) ([]float32, error) { return Value[[]float32](m, key) }

// Int32s returns the array of int32 of key; errors as Value's.
func (m Metadata) Int32s(key string) ([]int32, error) { return Value[[]int32](m, key) }

// Int returns the integer of key, of whatever integer type that an int64 can
// hold; errors as Value's.
func (m Metadata) Int(key string) (int64, error) {
	v, ok := m.Get(key)
	if !ok {
		return 0, fmt.Errorf("metadata %q: %w", key, ErrNoKey)
	}
	switch v := v.(type) {
	case uint8:
		return int64(v), nil
	case int8:
		return int64(v), nil
	case uint16:
		return int64(v), nil
	case int16:
		return int64(v), nil
	case uint32:
		return int64(v), nil
	case int32:
		return int64(v), nil
	case int64:
		return v, nil
	case uint64:
		if v > 1<<63-1 {
			return 0, fmt.Errorf("metadata %q is %d, more than an int64 holds", key, v)
		}
		return int64(v), nil
	}
	return 0, fmt.Errorf("metadata %q is %s, want an integer", key, describe(v))
}
