package quantize

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
)

const wholeRecipe = `
type = "Q4_K_M"
pure = false
strict-types = true
leave-output = true
output-type = "q6_k"
embedding-type = "Q8_0"

[[tensor]]
match = 'blk\.[01]\.ffn_down'
type = "Q6_K"

[[tensor]]
match = "attn_v"
type = "Q5_K"
`

func TestReadRecipe(t *testing.T) {
	got, err := ReadRecipe(strings.NewReader(wholeRecipe))
	if err != nil {
		t.Fatal(err)
	}
	q6, q8 := gguf.Q6_K, gguf.Q8_0
	want := Recipe{Preset: "Q4_K_M", Strict: true, LeaveOutput: true, Output: &q6, Embedding: &q8, Overrides: []Override{
		{`blk\.[01]\.ffn_down`, gguf.Q6_K}, {"attn_v", gguf.Q5_K},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	const asJSON = `{"type":"Q4_K_M","strict-types":true,"leave-output":true,"output-type":"Q6_K","embedding-type":"Q8_0",` +
		`"tensor":[{"match":"blk\\.[01]\\.ffn_down","type":"Q6_K"},{"match":"attn_v","type":"Q5_K"}]}`
	if string(text) != asJSON {
		t.Errorf("JSON %s, want %s", text, asJSON)
	}
	one, err := got.Digest()
	if err != nil {
		t.Fatal(err)
	}
	got.Pure = true
	if other, err := got.Digest(); err != nil || other == one || !strings.HasPrefix(one, "sha256:") || len(one) != 71 {
		t.Errorf("digests %s and %s of two recipes: %v", one, other, err)
	}
}

func TestReadRecipeErrors(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"", `recipe: key "type" is missing`},
		{"type = \"Q4_K_M\"\noutput_typ = \"Q6_K\"\n", `recipe: line 2: unknown key "output_typ"; did you mean "output-type"?`},
		{"type = \"Q4_K_M\"\n[[tensor]]\nregex = \"a\"\n", `recipe: line 3: unknown key "tensor.regex"; did you mean`},
		{"type = Q4_K_M\n", "recipe: line 1, column"},
		{"type = 4\n", "recipe: line 1, column 8"},
		{"type = \"Q4_K_M\"\noutput-type = \"Q9\"\n", `recipe: output-type: unknown tensor type "Q9"`},
		{"type = \"Q4_K_M\"\n[[tensor]]\nmatch = \"a\"\n", `recipe: tensor 1: unknown tensor type ""`},
		{"type = \"Q4_K_M\"\n[[tensor]]\ntype = \"F16\"\n", `recipe: tensor 1: key "match" is missing`},
	} {
		_, err := ReadRecipe(strings.NewReader(c.file))
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%q: error %v, want %s", c.file, err, c.want)
		}
	}
}
