package catalog

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/modelpipe/modelpipe/internal/golden"
)

func example(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/catalog.json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// compileSchema compiles a schema with another implementation.
func compileSchema(t *testing.T, text []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSchema holds the committed schemas to the types.
func TestSchema(t *testing.T) {
	for name, schema := range Schemas {
		golden.Check(t, "../../docs/schema/"+name+".schema.json", string(schema()))
		compileSchema(t, schema())
	}
}

func TestExample(t *testing.T) {
	data := example(t)
	c, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	out, err := Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, out, "", "  "); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "catalog.json", indented.String())
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	if err := compileSchema(t, Schema()).Validate(doc); err != nil {
		t.Error(err)
	}
}

// TestMatches holds the matchers by hand to the expressions.
func TestMatches(t *testing.T) {
	parts := []string{"", "a", "Z", "0", ".", "_", "-", "+", "/", "..", "é", " ", "\x00", "sha256:", strings.Repeat("0f", 32), "g"}
	for form := range patterns {
		for _, a := range parts {
			for _, b := range parts {
				for _, c := range parts {
					if s := a + b + c; matches(form, s) != compiled()[form].MatchString(s) {
						t.Errorf("%s %q: %v", form, s, matches(form, s))
					}
				}
			}
		}
	}
}
