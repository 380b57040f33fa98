package edge

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
)

// errRound says that a round has fetched for long enough.
var errRound = errors.New("the time of the round is over")

// fetchAll fetches what is missing, model by model, and returns what went
// wrong with which.
func (n *Node) fetchAll(ctx context.Context, out *Result, w *want, current *Release) []error {
	if n.o.Round > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, n.o.Round, errRound)
		defer cancel()
	}
	var problems []error
	for _, e := range w.entries {
		if n.ready(e.Entry) {
			continue
		}
		if ctx.Err() != nil {
			out.More = errors.Is(context.Cause(ctx), errRound)
			break
		}
		err := n.fetchEntry(ctx, w, e, current)
		if errors.Is(err, errRound) {
			out.More = true
			break
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("model %s, release %d: %w", e.Model, e.Release, err))
		}
	}
	return problems
}

func (n *Node) fetchEntry(ctx context.Context, w *want, e wanted, current *Release) error {
	there := true
	for _, f := range e.Files { // what is not known to be verified may be
		there = n.verified(f) == nil && there
	}
	if there {
		return n.writeState()
	}
	if err := n.makeRoom(w, e); err != nil {
		return err
	}
	started := n.now()
	pieces := n.piecesOf(ctx, e.variant)
	var have map[catalog.Digest]local
	if pieces != nil {
		have = n.local(current.Models)
	}
	sources := n.sources(e.variant)
	for i, f := range e.Files {
		var known []catalog.Piece
		if pieces != nil {
			known = pieces[i]
		}
		err := n.fetch(ctx, f, known, have, sources)
		if diskFull(err) {
			free, _ := n.free(n.home.path)
			err = fmt.Errorf("%w: %d bytes are free; what has arrived is kept for the next try: %w", ErrFull, free, err)
		}
		if err != nil {
			return err
		}
	}
	n.log.Info("a variant was fetched", "model", e.Model, "release", e.Release, "variant", e.Variant, "seconds", n.now().Sub(started).Round(time.Millisecond).Seconds())
	return n.writeState()
}

// needs is how many bytes of the disk an entry takes that it does not take
// yet.
func (n *Node) needs(e Entry) int64 {
	total := int64(0)
	for _, f := range e.Files {
		if n.has(f) {
			continue
		}
		total += f.Size
		if info, err := n.blobs.root.Lstat(hexOf(f.SHA256) + partialSuffix); err == nil && info.Mode().IsRegular() {
			total -= min(allocated(info), f.Size)
		}
	}
	return total
}

// makeRoom makes sure that the disk has room for an entry before any of it is
// fetched, and evicts what the policy gives up.
func (n *Node) makeRoom(w *want, e wanted) error {
	const slack = 1 << 20 // of the file system, and of small files
	need := n.needs(e.Entry) + slack + n.o.KeepFree
	free, err := n.free(n.home.path)
	if err != nil || free >= need {
		return err
	}
	if n.o.Evict != EvictNever {
		if err := n.evict(n.keptFiles(w, true)); err != nil {
			return err
		}
		if free, err = n.free(n.home.path); err != nil || free >= need {
			return err
		}
	}
	if n.o.Evict == EvictPrevious {
		if err := n.evict(n.keptFiles(w, false)); err != nil {
			return err
		}
		if free, err = n.free(n.home.path); err != nil || free >= need {
			return err
		}
	}
	return fmt.Errorf("%w: %d bytes are needed (%d of them are to stay free), %d are free", ErrFull, need, n.o.KeepFree, free)
}

// keptReleases returns the numbers of the releases that are kept.
func (n *Node) keptReleases(previous bool) []int64 {
	out := []int64{n.currentNumber(), n.state.Confirmed}
	if previous {
		out = append(out, n.state.Previous)
	}
	return out
}

// keptFiles returns the SHA-256 of the files that are kept: those of the
// current release, of the one to go back to, and of what is wanted, which is
// also what is pinned.
func (n *Node) keptFiles(w *want, previous bool) map[string]bool {
	kept := map[string]bool{}
	for _, i := range n.keptReleases(previous) {
		r, err := n.readRelease(i)
		if err != nil {
			continue
		}
		for _, e := range r.Models {
			for _, f := range e.Files {
				kept[hexOf(f.SHA256)] = true
			}
		}
	}
	for _, e := range w.entries {
		for _, f := range e.Files {
			kept[hexOf(f.SHA256)] = true
		}
	}
	return kept
}

// dropUnfinished takes away the files that were not fetched to the end.
func (n *Node) dropUnfinished() error {
	names, err := n.blobs.names()
	if err != nil {
		return err
	}
	clear(n.broken)
	for _, e := range names {
		if strings.Contains(e.Name(), partialSuffix) {
			if err := n.blobs.remove(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// evict takes away the files that are not kept, unfinished ones too.
func (n *Node) evict(kept map[string]bool) error {
	names, err := n.blobs.names()
	if err != nil {
		return err
	}
	for _, e := range names {
		hex, _, _ := strings.Cut(e.Name(), ".")
		if _, err := n.blobs.root.Lstat(hex); kept[hex] && (e.Name() == hex || err != nil) {
			continue // the file, or what there is of it so far
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			n.counters.evicted.Add(allocated(info))
		}
		if err := n.blobs.remove(e.Name()); err != nil {
			return err
		}
		if !kept[hex] {
			delete(n.state.Files, hex)
		}
	}
	return nil
}

// collect takes away what no release that is kept needs: files, their pieces,
// releases, objects of earlier catalogs, and what a round that was killed has
// left.
func (n *Node) collect(w *want) error {
	kept := n.keptFiles(w, true)
	if err := n.evict(kept); err != nil {
		return err
	}
	names, err := n.pieces.names()
	if err != nil {
		return err
	}
	for _, e := range names {
		if hex, ok := strings.CutSuffix(e.Name(), ".json"); !ok || !kept[hex] {
			if err := n.pieces.remove(e.Name()); err != nil {
				return err
			}
		}
	}
	releases := map[string]bool{}
	for _, i := range n.keptReleases(true) {
		releases[strconv.FormatInt(i, 10)] = true
	}
	if names, err = n.releases.names(); err != nil {
		return err
	}
	for _, e := range names {
		if !releases[e.Name()] {
			if err := n.releases.remove(e.Name()); err != nil {
				return err
			}
		}
	}
	for d := range n.state.Rejected { // offers of long ago
		if n.now().Sub(n.state.Rejected[d].At) > 30*24*time.Hour {
			delete(n.state.Rejected, d)
		}
	}
	return n.store.prune(false)
}

// tidyTrust makes sure that package trust, which opens files by their paths,
// finds folders and plain files of its own, and takes away what an interrupted
// refresh has left.
func (n *Node) tidyTrust() error {
	for _, name := range []string{"metadata", "targets"} {
		d, err := n.trusted.dir(name)
		if err != nil {
			return err
		}
		names, err := d.names()
		for _, e := range names {
			info, ierr := d.root.Lstat(e.Name())
			left := strings.HasPrefix(e.Name(), "tuf_tmp") || strings.HasPrefix(e.Name(), ".new-")
			if err == nil && (left || ierr != nil || !info.Mode().IsRegular() || links(info) > 1) {
				err = d.remove(e.Name())
			}
		}
		if err = errors.Join(err, d.Close()); err != nil {
			return err
		}
	}
	return nil
}
