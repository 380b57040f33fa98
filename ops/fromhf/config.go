package fromhf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// The largest values that are taken from a config.
const (
	maxDim    = 1 << 26
	maxLayers = 1 << 12
)

// config is a config.json. Its first error sticks; after it, ints are 1, so
// that dimensions can be computed with, and everything else is zero.
//
// A field that is null is missing, as transformers writes null for what is not
// set.
type config struct {
	name   string // of the file and, in it, of the object
	fields map[string]any
	err    error
}

// nested are the names under which multimodal models keep the config of their
// language model.
var nested = []string{"text_config", "llm_config", "language_config"}

// parseConfig reads a config. The fields of a nested language model's config
// lie on top of the outer ones; the class stays the outer one.
func parseConfig(name string, data []byte) (*config, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var fields map[string]any
	if err := dec.Decode(&fields); err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("parse %s: more than one value", name)
	}
	for _, n := range nested {
		inner, ok := fields[n].(map[string]any)
		if !ok {
			continue
		}
		outer := fields["architectures"]
		maps.Copy(fields, inner)
		if outer != nil {
			fields["architectures"] = outer
		}
		break
	}
	return &config{name: name, fields: fields}, nil
}

// family returns the class of the model and the family that reads it.
func (c *config) family() (string, *family, error) {
	classes := c.texts("architectures")
	if c.err != nil {
		return "", nil, c.err
	}
	for _, class := range classes {
		if f := families[class]; f != nil {
			return class, f, nil
		}
	}
	return "", nil, fmt.Errorf("%s: no reader for the model class %s; there are readers for %s",
		c.name, strings.Join(classes, ", "), strings.Join(Classes(), ", "))
}

func (c *config) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

func (c *config) has(field string) bool { return c.fields[field] != nil }

// either returns the first of the names that the config has, or the first.
func (c *config) either(names ...string) string {
	for _, n := range names {
		if c.has(n) {
			return n
		}
	}
	return names[0]
}

// object returns a field's object; nil where it is missing.
func (c *config) object(field string) *config {
	if !c.has(field) {
		return nil
	}
	fields, ok := c.fields[field].(map[string]any)
	if !ok {
		c.fail("%s: %s is no object", c.name, field)
		return nil
	}
	return &config{name: c.name + ": " + field, fields: fields}
}

// number returns a field's value, or the default where it is missing.
func (c *config) number(field string, def ...float64) float64 {
	v, ok := c.fields[field]
	if !ok || v == nil {
		if len(def) == 0 {
			c.fail("%s: no %s", c.name, field)
			return 0
		}
		return def[0]
	}
	n, ok := v.(json.Number)
	if !ok {
		c.fail("%s: %s is %.40q: want a number", c.name, field, fmt.Sprint(v))
		return 0
	}
	x, err := n.Float64()
	if err != nil || math.IsInf(x, 0) {
		c.fail("%s: %s is %.40s: want a number", c.name, field, n)
		return 0
	}
	return x
}

// count returns a field's value, which is 0 or a dimension.
func (c *config) count(field string, def ...int) int {
	var d []float64
	for _, v := range def {
		d = append(d, float64(v))
	}
	x := c.number(field, d...)
	if !(x >= 0 && x <= maxDim) || x != math.Trunc(x) {
		c.fail("%s: %s is %v: want an integer of at most %d", c.name, field, x, maxDim)
		return 0
	}
	return int(x)
}

// dim is count without 0.
func (c *config) dim(field string, def ...int) int {
	n := c.count(field, def...)
	if n == 0 {
		c.fail("%s: %s is 0", c.name, field)
		return 1
	}
	return n
}

// positive is number above 0.
func (c *config) positive(field string, def ...float64) float64 {
	x := c.number(field, def...)
	if !(x > 0) {
		c.fail("%s: %s is %v: want more than 0", c.name, field, x)
		return 1
	}
	return x
}

// eps is a norm's epsilon.
func (c *config) eps(field string, def ...float64) float64 {
	x := c.number(field, def...)
	if !(x >= 0 && x < 1) {
		c.fail("%s: %s is %v: want 0 or more, and less than 1", c.name, field, x)
		return 0
	}
	return x
}

func (c *config) flag(field string, def ...bool) bool {
	v, ok := c.fields[field]
	if !ok || v == nil {
		if len(def) == 0 {
			c.fail("%s: no %s", c.name, field)
			return false
		}
		return def[0]
	}
	b, ok := v.(bool)
	if !ok {
		c.fail("%s: %s is %.40q: want true or false", c.name, field, fmt.Sprint(v))
	}
	return b
}

func (c *config) text(field string, def ...string) string {
	v, ok := c.fields[field]
	if !ok || v == nil {
		if len(def) == 0 {
			c.fail("%s: no %s", c.name, field)
			return ""
		}
		return def[0]
	}
	s, ok := v.(string)
	if !ok {
		c.fail("%s: %s is %.40q: want a string", c.name, field, fmt.Sprint(v))
	}
	return s
}

// list returns a field's array; it fails where the field is missing.
func (c *config) list(field string) []any {
	v, ok := c.fields[field].([]any)
	if !ok {
		if c.has(field) {
			c.fail("%s: %s is no array", c.name, field)
		} else {
			c.fail("%s: no %s", c.name, field)
		}
	}
	return v
}

func (c *config) texts(field string) []string {
	var out []string
	for i, v := range c.list(field) {
		s, ok := v.(string)
		if !ok {
			c.fail("%s: %s[%d] is no string", c.name, field, i)
			return nil
		}
		out = append(out, s)
	}
	return out
}

func (c *config) numbers(field string) []float64 {
	var out []float64
	for i, v := range c.list(field) {
		n, ok := v.(json.Number)
		x, err := n.Float64()
		if !ok || err != nil {
			c.fail("%s: %s[%d] is no number", c.name, field, i)
			return nil
		}
		out = append(out, x)
	}
	return out
}

// perLayer returns an array of one text per layer.
func (c *config) perLayer(field string, layers int) []string {
	l := c.texts(field)
	if c.err == nil && len(l) != layers {
		c.fail("%s: %s has %d entries for %d layers", c.name, field, len(l), layers)
	}
	if c.err != nil {
		return make([]string, layers)
	}
	return l
}

// only fails where a field has another value than the one that is supported.
// A field that is missing has it.
func (c *config) only(field string, want ...any) {
	v := c.fields[field]
	if n, ok := v.(json.Number); ok {
		v, _ = n.Float64()
	}
	if v != nil && !slices.Contains(want, v) {
		c.fail("%s: %s is %.40q, which has no reader", c.name, field, fmt.Sprint(v))
	}
}

// setDefault gives a field that is missing a value.
func (c *config) setDefault(field string, v int) {
	if !c.has(field) {
		c.fields[field] = json.Number(strconv.Itoa(v))
	}
}
