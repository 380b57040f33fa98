package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/github/go-spdx/v2/spdxexp"
	"golang.org/x/text/currency"

	"github.com/modelpipe/modelpipe/publish"
)

// Finding is something that is wrong with a catalog, or likely to be.
type Finding struct {
	Model string `json:"model,omitempty"`
	Error bool   `json:"error"` // otherwise a warning
	Text  string `json:"text"`
}

// Opener reads files of a store; a publish.Sink is one.
type Opener interface {
	Open(ctx context.Context, name string, from int64) (io.ReadCloser, int64, error)
}

// LintOptions is what Lint looks at.
type LintOptions struct {
	Curation *Curation // nil: the catalog alone
	Catalog  *Reader   // nil: the curation alone
	Store    Opener    // nil: files in the store are not looked for
	// Reach tells whether a file can be had from a location of another kind
	// than store, and how large it is there; nil: nobody asks.
	Reach func(ctx context.Context, l Location, f File) (int64, error)
	Now   time.Time
}

// Lint looks for what the schema lets pass and people regret: broken
// locations, licenses that nobody knows, prices that cannot be compared,
// names that clash. Findings are in the order of the models.
func Lint(ctx context.Context, o LintOptions) ([]Finding, error) {
	var out []Finding
	add := func(isError bool, model, format string, args ...any) {
		out = append(out, Finding{model, isError, fmt.Sprintf(format, args...)})
	}
	if o.Curation != nil {
		for i := range o.Curation.Models {
			m := &o.Curation.Models[i]
			lintLicense(m.Slug, m.License, add)
			lintServing(m.Slug, m.Serving, add)
			if len(m.Languages) == 0 && m.Task == TextGeneration {
				add(false, m.Slug, "languages are not said")
			}
			if d := m.Deprecated; d != nil && d.Replacement != "" && !slices.ContainsFunc(o.Curation.Models, func(x Curated) bool { return x.Slug == d.Replacement }) {
				add(true, m.Slug, "deprecated.replacement: no model has the slug %s", d.Replacement)
			}
		}
	}
	owner := map[string]string{}
	if o.Catalog != nil {
		for part, err := range o.Catalog.Parts(ctx) {
			if err != nil {
				return nil, err
			}
			for i := range part.Models {
				m := &part.Models[i]
				for _, name := range append([]string{m.Slug}, m.Aliases...) {
					if other, taken := owner[name]; taken {
						add(true, m.Slug, "the name %s is taken by model %s", name, other)
					}
					owner[name] = m.Slug
				}
				if o.Curation == nil {
					lintLicense(m.Slug, m.License, add)
					lintServing(m.Slug, &m.Serving, add)
				}
				if err := lintModel(ctx, o, m, add); err != nil {
					return nil, err
				}
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Finding) int { return cmp.Compare(a.Model, b.Model) })
	return out, nil
}

type adder func(isError bool, model, format string, args ...any)

func lintLicense(slug string, l License, add adder) {
	if l.SPDX == "" {
		add(true, slug, "license.spdx is missing")
		return
	}
	if strings.HasPrefix(l.SPDX, "LicenseRef-") {
		if l.Name == "" || l.URL == "" {
			add(true, slug, "license %s has no SPDX identifier: name and url must say what it is", quoted(l.SPDX))
		}
		return
	}
	if ok, bad := spdxexp.ValidateLicenses([]string{l.SPDX}); !ok {
		add(true, slug, "license.spdx %s: is not an SPDX expression", quoted(strings.Join(bad, ", ")))
	}
}

func lintServing(slug string, s *Serving, add adder) {
	currencies := map[string]bool{}
	tiers := map[string]map[string]bool{} // units by tier
	for _, p := range s.Prices {
		if p.Currency == "" {
			add(true, slug, "price of %s: currency is missing", p.Unit)
		} else if _, err := currency.ParseISO(p.Currency); err != nil {
			add(true, slug, "price of %s: %s is not a currency of ISO 4217", p.Unit, quoted(p.Currency))
		}
		if r, err := p.Amount.Rat(); err == nil && r.Sign() == 0 {
			add(false, slug, "price of %s in tier %s is 0", p.Unit, p.Tier)
		}
		currencies[p.Currency] = true
		if tiers[p.Tier] == nil {
			tiers[p.Tier] = map[string]bool{}
		}
		tiers[p.Tier][p.Unit] = true
	}
	if len(currencies) > 1 {
		add(false, slug, "prices are in %d currencies", len(currencies))
	}
	for tier, units := range tiers {
		if units[UnitOutputToken] && !units[UnitInputToken] {
			add(false, slug, "tier %s has a price of output tokens and none of input tokens", tier)
		}
	}
	if b := s.Budget; b != nil && len(currencies) > 0 && !currencies[b.Currency] {
		add(true, slug, "budget is in %s, no price is", quoted(b.Currency))
	}
	if slices.Contains(s.AllowedOrigins, "*") && len(s.AllowedOrigins) > 1 {
		add(false, slug, "allowed_origins has * and others")
	}
	for _, e := range s.Endpoints {
		if strings.HasPrefix(e.URL, "http://") && e.APIKeyEnv != "" {
			add(false, slug, "endpoint %s: the key of %s is sent without TLS", e.Name, e.APIKeyEnv)
		}
	}
}

func lintModel(ctx context.Context, o LintOptions, m *Model, add adder) error {
	if err := m.Validate(); err != nil {
		add(true, m.Slug, "%s", err)
	}
	if m.Current() == nil {
		add(false, m.Slug, "no release is active")
	}
	if m.Task == TextGeneration && (m.Prompt == nil || m.Prompt.Template == "") {
		add(false, m.Slug, "has no chat template")
	}
	if d := m.Deprecated; d != nil && !o.Now.IsZero() && d.At.Before(o.Now) && m.Current() != nil {
		add(false, m.Slug, "was to be withdrawn at %s and is still active", d.At.Format(time.RFC3339))
	}
	for i := range m.Variants {
		v := &m.Variants[i]
		if !v.Quality.Passed() {
			add(false, m.Slug, "variant %s: a gate did not hold", v.ID)
		}
		if v.Quality == nil {
			add(false, m.Slug, "variant %s: was not validated", v.ID)
		}
		if v.Provenance.Source.Commit == "" && strings.HasPrefix(v.Provenance.Source.Repository, "hf://") {
			add(true, m.Slug, "variant %s: the commit of its source is missing", v.ID)
		}
		for _, l := range v.Locations {
			for _, f := range v.Files {
				size, err := o.size(ctx, l, f)
				switch {
				case errors.Is(err, errNotLooked):
				case ctx.Err() != nil:
					return ctx.Err()
				case errors.Is(err, publish.ErrUnavailable):
					add(false, m.Slug, "variant %s: %s: %s", v.ID, l.Address(f), err)
				case err != nil:
					add(true, m.Slug, "variant %s: broken location: %s: %s", v.ID, l.Address(f), err)
				case size != f.Size:
					add(true, m.Slug, "variant %s: broken location: %s: has %d bytes, want %d", v.ID, l.Address(f), size, f.Size)
				}
			}
		}
	}
	return nil
}

var errNotLooked = errors.New("nobody looked")

// size is how many bytes a location has of a file.
func (o LintOptions) size(ctx context.Context, l Location, f File) (int64, error) {
	if l.Kind != KindStore {
		if o.Reach == nil {
			return 0, errNotLooked
		}
		return o.Reach(ctx, l, f)
	}
	if o.Store == nil {
		return 0, errNotLooked
	}
	r, size, err := o.Store.Open(ctx, path.Join(l.URI, f.Path), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fs.ErrNotExist
	}
	if err != nil {
		return 0, err
	}
	return size, r.Close()
}
