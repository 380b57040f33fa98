package catalog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// The tag "schema" of a field is a list of constraints, separated by
// semicolons:
//
//	pattern=NAME      a string of one of the forms below
//	format=NAME       date-time, uri
//	enum=a|b          one of these strings
//	const=TEXT        this string
//	min=N, max=N      bounds of a number
//	minItems=N        of a list
//	maxLength=N       of a string, in characters; 4096 where nothing is said
//	items.X, values.X constraint X on the elements of a list or the values of a map
//
// schemaOf turns types with these tags into a JSON Schema, check holds values
// to them, so that both say the same.

// patterns are the forms of strings. They are written so that ECMA 262 and RE2
// agree on them.
var patterns = map[string]string{
	"slug":     `^[a-z0-9]+([._-][a-z0-9]+)*$`,
	"name":     `^[A-Za-z0-9][A-Za-z0-9._+-]*$`,
	"path":     `^[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*$`,
	"digest":   `^sha256:[0-9a-f]{64}$`,
	"decimal":  `^(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?$`,
	"currency": `^[A-Z]{3}$`,
	"commit":   `^([0-9a-f]{40}|[0-9a-f]{64})$`,
	"language": `^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$`,
	"env":      `^[A-Za-z_][A-Za-z0-9_]*$`,
	"size":     `^[0-9]{1,12}(\.[0-9]{1,6})?([KMGT]i?)?B?$`,
	"uri":      `^[a-z][a-z0-9+.-]*://[^\s<>"]+$`,
}

// matches reports whether s has the form. The forms that documents are full of
// are matched by hand, which is several times as fast; TestMatches holds both
// ways equal.
func matches(form, s string) bool {
	switch form {
	case "digest":
		hex, ok := strings.CutPrefix(s, "sha256:")
		return ok && len(hex) == 64 && !strings.ContainsFunc(hex, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
	case "slug":
		letter := false // the last one was a letter or a digit
		for i := range len(s) {
			switch c := s[i]; {
			case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
				letter = true
			case (c == '.' || c == '_' || c == '-') && letter:
				letter = false
			default:
				return false
			}
		}
		return letter
	case "name":
		return s != "" && alphanumeric(s[0]) && !strings.ContainsFunc(s, notOfName)
	case "path":
		for part := range strings.SplitSeq(s, "/") {
			if part == "" || !alphanumeric(part[0]) && part[0] != '_' || strings.ContainsFunc(part, notOfName) {
				return false
			}
		}
		return true
	}
	return compiled()[form].MatchString(s)
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func notOfName(r rune) bool {
	return r >= utf8.RuneSelf || !alphanumeric(byte(r)) && !strings.ContainsRune("._+-", r)
}

// patternHelp says the forms in words, for errors.
var patternHelp = map[string]string{
	"slug":     "want lower-case letters, digits and single . _ - between them",
	"name":     "want letters, digits and . _ + -",
	"path":     "want a relative path of letters, digits and . _ + - whose parts begin with a letter, a digit or _",
	"digest":   `want "sha256:" and 64 hexadecimal digits`,
	"decimal":  "want a decimal number that is not negative, as in 0.049",
	"currency": "want an ISO 4217 code, as in USD",
	"commit":   "want a whole commit id, 40 or 64 hexadecimal digits",
	"language": "want a BCP 47 tag, as in en or pt-BR",
	"env":      "want the name of an environment variable",
	"size":     "want a number of bytes, as in 500MB or 5GB",
	"uri":      "want an address with a scheme, without spaces",
}

// patternLength bounds strings of a form, in bytes.
var patternLength = map[string]int64{"slug": 128, "name": 128, "path": 1024, "language": 35, "env": 128, "uri": 2000}

const defaultLength = 4096

var compiled = sync.OnceValue(func() map[string]*regexp.Regexp {
	out := map[string]*regexp.Regexp{}
	for name, p := range patterns {
		out[name] = regexp.MustCompile(p)
	}
	return out
})

// constraint is the parsed tag of a field.
type constraint struct {
	pattern   string // name
	format    string
	enum      []string
	constant  string
	min, max  *float64
	minItems  int64
	maxLength int64
	items     *constraint // of elements or values
}

func parseConstraint(tag string) constraint {
	var c constraint
	for part := range strings.SplitSeq(tag, ";") {
		key, value, ok := strings.Cut(part, "=")
		if !ok {
			continue
		}
		if rest, ok := cutPrefixes(key, "items.", "values."); ok {
			if c.items == nil {
				c.items = &constraint{}
			}
			c.items.set(rest, value)
			continue
		}
		c.set(key, value)
	}
	return c
}

func cutPrefixes(s string, prefixes ...string) (string, bool) {
	for _, p := range prefixes {
		if rest, ok := strings.CutPrefix(s, p); ok {
			return rest, true
		}
	}
	return s, false
}

func (c *constraint) set(key, value string) {
	number := func() float64 {
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			panic("catalog: schema tag: " + key + "=" + value)
		}
		return n
	}
	switch key {
	case "pattern":
		c.pattern = value
	case "format":
		c.format = value
		if value == "uri" {
			c.pattern = "uri"
		}
	case "enum":
		c.enum = strings.Split(value, "|")
	case "const":
		c.constant = value
	case "min":
		n := number()
		c.min = &n
	case "max":
		n := number()
		c.max = &n
	case "minItems":
		c.minItems = int64(number())
	case "maxLength":
		c.maxLength = int64(number())
	default:
		panic("catalog: schema tag: " + key)
	}
}

// length is the most characters of a string with the constraint.
func (c *constraint) length() int64 {
	switch {
	case c.maxLength > 0:
		return c.maxLength
	case patternLength[c.pattern] > 0:
		return patternLength[c.pattern]
	}
	return defaultLength
}

// field is a field of a struct as documents have it.
type field struct {
	index    int
	name     string // key
	required bool
	doc      string
	constraint
}

var (
	timeType = reflect.TypeFor[time.Time]()
	rawType  = reflect.TypeFor[json.RawMessage]()
)

type fieldsKey struct {
	t   reflect.Type
	tag string
}

var fieldsCache sync.Map // fieldsKey -> []field

// fieldsOf returns the fields of a struct by the names in the tag "json" or
// "toml".
func fieldsOf(t reflect.Type, tag string) []field {
	key := fieldsKey{t, tag}
	if f, ok := fieldsCache.Load(key); ok {
		return f.([]field)
	}
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get(tag), ",")
		if name == "" || name == "-" {
			continue
		}
		out = append(out, field{
			index:      i,
			name:       name,
			required:   !strings.Contains(options, "omit"),
			doc:        f.Tag.Get("doc"),
			constraint: parseConstraint(f.Tag.Get("schema")),
		})
	}
	fieldsCache.Store(key, out)
	return out
}

// Schema returns the JSON Schema (draft 2020-12) of a Catalog.
func Schema() []byte { return Schemas["catalog"]() }

// Schemas are the JSON Schemas (draft 2020-12) of the documents in a store, by
// name, and of the curation file.
var Schemas = map[string]func() []byte{
	"catalog": func() []byte {
		return schemaDocument(reflect.TypeFor[Catalog](), "json", SchemaID, "Catalog of models")
	},
	"curation": func() []byte {
		return schemaDocument(reflect.TypeFor[Curation](), "toml", CurationSchemaID, "Curation file of a catalog")
	},
	"index": func() []byte {
		return schemaDocument(reflect.TypeFor[Index](), "json", IndexSchemaID, "Index of a catalog")
	},
	"log": func() []byte {
		return schemaDocument(reflect.TypeFor[LogEntry](), "json", LogSchemaID, "Entry of a store's log")
	},
	"pieces": func() []byte {
		return schemaDocument(reflect.TypeFor[Pieces](), "json", PiecesSchemaID, "Pieces of the files of a variant")
	},
	"record": func() []byte {
		return schemaDocument(reflect.TypeFor[Record](), "json", RecordSchemaID, "Record of a published variant")
	},
	"releases": func() []byte {
		return schemaDocument(reflect.TypeFor[Ledger](), "json", LedgerSchemaID, "Releases of a model")
	},
}

// schemaDocument writes the schema of t, with the structs that it refers to
// under $defs. Fields have the names of the tag.
func schemaDocument(t reflect.Type, tag, id, title string) []byte {
	w := schemaWriter{tag: tag, defs: map[string]object{}}
	doc := append(object{
		{"$schema", "https://json-schema.org/draft/2020-12/schema"},
		{"$id", id},
		{"title", title},
	}, w.structure(t)...)
	var defs object
	for _, name := range slices.Sorted(maps.Keys(w.defs)) {
		defs = append(defs, member{name, w.defs[name]})
	}
	doc = append(doc, member{"$defs", defs})
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(doc); err != nil {
		panic("catalog: schema: " + err.Error()) // only strings and numbers are in it
	}
	return b.Bytes()
}

// object is a JSON object whose members keep their order.
type object []member

type member struct {
	key   string
	value any
}

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := e.Encode(m.key); err != nil {
			return nil, err
		}
		b.WriteByte(':')
		if err := e.Encode(m.value); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

type schemaWriter struct {
	tag  string
	defs map[string]object // by the name of the Go type
}

func (w *schemaWriter) structure(t reflect.Type) object {
	properties := object{}
	required := []string{}
	for _, f := range fieldsOf(t, w.tag) {
		s := w.schema(t.Field(f.index).Type, &f.constraint)
		if f.doc != "" {
			s = append(s, member{"description", f.doc})
		}
		properties = append(properties, member{f.name, s})
		if f.required {
			required = append(required, f.name)
		}
	}
	return object{
		{"type", "object"},
		{"additionalProperties", false},
		{"required", required},
		{"properties", properties},
	}
}

// schema is the schema of a value of type t with the constraint c.
func (w *schemaWriter) schema(t reflect.Type, c *constraint) object {
	items := c.items
	if items == nil {
		items = &constraint{}
	}
	switch {
	case t == timeType:
		return object{{"type", "string"}, {"format", "date-time"}}
	case t == rawType || t.Kind() == reflect.Interface:
		return object{}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return w.schema(t.Elem(), c)
	case reflect.Struct:
		if _, ok := w.defs[t.Name()]; !ok {
			w.defs[t.Name()] = nil // a type that has itself as a field ends here
			w.defs[t.Name()] = w.structure(t)
		}
		return object{{"$ref", "#/$defs/" + t.Name()}}
	case reflect.Slice:
		s := object{{"type", "array"}, {"items", w.schema(t.Elem(), items)}}
		if c.minItems > 0 {
			s = append(s, member{"minItems", c.minItems})
		}
		return s
	case reflect.Map:
		return object{{"type", "object"}, {"additionalProperties", w.schema(t.Elem(), items)}}
	case reflect.Bool:
		return object{{"type", "boolean"}}
	case reflect.String:
		switch {
		case c.constant != "":
			return object{{"const", c.constant}}
		case c.enum != nil:
			return object{{"type", "string"}, {"enum", c.enum}}
		}
		s := object{{"type", "string"}, {"maxLength", c.length()}}
		if c.pattern != "" {
			s = append(s, member{"pattern", patterns[c.pattern]})
		}
		if c.format != "" {
			s = append(s, member{"format", c.format})
		}
		return s
	}
	s := object{{"type", "integer"}}
	if t.Kind() == reflect.Float64 {
		s = object{{"type", "number"}}
	}
	if c.min != nil {
		s = append(s, member{"minimum", *c.min})
	}
	if c.max != nil {
		s = append(s, member{"maximum", *c.max})
	}
	return s
}

// check holds a document, as the types with the tag describe it, to the
// constraints of its fields. Errors name the first field that breaks one.
func check(v any, tag string) error { return checkValue(reflect.ValueOf(v), &constraint{}, tag, "") }

func checkValue(v reflect.Value, c *constraint, tag, at string) error {
	fail := func(format string, args ...any) error {
		if at == "" {
			return fmt.Errorf(format, args...)
		}
		return fmt.Errorf("%s: %s", at, fmt.Sprintf(format, args...))
	}
	t := v.Type()
	if t == timeType || t == rawType {
		return nil
	}
	items := c.items
	if items == nil {
		items = &constraint{}
	}
	switch t.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return checkValue(v.Elem(), c, tag, at)
		}
	case reflect.Struct:
		for _, f := range fieldsOf(t, tag) {
			value := v.Field(f.index)
			if !f.required && value.IsZero() {
				continue
			}
			name := f.name
			if at != "" {
				name = at + "." + name
			}
			if f.required && t.Field(f.index).Type == timeType && value.IsZero() {
				return fmt.Errorf("%s: is missing", name)
			}
			if err := checkValue(value, &f.constraint, tag, name); err != nil {
				return err
			}
		}
	case reflect.Slice:
		if int64(v.Len()) < c.minItems {
			return fail("has %d elements, want at least %d", v.Len(), c.minItems)
		}
		for i := range v.Len() {
			if err := checkValue(v.Index(i), items, tag, at+"["+strconv.Itoa(i)+"]"); err != nil {
				return err
			}
		}
	case reflect.Map:
		for _, k := range slices.SortedFunc(maps.Keys(mapOf(v)), strings.Compare) {
			if err := checkValue(v.MapIndex(reflect.ValueOf(k).Convert(t.Key())), items, tag, at+"."+quoted(k)); err != nil {
				return err
			}
		}
	case reflect.String:
		s := v.String()
		switch {
		case c.constant != "" && s != c.constant:
			return fail("%s: want %s", quoted(s), c.constant)
		case c.enum != nil && !slices.Contains(c.enum, s):
			if s == "" {
				return fail("is missing, want %s", strings.Join(c.enum, ", "))
			}
			return fail("%s: want %s", quoted(s), strings.Join(c.enum, ", "))
		case c.constant != "" || c.enum != nil:
			return nil
		case !utf8.ValidString(s):
			return fail("%s: is not UTF-8", quoted(s))
		case int64(len(s)) > c.length() && int64(utf8.RuneCountInString(s)) > c.length():
			return fail("%s: has %d characters, want at most %d", quoted(s), utf8.RuneCountInString(s), c.length())
		case c.pattern != "" && !matches(c.pattern, s):
			if s == "" {
				return fail("is missing: %s", patternHelp[c.pattern])
			}
			return fail("%s: %s", quoted(s), patternHelp[c.pattern])
		}
	case reflect.Int64:
		return checkNumber(float64(v.Int()), c, fail)
	case reflect.Float64:
		if math.IsNaN(v.Float()) || math.IsInf(v.Float(), 0) {
			return fail("%v: want a finite number", v.Float())
		}
		return checkNumber(v.Float(), c, fail)
	}
	return nil
}

func checkNumber(n float64, c *constraint, fail func(string, ...any) error) error {
	switch {
	case c.min != nil && n < *c.min:
		return fail("%s: want at least %s", shortest(n), shortest(*c.min))
	case c.max != nil && n > *c.max:
		return fail("%s: want at most %s", shortest(n), shortest(*c.max))
	}
	return nil
}

func shortest(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

// mapOf returns the keys of a map with string keys.
func mapOf(v reflect.Value) map[string]struct{} {
	out := make(map[string]struct{}, v.Len())
	for _, k := range v.MapKeys() {
		out[k.String()] = struct{}{}
	}
	return out
}

// quoted shows a string of any length and content on one line.
func quoted(s string) string {
	const most = 80
	if len(s) > most {
		n := most
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		return strconv.QuoteToASCII(s[:n]) + "..."
	}
	return strconv.QuoteToASCII(s)
}
