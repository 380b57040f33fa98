// Package catalogtest has what tests of the packages that read catalogs share.
package catalogtest

import (
	"iter"
	"os"
	"testing"

	"github.com/modelpipe/modelpipe/catalog"
)

// Example returns the models of the catalog of the documentation. It is for
// packages in folders beside testdata.
func Example(t testing.TB) []catalog.Model {
	t.Helper()
	data, err := os.ReadFile("../testdata/catalog.json")
	if err != nil {
		t.Fatal(err)
	}
	c, err := catalog.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	return c.Models
}

// Sequence yields the models one at a time.
func Sequence(models []catalog.Model) iter.Seq2[*catalog.Model, error] {
	return func(yield func(*catalog.Model, error) bool) {
		for i := range models {
			if !yield(&models[i], nil) {
				return
			}
		}
	}
}
