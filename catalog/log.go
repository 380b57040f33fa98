package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/modelpipe/modelpipe/publish"
)

// LogSchemaID identifies the version of the JSON form of log entries.
const LogSchemaID = "https://github.com/modelpipe/modelpipe/schema/log/1.0.0/log.schema.json"

// Retention is how long entries of the log are kept at least.
const Retention = 180 * 24 * time.Hour

// The names of the log in a store. An entry never changes; the head is moved
// by compare-and-swap.
const logHead = "log/head.json"

func logName(sequence int64) string { return fmt.Sprintf("log/%012d.json", sequence) }

// maxLogEntry bounds an entry's document.
const maxLogEntry = 1 << 20

// The actions of log entries.
const (
	ActionPublish  = "publish"
	ActionPromote  = "promote"
	ActionWithdraw = "withdraw"
	ActionBuild    = "build"
	ActionSign     = "sign"
	ActionRotate   = "rotate"
	ActionPrune    = "prune"
	ActionAbandon  = "abandon" // the change that an earlier entry announced was not made
)

// LogEntry records one change: who did what to what, and when. It is written
// before the change, so that nothing happens unrecorded. Each entry holds the
// digest of the one before it.
type LogEntry struct {
	Schema   string            `json:"$schema" schema:"const=https://github.com/modelpipe/modelpipe/schema/log/1.0.0/log.schema.json" doc:"version of this format"`
	Sequence int64             `json:"sequence" schema:"min=1" doc:"counts up by one"`
	Previous Digest            `json:"previous,omitempty" schema:"pattern=digest" doc:"of the entry before; the first one has none"`
	Time     time.Time         `json:"time" schema:"format=date-time" doc:"when"`
	Actor    string            `json:"actor" schema:"maxLength=300" doc:"who"`
	Action   string            `json:"action" schema:"enum=publish|promote|withdraw|build|sign|rotate|prune|abandon" doc:"what"`
	Model    string            `json:"model,omitempty" schema:"pattern=slug" doc:"slug of the model"`
	Channel  string            `json:"channel,omitempty" schema:"pattern=name" doc:"the channel"`
	Release  int64             `json:"release,omitempty" schema:"min=1" doc:"version of the release"`
	Weight   int64             `json:"weight,omitempty" schema:"min=0;max=100" doc:"share that it was given"`
	Reason   string            `json:"reason,omitempty" schema:"maxLength=1000" doc:"why"`
	Refers   int64             `json:"refers,omitempty" schema:"min=1" doc:"sequence of the entry that this one is about"`
	Digests  map[string]Digest `json:"digests,omitempty" schema:"values.pattern=digest" doc:"of what was published or written, by name"`
}

// head is where the log ends and, after Prune, where it begins.
type head struct {
	First    int64  `json:"first" schema:"min=1"`
	Sequence int64  `json:"sequence" schema:"min=1"`
	SHA256   Digest `json:"sha256" schema:"pattern=digest"`
}

// Log is the append-only record of a store.
type Log struct{ store publish.Store }

// NewLog returns the log of a store.
func NewLog(store publish.Store) *Log { return &Log{store} }

// Append writes an entry behind the last one, and returns it with what the
// log fills in: schema, sequence and digest of the one before. Of two writers
// at once each gets a place.
func (l *Log) Append(ctx context.Context, e LogEntry) (*LogEntry, error) {
	e.Schema, e.Time = LogSchemaID, utc(e.Time)
	const attempts = 50
	for range attempts {
		h, version, err := l.head(ctx)
		if err != nil {
			return nil, fmt.Errorf("log: %w", err)
		}
		e.Sequence, e.Previous = h.Sequence+1, h.SHA256
		if h.Sequence > 0 {
			last, err := l.entry(ctx, h.Sequence, h.SHA256)
			if err != nil {
				return nil, fmt.Errorf("log: %w", err)
			}
			if err := checkClock(e.Time, last.Time, fmt.Sprintf("entry %d of the log", last.Sequence)); err != nil {
				return nil, fmt.Errorf("log: %w", err)
			}
		}
		if err := check(&e, "json"); err != nil {
			return nil, fmt.Errorf("log: %w", err)
		}
		data, err := Encode(&e)
		if err != nil {
			return nil, fmt.Errorf("log: %w", err)
		}
		_, err = l.store.Put(ctx, logName(e.Sequence), data, publish.Absent)
		mine := err == nil
		if errors.Is(err, publish.ErrChanged) || errors.Is(err, publish.ErrExists) {
			// Somebody else's, whose head may not have moved: it was killed
			// between. Move it for them.
			data, _, err = l.store.Get(ctx, logName(e.Sequence), maxLogEntry)
		}
		if err != nil {
			return nil, fmt.Errorf("log: %w", err)
		}
		if !mine {
			var other LogEntry
			if err := decodeStrict(data, &other, LogSchemaID); err != nil {
				return nil, fmt.Errorf("log: entry %d: %w", e.Sequence, err)
			}
			if other.Sequence != e.Sequence || other.Previous != h.SHA256 {
				return nil, fmt.Errorf("log: entry %d does not follow entry %d", e.Sequence, h.Sequence)
			}
		}
		next := head{First: max(h.First, 1), Sequence: e.Sequence, SHA256: DigestOf(data)}
		if err := l.putHead(ctx, next, version); err != nil && !errors.Is(err, publish.ErrChanged) {
			return nil, fmt.Errorf("log: %w", err)
		}
		if mine {
			return &e, nil
		}
	}
	return nil, fmt.Errorf("log: other writers were faster %d times: %w", attempts, publish.ErrChanged)
}

func (l *Log) head(ctx context.Context) (head, publish.Version, error) {
	data, version, err := l.store.Get(ctx, logHead, maxLogEntry)
	if errors.Is(err, fs.ErrNotExist) {
		return head{}, publish.Absent, nil
	}
	if err != nil {
		return head{}, version, err
	}
	var h head
	if err := decodeStrict(data, &h, ""); err != nil {
		return head{}, version, fmt.Errorf("%s: %w", logHead, err)
	}
	if h.First > h.Sequence {
		return head{}, version, fmt.Errorf("%s: begins at %d and ends at %d", logHead, h.First, h.Sequence)
	}
	return h, version, nil
}

func (l *Log) putHead(ctx context.Context, h head, prior publish.Version) error {
	data, err := Encode(h)
	if err != nil {
		return err
	}
	_, err = l.store.Put(ctx, logHead, data, prior)
	return err
}

// entry reads an entry whose digest is known.
func (l *Log) entry(ctx context.Context, sequence int64, digest Digest) (*LogEntry, error) {
	data, _, err := l.store.Get(ctx, logName(sequence), maxLogEntry)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", sequence, err)
	}
	if got := DigestOf(data); got != digest {
		return nil, fmt.Errorf("entry %d was changed: it has digest %s, want %s", sequence, got, digest)
	}
	var e LogEntry
	if err := decodeStrict(data, &e, LogSchemaID); err != nil {
		return nil, fmt.Errorf("entry %d: %w", sequence, err)
	}
	if e.Sequence != sequence {
		return nil, fmt.Errorf("entry %d says that it is %d", sequence, e.Sequence)
	}
	return &e, nil
}

// Head returns the sequence and the digest of the last entry, 0 and "" of an
// empty log.
func (l *Log) Head(ctx context.Context) (int64, Digest, error) {
	h, _, err := l.head(ctx)
	return h.Sequence, h.SHA256, err
}

// Entries returns the entries from the newest to the oldest while yield
// returns true, and verifies each against the one after it.
func (l *Log) Entries(ctx context.Context, yield func(*LogEntry) bool) error {
	h, _, err := l.head(ctx)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	digest := h.SHA256
	var after time.Time
	for n := h.Sequence; n >= max(h.First, 1); n-- {
		e, err := l.entry(ctx, n, digest)
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
		if n < h.Sequence && e.Time.After(after.Add(maxSkew)) {
			return fmt.Errorf("log: entry %d is of %s, after entry %d", n, e.Time.Format(time.RFC3339), n+1)
		}
		if (n == 1) != (e.Previous == "") {
			return fmt.Errorf("log: entry %d: only the first entry has none before it", n)
		}
		if !yield(e) {
			return nil
		}
		digest, after = e.Previous, e.Time
	}
	return nil
}

// Verify walks the whole chain and returns the number of its entries. Where
// the log does not begin with entry 1, its first entry must be older than
// Retention: younger ones may not be taken away. anchor, where it is not nil,
// is an entry that was seen before and must still be there.
func (l *Log) Verify(ctx context.Context, now time.Time, anchor *LogAnchor) (int64, error) {
	var first *LogEntry
	n := int64(0)
	err := l.Entries(ctx, func(e *LogEntry) bool { first = e; n++; return true })
	if err != nil {
		return 0, err
	}
	if first != nil && first.Sequence > 1 && now.Sub(first.Time) < Retention {
		return 0, fmt.Errorf("log: begins with entry %d of %s: entries are kept for at least %d days", first.Sequence, first.Time.Format(time.RFC3339), int(Retention.Hours()/24))
	}
	if anchor == nil || anchor.Sequence == 0 {
		return n, nil
	}
	h, _, err := l.head(ctx)
	switch {
	case err != nil:
		return 0, err
	case h.Sequence < anchor.Sequence:
		return 0, fmt.Errorf("log: ends with entry %d, but entry %d was signed: its end was cut off", h.Sequence, anchor.Sequence)
	case first != nil && anchor.Sequence >= first.Sequence:
		if _, err := l.entry(ctx, anchor.Sequence, anchor.SHA256); err != nil {
			return 0, fmt.Errorf("log: is not the one that was signed: %w", err)
		}
	}
	return n, nil
}

// LogAnchor is an entry of the log as signed metadata holds it.
type LogAnchor struct {
	Sequence int64  `json:"sequence"`
	SHA256   Digest `json:"sha256"`
}

// Prune takes away entries that are older than keep, which is Retention at
// least, and records that it did. The newest of the old ones stays, as proof
// that the younger ones are complete. It returns how many are gone.
func (l *Log) Prune(ctx context.Context, keep time.Duration, actor string, now time.Time) (int64, error) {
	if keep < Retention {
		return 0, fmt.Errorf("log: entries are kept for at least %d days", int(Retention.Hours()/24))
	}
	var from int64 // the newest entry that is old enough
	err := l.Entries(ctx, func(e *LogEntry) bool {
		if now.Sub(e.Time) >= keep {
			from = e.Sequence
		}
		return from == 0
	})
	if err != nil {
		return 0, err
	}
	h, _, err := l.head(ctx)
	if err != nil || from <= h.First {
		return 0, err
	}
	if _, err := l.Append(ctx, LogEntry{Time: now, Actor: actor, Action: ActionPrune, Refers: from, Reason: fmt.Sprintf("entries %d to %d are older than %d days", h.First, from-1, int(keep.Hours()/24))}); err != nil {
		return 0, err
	}
	for {
		now, version, err := l.head(ctx)
		if err != nil {
			return 0, err
		}
		now.First = from
		if err := l.putHead(ctx, now, version); err == nil {
			break
		} else if !errors.Is(err, publish.ErrChanged) {
			return 0, err
		}
	}
	for n := h.First; n < from; n++ {
		if err := l.store.Delete(ctx, logName(n)); err != nil {
			return n - h.First, err
		}
	}
	return from - h.First, nil
}
