package catalog

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"time"
)

// LedgerSchemaID identifies the version of the JSON form of a Ledger.
const LedgerSchemaID = "https://github.com/modelpipe/modelpipe/schema/releases/1.0.0/releases.schema.json"

// maxLedger bounds a ledger's document.
const maxLedger = 16 << 20

// Ledger is the releases of a model in all channels, the newest first. It
// changes by Publish, Promote and Withdraw alone.
type Ledger struct {
	Schema   string    `json:"$schema" schema:"const=https://github.com/modelpipe/modelpipe/schema/releases/1.0.0/releases.schema.json" doc:"version of this format"`
	Model    string    `json:"model" schema:"pattern=slug" doc:"slug of the model"`
	Releases []Release `json:"releases" doc:"releases, the newest first"`
}

// LedgerName is the name of a model's ledger in a store.
func LedgerName(slug string) string { return path.Join("models", slug, "releases.json") }

// ErrClock says that the clock of this machine cannot be right.
var ErrClock = errors.New("the clock of this machine cannot be right")

// maxSkew is how far clocks of different publishers may differ.
const maxSkew = 10 * time.Minute

// checkClock refuses a time that is before what has already happened.
func checkClock(now, last time.Time, what string) error {
	if now.Before(last.Add(-maxSkew)) {
		return fmt.Errorf("%w: it says %s, but %s is of %s", ErrClock, now.UTC().Format(time.RFC3339), what, last.UTC().Format(time.RFC3339))
	}
	return nil
}

// NewLedger returns the ledger of a model without releases.
func NewLedger(slug string) *Ledger {
	return &Ledger{Schema: LedgerSchemaID, Model: slug, Releases: []Release{}}
}

// DecodeLedger reads a Ledger.
func DecodeLedger(data []byte) (*Ledger, error) {
	var l Ledger
	if err := decodeStrict(data, &l, LedgerSchemaID); err != nil {
		return nil, fmt.Errorf("releases: %w", err)
	}
	return &l, nil
}

// In returns the releases of a channel, the newest first.
func (l *Ledger) In(channel string) []Release {
	var out []Release
	for _, r := range l.Releases {
		if r.Channel == channel {
			out = append(out, r)
		}
	}
	return out
}

// find returns a release of a channel to change it.
func (l *Ledger) find(channel string, version int64) (*Release, error) {
	for i := range l.Releases {
		if r := &l.Releases[i]; r.Channel == channel && r.Version == version {
			return r, nil
		}
	}
	return nil, fmt.Errorf("model %s has no release %d in channel %s", l.Model, version, channel)
}

// others returns the active releases of a channel besides r.
func (l *Ledger) others(r *Release) []*Release {
	var out []*Release
	for i := range l.Releases {
		if o := &l.Releases[i]; o != r && o.Channel == r.Channel && o.State == StateActive {
			out = append(out, o)
		}
	}
	return out
}

// Publish adds a release with the variants, the default one first. The first
// release of a channel is active at once; others are candidates for the slot
// that is free, until Promote. Where the newest release has the same variants
// and was not withdrawn nothing changes and it is returned.
func (l *Ledger) Publish(channel string, variants []string, notes string, now time.Time) (Release, bool, error) {
	now = utc(now)
	if len(variants) == 0 {
		return Release{}, false, errors.New("a release needs variants")
	}
	r := Release{Version: 1, Channel: channel, Slot: Blue, State: StateCandidate, Variants: variants, Created: now, Notes: notes}
	if old := l.In(channel); len(old) > 0 {
		if newest := old[0]; slices.Equal(newest.Variants, variants) && newest.State != StateWithdrawn {
			return newest, false, nil
		}
		if err := checkClock(now, old[0].Created, fmt.Sprintf("release %d of %s", old[0].Version, l.Model)); err != nil {
			return Release{}, false, err
		}
		r.Version = old[0].Version + 1
	}
	active := l.others(&r)
	if len(active) == 0 {
		r.State, r.Weight, r.Promoted = StateActive, 100, now
	} else {
		best := active[0]
		for _, a := range active {
			if a.Weight > best.Weight {
				best = a
			}
		}
		r.Supersedes = best.Version
		if best.Slot == Blue {
			r.Slot = Green
		}
	}
	if err := check(&r, "json"); err != nil {
		return Release{}, false, err
	}
	l.Releases = slices.Insert(l.Releases, 0, r)
	return r, true, nil
}

// Promote gives a release a share of the requests in percent. With less than
// 100 the active release of the other slot keeps the rest; with 100 every
// other one is retired. A retired release may be promoted again: that is how
// to go back.
func (l *Ledger) Promote(channel string, version, weight int64, now time.Time) error {
	now = utc(now)
	r, err := l.find(channel, version)
	if err != nil {
		return err
	}
	if r.State == StateWithdrawn {
		return fmt.Errorf("release %d of %s was withdrawn: %s", version, l.Model, quoted(r.Withdrawn.Reason))
	}
	if weight < 1 || weight > 100 {
		return fmt.Errorf("weight %d: want 1 to 100", weight)
	}
	for _, o := range l.Releases {
		if err := checkClock(now, later(o.Created, o.Promoted), fmt.Sprintf("release %d of %s", o.Version, l.Model)); err != nil {
			return err
		}
	}
	others := l.others(r)
	var rest *Release // keeps what r does not take
	for _, o := range others {
		if o.Slot != r.Slot && (rest == nil || o.Weight > rest.Weight) {
			rest = o
		}
	}
	if weight < 100 && rest == nil {
		// The one active release is in the slot that r was made for.
		if len(others) == 0 {
			return fmt.Errorf("weight %d: no other release of %s is active to take the rest", weight, l.Model)
		}
		rest = others[0]
		r.Slot = otherSlot(rest.Slot)
	}
	for _, o := range others {
		if o == rest && weight < 100 {
			o.Weight = 100 - weight
			continue
		}
		o.State, o.Weight = StateRetired, 0
	}
	if r.State != StateActive {
		r.Promoted = now
	}
	r.State, r.Weight = StateActive, weight
	return nil
}

// Withdraw says that a release must not be served any more. What it served
// goes to the other active release, or to the newest retired one, which is
// then active again; the version of that is returned, or 0 where none is left.
func (l *Ledger) Withdraw(channel string, version int64, reason string, now time.Time) (int64, error) {
	now = utc(now)
	r, err := l.find(channel, version)
	if err != nil {
		return 0, err
	}
	if r.State == StateWithdrawn {
		return 0, fmt.Errorf("release %d of %s was withdrawn already: %s", version, l.Model, quoted(r.Withdrawn.Reason))
	}
	if reason == "" {
		return 0, errors.New("a release is withdrawn for a reason")
	}
	if err := checkClock(now, later(r.Created, r.Promoted), fmt.Sprintf("release %d of %s", version, l.Model)); err != nil {
		return 0, err
	}
	served := r.State == StateActive
	r.State, r.Weight, r.Withdrawn = StateWithdrawn, 0, &Withdrawal{At: now, Reason: reason}
	if err := check(r, "json"); err != nil {
		return 0, err
	}
	if others := l.others(r); len(others) > 0 {
		others[0].Weight = 100
		return others[0].Version, nil
	}
	if !served {
		return 0, nil
	}
	for i := range l.Releases {
		if o := &l.Releases[i]; o.Channel == channel && o.State == StateRetired {
			o.State, o.Weight, o.Promoted = StateActive, 100, now
			return o.Version, nil
		}
	}
	return 0, nil
}

func otherSlot(slot string) string {
	if slot == Blue {
		return Green
	}
	return Blue
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
