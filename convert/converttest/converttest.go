// Package converttest makes GGUF files for tests of the packages that read
// them.
package converttest

import (
	"io/fs"
	"testing"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/quantize"
)

// View is the file that the converter makes of a source, computed as it is
// read until the test ends; preset "" is --type auto.
func View(t testing.TB, source fs.FS, name, preset string) (*convert.Plan, *convert.View) {
	t.Helper()
	options := convert.Options{Source: name, Name: "tiny"}
	if preset != "" {
		options.Types = convert.NewTypePolicy(quantize.Recipe{Preset: preset}, nil, "")
	}
	plan, err := convert.NewPlan(t.Context(), source, options)
	if err != nil {
		t.Fatal(err)
	}
	view, err := convert.NewView(plan, source, convert.RenderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { view.Close() })
	return plan, view
}
