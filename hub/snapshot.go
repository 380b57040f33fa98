package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Entry is a file of a repository.
type Entry struct {
	Path   string // slash-separated, relative to the repository's root; valid for io/fs
	Size   int64  // bytes
	SHA256 string // of the content, lower-case hex; empty for a file kept in git itself
	BlobID string // git object id: of the content, or of its LFS pointer if SHA256 is set; may be empty
}

// etag is the name of the file's blob in the Hub cache, which is the ETag that the Hub serves.
func (e Entry) etag() string { return cmp.Or(e.SHA256, e.BlobID) }

// Snapshot is a repository at one commit, as a file system that is read over the network or from the cache. The context
// that it was made with bounds everything that is read through it. It is safe for concurrent use.
type Snapshot struct {
	c       *Client
	repo    string
	rev     string // as asked for
	commit  string
	entries []Entry          // by Path
	dirs    map[string][]int // directory -> children: index into entries, or -1-index into subs
	subs    []string         // subdirectories by path

	ctx    context.Context
	cancel context.CancelCauseFunc
	m      meter
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	readers map[string]*reader
	objects map[string]*object
	locals  map[string]*local // files found in the cache that were opened
}

// Snapshot pins a repository to the commit that revision names at this moment, and lists its files. An empty revision
// means DefaultRevision. Offline, it is the commit that the cache last saw under that name, with the files cached of it.
func (c *Client) Snapshot(ctx context.Context, repo, revision string) (*Snapshot, error) {
	if err := checkRepo(repo); err != nil {
		return nil, err
	}
	revision = cmp.Or(revision, DefaultRevision)
	if err := checkRevision(revision); err != nil {
		return nil, err
	}
	s := &Snapshot{
		c: c, repo: repo, rev: revision,
		readers: map[string]*reader{}, objects: map[string]*object{}, locals: map[string]*local{},
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	list := s.list
	if c.offline {
		list = s.listCached
	}
	if err := list(); err != nil {
		s.cancel(nil)
		return nil, err
	}
	if err := s.index(); err != nil {
		s.cancel(nil)
		return nil, err
	}
	return s, nil
}

// Repo is the repository's id.
func (s *Snapshot) Repo() string { return s.repo }

// Revision is what was asked for; Commit is what it meant.
func (s *Snapshot) Revision() string { return s.rev }

// Commit is the git commit id that everything is read from.
func (s *Snapshot) Commit() string { return s.commit }

// Files lists the repository, sorted by path.
func (s *Snapshot) Files() []Entry { return slices.Clone(s.entries) }

// BytesRead is how many bytes were received from the network so far, the listing included.
func (s *Snapshot) BytesRead() int64 { return s.m.n.Load() }

func (s *Snapshot) subject(verb, entry string) subject {
	at := s.rev
	if s.commit != "" {
		at = s.commit
	}
	op := verb + " " + s.repo + "@" + at
	if entry != "" {
		op += ": " + entry
	}
	return subject{op: op, repo: s.repo, revision: s.rev, entry: entry}
}

// modelInfo is what we need of GET /api/models/{id}/revision/{rev}?blobs=true.
type modelInfo struct {
	SHA      string `json:"sha"`
	Siblings []struct {
		Path   string `json:"rfilename"`
		Size   *int64 `json:"size"`
		BlobID string `json:"blobId"`
		LFS    *struct {
			Size   int64  `json:"size"`
			SHA256 string `json:"sha256"`
		} `json:"lfs"`
	} `json:"siblings"`
}

// treeEntry is one row of GET /api/models/{id}/tree/{rev}?recursive=true.
type treeEntry struct {
	Type string `json:"type"`
	Path string `json:"path"`
	Size int64  `json:"size"`
	OID  string `json:"oid"`
	LFS  *struct {
		OID  string `json:"oid"`
		Size int64  `json:"size"`
	} `json:"lfs"`
}

// Bounds on a listing, which is a stranger's input.
const (
	maxEntries = 500_000
	maxPages   = 10_000
	maxPath    = 4096 // bytes
)

// list asks the Hub for the commit and the files.
func (s *Snapshot) list() error {
	sub := s.subject("list", "")
	var info modelInfo
	_, err := s.c.getJSON(s.ctx, &s.m, sub, s.api("revision", s.rev, "blobs=true"), &info)
	if err != nil {
		return s.offlineHint(err)
	}
	if !isCommit(info.SHA) {
		return fmt.Errorf("%s: %w: no commit id in the answer (sha %q)", sub.op, ErrProtocol, s.c.clean(info.SHA))
	}
	if isCommit(s.rev) && info.SHA != s.rev {
		return fmt.Errorf("%s: %w: the server answered with commit %s", sub.op, ErrMismatch, info.SHA)
	}
	s.commit = info.SHA
	complete := true
	for _, f := range info.Siblings {
		e := Entry{Path: f.Path, BlobID: f.BlobID}
		switch {
		case f.LFS != nil:
			e.Size, e.SHA256 = f.LFS.Size, f.LFS.SHA256
			complete = complete && e.SHA256 != ""
		case f.Size != nil:
			e.Size = *f.Size
		default:
			complete = false
		}
		complete = complete && e.etag() != ""
		s.entries = append(s.entries, e)
	}
	if complete {
		return nil
	}
	return s.listTree()
}

// listTree lists the commit page by page, for servers whose model info lacks sizes or digests.
func (s *Snapshot) listTree() error {
	sub := s.subject("list", "")
	s.entries = nil
	next := s.api("tree", s.commit, "recursive=true")
	for page := 0; next != nil; page++ {
		if page == maxPages {
			return fmt.Errorf("%s: %w: more than %d pages", sub.op, ErrProtocol, maxPages)
		}
		var rows []treeEntry
		header, err := s.c.getJSON(s.ctx, &s.m, sub, next, &rows)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if row.Type != "file" {
				continue
			}
			if len(row.Path) > maxPath { // said now, for all pages together may be more than memory holds
				return fmt.Errorf("%s: %w: file name of %d bytes", sub.op, ErrProtocol, len(row.Path))
			}
			e := Entry{Path: row.Path, Size: row.Size, BlobID: row.OID}
			if row.LFS != nil {
				e.Size, e.SHA256 = row.LFS.Size, row.LFS.OID
			}
			s.entries = append(s.entries, e)
		}
		if len(s.entries) > maxEntries {
			return fmt.Errorf("%s: %w: more than %d files", sub.op, ErrProtocol, maxEntries)
		}
		link := nextLink(header.Values("Link"))
		if link == "" {
			return nil
		}
		following, err := next.Parse(link)
		if err != nil || !sameOrigin(following, s.c.endpoint) {
			return fmt.Errorf("%s: %w: the listing goes on at another host (%q)", sub.op, ErrProtocol, s.c.clean(link))
		}
		next = following
	}
	return nil
}

// api is the URL /api/models/{id}/{verb}/{rev}?{query}.
func (s *Snapshot) api(verb, rev, query string) *url.URL {
	u := s.c.url("/api/models/" + s.repo + "/" + verb + "/" + url.PathEscape(rev))
	u.RawQuery = query
	return u
}

// offlineHint tells a user whom the network fails about a commit in the cache.
func (s *Snapshot) offlineHint(err error) error {
	var e *Error
	if errors.Is(err, ErrUnavailable) && errors.As(err, &e) {
		if commit, e2 := s.c.cache.commit(s.repo, s.rev); e2 == nil {
			hint := *e
			hint.Hint += fmt.Sprintf("; or set HF_HUB_OFFLINE=1 to use commit %s from the cache", commit)
			return &hint
		}
	}
	return err
}

// index checks the listing and builds the directories.
func (s *Snapshot) index() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s: %w: %s", s.subject("list", "").op, ErrProtocol, fmt.Sprintf(format, args...))
	}
	if len(s.entries) > maxEntries {
		return bad("more than %d files", maxEntries)
	}
	slices.SortFunc(s.entries, func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })
	s.dirs = map[string][]int{".": nil}
	sub := map[string]bool{}
	for i := range s.entries {
		e := &s.entries[i]
		switch {
		case !fs.ValidPath(e.Path) || e.Path == "." || strings.ContainsAny(e.Path, "\\\x00") || len(e.Path) > maxPath:
			return bad("file name %q is not a relative path", s.c.clean(e.Path))
		case i > 0 && e.Path == s.entries[i-1].Path:
			return bad("file %q is listed twice", e.Path)
		case e.Size < 0:
			return bad("file %q has size %d", e.Path, e.Size)
		case e.SHA256 != "" && !isHex(e.SHA256, 64):
			return bad("file %q has sha256 %q", e.Path, s.c.clean(e.SHA256))
		}
		if !isHex(e.BlobID, 40) && !isHex(e.BlobID, 64) {
			e.BlobID = "" // some mirrors put other things there; without it the content is not checked
		}
		dir := parent(e.Path)
		s.dirs[dir] = append(s.dirs[dir], i)
		for dir != "." && !sub[dir] {
			sub[dir] = true
			s.subs = append(s.subs, dir)
			if len(s.subs) > maxEntries {
				return bad("more than %d folders", maxEntries)
			}
			up := parent(dir)
			s.dirs[up] = append(s.dirs[up], -len(s.subs))
			dir = up
		}
	}
	for dir := range sub {
		if _, ok := s.entry(dir); ok {
			return bad("%q is listed as a file and as a directory", dir)
		}
	}
	return nil
}

func parent(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return "."
}

func (s *Snapshot) entry(name string) (Entry, bool) {
	i, ok := slices.BinarySearchFunc(s.entries, name, func(e Entry, name string) int { return cmp.Compare(e.Path, name) })
	if !ok {
		return Entry{}, false
	}
	return s.entries[i], true
}

// source is where the bytes of an opened file come from: a *reader or a *local.
type source interface {
	ReadAt(p []byte, off int64) (int, error)
}

// source returns what all handles of a file share. It asks nobody: the first read does.
func (s *Snapshot) source(e Entry) (source, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if l := s.locals[e.Path]; l != nil {
		return l, nil
	}
	if r := s.readers[e.Path]; r != nil {
		return r, nil
	}
	if f := s.c.cache.open(s.repo, s.commit, e); f != nil {
		l := &local{f: f, entry: e, ctx: s.ctx}
		s.locals[e.Path] = l
		return l, nil
	}
	if s.c.offline {
		return nil, fmt.Errorf("%s: %w: it is not in the cache %s: unset HF_HUB_OFFLINE, or download it first", s.subject("read", e.Path).op, ErrOffline, s.c.cache)
	}
	o := s.object(s.ctx, e)
	r := newReader(s.ctx, o, e.Size, newDigest(e), s.c.pool, s.c.slots, &s.wg)
	s.objects[e.Path], s.readers[e.Path] = o, r
	return r, nil
}

// object is the file's remote side.
func (s *Snapshot) object(ctx context.Context, e Entry) *object {
	segments := strings.Split(e.Path, "/")
	for i := range segments {
		segments[i] = url.PathEscape(segments[i])
	}
	return &object{
		ctx: ctx, c: s.c, m: &s.m,
		subject: s.subject("read", e.Path),
		stable:  s.c.url("/" + s.repo + "/resolve/" + s.commit + "/" + strings.Join(segments, "/")),
		size:    e.Size,
		commit:  s.commit,
		sha256:  e.SHA256,
	}
}

// Pending is a file that was read in part, so that its digest could not be checked.
type Pending struct {
	Path  string
	Bytes int64 // what Verify has to read
	Local bool  // from the cache, not from the network
}

// Unverified lists the files that were read, name a digest, and were not read whole in order: what Verify would do.
func (s *Snapshot) Unverified() []Pending {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Pending
	for path, r := range s.readers {
		if n := r.missing(); n > 0 {
			out = append(out, Pending{path, n, false})
		}
	}
	for path, l := range s.locals {
		if n := l.missing(); n > 0 {
			out = append(out, Pending{path, n, true})
		}
	}
	slices.SortFunc(out, func(a, b Pending) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

// Verify holds every file that was read to its digest, reading the rest of those that Unverified lists. It returns the
// first mismatch or failure to read. Files that were read whole in order cost nothing.
func (s *Snapshot) Verify(ctx context.Context) error {
	for {
		pending := s.Unverified()
		if len(pending) == 0 {
			return s.mismatches()
		}
		for _, p := range pending {
			s.mu.Lock()
			r, l := s.readers[p.Path], s.locals[p.Path]
			s.mu.Unlock()
			var err error
			if r != nil {
				err = r.verify(ctx)
			} else {
				err = l.verify(ctx)
			}
			if err != nil {
				return fmt.Errorf("verify %s@%s: %w", s.repo, s.commit, err)
			}
		}
	}
}

// mismatches joins what was found so far.
func (s *Snapshot) mismatches() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, r := range s.readers {
		r.mu.Lock()
		errs = append(errs, r.bad)
		r.mu.Unlock()
	}
	for _, l := range s.locals {
		errs = append(errs, l.mismatch())
	}
	return errors.Join(errs...)
}

// Close ends all reads, waits for those under way, frees the memory, and returns the mismatches that were found.
func (s *Snapshot) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for _, r := range s.readers {
		r.shut()
	}
	s.mu.Unlock()

	s.cancel(errClosed)
	s.wg.Wait()
	err := s.mismatches()
	for _, o := range s.objects {
		o.whole.close()
	}
	for _, r := range s.readers {
		r.free()
	}
	for _, l := range s.locals {
		l.f.Close()
	}
	s.c.http.CloseIdleConnections()
	return err
}

// sizeOf is the size of the file that was answered with: X-Linked-Size, else the Content-Length of a 200, never of a redirect.
func sizeOf(resp *response) (int64, bool) {
	if n, ok := decimal(cmp.Or(resp.linked.Get("X-Linked-Size"), "-")); ok {
		return n, true
	}
	if resp.StatusCode == http.StatusPartialContent {
		_, _, size, err := parseContentRange(resp.Header.Get("Content-Range"))
		return size, err == nil && size >= 0
	}
	n, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64)
	return n, err == nil && n >= 0
}

// nextLink finds the target of rel="next" in Link headers (RFC 8288).
func nextLink(values []string) string {
	for _, v := range values {
		for v != "" {
			open := strings.IndexByte(v, '<')
			if open < 0 {
				break
			}
			v = v[open+1:]
			end := strings.IndexByte(v, '>')
			if end < 0 {
				break
			}
			target := v[:end]
			v = v[end+1:]
			params, rest, _ := cutUnquoted(v, ',')
			v = rest
			for params != "" {
				var param string
				param, params, _ = cutUnquoted(params, ';')
				key, value, _ := strings.Cut(strings.TrimSpace(param), "=")
				if !strings.EqualFold(strings.TrimSpace(key), "rel") {
					continue
				}
				for _, rel := range strings.Fields(strings.Trim(strings.TrimSpace(value), `"`)) {
					if strings.EqualFold(rel, "next") {
						return target
					}
				}
			}
		}
	}
	return ""
}

// cutUnquoted is strings.Cut at the first sep that is not within double quotes.
func cutUnquoted(s string, sep byte) (before, after string, found bool) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}
