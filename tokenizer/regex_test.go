package tokenizer

import (
	"slices"
	"strings"
	"testing"
)

// TestRegex fixes the dialect. Words are as Oniguruma's (tokenizers 0.23,
// Split isolated) cuts the text.
func TestRegex(t *testing.T) {
	for _, c := range []struct{ expr, text, want string }{
		{`\p{N}{1,3}`, "a12345678b", "a|123|456|78|b"},
		{`\p{N}{1,3}+`, "a12345678b", "a|12345678|b"},
		{`\p{N}++x`, "a12345678b", "a12345678b"},
		{`\p{N}++b`, "a12345678b", "a|12345678b"},
		{`a$`, "a\nb a", "a|\nb |a"},
		{`^b`, "a\nb b", "a\n|b| b"},
		{`(?m:a.b)`, "a\nb", "a\nb"},
		{`a.b`, "a\nb", "a\nb"},
		{`\h+`, "xyz09AFg", "xyz|09AF|g"},
		{`x{,2}y`, "xxxy", "x|xxy"},
		{`x{2,}`, "x xx xxx", "x |xx| |xxx"},
		{`x{a`, "x{a", "x{a"},
		{`(?i)abc`, "xABcAbC", "x|ABc|AbC"},
		{`(?i:s)t`, "St sT \u017ft", "St| sT |\u017ft"},
		{`[[:alpha:]&&[^a-f]]+`, "abxyZ09", "ab|xyZ|09"},
		{`[^\s]+`, "a b\u3000c", "a| |b|\u3000|c"},
		{`\p{Han}+|\p{^L}+|\P{N}+?`, "漢字1a", "漢字|1|a"},
		{`(?<=a)b|(?<!a)c`, "abcacc", "a|b|c|ac|c"},
		{`(?>a+)ab|aa`, "aaab", "aa|ab"},
		{`(?:ab?)*?c`, "ababac", "ababac"},
		{`(a|ab)(c|bcd)(d*)`, "abcd", "abcd"},
		{`\bfoo\b`, "foo food", "foo| food"},
		{`(?=b)`, "abab", "a|ba|b"},
		{`\s+(?!\S)|\s+`, "a   b  ", "a|  | |b|  "},
		{`(a*)*b|c`, "aaac", "aaa|c"},
		{`\x{61}\x62\u0063\t`, "abc\t!", "abc\t|!"},
		{`[\]\-a]+|[]b]`, "-]ab]", "-]a|b|]"},
		{`'(?<name>s|t)`, "it's", "it|'s"},
	} {
		re, err := compileRegex(c.expr, onigDialect)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		var got []string
		if err := eachMatch(re, c.text, func(s string, _ bool) {
			if s != "" {
				got = append(got, s)
			}
		}); err != nil {
			t.Errorf("%s: %v", c.expr, err)
		}
		if want := strings.Split(c.want, "|"); !slices.Equal(got, want) {
			t.Errorf("%s on %q: got %q, want %q", c.expr, c.text, got, want)
		}
	}
}

func TestRegexErrors(t *testing.T) {
	for expr, want := range map[string]string{
		`(`:                        "missing ')'",
		`)`:                        "unmatched ')'",
		`[a`:                       "class without ']'",
		`*a`:                       "without a target",
		`\`:                        "trailing backslash",
		`\1`:                       `unsupported escape \1`,
		`(?<!a*)b`:                 "look-behind of variable width",
		`\p{Nope}`:                 `unknown property \p{Nope}`,
		`[z-a]`:                    "range out of order",
		`a{3,2}`:                   "counts go from small to large",
		`a{1001}`:                  "up to 1000",
		`(?:(?:a?){99}){999}`:      "larger than",
		strings.Repeat("(", 200):   "nested deeper",
		strings.Repeat("[", 200):   "nested deeper",
		"(?#comment)":              "unsupported group",
		`\x{110000}`:               "bad code point",
		"a\xff":                    "not UTF-8",
		`(?:(?:(?:a{9}b){9}c){9}d`: "missing ')'",
	} {
		if _, err := compileRegex(expr, onigDialect); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", expr, err, want)
		}
	}
}

// TestRegexBudget: a hostile expression ends in an error.
func TestRegexBudget(t *testing.T) {
	re, err := compileRegex(`(?:a?a?)*(?:a?a?)*(?:a|a)*b`, onigDialect)
	if err != nil {
		t.Fatal(err)
	}
	if err := eachMatch(re, strings.Repeat("a", 200), func(string, bool) {}); err != errRegexBudget {
		t.Errorf("got %v", err)
	}
}

// FuzzRegex compiles anything and matches it: no panic, no hang.
func FuzzRegex(f *testing.F) {
	for _, row := range preTable {
		for _, expr := range row.cuts {
			f.Add(expr, "Hello  wor1234ld's\n\n\t 漢字!")
		}
	}
	f.Fuzz(func(t *testing.T, expr, text string) {
		re, err := compileRegex(expr, onigDialect)
		if err != nil {
			return
		}
		var b strings.Builder
		if err := eachMatch(re, validUTF8(text), func(s string, _ bool) { b.WriteString(s) }); err == nil && b.String() != validUTF8(text) {
			t.Errorf("%q on %q: the parts are %q", expr, text, b.String())
		}
	})
}
