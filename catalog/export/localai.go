package export

import (
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
)

// localAIModel is an element of a gallery of LocalAI
// (https://localai.io/models/): what to download and how to run it.
type localAIModel struct {
	Name        string           `yaml:"name"`
	Variants    []localAIVariant `yaml:"variants,omitempty"`
	URLs        []string         `yaml:"urls,omitempty"`
	Description string           `yaml:"description,omitempty"`
	License     string           `yaml:"license,omitempty"`
	Tags        []string         `yaml:"tags,omitempty"`
	Overrides   localAIConfig    `yaml:"overrides"`
	Files       []localAIFile    `yaml:"files"`
}

type localAIVariant struct {
	Model string `yaml:"model"`
}

type localAIConfig struct {
	Backend     string           `yaml:"backend"`
	ContextSize int64            `yaml:"context_size"`
	Batch       int64            `yaml:"batch,omitempty"`
	Usecases    []string         `yaml:"known_usecases"`
	Embeddings  bool             `yaml:"embeddings,omitempty"`
	Reranking   bool             `yaml:"reranking,omitempty"`
	Projector   string           `yaml:"mmproj,omitempty"`
	Options     []string         `yaml:"options,omitempty"`
	System      string           `yaml:"system_prompt,omitempty"`
	Stop        []string         `yaml:"stopwords,omitempty"`
	Parameters  localAISampling  `yaml:"parameters"`
	Template    *localAITemplate `yaml:"template,omitempty"`
}

type localAISampling struct {
	Model         string   `yaml:"model"`
	Temperature   *float64 `yaml:"temperature,omitempty"`
	TopP          *float64 `yaml:"top_p,omitempty"`
	TopK          *int64   `yaml:"top_k,omitempty"`
	MinP          *float64 `yaml:"min_p,omitempty"`
	RepeatPenalty *float64 `yaml:"repeat_penalty,omitempty"`
	MaxTokens     int64    `yaml:"max_tokens,omitempty"`
}

type localAITemplate struct {
	UseTokenizer bool `yaml:"use_tokenizer_template"`
}

type localAIFile struct {
	Filename string `yaml:"filename"`
	SHA256   string `yaml:"sha256"`
	URI      string `yaml:"uri"`
}

// localAIUsecases are what models of a task are used for.
var localAIUsecases = map[catalog.Task]string{
	catalog.TextGeneration: "chat", catalog.Summarization: "chat", catalog.Translation: "chat", catalog.ImageToText: "vision",
	catalog.TextEmbeddings: "embeddings", catalog.Reranking: "rerank",
}

func init() {
	register(format[[]localAIModel]{
		name:  "localai",
		reads: "LocalAI, as a gallery",
		entry: localAIEntry,
		write: func(_ *job, models [][]localAIModel) ([]File, error) {
			var y yamlText
			err := yamlList(&y, "", slices.Concat(models...))
			return []File{y.file("localai/index.yaml")}, err
		},
	})
}

func localAIEntry(j *job, m *catalog.Model) ([]localAIModel, error) {
	usecase, ok := localAIUsecases[m.Task]
	if !ok {
		return nil, unsupported("LocalAI's llama.cpp has no task %s", m.Task)
	}
	var out []localAIModel
	for _, v := range m.Served() {
		place, ok := Location(v, catalog.KindHTTP)
		if !ok {
			j.note("variant %s is left out: it cannot be had by http", v.ID)
			continue
		}
		l := localAIModel{
			Name: m.Slug, Description: m.Description, License: strings.ToLower(m.License.SPDX), Tags: append([]string{"gguf"}, m.Tags...),
			Overrides: localAIConfig{
				Backend: "llama-cpp", ContextSize: m.Serving.ContextTokens, Batch: m.Serving.BatchSize, Usecases: []string{usecase},
				Embeddings: m.Task == catalog.TextEmbeddings, Reranking: m.Task == catalog.Reranking,
			},
		}
		if m.Homepage != "" {
			l.URLs = []string{m.Homepage}
		}
		if len(out) > 0 {
			l.Name = m.Slug + "-" + strings.ToLower(v.Name)
			out[0].Variants = append(out[0].Variants, localAIVariant{l.Name})
		}
		parts, projector := ModelFiles(v)
		dir := "llama-cpp/models/" + m.Slug + "/" + v.ID + "/"
		l.Overrides.Parameters.Model = dir + parts[0].Path
		if projector != nil {
			l.Overrides.Projector = dir + projector.Path
		}
		l.Overrides.Parameters.MaxTokens = m.Serving.MaxTokens
		if p := m.Prompt; p != nil {
			l.Overrides.System, l.Overrides.Stop = p.System, p.Stop
			if p.Template != "" {
				l.Overrides.Template = &localAITemplate{UseTokenizer: true}
				l.Overrides.Options = []string{"use_jinja:true"}
			}
			if s := p.Sampling; s != nil {
				o := &l.Overrides.Parameters
				o.Temperature, o.TopP, o.TopK, o.MinP, o.RepeatPenalty = s.Temperature, s.TopP, s.TopK, s.MinP, s.RepeatPenalty
			}
		}
		for _, f := range v.Files {
			if f.Role == catalog.RoleModel || f.Role == catalog.RoleProjector {
				l.Files = append(l.Files, localAIFile{dir + f.Path, strings.TrimPrefix(string(f.SHA256), "sha256:"), place.Address(f)})
			}
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		return nil, unsupported("no variant can be had by http")
	}
	return out, nil
}
