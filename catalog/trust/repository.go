// Package trust says whose word a catalog is. It keeps a repository of The
// Update Framework (TUF) in the store, beside the catalog, and reads it as a
// client that trusts nothing but a root of keys.
//
//	metadata/N.root.json         which keys may sign what, signed by a threshold of root keys
//	metadata/root.json           a copy of the newest one, for people
//	metadata/N.targets.json      delegates each channel to the keys of that channel
//	metadata/N.channel-C.json    the digest of channel C's root index
//	metadata/N.snapshot.json     the versions of targets and of all channels
//	metadata/timestamp.json      the version of the snapshot; the one object that changes
//	channels/DIGEST.C.json       the root index that was signed
//
// The timestamp is written last and by compare-and-swap: until then readers
// see what was signed before. Below a channel's root index everything is
// verified by digest (package catalog), so the signed metadata stays small
// whatever the number of models.
package trust

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/publish"
)

// Bounds of the metadata, in bytes. Those of root and timestamp are what a
// client accepts before it has verified anything.
const (
	maxRoot      = 64 << 10
	maxTimestamp = 16 << 10
	maxSnapshot  = 256 << 10
	maxTargets   = 256 << 10
)

// maxRotations bounds the root versions that a client walks in one refresh.
const maxRotations = 256

const folder = "metadata/"

func metadataName(role string, version int64) string {
	if role == roleTimestamp {
		return folder + "timestamp.json"
	}
	return fmt.Sprintf("%s%d.%s.json", folder, version, role)
}

const (
	rootCopy   = folder + "root.json"
	stagedRoot = folder + "staged.root.json"
)

// indexTarget is where a channel's root index lies that was signed.
func indexTarget(channel string, digest catalog.Digest) string {
	return "channels/" + strings.TrimPrefix(string(digest), "sha256:") + "." + channel + ".json"
}

// Repository signs the catalogs of a store.
type Repository struct {
	Store  publish.Store
	Policy *Policy
	Actor  string           // who, as the log shows it
	Now    func() time.Time // nil: time.Now
}

// Result is what was signed.
type Result struct {
	Written   []string        `json:"written"` // names of objects, in order
	Root      int64           `json:"root"`    // versions
	Snapshot  int64           `json:"snapshot"`
	Timestamp int64           `json:"timestamp"`
	Channels  []SignedChannel `json:"channels"`
	Expires   time.Time       `json:"expires"`      // the timestamp
	RootUntil time.Time       `json:"root_expires"` // the root: rotate before that
}

// SignedChannel is a channel's state.
type SignedChannel struct {
	Channel string         `json:"channel"`
	Version int64          `json:"version"`
	Index   catalog.Digest `json:"index_digest"`
}

// ErrMissingSignatures says that more people must sign: what is there so far
// was kept for them.
var ErrMissingSignatures = errors.New("more signatures are needed")

func (r *Repository) now() time.Time {
	t := time.Now()
	if r.Now != nil {
		t = r.Now()
	}
	return t.UTC().Truncate(time.Second)
}

// get reads metadata. Where there is none, the error wraps fs.ErrNotExist.
func get[T metadata.Roles](ctx context.Context, s publish.Store, name string, limit int64) (*metadata.Metadata[T], publish.Version, error) {
	data, version, err := s.Get(ctx, name, limit)
	if err != nil {
		return nil, version, err
	}
	md, err := new(metadata.Metadata[T]).FromBytes(data)
	if err != nil {
		return nil, version, fmt.Errorf("%s: %w", name, err)
	}
	return md, version, nil
}

// sign replaces the signatures of md by those of the keys that are on this
// machine.
func sign[T metadata.Roles](ctx context.Context, md *metadata.Metadata[T], role string, keys []*Key, threshold int) error {
	md.ClearSignatures()
	n, err := addSignatures(ctx, md, keys)
	if err != nil {
		return fmt.Errorf("sign %s: %w", role, err)
	}
	if n < threshold {
		return fmt.Errorf("sign %s: %d of %d keys are on this machine, want %d: %w", role, n, len(keys), threshold, errNoKey)
	}
	return nil
}

// addSignatures adds those of the keys that are on this machine and have not
// signed yet, and returns how many of the keys have signed.
func addSignatures[T metadata.Roles](ctx context.Context, md *metadata.Metadata[T], keys []*Key) (int, error) {
	n := 0
	for _, k := range keys {
		if slices.ContainsFunc(md.Signatures, func(s metadata.Signature) bool { return s.KeyID == k.ID }) {
			n++
			continue
		}
		var why error
		if _, err := md.Sign(signer{ctx, k, &why}); err != nil {
			if why == nil {
				why = err
			}
			if errors.Is(why, errNoKey) {
				continue
			}
			return 0, why
		}
		n++
	}
	return n, nil
}

// put writes metadata and notes it.
func put[T metadata.Roles](ctx context.Context, r *Repository, out *Result, md *metadata.Metadata[T], name string, prior publish.Version) ([]byte, error) {
	data, err := md.ToBytes(false)
	if err != nil {
		return nil, err
	}
	if _, err := r.Store.Put(ctx, name, data, prior); err != nil {
		return nil, err
	}
	out.Written = append(out.Written, name)
	return data, nil
}

// putNew writes metadata of a role under the next version that is free: a run
// that was killed may have left some.
func putNew[T metadata.Roles](ctx context.Context, r *Repository, out *Result, md *metadata.Metadata[T], role string, version *int64, seal func() error) ([]byte, error) {
	const attempts = 100
	for range attempts {
		*version++
		if err := seal(); err != nil {
			return nil, err
		}
		data, err := put(ctx, r, out, md, metadataName(role, *version), publish.Absent)
		if !errors.Is(err, publish.ErrChanged) && !errors.Is(err, publish.ErrExists) {
			return data, err
		}
	}
	return nil, fmt.Errorf("sign %s: the next %d versions are taken", role, attempts)
}

// newestRoot returns the newest root, or nil where there is none.
func (r *Repository) newestRoot(ctx context.Context) (*metadata.Metadata[metadata.RootType], error) {
	root, _, err := get[metadata.RootType](ctx, r.Store, rootCopy, maxRoot)
	if errors.Is(err, fs.ErrNotExist) {
		root, _, err = get[metadata.RootType](ctx, r.Store, metadataName(roleRoot, 1), maxRoot)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for err == nil {
		var next *metadata.Metadata[metadata.RootType]
		next, _, err = get[metadata.RootType](ctx, r.Store, metadataName(roleRoot, root.Signed.Version+1), maxRoot)
		if errors.Is(err, fs.ErrNotExist) {
			return root, nil
		}
		if err == nil {
			root = next
		}
	}
	return nil, err
}

// fillRoot makes the root say what the policy says.
func (r *Repository) fillRoot(root *metadata.RootType) error {
	root.Keys = map[string]*metadata.Key{}
	for _, name := range []string{roleRoot, roleTargets, roleSnapshot, roleTimestamp} {
		p, err := r.Policy.role(name)
		if err != nil {
			return err
		}
		role := &metadata.Role{KeyIDs: []string{}, Threshold: p.Threshold}
		for _, k := range r.Policy.keysOf(p) {
			root.Keys[k.ID] = k.tuf
			role.KeyIDs = append(role.KeyIDs, k.ID)
		}
		slices.Sort(role.KeyIDs)
		root.Roles[name] = role
	}
	return nil
}

// same says whether two values have the same canonical JSON.
func same(a, b any) bool {
	x, err1 := cjson.EncodeCanonical(a)
	y, err2 := cjson.EncodeCanonical(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// Rotate writes the next root: with the keys of the policy, signed by those of
// the root before and by the new ones. Where not enough of the keys are on
// this machine it keeps the signatures so far in the store, and the error
// wraps ErrMissingSignatures: somebody else runs the same with the same
// policy. Without a change of keys it makes the root valid for longer. The
// keys of the root before must be in the policy's [key] tables still, so that
// they can sign.
func (r *Repository) Rotate(ctx context.Context) (*Result, error) {
	out := &Result{}
	old, err := r.newestRoot(ctx)
	if err != nil {
		return nil, fmt.Errorf("rotate: %w", err)
	}
	p, err := r.Policy.role(roleRoot)
	if err != nil {
		return nil, err
	}
	next := metadata.Root(r.now().Add(p.validity()))
	if err := r.fillRoot(&next.Signed); err != nil {
		return nil, err
	}
	if old != nil {
		next.Signed.Version = old.Signed.Version + 1
	}
	staged, version, err := get[metadata.RootType](ctx, r.Store, stagedRoot, maxRoot)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("rotate: %w", err)
	case staged.Signed.Version == next.Signed.Version && same(staged.Signed.Keys, next.Signed.Keys) && same(staged.Signed.Roles, next.Signed.Roles) && staged.Signed.Expires.After(r.now()):
		next = staged
	}
	signers := r.Policy.keysOf(p)
	if old != nil {
		for _, k := range r.Policy.keys {
			if slices.Contains(old.Signed.Roles[roleRoot].KeyIDs, k.ID) && !slices.Contains(signers, k) {
				signers = append(signers, k)
			}
		}
	}
	if _, err := addSignatures(ctx, next, signers); err != nil {
		return nil, fmt.Errorf("rotate: %w", err)
	}
	err = next.VerifyDelegate(roleRoot, next)
	if err == nil && old != nil {
		err = old.VerifyDelegate(roleRoot, next)
	}
	if err != nil {
		if _, err := put(ctx, r, out, next, stagedRoot, version); err != nil {
			return nil, fmt.Errorf("rotate: %w", err)
		}
		return out, fmt.Errorf("rotate: root %d has %d signatures: %w: let the others run the same command", next.Signed.Version, len(next.Signatures), ErrMissingSignatures)
	}
	if _, err := r.record(ctx, catalog.ActionRotate, map[string]catalog.Digest{}, fmt.Sprintf("root %d", next.Signed.Version)); err != nil {
		return nil, fmt.Errorf("rotate: %w", err)
	}
	data, err := put(ctx, r, out, next, metadataName(roleRoot, next.Signed.Version), publish.Absent)
	if err != nil {
		return nil, fmt.Errorf("rotate: somebody else was faster: %w", err)
	}
	if _, err := r.Store.Put(ctx, rootCopy, data, publish.Any); err != nil {
		return nil, fmt.Errorf("rotate: %w", err)
	}
	if err := r.Store.Delete(ctx, stagedRoot); err != nil {
		return nil, fmt.Errorf("rotate: %w", err)
	}
	out.Root, out.RootUntil = next.Signed.Version, next.Signed.Expires
	return out, nil
}

// record writes an entry into the log and returns where it stands.
func (r *Repository) record(ctx context.Context, action string, digests map[string]catalog.Digest, reason string) (*catalog.LogAnchor, error) {
	log := catalog.NewLog(r.Store)
	if _, err := log.Append(ctx, catalog.LogEntry{Time: r.now(), Actor: r.Actor, Action: action, Digests: digests, Reason: reason}); err != nil {
		return nil, err
	}
	sequence, digest, err := log.Head(ctx)
	return &catalog.LogAnchor{Sequence: sequence, SHA256: digest}, err
}

// state is what the store has, as far as it is there.
type state struct {
	root      *metadata.Metadata[metadata.RootType]
	timestamp *metadata.Metadata[metadata.TimestampType]
	version   publish.Version // of the timestamp
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	targets   *metadata.Metadata[metadata.TargetsType]
	channels  map[string]*metadata.Metadata[metadata.TargetsType]
}

func (r *Repository) state(ctx context.Context, root *metadata.Metadata[metadata.RootType]) (*state, error) {
	s := &state{root: root, channels: map[string]*metadata.Metadata[metadata.TargetsType]{}}
	var err error
	s.timestamp, s.version, err = get[metadata.TimestampType](ctx, r.Store, metadataName(roleTimestamp, 0), maxTimestamp)
	if errors.Is(err, fs.ErrNotExist) {
		s.timestamp = metadata.Timestamp()
		s.timestamp.Signed.Version = 0
		s.snapshot = metadata.Snapshot()
		s.snapshot.Signed.Version, s.snapshot.Signed.Meta = 0, map[string]*metadata.MetaFiles{}
		s.targets = metadata.Targets()
		s.targets.Signed.Version = 0
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	meta := s.timestamp.Signed.Meta["snapshot.json"]
	if meta == nil {
		return nil, errors.New("timestamp.json: names no snapshot")
	}
	if s.snapshot, _, err = get[metadata.SnapshotType](ctx, r.Store, metadataName(roleSnapshot, meta.Version), maxSnapshot); err != nil {
		return nil, err
	}
	for name, meta := range s.snapshot.Signed.Meta {
		role := strings.TrimSuffix(name, ".json")
		md, _, err := get[metadata.TargetsType](ctx, r.Store, metadataName(role, meta.Version), maxTargets)
		if err != nil {
			return nil, err
		}
		if channel, ok := strings.CutPrefix(role, "channel-"); ok {
			s.channels[channel] = md
		} else if role == roleTargets {
			s.targets = md
		}
	}
	if s.targets == nil {
		return nil, errors.New("snapshot: names no targets")
	}
	return s, nil
}

// signedKey is a field of the timestamp beside TUF's: when it was signed.
const signedKey = "x-signed"

// stale says whether metadata must be signed again although nothing has
// changed: a third of its time is left.
func (r *Repository) stale(expires time.Time, p RolePolicy) bool {
	return expires.Sub(r.now()) < p.validity()/3
}

// Sign signs what the store's channels hold now. What has not changed and is
// valid for long enough is left as it is; where nothing has changed at all,
// that costs reading. The first root is made where there is none. The
// timestamp is written last.
func (r *Repository) Sign(ctx context.Context) (*Result, error) {
	out := &Result{}
	root, err := r.newestRoot(ctx)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if root == nil {
		first, err := r.Rotate(ctx)
		if err != nil {
			return nil, err
		}
		out.Written = first.Written
		if root, err = r.newestRoot(ctx); err != nil {
			return nil, fmt.Errorf("sign: %w", err)
		}
	}
	want := metadata.Root()
	if err := r.fillRoot(&want.Signed); err != nil {
		return nil, err
	}
	if !same(want.Signed.Roles, root.Signed.Roles) {
		return nil, fmt.Errorf("sign: root %d has other keys than the policy: run rotate first", root.Signed.Version)
	}
	if !root.Signed.Expires.After(r.now()) {
		return nil, fmt.Errorf("sign: root %d has expired at %s: run rotate first", root.Signed.Version, root.Signed.Expires.Format(time.RFC3339))
	}
	s, err := r.state(ctx, root)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if err := r.checkClock(s); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	out.Root, out.RootUntil = root.Signed.Version, root.Signed.Expires
	if err := r.signAll(ctx, s, out); err != nil {
		return nil, err
	}
	out.Snapshot, out.Timestamp, out.Expires = s.snapshot.Signed.Version, s.timestamp.Signed.Version, s.timestamp.Signed.Expires
	for _, name := range r.Policy.channels() {
		if md := s.channels[name]; md != nil {
			out.Channels = append(out.Channels, SignedChannel{name, md.Signed.Version, signedIndex(md, name)})
		}
	}
	return out, nil
}

// checkClock refuses to sign with a clock that is behind the last signature:
// readers would take what it makes for expired, or for a rollback.
func (r *Repository) checkClock(s *state) error {
	text, _ := s.timestamp.Signed.UnrecognizedFields[signedKey].(string)
	last, err := time.Parse(time.RFC3339, text)
	if err == nil && r.now().Before(last.Add(-10*time.Minute)) {
		return fmt.Errorf("%w: it says %s, but the timestamp was signed at %s", catalog.ErrClock, r.now().Format(time.RFC3339), text)
	}
	return nil
}

// signedIndex is the digest of a channel's root index as its metadata has it.
func signedIndex(md *metadata.Metadata[metadata.TargetsType], channel string) catalog.Digest {
	if t := md.Signed.Targets[catalog.IndexName(channel)]; t != nil {
		return catalog.Digest("sha256:" + hex.EncodeToString(t.Hashes["sha256"]))
	}
	return ""
}

// signAll signs role by role from the channels to the timestamp.
func (r *Repository) signAll(ctx context.Context, s *state, out *Result) error {
	// The delegations to the channels.
	p, err := r.Policy.role(roleTargets)
	if err != nil {
		return err
	}
	delegations, err := r.delegations()
	if err != nil {
		return err
	}
	changed := false
	if s.targets.Signed.Version == 0 || !same(s.targets.Signed.Delegations, delegations) || s.root.VerifyDelegate(roleTargets, s.targets) != nil || r.stale(s.targets.Signed.Expires, p) {
		s.targets.Signed.Delegations = delegations
		_, err := putNew(ctx, r, out, s.targets, roleTargets, &s.targets.Signed.Version, func() error {
			s.targets.Signed.Expires = r.now().Add(p.validity())
			return sign(ctx, s.targets, roleTargets, r.Policy.keysOf(p), p.Threshold)
		})
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		changed = true
	}
	// What each channel holds.
	indices := map[string][]byte{}
	digests := map[string]catalog.Digest{}
	for _, name := range r.Policy.channels() {
		data, _, err := r.Store.Get(ctx, catalog.IndexName(name), catalog.MaxIndex)
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing was built yet
		}
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		x, err := catalog.DecodeIndex(data)
		if err != nil {
			return fmt.Errorf("sign %s: %w", catalog.IndexName(name), err)
		}
		if x.Channel != name {
			return fmt.Errorf("sign %s: is of channel %s", catalog.IndexName(name), x.Channel)
		}
		indices[name] = data
		if md := s.channels[name]; md == nil || signedIndex(md, name) != catalog.DigestOf(data) {
			digests[catalog.IndexName(name)] = catalog.DigestOf(data)
		}
	}
	var anchor *catalog.LogAnchor
	if len(digests) > 0 {
		if anchor, err = r.record(ctx, catalog.ActionSign, digests, ""); err != nil {
			return fmt.Errorf("sign: %w", err)
		}
	}
	for _, name := range r.Policy.channels() {
		data, ok := indices[name]
		if !ok {
			continue
		}
		done, err := r.signChannel(ctx, s, out, name, data, anchor)
		if err != nil {
			return err
		}
		changed = changed || done
	}
	// The snapshot of all of them.
	if p, err = r.Policy.role(roleSnapshot); err != nil {
		return err
	}
	if changed || s.snapshot.Signed.Version == 0 || s.root.VerifyDelegate(roleSnapshot, s.snapshot) != nil || r.stale(s.snapshot.Signed.Expires, p) {
		s.snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(s.targets.Signed.Version)
		for name, md := range s.channels {
			s.snapshot.Signed.Meta[channelRole(name)+".json"] = metadata.MetaFile(md.Signed.Version)
		}
		_, err := putNew(ctx, r, out, s.snapshot, roleSnapshot, &s.snapshot.Signed.Version, func() error {
			s.snapshot.Signed.Expires = r.now().Add(p.validity())
			return sign(ctx, s.snapshot, roleSnapshot, r.Policy.keysOf(p), p.Threshold)
		})
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		changed = true
	}
	// The timestamp is what makes all of it count.
	if p, err = r.Policy.role(roleTimestamp); err != nil {
		return err
	}
	if !changed && s.root.VerifyDelegate(roleTimestamp, s.timestamp) == nil && !r.stale(s.timestamp.Signed.Expires, p) {
		return nil
	}
	s.timestamp.Signed.Version++
	s.timestamp.Signed.Expires = r.now().Add(p.validity())
	s.timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(s.snapshot.Signed.Version)
	s.timestamp.Signed.UnrecognizedFields = map[string]any{signedKey: r.now().Format(time.RFC3339)}
	if err := sign(ctx, s.timestamp, roleTimestamp, r.Policy.keysOf(p), p.Threshold); err != nil {
		return err
	}
	if _, err := put(ctx, r, out, s.timestamp, metadataName(roleTimestamp, 0), s.version); err != nil {
		if errors.Is(err, publish.ErrChanged) {
			return fmt.Errorf("sign: somebody else has signed in the meantime; what readers see was not changed: %w", err)
		}
		return fmt.Errorf("sign: %w", err)
	}
	return nil
}

// signChannel signs the root index of a channel where that is another than
// before, or its time is running out.
func (r *Repository) signChannel(ctx context.Context, s *state, out *Result, name string, data []byte, anchor *catalog.LogAnchor) (bool, error) {
	role := channelRole(name)
	p, err := r.Policy.role(role)
	if err != nil {
		return false, err
	}
	digest := catalog.DigestOf(data)
	md := s.channels[name]
	if md != nil && signedIndex(md, name) == digest && s.targets.VerifyDelegate(role, md) == nil && !r.stale(md.Signed.Expires, p) {
		return false, nil
	}
	if md == nil {
		md = metadata.Targets()
		md.Signed.Version = 0
	}
	target := indexTarget(name, digest)
	if _, err := r.Store.Put(ctx, target, data, publish.Any); err != nil {
		return false, fmt.Errorf("sign: %w", err)
	}
	out.Written = append(out.Written, target)
	if signedIndex(md, name) != digest {
		sum, err := hex.DecodeString(strings.TrimPrefix(string(digest), "sha256:"))
		if err != nil {
			return false, err
		}
		t := metadata.TargetFile()
		t.Length, t.Hashes = int64(len(data)), metadata.Hashes{"sha256": sum}
		if anchor != nil {
			custom, err := json.Marshal(map[string]*catalog.LogAnchor{"log": anchor})
			if err != nil {
				return false, err
			}
			t.Custom = (*json.RawMessage)(&custom)
		}
		md.Signed.Targets = map[string]*metadata.TargetFiles{catalog.IndexName(name): t}
	}
	_, err = putNew(ctx, r, out, md, role, &md.Signed.Version, func() error {
		md.Signed.Expires = r.now().Add(p.validity())
		return sign(ctx, md, role, r.Policy.keysOf(p), p.Threshold)
	})
	if err != nil {
		return false, fmt.Errorf("sign: %w", err)
	}
	s.channels[name] = md
	return true, nil
}

// delegations give each channel's index to the keys of the channel.
func (r *Repository) delegations() (*metadata.Delegations, error) {
	d := &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	for _, name := range r.Policy.channels() {
		p, err := r.Policy.role(channelRole(name))
		if err != nil {
			return nil, err
		}
		role := metadata.DelegatedRole{Name: channelRole(name), KeyIDs: []string{}, Threshold: p.Threshold, Terminating: true, Paths: []string{catalog.IndexName(name)}}
		for _, k := range r.Policy.keysOf(p) {
			d.Keys[k.ID] = k.tuf
			role.KeyIDs = append(role.KeyIDs, k.ID)
		}
		slices.Sort(role.KeyIDs)
		d.Roles = append(d.Roles, role)
	}
	return d, nil
}
