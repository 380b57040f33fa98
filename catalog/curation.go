package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/internal/tomlfile"
	"github.com/modelpipe/modelpipe/publish"
)

// CurationSchemaID identifies the version of the form of a curation file.
const CurationSchemaID = "https://github.com/modelpipe/modelpipe/schema/curation/1.0.0/curation.schema.json"

// DefaultChannel is the channel of models that name none.
const DefaultChannel = "stable"

// Curation is what people decide about a catalog: which models it has, in
// which variants, and on what terms. It is written in TOML (docs/catalog.md).
type Curation struct {
	Include  []string  `toml:"include,omitempty" schema:"items.maxLength=1024" doc:"further files with models, pairings and mirrors; paths or patterns relative to this file"`
	Channels []string  `toml:"channels,omitempty" schema:"items.pattern=slug" doc:"channels of models that name none; left out: stable"`
	Serving  *Serving  `toml:"serving,omitempty" doc:"what models say about serving where they leave it out"`
	Mirrors  []Mirror  `toml:"mirror,omitempty" doc:"places that hold the same folders as the store"`
	Models   []Curated `toml:"model,omitempty" doc:"models"`
	Pairings []Pairing `toml:"pairing,omitempty" doc:"pairs of a light and a heavy model"`
}

// Mirror is a place that holds the same folders as the store: the location of
// a variant there is URI, "/" and the variant's folder.
type Mirror struct {
	Kind     string `toml:"kind" schema:"enum=file|http|s3" doc:"kind of place"`
	URI      string `toml:"uri" schema:"format=uri" doc:"address of the folder that is the store's root there"`
	Region   string `toml:"region,omitempty" schema:"pattern=name" doc:"of the bucket or the host"`
	Endpoint string `toml:"endpoint,omitempty" schema:"format=uri" doc:"of an S3 store that is not Amazon's"`
	First    bool   `toml:"first,omitempty" doc:"prefer it to the store"`
}

// The policies of updates.
const (
	UpdateFollow = "follow" // a new commit of the revision makes a new release
	UpdatePin    = "pin"    // nothing is made anew until the file changes
)

// Curated is a model as people describe it.
type Curated struct {
	Slug     string   `toml:"slug" schema:"pattern=slug" doc:"the model's name in the catalog; never reused for another model"`
	Aliases  []string `toml:"aliases,omitempty" schema:"items.pattern=slug" doc:"other names under which the model is found"`
	Source   string   `toml:"source" schema:"maxLength=1024" doc:"hf://org/name, or the path of a folder"`
	Revision string   `toml:"revision,omitempty" schema:"maxLength=250" doc:"branch, tag or commit; left out: main"`
	Update   string   `toml:"update,omitempty" schema:"enum=follow|pin" doc:"follow: a new commit makes a new release; pin: only a change of this file does; left out: follow"`
	Channels []string `toml:"channels,omitempty" schema:"items.pattern=slug" doc:"channels that offer the model"`

	Vendor          string         `toml:"vendor" schema:"pattern=name" doc:"who made the model, as the first part of a gateway's name for it"`
	DisplayName     string         `toml:"display_name" schema:"maxLength=200" doc:"name for people"`
	Description     string         `toml:"description" schema:"maxLength=4000" doc:"plain text for people, without markup"`
	Homepage        string         `toml:"homepage,omitempty" schema:"format=uri" doc:"page about the model"`
	Task            Task           `toml:"task" schema:"pattern=name" doc:"what the model does, as in text-generation or text-embeddings"`
	Modalities      *Modalities    `toml:"modalities,omitempty" doc:"what goes in and what comes out; left out: what the task says"`
	Languages       []string       `toml:"languages,omitempty" schema:"items.pattern=language" doc:"BCP 47 tags of the languages that the model was made for"`
	Tags            []string       `toml:"tags,omitempty" schema:"items.pattern=name" doc:"words to find the model by"`
	ContextWindow   int64          `toml:"context_window,omitempty" schema:"min=1" doc:"tokens that the model takes and gives together; left out: what the files say"`
	MaxOutputTokens int64          `toml:"max_output_tokens,omitempty" schema:"min=1" doc:"most tokens of one answer, where the model sets a limit"`
	Active          int64          `toml:"active_parameters,omitempty" schema:"min=1" doc:"weights that take part in one token, of a mixture of experts"`
	Embedding       *Embedding     `toml:"embedding,omitempty" doc:"of an embedding model; what is left out is what the files say"`
	Capabilities    Capabilities   `toml:"capabilities,omitempty" doc:"what gateways must know to route a request"`
	License         License        `toml:"license" doc:"terms of use"`
	Prompt          *Prompt        `toml:"prompt,omitempty" doc:"what is left out is what the files say; with template_digest alone the template of the files must be that one"`
	TemplateHas     []string       `toml:"template_has,omitempty" schema:"items.maxLength=1000" doc:"texts that the chat template must have"`
	Released        time.Time      `toml:"released,omitempty" doc:"when its makers published it"`
	Deprecated      *Deprecation   `toml:"deprecated,omitempty" doc:"the model is going to be withdrawn"`
	BaseModels      []string       `toml:"base_models,omitempty" schema:"items.maxLength=300" doc:"repositories that the model was made from"`
	Variants        []Wanted       `toml:"variant" schema:"minItems=1" doc:"encodings, the default one first"`
	Serving         *Serving       `toml:"serving,omitempty" doc:"hints and limits for who serves the model"`
	Extensions      extensionsTOML `toml:"x-extensions,omitempty" doc:"anything else, by a name that its owner keeps unique"`
}

// extensionsTOML is Extensions as TOML has them.
type extensionsTOML map[string]any

// encode turns the values into JSON.
func (x extensionsTOML) encode() (Extensions, error) {
	if len(x) == 0 {
		return nil, nil
	}
	out := Extensions{}
	for key, v := range x {
		data, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("x-extensions.%s: %w", quoted(key), err)
		}
		out[key] = data
	}
	return out, nil
}

// TypeFit is the type of a variant whose tensors get the types that lose least
// in max_size bytes.
const TypeFit = "fit"

// Wanted is a variant that people ask for.
type Wanted struct {
	Name    string   `toml:"name" schema:"pattern=name" doc:"name of the variant, as in Q4_K_M"`
	Type    string   `toml:"type,omitempty" schema:"pattern=name" doc:"preset or type; fit: the types that lose least in max_size bytes; left out: the name"`
	Recipe  string   `toml:"recipe,omitempty" schema:"maxLength=1024" doc:"path of a recipe file, instead of a type"`
	Imatrix string   `toml:"imatrix,omitempty" schema:"maxLength=1024" doc:"path of an importance matrix; auto: made by the refresh"`
	MaxSize string   `toml:"max_size,omitempty" schema:"pattern=size" doc:"gate: most bytes of its files; of type fit, what its types are chosen for"`
	MaxKLD  *float64 `toml:"max_kld,omitempty" schema:"min=0" doc:"gate: largest mean divergence, nats per token"`
	MinTop1 *float64 `toml:"min_top1,omitempty" schema:"min=0;max=1" doc:"gate: least share of equal first tokens"`
	MaxPPL  *float64 `toml:"max_ppl_ratio,omitempty" schema:"min=0" doc:"gate: largest perplexity relative to the source's"`
}

// Bounds of a curation.
const (
	maxCurationFile = 256 << 20
	maxIncludes     = 100_000
)

// ReadCuration reads a curation file of fsys and the files that it includes.
// Keys that are not known are errors that name the nearest known one. What
// people leave out is filled in where it does not depend on the files of the
// model.
func ReadCuration(fsys fs.FS, name string) (*Curation, error) {
	c, err := readCurationFile(fsys, name)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{path.Clean(name): true}
	for _, pattern := range c.Include {
		pattern = path.Join(path.Dir(name), pattern)
		names, err := fs.Glob(fsys, pattern)
		if err != nil {
			return nil, fmt.Errorf("%s: include %s: %w", name, quoted(pattern), err)
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("%s: include %s: no such file", name, quoted(pattern))
		}
		for _, n := range names {
			if seen[n] {
				continue
			}
			if seen[n] = true; len(seen) > maxIncludes {
				return nil, fmt.Errorf("%s: includes more than %d files", name, maxIncludes)
			}
			more, err := readCurationFile(fsys, n)
			if err != nil {
				return nil, err
			}
			if more.Include != nil || more.Channels != nil || more.Serving != nil {
				return nil, fmt.Errorf("%s: include, channels and serving belong into %s", n, name)
			}
			c.Models = append(c.Models, more.Models...)
			c.Pairings = append(c.Pairings, more.Pairings...)
			c.Mirrors = append(c.Mirrors, more.Mirrors...)
		}
	}
	c.Include = nil
	c.fill()
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

func readCurationFile(fsys fs.FS, name string) (*Curation, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxCurationFile {
		return nil, fmt.Errorf("%s: has %d bytes, want at most %d", name, info.Size(), maxCurationFile)
	}
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, err
	}
	var c Curation
	if err := tomlfile.Decode(data, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &c, nil
}

// modalities are what goes into a task and what comes out of it.
var modalities = map[Task]Modalities{
	TextGeneration:     {[]string{"text"}, []string{"text"}},
	TextEmbeddings:     {[]string{"text"}, []string{"embedding"}},
	TextClassification: {[]string{"text"}, []string{"label"}},
	Reranking:          {[]string{"text"}, []string{"score"}},
	FillMask:           {[]string{"text"}, []string{"text"}},
	Translation:        {[]string{"text"}, []string{"text"}},
	Summarization:      {[]string{"text"}, []string{"text"}},
	ImageToText:        {[]string{"text", "image"}, []string{"text"}},
	SpeechRecognition:  {[]string{"audio"}, []string{"text"}},
}

// fill puts in what people leave out.
func (c *Curation) fill() {
	if len(c.Channels) == 0 {
		c.Channels = []string{DefaultChannel}
	}
	for i := range c.Models {
		m := &c.Models[i]
		if len(m.Channels) == 0 {
			m.Channels = c.Channels
		}
		if m.Revision == "" {
			m.Revision = "main"
		}
		if m.Update == "" {
			m.Update = UpdateFollow
		}
		if io, ok := modalities[m.Task]; ok && m.Modalities == nil {
			m.Modalities = &io
		}
		if m.License.Gating == "" {
			m.License.Gating = "none"
		}
		m.Serving = mergeServing(m.Serving, c.Serving)
		for j := range m.Serving.Prices {
			if p := &m.Serving.Prices[j]; p.Tier == "" {
				p.Tier = TierStandard
			}
		}
		for j := range m.Variants {
			if v := &m.Variants[j]; v.Type == "" && v.Recipe == "" {
				v.Type = v.Name
			}
		}
	}
}

// mergeServing returns what s says, and for the rest what the defaults say.
func mergeServing(s, defaults *Serving) *Serving {
	var out Serving
	if defaults != nil {
		out = *defaults
		out.Prices = slices.Clone(defaults.Prices) // filled in by model
	}
	if s != nil {
		from, to := reflect.ValueOf(s).Elem(), reflect.ValueOf(&out).Elem()
		for i := range from.NumField() {
			if !from.Field(i).IsZero() {
				to.Field(i).Set(from.Field(i))
			}
		}
	}
	return &out
}

// validate holds a filled curation to its schema and to what that cannot say.
func (c *Curation) validate() error {
	var bad []error
	add := func(format string, args ...any) { bad = append(bad, fmt.Errorf(format, args...)) }
	if err := check(c, "toml"); err != nil {
		return err
	}
	owner := map[string]string{} // of a name, the slug
	for i := range c.Models {
		m := &c.Models[i]
		for _, name := range append([]string{m.Slug}, m.Aliases...) {
			if err := publish.CheckName(name); err != nil {
				add("model %s: %w", m.Slug, err)
			}
			switch other, taken := owner[name]; {
			case taken && name == m.Slug && other == name:
				add("model %s is there twice", m.Slug)
			case taken:
				add("model %s: the name %s is taken by model %s", m.Slug, name, other)
			}
			owner[name] = m.Slug
		}
		for _, err := range m.problems() {
			add("model %s: %w", m.Slug, err)
		}
	}
	for _, p := range c.Pairings {
		for _, slug := range []string{p.Light, p.Heavy} {
			if owner[slug] != slug {
				add("pairing %s: no model has the slug %s", p.Name, slug)
			}
		}
		if p.Light == p.Heavy {
			add("pairing %s: light and heavy are the same model", p.Name)
		}
		if other, taken := owner[p.Name]; taken {
			add("pairing %s: the name is taken by model %s", p.Name, other)
		}
		owner[p.Name] = "pairing " + p.Name
	}
	for _, m := range c.Mirrors {
		if err := (Location{Kind: m.Kind, URI: m.URI}).validate(); err != nil {
			add("mirror %s: %w", quoted(m.URI), err)
		}
	}
	const most = 20
	if len(bad) > most {
		bad = append(bad[:most], fmt.Errorf("and %d more", len(bad)-most))
	}
	return errors.Join(bad...)
}

// problems are what is wrong with a model on its own.
func (m *Curated) problems() (bad []error) {
	add := func(format string, args ...any) { bad = append(bad, fmt.Errorf(format, args...)) }
	if m.Source == "" {
		add("source is missing")
	}
	for _, s := range [][2]string{{"display_name", m.DisplayName}, {"description", m.Description}, {"license.spdx", m.License.SPDX}} {
		if strings.TrimSpace(s[1]) == "" {
			add("%s is missing", s[0])
		}
	}
	if m.Modalities == nil {
		add("modalities are missing, for task %s is not one of those that imply them", quoted(string(m.Task)))
	}
	if m.License.Gating != "none" && m.License.GateURL == "" {
		add("license.gate_url is missing, for license.gating is %s", m.License.Gating)
	}
	names := map[string]bool{}
	for _, v := range m.Variants {
		if key := strings.ToLower(v.Name); names[key] {
			add("variant %s is there twice", v.Name)
		} else {
			names[key] = true
		}
		if v.Type != "" && v.Recipe != "" {
			add("variant %s: has a type and a recipe", v.Name)
		}
		if strings.EqualFold(v.Type, TypeFit) && v.MaxSize == "" {
			add("variant %s: max_size is missing, for type %s chooses the types for it", v.Name, TypeFit)
		}
	}
	channels := map[string]bool{}
	for _, name := range m.Channels {
		if channels[name] {
			add("channel %s is there twice", name)
		}
		channels[name] = true
	}
	if m.Deprecated != nil && m.Deprecated.Replacement == m.Slug {
		add("deprecated.replacement is the model itself")
	}
	type key struct{ unit, tier, currency string }
	prices := map[key]bool{}
	for _, p := range m.Serving.Prices {
		if k := (key{p.Unit, p.Tier, p.Currency}); prices[k] {
			add("price of %s in tier %s is there twice", p.Unit, p.Tier)
		} else {
			prices[k] = true
		}
	}
	return bad
}
