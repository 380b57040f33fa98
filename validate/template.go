package validate

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/modelpipe/modelpipe/tokenizer"
)

// TemplateResult says whether the chat templates of both sides render the
// same. Templates of the same text do. Others are run over conversations;
// where one of them cannot be run here that is not judged, and never equal.
type TemplateResult struct {
	// Equal is nil where it is not known.
	Equal *bool `json:"equal"`
	// Templates are the names on either side.
	Templates []string `json:"templates"`
	// SameText says that equality is that of the texts.
	SameText bool `json:"same_text"`
	// Conversations is how many were rendered by both.
	Conversations int      `json:"conversations"`
	Differences   []string `json:"differences,omitempty"`
	NotJudged     []string `json:"not_judged,omitempty"`
}

// A conversation is what a template renders. Mappings have their keys in
// alphabetical order, as render has.
type conversation struct {
	name string
	vars map[string]any
}

type object = map[string]any

func say(role, content string) object { return object{"content": content, "role": role} }

// conversations are rendered by both templates.
var conversations = []conversation{
	{"one question", object{"messages": []any{say("user", "Hello there!")}, "add_generation_prompt": true}},
	{"system and turns", object{"messages": []any{
		say("system", "You are terse. "), say("user", " What is 2+2?\n"), say("assistant", "4"), say("user", "Und auf Deutsch? <b>&\"'"),
	}, "add_generation_prompt": true}},
	{"finished", object{"messages": []any{
		say("user", "Name a colour."), say("assistant", "Blue 🟦."), say("user", "Another."), say("assistant", "  Red.\n\n"),
	}, "add_generation_prompt": false}},
	{"tools", object{"messages": []any{
		say("user", "Hello."), say("assistant", "Hello!"), say("user", "Weather in Oslo?"),
	}, "tools": tools, "add_generation_prompt": true}},
	{"tool call", object{"messages": []any{
		say("user", "Hello."), say("assistant", "Hello!"), say("user", "Weather in Oslo?"),
		object{"content": "", "role": "assistant", "tool_calls": []any{
			object{"function": object{"arguments": object{"city": "Oslo", "days": 2}, "name": "weather"}, "id": "abcdefghi", "type": "function"},
		}},
		object{"content": `{"celsius": 4}`, "name": "weather", "role": "tool", "tool_call_id": "abcdefghi"},
		say("assistant", "4 degrees."),
	}, "tools": tools, "add_generation_prompt": false}},
	{"thoughts", object{"messages": []any{
		say("user", "Hi"), say("assistant", "<think>\nhm\n</think>\n\nHello"), say("user", "Again"),
	}, "add_generation_prompt": true, "enable_thinking": false}},
}

var tools = []any{object{
	"function": object{
		"description": "Current weather <now> of a city's centre",
		"name":        "weather",
		"parameters": object{
			"properties": object{
				"city": object{"description": "name of the city", "type": "string"},
				"days": object{"description": "how many", "type": "integer"},
			},
			"required": []any{"city"},
			"type":     "object",
		},
	},
	"type": "function",
}}

// A Rendering is one of the conversations that templates are judged by, through
// one template.
type Rendering struct {
	Template     string            `json:"template"`
	Conversation string            `json:"conversation"` // its name
	Special      map[string]string `json:"special"`      // bos_token, eos_token, ...
}

// Run renders the conversation in this process. Its time and what it writes
// are bounded, the memory that the template takes on its way is not. An error
// that is ErrRaised is the template's own.
func (r Rendering) Run() (string, error) {
	i := slices.IndexFunc(conversations, func(c conversation) bool { return c.name == r.Conversation })
	if i < 0 {
		return "", fmt.Errorf("no conversation %q", r.Conversation)
	}
	vars := object{}
	for k, v := range r.Special {
		vars[k] = v
	}
	maps.Copy(vars, conversations[i].vars)
	return render(r.Template, vars)
}

// compareTemplates judges every template of the source by the one of the same
// name of the file. special are bos_token, eos_token, ...; run is Rendering.Run
// or does it elsewhere.
func compareTemplates(source, file []tokenizer.ChatTemplate, special map[string]string, run func(Rendering) (string, error)) TemplateResult {
	var r TemplateResult
	equal := true
	r.SameText = true
	differ := func(format string, args ...any) {
		equal = false
		r.Differences = append(r.Differences, fmt.Sprintf(format, args...))
	}
	for _, t := range file {
		r.Templates = append(r.Templates, t.Name)
		if !slices.ContainsFunc(source, func(s tokenizer.ChatTemplate) bool { return s.Name == t.Name }) {
			differ("template %q: is in the file and not in the source", t.Name)
		}
	}
	for _, want := range source {
		i := slices.IndexFunc(file, func(t tokenizer.ChatTemplate) bool { return t.Name == want.Name })
		if i < 0 {
			r.Templates = append(r.Templates, want.Name)
			differ("template %q: is in the source and not in the file", want.Name)
			continue
		}
		if want.Template == file[i].Template {
			continue
		}
		r.SameText = false
		for _, c := range conversations {
			a, errA := run(Rendering{want.Template, c.name, special})
			b, errB := run(Rendering{file[i].Template, c.name, special})
			switch unable := errors.Join(unless(errA, ErrRaised), unless(errB, ErrRaised)); {
			case unable != nil:
				r.NotJudged = append(r.NotJudged, fmt.Sprintf("template %q, conversation %q: %v", want.Name, c.name, unable))
				continue
			case (errA == nil) != (errB == nil):
				differ("template %q, conversation %q: the source's says %v, the file's %v", want.Name, c.name, orText(errA, a), orText(errB, b))
			case a != b:
				at := 0
				for at < min(len(a), len(b)) && a[at] == b[at] {
					at++
				}
				differ("template %q, conversation %q: byte %d: the source's has %q, the file's %q", want.Name, c.name, at, cut(a, at), cut(b, at))
			}
			r.Conversations++
		}
	}
	r.SameText = r.SameText && equal
	if equal && len(r.NotJudged) > 0 {
		return r
	}
	r.Equal = &equal
	return r
}

// unless returns err where it is not the expected one.
func unless(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

func orText(err error, text string) string {
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%q", cut(text, 0))
}

// cut is what follows at in s, in short.
func cut(s string, at int) string {
	const length = 40
	s = s[at:]
	if len(s) > length {
		return s[:length] + "..."
	}
	return s
}
