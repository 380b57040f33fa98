package edge

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/internal/nearest"
)

// A Selection says which models of a channel a node follows, and which of
// their variants. The zero Selection is every model, in the variant that its
// release serves by default.
type Selection struct {
	terms     map[string][]string
	MaxSize   int64 // bytes of a variant; 0: any
	MaxMemory int64 // bytes to run it with the context of its serving hints; 0: any
}

// terms are the keys of a selection with a value, and what they compare.
var terms = map[string]func(m *catalog.Model) []string{
	"model":    func(m *catalog.Model) []string { return append([]string{m.Slug}, m.Aliases...) },
	"task":     func(m *catalog.Model) []string { return []string{string(m.Task)} },
	"vendor":   func(m *catalog.Model) []string { return []string{m.Vendor} },
	"language": func(m *catalog.Model) []string { return m.Languages },
	"tag":      func(m *catalog.Model) []string { return m.Tags },
	"license":  func(m *catalog.Model) []string { return []string{m.License.SPDX} },
	"variant":  nil, // compared with the variants' names and presets
}

// ParseSelection reads terms KEY=VALUE. Of the terms with one key any must
// hold, and of each key one: model=a model=b task=text-generation is the two
// models, as far as they generate text. Values may have the wildcards of
// path.Match.
func ParseSelection(texts []string) (Selection, error) {
	s := Selection{terms: map[string][]string{}}
	for _, t := range texts {
		key, value, ok := strings.Cut(t, "=")
		if !ok || value == "" {
			return s, fmt.Errorf("selection %.80q: want KEY=VALUE, as in task=text-generation", t)
		}
		if _, known := terms[key]; !known {
			var keys []string
			for k := range terms {
				keys = append(keys, k)
			}
			slices.Sort(keys)
			return s, fmt.Errorf("selection %.80q: there is no %.40q; did you mean %s?", t, key, nearest.Names(key, keys, 1)[0])
		}
		if _, err := path.Match(value, ""); err != nil {
			return s, fmt.Errorf("selection %.80q: %w", t, err)
		}
		s.terms[key] = append(s.terms[key], value)
	}
	return s, nil
}

// any says whether a pattern matches a value, without regard to case.
func anyMatch(patterns, values []string) bool {
	for _, p := range patterns {
		for _, v := range values {
			if ok, _ := path.Match(strings.ToLower(p), strings.ToLower(v)); ok {
				return true
			}
		}
	}
	return false
}

// takes says whether a model is selected.
func (s Selection) takes(m *catalog.Model) bool {
	for key, patterns := range s.terms {
		if get := terms[key]; get != nil && !anyMatch(patterns, get(m)) {
			return false
		}
	}
	return true
}

// slugs returns the names of the models where nothing but names, without
// wildcards, can be selected: they are then looked up one by one.
func (s Selection) slugs() ([]string, bool) {
	names := s.terms["model"]
	if slices.ContainsFunc(names, func(n string) bool { return strings.ContainsAny(n, `*?[\`) || n != strings.ToLower(n) }) {
		return nil, false
	}
	return names, len(names) > 0
}

// variants returns which of a release's variants are selected: all that are
// named, or else the first one in the order of the release that fits.
func (s Selection) variants(m *catalog.Model, r *catalog.Release) ([]*catalog.Variant, error) {
	var out []*catalog.Variant
	named := s.terms["variant"]
	small := ""
	for _, id := range r.Variants {
		v, ok := m.Variant(id)
		if !ok || len(named) > 0 && !anyMatch(named, []string{v.Name, v.Preset, v.ID}) {
			continue
		}
		if why := s.tooLarge(m, v); why != "" {
			small = why
			continue
		}
		out = append(out, v)
		if len(named) == 0 {
			break
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	if small != "" {
		return nil, fmt.Errorf("model %s, release %d: %s", m.Slug, r.Version, small)
	}
	return nil, fmt.Errorf("model %s, release %d: has none of the variants %s", m.Slug, r.Version, strings.Join(named, ", "))
}

func (s Selection) tooLarge(m *catalog.Model, v *catalog.Variant) string {
	switch memory := v.Memory.Bytes(m.Serving.ContextTokens); {
	case s.MaxSize > 0 && v.Size > s.MaxSize:
		return fmt.Sprintf("variant %s has %d bytes, more than the %d that are allowed", v.Name, v.Size, s.MaxSize)
	case s.MaxMemory > 0 && memory > s.MaxMemory:
		return fmt.Sprintf("variant %s takes about %d bytes of memory, more than the %d that are allowed", v.Name, memory, s.MaxMemory)
	}
	return ""
}

// A Pin holds a model at a release of its channel.
type Pin struct {
	Model   string
	Release int64
}

// ParsePin reads MODEL=RELEASE.
func ParsePin(text string) (Pin, error) {
	model, version, ok := strings.Cut(text, "=")
	v, err := strconv.ParseInt(version, 10, 64)
	if !ok || model == "" || err != nil || v < 1 {
		return Pin{}, fmt.Errorf("pin %.80q: want MODEL=RELEASE, as in qwen3-0.6b=7", text)
	}
	return Pin{model, v}, nil
}

// wanted is a variant that the catalog asks a node to have.
type wanted struct {
	Entry
	variant *catalog.Variant
}

// want is what the catalog asks of a node.
type want struct {
	entries  []wanted        // ordered by slug, then by name
	matched  int             // models that the selection takes, whatever their releases
	kept     map[string]bool // models that are selected, and of which nothing can be said for now
	problems []error
	newest   time.Time // newest time that it says something was done at
}

// want reads the catalog. What is wrong with one model is a problem of that
// model; an error is one of the catalog.
func (n *Node) want(ctx context.Context, r *catalog.Reader) (*want, error) {
	w := &want{kept: map[string]bool{}}
	if slugs, ok := n.o.Select.slugs(); ok {
		seen := map[string]bool{}
		for _, name := range slugs {
			m, err := r.Lookup(ctx, name)
			if errors.Is(err, catalog.ErrNoModel) {
				w.problems = append(w.problems, err)
				continue
			}
			if err != nil {
				return nil, err
			}
			if !seen[m.Slug] {
				seen[m.Slug] = true
				n.wantModel(w, m)
			}
		}
	} else {
		n.prefetch(ctx, r)
		for part, err := range r.Parts(ctx) {
			if err != nil {
				return nil, err
			}
			for i := range part.Models {
				n.wantModel(w, &part.Models[i])
			}
		}
	}
	slices.SortFunc(w.entries, func(a, b wanted) int {
		if c := strings.Compare(a.Model, b.Model); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return w, nil
}

// prefetch fetches the objects of the catalog that are not on the disk, some
// at once. Errors are left to who reads them one by one.
func (n *Node) prefetch(ctx context.Context, r *catalog.Reader) {
	refs := make(chan catalog.Ref)
	var group sync.WaitGroup
	for range n.o.Parallel {
		group.Go(func() {
			for ref := range refs {
				r.Fetch(ctx, ref)
			}
		})
	}
	for ref, err := range r.Refs(ctx) {
		if err != nil || ctx.Err() != nil {
			break
		}
		if _, err := n.objects.root.Lstat(path.Base(ref.Name())); err != nil {
			refs <- ref
		}
	}
	close(refs)
	group.Wait()
}

// wantModel adds what the catalog asks of one model.
func (n *Node) wantModel(w *want, m *catalog.Model) {
	if !n.o.Select.takes(m) {
		return
	}
	w.matched++
	if err := m.Validate(); err != nil {
		w.keep(m, err)
		return
	}
	if strings.Contains(m.Slug, "/") {
		w.keep(m, fmt.Errorf("model %q: is not the name of a folder", m.Slug))
		return
	}
	for _, r := range m.Releases {
		for _, t := range []time.Time{r.Created, r.Promoted} {
			if t.After(w.newest) {
				w.newest = t
			}
		}
	}
	r, err := n.choose(m)
	if err != nil {
		w.problems = append(w.problems, err)
	}
	if r == nil {
		return
	}
	variants, err := n.o.Select.variants(m, r)
	if err != nil {
		w.keep(m, err)
		return
	}
	for _, v := range variants {
		w.entries = append(w.entries, wanted{Entry{m.Slug, r.Version, v.ID, v.Name, v.Files}, v})
	}
}

// keep notes that nothing can be said of a model that is selected.
func (w *want) keep(m *catalog.Model, err error) {
	w.kept[m.Slug] = true
	w.problems = append(w.problems, err)
}

// models yields the models of which something is wanted, in order.
func (w *want) models() iter.Seq[string] {
	names := slices.Collect(maps.Keys(w.kept))
	for _, e := range w.entries {
		names = append(names, e.Model)
	}
	slices.Sort(names)
	return slices.Values(slices.Compact(names))
}

// choose returns the release of a model that the node is to serve, or nil: the
// one that it is pinned to, that of the node's slot, or the current one. A pin
// does not hold a release that was withdrawn.
func (n *Node) choose(m *catalog.Model) (*catalog.Release, error) {
	current := m.Current()
	if n.o.Slot != "" {
		for _, r := range m.Active() {
			if r.Slot == n.o.Slot {
				current = r
			}
		}
	}
	for _, p := range n.o.Pins {
		if p.Model != m.Slug && !slices.Contains(m.Aliases, p.Model) {
			continue
		}
		i := slices.IndexFunc(m.Releases, func(r catalog.Release) bool { return r.Version == p.Release })
		switch {
		case i < 0:
			return current, fmt.Errorf("model %s: release %d, to which it is pinned, is not in the catalog: the pin is passed over", m.Slug, p.Release)
		case m.Releases[i].State == catalog.StateWithdrawn:
			return current, fmt.Errorf("model %s: release %d, to which it is pinned, %w: the pin is passed over", m.Slug, p.Release, withdrawn(m.Releases[i]))
		}
		return &m.Releases[i], nil
	}
	return current, nil
}

func withdrawn(r catalog.Release) error {
	if r.Withdrawn == nil {
		return ErrWithdrawn
	}
	return fmt.Errorf("%w at %s: %.200s", ErrWithdrawn, r.Withdrawn.At.UTC().Format(time.RFC3339), r.Withdrawn.Reason)
}

// banned says why an entry must not be served any more, whatever the node
// follows: its release was withdrawn.
func banned(ctx context.Context, r *catalog.Reader, e Entry) (error, error) {
	m, err := r.Lookup(ctx, e.Model)
	if errors.Is(err, catalog.ErrNoModel) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, x := range m.Releases {
		if x.Version == e.Release && x.State == catalog.StateWithdrawn {
			return fmt.Errorf("model %s: release %d %w", e.Model, e.Release, withdrawn(x)), nil
		}
	}
	return nil, nil
}
