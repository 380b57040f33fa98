package export

import (
	"fmt"
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
)

// A preset of llama-server, read with --models-preset, is an INI file: a
// section is a model, a key an option without dashes. Its grammar
// (common/preset.cpp) has no quoting: a value ends at a line break, at a ; or
// at a #. What such a value would hold is left out.

func init() {
	register(format[string]{
		name:  "llama-server",
		reads: "llama.cpp's llama-server, as --models-preset",
		entry: llamaPreset,
		write: func(_ *job, sections []string) ([]File, error) {
			return []File{{"llama-server/models.ini", []byte("version = 1\n" + strings.Join(sections, ""))}}, nil
		},
	})
}

func llamaPreset(j *job, m *catalog.Model) (string, error) {
	if err := LlamaRuns(m); err != nil {
		return "", err
	}
	var b strings.Builder
	for i, v := range m.Served() {
		name := m.Slug
		if i > 0 {
			name += "-" + strings.ToLower(v.Name)
		}
		fmt.Fprintf(&b, "\n[%s]\n", name)
		for _, o := range llamaOptions(j, m, v) {
			value := o.value
			if value == "" {
				value = "true"
			}
			if strings.ContainsAny(value, ";#\r\n") || strings.TrimSpace(value) != value {
				return "", unsupported("a preset cannot hold the value %q of %s", short(value), o.name)
			}
			fmt.Fprintf(&b, "%s = %s\n", o.name, value)
		}
		if i == 0 && len(m.Aliases) > 0 {
			fmt.Fprintf(&b, "alias = %s\n", strings.Join(m.Aliases, ","))
		}
	}
	return b.String(), nil
}
