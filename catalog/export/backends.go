package export

import (
	"cmp"
	"maps"
	"math/big"
	"net/url"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
)

// backend is a server of a model with its share of the model's requests.
type backend struct {
	catalog.Endpoint
	Weight int64 // relative to the other backends of the model
}

// backends returns the servers of a model by the weights of its active
// releases: the share of a slot is divided among the endpoints that serve it.
// Weights are the smallest integers that say this exactly. Endpoints without a
// share are left out; a share that no endpoint serves is noted.
func backends(j *job, m *catalog.Model) ([]backend, error) {
	share := make([]*big.Rat, len(m.Serving.Endpoints))
	for i := range share {
		share[i] = new(big.Rat)
	}
	for _, r := range m.Active() {
		var serve []int
		for i, e := range m.Serving.Endpoints {
			if e.Slot == "" || e.Slot == r.Slot {
				serve = append(serve, i)
			}
		}
		if len(serve) == 0 && r.Weight > 0 && len(share) > 0 {
			j.note("release %d has %d %% of the requests, and no endpoint serves slot %s", r.Version, r.Weight, r.Slot)
		}
		for _, i := range serve {
			share[i].Add(share[i], big.NewRat(r.Weight, int64(len(serve))))
		}
	}
	var out []backend
	scale := big.NewInt(1)
	for i, s := range share {
		if s.Sign() > 0 {
			scale = lcm(scale, s.Denom())
			out = append(out, backend{Endpoint: m.Serving.Endpoints[i]})
			out[len(out)-1].Model = cmp.Or(out[len(out)-1].Model, defaultName(m, out[len(out)-1].Provider))
		}
	}
	divisor := new(big.Int)
	var weights []*big.Int
	for _, s := range share {
		if s.Sign() > 0 {
			w := new(big.Int).Div(new(big.Int).Mul(s.Num(), scale), s.Denom())
			weights = append(weights, w)
			divisor.GCD(nil, nil, divisor, w)
		}
	}
	for i, w := range weights {
		w.Div(w, divisor)
		if !w.IsInt64() {
			return nil, unsupported("the shares of its %d endpoints are too fine", len(out))
		}
		out[i].Weight = w.Int64()
	}
	if len(out) == 0 {
		return nil, unsupported("has no endpoint that serves an active release")
	}
	return out, nil
}

func lcm(a, b *big.Int) *big.Int {
	g := new(big.Int).GCD(nil, nil, a, b)
	return new(big.Int).Mul(a, new(big.Int).Div(b, g))
}

// WorkersAI is the provider of endpoints on Cloudflare Workers AI.
const WorkersAI = "workers-ai"

// defaultName is a model's name at a provider that its endpoint does not name.
func defaultName(m *catalog.Model, provider string) string {
	if provider == WorkersAI {
		return WorkersAIName(m)
	}
	return m.Slug
}

// WorkersAIName returns the model's name on Workers AI.
func WorkersAIName(m *catalog.Model) string {
	for _, e := range m.Serving.Endpoints {
		if e.Provider == WorkersAI && e.Model != "" {
			return e.Model
		}
	}
	return "@cf/" + strings.ToLower(m.Vendor) + "/" + m.Slug
}

// pairing is a pairing with what the format made of both models.
type pairing[E any] struct {
	catalog.Pairing
	light, heavy E
}

// pairings returns those whose two models a format has, ordered by name. The
// others are reported as left out.
func pairings[E any](j *job, entries []E, of func(E) (slug string, pairs []catalog.Pairing)) []pairing[E] {
	bySlug := map[string]E{}
	byName := map[string]catalog.Pairing{}
	for _, e := range entries {
		slug, pairs := of(e)
		bySlug[slug] = e
		for _, p := range pairs {
			byName[p.Name] = p
		}
	}
	var out []pairing[E]
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		p := byName[name]
		light, ok := bySlug[p.Light]
		heavy, also := bySlug[p.Heavy]
		if ok && also {
			out = append(out, pairing[E]{p, light, heavy})
			continue
		}
		missing := p.Light
		if ok {
			missing = p.Heavy
		}
		j.skip(p.Name, unsupported("its model %s is left out", missing))
	}
	return out
}

// address is where a backend listens.
type address struct {
	TLS  bool
	Host string
	Port string
	Path string // without a slash at the end
}

func parseAddress(raw string) (address, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.User != nil || (u.Scheme != "http" && u.Scheme != "https") {
		return address{}, unsupported("endpoint %q is not an http or https address", short(raw))
	}
	a := address{TLS: u.Scheme == "https", Host: u.Hostname(), Port: u.Port(), Path: strings.TrimRight(u.EscapedPath(), "/")}
	if a.Port == "" {
		a.Port = map[bool]string{true: "443", false: "80"}[a.TLS]
	}
	return a, nil
}

// rateLimits returns the limits of a scope on a count.
func rateLimits(m *catalog.Model, scope, count string) []catalog.RateLimit {
	var out []catalog.RateLimit
	for _, l := range m.Serving.RateLimits {
		if l.Scope == scope && l.Count == count {
			out = append(out, l)
		}
	}
	return out
}

// ModelFiles returns the parts of a variant's model, in order, and its
// projector, if there is one.
func ModelFiles(v *catalog.Variant) (parts []catalog.File, projector *catalog.File) {
	for i, f := range v.Files {
		switch f.Role {
		case catalog.RoleModel:
			parts = append(parts, f)
		case catalog.RoleProjector:
			projector = &v.Files[i]
		}
	}
	return parts, projector
}

// Location returns the first location of a kind.
func Location(v *catalog.Variant, kind string) (catalog.Location, bool) {
	for _, l := range v.Locations {
		if l.Kind == kind {
			return l, true
		}
	}
	return catalog.Location{}, false
}
