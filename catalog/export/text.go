package export

import (
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
)

// hubName returns the repository on the Hugging Face Hub that a model was made
// from, as org/name, or nothing.
func hubName(m *catalog.Model) string {
	v := m.Default()
	if v == nil {
		return ""
	}
	name, ok := strings.CutPrefix(v.Provenance.Source.Repository, "hf://")
	if !ok {
		return ""
	}
	name, _, _ = strings.Cut(name, "@")
	return name
}

// dashed turns a slug into letters, digits and dashes, for programs that take
// nothing else in names.
func dashed(slug string) string {
	return strings.NewReplacer(".", "-", "_", "-").Replace(slug)
}
