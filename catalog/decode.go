package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Decode reads a Catalog and holds it to the schema: unknown fields, values
// out of their bounds and another major version are errors.
func Decode(data []byte) (*Catalog, error) {
	var c Catalog
	if err := decodeStrict(data, &c, SchemaID); err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	return &c, nil
}

// Encode writes a document in its canonical form: indented by nothing, keys
// in the order of the types, one newline at the end. Equal documents have
// equal bytes.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// decodeStrict reads a JSON document into the struct that v points to and
// checks it. Where id is not empty, "$schema" must be it: the field's
// constraint says so as well.
func decodeStrict(data []byte, v any, id string) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		// Another version has other fields: that is then the reason.
		var version struct {
			Schema string `json:"$schema"`
		}
		if id != "" && json.Unmarshal(data, &version) == nil && version.Schema != id {
			return fmt.Errorf("$schema is %s, this program reads %s", quoted(version.Schema), id)
		}
		return jsonError(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("offset %d: more data behind the document", d.InputOffset())
	}
	return check(v, "json")
}

// jsonError puts the place in front of what encoding/json says.
func jsonError(err error) error {
	var syntax *json.SyntaxError
	var typed *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("offset %d: %w", syntax.Offset, err)
	case errors.As(err, &typed):
		return fmt.Errorf("offset %d: %s is a JSON %s, which does not fit", typed.Offset, typed.Field, typed.Value)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("is cut off")
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}
