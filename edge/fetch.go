package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/internal/bulkhash"
	"github.com/modelpipe/modelpipe/publish"
)

// A file is fetched in pieces, into HEX.partial. Workers take spans of pieces
// that are missing and read each with one request, from the first place that
// has not failed more often than the others. A piece whose digest is known is
// compared as it arrives; where it differs, it is missing still. The journal
// lists the pieces that have arrived. In the end the whole file is read and
// compared, whatever is known of its pieces; only then does it get its name.

const (
	partialSuffix = ".partial"
	journalSuffix = ".partial.journal"
	plainPiece    = 4 << 20   // of a file whose pieces are not known
	mostSpan      = 64 << 20  // of one request
	leastSpan     = 1 << 20   // that is worth a request of its own
	bufferBytes   = 128 << 10 // of a worker
	strikes       = 3         // failures in a row until a place is given up
	maxJournal    = 64 << 20
)

// local is where the node has a piece already.
type local struct {
	hex string // of the file
	at  int64
}

// transfer fetches one file.
type transfer struct {
	n       *Node
	file    catalog.File
	pieces  []catalog.Piece // an empty digest where it is not known
	offsets []int64
	out     *os.File
	journal *os.File
	head    string // of the journal
	places  []*place

	mu      sync.Mutex
	changed *sync.Cond
	state   []pieceState
	parts   map[int]*part // of pieces of which a beginning has arrived
	left    int           // pieces that have not arrived
	active  int           // workers that fetch
	whole   bool          // only whole files can be had: one request at a time
	fatal   error         // of the disk, or of the context
}

// part is the beginning of a piece: the bytes before at are in the file, and
// hashed.
type part struct {
	hash hash.Hash
	at   int64 // in the file
}

// pieceState is how far a piece is.
type pieceState byte

const (
	missing pieceState = iota
	busy               // a worker fetches it
	done
)

// place is a source and how it has done.
type place struct {
	source
	failed int   // times in a row
	err    error // the last one
	dead   bool
	used   bool // gave pieces that have no digest
}

// plainPieces cuts a file of which no pieces are known.
func plainPieces(size int64) []catalog.Piece {
	var out []catalog.Piece
	for size > 0 {
		n := min(size, plainPiece)
		out = append(out, catalog.Piece{Size: n})
		size -= n
	}
	return out
}

// fetch makes sure that the node has a file.
func (n *Node) fetch(ctx context.Context, f catalog.File, pieces []catalog.Piece, have map[catalog.Digest]local, sources []source) error {
	if err := n.verified(f); err == nil {
		return nil
	}
	if pieces == nil {
		pieces = plainPieces(f.Size)
	}
	var places []*place
	for _, s := range sources {
		places = append(places, &place{source: s})
	}
	for {
		t := &transfer{n: n, file: f, pieces: pieces, places: places}
		err := t.run(ctx, have)
		if !errors.Is(err, errOther) {
			return err
		}
		// Every piece was what it should be, or had no digest, and still the
		// file is another. Begin anew with what cannot be to blame.
		if len(pieces) > 0 && pieces[0].SHA256 != "" {
			n.log.Warn("the pieces of a file do not make it up: it is fetched as a whole", "file", f.Path, "sha256", f.SHA256)
			pieces, have = plainPieces(f.Size), nil
		} else if !blame(places) {
			return err
		}
	}
}

// errOther says that a file has another digest than it should.
var errOther = errors.New("has another digest")

// blame takes those out of the places that gave a wrong file: the one that
// gave all of it, or, of several, all but the first, so that it is known next
// time. It says whether any place is left.
func blame(places []*place) bool {
	var used []*place
	for _, p := range places {
		if p.used {
			used = append(used, p)
		}
		p.used, p.failed = false, 0
	}
	guilty := used
	if len(used) > 1 {
		guilty = used[1:]
	}
	for _, p := range guilty {
		p.dead, p.err = true, fmt.Errorf("gave other content: %w", publish.ErrMismatch)
	}
	for _, p := range places {
		if !p.dead {
			return len(used) > 0
		}
	}
	return false
}

// run fetches the file once.
func (t *transfer) run(ctx context.Context, have map[catalog.Digest]local) (err error) {
	t.changed = sync.NewCond(&t.mu)
	t.state = make([]pieceState, len(t.pieces))
	t.parts = map[int]*part{}
	t.offsets = make([]int64, len(t.pieces))
	at := int64(0)
	for i, p := range t.pieces {
		t.offsets[i] = at
		at += p.Size
	}
	if at != t.file.Size {
		return fmt.Errorf("pieces of %d bytes, the file has %d", at, t.file.Size)
	}
	t.left = len(t.pieces)
	if err := t.open(ctx); err != nil {
		return fmt.Errorf("%s: %w", t.file.Path, err)
	}
	defer func() { err = errors.Join(err, t.out.Close(), t.journal.Close()) }()
	t.copyLocal(ctx, have)
	err = t.fetchAll(ctx)
	if info, serr := t.out.Stat(); err != nil && serr == nil {
		t.n.broken[hexOf(t.file.SHA256)] = brokenOff{t.head, stampOf(info), t.state, t.parts}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t.file.Path, err)
	}
	delete(t.n.broken, hexOf(t.file.SHA256))
	return t.finish()
}

// brokenOff is how far a transfer of this process was.
type brokenOff struct {
	head  string // of its journal
	stamp stamp  // of its partial file
	state []pieceState
	parts map[int]*part
}

// open opens the partial file and goes on with what it has.
func (t *transfer) open(ctx context.Context) error {
	hex := hexOf(t.file.SHA256)
	layout := sha256.New()
	for _, p := range t.pieces {
		fmt.Fprintln(layout, p.Size, p.SHA256)
	}
	head := fmt.Sprintf("modelpipe partial 1 %d %x\n", t.file.Size, layout.Sum(nil)[:8])
	t.head = head
	old, _ := t.n.blobs.read(hex+journalSuffix, maxJournal)
	out, left, err := t.n.blobs.goOn(hex + partialSuffix)
	if err != nil {
		return err
	}
	t.out = out
	lines, ok := bytes.CutPrefix(old[:bytes.LastIndexByte(old, '\n')+1], []byte(head))
	if ok && left {
		if err = t.resume(ctx, head, lines); err == nil {
			t.journal, _, err = t.n.blobs.goOn(hex + journalSuffix)
		}
		if err == nil { // behind the last whole line
			_, err = t.journal.Seek(int64(len(head)+len(lines)), io.SeekStart)
		}
	} else {
		if t.journal, err = t.n.blobs.create(hex + journalSuffix); err == nil {
			_, err = t.journal.WriteString(head)
		}
	}
	if err == nil {
		if err = t.n.hook.before("truncate", hex+partialSuffix); err == nil {
			err = t.out.Truncate(t.file.Size)
		}
	}
	if err != nil {
		err = errors.Join(err, out.Close())
		if t.journal != nil {
			err = errors.Join(err, t.journal.Close())
		}
	}
	return err
}

// resume takes over the pieces that the journal lists, and verifies those
// whose digest is known.
// The pieces that this process has written itself are not read again.
func (t *transfer) resume(ctx context.Context, head string, journal []byte) error {
	if info, err := t.out.Stat(); err == nil {
		if own, ok := t.n.broken[hexOf(t.file.SHA256)]; ok && own.head == head && own.stamp == stampOf(info) {
			for i, s := range own.state {
				if s == done {
					t.state[i] = done
					t.left--
					t.n.counters.resumed.Add(t.pieces[i].Size)
				}
			}
			t.parts = own.parts
			for i, p := range t.parts {
				t.n.counters.resumed.Add(p.at - t.offsets[i])
			}
			return nil
		}
	}
	lines := bufio.NewScanner(bytes.NewReader(journal))
	buffer := make([]byte, bufferBytes)
	for lines.Scan() {
		i, err := strconv.Atoi(lines.Text())
		if err != nil || i < 0 || i >= len(t.pieces) || t.state[i] != missing {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		p := t.pieces[i]
		if p.SHA256 != "" {
			h := bulkhash.NewSHA256()
			_, err := io.CopyBuffer(struct{ io.Writer }{h}, io.NewSectionReader(t.out, t.offsets[i], p.Size), buffer)
			if err != nil || hex.EncodeToString(h.Sum(nil)) != hexOf(p.SHA256) {
				continue
			}
		}
		t.state[i] = done
		t.left--
		t.n.counters.resumed.Add(p.Size)
	}
	return nil
}

// note writes into the journal that a piece has arrived.
func (t *transfer) note(i int) error {
	_, err := t.journal.WriteString(strconv.Itoa(i) + "\n")
	return err
}

// copyLocal copies the pieces that the node has in other files. What cannot
// be read, or is not what it should be, is fetched.
func (t *transfer) copyLocal(ctx context.Context, have map[catalog.Digest]local) {
	files := map[string]*os.File{}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	buffer := make([]byte, bufferBytes)
	for i, p := range t.pieces {
		from, ok := have[p.SHA256]
		if !ok || t.state[i] != missing || p.SHA256 == "" || ctx.Err() != nil {
			continue
		}
		f, known := files[from.hex]
		if !known {
			f, _, _ = t.n.blobs.open(from.hex, os.O_RDONLY)
			files[from.hex] = f
		}
		if f == nil {
			continue
		}
		got, err := t.piece(i, t.begin(i), io.NewSectionReader(f, from.at, p.Size), buffer, nil)
		if err != nil || !got {
			continue
		}
		delete(t.parts, i)
		t.state[i] = done
		t.left--
		t.n.counters.copied.Add(p.Size)
		if t.note(i) != nil {
			return
		}
	}
}

// diskError is an error of the node's own disk.
type diskError struct{ error }

func (e diskError) Unwrap() error { return e.error }

// begin returns the beginning of a piece of which nothing has arrived.
func (t *transfer) begin(i int) *part { return &part{bulkhash.NewSHA256(), t.offsets[i]} }

// piece writes what is left of a piece from r into the file, and says whether
// it is what it should be. arrived is called with the length of each read.
func (t *transfer) piece(i int, have *part, r io.Reader, buffer []byte, arrived func(int) error) (bool, error) {
	end := t.offsets[i] + t.pieces[i].Size
	for have.at < end {
		k, err := io.ReadFull(r, buffer[:min(int64(len(buffer)), end-have.at)])
		if k > 0 {
			werr := t.n.hook.before("write", t.out.Name())
			if werr == nil {
				_, werr = t.out.WriteAt(buffer[:k], have.at)
			}
			if werr != nil {
				return false, diskError{werr}
			}
			have.hash.Write(buffer[:k])
			have.at += int64(k)
			if arrived != nil {
				if aerr := arrived(k); aerr != nil && have.at < end {
					return false, aerr
				}
			}
		}
		if err != nil && have.at < end {
			return false, err
		}
	}
	return t.pieces[i].SHA256 == "" || hex.EncodeToString(have.hash.Sum(nil)) == hexOf(t.pieces[i].SHA256), nil
}

// fetchAll fetches what is missing with some workers.
func (t *transfer) fetchAll(ctx context.Context) error {
	if t.left == 0 {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { t.fail(context.Cause(ctx)) })
	defer stop()
	var group sync.WaitGroup
	for range min(t.n.o.Parallel, t.left) {
		group.Go(func() {
			buffer := make([]byte, bufferBytes)
			for {
				first, count, p := t.take()
				if p == nil {
					return
				}
				err := t.span(ctx, p, first, count, buffer)
				t.give(ctx, p, err)
			}
		})
	}
	group.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.fatal != nil:
		return t.fatal
	case t.left == 0:
		return nil
	}
	var reasons []string
	var kinds []error
	for _, p := range t.places {
		if p.err != nil {
			reasons = append(reasons, p.String()+": "+p.err.Error())
			kinds = append(kinds, p.err)
		}
	}
	return &manyKinds{fmt.Sprintf("%d of %d bytes are missing, and no place has them: %s", t.missingBytes(), t.file.Size, strings.Join(reasons, "; ")), kinds}
}

// manyKinds is an error of several kinds, in one line.
type manyKinds struct {
	text  string
	kinds []error
}

func (e *manyKinds) Error() string   { return e.text }
func (e *manyKinds) Unwrap() []error { return e.kinds }

func (t *transfer) missingBytes() int64 {
	total := int64(0)
	for i, p := range t.pieces {
		if t.state[i] == missing {
			total += p.Size
		}
	}
	return total
}

// fail ends the transfer.
func (t *transfer) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fatal == nil && err != nil {
		t.fatal = err
	}
	t.changed.Broadcast()
}

// take returns a span of missing pieces and a place to fetch it from. It
// waits while others fetch all there is. Without a place there is nothing
// left to do.
func (t *transfer) take() (first, count int, _ *place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		if t.fatal != nil || t.left == 0 {
			return 0, 0, nil
		}
		p := t.best()
		if p == nil && t.active == 0 {
			return 0, 0, nil
		}
		first = t.firstMissing()
		if p != nil && first >= 0 && (!t.whole || t.active == 0) {
			if t.whole {
				first, count = 0, len(t.pieces)
				clear(t.parts)
			} else {
				count = t.spanFrom(first)
			}
			for i := first; i < first+count; i++ {
				if t.state[i] == missing {
					t.state[i] = busy
				}
			}
			t.active++
			return first, count, p
		}
		t.changed.Wait()
	}
}

// best returns the place that has failed least, the first of equal ones.
func (t *transfer) best() *place {
	var best *place
	for _, p := range t.places {
		if !p.dead && (best == nil || p.failed < best.failed) {
			best = p
		}
	}
	return best
}

func (t *transfer) firstMissing() int {
	for i, s := range t.state {
		if s == missing {
			return i
		}
	}
	return -1
}

// spanFrom returns how many pieces from the first on make a request: so much
// that every worker has something to do.
func (t *transfer) spanFrom(first int) int {
	limit := min(max(t.missingBytes()/int64(t.n.o.Parallel), leastSpan), mostSpan)
	count, bytes := 0, int64(0)
	for first+count < len(t.pieces) && t.state[first+count] == missing && (count == 0 || bytes+t.pieces[first+count].Size <= limit) {
		bytes += t.pieces[first+count].Size
		count++
	}
	return count
}

// give notes how a place has done, and waits before it is asked again.
func (t *transfer) give(ctx context.Context, p *place, err error) {
	t.mu.Lock()
	t.active--
	var disk diskError
	pause := time.Duration(0)
	switch {
	case err == nil:
		p.failed = 0
	case errors.As(err, &disk):
		if t.fatal == nil {
			t.fatal = disk
		}
	case errors.Is(err, errWhole):
		t.whole = true
	default:
		if p.err = err; errors.Is(err, errProgress) {
			p.failed = 0 // one that cuts every answer gets there too
		}
		p.failed++
		final := errors.Is(err, fs.ErrNotExist) || errors.Is(err, publish.ErrRefused) || errors.Is(err, publish.ErrMismatch) && !errors.Is(err, errPiece)
		p.dead = p.dead || final || p.failed >= strikes
		if !p.dead {
			pause = t.n.o.Backoff << (p.failed - 1)
		}
		t.n.counters.failures.Add(1)
		t.n.log.Debug("a place has failed", "file", t.file.Path, "place", p.String(), "error", err, "given_up", p.dead)
	}
	t.changed.Broadcast()
	t.mu.Unlock()
	if pause > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// errPiece says that a piece is not what it should be.
var errPiece = errors.New("a piece has other content")

// span fetches pieces with one request. Those that have not arrived are
// missing again.
func (t *transfer) span(ctx context.Context, p *place, first, count int, buffer []byte) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dog := newWatchdog(t.n.o.Stall, stallBytes, func() { cancel(tooSlow(t.n.o.Stall)) })
	defer dog.stop()
	next, got := first, int64(0)
	have := t.beginning(first)
	from := have.at
	length := t.offsets[first+count-1] + t.pieces[first+count-1].Size - from
	defer func() {
		if cause := context.Cause(ctx); err != nil && cause != nil && !errors.As(err, new(diskError)) {
			err = cause
		}
		if err != nil && got >= stallBytes && !errors.Is(err, errPiece) {
			err = fmt.Errorf("%w: %w", errProgress, err)
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if next < first+count && t.state[next] == busy && have != nil && !errors.Is(err, errPiece) {
			t.parts[next] = have
		}
		p.used = p.used || got > 0 && t.pieces[first].SHA256 == ""
		for i := next; i < first+count; i++ {
			if t.state[i] == busy {
				t.state[i] = missing
			}
		}
	}()
	r, err := p.open(ctx, t.file, from, length)
	if err != nil {
		return err
	}
	defer r.Close()
	r = counted{r, func(n int64) { t.n.counters.fetched.Add(n); got += n }}
	pass := func(k int) error {
		dog.arrived(k)
		defer dog.hold()()
		return t.n.limit.wait(ctx, k)
	}
	for ; next < first+count; next++ {
		if t.isDone(next) { // among missing ones, where whole files only are given
			if _, err := io.CopyBuffer(io.Discard, io.LimitReader(r, t.pieces[next].Size), buffer); err != nil {
				return err
			}
			dog.arrived(stallBytes)
			continue
		}
		if next > first {
			have = t.begin(next)
		}
		good, err := t.piece(next, have, r, buffer, pass)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("the answer was cut: %w", publish.ErrUnavailable)
		}
		if err != nil {
			return err
		}
		if !good {
			return fmt.Errorf("%w at byte %d: %w", errPiece, t.offsets[next], publish.ErrMismatch)
		}
		have = nil
		if err := t.arrived(p, next); err != nil {
			return err
		}
	}
	return nil
}

// errProgress says that a transfer has failed, but not for nothing.
var errProgress = errors.New("broken off")

// beginning takes what has arrived of a piece, or nothing of it.
func (t *transfer) beginning(i int) *part {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.parts[i]
	delete(t.parts, i)
	if p == nil {
		p = t.begin(i)
	}
	return p
}

func (t *transfer) isDone(i int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state[i] == done
}

// stallBytes is what a place must give within Options.Stall.
const stallBytes = 16 << 10

func tooSlow(d time.Duration) error {
	return fmt.Errorf("fewer than %d bytes in %v: %w", stallBytes, d, publish.ErrUnavailable)
}

// arrived notes a piece.
func (t *transfer) arrived(p *place, i int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state[i] = done
	t.left--
	p.failed = 0
	if err := t.note(i); err != nil {
		return diskError{err}
	}
	if t.left == 0 {
		t.changed.Broadcast()
	}
	return nil
}

// finish verifies the file and gives it its name.
func (t *transfer) finish() error {
	hex := hexOf(t.file.SHA256)
	got, err := sum(io.NewSectionReader(t.out, 0, t.file.Size))
	if err != nil {
		return fmt.Errorf("%s: %w", t.file.Path, err)
	}
	if got != hex {
		for _, name := range []string{hex + journalSuffix, hex + partialSuffix} {
			if err := t.n.blobs.remove(name); err != nil {
				return err
			}
		}
		return fmt.Errorf("%s: %w: sha256:%s, want %s", t.file.Path, errOther, got, t.file.SHA256)
	}
	if err := t.n.hook.before("sync", hex); err != nil {
		return err
	}
	if err := t.out.Sync(); err != nil {
		return err
	}
	if err := t.out.Chmod(0o444); err != nil {
		return err
	}
	if err := t.n.blobs.rename(hex+partialSuffix, hex); err != nil {
		return err
	}
	if err := t.n.blobs.sync(); err != nil {
		return err
	}
	info, err := t.out.Stat()
	if err != nil {
		return err
	}
	t.n.state.Files[hex] = stampOf(info)
	return t.n.blobs.remove(hex + journalSuffix)
}

// piecesOf returns the pieces of a variant's files, one list per file, or nil
// where nothing is known of them. They are kept for the next version.
func (n *Node) piecesOf(ctx context.Context, v *catalog.Variant) [][]catalog.Piece {
	l := v.Pieces
	if l == nil || l.Size > catalog.MaxPieces || strings.Contains(l.URI, "://") {
		return nil
	}
	data, err := n.store.Fetch(ctx, l.URI, l.Size)
	if err == nil && catalog.DigestOf(data) != l.SHA256 {
		err = fmt.Errorf("%s: has digest %s, want %s", l.URI, catalog.DigestOf(data), l.SHA256)
	}
	var p *catalog.Pieces
	if err == nil {
		p, err = catalog.DecodePieces(data, v)
	}
	if err != nil {
		n.log.Warn("the pieces of a variant are not known: it is fetched as a whole", "variant", v.ID, "error", err)
		return nil
	}
	var out [][]catalog.Piece
	for _, f := range p.Files {
		out = append(out, f.Pieces)
		if data, err := json.Marshal(f); err == nil {
			if err := n.pieces.put(hexOf(f.SHA256)+".json", data, false); err != nil {
				n.log.Warn("the pieces of a file cannot be kept", "error", err)
			}
		}
	}
	return out
}

// local returns where the node has pieces, in the files of some entries.
func (n *Node) local(entries []Entry) map[catalog.Digest]local {
	have := map[catalog.Digest]local{}
	for _, e := range entries {
		for _, f := range e.Files {
			hex := hexOf(f.SHA256)
			if !n.has(f) {
				continue
			}
			data, err := n.pieces.read(hex+".json", catalog.MaxPieces)
			if err != nil {
				continue
			}
			var p catalog.FilePieces
			if json.Unmarshal(data, &p) != nil {
				continue
			}
			at := int64(0)
			for _, piece := range p.Pieces {
				if piece.Size < 0 || piece.Size > f.Size-at {
					break
				}
				have[piece.SHA256] = local{hex, at}
				at += piece.Size
			}
		}
	}
	return have
}
