package export

import (
	"math/big"
	"strconv"
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
)

// gpuStackSet is a model set of GPUStack's catalog (model-catalog.yaml): a
// model with the ways to run it. The files lie in the nodes' copies of the
// store; the backend is the community's llama.cpp.
type gpuStackSet struct {
	Name          string         `yaml:"name"`
	Description   string         `yaml:"description,omitempty"`
	Home          string         `yaml:"home,omitempty"`
	Size          exact          `yaml:"size"`
	ActivatedSize exact          `yaml:"activated_size,omitempty"`
	SizeUnit      string         `yaml:"size_unit"`
	Categories    []string       `yaml:"categories"`
	Capabilities  []string       `yaml:"capabilities,omitempty"`
	Licenses      []string       `yaml:"licenses,omitempty"`
	ReleaseDate   string         `yaml:"release_date,omitempty"`
	Specs         []gpuStackSpec `yaml:"specs"`
}

type gpuStackSpec struct {
	Mode         string   `yaml:"mode"`
	Quantization string   `yaml:"quantization"`
	Source       string   `yaml:"source"`
	LocalPath    string   `yaml:"local_path"`
	Backend      string   `yaml:"backend"`
	Parameters   []string `yaml:"backend_parameters,omitempty"`
}

// gpuStackCategories are the categories of tasks.
var gpuStackCategories = map[catalog.Task]string{
	catalog.TextGeneration: "llm", catalog.Summarization: "llm", catalog.Translation: "llm", catalog.ImageToText: "llm",
	catalog.TextEmbeddings: "embedding", catalog.Reranking: "reranker",
}

func init() {
	register(format[gpuStackSet]{
		name:  "gpustack",
		reads: "GPUStack, as a model catalog",
		entry: gpuStackEntry,
		write: func(_ *job, sets []gpuStackSet) ([]File, error) {
			var y yamlText
			y.WriteString("draft_models: []\n")
			err := yamlList(&y, "model_sets", sets)
			return []File{y.file("gpustack/model-catalog.yaml")}, err
		},
	})
}

func gpuStackEntry(j *job, m *catalog.Model) (gpuStackSet, error) {
	category, ok := gpuStackCategories[m.Task]
	if !ok {
		return gpuStackSet{}, unsupported("GPUStack's llama.cpp has no task %s", m.Task)
	}
	unit, name := int64(1_000_000_000), "B"
	if m.Parameters.Total < unit {
		unit, name = 1_000_000, "M"
	}
	millions := func(n int64) exact { return exact(big.NewRat(n, unit).FloatString(2)) }
	s := gpuStackSet{
		Name: m.DisplayName, Description: m.Description, Home: m.Homepage, Size: millions(m.Parameters.Total), SizeUnit: name,
		Categories: []string{category}, Licenses: []string{strings.ToLower(m.License.SPDX)},
		Capabilities: []string{"context/" + kilo(m.Serving.ContextTokens)},
	}
	if m.Parameters.Active > 0 {
		s.ActivatedSize = millions(m.Parameters.Active)
	}
	for _, c := range []struct {
		name string
		on   bool
	}{{"tools", m.Capabilities.Tools}, {"reasoning", m.Capabilities.Reasoning}, {"vision", m.Capabilities.Vision}} {
		if c.on {
			s.Capabilities = append(s.Capabilities, c.name)
		}
	}
	if !m.Released.IsZero() {
		s.ReleaseDate = m.Released.UTC().Format("2006-01-02")
	}
	for _, v := range m.Served() {
		parts, _ := ModelFiles(v)
		spec := gpuStackSpec{Mode: "standard", Quantization: v.Preset, Source: "local_path", LocalPath: j.Path(m, v, parts[0]), Backend: "llama.cpp"}
		for _, o := range llamaOptions(j, m, v) {
			switch {
			case o.name == "model":
			case o.value == "":
				spec.Parameters = append(spec.Parameters, "--"+o.name)
			default:
				spec.Parameters = append(spec.Parameters, "--"+o.name+"="+ShellQuote(o.value))
			}
		}
		s.Specs = append(s.Specs, spec)
	}
	return s, nil
}

// kilo writes a number of tokens as in 128K.
func kilo(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10)
	}
	return strconv.FormatInt(n/1024, 10) + "K"
}
