package export

import (
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
)

// openRouterModel is an element of the answer to GET /api/v1/models
// (https://openrouter.ai/docs/api-reference/list-available-models). Prices are
// decimal strings in US dollars for one unit.
type openRouterModel struct {
	ID                  string             `json:"id"`
	CanonicalSlug       string             `json:"canonical_slug"`
	HuggingFaceID       string             `json:"hugging_face_id,omitempty"`
	Name                string             `json:"name"`
	Created             int64              `json:"created"`
	Description         string             `json:"description"`
	ContextLength       int64              `json:"context_length"`
	Architecture        openRouterModality `json:"architecture"`
	Pricing             map[string]string  `json:"pricing"`
	TopProvider         openRouterProvider `json:"top_provider"`
	PerRequestLimits    *struct{}          `json:"per_request_limits"`
	SupportedParameters []string           `json:"supported_parameters"`
	DefaultParameters   map[string]float64 `json:"default_parameters,omitempty"`
	ExpirationDate      string             `json:"expiration_date,omitempty"`
}

type openRouterModality struct {
	Modality         string   `json:"modality"`
	InputModalities  []string `json:"input_modalities"`
	OutputModalities []string `json:"output_modalities"`
	Tokenizer        string   `json:"tokenizer"`
	InstructType     *string  `json:"instruct_type"`
}

type openRouterProvider struct {
	ContextLength       int64  `json:"context_length"`
	MaxCompletionTokens *int64 `json:"max_completion_tokens"`
	IsModerated         bool   `json:"is_moderated"`
}

// openRouterUnits are the keys of prices by unit.
var openRouterUnits = map[string]string{
	catalog.UnitInputToken:       "prompt",
	catalog.UnitOutputToken:      "completion",
	catalog.UnitRequest:          "request",
	catalog.UnitImage:            "image",
	catalog.UnitCachedInputToken: "input_cache_read",
	catalog.UnitReasoningToken:   "internal_reasoning",
}

func init() {
	register(format[openRouterModel]{
		name:  "openrouter",
		reads: "clients of OpenRouter's API, as GET /api/v1/models",
		entry: openRouterEntry,
		write: func(_ *job, models []openRouterModel) ([]File, error) {
			return one(jsonList("openrouter/models.json", "{\n  \"data\": ", "\n}", models))
		},
	})
}

func openRouterEntry(j *job, m *catalog.Model) (openRouterModel, error) {
	o := openRouterModel{
		ID: m.Vendor + "/" + m.Slug, CanonicalSlug: m.Vendor + "/" + m.Slug,
		HuggingFaceID: hubName(m), Name: m.DisplayName, Created: m.Created.Unix(), Description: m.Description,
		ContextLength: m.Serving.ContextTokens,
		Architecture: openRouterModality{
			Modality:        strings.Join(m.Modalities.Input, "+") + "->" + strings.Join(m.Modalities.Output, "+"),
			InputModalities: m.Modalities.Input, OutputModalities: m.Modalities.Output, Tokenizer: "Other",
		},
		Pricing:             map[string]string{"prompt": "0", "completion": "0"},
		TopProvider:         openRouterProvider{ContextLength: m.Serving.ContextTokens},
		SupportedParameters: openRouterParameters(m),
	}
	if m.Serving.MaxTokens > 0 {
		o.TopProvider.MaxCompletionTokens = &m.Serving.MaxTokens
	}
	if m.Deprecated != nil {
		o.ExpirationDate = m.Deprecated.At.Format("2006-01-02")
	}
	if p := m.Prompt; p != nil && p.Sampling != nil {
		o.DefaultParameters = map[string]float64{}
		for name, v := range map[string]*float64{"temperature": p.Sampling.Temperature, "top_p": p.Sampling.TopP} {
			if v != nil {
				o.DefaultParameters[name] = *v
			}
		}
	}
	for _, p := range m.Serving.Prices {
		key := openRouterUnits[p.Unit]
		switch {
		case p.Tier != catalog.TierStandard:
			j.note("prices of tier %s have no place", p.Tier)
		case p.Currency != "USD":
			return o, unsupported("prices are in %s, want USD", p.Currency)
		case key == "":
			j.note("the price of a %s has no place", p.Unit)
		default:
			amount, err := perUnits(p, 1)
			if err != nil {
				return o, err
			}
			o.Pricing[key] = string(amount)
		}
	}
	return o, nil
}

// openRouterParameters are the parameters of a request that the model takes.
func openRouterParameters(m *catalog.Model) []string {
	out := []string{}
	if m.Task != catalog.TextGeneration && m.Task != catalog.ImageToText {
		return out
	}
	out = append(out, "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop")
	if m.Capabilities.Tools {
		out = append(out, "tools", "tool_choice")
	}
	if m.Capabilities.Reasoning {
		out = append(out, "reasoning", "include_reasoning")
	}
	if m.Capabilities.StructuredOutput {
		out = append(out, "response_format", "structured_outputs")
	}
	return out
}
