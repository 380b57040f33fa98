package export

import (
	"strconv"

	"github.com/modelpipe/modelpipe/catalog"
)

// llamaOption is an option of llama-server, without dashes, and its value;
// switches have none.
type llamaOption struct{ name, value string }

// LlamaRuns returns nil, or why llama-server does not serve the model.
func LlamaRuns(m *catalog.Model) error {
	switch m.Task {
	case catalog.TextGeneration, catalog.TextEmbeddings, catalog.Reranking, catalog.ImageToText, catalog.Summarization, catalog.Translation:
		return nil
	}
	return unsupported("llama-server has no task %s", m.Task)
}

// llamaOptions are the options with which llama-server serves a variant that
// lies in the node's copy of the store. The chat template is the file's own.
func llamaOptions(j *job, m *catalog.Model, v *catalog.Variant) []llamaOption {
	parts, projector := ModelFiles(v)
	out := []llamaOption{{"model", j.Path(m, v, parts[0])}}
	if projector != nil {
		out = append(out, llamaOption{"mmproj", j.Path(m, v, *projector)})
	}
	parallel := max(m.Serving.MaxConcurrent, 1)
	return append(append(out,
		// of all sequences together
		llamaOption{"ctx-size", strconv.FormatInt(m.Serving.ContextTokens*parallel, 10)},
		llamaOption{"parallel", strconv.FormatInt(parallel, 10)},
	), llamaFlags(m)...)
}

// LlamaArgs are the options with which llama-server serves one caller at a
// time, as words for a shell, without those that say where the files are.
func LlamaArgs(m *catalog.Model) []string {
	args := []string{"--ctx-size", strconv.FormatInt(m.Serving.ContextTokens, 10)}
	for _, o := range llamaFlags(m) {
		if args = append(args, "--"+o.name); o.value != "" {
			args = append(args, ShellQuote(o.value))
		}
	}
	return args
}

// llamaFlags are the options of llama-server that a model asks for wherever
// its file is.
func llamaFlags(m *catalog.Model) []llamaOption {
	var out []llamaOption
	number := func(name string, v int64) {
		if v > 0 {
			out = append(out, llamaOption{name, strconv.FormatInt(v, 10)})
		}
	}
	float := func(name string, v *float64) {
		if v != nil {
			out = append(out, llamaOption{name, strconv.FormatFloat(*v, 'f', -1, 64)})
		}
	}
	number("batch-size", m.Serving.BatchSize)
	number("timeout", m.Serving.TimeoutSeconds)
	switch m.Task {
	case catalog.TextEmbeddings:
		out = append(out, llamaOption{"embedding", ""})
		if e := m.Embedding; e != nil && e.Pooling != "" {
			out = append(out, llamaOption{"pooling", e.Pooling})
		}
		// An input is one batch.
		number("ubatch-size", m.Serving.ContextTokens)
		return out
	case catalog.Reranking:
		return append(out, llamaOption{"reranking", ""})
	}
	number("predict", m.Serving.MaxTokens)
	if p := m.Prompt; p != nil {
		if p.Template != "" {
			out = append(out, llamaOption{"jinja", ""})
		}
		if s := p.Sampling; s != nil {
			float("temp", s.Temperature)
			float("top-p", s.TopP)
			if s.TopK != nil {
				out = append(out, llamaOption{"top-k", strconv.FormatInt(*s.TopK, 10)})
			}
			float("min-p", s.MinP)
			float("repeat-penalty", s.RepeatPenalty)
		}
	}
	return out
}
