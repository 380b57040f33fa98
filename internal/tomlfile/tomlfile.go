// Package tomlfile reads TOML that people write, strictly: what it does not
// know is an error with the line and advice.
package tomlfile

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/modelpipe/modelpipe/internal/nearest"
)

// Decode reads a document into the struct that v points to, whose fields have
// names by the tag "toml". Unknown keys are errors; errors have the line, and
// for an unknown key the nearest known one of its table.
func Decode(data []byte, v any) error {
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(v)
	var unknown *toml.StrictMissingError
	var malformed *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		first := unknown.Errors[0]
		row, _ := first.Position()
		key := first.Key()
		text := fmt.Sprintf("line %d: unknown key %s", row, quoted(strings.Join(key, ".")))
		if known := keysAt(reflect.TypeOf(v), key[:len(key)-1]); len(known) > 0 {
			text += fmt.Sprintf("; did you mean %q?", nearest.Names(key[len(key)-1], known, 1)[0])
		}
		return errors.New(text)
	case errors.As(err, &malformed):
		row, column := malformed.Position()
		return fmt.Errorf("line %d, column %d: %s", row, column, strings.TrimPrefix(malformed.Error(), "toml: "))
	}
	return err
}

// longest bounds what errors show of a key, in bytes.
const longest = 80

func quoted(s string) string {
	if len(s) > longest {
		return strconv.QuoteToASCII(strings.ToValidUTF8(s[:longest], "")) + "..."
	}
	return strconv.QuoteToASCII(s)
}

// keysAt returns the keys that the table at a path may have.
func keysAt(t reflect.Type, at []string) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() == reflect.Map && len(at) > 0 { // any key
		return keysAt(t.Elem(), at[1:])
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		if name == "" || name == "-" {
			continue
		}
		if len(at) > 0 && name == at[0] {
			return keysAt(f.Type, at[1:])
		}
		names = append(names, name)
	}
	if len(at) > 0 {
		return nil
	}
	return names
}
