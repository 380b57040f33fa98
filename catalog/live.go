package catalog

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/publish"
)

// Live returns the names of all objects of a store that its catalogs refer
// to, in every channel that has a root index: objects of the trees, files of
// variants, their records, reports and provenance, ledgers, the log, and the
// metadata of trust. Who takes something away from a store asks this first.
// Names that end with a slash stand for all below.
func Live(ctx context.Context, s publish.Store) (map[string]bool, error) {
	live := map[string]bool{"log/": true, "metadata/": true}
	var roots []string
	for e, err := range s.List(ctx, "channels/") {
		if err != nil {
			return nil, err
		}
		live[e.Name] = true
		roots = append(roots, e.Name)
	}
	for _, name := range roots {
		data, _, err := s.Get(ctx, name, MaxIndex)
		if err != nil {
			return nil, err
		}
		r, err := NewReader(data, FromStore(s))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for ref, err := range r.Refs(ctx) {
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			live[ref.name("")] = true
			live[ref.name("zstd")] = true
		}
		for part, err := range r.Parts(ctx) {
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			for i := range part.Models {
				m := &part.Models[i]
				live[LedgerName(m.Slug)] = true
				for _, v := range m.Variants {
					live[VariantDir(m.Slug, v.ID)+"/"] = true
					for _, l := range v.Locations {
						if l.Kind == KindStore {
							live[l.URI+"/"] = true
						}
					}
				}
			}
		}
	}
	return live, nil
}

// Collect deletes objects of trees that no root index refers to, neither one
// that is live nor one that was signed and is kept, and that are older than
// keep: a reader may be in the midst of an older catalog. It deletes nothing
// else. With dry it only says what it would delete.
func Collect(ctx context.Context, s publish.Store, keep time.Duration, now time.Time, dry bool) ([]string, error) {
	const least = time.Hour
	if keep < least {
		return nil, fmt.Errorf("collect: objects are kept for at least %s", least)
	}
	live, err := Live(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("collect: nothing was deleted: %w", err)
	}
	var gone []string
	for e, err := range s.List(ctx, objectPrefix) {
		if err != nil {
			return nil, fmt.Errorf("collect: %w", err)
		}
		if !isLive(live, e.Name) && now.Sub(e.Modified) >= keep {
			gone = append(gone, e.Name)
		}
	}
	if dry {
		return gone, nil
	}
	for i, name := range gone {
		if err := s.Delete(ctx, name); err != nil {
			return gone[:i], fmt.Errorf("collect: %w", err)
		}
	}
	return gone, nil
}

// isLive says whether a name, or a folder that it is in, is live.
func isLive(live map[string]bool, name string) bool {
	if live[name] {
		return true
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if live[strings.TrimSuffix(dir, "/")+"/"] {
			return true
		}
	}
	return false
}
