package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"
)

// Config is a checkpoint's config.json. Where the model is one part of a
// multimodal checkpoint, the fields of its text_config lie on top of the outer
// ones, so that a field has the same name everywhere.
//
// A field that is null counts as missing: transformers writes null for "not
// set".
type Config struct {
	fields map[string]any // numbers are json.Number
}

// nestedText lists the names under which multimodal checkpoints keep the
// config of their language model.
var nestedText = []string{"text_config", "llm_config", "language_config", "lm_config"}

// ParseConfig reads a config.json.
func ParseConfig(data []byte) (*Config, error) {
	fields, err := parseFields("config.json", data)
	if err != nil {
		return nil, err
	}
	for _, name := range nestedText {
		inner, ok := fields[name].(map[string]any)
		if !ok {
			continue
		}
		flat := make(map[string]any, len(fields)+len(inner))
		for k, v := range fields {
			flat[k] = v
		}
		for k, v := range inner {
			// The outer class name says which checkpoint this is.
			if k != "architectures" || v != nil && flat[k] == nil {
				flat[k] = v
			}
		}
		fields = flat
		break
	}
	return &Config{fields: fields}, nil
}

// parseFields reads a JSON object; numbers stay as they are written.
func parseFields(name string, data []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var fields map[string]any
	if err := dec.Decode(&fields); err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, explainJSON(err, data))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("parse %s: more than one JSON value", name)
	}
	if fields == nil {
		return nil, fmt.Errorf("parse %s: want an object", name)
	}
	return fields, nil
}

// readFields is parseFields of a file of the source; nil where it is not there.
func readFields(source fs.FS, name string) (map[string]any, error) {
	data, err := readFile(source, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseFields(name, data)
}

// explainJSON adds what Python writes and JSON does not know: NaN and Infinity.
func explainJSON(err error, data []byte) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at := syntax.Offset
		for _, word := range []string{"NaN", "Infinity", "-Infinity"} {
			for back := int64(0); back <= 2; back++ {
				if at-back >= 0 && at-back <= int64(len(data)) && bytes.HasPrefix(data[at-back:], []byte(word)) {
					return fmt.Errorf("offset %d: %s is not a number", at-back, word)
				}
			}
		}
		return fmt.Errorf("offset %d: %w", at, err)
	}
	return err
}

// Classes returns the model classes that the checkpoint was saved from.
func (c *Config) Classes() ([]string, error) {
	list, ok := c.fields["architectures"].([]any)
	if !ok || len(list) == 0 {
		return nil, errors.New("config.json: no architectures: cannot tell what model this is")
	}
	var names []string
	for _, v := range list {
		name, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("config.json: architectures: want strings, got %v", v)
		}
		names = append(names, name)
	}
	return names, nil
}

// Raw returns the first of the named fields that is set, and its name.
func (c *Config) Raw(names ...string) (any, string, bool) {
	for _, name := range names {
		if v := c.fields[name]; v != nil {
			return v, name, true
		}
	}
	return nil, "", false
}

// Has reports whether one of the named fields is set.
func (c *Config) Has(names ...string) bool {
	_, _, ok := c.Raw(names...)
	return ok
}

// Bool returns the first of the named fields that is set, false where none is.
func (c *Config) Bool(names ...string) (bool, error) {
	v, name, ok := c.Raw(names...)
	if !ok {
		return false, nil
	}
	b, ok := v.(bool)
	if !ok {
		return false, fmt.Errorf("config.json: %s: want true or false, got %v", name, v)
	}
	return b, nil
}

// Int returns the first of the named fields that is set.
func (c *Config) Int(names ...string) (int64, error) {
	v, name, ok := c.Raw(names...)
	if !ok {
		return 0, missing(names...)
	}
	n, err := toInt(v)
	if err != nil {
		return 0, fmt.Errorf("config.json: %s: %w", name, err)
	}
	return n, nil
}

// Float returns the first of the named fields that is set.
func (c *Config) Float(names ...string) (float64, error) {
	v, name, ok := c.Raw(names...)
	if !ok {
		return 0, missing(names...)
	}
	f, err := toFloat(v)
	if err != nil {
		return 0, fmt.Errorf("config.json: %s: %w", name, err)
	}
	return f, nil
}

// Text returns the first of the named fields that is set.
func (c *Config) Text(names ...string) (string, error) {
	v, name, ok := c.Raw(names...)
	if !ok {
		return "", missing(names...)
	}
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("config.json: %s: want a string, got %v", name, v)
	}
	return s, nil
}

// Texts returns a list of strings; it is nil where the field is not set.
func (c *Config) Texts(name string) ([]string, error) {
	v, _, ok := c.Raw(name)
	if !ok {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("config.json: %s: want a list", name)
	}
	texts := make([]string, len(list))
	for i, e := range list {
		if texts[i], ok = e.(string); !ok {
			return nil, fmt.Errorf("config.json: %s[%d]: want a string, got %v", name, i, e)
		}
	}
	return texts, nil
}

// Ints returns a list of whole numbers; it is nil where the field is not set.
func (c *Config) Ints(name string) ([]int64, error) {
	v, _, ok := c.Raw(name)
	if !ok {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("config.json: %s: want a list", name)
	}
	ints := make([]int64, len(list))
	for i, e := range list {
		n, err := toInt(e)
		if err != nil {
			return nil, fmt.Errorf("config.json: %s[%d]: %w", name, i, err)
		}
		ints[i] = n
	}
	return ints, nil
}

// Object returns a nested object; it is nil where the field is not set.
func (c *Config) Object(name string) (map[string]any, error) {
	v, _, ok := c.Raw(name)
	if !ok {
		return nil, nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("config.json: %s: want an object", name)
	}
	return m, nil
}

// A MissingFieldError says that config.json lacks a field the model needs.
type MissingFieldError struct{ Names []string }

func (e *MissingFieldError) Error() string {
	if len(e.Names) == 1 {
		return fmt.Sprintf("config.json: %s is missing", e.Names[0])
	}
	return fmt.Sprintf("config.json: %s (or %s) is missing", e.Names[0], strings.Join(e.Names[1:], ", "))
}

func missing(names ...string) error { return &MissingFieldError{slices.Clone(names)} }

func isMissing(err error) bool {
	var m *MissingFieldError
	return errors.As(err, &m)
}

// toInt takes a whole number, also one written as 4096.0.
func toInt(v any) (int64, error) {
	number, ok := v.(json.Number)
	if !ok {
		return 0, fmt.Errorf("want a whole number, got %v", v)
	}
	if n, err := number.Int64(); err == nil {
		return n, nil
	}
	f, err := number.Float64()
	if err != nil || f != math.Trunc(f) || math.Abs(f) >= 1<<53 {
		return 0, fmt.Errorf("want a whole number, got %s", number)
	}
	return int64(f), nil
}

func toFloat(v any) (float64, error) {
	number, ok := v.(json.Number)
	if !ok {
		return 0, fmt.Errorf("want a number, got %v", v)
	}
	f, err := number.Float64()
	if err != nil {
		return 0, fmt.Errorf("want a finite number, got %s", number)
	}
	return f, nil
}
