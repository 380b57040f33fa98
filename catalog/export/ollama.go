package export

import (
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
)

// ollamaModel is an element of the answer to GET /api/tags
// (https://docs.ollama.com/api/tags).
type ollamaModel struct {
	Name       string        `json:"name"`
	Model      string        `json:"model"`
	ModifiedAt time.Time     `json:"modified_at"`
	Size       int64         `json:"size"`
	Digest     string        `json:"digest"` // of the model file, hexadecimal
	Details    ollamaDetails `json:"details"`
}

type ollamaDetails struct {
	ParentModel       string   `json:"parent_model"`
	Format            string   `json:"format"`
	Family            string   `json:"family"`
	Families          []string `json:"families"`
	ParameterSize     string   `json:"parameter_size"`
	QuantizationLevel string   `json:"quantization_level"`
}

func init() {
	register(format[[]ollamaModel]{
		name:  "ollama",
		reads: "Ollama's clients, as GET /api/tags",
		entry: func(j *job, m *catalog.Model) ([]ollamaModel, error) {
			var out []ollamaModel
			for _, v := range m.Served() {
				if err := OllamaRuns(m, v); err != nil {
					j.note("variant %s is left out: %s", v.ID, err)
					continue
				}
				parts, _ := ModelFiles(v)
				name := OllamaName(m, v)
				out = append(out, ollamaModel{
					Name: name, Model: name, ModifiedAt: v.Provenance.Created, Size: v.Size,
					Digest: strings.TrimPrefix(string(parts[0].SHA256), "sha256:"),
					Details: ollamaDetails{
						Format: v.Format, Family: m.Architecture, Families: []string{m.Architecture},
						ParameterSize: parameterSize(m.Parameters.Total), QuantizationLevel: v.Preset,
					},
				})
			}
			if len(out) == 0 {
				return nil, OllamaRuns(m, m.Default())
			}
			return out, nil
		},
		write: func(_ *job, models [][]ollamaModel) ([]File, error) {
			return one(jsonList("ollama/tags.json", "{\n  \"models\": ", "\n}", slices.Concat(models...)))
		},
	})
}

// OllamaRuns returns nil, or why Ollama does not run the variant.
func OllamaRuns(m *catalog.Model, v *catalog.Variant) error {
	switch m.Task {
	case catalog.TextGeneration, catalog.TextEmbeddings, catalog.ImageToText, catalog.Summarization, catalog.Translation:
	default:
		return unsupported("Ollama has no task %s", m.Task)
	}
	if parts, _ := ModelFiles(v); len(parts) > 1 {
		return unsupported("Ollama does not pull a model in %d parts", len(parts))
	}
	return nil
}

// OllamaName returns the name under which Ollama pulls or lists a variant.
func OllamaName(m *catalog.Model, v *catalog.Variant) string {
	if l, ok := Location(v, catalog.KindOCI); ok && l.Ollama != "" {
		return l.Ollama
	}
	return m.Slug + ":" + strings.ToLower(v.Name)
}

// parameterSize writes a number of weights as people say it, with three
// digits: 596.05M, 23.57B.
func parameterSize(n int64) string {
	for _, unit := range []struct {
		size int64
		name string
	}{{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "K"}} {
		if n >= unit.size {
			return big.NewRat(n, unit.size).FloatString(2) + unit.name
		}
	}
	return big.NewRat(n, 1).FloatString(0)
}
