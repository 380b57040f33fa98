// Package catalog describes models for the gateways that route to them, the
// nodes that serve them and the people who choose among them.
//
// A Catalog is the neutral document: everything that an export to a gateway's
// own format, a page about a model or a node that fetches its files needs to
// know. Its JSON form is fixed by a JSON Schema (Schema), which is generated
// from the types in this file: the tag "schema" holds a field's constraints,
// the tag "doc" its meaning.
//
// What people write about models is a curation file (Curation), in TOML. It has
// the same keys: the tag "toml" says which of them may be left out there.
//
// Conventions of the JSON form: sizes are integers in bytes, shares are
// integers in percent, durations are integers in seconds, times are RFC 3339
// in UTC, digests are "sha256:" and 64 hexadecimal digits, amounts of money are
// decimal strings with a currency beside them. A field that is not known is
// left out. Unknown fields are errors, except under "x-extensions".
package catalog

import (
	"encoding/json"
	"time"
)

// SchemaID identifies the version of the JSON form of a Catalog. Readers
// refuse other major versions.
const SchemaID = "https://github.com/modelpipe/modelpipe/schema/catalog/1.0.0/catalog.schema.json"

// MediaType is the media type of a Catalog.
const MediaType = "application/vnd.modelpipe.catalog.v1+json"

// Catalog is the models of one channel, or a part of them, ordered by slug.
type Catalog struct {
	Schema     string            `json:"$schema" schema:"const=https://github.com/modelpipe/modelpipe/schema/catalog/1.0.0/catalog.schema.json" doc:"version of this format"`
	Channel    string            `json:"channel" schema:"pattern=name" doc:"channel whose releases the models have"`
	Models     []Model           `json:"models" doc:"models, ordered by slug"`
	Aliases    map[string]string `json:"aliases,omitempty" schema:"values.pattern=slug" doc:"in a part of a catalog: aliases of models that are in other parts, and their slugs"`
	Extensions Extensions        `json:"x-extensions,omitempty" doc:"anything else, by a name that its owner keeps unique"`
}

// Extensions is the one place for what this format does not know.
type Extensions map[string]json.RawMessage

// Digest is "sha256:" and 64 lower-case hexadecimal digits.
type Digest string

// Decimal is a number that is not negative, written as in "0.049".
type Decimal string

// Task is what a model does.
type Task string

// The tasks that exports and the site know. A catalog may hold others.
const (
	TextGeneration     Task = "text-generation"
	TextEmbeddings     Task = "text-embeddings"
	TextClassification Task = "text-classification"
	Reranking          Task = "reranking"
	FillMask           Task = "fill-mask"
	Translation        Task = "translation"
	Summarization      Task = "summarization"
	ImageToText        Task = "image-to-text"
	SpeechRecognition  Task = "automatic-speech-recognition"
)

// Model is a model with all that is offered of it in one channel.
type Model struct {
	Slug        string   `json:"slug" schema:"pattern=slug" doc:"the model's name in the catalog; never reused for another model"`
	Aliases     []string `json:"aliases,omitempty" schema:"items.pattern=slug" doc:"other names under which the model is found"`
	Vendor      string   `json:"vendor" schema:"pattern=name" doc:"who made the model, as the first part of a gateway's name for it"`
	DisplayName string   `json:"display_name" schema:"maxLength=200" doc:"name for people"`
	Description string   `json:"description" schema:"maxLength=4000" doc:"plain text for people, without markup"`
	Homepage    string   `json:"homepage,omitempty" schema:"format=uri" doc:"page about the model"`

	Task            Task         `json:"task" schema:"pattern=name" doc:"what the model does, as in text-generation or text-embeddings"`
	Modalities      Modalities   `json:"modalities" doc:"what goes in and what comes out"`
	Languages       []string     `json:"languages,omitempty" schema:"items.pattern=language" doc:"BCP 47 tags of the languages that the model was made for"`
	Tags            []string     `json:"tags,omitempty" schema:"items.pattern=name" doc:"words to find the model by"`
	Architecture    string       `json:"architecture,omitempty" schema:"pattern=name" doc:"general.architecture of the files, as in qwen3"`
	ContextWindow   int64        `json:"context_window" schema:"min=1" doc:"tokens that the model was made to take and give together"`
	MaxOutputTokens int64        `json:"max_output_tokens,omitempty" schema:"min=1" doc:"most tokens of one answer, where the model sets a limit"`
	Parameters      Parameters   `json:"parameters" doc:"number of weights"`
	Embedding       *Embedding   `json:"embedding,omitempty" doc:"what a model of task text-embeddings returns"`
	Capabilities    Capabilities `json:"capabilities" doc:"what gateways must know to route a request"`
	License         License      `json:"license" doc:"terms of use"`
	Prompt          *Prompt      `json:"prompt,omitempty" doc:"how requests become text for the model"`

	Created    time.Time    `json:"created" schema:"format=date-time" doc:"when the model entered the catalog"`
	Updated    time.Time    `json:"updated" schema:"format=date-time" doc:"when anything about it last changed"`
	Released   time.Time    `json:"released,omitzero" schema:"format=date-time" doc:"when its makers published it"`
	Deprecated *Deprecation `json:"deprecated,omitempty" doc:"the model is going to be withdrawn"`

	Variants []Variant `json:"variants" doc:"encodings that releases refer to, ordered by size"`
	Releases []Release `json:"releases" doc:"releases in this channel, the newest first"`
	Serving  Serving   `json:"serving" doc:"hints and limits for who serves the model"`
	Pairings []Pairing `json:"pairings,omitempty" doc:"pairs of a light and a heavy model that this one is part of"`

	Extensions Extensions `json:"x-extensions,omitempty" doc:"anything else, by a name that its owner keeps unique"`
}

// Modalities name what goes into a model and what comes out of it.
type Modalities struct {
	Input  []string `json:"input" toml:"input" schema:"items.enum=text|image|audio|video;minItems=1" doc:"kinds of input"`
	Output []string `json:"output" toml:"output" schema:"items.enum=text|image|audio|video|embedding|label|score;minItems=1" doc:"kinds of output"`
}

// Parameters are numbers of weights.
type Parameters struct {
	Total  int64 `json:"total" schema:"min=1" doc:"all weights"`
	Active int64 `json:"active,omitempty" schema:"min=1" doc:"weights that take part in one token, where that is fewer"`
}

// Embedding describes the vectors that an embedding model returns.
type Embedding struct {
	Dimensions     int64   `json:"dimensions" toml:"dimensions,omitempty" schema:"min=1" doc:"length of a vector"`
	Reduced        []int64 `json:"reduced,omitempty" toml:"reduced,omitempty" schema:"items.min=1" doc:"shorter lengths to which a vector may be cut"`
	Pooling        string  `json:"pooling" toml:"pooling,omitempty" schema:"enum=none|mean|cls|last|rank" doc:"how token vectors become one"`
	Normalized     bool    `json:"normalized" toml:"normalized,omitempty" doc:"vectors have length one"`
	QueryPrefix    string  `json:"query_prefix,omitempty" toml:"query_prefix,omitempty" schema:"maxLength=1000" doc:"text to put in front of a query"`
	DocumentPrefix string  `json:"document_prefix,omitempty" toml:"document_prefix,omitempty" schema:"maxLength=1000" doc:"text to put in front of a document"`
}

// Capabilities say what a model can do beyond its task.
type Capabilities struct {
	Streaming        bool `json:"streaming" toml:"streaming,omitempty" doc:"answers can be streamed"`
	Tools            bool `json:"tools" toml:"tools,omitempty" doc:"function calling"`
	ParallelTools    bool `json:"parallel_tools,omitempty" toml:"parallel_tools,omitempty" doc:"several function calls in one answer"`
	Reasoning        bool `json:"reasoning" toml:"reasoning,omitempty" doc:"thinks before it answers"`
	Vision           bool `json:"vision,omitempty" toml:"vision,omitempty" doc:"takes images"`
	StructuredOutput bool `json:"structured_output,omitempty" toml:"structured_output,omitempty" doc:"answers by a JSON Schema"`
	LoRA             bool `json:"lora,omitempty" toml:"lora,omitempty" doc:"takes adapters"`
}

// License is under which terms a model may be used.
type License struct {
	SPDX        string `json:"spdx" toml:"spdx" schema:"maxLength=200" doc:"SPDX expression, LicenseRef-... for a license without an identifier"`
	Name        string `json:"name,omitempty" toml:"name,omitempty" schema:"maxLength=200" doc:"name for people, where it has no SPDX identifier"`
	URL         string `json:"url,omitempty" toml:"url,omitempty" schema:"format=uri" doc:"text of the license"`
	Terms       string `json:"terms,omitempty" toml:"terms,omitempty" schema:"maxLength=4000" doc:"what a user must be told or must accept, plain text"`
	Attribution string `json:"attribution,omitempty" toml:"attribution,omitempty" schema:"maxLength=1000" doc:"line that the license wants to be shown"`
	Gating      string `json:"gating" toml:"gating,omitempty" schema:"enum=none|accept|request" doc:"none; accept: users accept the terms first; request: somebody decides"`
	GateURL     string `json:"gate_url,omitempty" toml:"gate_url,omitempty" schema:"format=uri" doc:"where the terms are accepted or access is asked for"`
	Commercial  *bool  `json:"commercial,omitempty" toml:"commercial,omitempty" doc:"whether commercial use is allowed, where that was looked up"`
}

// Prompt says how a conversation becomes the text that the model reads, and
// which parameters its makers recommend.
type Prompt struct {
	Template       string        `json:"template,omitempty" toml:"template,omitempty" schema:"maxLength=200000" doc:"Jinja chat template, as in tokenizer.chat_template"`
	TemplateDigest Digest        `json:"template_digest,omitempty" toml:"template_digest,omitempty" schema:"pattern=digest" doc:"of the template's bytes"`
	System         string        `json:"system,omitempty" toml:"system,omitempty" schema:"maxLength=20000" doc:"system message to use where the user gives none"`
	BOS            string        `json:"bos,omitempty" toml:"bos,omitempty" schema:"maxLength=200" doc:"token in front of everything"`
	EOS            string        `json:"eos,omitempty" toml:"eos,omitempty" schema:"maxLength=200" doc:"token that ends an answer"`
	Stop           []string      `json:"stop,omitempty" toml:"stop,omitempty" schema:"items.maxLength=200" doc:"texts that end an answer"`
	Reasoning      *ReasoningTag `json:"reasoning,omitempty" toml:"reasoning,omitempty" doc:"texts around the part of an answer that is thinking"`
	Sampling       *Sampling     `json:"sampling,omitempty" toml:"sampling,omitempty" doc:"recommended parameters"`
}

// ReasoningTag is the texts around the part of an answer that is thinking.
type ReasoningTag struct {
	Start string `json:"start" toml:"start" schema:"maxLength=200" doc:"text in front, as in <think>"`
	End   string `json:"end" toml:"end" schema:"maxLength=200" doc:"text behind, as in </think>"`
}

// Sampling is the parameters of sampling that a model's makers recommend.
type Sampling struct {
	Temperature   *float64 `json:"temperature,omitempty" toml:"temperature,omitempty" schema:"min=0;max=5" doc:"temperature"`
	TopP          *float64 `json:"top_p,omitempty" toml:"top_p,omitempty" schema:"min=0;max=1" doc:"nucleus"`
	TopK          *int64   `json:"top_k,omitempty" toml:"top_k,omitempty" schema:"min=0" doc:"number of candidates"`
	MinP          *float64 `json:"min_p,omitempty" toml:"min_p,omitempty" schema:"min=0;max=1" doc:"least probability relative to the best"`
	RepeatPenalty *float64 `json:"repeat_penalty,omitempty" toml:"repeat_penalty,omitempty" schema:"min=0;max=5" doc:"penalty of repeated tokens"`
}

// Deprecation says that a model is going to be withdrawn.
type Deprecation struct {
	At          time.Time `json:"at" toml:"at" schema:"format=date-time" doc:"when it is withdrawn"`
	Reason      string    `json:"reason" toml:"reason" schema:"maxLength=1000" doc:"why"`
	Replacement string    `json:"replacement,omitempty" toml:"replacement,omitempty" schema:"pattern=slug" doc:"slug of the model to use instead"`
}

// Variant is one encoding of a model: a GGUF file, or the parts of one, with
// where it can be had from and how good it is. It never changes: another
// encoding has another ID.
type Variant struct {
	ID            string           `json:"id" schema:"pattern=slug" doc:"unique among the variants of the model: name, - and the first 12 digits of the model file's digest"`
	Name          string           `json:"name" schema:"pattern=name" doc:"name in the curation file, as in Q4_K_M"`
	Format        string           `json:"format" schema:"enum=gguf" doc:"format of the model file"`
	Preset        string           `json:"preset" schema:"pattern=name" doc:"preset or type of the weights, as in Q4_K_M"`
	BitsPerWeight float64          `json:"bits_per_weight" schema:"min=0" doc:"8 x bytes of tensor data / weights"`
	Types         map[string]int64 `json:"types,omitempty" schema:"values.min=1" doc:"number of weights by ggml type"`
	Size          int64            `json:"size" schema:"min=1" doc:"bytes of all files"`
	Files         []File           `json:"files" schema:"minItems=1" doc:"files, the first part of the model first"`
	Locations     []Location       `json:"locations" schema:"minItems=1" doc:"places that hold all of the files, in order of preference"`
	Pieces        *Link            `json:"pieces,omitempty" doc:"digests of the pieces of the files, for who has another version already"`
	Memory        Memory           `json:"memory" doc:"what it takes to run it"`
	Quality       *Quality         `json:"quality,omitempty" doc:"what validation measured"`
	Provenance    Provenance       `json:"provenance" doc:"what it was made of, and how"`
	Extensions    Extensions       `json:"x-extensions,omitempty" doc:"anything else, by a name that its owner keeps unique"`
}

// The roles of files.
const (
	RoleModel     = "model"     // GGUF with the weights, or a part of a split one
	RoleProjector = "projector" // GGUF with the vision or audio encoder
	RoleAdapter   = "adapter"   // GGUF with a LoRA
	RoleLicense   = "license"
	RoleTemplate  = "template"
)

// File is a file of a variant.
type File struct {
	Path   string `json:"path" schema:"pattern=path" doc:"relative to a location, with slashes"`
	Size   int64  `json:"size" schema:"min=0" doc:"bytes"`
	SHA256 Digest `json:"sha256" schema:"pattern=digest" doc:"of the file's bytes"`
	Role   string `json:"role" schema:"enum=model|projector|adapter|license|template" doc:"what the file is for"`
}

// The kinds of locations.
const (
	KindStore = "store" // path relative to the root of the store that holds the catalog
	KindFile  = "file"
	KindHTTP  = "http"
	KindS3    = "s3"
	KindOCI   = "oci"
)

// Location is a place that holds a variant. For every kind but oci, a file's
// address is URI, "/" and the file's path. In a registry each file is the blob
// with the file's digest.
type Location struct {
	Kind     string `json:"kind" schema:"enum=store|file|http|s3|oci" doc:"store: URI is a path in the store that holds the catalog"`
	URI      string `json:"uri" schema:"maxLength=2000" doc:"folder: models/x/y, file:///x/y, https://host/x/y, s3://bucket/x/y; or oci://host/repository:tag"`
	Digest   Digest `json:"digest,omitempty" schema:"pattern=digest" doc:"of the manifest, in a registry"`
	Ollama   string `json:"ollama,omitempty" schema:"maxLength=2000" doc:"host/repository:tag of the sibling that Ollama can pull"`
	Region   string `json:"region,omitempty" schema:"pattern=name" doc:"of the bucket or the host"`
	Endpoint string `json:"endpoint,omitempty" schema:"format=uri" doc:"of an S3 store that is not Amazon's"`
}

// Memory estimates what it takes to run a variant on one sequence: Weights +
// Overhead + Context x PerToken bytes.
type Memory struct {
	Weights  int64 `json:"weights_bytes" schema:"min=1" doc:"the weights"`
	PerToken int64 `json:"per_token_bytes" schema:"min=0" doc:"the cache, of each token of the context"`
	Overhead int64 `json:"overhead_bytes" schema:"min=0" doc:"buffers of the computation"`
}

// Bytes returns the estimate for a context of so many tokens.
func (m Memory) Bytes(tokens int64) int64 { return m.Weights + m.Overhead + tokens*m.PerToken }

// Quality is what validation measured against the model that the variant was
// made from.
type Quality struct {
	KLD         *KLD     `json:"kld,omitempty" doc:"Kullback-Leibler divergence per token, nats"`
	Top1        *float64 `json:"top1,omitempty" schema:"min=0;max=1" doc:"share of the positions where both put the same token first"`
	PPL         *PPL     `json:"ppl,omitempty" doc:"perplexity on the same text"`
	TokensEqual *bool    `json:"tokens_equal,omitempty" doc:"the file tokenizes as the source does"`
	StructureOK *bool    `json:"structure_ok,omitempty" doc:"the file is well-formed and complete"`
	Gates       []Gate   `json:"gates,omitempty" doc:"what was asked, and whether it held"`
	Report      *Link    `json:"report,omitempty" doc:"the report with everything"`
}

// KLD is the divergence of the variant's predictions, in nats per token.
type KLD struct {
	Mean float64 `json:"mean" schema:"min=0" doc:"mean"`
	P99  float64 `json:"p99" schema:"min=0" doc:"99th percentile"`
	Max  float64 `json:"max" schema:"min=0" doc:"largest"`
}

// PPL is perplexity on the same text.
type PPL struct {
	Reference float64 `json:"reference" schema:"min=0" doc:"of the model that the variant was made from"`
	Candidate float64 `json:"candidate" schema:"min=0" doc:"of the variant"`
}

// Gate is a question that was put to a variant before it was published.
type Gate struct {
	Name   string   `json:"name" schema:"maxLength=200" doc:"what is asked, as in kld.mean"`
	Limit  *float64 `json:"limit,omitempty" doc:"the bound"`
	Value  *float64 `json:"value,omitempty" doc:"what was measured"`
	Passed bool     `json:"passed" doc:"whether it held"`
}

// Link is a document beside the catalog.
type Link struct {
	URI       string `json:"uri" schema:"maxLength=2000" doc:"path in the store that holds the catalog, or an address"`
	SHA256    Digest `json:"sha256" schema:"pattern=digest" doc:"of its bytes"`
	Size      int64  `json:"size" schema:"min=0" doc:"bytes"`
	MediaType string `json:"media_type,omitempty" schema:"maxLength=200" doc:"what it is"`
}

// Provenance says what a variant was made of, and how.
type Provenance struct {
	Source      Source    `json:"source" doc:"the checkpoint"`
	BaseModels  []string  `json:"base_models,omitempty" schema:"items.maxLength=300" doc:"repositories that the checkpoint was made from"`
	Tool        Tool      `json:"tool" doc:"the program that made the files"`
	Recipe      Digest    `json:"recipe_digest,omitempty" schema:"pattern=digest" doc:"of the recipe that chose the types"`
	Imatrix     Digest    `json:"imatrix_digest,omitempty" schema:"pattern=digest" doc:"of the importance matrix"`
	Created     time.Time `json:"created" schema:"format=date-time" doc:"when the files were made"`
	Attestation *Link     `json:"attestation,omitempty" doc:"signed in-toto statement with SLSA provenance (DSSE)"`
}

// Source is a checkpoint at a commit.
type Source struct {
	Repository string `json:"repository" schema:"maxLength=300" doc:"as in hf://org/name, or the name of a folder"`
	Commit     string `json:"commit,omitempty" schema:"pattern=commit" doc:"of the repository"`
}

// Tool is a program.
type Tool struct {
	Name    string `json:"name" schema:"pattern=name" doc:"as in modelpipe"`
	Version string `json:"version" schema:"maxLength=200" doc:"its version"`
}

// The states of a release.
const (
	StateCandidate = "candidate" // published, serves nothing yet
	StateActive    = "active"    // serves its share
	StateRetired   = "retired"   // superseded; may be gone back to
	StateWithdrawn = "withdrawn" // must not be served
)

// The slots of releases: the active releases of a channel are in different
// ones.
const (
	Blue  = "blue"
	Green = "green"
)

// Release is a set of variants that were offered together in a channel.
type Release struct {
	Version    int64       `json:"version" schema:"min=1" doc:"counts up in the channel"`
	Channel    string      `json:"channel" schema:"pattern=name" doc:"the channel"`
	Slot       string      `json:"slot" schema:"enum=blue|green" doc:"slot that the release is deployed to"`
	State      string      `json:"state" schema:"enum=candidate|active|retired|withdrawn" doc:"candidate: serves nothing yet; active; retired: superseded; withdrawn: must not be served"`
	Weight     int64       `json:"weight" schema:"min=0;max=100" doc:"share of the requests in percent; those of active releases add up to 100"`
	Variants   []string    `json:"variants" schema:"minItems=1;items.pattern=slug" doc:"IDs of its variants; the first is the one to serve where nothing else is said"`
	Supersedes int64       `json:"supersedes,omitempty" schema:"min=1" doc:"version of the release that it takes over from"`
	Created    time.Time   `json:"created" schema:"format=date-time" doc:"when it was published"`
	Promoted   time.Time   `json:"promoted,omitzero" schema:"format=date-time" doc:"when it became active"`
	Withdrawn  *Withdrawal `json:"withdrawn,omitempty" doc:"when and why it was withdrawn"`
	Notes      string      `json:"notes,omitempty" schema:"maxLength=4000" doc:"what is new, plain text"`
	Extensions Extensions  `json:"x-extensions,omitempty" doc:"anything else, by a name that its owner keeps unique"`
}

// Withdrawal says why a release must not be served any more.
type Withdrawal struct {
	At     time.Time `json:"at" schema:"format=date-time" doc:"when"`
	Reason string    `json:"reason" schema:"maxLength=1000" doc:"why"`
}

// Serving holds hints and limits for who serves a model.
type Serving struct {
	ContextTokens  int64       `json:"context_tokens" toml:"context_tokens,omitempty" schema:"min=1" doc:"context to serve the model with"`
	MaxTokens      int64       `json:"max_tokens,omitempty" toml:"max_tokens,omitempty" schema:"min=1" doc:"most tokens of one answer"`
	Precision      string      `json:"precision,omitempty" toml:"precision,omitempty" schema:"pattern=name" doc:"name for the precision of the default variant, as in int4 or fp16"`
	BatchSize      int64       `json:"batch_size,omitempty" toml:"batch_size,omitempty" schema:"min=1" doc:"tokens that are processed together"`
	MaxConcurrent  int64       `json:"max_concurrent_requests,omitempty" toml:"max_concurrent_requests,omitempty" schema:"min=1" doc:"requests at the same time, of one instance"`
	TimeoutSeconds int64       `json:"timeout_seconds,omitempty" toml:"timeout_seconds,omitempty" schema:"min=1" doc:"longest time of one request"`
	Retries        int64       `json:"retries,omitempty" toml:"retries,omitempty" schema:"min=0;max=10" doc:"how often a failed request is tried again"`
	CacheTTL       int64       `json:"cache_ttl_seconds,omitempty" toml:"cache_ttl_seconds,omitempty" schema:"min=0" doc:"how long equal requests may be answered from a cache"`
	AllowedOrigins []string    `json:"allowed_origins,omitempty" toml:"allowed_origins,omitempty" schema:"items.maxLength=300" doc:"origins that browsers may call from; * for any"`
	RateLimits     []RateLimit `json:"rate_limits,omitempty" toml:"rate_limits,omitempty" doc:"limits on what one caller may do"`
	Log            *LogPolicy  `json:"log,omitempty" toml:"log,omitempty" doc:"what may be kept of requests"`
	Prices         []Price     `json:"prices,omitempty" toml:"prices,omitempty" doc:"what is charged"`
	Budget         *Budget     `json:"budget,omitempty" toml:"budget,omitempty" doc:"when to warn about costs"`
	Endpoints      []Endpoint  `json:"endpoints,omitempty" toml:"endpoints,omitempty" doc:"where the model is served already"`
}

// RateLimit bounds what is counted in a window of time.
type RateLimit struct {
	Count   string `json:"count" toml:"count" schema:"enum=requests|tokens" doc:"what is counted"`
	Limit   int64  `json:"limit" toml:"limit" schema:"min=1" doc:"how many"`
	Seconds int64  `json:"seconds" toml:"seconds" schema:"min=1" doc:"in how long"`
	Scope   string `json:"scope" toml:"scope" schema:"enum=key|address|model" doc:"of each API key, of each address, or of all together"`
	Window  string `json:"window,omitempty" toml:"window,omitempty" schema:"enum=fixed|sliding" doc:"how the time is cut"`
}

// LogPolicy says what may be kept of requests and answers.
type LogPolicy struct {
	Mode          string   `json:"mode" toml:"mode" schema:"enum=none|metadata|full" doc:"nothing; times, sizes and prices; texts too"`
	RetentionDays int64    `json:"retention_days,omitempty" toml:"retention_days,omitempty" schema:"min=1" doc:"how long"`
	SamplePercent int64    `json:"sample_percent,omitempty" toml:"sample_percent,omitempty" schema:"min=1;max=100" doc:"share of the requests that are logged"`
	Redact        []string `json:"redact,omitempty" toml:"redact,omitempty" schema:"items.pattern=name" doc:"kinds of data to be taken out first, as in email"`
}

// The units of prices.
const (
	UnitInputToken       = "input_token"
	UnitCachedInputToken = "cached_input_token"
	UnitOutputToken      = "output_token"
	UnitReasoningToken   = "reasoning_token"
	UnitRequest          = "request"
	UnitImage            = "image"
	UnitSecond           = "second"
)

// TierStandard is the tier of a price that names none.
const TierStandard = "standard"

// Price is what is charged: Amount in Currency for Per units.
type Price struct {
	Unit     string  `json:"unit" toml:"unit" schema:"enum=input_token|cached_input_token|output_token|reasoning_token|request|image|second" doc:"what is charged for"`
	Per      int64   `json:"per" toml:"per" schema:"min=1" doc:"number of units that the amount is for, as in 1000000"`
	Amount   Decimal `json:"amount" toml:"amount" schema:"pattern=decimal" doc:"how much, as in 0.049"`
	Currency string  `json:"currency" toml:"currency" schema:"pattern=currency" doc:"ISO 4217 code"`
	Tier     string  `json:"tier" toml:"tier,omitempty" schema:"pattern=name" doc:"standard, or another class of service, as in batch"`
}

// Budget is when to warn about costs.
type Budget struct {
	Amount       Decimal `json:"amount" toml:"amount" schema:"pattern=decimal" doc:"costs that are expected at most"`
	Currency     string  `json:"currency" toml:"currency" schema:"pattern=currency" doc:"ISO 4217 code"`
	Period       string  `json:"period" toml:"period" schema:"enum=day|month" doc:"in how long"`
	AlarmPercent int64   `json:"alarm_percent" toml:"alarm_percent" schema:"min=1;max=1000" doc:"share of the amount at which to warn"`
}

// Endpoint is a server of the model that a gateway can route to.
type Endpoint struct {
	Name      string `json:"name" toml:"name" schema:"pattern=name" doc:"name of the backend"`
	Provider  string `json:"provider" toml:"provider" schema:"pattern=name" doc:"its protocol or vendor: openai (compatible), workers-ai, ollama, ..."`
	URL       string `json:"url,omitempty" toml:"url,omitempty" schema:"format=uri" doc:"base of its API"`
	Model     string `json:"model,omitempty" toml:"model,omitempty" schema:"maxLength=300" doc:"the model's name there, where it is not the slug"`
	APIKeyEnv string `json:"api_key_env,omitempty" toml:"api_key_env,omitempty" schema:"pattern=env" doc:"environment variable with the key; never the key"`
	Slot      string `json:"slot,omitempty" toml:"slot,omitempty" schema:"enum=blue|green" doc:"slot of the releases that it serves; left out: all"`
}

// Pairing sends some requests to a light model and the others to a heavy one.
type Pairing struct {
	Name           string   `json:"name" toml:"name" schema:"pattern=slug" doc:"name of the route; callers use it as a model's name"`
	Light          string   `json:"light" toml:"light" schema:"pattern=slug" doc:"slug of the light model"`
	Heavy          string   `json:"heavy" toml:"heavy" schema:"pattern=slug" doc:"slug of the heavy model"`
	LightShare     int64    `json:"light_share" toml:"light_share" schema:"min=0;max=100" doc:"percent of the requests that the light model gets"`
	MaxLightTokens int64    `json:"max_light_tokens,omitempty" toml:"max_light_tokens,omitempty" schema:"min=1" doc:"longer inputs go to the heavy model"`
	Fallback       string   `json:"fallback" toml:"fallback" schema:"enum=heavy|light|either|none" doc:"who takes over when the chosen one fails; either: the other one"`
	FallbackOn     []string `json:"fallback_on,omitempty" toml:"fallback_on,omitempty" schema:"items.enum=error|timeout|rate_limit" doc:"which failures; left out: all"`
}
