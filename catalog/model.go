package catalog

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/publish"
)

// Model returns the model with the slug or the alias.
func (c *Catalog) Model(name string) (*Model, bool) {
	for i := range c.Models {
		if m := &c.Models[i]; m.Slug == name || slices.Contains(m.Aliases, name) {
			return m, true
		}
	}
	return nil, false
}

// Variant returns the variant with the ID.
func (m *Model) Variant(id string) (*Variant, bool) {
	for i := range m.Variants {
		if m.Variants[i].ID == id {
			return &m.Variants[i], true
		}
	}
	return nil, false
}

// Active returns the active releases, the newest first.
func (m *Model) Active() []*Release {
	var out []*Release
	for i := range m.Releases {
		if m.Releases[i].State == StateActive {
			out = append(out, &m.Releases[i])
		}
	}
	return out
}

// Current returns the active release with the largest weight, the newest of
// equal ones, or nil where none is active.
func (m *Model) Current() *Release {
	var best *Release
	for _, r := range m.Active() {
		if best == nil || r.Weight > best.Weight {
			best = r
		}
	}
	return best
}

// Default returns the variant to serve where nothing else is said: the first
// one of the current release, or nil where no release is active.
func (m *Model) Default() *Variant {
	r := m.Current()
	if r == nil || len(r.Variants) == 0 {
		return nil
	}
	v, _ := m.Variant(r.Variants[0])
	return v
}

// Served returns the variants of the current release, the default one first.
func (m *Model) Served() []*Variant {
	var out []*Variant
	if r := m.Current(); r != nil {
		for _, id := range r.Variants {
			if v, ok := m.Variant(id); ok {
				out = append(out, v)
			}
		}
	}
	return out
}

// Price returns the price of a unit in a tier.
func (s *Serving) Price(unit, tier string) (Price, bool) {
	for _, p := range s.Prices {
		if p.Unit == unit && p.Tier == tier {
			return p, true
		}
	}
	return Price{}, false
}

// PerUnit returns the price of one unit, exactly.
func (p Price) PerUnit() (*big.Rat, error) {
	r, err := p.Amount.Rat()
	if err != nil {
		return nil, err
	}
	if p.Per < 1 {
		return nil, fmt.Errorf("price for %d of %s: want at least 1", p.Per, p.Unit)
	}
	return r.Quo(r, new(big.Rat).SetInt64(p.Per)), nil
}

// Rat returns the number, exactly.
func (d Decimal) Rat() (*big.Rat, error) {
	if !matches("decimal", string(d)) {
		return nil, fmt.Errorf("%s: %s", quoted(string(d)), patternHelp["decimal"])
	}
	r, ok := new(big.Rat).SetString(string(d))
	if !ok {
		return nil, fmt.Errorf("%s: %s", quoted(string(d)), patternHelp["decimal"])
	}
	return r, nil
}

// Address returns where a location has a file: a path in the store, a URL, or
// for a registry the repository with the file's digest.
func (l Location) Address(f File) string {
	if l.Kind == KindOCI {
		repository := l.URI
		if i := strings.LastIndex(repository, ":"); i > strings.LastIndex(repository, "/") {
			repository = repository[:i]
		}
		return repository + "@" + string(f.SHA256)
	}
	return strings.TrimSuffix(l.URI, "/") + "/" + f.Path
}

// Validate holds a model to what the schema cannot say: names are usable
// everywhere, what is referred to is there, and the numbers add up.
func (m *Model) Validate() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("model %s: %w", quoted(m.Slug), fmt.Errorf(format, args...))
	}
	if err := check(m, "json"); err != nil {
		return fail("%w", err)
	}
	for _, name := range append([]string{m.Slug}, m.Aliases...) {
		if err := publish.CheckName(name); err != nil {
			return fail("%w", err)
		}
	}
	ids := map[string]bool{}
	for i := range m.Variants {
		v := &m.Variants[i]
		if ids[v.ID] {
			return fail("variant %s is there twice", v.ID)
		}
		ids[v.ID] = true
		if err := v.validate(); err != nil {
			return fail("variant %s: %w", v.ID, err)
		}
	}
	weight := int64(0)
	slots := map[string]int64{}
	for i, r := range m.Releases {
		if i > 0 && r.Version >= m.Releases[i-1].Version {
			return fail("release %d comes after release %d: want the newest first", r.Version, m.Releases[i-1].Version)
		}
		for _, id := range r.Variants {
			if !ids[id] && (r.State == StateActive || r.State == StateCandidate) {
				return fail("release %d has the variant %s, which is not there", r.Version, quoted(id))
			}
		}
		switch {
		case (r.State == StateWithdrawn) != (r.Withdrawn != nil):
			return fail("release %d is %s: a reason must be given when it is withdrawn, and only then", r.Version, r.State)
		case r.State != StateActive && r.Weight != 0:
			return fail("release %d is %s and has weight %d: want 0", r.Version, r.State, r.Weight)
		case r.State != StateActive:
			continue
		case slots[r.Slot] != 0:
			return fail("releases %d and %d are both active in slot %s", slots[r.Slot], r.Version, r.Slot)
		}
		slots[r.Slot] = r.Version
		weight += r.Weight
	}
	if len(slots) > 0 && weight != 100 {
		return fail("weights of the active releases add up to %d: want 100", weight)
	}
	if m.Task == TextEmbeddings && m.Embedding == nil {
		return fail("task %s without embedding", m.Task)
	}
	if m.Serving.ContextTokens > m.ContextWindow {
		return fail("serving.context_tokens is %d, more than context_window %d", m.Serving.ContextTokens, m.ContextWindow)
	}
	for _, p := range m.Pairings {
		if m.Slug != p.Light && m.Slug != p.Heavy {
			return fail("pairing %s is of %s and %s", p.Name, p.Light, p.Heavy)
		}
	}
	return nil
}

func (v *Variant) validate() error {
	var size int64
	paths := map[string]bool{}
	models := 0
	for _, f := range v.Files {
		if err := publish.CheckName(f.Path); err != nil {
			return err
		}
		if paths[f.Path] {
			return fmt.Errorf("file %s is there twice", quoted(f.Path))
		}
		paths[f.Path] = true
		if f.Role == RoleModel {
			models++
		}
		if size += f.Size; size < 0 {
			return errors.New("sizes of the files overflow")
		}
	}
	if models == 0 || v.Files[0].Role != RoleModel {
		return errors.New("the first file must be the model")
	}
	if size != v.Size {
		return fmt.Errorf("size is %d, the files add up to %d", v.Size, size)
	}
	for _, l := range v.Locations {
		if err := l.validate(); err != nil {
			return fmt.Errorf("location %s: %w", quoted(l.URI), err)
		}
	}
	return nil
}

// schemes are what the addresses of a kind of location begin with.
var schemes = map[string][]string{
	KindFile: {"file://"},
	KindHTTP: {"https://", "http://"},
	KindS3:   {"s3://"},
	KindOCI:  {"oci://"},
}

func (l Location) validate() error {
	if l.Kind == KindStore {
		return publish.CheckName(l.URI)
	}
	if !matches("uri", l.URI) {
		return errors.New(patternHelp["uri"])
	}
	for _, s := range schemes[l.Kind] {
		if rest, ok := strings.CutPrefix(l.URI, s); ok {
			if host, _, _ := strings.Cut(rest, "/"); strings.Contains(host, "@") {
				return errors.New("has a user or a password")
			}
			if slices.Contains(strings.Split(rest, "/"), "..") {
				return errors.New("climbs out with .. in its path")
			}
			return nil
		}
	}
	return fmt.Errorf("kind %s: want an address that begins with %s", l.Kind, strings.Join(schemes[l.Kind], " or "))
}
