package hub

import (
	"strings"
	"testing"
)

func TestParseRef(t *testing.T) {
	good := map[string]Ref{
		"hf://org/name":              {"org/name", ""},
		"hf://gpt2":                  {"gpt2", ""},
		"hf://gpt2@main":             {"gpt2", "main"},
		"hf://01-ai/Yi-1.5_6B@v1.0":  {"01-ai/Yi-1.5_6B", "v1.0"},
		"hf://org/name@refs/pr/1":    {"org/name", "refs/pr/1"},
		"hf://org/name@user/branch":  {"org/name", "user/branch"},
		"hf://_a/b_":                 {"_a/b_", ""},
		"hf://o/n@feature@2":         {"o/n", "feature@2"},
		"hf://o/n@" + hex40:          {"o/n", hex40},
		"hf://o/" + longest("n", 96): {"o/" + longest("n", 96), ""},
	}
	for s, want := range good {
		got, err := ParseRef(s)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", s, got, err, want)
		}
		if got.String() != s {
			t.Errorf("%s prints as %s", s, got)
		}
	}
	bad := map[string]string{
		"":                           "want hf://org/name",
		"org/name":                   "want hf://org/name",
		"hf://":                      "no repository name",
		"hf:///name":                 "empty name",
		"hf://org/":                  "empty name",
		"hf://org/name/file":         "3 parts",
		"hf://datasets/org/name":     "datasets are not models",
		"hf://org/na me":             "character ' '",
		"hf://org/näme":              "only letters",
		"hf://org/../name":           "3 parts",
		"hf://../name":               "must not start or end",
		"hf://org/name.":             "must not start or end",
		"hf://org/-name":             "must not start or end",
		"hf://org/a--b":              "must not contain",
		"hf://org/a..b":              "must not contain",
		"hf://org/name.git":          "leave the .git away",
		"hf://o/" + longest("n", 97): "at most 96",
		"hf://org/name@":             "empty revision",
		"hf://org/name@a..b":         "not a git ref",
		"hf://org/name@../../etc":    "not a git ref",
		"hf://org/name@/a":           "empty part",
		"hf://org/name@a/":           "empty part",
		"hf://org/name@a//b":         "empty part",
		"hf://org/name@.a":           "start or end with '.'",
		"hf://org/name@a.lock":       ".lock",
		"hf://org/name@-a":           "start with '-'",
		"hf://org/name@a b":          "not allowed",
		"hf://org/name@a\x00":        "not allowed",
		`hf://org/name@a\b`:          "not allowed",
		"hf://org/name@a@{1}":        "not a git ref",
	}
	for s, want := range bad {
		if _, err := ParseRef(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", s, err, want)
		}
	}
}

const hex40 = "0123456789abcdef0123456789abcdef01234567"

func longest(s string, n int) string { return strings.Repeat(s, n) }

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"hf://org/name@refs/pr/1", "hf://gpt2", "hf://a/b@c@d", "hf://../x@../y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRef(s)
		if err != nil {
			return
		}
		if r.String() != s {
			t.Errorf("%q prints as %q", s, r.String())
		}
		if strings.Contains(r.Repo, "..") || strings.Contains(r.Revision, "..") || strings.Count(r.Repo, "/") > 1 {
			t.Errorf("unsafe: %+v", r)
		}
	})
}

func TestParseContentRange(t *testing.T) {
	tests := []struct {
		in               string
		first, end, size int64
		ok               bool
	}{
		{"bytes 0-0/1", 0, 0, 1, true},
		{"bytes 5-9/10", 5, 9, 10, true},
		{"BYTES 5-9/*", 5, 9, -1, true},
		{"bytes */10", -1, -1, 10, true},
		{"bytes */*", 0, 0, 0, false},
		{"bytes 5-10/10", 0, 0, 0, false},
		{"bytes 9-5/10", 0, 0, 0, false},
		{"bytes -5/10", 0, 0, 0, false},
		{"bytes 5-/10", 0, 0, 0, false},
		{"bytes +5-9/10", 0, 0, 0, false},
		{"bytes 5-9", 0, 0, 0, false},
		{"items 5-9/10", 0, 0, 0, false},
		{"bytes 0-18446744073709551615/18446744073709551616", 0, 0, 0, false},
		{"", 0, 0, 0, false},
	}
	for _, tt := range tests {
		first, end, size, err := parseContentRange(tt.in)
		if (err == nil) != tt.ok || tt.ok && (first != tt.first || end != tt.end || size != tt.size) {
			t.Errorf("%q: %d %d %d, %v", tt.in, first, end, size, err)
		}
	}
}

func FuzzParseContentRange(f *testing.F) {
	f.Add("bytes 5-9/10")
	f.Add("bytes */10")
	f.Fuzz(func(t *testing.T, s string) {
		first, end, size, err := parseContentRange(s)
		if err == nil && first >= 0 && (end < first || size >= 0 && end >= size) {
			t.Errorf("%q: %d-%d/%d", s, first, end, size)
		}
	})
}

func TestNextLink(t *testing.T) {
	tests := []struct {
		in   []string
		want string
	}{
		{[]string{`<https://h/a?cursor=x>; rel="next"`}, "https://h/a?cursor=x"},
		{[]string{`<a>; rel=prev, <b,c>; title="x, y; rel=next"; rel=next`}, "b,c"},
		{[]string{`<a>; rel="first"`, `<b>; rel="last NEXT"`}, "b"},
		{[]string{`<a>`}, ""},
		{[]string{`<a; rel=next`}, ""},
		{[]string{`a; rel=next`}, ""},
		{nil, ""},
	}
	for _, tt := range tests {
		if got := nextLink(tt.in); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.in, got, tt.want)
		}
	}
}

func FuzzNextLink(f *testing.F) {
	f.Add(`<a>; rel="next", <b>; rel=prev`)
	f.Add(`<a>; x="\"; rel=next"; rel=next`)
	f.Fuzz(func(t *testing.T, s string) {
		if got := nextLink([]string{s}); got != "" && !strings.Contains(s, "<"+got+">") {
			t.Errorf("%q: %q", s, got)
		}
	})
}
