package catalog

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/modelpipe/modelpipe/publish"
)

// Operator changes what a store offers. Every change is in the log before it
// is made.
type Operator struct {
	Store publish.Store
	Actor string           // who, as the log shows it
	Now   func() time.Time // nil: time.Now
}

func (o *Operator) now() time.Time {
	if o.Now != nil {
		return o.Now()
	}
	return time.Now()
}

// PutRecord puts the record of a variant, and what is known about its
// quality and provenance, beside its files. The record comes last and makes
// them count: a run that was killed before is done again. A record that is
// there stays, with the quality and the provenance that it has, and must be of
// the same files: another commit or another run may well make them anew.
func (o *Operator) PutRecord(ctx context.Context, r *Record, report, attestation []byte) error {
	if err := r.validate(); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	dir := VariantDir(r.Model, r.Variant.ID)
	name := path.Join(dir, RecordName)
	full := *r
	if report != nil {
		q, err := readQuality(path.Join(dir, ReportName), report, r.Variant.Files[0].SHA256)
		if err != nil {
			return err
		}
		full.Variant.Quality = q
	}
	if attestation != nil {
		full.Variant.Provenance.Attestation = attestationLink(path.Join(dir, AttestationName), attestation)
	}
	old, _, err := o.Store.Get(ctx, name, maxRecord)
	if err == nil {
		return sameRecord(name, old, full)
	}
	if !errNotThere(err) {
		return err
	}
	data, err := Encode(&full)
	if err != nil {
		return err
	}
	for beside, data := range map[string][]byte{ReportName: report, AttestationName: attestation} {
		if data == nil {
			continue
		}
		if _, err := o.Store.Put(ctx, path.Join(dir, beside), data, publish.Any); err != nil {
			return err
		}
	}
	if _, err := o.Store.Put(ctx, name, data, publish.Absent); err != nil {
		return fmt.Errorf("%s: somebody else was faster: %w", name, err)
	}
	return nil
}

// sameRecord compares a record with the one that the store has under a name.
func sameRecord(name string, data []byte, r Record) error {
	old, err := DecodeRecord(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	facts := func(r Record) ([]byte, error) {
		r.Variant.Provenance, r.Variant.Quality = Provenance{}, nil
		return Encode(&r)
	}
	was, err := facts(*old)
	if err != nil {
		return err
	}
	is, err := facts(r)
	if err != nil {
		return err
	}
	if string(was) != string(is) {
		return fmt.Errorf("%s: is there already, and says something else of the same file", name)
	}
	return nil
}

// Announce makes the ledger of a model that has none, without releases: the
// catalog then offers nothing of it until Publish. It returns the ledger.
func (o *Operator) Announce(ctx context.Context, slug string) (*Ledger, error) {
	if err := publish.CheckName(slug); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	l := NewLedger(slug)
	data, err := Encode(l)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", slug, err)
	}
	_, err = o.Store.Put(ctx, LedgerName(slug), data, publish.Absent)
	if errors.Is(err, publish.ErrChanged) || errors.Is(err, publish.ErrExists) {
		return ReadLedger(ctx, o.Store, slug)
	}
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", slug, err)
	}
	return l, nil
}

// Publish makes a release of variants whose records the store has, the
// default one first. It returns the release, and false where the newest one
// was the same already.
func (o *Operator) Publish(ctx context.Context, slug, channel string, variants []string, notes string) (Release, bool, error) {
	var out Release
	changed, err := o.change(ctx, slug, func(l *Ledger) (*LogEntry, error) {
		e := &LogEntry{Action: ActionPublish, Channel: channel, Digests: map[string]Digest{}}
		for _, id := range variants {
			name := path.Join(VariantDir(slug, id), RecordName)
			data, _, err := o.Store.Get(ctx, name, maxRecord)
			if err != nil {
				return nil, fmt.Errorf("variant %s: %w", quoted(id), err)
			}
			r, err := DecodeRecord(data)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			for _, f := range r.Variant.Files {
				e.Digests[path.Join(id, f.Path)] = f.SHA256
			}
		}
		var isNew bool
		var err error
		if out, isNew, err = l.Publish(channel, variants, notes, o.now()); err != nil || !isNew {
			return nil, err
		}
		e.Release = out.Version
		return e, nil
	})
	return out, changed, err
}

// Promote gives a release a share of the requests.
func (o *Operator) Promote(ctx context.Context, slug, channel string, version, weight int64) error {
	_, err := o.change(ctx, slug, func(l *Ledger) (*LogEntry, error) {
		r, err := l.find(channel, version)
		if err != nil {
			return nil, err
		}
		if r.State == StateActive && r.Weight == weight {
			return nil, nil
		}
		return &LogEntry{Action: ActionPromote, Channel: channel, Release: version, Weight: weight}, l.Promote(channel, version, weight, o.now())
	})
	return err
}

// Withdraw withdraws a release and returns the version of the one that takes
// over, or 0.
func (o *Operator) Withdraw(ctx context.Context, slug, channel string, version int64, reason string) (int64, error) {
	var next int64
	_, err := o.change(ctx, slug, func(l *Ledger) (_ *LogEntry, err error) {
		next, err = l.Withdraw(channel, version, reason, o.now())
		return &LogEntry{Action: ActionWithdraw, Channel: channel, Release: version, Reason: reason}, err
	})
	return next, err
}

// change reads a ledger, lets f change it, records the entry that f returns
// and writes the ledger by compare-and-swap. An entry of nil leaves all as it
// was. The loser of a race is told; what it had announced is recorded as
// abandoned.
func (o *Operator) change(ctx context.Context, slug string, f func(*Ledger) (*LogEntry, error)) (bool, error) {
	if err := publish.CheckName(slug); err != nil {
		return false, fmt.Errorf("model: %w", err)
	}
	l, version, err := readLedger(ctx, o.Store, slug)
	if errNotThere(err) {
		l, version, err = NewLedger(slug), publish.Absent, nil
	}
	if err != nil {
		return false, fmt.Errorf("model %s: %w", slug, err)
	}
	e, err := f(l)
	if err != nil {
		return false, fmt.Errorf("model %s: %w", slug, err)
	}
	if e == nil {
		return false, nil
	}
	data, err := Encode(l)
	if err != nil {
		return false, fmt.Errorf("model %s: %w", slug, err)
	}
	e.Time, e.Actor, e.Model = o.now(), o.Actor, slug
	if e.Digests == nil {
		e.Digests = map[string]Digest{}
	}
	e.Digests["releases.json"] = DigestOf(data)
	log := NewLog(o.Store)
	e, err = log.Append(ctx, *e)
	if err != nil {
		return false, fmt.Errorf("model %s: %w", slug, err)
	}
	if _, err := o.Store.Put(ctx, LedgerName(slug), data, version); err != nil {
		err = fmt.Errorf("model %s: nothing was changed: %w", slug, err)
		_, logged := log.Append(ctx, LogEntry{Time: o.now(), Actor: o.Actor, Action: ActionAbandon, Model: slug, Refers: e.Sequence, Reason: "the releases could not be written"})
		return false, errors.Join(err, logged)
	}
	return true, nil
}
