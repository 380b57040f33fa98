package convert

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestDocumentedClasses holds the list at the end of docs/architectures.md to
// the table (-update rewrites it).
func TestDocumentedClasses(t *testing.T) {
	const file, heading = "../docs/architectures.md", "## Classes\n\n"
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(doc), heading)
	if !ok {
		t.Fatalf("%s has no %q", file, heading)
	}
	byName := map[string][]string{}
	var names []string
	for _, class := range Classes() {
		name := classes[class].Name
		if byName[name] == nil {
			names = append(names, name)
		}
		byName[name] = append(byName[name], class)
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString(head + heading + "| GGUF | classes |\n|---|---|\n")
	for _, name := range names {
		b.WriteString("| " + name + " | " + strings.Join(byName[name], ", ") + " |\n")
	}
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if b.String() != string(doc) {
		t.Errorf("%s does not list the table's classes (-update rewrites it)", file)
	}
}
