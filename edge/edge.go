// Package edge is the node's side of a catalog: it follows a channel and keeps
// in a folder what the node serves.
//
// A Node polls the catalog, whose signatures it verifies from a root of keys
// (package catalog/trust), compares what the channel offers with what it has,
// and fetches the files that are missing, by digest, from whatever place of
// the catalog, or other node, gives them. The files of a new release are
// verified, then the link "current" is moved to it in one step, then the
// node's health is asked for; if it is not well, the link goes back.
//
// Whatever is killed, cut, full or hostile: "current" leads to a release whose
// files are whole and verified, and that was not withdrawn as far as the node
// can know. The folder is described in release.go.
package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/trust"
	"github.com/modelpipe/modelpipe/internal/filelock"
	"github.com/modelpipe/modelpipe/publish"
)

// What went wrong, for errors.Is. Beside these there are those of packages
// trust and publish.
var (
	// ErrBusy: another process keeps the folder.
	ErrBusy = errors.New("another process syncs this folder")
	// ErrUnhealthy: the health check said no.
	ErrUnhealthy = errors.New("the health check failed")
	// ErrWithdrawn: a release must not be served any more.
	ErrWithdrawn = errors.New("was withdrawn")
	// ErrFull: the disk has no room.
	ErrFull = errors.New("the disk has no room")
	// ErrNothing: the selection takes no model of the channel.
	ErrNothing = errors.New("takes no model of the channel")
)

// The policies of eviction: what may be taken away when the disk has no room
// for a release.
const (
	EvictNever    = "never"
	EvictUnused   = "unused"   // files of no release that is kept
	EvictPrevious = "previous" // those of the previous release as well: there is no going back then
)

// Options is what a Node needs. Of what is left out, Catalog and Root must be
// given.
type Options struct {
	Catalog string // folder, s3://bucket/prefix, or address of a web server
	Root    string // the node's folder
	Channel string // left out: catalog.DefaultChannel

	// Trust is the root metadata that is trusted from the start. Where it is
	// left out, what the node has trusted before goes on to be, or else, with
	// FirstUse, the first root that the store shows.
	Trust    []byte
	FirstUse bool

	Select Selection
	Slot   string // blue or green: follow the active release of this slot where there is one
	Pins   []Pin
	Peers  []string // addresses of other nodes
	Health Health

	Parallel int           // requests at once for one file; left out: 4
	Limit    int64         // bytes per second, of all files together; 0: none
	Stall    time.Duration // of a transfer that gives next to nothing until it is given up; left out: 30 s
	Backoff  time.Duration // before the second try; left out: 200 ms
	KeepFree int64         // bytes of the disk that stay free
	Evict    string        // left out: EvictUnused
	Retry    time.Duration // after which an unhealthy release is tried again, doubled each time; left out: 1 h

	// Round bounds how long a round fetches, so that what is withdrawn
	// meanwhile leaves; the next round goes on. 0: as long as it takes.
	Round time.Duration

	Getenv func(string) string // left out: os.Getenv
	Now    func() time.Time    // left out: time.Now
	Log    *slog.Logger        // left out: none
}

// Node keeps a folder in step with a channel. Sync is for one goroutine at a
// time; Handler may be served meanwhile.
type Node struct {
	o      Options
	log    *slog.Logger
	now    func() time.Time
	hook   hook
	free   func(string) (int64, error)
	client *http.Client
	limit  *limiter

	home, blobs, pieces, releases, objects, trusted *folder
	locked                                          *os.File

	store   *store
	trust   *trust.Client
	readers map[string]publish.RangeReader
	broken  map[string]brokenOff // transfers, by SHA-256
	state   state
	written []byte        // the state as it is on the disk
	skew    time.Duration // of the clock here against the store's

	counters counters
	mu       sync.Mutex // of shown
	shown    status
}

// counters count over the life of a Node, in bytes but for the first three.
type counters struct {
	requests, failures, rollbacks              atomic.Int64
	metadata, fetched, copied, resumed, served atomic.Int64
	evicted                                    atomic.Int64
}

// New opens a node's folder, and locks it until Close.
func New(o Options) (*Node, error) { return open(o, nil, freeBytes) }

func open(o Options, h hook, free func(string) (int64, error)) (_ *Node, err error) {
	if o.Catalog == "" || o.Root == "" {
		return nil, errors.New("sync: want a catalog and the folder of the node")
	}
	fill(&o.Channel, catalog.DefaultChannel)
	fill(&o.Parallel, 4)
	fill(&o.Stall, 30*time.Second)
	fill(&o.Backoff, 200*time.Millisecond)
	fill(&o.Evict, EvictUnused)
	fill(&o.Retry, time.Hour)
	fill(&o.Health.Timeout, time.Minute)
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := publish.CheckName(o.Channel); err != nil {
		return nil, fmt.Errorf("channel: %w", err)
	}
	n := &Node{o: o, log: o.Log, now: o.Now, hook: h, free: free, client: newClient(o.Stall), limit: &limiter{rate: o.Limit}, readers: map[string]publish.RangeReader{}, broken: map[string]brokenOff{}}
	if n.home, err = openFolder(o.Root, h); err != nil {
		return nil, fmt.Errorf("sync: %w", err)
	}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if n.locked, err = n.home.lock(); err != nil {
		return nil, fmt.Errorf("sync: %w", err)
	}
	for _, d := range []struct {
		to   **folder
		path []string
	}{
		{&n.blobs, []string{"blobs", "sha256"}}, {&n.pieces, []string{"pieces"}}, {&n.releases, []string{releasesName}},
		{&n.objects, []string{"objects"}}, {&n.trusted, []string{"trust"}},
	} {
		at := n.home
		for i, name := range d.path {
			next, err := at.dir(name)
			if i > 0 {
				at.Close()
			}
			if err != nil {
				return nil, fmt.Errorf("sync: %w", err)
			}
			at = next
		}
		*d.to = at
	}
	n.readState()
	if n.store, err = n.openStore(); err != nil {
		return nil, fmt.Errorf("sync: %w", err)
	}
	n.show(nil)
	return n, nil
}

// fill gives what was left out its value.
func fill[T comparable](to *T, value T) {
	var zero T
	if *to == zero {
		*to = value
	}
}

// Close gives the folder back.
func (n *Node) Close() error {
	var err error
	for _, d := range []*folder{n.blobs, n.pieces, n.releases, n.objects, n.trusted, n.home} {
		if d != nil {
			err = errors.Join(err, d.Close())
		}
	}
	if n.locked != nil {
		err = errors.Join(err, filelock.Release(n.locked))
	}
	n.client.CloseIdleConnections()
	return err
}

// Result is what a round has done.
type Result struct {
	Release   int64    `json:"release"` // that is current, 0: none
	Changed   bool     `json:"changed"`
	Models    []Entry  `json:"models"`
	Timestamp int64    `json:"timestamp"` // version of what was signed
	Requests  int64    `json:"requests"`  // of small objects
	Metadata  int64    `json:"metadata_bytes"`
	Fetched   int64    `json:"fetched_bytes"`
	Copied    int64    `json:"copied_bytes"`  // that the node had in other files
	Resumed   int64    `json:"resumed_bytes"` // that an earlier round had fetched
	Evicted   int64    `json:"evicted_bytes,omitempty"`
	More      bool     `json:"more,omitempty"` // there is more to fetch: Options.Round was over
	Problems  []string `json:"problems,omitempty"`
}

// Sync does one round: it takes over what the channel offers now. What
// concerns single models does not stop the others; the error then joins all
// that went wrong. The result tells what is served, also beside an error.
func (n *Node) Sync(ctx context.Context) (*Result, error) {
	before := n.counts()
	r := &Result{}
	err := n.round(ctx, r)
	if werr := n.writeState(); werr != nil {
		err = errors.Join(err, werr)
	}
	if current, rerr := n.readRelease(n.currentNumber()); rerr == nil {
		r.Release, r.Models = current.Number, current.Models
	}
	if r.Models == nil {
		r.Models = []Entry{}
	}
	after := n.counts()
	r.Requests, r.Metadata, r.Fetched = after[0]-before[0], after[1]-before[1], after[2]-before[2]
	r.Copied, r.Resumed, r.Evicted = after[3]-before[3], after[4]-before[4], after[5]-before[5]
	if err != nil {
		r.Problems = strings.Split(err.Error(), "\n")
	}
	n.show(err)
	return r, err
}

func (n *Node) counts() [6]int64 {
	c := &n.counters
	return [6]int64{c.requests.Load(), c.metadata.Load(), c.fetched.Load(), c.copied.Load(), c.resumed.Load(), c.evicted.Load()}
}

func (n *Node) round(ctx context.Context, out *Result) error {
	settled := n.settle(ctx)
	signed, reader, err := n.poll(ctx)
	if diskFull(err) {
		// What is signed takes little, and may say that something must leave.
		n.log.Warn("the disk has no room for the catalog: unfinished files are taken away", "error", err)
		if err := n.dropUnfinished(); err != nil {
			return errors.Join(settled, err)
		}
		signed, reader, err = n.poll(ctx)
	}
	if err != nil {
		return errors.Join(settled, err)
	}
	out.Timestamp = signed.Timestamp
	key, err := n.key(reader)
	if err != nil {
		return err
	}
	current, damage := n.current()
	if settled == nil && damage == nil && n.state.Settled == (settlement{key, current.Number}) {
		return nil
	}
	n.state.Settled = settlement{}
	w, err := n.read(ctx, reader)
	if err != nil {
		return errors.Join(settled, err)
	}
	n.checkClock(w)
	problems := append([]error{settled}, w.problems...)
	leave, err := n.ban(ctx, reader, current)
	if err != nil {
		return errors.Join(settled, err)
	}
	if w.matched == 0 && len(n.o.Select.terms) > 0 && len(leave) == 0 {
		return errors.Join(append(problems, fmt.Errorf("the selection %w %s: what is served stays", ErrNothing, n.o.Channel))...)
	}
	if len(leave) > 0 {
		// What was withdrawn leaves before anything is fetched.
		for _, why := range leave {
			n.log.Warn("a release leaves this node", "reason", why)
		}
		if err := n.take(ctx, out, current, n.compose(w, current)); err != nil {
			problems = append(problems, err)
		}
		current, damage = n.current()
	}
	problems = append(problems, n.fetchAll(ctx, out, w, current)...)
	if err := ctx.Err(); err != nil {
		return errors.Join(append(problems, context.Cause(ctx))...)
	}
	offer := n.compose(w, current)
	if err := n.mayTry(offer); err != nil {
		problems = append(problems, err)
		offer = n.permitted(current.Models)
	}
	if same, err := equal(offer, current.Models); err != nil {
		return err
	} else if !same || damage != nil || current.Number == 0 {
		if damage != nil && current.Number != 0 {
			n.log.Warn("the current release is made anew", "reason", damage)
		}
		if err := n.take(ctx, out, current, offer); err != nil {
			problems = append(problems, err)
		}
	}
	if err := n.collect(w); err != nil {
		problems = append(problems, fmt.Errorf("collect garbage: %w", err))
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	if !out.More {
		n.state.Settled = settlement{key, n.currentNumber()}
	}
	return nil
}

// poll refreshes what is signed and returns the catalog of the channel.
func (n *Node) poll(ctx context.Context) (*trust.State, *catalog.Reader, error) {
	if err := n.openTrust(ctx); err != nil {
		return nil, nil, err
	}
	n.store.begin()
	signed, err := n.trust.Refresh(ctx)
	if err == nil {
		var reader *catalog.Reader
		if reader, err = signed.Channel(ctx, n.o.Channel); err == nil {
			n.mu.Lock()
			n.shown.Expires = signed.Expires
			n.mu.Unlock()
			return signed, reader, nil
		}
	}
	if diskFull(err) {
		return nil, nil, fmt.Errorf("poll %s: %w", shown(n.o.Catalog), &manyKinds{ErrFull.Error() + ": " + err.Error(), []error{ErrFull, syscall.ENOSPC}})
	}
	if errors.Is(err, trust.ErrUntrusted) {
		err = errors.Join(err, n.home.remove(pollName))
	}
	if most := time.Hour; errors.Is(err, trust.ErrExpired) && (n.skew > most || n.skew < -most) {
		err = fmt.Errorf("%w; the store's clock differs by %v", err, -n.skew.Round(time.Second))
	}
	return nil, nil, fmt.Errorf("poll %s: %w", shown(n.o.Catalog), err)
}

// shown is a target without what may be a password.
func shown(target string) string {
	if scheme, rest, ok := strings.Cut(target, "://"); ok {
		host, path, _ := strings.Cut(rest, "/")
		return scheme + "://" + host[strings.LastIndex(host, "@")+1:] + "/" + path
	}
	return target
}

const (
	trustedName = "first.root.json"
	maxTrusted  = 64 << 10
)

// openTrust makes the client of the signatures. The root that was trusted
// first is kept.
func (n *Node) openTrust(ctx context.Context) error {
	if err := n.tidyTrust(); err != nil {
		return err
	}
	if n.trust != nil {
		return nil
	}
	root := n.o.Trust
	if root == nil {
		kept, err := n.trusted.read(trustedName, maxTrusted)
		switch {
		case err == nil:
			root = kept
		case !errors.Is(err, fs.ErrNotExist):
			return err
		case !n.o.FirstUse:
			return fmt.Errorf("%w: no root of keys is trusted yet: give one, or trust what the store shows first", trust.ErrUntrusted)
		default:
			if root, err = n.store.Fetch(ctx, "metadata/1.root.json", maxTrusted); err != nil {
				return fmt.Errorf("nothing is signed at %s: %w", shown(n.o.Catalog), err)
			}
			n.log.Warn("the first root of keys that the store shows is trusted from now on", "sha256", catalog.DigestOf(root))
		}
	}
	client, err := trust.NewClient(trust.ClientOptions{Root: root, Dir: n.trusted.path, Fetch: n.store, Now: n.now})
	if err != nil {
		return fmt.Errorf("%w: %w", trust.ErrUntrusted, err)
	}
	if err := n.trusted.write(trustedName, root); err != nil {
		return err
	}
	n.trust = client
	return nil
}

// key identifies what a round works on: the catalog, what the node takes of it,
// and the program, of which another version may take something else.
func (n *Node) key(r *catalog.Reader) (string, error) {
	var version string
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	data, err := json.Marshal(struct {
		Index              *catalog.Index
		Terms              map[string][]string
		MaxSize, MaxMemory int64
		Slot               string
		Pins               []Pin
		Version            string
	}{r.Index(), n.o.Select.terms, n.o.Select.MaxSize, n.o.Select.MaxMemory, n.o.Slot, n.o.Pins, version})
	return string(catalog.DigestOf(data)), err
}

// read reads what the catalog asks for. Objects on the disk that are not what
// they should be are fetched again.
func (n *Node) read(ctx context.Context, r *catalog.Reader) (*want, error) {
	w, err := n.want(ctx, r)
	if err != nil && n.store.hits > 0 && ctx.Err() == nil {
		n.log.Warn("what is kept of the catalog is fetched again", "reason", err)
		if err := n.store.prune(true); err != nil {
			return nil, err
		}
		w, err = n.want(ctx, r)
	}
	if err != nil {
		return nil, fmt.Errorf("read the catalog: %w", err)
	}
	return w, nil
}

// checkClock warns where the clock is behind what was signed: then expired
// metadata would be taken for valid.
func (n *Node) checkClock(w *want) {
	const tolerance = 10 * time.Minute
	if w.newest.After(n.state.Newest) {
		n.state.Newest = w.newest
	}
	if behind := n.state.Newest.Sub(n.now()); behind > tolerance {
		n.log.Warn("the clock of this machine is behind: old metadata could be taken for new", "clock", n.now().UTC().Format(time.RFC3339), "signed", n.state.Newest.Format(time.RFC3339))
	}
}

// current returns the current release, empty where there is none, and what is
// wrong with it.
func (n *Node) current() (*Release, error) {
	i := n.currentNumber()
	r, err := n.readRelease(i)
	if err != nil {
		return &Release{}, err
	}
	return r, n.whole(r)
}

// settle ends what a round before this one has begun: a release that is
// current and not confirmed is asked for its health. It needs no network.
func (n *Node) settle(ctx context.Context) error {
	i := n.currentNumber()
	if i != 0 && i == n.state.Confirmed {
		return nil
	}
	if i == 0 {
		r, err := n.readRelease(n.state.Confirmed)
		if err != nil || n.whole(r) != nil || len(n.permitted(r.Models)) < len(r.Models) {
			return nil
		}
		n.log.Warn("there was no current release: it is the confirmed one again", "release", r.Number)
		return n.flip(r.Number)
	}
	r, err := n.readRelease(i)
	if err != nil || n.whole(r) != nil {
		return nil // it is made anew from the catalog
	}
	return n.confirm(ctx, r)
}

// take makes entries the current release.
func (n *Node) take(ctx context.Context, out *Result, current *Release, entries []Entry) error {
	r, err := n.build(n.o.Channel, entries)
	if err != nil {
		return fmt.Errorf("make the release: %w", err)
	}
	if err := n.flip(r.Number); err != nil {
		return fmt.Errorf("release %d: %w", r.Number, err)
	}
	out.Changed = true
	n.log.Info("a release is current", "release", r.Number, "models", len(r.Models), "before", current.Number)
	return n.confirm(ctx, r)
}

// confirm asks for the health of the current release, and goes back to the
// confirmed one where it is not well.
func (n *Node) confirm(ctx context.Context, r *Release) error {
	why := n.healthy(ctx, r)
	if why == nil {
		if n.state.Confirmed != r.Number {
			n.state.Previous, n.state.Confirmed = n.state.Confirmed, r.Number
		}
		if d, err := digest(r.Models); err == nil {
			delete(n.state.Rejected, d)
		}
		return n.writeState()
	}
	if !errors.Is(why, ErrUnhealthy) {
		return why // asked again by the next round
	}
	d, err := digest(r.Models)
	if err != nil {
		return err
	}
	n.state.Rejected[d] = rejection{n.now().UTC(), n.state.Rejected[d].Times + 1, why.Error()}
	if err := n.writeState(); err != nil {
		return errors.Join(why, err)
	}
	back, err := n.readRelease(n.state.Confirmed)
	if err != nil || back.Number == r.Number {
		return fmt.Errorf("%w: there is no release to go back to", why)
	}
	entries := n.permitted(back.Models)
	if same, err := equal(entries, r.Models); err != nil || same {
		return fmt.Errorf("%w: what was served before must not be: it stays", why)
	}
	if len(entries) < len(back.Models) || n.whole(back) != nil {
		if back, err = n.build(n.o.Channel, entries); err != nil {
			return errors.Join(why, fmt.Errorf("go back: %w", err))
		}
	}
	if err := n.flip(back.Number); err != nil {
		return errors.Join(why, fmt.Errorf("go back: %w", err))
	}
	n.state.Confirmed = back.Number
	n.counters.rollbacks.Add(1)
	n.log.Error("the release is not well: the one before it is current again", "release", r.Number, "current", back.Number, "reason", why)
	// Its server has to load what is current again; the health command may do so.
	if err := n.healthy(ctx, back); err != nil {
		return errors.Join(fmt.Errorf("%w: release %d is current again", why, back.Number), fmt.Errorf("after going back: %w", err))
	}
	return errors.Join(fmt.Errorf("%w: release %d is current again", why, back.Number), n.writeState())
}

// mayTry says whether an offer that was not well is to be tried again.
func (n *Node) mayTry(offer []Entry) error {
	d, err := digest(offer)
	if err != nil {
		return err
	}
	r, ok := n.state.Rejected[d]
	if now := n.now(); !ok || !now.Before(r.until(n.o.Retry)) || now.Before(r.At) { // or the clock was set back
		return nil
	}
	return fmt.Errorf("%w at %s and is tried again after %s: %s", ErrUnhealthy, r.At.Format(time.RFC3339), r.until(n.o.Retry).Format(time.RFC3339), r.Reason)
}

// banKey identifies a release of a model.
func banKey(e Entry) string { return e.Model + "@" + strconv.FormatInt(e.Release, 10) }

// ban notes which releases must not be served, and returns why entries of the
// current one must leave.
func (n *Node) ban(ctx context.Context, r *catalog.Reader, current *Release) ([]error, error) {
	entries := slices.Clone(current.Models)
	for _, i := range []int64{n.state.Confirmed, n.state.Previous} {
		if old, err := n.readRelease(i); err == nil {
			entries = append(entries, old.Models...)
		}
	}
	bans := map[string]string{}
	var leave []error
	seen := map[string]bool{}
	for i, e := range entries {
		key := banKey(e)
		if seen[key] && i >= len(current.Models) {
			continue
		}
		seen[key] = true
		why, err := banned(ctx, r, e)
		if err != nil {
			return nil, fmt.Errorf("read the catalog: %w", err)
		}
		if why == nil {
			continue
		}
		bans[key] = why.Error()
		if i < len(current.Models) {
			leave = append(leave, why)
		}
	}
	n.state.Banned = bans
	return leave, n.writeState()
}

// permitted returns the entries that may be served and whose files are there.
func (n *Node) permitted(entries []Entry) []Entry {
	out := []Entry{}
	for _, e := range entries {
		if n.state.Banned[banKey(e)] == "" && n.ready(e) {
			out = append(out, e)
		}
	}
	return out
}

// ready says whether the files of an entry are there.
func (n *Node) ready(e Entry) bool {
	return !slices.ContainsFunc(e.Files, func(f catalog.File) bool { return !n.has(f) })
}

// compose returns the entries to serve: of each model that is wanted what the
// catalog asks for, where all of it is there; else what is served of the model
// now, where that may go on.
func (n *Node) compose(w *want, current *Release) []Entry {
	out := []Entry{}
	old := n.permitted(current.Models)
	for model := range w.models() {
		var fresh, kept []Entry
		all := !w.kept[model]
		for _, e := range w.entries {
			if e.Model != model {
				continue
			}
			if n.ready(e.Entry) {
				fresh = append(fresh, e.Entry)
			} else {
				all = false
			}
		}
		for _, e := range old {
			if e.Model == model {
				kept = append(kept, e)
			}
		}
		if !all && len(kept) > 0 {
			out = append(out, kept...)
		} else {
			out = append(out, fresh...)
		}
	}
	return out
}

// equal says whether two sets of entries are the same.
func equal(a, b []Entry) (bool, error) {
	x, err1 := digest(append([]Entry{}, a...))
	y, err2 := digest(append([]Entry{}, b...))
	return x == y, errors.Join(err1, err2)
}

// A Change is what a round would do with a variant.
type Change struct {
	Action  string `json:"action"` // fetch, keep, remove
	Model   string `json:"model"`
	Release int64  `json:"release"`
	Variant string `json:"variant"`
	Bytes   int64  `json:"bytes"`            // that take room on the disk anew
	Reason  string `json:"reason,omitempty"` // why it is removed
}

// Plan says what Sync would do, and does nothing but refresh what is signed.
// Pieces that the node has in other files are not taken into account.
func (n *Node) Plan(ctx context.Context) ([]Change, error) {
	_, reader, err := n.poll(ctx)
	if err != nil {
		return nil, err
	}
	w, err := n.read(ctx, reader)
	if err != nil {
		return nil, err
	}
	current, _ := n.current()
	changes := []Change{}
	wanted := map[string]bool{}
	for _, e := range w.entries {
		c := Change{"keep", e.Model, e.Release, e.Variant, n.needs(e.Entry), ""}
		if !slices.ContainsFunc(current.Models, func(x Entry) bool {
			return x.Model == e.Model && x.Variant == e.Variant && x.Release == e.Release
		}) {
			c.Action = "fetch"
		}
		wanted[e.Model+"/"+e.Variant] = true
		changes = append(changes, c)
	}
	for _, e := range current.Models {
		why, err := banned(ctx, reader, e)
		if err != nil {
			return nil, err
		}
		if why == nil && (wanted[e.Model+"/"+e.Variant] || w.kept[e.Model]) {
			continue
		}
		c := Change{"remove", e.Model, e.Release, e.Variant, 0, "the catalog asks for others"}
		if why != nil {
			c.Reason = why.Error()
		}
		changes = append(changes, c)
	}
	return changes, errors.Join(w.problems...)
}
