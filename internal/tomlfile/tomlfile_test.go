package tomlfile

import (
	"strings"
	"testing"
)

func TestDecode(t *testing.T) {
	type inner struct {
		Match string `toml:"match"`
		Type  string `toml:"type,omitempty"`
	}
	type file struct {
		Name   string           `toml:"name"`
		Inner  []inner          `toml:"inner"`
		ByName map[string]inner `toml:"by-name"`
		Hidden string
	}
	for _, test := range []struct{ text, want string }{
		{"name = \"a\"\n[[inner]]\nmatch = \"x\"\n[by-name.some]\ntype = \"y\"\n", ""},
		{"\nnam = 1\n", `line 2: unknown key "nam"; did you mean "name"?`},
		{"[[inner]]\ntypo = 1\n", `line 2: unknown key "inner.typo"; did you mean "type"?`},
		{"[by-name.some]\nmach = 1\n", `line 2: unknown key "by-name.some.mach"; did you mean "match"?`},
		{"name = \n", `line 1, column 8: `},
		{strings.Repeat("é", 100) + " = 1\n", `line 1, column 1: `},
		{`"` + strings.Repeat("é", 100) + `" = 1`, `line 1: unknown key "` + strings.Repeat(`\u00e9`, 40) + `"...`},
	} {
		var f file
		err := Decode([]byte(test.text), &f)
		if test.want == "" {
			if err != nil || f.Name != "a" || f.Inner[0].Match != "x" || f.ByName["some"].Type != "y" {
				t.Errorf("got %+v, %v", f, err)
			}
			continue
		}
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%.20q: got %v, want %s", test.text, err, test.want)
		}
	}
}
