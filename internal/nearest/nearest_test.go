package nearest

import (
	"slices"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	known := []string{"type", "pure", "strict-types", "leave-output", "output-type", "embedding-type", "tensor", "match"}
	for name, want := range map[string]string{
		"tpye":        "type",
		"OUTPUT_TYPE": "output-type",
		"strict":      "strict-types",
		"match":       "match",
	} {
		if got := Names(name, known, 1)[0]; got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	if got := Names("x", known[:2], 3); len(got) != 2 {
		t.Errorf("got %q, want both candidates", got)
	}
	// Equally far: as given.
	if got, want := Names("z", []string{"b", "a"}, 2), []string{"b", "a"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	// A hostile name costs no more than a long one; this would take minutes.
	if got := Names(strings.Repeat("x", 1<<26), known, 1); len(got) != 1 {
		t.Errorf("got %q", got)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2}} {
		got := Distance(len(c.a), len(c.b), 1, func(i, j int) int {
			if c.a[i] == c.b[j] {
				return 0
			}
			return 1
		})
		if got != c.want {
			t.Errorf("%q, %q: got %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
