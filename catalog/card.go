package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/github/go-spdx/v2/spdxexp"
	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v3"
)

// Card is what a repository says about its model: small files, as far as they
// are there.
type Card struct {
	Repository string // org/name
	Readme     []byte // README.md with YAML in front
	Config     []byte // config.json
	Generation []byte // generation_config.json
	Tokenizer  []byte // tokenizer_config.json
	Template   []byte // chat_template.jinja
	Pooling    []byte // 1_Pooling/config.json
}

// frontMatter is the YAML in front of a model card, as the Hub documents it.
type frontMatter struct {
	License      list   `yaml:"license"`
	LicenseName  string `yaml:"license_name"`
	LicenseLink  string `yaml:"license_link"`
	Language     list   `yaml:"language"`
	Tags         list   `yaml:"tags"`
	PipelineTag  string `yaml:"pipeline_tag"`
	BaseModel    list   `yaml:"base_model"`
	GatedPrompt  string `yaml:"extra_gated_prompt"`
	GatedHeading string `yaml:"extra_gated_heading"`
}

// list is a text or a list of texts.
type list []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (l *list) UnmarshalYAML(n *yaml.Node) error {
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag != "!!null" {
			*l = list{n.Value}
		}
		return nil
	case yaml.SequenceNode:
		for _, x := range n.Content {
			if x.Kind == yaml.ScalarNode {
				*l = append(*l, x.Value)
			}
		}
		return nil
	}
	return fmt.Errorf("line %d: want a text or a list of texts", n.Line)
}

// Bounds of what a card may say.
const (
	maxFrontMatter = 256 << 10
	maxCardFile    = 64 << 20
	maxTags        = 12
	maxDescription = 300
)

// hubTasks are the Hub's pipeline tags in the catalog's words.
var hubTasks = map[string]Task{
	"text-generation": TextGeneration, "text2text-generation": TextGeneration, "conversational": TextGeneration,
	"feature-extraction": TextEmbeddings, "sentence-similarity": TextEmbeddings,
	"text-classification": TextClassification, "text-ranking": Reranking, "fill-mask": FillMask,
	"translation": Translation, "summarization": Summarization,
	"image-text-to-text": ImageToText, "image-to-text": ImageToText, "automatic-speech-recognition": SpeechRecognition,
}

// Draft makes the entry of a curation file from a model card, with notes on
// what a person must look at. What the card does not say is left out or
// guessed, and noted.
func Draft(c Card) (*Curated, []string, error) {
	owner, name, ok := strings.Cut(c.Repository, "/")
	if !ok {
		return nil, nil, fmt.Errorf("repository %s: want org/name", quoted(c.Repository))
	}
	for _, f := range [][]byte{c.Readme, c.Config, c.Generation, c.Tokenizer, c.Template, c.Pooling} {
		if len(f) > maxCardFile {
			return nil, nil, fmt.Errorf("a file of the card has %d bytes, want at most %d", len(f), maxCardFile)
		}
	}
	var notes []string
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	fm, body, err := splitCard(c.Readme)
	if err != nil {
		return nil, nil, fmt.Errorf("README.md: %w", err)
	}
	m := &Curated{
		Slug:        slugOf(name),
		Source:      "hf://" + c.Repository,
		Vendor:      nameOf(owner),
		DisplayName: cut(strings.ReplaceAll(plainText(name), "_", " "), 200),
		Description: firstParagraph(body),
		Homepage:    "https://huggingface.co/" + c.Repository,
		Task:        hubTasks[fm.PipelineTag],
		Variants:    []Wanted{{Name: "Q4_K_M"}, {Name: "Q8_0"}},
	}
	if m.Slug == "" || m.Vendor == "" {
		return nil, nil, fmt.Errorf("repository %s: no slug can be made of it", quoted(c.Repository))
	}
	if m.Description == "" {
		m.Description = m.DisplayName + "."
		note("description: the card has no plain paragraph: write one")
	}
	for _, base := range fm.BaseModel {
		if len(base) <= 300 && len(m.BaseModels) < 20 {
			m.BaseModels = append(m.BaseModels, plainText(base))
		}
	}
	for _, l := range fm.Language {
		if matches("language", l) && len(l) <= 35 && len(m.Languages) < 200 {
			m.Languages = append(m.Languages, l)
		}
	}
	for _, tag := range fm.Tags {
		if matches("name", tag) && len(tag) <= 40 && !strings.Contains(tag, ":") && len(m.Tags) < maxTags && !slices.Contains(m.Tags, tag) {
			m.Tags = append(m.Tags, tag)
		}
	}
	m.License = licenseOf(fm, note)
	if err := m.fromConfig(c, note); err != nil {
		return nil, nil, err
	}
	if m.Task == "" {
		m.Task = TextGeneration
		if m.Embedding != nil {
			m.Task = TextEmbeddings
		}
		note("task: the card has pipeline_tag %s: %s was guessed", quoted(fm.PipelineTag), m.Task)
	}
	if m.Task == TextEmbeddings {
		m.Variants = []Wanted{{Name: "F16"}}
		m.Capabilities = Capabilities{}
		if m.Embedding == nil {
			m.Embedding = &Embedding{}
			note("embedding: say dimensions and pooling where the files do not")
		}
	} else {
		m.Embedding = nil
	}
	note("serving: limits and prices are for you to say")
	return m, notes, nil
}

// CardLicense reads the license that a model card names; its SPDX is empty
// where the card names none.
func CardLicense(readme []byte) (License, error) {
	if len(readme) > maxCardFile {
		return License{}, fmt.Errorf("README.md: has %d bytes, want at most %d", len(readme), maxCardFile)
	}
	fm, _, err := splitCard(readme)
	if err != nil {
		return License{}, fmt.Errorf("README.md: %w", err)
	}
	if len(fm.License) == 0 || plainText(fm.License[0]) == "" {
		return License{}, nil
	}
	return licenseOf(fm, func(string, ...any) {}), nil
}

// splitCard parts the front matter from the text.
func splitCard(readme []byte) (frontMatter, string, error) {
	var fm frontMatter
	text := strings.ReplaceAll(strings.ToValidUTF8(string(readme), ""), "\r\n", "\n")
	text = strings.TrimPrefix(text, "\ufeff")
	rest, ok := strings.CutPrefix(text, "---\n")
	if !ok {
		return fm, text, nil
	}
	front, body, ok := strings.Cut(rest, "\n---")
	if !ok {
		return fm, text, errors.New("the YAML in front does not end")
	}
	if len(front) > maxFrontMatter {
		return fm, text, fmt.Errorf("the YAML in front has %d bytes, want at most %d", len(front), maxFrontMatter)
	}
	if err := yaml.NewDecoder(bytes.NewReader([]byte(front))).Decode(&fm); err != nil {
		return fm, text, fmt.Errorf("the YAML in front: %w", err)
	}
	return fm, body, nil
}

// licenseOf reads the license: the Hub's identifiers are those of SPDX in
// lower case, or the Hub's own.
func licenseOf(fm frontMatter, note func(string, ...any)) License {
	l := License{Gating: "none"}
	if fm.GatedPrompt != "" || fm.GatedHeading != "" {
		l.Gating = "accept"
		l.Terms = cut(plainText(fm.GatedPrompt), 4000)
		note("license: access is gated: say gate_url, and request instead of accept where somebody decides")
	}
	if u := fm.LicenseLink; matches("uri", u) && len(u) <= 2000 {
		l.URL = u
	}
	id := ""
	if len(fm.License) > 0 {
		id = plainText(fm.License[0])
	}
	switch {
	case id == "":
		note("license: the card has none")
	case id == "other" || id == "unknown" || len(id) > 100:
		l.Name = cut(plainText(fm.LicenseName), 200)
		l.SPDX = "LicenseRef-" + nameOf(cmpOr(l.Name, "other"))
		note("license: is not one of SPDX: say name and url")
	default:
		if ok, _ := spdxexp.ValidateLicenses([]string{id}); ok {
			l.SPDX = canonicalSPDX(id)
			return l
		}
		l.SPDX, l.Name = "LicenseRef-"+nameOf(id), id
		note("license: %s is the Hub's own identifier: say name and url", quoted(id))
	}
	return l
}

// canonicalSPDX is an SPDX identifier in the case that SPDX writes it in.
func canonicalSPDX(id string) string {
	if ids, err := spdxexp.ExtractLicenses(id); err == nil && len(ids) == 1 && strings.EqualFold(ids[0], id) {
		return ids[0]
	}
	return id
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// fromConfig reads what the files for programs say.
func (m *Curated) fromConfig(c Card, note func(string, ...any)) error {
	var config struct {
		MaxPosition int64 `json:"max_position_embeddings"`
		Positions   int64 `json:"n_positions"`
		Text        struct {
			MaxPosition int64 `json:"max_position_embeddings"`
		} `json:"text_config"`
	}
	var generation struct {
		Temperature *float64 `json:"temperature"`
		TopP        *float64 `json:"top_p"`
		TopK        *int64   `json:"top_k"`
		MinP        *float64 `json:"min_p"`
		Repeat      *float64 `json:"repetition_penalty"`
	}
	var tokenizer struct {
		Template json.RawMessage `json:"chat_template"`
	}
	var pooling struct {
		Dimensions int64 `json:"word_embedding_dimension"`
		CLS        bool  `json:"pooling_mode_cls_token"`
		Mean       bool  `json:"pooling_mode_mean_tokens"`
		Last       bool  `json:"pooling_mode_lasttoken"`
	}
	for _, f := range []struct {
		name string
		data []byte
		to   any
	}{{"config.json", c.Config, &config}, {"generation_config.json", c.Generation, &generation}, {"tokenizer_config.json", c.Tokenizer, &tokenizer}, {"1_Pooling/config.json", c.Pooling, &pooling}} {
		if len(f.data) == 0 {
			continue
		}
		if err := json.Unmarshal(f.data, f.to); err != nil {
			return fmt.Errorf("%s: %w", f.name, jsonError(err))
		}
	}
	for _, n := range []int64{config.Positions, config.Text.MaxPosition, config.MaxPosition} {
		if n > 0 {
			m.ContextWindow = n
		}
	}
	if m.ContextWindow == 0 {
		note("context_window: config.json does not say it")
	}
	template := string(c.Template)
	if template == "" {
		template = string(tokenizer.Template)
	}
	m.Capabilities.Streaming = true
	m.Capabilities.Tools = strings.Contains(template, "tools")
	m.Capabilities.Reasoning = strings.Contains(template, "<think>")
	if template != "" {
		note("capabilities: guessed from the chat template")
	}
	s := Sampling{Temperature: generation.Temperature, TopP: generation.TopP, TopK: generation.TopK, MinP: generation.MinP, RepeatPenalty: generation.Repeat}
	if s != (Sampling{}) {
		if err := check(&s, "toml"); err != nil {
			return fmt.Errorf("generation_config.json: %w", err)
		}
		m.Prompt = &Prompt{Sampling: &s}
	}
	if m.Capabilities.Reasoning {
		if m.Prompt == nil {
			m.Prompt = &Prompt{}
		}
		m.Prompt.Reasoning = &ReasoningTag{"<think>", "</think>"}
	}
	if pooling.Dimensions > 0 {
		m.Embedding = &Embedding{Dimensions: pooling.Dimensions, Pooling: "none"}
		switch {
		case pooling.Mean:
			m.Embedding.Pooling = "mean"
		case pooling.CLS:
			m.Embedding.Pooling = "cls"
		case pooling.Last:
			m.Embedding.Pooling = "last"
		}
	}
	return nil
}

// TOML is the entry as a part of a curation file. Notes are written as
// comments above it.
func (m *Curated) TOML(notes []string) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("\n")
	for _, n := range notes {
		fmt.Fprintf(&b, "# %s\n", plainText(n))
	}
	e := toml.NewEncoder(&b)
	e.SetIndentTables(false)
	if err := e.Encode(Curation{Models: []Curated{*m}}); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

var notOfSlug = regexp.MustCompile(`[^a-z0-9]+`)

// slugOf makes a slug of a repository's name: what is between letters and
// digits becomes one separator, dots stay.
func slugOf(name string) string {
	var parts []string
	for part := range strings.SplitSeq(strings.ToLower(name), ".") {
		if part = strings.Trim(notOfSlug.ReplaceAllString(part, "-"), "-"); part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Trim(cut(strings.Join(parts, "."), 100), ".-")
}

var notOfNames = regexp.MustCompile(`[^A-Za-z0-9._+-]+`)

func nameOf(text string) string {
	return cut(strings.Trim(notOfNames.ReplaceAllString(text, "-"), "-._+"), 100)
}

var (
	cardComment = regexp.MustCompile(`(?s)<!--.*?-->`)
	cardBlock   = regexp.MustCompile("(?s)(```.*?```|<(script|style|table|pre|svg)\\b.*?</(script|style|table|pre|svg)>)")
	cardTag     = regexp.MustCompile(`(?s)<[^<>]*>`)
	cardImage   = regexp.MustCompile(`!\[[^\]]*\]\([^)]*\)`)
	cardLink    = regexp.MustCompile(`\[([^\]]*)\]\((?:[^()]|\([^()]*\))*\)`)
)

// maxCardText is how much of a card is looked at for a description.
const maxCardText = 64 << 10

// firstParagraph is the first paragraph of a card that is text, without
// markup of HTML or Markdown.
func firstParagraph(text string) string {
	text = cut(text, maxCardText)
	for _, r := range []*regexp.Regexp{cardComment, cardBlock, cardImage} {
		text = r.ReplaceAllString(text, " ")
	}
	text = cardLink.ReplaceAllString(text, "$1")
	text = cardTag.ReplaceAllString(text, " ")
	for p := range strings.SplitSeq(text, "\n\n") {
		p = strings.TrimSpace(strings.NewReplacer("**", "", "__", "", "<", "").Replace(p))
		if p == "" || strings.ContainsRune("#|>-*+=`", rune(p[0])) || len(strings.Fields(p)) < 5 {
			continue // a heading, a table, a list, code
		}
		p = plainText(strings.NewReplacer("`", "", ">", "").Replace(p))
		if len(p) > maxDescription {
			p = cut(p, maxDescription)
			if i := strings.LastIndexAny(p, ".!?"); i > maxDescription/3 {
				p = p[:i+1]
			} else if i := strings.LastIndexByte(p, ' '); i > 0 {
				p = p[:i] + " ..."
			}
		}
		return p
	}
	return ""
}

// plainText is text on one line, of characters that are seen.
func plainText(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r) || unicode.IsControl(r):
			return ' '
		case unicode.Is(unicode.Cf, r) || !unicode.IsGraphic(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return strings.Join(strings.Fields(s), " ")
}

// cut is the first n bytes of a text, without half characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

// CardFiles are the names of the files that a Card is made of.
var CardFiles = []string{"README.md", "config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja", path.Join("1_Pooling", "config.json")}
