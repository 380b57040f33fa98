package export

import (
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
)

// llamaSwapModel is a model in the configuration of llama-swap
// (https://github.com/mostlygeek/llama-swap, config-schema.json).
type llamaSwapModel struct {
	Cmd              string                `yaml:"cmd"`
	Name             string                `yaml:"name,omitempty"`
	Description      string                `yaml:"description,omitempty"`
	Aliases          []string              `yaml:"aliases,omitempty"`
	ConcurrencyLimit int64                 `yaml:"concurrencyLimit,omitempty"`
	Timeouts         *llamaSwapTimeouts    `yaml:"timeouts,omitempty"`
	Capabilities     llamaSwapCapabilities `yaml:"capabilities"`
}

type llamaSwapTimeouts struct {
	ResponseHeader int64 `yaml:"responseHeader"` // seconds
}

type llamaSwapCapabilities struct {
	In       []string `yaml:"in,omitempty"`
	Out      []string `yaml:"out,omitempty"`
	Tools    bool     `yaml:"tools,omitempty"`
	Reranker bool     `yaml:"reranker,omitempty"`
	Context  int64    `yaml:"context,omitempty"`
}

// llamaSwapModalities are the ones that it knows.
var llamaSwapModalities = map[string]bool{"text": true, "audio": true, "image": true}

func init() {
	register(format[map[string]llamaSwapModel]{
		name:  "llama-swap",
		reads: "llama-swap in front of llama-server",
		entry: llamaSwapEntry,
		write: func(_ *job, entries []map[string]llamaSwapModel) ([]File, error) {
			var y yamlText
			if len(entries) == 0 {
				y.WriteString("models: {}\n")
				return []File{y.file("llama-swap/config.yaml")}, nil
			}
			y.WriteString("models:\n")
			for _, e := range entries {
				if err := y.put("  ", e); err != nil {
					return nil, err
				}
			}
			return []File{y.file("llama-swap/config.yaml")}, nil
		},
	})
}

func llamaSwapEntry(j *job, m *catalog.Model) (map[string]llamaSwapModel, error) {
	if err := LlamaRuns(m); err != nil {
		return nil, err
	}
	out := map[string]llamaSwapModel{}
	for i, v := range m.Served() {
		name := m.Slug
		if i > 0 {
			name += "-" + strings.ToLower(v.Name)
		}
		args := []string{"llama-server", "--port", "${PORT}"}
		for _, o := range llamaOptions(j, m, v) {
			if args = append(args, "--"+o.name); o.value == "" {
				continue
			}
			if strings.Contains(o.value, "${") {
				return nil, unsupported("llama-swap would expand %q", short(o.value))
			}
			args = append(args, ShellQuote(o.value))
		}
		s := llamaSwapModel{
			Cmd: strings.Join(args, " "), Name: llamaSwapText(j, "name", m.DisplayName), Description: llamaSwapText(j, "description", m.Description),
			ConcurrencyLimit: m.Serving.MaxConcurrent,
			Capabilities: llamaSwapCapabilities{
				Tools: m.Capabilities.Tools, Reranker: m.Task == catalog.Reranking, Context: m.Serving.ContextTokens,
			},
		}
		if i == 0 {
			s.Aliases = m.Aliases
		} else if s.Name != "" {
			s.Name += " (" + v.Name + ")"
		}
		if m.Serving.TimeoutSeconds > 0 {
			s.Timeouts = &llamaSwapTimeouts{m.Serving.TimeoutSeconds}
		}
		for _, x := range m.Modalities.Input {
			if llamaSwapModalities[x] {
				s.Capabilities.In = append(s.Capabilities.In, x)
			}
		}
		for _, x := range m.Modalities.Output {
			if llamaSwapModalities[x] {
				s.Capabilities.Out = append(s.Capabilities.Out, x)
			}
		}
		out[name] = s
	}
	return out, nil
}

// llamaSwapText returns a text for people, or nothing where it would be
// changed: llama-swap puts variables, also those of its environment, in the
// place of ${...}, and knows no other way to write it.
func llamaSwapText(j *job, field, text string) string {
	if strings.Contains(text, "${") {
		j.note("the %s is left out: llama-swap would put variables into it", field)
		return ""
	}
	return text
}

// ShellQuote quotes a word for a POSIX shell.
func ShellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=,@%+", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
