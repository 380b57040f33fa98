package convert

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/internal/golden"
)

// TestBitNetActivation: a plan warns where the runtime's activation is not the
// model's.
func TestBitNetActivation(t *testing.T) {
	for _, test := range []struct{ field, want string }{
		{`"hidden_act": "relu2"`, "activation is relu2, and llama.cpp computes SiLU"},
		{`"hidden_act": null`, "activation is relu2, and llama.cpp computes SiLU"},
		{`"hidden_act": "silu"`, ""},
	} {
		source := golden.Unzip(t, "testdata/golden/bitnet-packed/hf.zip")
		config := source["config.json"]
		config.Data = bytes.Replace(config.Data, []byte(`"hidden_act": "relu2"`), []byte(test.field), 1)
		if !bytes.Contains(config.Data, []byte(test.field)) {
			t.Fatalf("config.json has no hidden_act")
		}
		p, err := NewPlan(t.Context(), source, Options{Source: "hf"})
		if err != nil {
			t.Fatalf("%s: %v", test.field, err)
		}
		found := slices.IndexFunc(p.Notes, func(n string) bool { return strings.Contains(n, "llama.cpp computes") })
		if (test.want == "") != (found < 0) || found >= 0 && !strings.Contains(p.Notes[found], test.want) {
			t.Errorf("%s: notes %q, want %q", test.field, p.Notes, test.want)
		}
	}
}
