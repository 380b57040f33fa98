package export

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
)

// Envoy AI Gateway (https://aigateway.envoyproxy.io/docs/api/): an
// AIGatewayRoute for each model and pairing, whose weights are the shares of
// the releases, and behind it the backends with their addresses, TLS and keys.
// Secrets are not written: each BackendSecurityPolicy names one that must be
// there, with the key apiKey.

type kubeMeta struct {
	Name        string            `yaml:"name"`
	Namespace   string            `yaml:"namespace"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

type kubeObject struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   kubeMeta `yaml:"metadata"`
	Spec       any      `yaml:"spec"`
}

type kubeRef struct {
	Group string `yaml:"group,omitempty"`
	Kind  string `yaml:"kind"`
	Name  string `yaml:"name"`
}

type envoyRoute struct {
	ParentRefs []kubeRef   `yaml:"parentRefs"`
	Rules      []envoyRule `yaml:"rules"`
	Costs      []envoyCost `yaml:"llmRequestCosts"`
}

type envoyRule struct {
	Matches   []envoyMatch      `yaml:"matches"`
	Backends  []envoyBackendRef `yaml:"backendRefs"`
	Timeouts  map[string]string `yaml:"timeouts,omitempty"`
	OwnedBy   string            `yaml:"modelsOwnedBy,omitempty"`
	CreatedAt string            `yaml:"modelsCreatedAt,omitempty"`
}

type envoyMatch struct {
	Headers []envoyHeader `yaml:"headers"`
}

type envoyHeader struct {
	Type  string `yaml:"type"`
	Name  string `yaml:"name"`
	Value string `yaml:"value,omitempty"`
}

type envoyBackendRef struct {
	Name     string `yaml:"name"`
	Weight   int64  `yaml:"weight"`
	Priority int64  `yaml:"priority"`
	Override string `yaml:"modelNameOverride,omitempty"`
}

type envoyCost struct {
	Key  string `yaml:"metadataKey"`
	Type string `yaml:"type"`
}

// Keys of the costs in the metadata of a request.
const envoyTotalTokens = "llm_total_token"

var envoyCosts = []envoyCost{
	{"llm_input_token", "InputToken"}, {"llm_cached_input_token", "CachedInputToken"},
	{"llm_output_token", "OutputToken"}, {envoyTotalTokens, "TotalToken"},
}

// envoyModel is what a model becomes.
type envoyModel struct {
	slug     string
	pairings []catalog.Pairing
	rule     envoyRule
	objects  []kubeObject // that the route needs
}

const (
	envoyGroup      = "aigateway.envoyproxy.io"
	envoyVersion    = envoyGroup + "/v1beta1"
	envoyLimitGroup = "gateway.envoyproxy.io"
	kubeGatewayAPI  = "gateway.networking.k8s.io"
	kubeLongestName = 253
)

// envoyUnits are the windows that a limit can have.
var envoyUnits = map[int64]string{1: "Second", 60: "Minute", 3600: "Hour", 86400: "Day"}

func init() {
	register(format[*envoyModel]{
		name:  "envoy",
		reads: "Envoy AI Gateway, as Kubernetes objects",
		entry: envoyEntry,
		write: envoyFiles,
	})
}

func (j *job) object(version, kind, name string, spec any) kubeObject {
	return kubeObject{version, kind, kubeMeta{Name: name, Namespace: j.Namespace}, spec}
}

// kubeName makes a name of Kubernetes objects: lower-case letters, digits,
// dashes and dots.
func kubeName(parts ...string) string {
	return strings.ToLower(strings.NewReplacer("_", "-", "+", "-").Replace(strings.Join(parts, "-")))
}

func envoyEntry(j *job, m *catalog.Model) (*envoyModel, error) {
	all, err := backends(j, m)
	if err != nil {
		return nil, err
	}
	e := &envoyModel{slug: m.Slug, pairings: m.Pairings}
	e.rule = envoyRule{OwnedBy: m.Vendor, CreatedAt: m.Created.UTC().Format(time.RFC3339)}
	for _, name := range append([]string{m.Slug}, m.Aliases...) {
		e.rule.Matches = append(e.rule.Matches, envoyModelIs(name))
	}
	if m.Serving.TimeoutSeconds > 0 {
		e.rule.Timeouts = map[string]string{"request": strconv.FormatInt(m.Serving.TimeoutSeconds, 10) + "s"}
	}
	for _, b := range all {
		if b.Provider != "openai" && b.Provider != "ollama" || b.URL == "" {
			j.note("endpoint %s is left out: it is no address that speaks OpenAI's protocol", b.Name)
			continue
		}
		a, err := parseAddress(b.URL)
		if err != nil {
			return nil, err
		}
		name := kubeName(m.Slug, b.Name)
		if len(name) > kubeLongestName {
			return nil, unsupported("its backend would have a name of more than %d characters", kubeLongestName)
		}
		objects, err := envoyBackend(j, name, b, a)
		if err != nil {
			return nil, err
		}
		e.objects = append(e.objects, objects...)
		ref := envoyBackendRef{Name: name, Weight: b.Weight}
		if b.Model != m.Slug || len(m.Aliases) > 0 {
			ref.Override = b.Model
		}
		e.rule.Backends = append(e.rule.Backends, ref)
	}
	if len(e.rule.Backends) == 0 {
		return nil, unsupported("no endpoint speaks OpenAI's protocol")
	}
	if policy := envoyPolicy(j, m); policy != nil {
		e.objects = append(e.objects, *policy)
	}
	if m.Serving.CacheTTL > 0 {
		j.note("the time in a cache has no place")
	}
	return e, nil
}

func envoyModelIs(name string) envoyMatch {
	return envoyMatch{[]envoyHeader{{"Exact", "x-ai-eg-model", name}}}
}

// envoyBackend returns the objects of a backend.
func envoyBackend(j *job, name string, b backend, a address) ([]kubeObject, error) {
	port, err := strconv.ParseUint(a.Port, 10, 16)
	if err != nil || port == 0 {
		return nil, unsupported("endpoint %s has the port %q", b.Name, short(a.Port))
	}
	endpoint := map[string]any{"fqdn": map[string]any{"hostname": a.Host, "port": port}}
	if _, err := netip.ParseAddr(a.Host); err == nil {
		endpoint = map[string]any{"ip": map[string]any{"address": a.Host, "port": port}}
	}
	schema := map[string]string{"name": "OpenAI"}
	if a.Path != "" {
		schema["prefix"] = a.Path
	}
	out := []kubeObject{
		j.object(envoyVersion, "AIServiceBackend", name, map[string]any{
			"schema": schema, "backendRef": kubeRef{envoyLimitGroup, "Backend", name},
		}),
		j.object(envoyLimitGroup+"/v1alpha1", "Backend", name, map[string]any{"endpoints": []any{endpoint}}),
	}
	if a.TLS {
		out = append(out, j.object(kubeGatewayAPI+"/v1alpha3", "BackendTLSPolicy", name, map[string]any{
			"targetRefs": []kubeRef{{envoyLimitGroup, "Backend", name}},
			"validation": map[string]string{"wellKnownCACertificates": "System", "hostname": a.Host},
		}))
	}
	if b.APIKeyEnv != "" {
		secret := kubeName(b.APIKeyEnv)
		out = append(out, j.object(envoyVersion, "BackendSecurityPolicy", name, map[string]any{
			"targetRefs": []kubeRef{{envoyGroup, "AIServiceBackend", name}},
			"type":       "APIKey",
			"apiKey":     map[string]any{"secretRef": map[string]string{"name": secret}},
		}))
	}
	return out, nil
}

// envoyPolicy returns the retries and limits of a model's route, which has an
// HTTPRoute of the same name.
func envoyPolicy(j *job, m *catalog.Model) *kubeObject {
	spec := map[string]any{"targetRefs": []kubeRef{{kubeGatewayAPI, "HTTPRoute", kubeName(m.Slug)}}}
	if m.Serving.Retries > 0 {
		spec["retry"] = map[string]any{
			"numRetries": m.Serving.Retries,
			"retryOn":    map[string]any{"triggers": []string{"connect-failure", "retriable-status-codes"}, "httpStatusCodes": []int{429, 500, 502, 503, 504}},
		}
	}
	var rules []any
	for _, l := range m.Serving.RateLimits {
		unit, ok := envoyUnits[l.Seconds]
		if !ok || l.Limit > 1<<32-1 {
			j.note("%d %s in %d seconds has no place: windows are a second, a minute, an hour or a day", l.Limit, l.Count, l.Seconds)
			continue
		}
		if l.Window == "sliding" {
			j.note("the window of %d %s in %d seconds is fixed, not sliding", l.Limit, l.Count, l.Seconds)
		}
		rule := map[string]any{"limit": map[string]any{"requests": l.Limit, "unit": unit}}
		switch l.Scope {
		case "key":
			rule["clientSelectors"] = []any{map[string]any{"headers": []envoyHeader{{Type: "Distinct", Name: "authorization"}}}}
		case "address":
			rule["clientSelectors"] = []any{map[string]any{"sourceCIDR": map[string]string{"type": "Distinct", "value": "0.0.0.0/0"}}}
		}
		if l.Count == "tokens" {
			rule["cost"] = map[string]any{
				"request":  map[string]any{"from": "Number", "number": 0},
				"response": map[string]any{"from": "Metadata", "metadata": map[string]string{"namespace": "io.envoy.ai_gateway", "key": envoyTotalTokens}},
			}
		}
		rules = append(rules, rule)
	}
	if rules != nil {
		spec["rateLimit"] = map[string]any{"type": "Global", "global": map[string]any{"rules": rules}}
	}
	if len(spec) == 1 {
		return nil
	}
	o := j.object(envoyLimitGroup+"/v1alpha1", "BackendTrafficPolicy", kubeName(m.Slug), spec)
	return &o
}

func envoyFiles(j *job, models []*envoyModel) ([]File, error) {
	var y yamlText
	put := func(o kubeObject) error {
		if y.Len() > 0 {
			y.WriteString("---\n")
		}
		return y.put("", o)
	}
	taken := map[string]string{}
	route := func(name string, rule envoyRule, objects []kubeObject) error {
		if other, ok := taken[kubeName(name)]; ok {
			j.skip(name, unsupported("its route would have the name of that of %s", other))
			return nil
		}
		taken[kubeName(name)] = name
		err := put(j.object(envoyVersion, "AIGatewayRoute", kubeName(name), envoyRoute{
			ParentRefs: []kubeRef{{kubeGatewayAPI, "Gateway", j.Gateway}},
			Rules:      []envoyRule{rule}, Costs: envoyCosts,
		}))
		for _, o := range objects {
			err = errors.Join(err, put(o))
		}
		return err
	}
	for _, m := range models {
		if err := route(m.slug, m.rule, m.objects); err != nil {
			return nil, err
		}
	}
	for _, p := range pairings(j, models, func(m *envoyModel) (string, []catalog.Pairing) { return m.slug, m.pairings }) {
		j.subject = p.Name
		if err := route(p.Name, envoyPairing(j, p), nil); err != nil {
			return nil, err
		}
	}
	return []File{y.file("envoy/routes.yaml")}, nil
}

// envoyPairing splits the requests of a pairing. Where all go to the light
// model, the heavy one takes over when it fails (priority); in a split the
// retries of the route choose again.
func envoyPairing(j *job, p pairing[*envoyModel]) envoyRule {
	rule := envoyRule{Matches: []envoyMatch{envoyModelIs(p.Name)}, OwnedBy: p.heavy.rule.OwnedBy, CreatedAt: p.heavy.rule.CreatedAt}
	rule.Timeouts = maps.Clone(p.heavy.rule.Timeouts)
	sum := func(refs []envoyBackendRef) (n int64) {
		for _, r := range refs {
			n += r.Weight
		}
		return n
	}
	add := func(m *envoyModel, share, scale, priority int64) {
		for _, ref := range slices.Clone(m.rule.Backends) {
			ref.Weight *= share * scale
			ref.Priority = priority
			if ref.Override == "" {
				ref.Override = m.slug
			}
			rule.Backends = append(rule.Backends, ref)
		}
	}
	lightSum, heavySum := sum(p.light.rule.Backends), sum(p.heavy.rule.Backends)
	switch {
	case p.LightShare == 100 && (p.Fallback == "heavy" || p.Fallback == "either"):
		add(p.light, 1, 1, 0)
		add(p.heavy, 1, 1, 1)
	case p.LightShare == 0 && (p.Fallback == "light" || p.Fallback == "either"):
		add(p.heavy, 1, 1, 0)
		add(p.light, 1, 1, 1)
	default:
		if p.LightShare > 0 {
			add(p.light, p.LightShare, heavySum, 0)
		}
		if p.LightShare < 100 {
			add(p.heavy, 100-p.LightShare, lightSum, 0)
		}
		if p.Fallback != "none" {
			j.note("the fallback is a retry that draws a backend again")
		}
	}
	if p.MaxLightTokens > 0 {
		j.note("inputs of more than %d tokens are not told apart", p.MaxLightTokens)
	}
	return rule
}
