package validate

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/internal/golden"
	"github.com/modelpipe/modelpipe/tokenizer"
)

// TestRender holds the renderer to what jinja2 makes of published templates
// (testdata/chat/make.py).
func TestRender(t *testing.T) {
	given := object{}
	for _, c := range conversations {
		given[c.name] = c.vars
	}
	text, err := json.MarshalIndent(given, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "chat/conversations.json", string(text)+"\n") // then make.py
	var expected map[string]map[string]string
	data, err := os.ReadFile("testdata/chat/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &expected); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob("testdata/chat/*.jinja")
	if err != nil || len(names) != len(expected) {
		t.Fatalf("%d templates, %d expected (%v)", len(names), len(expected), err)
	}
	for _, name := range names {
		template, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		stem := strings.TrimSuffix(filepath.Base(name), ".jinja")
		for _, c := range conversations {
			vars := object{"bos_token": "<s>", "eos_token": "</s>"}
			for k, v := range c.vars {
				vars[k] = v
			}
			got, err := render(string(template), vars)
			if errors.Is(err, ErrRaised) {
				got, err = "raises: "+strings.TrimPrefix(err.Error(), ErrRaised.Error()+": "), nil
			}
			if want := expected[stem][c.name]; err != nil || got != want {
				t.Errorf("%s, %s: error %v\ngot  %q\nwant %q", stem, c.name, err, got, want)
			}
		}
	}
}

func TestCompareTemplates(t *testing.T) {
	const a = `{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}`
	named := func(name, text string) []tokenizer.ChatTemplate {
		return []tokenizer.ChatTemplate{{Name: name, Template: text}}
	}
	yes, no := true, false
	for _, c := range []struct {
		name         string
		source, file []tokenizer.ChatTemplate
		equal        *bool
		says         string
	}{
		{"none", nil, nil, &yes, ""},
		{"same text, even if it cannot be run", named("default", "{% bad"), named("default", "{% bad"), &yes, ""},
		{"other text, same result", named("default", a), named("default", `{%- for x in messages -%}<{{ x["role"] }}>{{ x["content"] }}{%- endfor -%}`), &yes, ""},
		{"other result", named("default", a), named("default", strings.Replace(a, "<", "[", 1)), &no, `byte 0: the source's has "<user>`},
		{"missing", named("default", a), nil, &no, "is in the source and not in the file"},
		{"added", nil, named("default", a), &no, "is in the file and not in the source"},
		{"cannot be run", named("default", a), named("default", "{% bad"), nil, "conversation"},
		{"one raises", named("default", a), named("default", `{{ raise_exception("no") }}`), &no, "the template raises: no"},
		{"both raise", named("default", `{{ raise_exception("no") }}`), named("default", `{{ raise_exception('never') }}`), &yes, ""},
		{"endless", named("default", a), named("default", `{% for i in range(1000000000000) %}x{% endfor %}`), nil, "range"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := compareTemplates(c.source, c.file, nil, Rendering.Run)
			if (r.Equal == nil) != (c.equal == nil) || r.Equal != nil && *r.Equal != *c.equal {
				t.Errorf("equal is %v: %+v", r.Equal, r)
			}
			if said := strings.Join(append(r.Differences, r.NotJudged...), "\n"); !strings.Contains(said, c.says) || c.says == "" && said != "" {
				t.Errorf("says %q: want %q", said, c.says)
			}
		})
	}
}
