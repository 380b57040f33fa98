package export

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
)

// aiGateway is what the AI Gateway's API creates for a model or a pairing: the
// gateway, with its routes. A route is called as the model dynamic/NAME. The
// bodies are those of POST .../ai-gateway/gateways, .../gateways/ID/routes and
// .../ai-gateway/custom-providers.
type aiGateway struct {
	Settings        aiGatewaySettings  `json:"gateway"`
	Routes          []aiRoute          `json:"routes"`
	CustomProviders []aiCustomProvider `json:"custom_providers,omitempty"`
	BudgetAlarm     *budgetAlarm       `json:"budget_alarm,omitempty"`

	slug     string
	pairings []catalog.Pairing
	backends []backend
	serving  catalog.Serving
}

type aiGatewaySettings struct {
	ID                      string  `json:"id"`
	CacheTTL                *int64  `json:"cache_ttl"`
	CacheInvalidateOnUpdate bool    `json:"cache_invalidate_on_update"`
	CollectLogs             bool    `json:"collect_logs"`
	RateLimitingInterval    *int64  `json:"rate_limiting_interval"`
	RateLimitingLimit       *int64  `json:"rate_limiting_limit"`
	RateLimitingTechnique   *string `json:"rate_limiting_technique,omitempty"`
	RetryMaxAttempts        *int64  `json:"retry_max_attempts,omitempty"`
}

type aiRoute struct {
	Name     string      `json:"name"`
	Elements []aiElement `json:"elements"`
}

type aiElement struct {
	ID         string              `json:"id"`
	Type       string              `json:"type"`
	Properties any                 `json:"properties,omitempty"`
	Outputs    map[string]aiOutput `json:"outputs"`
}

type aiOutput struct {
	ElementID string `json:"elementId"`
}

type aiModel struct {
	Provider string `json:"provider"`
	Model    string `json:"model"`
	Timeout  int64  `json:"timeout"` // milliseconds
	Retries  int64  `json:"retries"`
}

type aiRate struct {
	Key       string `json:"key"`
	Limit     int64  `json:"limit"`
	LimitType string `json:"limitType"`
	Window    int64  `json:"window"` // seconds
}

type aiConditions struct {
	Conditions map[string]any `json:"conditions"`
}

type aiCustomProvider struct {
	Name    string `json:"name"`
	Slug    string `json:"slug"`
	BaseURL string `json:"base_url"`
	Enable  bool   `json:"enable"`
}

// budgetAlarm is the cost in a period at which to warn.
type budgetAlarm struct {
	Threshold exact  `json:"threshold" yaml:"threshold"`
	Currency  string `json:"currency" yaml:"currency"`
	Period    string `json:"period" yaml:"period"`
}

func alarm(b *catalog.Budget) (*budgetAlarm, error) {
	if b == nil {
		return nil, nil
	}
	amount, err := b.Amount.Rat()
	if err != nil {
		return nil, err
	}
	threshold, err := decimal(amount.Mul(amount, big.NewRat(b.AlarmPercent, 100)))
	return &budgetAlarm{threshold, b.Currency, b.Period}, err
}

// Defaults of a model element.
const (
	aiTimeoutSeconds = 60
	aiMostRetries    = 5
	aiLongestName    = 64
)

// aiLimitKeys are the fields of a request's metadata by which limits count.
// Who calls the gateway sets them in the header cf-aig-metadata.
var aiLimitKeys = map[string]string{"key": "metadata.key", "address": "metadata.address"}

func init() {
	register(format[*aiGateway]{
		name:  "ai-gateway",
		reads: "Cloudflare AI Gateway, as gateways with dynamic routes",
		entry: aiGatewayEntry,
		write: func(j *job, gateways []*aiGateway) ([]File, error) {
			list := append([]*aiGateway{}, gateways...)
			for _, p := range pairings(j, gateways, func(g *aiGateway) (string, []catalog.Pairing) { return g.slug, g.pairings }) {
				j.subject = p.Name
				if err := checkGatewayID(p.Name); err != nil {
					j.skip(p.Name, err)
					continue
				}
				list = append(list, aiPairing(j, p))
			}
			seen := map[string]string{}
			unique := []*aiGateway{}
			for _, g := range list {
				if other, taken := seen[g.Settings.ID]; taken {
					j.skip(g.slug, unsupported("its gateway would have the name of that of %s, %s", other, g.Settings.ID))
					continue
				}
				seen[g.Settings.ID] = g.slug
				unique = append(unique, g)
			}
			return one(jsonList("ai-gateway/gateways.json", "", "", unique))
		},
	})
}

func checkGatewayID(slug string) error {
	if len(slug) > aiLongestName {
		return unsupported("names of gateways have at most %d characters", aiLongestName)
	}
	return nil
}

func aiGatewayEntry(j *job, m *catalog.Model) (*aiGateway, error) {
	if err := checkGatewayID(m.Slug); err != nil {
		return nil, err
	}
	all, err := backends(j, m)
	if err != nil {
		return nil, err
	}
	g := &aiGateway{slug: m.Slug, pairings: m.Pairings, backends: all, serving: m.Serving}
	if g.Settings, err = aiSettings(j, m); err != nil {
		return nil, err
	}
	if g.BudgetAlarm, err = alarm(m.Serving.Budget); err != nil {
		return nil, err
	}
	for i, b := range all {
		if b.Provider == WorkersAI || b.URL == "" {
			continue
		}
		if !strings.HasPrefix(b.URL, "https://") {
			j.note("endpoint %s is not reached by https, which custom providers need", b.Name)
		}
		p := aiCustomProvider{Name: m.Slug + " " + b.Name, Slug: strings.ToLower(dashed(m.Slug + "-" + b.Name)), BaseURL: b.URL, Enable: true}
		g.CustomProviders = append(g.CustomProviders, p)
		all[i].Provider = "custom-" + p.Slug
	}
	var r aiGraph
	r.limits(j, m.Serving.RateLimits)
	r.models("", all, &m.Serving, aiEnd)
	g.Routes = []aiRoute{{Name: dashed(m.Slug), Elements: r.finish()}}
	return g, nil
}

func aiSettings(j *job, m *catalog.Model) (aiGatewaySettings, error) {
	s := aiGatewaySettings{ID: dashed(m.Slug), CacheInvalidateOnUpdate: true, CollectLogs: m.Serving.Log == nil || m.Serving.Log.Mode != "none"}
	if m.Serving.CacheTTL > 0 {
		s.CacheTTL = &m.Serving.CacheTTL
	}
	if m.Serving.Retries > 0 {
		attempts := min(m.Serving.Retries, aiMostRetries)
		s.RetryMaxAttempts = &attempts
	}
	for i, l := range rateLimits(m, "model", "requests") {
		if i > 0 {
			j.note("a gateway has one limit for all: %d requests in %d seconds has no place", l.Limit, l.Seconds)
			continue
		}
		s.RateLimitingLimit, s.RateLimitingInterval = &l.Limit, &l.Seconds
		window := l.Window
		if window == "" {
			window = "fixed"
		}
		s.RateLimitingTechnique = &window
	}
	return s, nil
}

// aiGraph builds the elements of a route. Each has one way in; what is added
// first comes first.
type aiGraph struct {
	elements []aiElement
	open     []func(id string) // outputs that lead to what is added next
}

const aiEnd = "end"

// add adds an element behind what is open and leaves its output open.
func (g *aiGraph) add(e aiElement, output string) {
	for _, f := range g.open {
		f(e.ID)
	}
	if e.Outputs == nil {
		e.Outputs = map[string]aiOutput{}
	}
	g.elements = append(g.elements, e)
	outputs := e.Outputs
	g.open = []func(string){func(id string) { outputs[output] = aiOutput{id} }}
}

// limits adds the limits of one caller.
func (g *aiGraph) limits(j *job, limits []catalog.RateLimit) {
	g.add(aiElement{ID: "start", Type: "start"}, "next")
	n := 0
	for _, l := range limits {
		key, ok := aiLimitKeys[l.Scope]
		switch {
		case l.Count != "requests":
			j.note("%d %s in %d seconds has no place: routes count requests", l.Limit, l.Count, l.Seconds)
			continue
		case !ok:
			continue // a setting of the gateway
		}
		n++
		g.add(aiElement{
			ID: fmt.Sprintf("limit-%d", n), Type: "rate",
			Properties: aiRate{Key: key, Limit: l.Limit, LimitType: "count", Window: l.Seconds},
			Outputs:    map[string]aiOutput{"fallback": {aiEnd}},
		}, "success")
	}
}

// models adds a split of backends. Prefix makes the IDs unique; a failure goes
// on at the element fallback.
func (g *aiGraph) models(prefix string, all []backend, serving *catalog.Serving, fallback string) {
	var total int64
	for _, b := range all {
		total += b.Weight
	}
	for i, b := range all {
		id := prefix + "model-" + strings.ToLower(dashed(b.Name))
		if i < len(all)-1 {
			split := aiElement{ID: fmt.Sprintf("%ssplit-%d", prefix, i+1), Type: "percentage", Outputs: map[string]aiOutput{}}
			split.Outputs[percent(b.Weight, total)] = aiOutput{id}
			g.add(split, "else")
		} else {
			g.lead(id)
		}
		total -= b.Weight
		timeout := serving.TimeoutSeconds
		if timeout == 0 {
			timeout = aiTimeoutSeconds
		}
		g.elements = append(g.elements, aiElement{
			ID: id, Type: "model",
			Properties: aiModel{Provider: b.Provider, Model: b.Model, Timeout: 1000 * timeout, Retries: min(serving.Retries, aiMostRetries)},
			Outputs:    map[string]aiOutput{"success": {aiEnd}, "fallback": {fallback}},
		})
	}
}

// lead closes what is open at an element that is there or will be.
func (g *aiGraph) lead(id string) {
	for _, f := range g.open {
		f(id)
	}
	g.open = nil
}

// entrance is the ID of the element with which models begins.
func entrance(prefix string, all []backend) string {
	if len(all) > 1 {
		return prefix + "split-1"
	}
	return prefix + "model-" + strings.ToLower(dashed(all[0].Name))
}

func (g *aiGraph) finish() []aiElement {
	return append(g.elements, aiElement{ID: aiEnd, Type: "end", Outputs: map[string]aiOutput{}})
}

// percent writes a share of a whole in percent, with up to two digits behind
// the point.
func percent(n, of int64) string {
	s := big.NewRat(100*n, of).FloatString(2)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".") + "%"
}

// aiPairing is the gateway of a light and a heavy model. Inputs that are too
// long for the light model go to the heavy one where the caller says how long
// they are, in metadata.input_tokens.
func aiPairing(j *job, p pairing[*aiGateway]) *aiGateway {
	light, heavy := p.light, p.heavy
	g := &aiGateway{slug: p.Name, CustomProviders: append(append([]aiCustomProvider{}, light.CustomProviders...), heavy.CustomProviders...)}
	g.Settings = aiGatewaySettings{ID: dashed(p.Name), CacheInvalidateOnUpdate: true, CollectLogs: light.Settings.CollectLogs && heavy.Settings.CollectLogs}
	if a, b := light.Settings.CacheTTL, heavy.Settings.CacheTTL; a != nil && b != nil {
		ttl := min(*a, *b)
		g.Settings.CacheTTL = &ttl
	}
	if len(p.FallbackOn) > 0 && len(p.FallbackOn) < 3 {
		j.note("every failure leads to the fallback, not only %s", strings.Join(p.FallbackOn, ", "))
	}
	var r aiGraph
	r.add(aiElement{ID: "start", Type: "start"}, "next")
	heavyIn, lightIn := entrance("heavy-", heavy.backends), entrance("light-", light.backends)
	if p.MaxLightTokens > 0 {
		r.add(aiElement{
			ID: "long", Type: "conditional",
			Properties: aiConditions{map[string]any{"metadata.input_tokens": map[string]any{"$gt": p.MaxLightTokens}}},
			Outputs:    map[string]aiOutput{"true": {heavyIn}},
		}, "false")
	}
	r.add(aiElement{ID: "share", Type: "percentage", Outputs: map[string]aiOutput{percent(p.LightShare, 100): {lightIn}}}, "else")
	r.lead(heavyIn)
	fromLight, fromHeavy := aiEnd, aiEnd
	if p.Fallback == "heavy" || p.Fallback == "either" {
		fromLight = entrance("instead-heavy-", heavy.backends)
	}
	if p.Fallback == "light" || p.Fallback == "either" {
		fromHeavy = entrance("instead-light-", light.backends)
	}
	r.models("light-", light.backends, &light.serving, fromLight)
	r.models("heavy-", heavy.backends, &heavy.serving, fromHeavy)
	if fromLight != aiEnd {
		r.models("instead-heavy-", heavy.backends, &heavy.serving, aiEnd)
	}
	if fromHeavy != aiEnd {
		r.models("instead-light-", light.backends, &light.serving, aiEnd)
	}
	g.Routes = []aiRoute{{Name: dashed(p.Name), Elements: r.finish()}}
	return g
}
