package export

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
)

// liteLLMDeployment is an element of model_list in the configuration of the
// LiteLLM proxy (https://docs.litellm.ai/docs/proxy/configs). Deployments of
// one name share its requests by their weights.
type liteLLMDeployment struct {
	ModelName string        `yaml:"model_name"`
	Params    liteLLMParams `yaml:"litellm_params"`
	Info      liteLLMInfo   `yaml:"model_info"`
}

type liteLLMParams struct {
	Model       string `yaml:"model"`
	APIBase     string `yaml:"api_base,omitempty"`
	APIKey      string `yaml:"api_key,omitempty"` // os.environ/NAME: read by LiteLLM
	RPM         int64  `yaml:"rpm,omitempty"`
	TPM         int64  `yaml:"tpm,omitempty"`
	Timeout     int64  `yaml:"timeout,omitempty"` // seconds
	MaxRetries  int64  `yaml:"max_retries,omitempty"`
	MaxParallel int64  `yaml:"max_parallel_requests,omitempty"`
	Weight      int64  `yaml:"weight"`
}

type liteLLMInfo struct {
	ID          string       `yaml:"id"`
	Mode        string       `yaml:"mode"`
	BaseModel   string       `yaml:"base_model"` // key in the prices file
	BudgetAlarm *budgetAlarm `yaml:"budget_alarm,omitempty"`
}

// liteLLMPrice is an entry of LiteLLM's prices file
// (model_prices_and_context_window.json): US dollars for one unit.
type liteLLMPrice struct {
	MaxTokens       int64            `json:"max_tokens,omitempty"`
	MaxInputTokens  int64            `json:"max_input_tokens"`
	MaxOutputTokens int64            `json:"max_output_tokens,omitempty"`
	VectorSize      int64            `json:"output_vector_size,omitempty"`
	Costs           map[string]exact `json:"-"` // *_cost_per_*
	Provider        string           `json:"litellm_provider"`
	Mode            string           `json:"mode"`
	Deprecation     string           `json:"deprecation_date,omitempty"`
	Source          string           `json:"source,omitempty"`
	Tools           bool             `json:"supports_function_calling,omitempty"`
	ParallelTools   bool             `json:"supports_parallel_function_calling,omitempty"`
	Reasoning       bool             `json:"supports_reasoning,omitempty"`
	Schema          bool             `json:"supports_response_schema,omitempty"`
	Streaming       bool             `json:"supports_native_streaming,omitempty"`
	System          bool             `json:"supports_system_messages,omitempty"`
	Vision          bool             `json:"supports_vision,omitempty"`
	Caching         bool             `json:"supports_prompt_caching,omitempty"`
}

// MarshalJSON puts the costs between the other fields.
func (p liteLLMPrice) MarshalJSON() ([]byte, error) {
	type plain liteLLMPrice
	fields, err := json.Marshal(plain(p))
	if err != nil || len(p.Costs) == 0 {
		return fields, err
	}
	costs, err := json.Marshal(p.Costs)
	if err != nil {
		return nil, err
	}
	return append(append(costs[:len(costs)-1], ','), fields[1:]...), nil
}

// liteLLMCosts are the keys of prices by unit and tier.
var liteLLMCosts = map[[2]string]string{
	{catalog.UnitInputToken, catalog.TierStandard}:       "input_cost_per_token",
	{catalog.UnitOutputToken, catalog.TierStandard}:      "output_cost_per_token",
	{catalog.UnitCachedInputToken, catalog.TierStandard}: "cache_read_input_token_cost",
	{catalog.UnitReasoningToken, catalog.TierStandard}:   "output_cost_per_reasoning_token",
	{catalog.UnitRequest, catalog.TierStandard}:          "input_cost_per_query",
	{catalog.UnitSecond, catalog.TierStandard}:           "input_cost_per_second",
	{catalog.UnitImage, catalog.TierStandard}:            "input_cost_per_image",
	{catalog.UnitInputToken, "batch"}:                    "input_cost_per_token_batches",
	{catalog.UnitOutputToken, "batch"}:                   "output_cost_per_token_batches",
	{catalog.UnitInputToken, "flex"}:                     "input_cost_per_token_flex",
	{catalog.UnitOutputToken, "flex"}:                    "output_cost_per_token_flex",
	{catalog.UnitInputToken, "priority"}:                 "input_cost_per_token_priority",
	{catalog.UnitOutputToken, "priority"}:                "output_cost_per_token_priority",
}

// liteLLMModes are the modes of tasks.
var liteLLMModes = map[catalog.Task]string{
	catalog.TextGeneration: "chat", catalog.ImageToText: "chat", catalog.Summarization: "chat", catalog.Translation: "chat",
	catalog.TextEmbeddings: "embedding", catalog.Reranking: "rerank", catalog.SpeechRecognition: "audio_transcription",
}

// liteLLMModel is what a model becomes.
type liteLLMModel struct {
	slug        string
	aliases     []string
	pairings    []catalog.Pairing
	deployments []liteLLMDeployment
	prices      map[string]liteLLMPrice
}

func init() {
	register(format[*liteLLMModel]{
		name:  "litellm",
		reads: "the LiteLLM proxy and library: configuration and prices",
		entry: liteLLMEntry,
		write: liteLLMFiles,
	})
}

func liteLLMEntry(j *job, m *catalog.Model) (*liteLLMModel, error) {
	mode, ok := liteLLMModes[m.Task]
	if !ok {
		return nil, unsupported("LiteLLM has no mode for task %s", m.Task)
	}
	all, err := backends(j, m)
	if err != nil {
		return nil, err
	}
	price, err := liteLLMPriceOf(j, m, mode)
	if err != nil {
		return nil, err
	}
	budget, err := alarm(m.Serving.Budget)
	if err != nil {
		return nil, err
	}
	l := &liteLLMModel{slug: m.Slug, aliases: m.Aliases, pairings: m.Pairings, prices: map[string]liteLLMPrice{}}
	for _, b := range all {
		provider := liteLLMProvider(b.Provider)
		d := liteLLMDeployment{
			ModelName: m.Slug,
			Params: liteLLMParams{
				Model: provider + "/" + b.Model, APIBase: b.URL,
				Timeout: m.Serving.TimeoutSeconds, MaxRetries: m.Serving.Retries, MaxParallel: m.Serving.MaxConcurrent, Weight: b.Weight,
			},
			Info: liteLLMInfo{ID: m.Slug + "/" + b.Name, Mode: mode, BaseModel: provider + "/" + m.Slug, BudgetAlarm: budget},
		}
		if b.APIKeyEnv != "" {
			d.Params.APIKey = "os.environ/" + b.APIKeyEnv
		} else if provider == "openai" {
			d.Params.APIKey = "none" // the client refuses to run without one
		}
		d.Params.RPM = perMinute(rateLimits(m, "model", "requests"))
		d.Params.TPM = perMinute(rateLimits(m, "model", "tokens"))
		l.deployments = append(l.deployments, d)
		p := price
		p.Provider = provider
		l.prices[d.Info.BaseModel] = p
	}
	for _, r := range m.Serving.RateLimits {
		if r.Scope != "model" {
			j.note("the limit of %d %s in %d seconds of each %s belongs to the proxy's keys", r.Limit, r.Count, r.Seconds, r.Scope)
		}
	}
	if m.Serving.CacheTTL > 0 {
		j.note("the time in a cache, %d seconds, is a setting of the whole proxy", m.Serving.CacheTTL)
	}
	return l, nil
}

// liteLLMProvider is LiteLLM's name of a provider.
func liteLLMProvider(name string) string {
	if name == WorkersAI {
		return "cloudflare"
	}
	return strings.ToLower(name)
}

// perMinute returns the strictest limit for a minute, or 0 without one. What
// is allowed in a longer time is spread evenly.
func perMinute(limits []catalog.RateLimit) int64 {
	var out int64
	for _, l := range limits {
		n := max(1, l.Limit*60/l.Seconds)
		if l.Limit > 1<<50 {
			n = l.Limit / l.Seconds * 60
		}
		if out == 0 || n < out {
			out = n
		}
	}
	return out
}

func liteLLMPriceOf(j *job, m *catalog.Model, mode string) (liteLLMPrice, error) {
	c := m.Capabilities
	p := liteLLMPrice{
		MaxInputTokens: m.Serving.ContextTokens, MaxOutputTokens: m.Serving.MaxTokens, MaxTokens: m.Serving.MaxTokens, Mode: mode,
		Costs: map[string]exact{}, Source: m.Homepage,
		Tools: c.Tools, ParallelTools: c.ParallelTools, Reasoning: c.Reasoning, Schema: c.StructuredOutput, Streaming: c.Streaming,
		Vision: c.Vision, System: m.Prompt != nil && strings.Contains(m.Prompt.Template, "system"),
	}
	if m.Embedding != nil {
		p.VectorSize = m.Embedding.Dimensions
	}
	if m.Deprecated != nil {
		p.Deprecation = m.Deprecated.At.UTC().Format("2006-01-02")
	}
	for _, price := range m.Serving.Prices {
		key, ok := liteLLMCosts[[2]string{price.Unit, price.Tier}]
		if !ok {
			j.note("the price of a %s in tier %s has no place", price.Unit, price.Tier)
			continue
		}
		if price.Currency != "USD" {
			return p, unsupported("prices are in %s, want USD", price.Currency)
		}
		amount, err := perUnits(price, 1)
		if err != nil {
			return p, err
		}
		p.Costs[key] = amount
		p.Caching = p.Caching || price.Unit == catalog.UnitCachedInputToken
	}
	// An entry without these is refused where it is charged for.
	for _, key := range []string{"input_cost_per_token", "output_cost_per_token"} {
		if p.Costs[key] == "" {
			p.Costs[key] = "0"
		}
	}
	return p, nil
}

func liteLLMFiles(j *job, models []*liteLLMModel) ([]File, error) {
	list := []liteLLMDeployment{}
	prices := map[string]liteLLMPrice{}
	aliases := map[string]string{}
	fallbacks := []map[string][]string{}
	for _, m := range models {
		list = append(list, m.deployments...)
		for key, p := range m.prices {
			prices[key] = p
		}
		for _, a := range m.aliases {
			aliases[a] = m.slug
		}
	}
	for _, p := range pairings(j, models, func(m *liteLLMModel) (string, []catalog.Pairing) { return m.slug, m.pairings }) {
		j.subject = p.Name
		list = append(list, liteLLMShare(p.Name, p.light.deployments, p.LightShare, p.heavy.deployments)...)
		list = append(list, liteLLMShare(p.Name, p.heavy.deployments, 100-p.LightShare, p.light.deployments)...)
		var to []string
		if p.Fallback == "heavy" || p.Fallback == "either" {
			to = append(to, p.Heavy)
		}
		if p.Fallback == "light" || p.Fallback == "either" {
			to = append(to, p.Light)
		}
		if to != nil {
			fallbacks = append(fallbacks, map[string][]string{p.Name: to})
		}
		if p.MaxLightTokens > 0 {
			j.note("inputs of more than %d tokens are not told apart", p.MaxLightTokens)
		}
	}
	var settings struct {
		Router struct {
			Strategy  string                `yaml:"routing_strategy"`
			Aliases   map[string]string     `yaml:"model_group_alias,omitempty"`
			Fallbacks []map[string][]string `yaml:"fallbacks,omitempty"`
		} `yaml:"router_settings"`
	}
	settings.Router.Strategy = "simple-shuffle" // the one that weighs
	settings.Router.Aliases = aliases
	settings.Router.Fallbacks = fallbacks
	var config yamlText
	if err := yamlList(&config, "model_list", list); err != nil {
		return nil, err
	}
	if err := config.put("", settings); err != nil {
		return nil, err
	}
	jsonDoc, err := jsonFile("litellm/prices.json", prices)
	return []File{config.file("litellm/config.yaml"), jsonDoc}, err
}

// liteLLMShare returns deployments under the name of a pairing, with their
// share of it. Weights of both models are brought to one scale: each is
// multiplied by the sum of the other's.
func liteLLMShare(name string, all []liteLLMDeployment, share int64, other []liteLLMDeployment) []liteLLMDeployment {
	if share == 0 {
		return nil
	}
	var scale int64
	for _, d := range other {
		scale += d.Params.Weight
	}
	out := slices.Clone(all)
	for i := range out {
		out[i].ModelName = name
		out[i].Info.ID = name + "/" + out[i].Info.ID
		out[i].Params.Weight *= share * scale
	}
	return out
}
