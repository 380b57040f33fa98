package catalog

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/pelletier/go-toml/v2"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/modelpipe/modelpipe/internal/golden"
)

// TestCurationSchema: what the program reads, the schema for editors allows.
func TestCurationSchema(t *testing.T) {
	var doc map[string]any
	if err := toml.Unmarshal([]byte(two), &doc); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := compileSchema(t, Schemas["curation"]()).Validate(value); err != nil {
		t.Error(err)
	}
}

func TestCurationFills(t *testing.T) {
	fsys := fstest.MapFS{
		"catalog.toml":    {Data: []byte("include = [\"models/*.toml\"]\nchannels = [\"stable\", \"beta\"]\n[serving]\nretries = 2\ntimeout_seconds = 9\n[[serving.prices]]\nunit = \"request\"\nper = 1000\namount = \"1.50\"\ncurrency = \"EUR\"\n")},
		"models/a.toml":   {Data: []byte(modelTOML("alpha", "[model.serving]\nretries = 1"))},
		"models/b.toml":   {Data: []byte(modelTOML("beta", `channels = ["beta"]`))},
		"models/skip.txt": {Data: []byte("no")},
	}
	c, err := ReadCuration(fsys, "catalog.toml")
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.Models[0], c.Models[1]
	if a.Serving.Retries != 1 || a.Serving.TimeoutSeconds != 9 || a.Serving.Prices[0].Tier != TierStandard || a.Revision != "main" || a.Update != UpdateFollow || a.Variants[0].Type != "Q8_0" || a.License.Gating != "none" || len(a.Channels) != 2 {
		t.Errorf("got %+v", a)
	}
	if b.Serving.Retries != 2 || len(b.Channels) != 1 || b.Modalities.Output[0] != "text" {
		t.Errorf("got %+v", b)
	}
}

func TestCurationErrors(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for change, want := range map[string]string{
		`aliases>alises`:                                            `catalog.toml: line 9: unknown key "model.alises"; did you mean "aliases"?`,
		"spdx = >spxd = ":                                           `unknown key "model.license.spxd"; did you mean "spdx"?`,
		`slug = "alpha">slug = 7`:                                   "line 3, column 8: ",
		`"first">"beta"`:                                            "model beta: the name beta is taken by model alpha",
		`slug = "beta">slug = "alpha"`:                              "model alpha is there twice",
		`slug = "alpha">slug = "../../etc/passwd"`:                  `model[0].slug: "../../etc/passwd": want lower-case letters`,
		`slug = "alpha">slug = "/abs"`:                              "want lower-case letters",
		`slug = "alpha">slug = "con"`:                               "is a device on Windows",
		`slug = "alpha">slug = "аlpha"`:                             `"\u0430lpha": want lower-case letters`,
		`slug = "alpha">slug = "a\u202eb"`:                          `"a\u202eb": want lower-case`,
		`slug = "alpha">slug = "` + long + `"`:                      `"... : has 1048576 characters, want at most 128`,
		`display_name = "Model">display_name = " "`:                 "model alpha: display_name is missing",
		`description = "A>description = "` + long + `A`:             "has 1048590 characters, want at most 4000",
		`spdx = "Apache-2.0">name = "x"`:                            "license.spdx is missing",
		`spdx = "Apache-2.0">spdx = "x"` + "\ngating = \"request\"": "license.gate_url is missing",
		`name = "Q8_0">name = "q4_k_m"`:                             "variant Q4_K_M is there twice",
		`task = "text-generation">task = "juggling"`:                `modalities are missing, for task "juggling"`,
		`heavy = "beta">heavy = "gamma"`:                            "pairing pair: no model has the slug gamma",
		`light_share = 70>light_share = 170`:                        "pairing[0].light_share: 170: want at most 100",
		`fallback = "heavy">fallback = "hevy"`:                      `fallback: "hevy": want heavy, light, either, none`,
		`name = "pair">name = "beta"`:                               "pairing beta: the name is taken by model beta",
		`https://models>https://user:pass@models`:                   "has a user or a password",
		`https://models>s3://models`:                                "kind http: want an address that begins with https:// or http://",
		"[[pairing]]>include = [\"x\"]\n[[pairing]]":                `unknown key "model.variant.include"`, // in the table before it
	} {
		from, to, _ := strings.Cut(change, ">")
		text := strings.Replace(two, from, to, 1)
		if text == two {
			t.Errorf("%s changes nothing", from)
		}
		_, err := ReadCuration(fstest.MapFS{"catalog.toml": {Data: []byte(text)}}, "catalog.toml")
		want = strings.ReplaceAll(want, `"... : `, `"...: `)
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 600 {
			t.Errorf("%.80s: got %.300v, want %q", change, err, want)
		}
	}
	for text, want := range map[string]string{
		"[[model.serving.prices]]\nunit = \"request\"\nper = 1\namount = \"1\"":                           "model[0].serving.prices[0].currency: is missing",
		"[[model.serving.prices]]\nunit = \"request\"\nper = 1\namount = \"-1\"\ncurrency = \"USD\"":      `amount: "-1": want a decimal number`,
		"[[model.serving.prices]]\nunit = \"request\"\nper = 1\namount = 0.1\ncurrency = \"USD\"":         "line ",
		"[[model.serving.prices]]\nunit = \"request\"\nper = 0\namount = \"1\"\ncurrency = \"USD\"":       "per: 0: want at least 1",
		"[[model.serving.prices]]\nunit = \"inputtoken\"\nper = 1\namount = \"1\"\ncurrency = \"USD\"":    `unit: "inputtoken": want input_token`,
		"[model.prompt]\ntemplate_digest = \"sha256:00\"":                                                 "template_digest: \"sha256:00\": want",
		"[[model.serving.endpoints]]\nname = \"e\"\nprovider = \"openai\"\napi_key_env = \"$(rm -rf /)\"": "api_key_env: \"$(rm -rf /)\": want the name of an environment variable",
	} {
		doc := modelTOML("alpha", text)
		_, err := ReadCuration(fstest.MapFS{"catalog.toml": {Data: []byte(doc)}}, "catalog.toml")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

const card = `---
license: apache-2.0
language:
- en
- de
- "<b>xx</b>"
pipeline_tag: text-generation
base_model: org/base
tags:
- chat
- "license:apache-2.0"
- <script>alert(1)</script>
---
# Title <img src=x onerror=alert(1)>

<p align="center"><img src="https://evil.example/x.png"></p>

![badge](https://evil.example/b.svg)

<script>alert("not this text, which is long enough to be a paragraph")</script>

**Nice** is a [small](javascript:alert(1)) model for <b>edge</b> devices; it answers ` + "`short`" + ` questions.

More.
`

func TestDraft(t *testing.T) {
	m, notes, err := Draft(Card{
		Repository: "Some-Org/Nice_Model-1.5B.Instruct",
		Readme:     []byte(card),
		Config:     []byte(`{"max_position_embeddings": 32768}`),
		Generation: []byte(`{"temperature": 0.7, "top_k": 20}`),
		Tokenizer:  []byte(`{"chat_template": "{% if tools %}<think>"}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := m.TOML(notes)
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "draft.toml", string(text))
	// The draft is a curation file.
	c := curation(t, string(text))
	if c.Models[0].Slug != "nice-model-1.5b.instruct" || c.Models[0].License.SPDX != "Apache-2.0" {
		t.Errorf("got %+v", c.Models[0])
	}
}

func TestDraftErrors(t *testing.T) {
	for _, c := range []struct {
		card Card
		want string
	}{
		{Card{Repository: "gpt2"}, "want org/name"},
		{Card{Repository: "…/…"}, "no slug can be made of it"},
		{Card{Repository: "a/b", Readme: []byte("---\nlicense: x\n")}, "README.md: the YAML in front does not end"},
		{Card{Repository: "a/b", Readme: []byte("---\nlicense: {a: b}\n---\n")}, "README.md: the YAML in front: "},
		{Card{Repository: "a/b", Readme: []byte("---\na: &a [1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nlicense: [*b\n---\n")}, "README.md: the YAML in front: "},
		{Card{Repository: "a/b", Readme: []byte("---\n" + strings.Repeat("x: y\n", 1<<16) + "---\n")}, "has 327679 bytes, want at most 262144"},
		{Card{Repository: "a/b", Config: []byte("{")}, "config.json: "},
		{Card{Repository: "a/b", Generation: []byte(`{"temperature": -1}`)}, "generation_config.json: temperature: -1: want at least 0"},
	} {
		if _, _, err := Draft(c.card); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	m, notes, err := Draft(Card{Repository: "a/b", Readme: []byte("---\nlicense: llama3.2\nextra_gated_prompt: Agree\u202e!\n---\n")})
	if err != nil || m.License.SPDX != "LicenseRef-llama3.2" || m.License.Gating != "accept" || m.License.Terms != "Agree!" || len(notes) < 4 {
		t.Errorf("got %+v, %q, %v", m, notes, err)
	}
}
