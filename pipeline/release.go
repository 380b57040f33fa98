package pipeline

import (
	"context"
	"fmt"
	"slices"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/publish"
)

// This file makes releases of what was made. A release has every variant of the
// curation file; where one is missing or was refused, what was released before
// stays as it is.

// ReleaseSummary is a release that a refresh has made or promoted.
type ReleaseSummary struct {
	Channel string `json:"channel"`
	Version int64  `json:"version"`
	Slot    string `json:"slot"`
}

// checkLicense refuses a source whose license is another than when it was last
// released, unless the curation file names the new one.
func (m *modelRun) checkLicense() {
	now := m.upstream.license.SPDX
	before := m.state.doc.License
	switch {
	case now == "" || now == m.License.SPDX:
	case before != "" && before != now:
		m.refused = fmt.Sprintf("the license of %s has changed from %s to %s: nothing is released until license.spdx says so (it is %s)", m.sourceName(), before, now, m.License.SPDX)
	case before == "":
		m.notes = append(m.notes, fmt.Sprintf("the model card names license %s, the curation file %s", now, m.License.SPDX))
	}
}

// wantedRelease are the IDs of the variants of the release that should be, none
// where one of them is missing.
func (m *modelRun) wantedRelease() []string {
	var ids []string
	for _, o := range m.made {
		if o.State != StateDone {
			return nil
		}
		ids = append(ids, o.Variant)
	}
	return ids
}

// unreleased says why a release is to be made, and is empty where none is.
// making says that variants are going to be made.
func (m *modelRun) unreleased(making bool) string {
	refused := slices.ContainsFunc(m.made, func(o outcome) bool { return o.State == StateRefused })
	if refused || len(m.failed) > 0 {
		return ""
	}
	if making {
		return "when its variants are made"
	}
	ids := m.wantedRelease()
	if ids == nil {
		return ""
	}
	for _, channel := range m.Channels {
		if what := m.due(channel, ids); what == newRelease || what == promotion {
			return "its variants are not released in " + channel
		}
	}
	return ""
}

// What is due in a channel.
type due int

const (
	nothingDue due = iota // nothing
	newRelease            // a release, and to promote it
	promotion             // to promote the newest
	withheld              // nothing: people have withdrawn it
)

// due says what is to be done so that a channel has a release of variants. What
// people have decided stays: a release that was withdrawn is not made again,
// one that they have gone back from is not promoted again.
func (m *modelRun) due(channel string, ids []string) due {
	if m.state.ledger == nil {
		return newRelease
	}
	all := m.state.ledger.In(channel)
	if len(all) > 0 && slices.Equal(all[0].Variants, ids) && all[0].State != catalog.StateWithdrawn {
		if all[0].State == catalog.StateCandidate {
			return promotion
		}
		return nothingDue
	}
	for _, id := range ids {
		if wasWithdrawn(all, id) {
			return withheld
		}
	}
	return newRelease
}

// wasWithdrawn says whether the newest release with a variant was withdrawn.
func wasWithdrawn(newestFirst []catalog.Release, id string) bool {
	for _, r := range newestFirst {
		if slices.Contains(r.Variants, id) {
			return r.State == catalog.StateWithdrawn
		}
	}
	return false
}

// announce says in the store of a model of which there is nothing yet that its
// releases are made explicitly: a catalog that is built meanwhile, by anybody,
// does not offer the variants that happen to be there.
func (m *modelRun) announce(ctx context.Context, o *catalog.Operator) error {
	if m.state.ledger != nil || len(m.state.records) > 0 {
		return nil
	}
	l, err := o.Announce(ctx, m.Slug)
	if err != nil {
		return err
	}
	m.state.ledger = l
	return nil
}

// release makes the releases of a model whose variants are there, and promotes
// them: until then the ones before serve.
func (m *modelRun) release(ctx context.Context, o *catalog.Operator) error {
	ids := m.wantedRelease()
	if ids == nil || m.refused != "" || m.problem != nil {
		return nil
	}
	changed := false
	for _, channel := range m.Channels {
		what := m.due(channel, ids)
		if what == withheld {
			m.notes = append(m.notes, fmt.Sprintf("channel %s: what the source and the curation file give was withdrawn: nothing is released until one of them changes", channel))
			continue
		}
		if what == nothingDue {
			continue
		}
		changed = true
		notes := fmt.Sprintf("made from %s at %s", m.sourceName(), m.upstream.commit)
		made, _, err := o.Publish(ctx, m.Slug, channel, ids, notes)
		if err != nil {
			return err
		}
		if made.State == catalog.StateCandidate {
			if err := o.Promote(ctx, m.Slug, channel, made.Version, 100); err != nil {
				return err
			}
		}
		m.releases = append(m.releases, ReleaseSummary{channel, made.Version, made.Slot})
	}
	if !changed {
		return nil
	}
	l, err := catalog.ReadLedger(ctx, o.Store, m.Slug)
	if err == nil {
		m.state.ledger = l
	}
	return err
}

// remember writes down what was made of a model, and what its source was.
func (m *modelRun) remember(ctx context.Context, s publish.Store) error {
	if m.problem != nil {
		return nil
	}
	doc := &m.state.doc
	if m.Update == catalog.UpdatePin {
		doc.Pin = &pin{m.Source, m.Revision, m.upstream.commit}
	} else {
		doc.Pin = nil
	}
	if name := m.upstream.license.SPDX; name != "" && m.refused == "" && m.wantedRelease() != nil {
		doc.License = name
	}
	return m.state.save(ctx, s, m.ids)
}
