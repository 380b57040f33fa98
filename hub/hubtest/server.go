// Package hubtest is a Hugging Face Hub in this process, for tests: repositories from any fs.FS, at commits, with LFS
// files behind signed URLs of a second host, gated and private repositories, and faults that can be switched on.
//
//	srv := hubtest.NewServer(t)
//	commit := srv.AddRepo(hubtest.Repo{ID: "org/tiny", FS: os.DirFS("testdata/tiny")})
//	client, err := hub.New(hub.Options{Endpoint: srv.URL}) // or HF_ENDPOINT=srv.URL for another process
//	srv.Inject(hubtest.Fault{Stage: hubtest.CDN, Times: 3, DropAfter: 1000})
//
// It answers as the real Hub does: X-Repo-Commit, X-Linked-Size, X-Linked-Etag and X-Error-Code headers, 307 to a
// relative resolve-cache for files in git, 302 to the CDN for LFS files, Range on both. Every request is recorded; a
// server made by NewServer fails the test if the CDN ever saw an Authorization header.
package hubtest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/internal/bulkhash"
)

// Repo is a model repository to serve.
type Repo struct {
	ID string // "org/name" or "name"
	FS fs.FS  // the content of branch main; files that implement io.ReaderAt are served without being read whole

	// LFS says which files are kept in LFS; nil means those that the Hub's default .gitattributes names, and those
	// of more than 10 MB.
	LFS func(name string, size int64) bool

	Gated   bool     // its files need one of Tokens on the list; its listing does not
	Private bool     // nothing of it exists without one of Tokens
	Tokens  []string // tokens that open it
}

// Stage is where in an exchange a fault strikes.
type Stage int

const (
	Any     Stage = iota
	API           // /api/models/...
	Resolve       // /{id}/resolve/... on the Hub
	Cache         // /api/resolve-cache/... on the Hub, the small files' bytes
	CDN           // the second host, the LFS files' bytes
)

func (s Stage) String() string {
	return [...]string{"any", "api", "resolve", "resolve-cache", "cdn"}[s]
}

// Server is a running Hub. All its methods may be called while it serves.
type Server struct {
	URL string // the Hub's endpoint
	CDN string // the second host

	hub, cdn *http.Server
	secret   []byte
	link     link

	mu       sync.Mutex
	repos    map[string]*repo
	tokens   map[string]bool // all that are valid
	faults   []*Fault
	requests []*Request
	ttl      time.Duration
	epoch    int // signed URLs of an earlier epoch have expired
	latency  time.Duration
	pageSize int
	bare     bool
	mute     bool
}

type repo struct {
	Repo
	branches map[string]string // name -> commit
	commits  map[string]*commit
}

type commit struct {
	id    string
	files []*file // by path
}

type file struct {
	path   string
	size   int64
	blob   string // git object id of the content, or of the LFS pointer
	sha256 string // of the content, for LFS files
	fsys   fs.FS
}

// Start runs a server that the caller must Close.
func Start() (*Server, error) {
	s := &Server{
		secret: make([]byte, 16),
		repos:  map[string]*repo{},
		tokens: map[string]bool{},
		ttl:    time.Hour,
	}
	if _, err := rand.Read(s.secret); err != nil {
		return nil, err
	}
	var err error
	if s.hub, s.URL, err = listen(http.HandlerFunc(s.serveHub)); err != nil {
		return nil, err
	}
	if s.cdn, s.CDN, err = listen(http.HandlerFunc(s.serveCDN)); err != nil {
		s.hub.Close()
		return nil, err
	}
	return s, nil
}

func listen(h http.Handler) (*http.Server, string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go srv.Serve(l)
	return srv, "http://" + l.Addr().String(), nil
}

// Close stops the server and drops its connections.
func (s *Server) Close() error { return errors.Join(s.hub.Close(), s.cdn.Close()) }

// NewServer runs a server for the length of a test, which fails if a token leaked to the CDN.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		for _, leak := range s.TokenLeaks() {
			t.Errorf("token leaked: %s", leak)
		}
	})
	return s
}

// Environ points the environment of a test at the server, with no token and an
// empty cache.
func (s *Server) Environ(t *testing.T) {
	t.Helper()
	t.Setenv("HF_ENDPOINT", s.URL)
	t.Setenv("HF_HOME", t.TempDir())
	for _, name := range []string{"HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "HF_HUB_CACHE"} {
		t.Setenv(name, "")
	}
}

// AddRepo serves r and returns the commit of its branch main. It panics on what only a wrong test does.
func (s *Server) AddRepo(r Repo) string {
	s.mu.Lock()
	s.repos[r.ID] = &repo{Repo: r, branches: map[string]string{}, commits: map[string]*commit{}}
	for _, t := range r.Tokens {
		s.tokens[t] = true
	}
	s.mu.Unlock()
	return s.Push(r.ID, "main", r.FS)
}

// Push makes fsys the content of a branch (or any other revision name) and returns the new commit. Earlier commits stay.
func (s *Server) Push(id, branch string, fsys fs.FS) string {
	s.mu.Lock()
	r := s.repos[id]
	s.mu.Unlock()
	if r == nil {
		panic("hubtest: no repository " + id)
	}
	c, err := scan(fsys, r.LFS)
	if err != nil {
		panic(fmt.Sprintf("hubtest: %s: %v", id, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.commits[c.id] = c
	r.branches[branch] = c.id
	return c.id
}

// defaultLFS follows the Hub's default .gitattributes.
func defaultLFS(name string, size int64) bool {
	if size > 10<<20 {
		return true
	}
	switch path.Ext(name) {
	case ".safetensors", ".bin", ".gguf", ".h5", ".pt", ".pth", ".onnx", ".model", ".msgpack", ".npz", ".zip":
		return true
	}
	return path.Base(name) == "tokenizer.json" && size > 10<<20
}

func scan(fsys fs.FS, lfs func(string, int64) bool) (*commit, error) {
	if lfs == nil {
		lfs = defaultLFS
	}
	c := &commit{}
	all := sha1.New()
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := fsys.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if !st.Mode().IsRegular() {
			return nil
		}
		e := &file{path: name, size: st.Size(), fsys: fsys}
		if lfs(name, e.size) {
			h := bulkhash.NewSHA256()
			if _, err := io.Copy(h, f); err != nil {
				return err
			}
			e.sha256 = hex.EncodeToString(h.Sum(nil))
			pointer := fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", e.sha256, e.size)
			e.blob = blobID(int64(len(pointer)), strings.NewReader(pointer))
		} else {
			e.blob = blobID(e.size, f)
		}
		fmt.Fprintf(all, "%s %s\n", e.blob, name)
		c.files = append(c.files, e)
		return nil
	})
	c.id = hex.EncodeToString(all.Sum(nil))
	return c, err
}

func blobID(size int64, r io.Reader) string {
	h := bulkhash.New(sha1.New())
	fmt.Fprintf(h, "blob %d\x00", size)
	io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil))
}

func (c *commit) file(name string) *file {
	for _, f := range c.files {
		if f.path == name {
			return f
		}
	}
	return nil
}

// SetLatency delays the first byte of every answer.
func (s *Server) SetLatency(d time.Duration) { s.mu.Lock(); s.latency = d; s.mu.Unlock() }

// SetBandwidth limits all answers together to so many bytes per second; 0 lifts the limit.
func (s *Server) SetBandwidth(bytesPerSecond float64) { s.link.set(bytesPerSecond) }

// SetURLTTL is how long the CDN's signed URLs live from now on; the default is an hour.
func (s *Server) SetURLTTL(d time.Duration) { s.mu.Lock(); s.ttl = d; s.mu.Unlock() }

// ExpireURLs makes every URL that was signed until now expire.
func (s *Server) ExpireURLs() { s.mu.Lock(); s.epoch++; s.mu.Unlock() }

// SetPageSize makes tree listings come in pages of n entries; 0 means one page.
func (s *Server) SetPageSize(n int) { s.mu.Lock(); s.pageSize = n; s.mu.Unlock() }

// SetBareListing leaves sizes and digests out of the model info, as some mirrors do: only the tree has them.
func (s *Server) SetBareListing(on bool) { s.mu.Lock(); s.bare = on; s.mu.Unlock() }

func (s *Server) serveHub(w http.ResponseWriter, r *http.Request) {
	p := r.URL.EscapedPath()
	switch {
	case strings.HasPrefix(p, "/api/resolve-cache/models/"):
		s.serve(w, r, Cache, func(w http.ResponseWriter) { s.resolveCache(w, r) })
	case strings.HasPrefix(p, "/api/models/"):
		s.serve(w, r, API, func(w http.ResponseWriter) { s.api(w, r) })
	default:
		s.serve(w, r, Resolve, func(w http.ResponseWriter) { s.resolve(w, r) })
	}
}

// SetOmitCodes makes refusals lack X-Error-Code, as those of some mirrors and proxies do.
func (s *Server) SetOmitCodes(on bool) { s.mu.Lock(); s.mute = on; s.mu.Unlock() }

// refuse answers as the Hub does.
func (s *Server) refuse(w http.ResponseWriter, status int, code, message string) {
	s.mu.Lock()
	mute := s.mute
	s.mu.Unlock()
	if code != "" && !mute {
		w.Header().Set("X-Error-Code", code)
	}
	w.Header().Set("X-Error-Message", message)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"error": message})
}

// repo finds the repository and checks the token; it answers and returns nil if there is none to serve. content says
// that file contents are wanted, which gated repositories keep from strangers.
func (s *Server) repo(w http.ResponseWriter, r *http.Request, id string, content bool) *repo {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	found, valid := s.repos[id], token == "" || s.tokens[token]
	s.mu.Unlock()
	switch {
	case !valid:
		s.refuse(w, http.StatusUnauthorized, "", "Invalid credentials in Authorization header")
	case found == nil && token == "", found != nil && found.Private && token == "":
		s.refuse(w, http.StatusUnauthorized, "RepoNotFound", "Repository not found")
	case found == nil, found.Private && !slices.Contains(found.Tokens, token):
		s.refuse(w, http.StatusNotFound, "RepoNotFound", "Repository not found")
	case content && found.Gated && token == "":
		s.refuse(w, http.StatusUnauthorized, "GatedRepo", "Access to model "+id+" is restricted. You must be authenticated to access it.")
	case content && found.Gated && !slices.Contains(found.Tokens, token):
		s.refuse(w, http.StatusForbidden, "GatedRepo", "Access to model "+id+" is restricted and you are not in the authorized list.")
	default:
		return found
	}
	return nil
}

// AddToken makes a token valid that opens no repository.
func (s *Server) AddToken(token string) { s.mu.Lock(); s.tokens[token] = true; s.mu.Unlock() }

func (s *Server) commit(w http.ResponseWriter, r *repo, escaped string) *commit {
	rev, _ := url.PathUnescape(escaped)
	s.mu.Lock()
	c := r.commits[rev]
	if c == nil {
		c = r.commits[r.branches[rev]]
	}
	s.mu.Unlock()
	if c != nil {
		return c
	}
	s.refuse(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+rev)
	return nil
}

// split cuts "id/verb/rest" where id has one or two parts.
func split(p string, verbs ...string) (id, verb, rest string) {
	parts := strings.Split(p, "/")
	for i := 1; i <= 2 && i < len(parts); i++ {
		if slices.Contains(verbs, parts[i]) {
			return strings.Join(parts[:i], "/"), parts[i], strings.Join(parts[i+1:], "/")
		}
	}
	return p, "", ""
}

// api serves /api/models/{id}[/revision/{rev}] and /api/models/{id}/tree/{rev}.
func (s *Server) api(w http.ResponseWriter, r *http.Request) {
	id, verb, rest := split(strings.TrimPrefix(r.URL.EscapedPath(), "/api/models/"), "revision", "tree")
	repo := s.repo(w, r, id, false)
	if repo == nil {
		return
	}
	rev, under, _ := strings.Cut(rest, "/")
	if verb == "" {
		rev = "main"
	}
	c := s.commit(w, repo, rev)
	if c == nil {
		return
	}
	w.Header().Set("X-Repo-Commit", c.id)
	if verb == "tree" {
		s.tree(w, r, c, under)
		return
	}
	s.mu.Lock()
	detail := r.URL.Query().Get("blobs") == "true" && !s.bare
	s.mu.Unlock()
	siblings := []map[string]any{}
	for _, f := range c.files {
		row := map[string]any{"rfilename": f.path}
		if detail {
			row["size"], row["blobId"] = f.size, f.blob
			if f.sha256 != "" {
				row["lfs"] = map[string]any{"size": f.size, "sha256": f.sha256, "pointerSize": 134}
			}
		}
		siblings = append(siblings, row)
	}
	gated := any(false)
	if repo.Gated {
		gated = "manual"
	}
	s.json(w, map[string]any{
		"id": id, "modelId": id, "sha": c.id, "private": repo.Private, "gated": gated, "siblings": siblings, "tags": []string{},
	})
}

func (s *Server) tree(w http.ResponseWriter, r *http.Request, c *commit, under string) {
	rows := []map[string]any{}
	for _, f := range c.files {
		if under != "" && !strings.HasPrefix(f.path, under+"/") {
			continue
		}
		row := map[string]any{"type": "file", "path": f.path, "size": f.size, "oid": f.blob}
		if f.sha256 != "" {
			row["lfs"] = map[string]any{"oid": f.sha256, "size": f.size, "pointerSize": 134}
		}
		rows = append(rows, row)
	}
	s.mu.Lock()
	page := s.pageSize
	s.mu.Unlock()
	if page > 0 {
		at, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
		at = min(max(at, 0), len(rows))
		end := min(at+page, len(rows))
		if end < len(rows) {
			q := r.URL.Query()
			q.Set("cursor", strconv.Itoa(end))
			w.Header().Set("Link", fmt.Sprintf(`<%s%s?%s>; rel="next"`, s.URL, r.URL.EscapedPath(), q.Encode()))
		}
		rows = rows[at:end]
	}
	s.json(w, rows)
}

func (s *Server) json(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		s.refuse(w, http.StatusInternalServerError, "", err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.Write(data)
}

// resolve serves /{id}/resolve/{rev}/{path}.
func (s *Server) resolve(w http.ResponseWriter, r *http.Request) {
	id, verb, rest := split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "resolve")
	if verb == "" {
		s.refuse(w, http.StatusNotFound, "", "Not found")
		return
	}
	repo := s.repo(w, r, id, true)
	if repo == nil {
		return
	}
	rev, name, _ := strings.Cut(rest, "/")
	c := s.commit(w, repo, rev)
	if c == nil {
		return
	}
	w.Header().Set("X-Repo-Commit", c.id)
	name, _ = url.PathUnescape(name)
	f := c.file(name)
	if f == nil {
		s.refuse(w, http.StatusNotFound, "EntryNotFound", "Entry not found")
		return
	}
	if f.sha256 == "" {
		w.Header().Set("ETag", `"`+f.blob+`"`)
		w.Header().Set("Location", "/api/resolve-cache/models/"+id+"/"+c.id+"/"+url.PathEscape(f.path)+"?etag="+url.QueryEscape(`"`+f.blob+`"`))
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", "23")
		w.WriteHeader(http.StatusTemporaryRedirect)
		io.WriteString(w, "Temporary Redirect. Bye")
		return
	}
	w.Header().Set("X-Linked-Size", strconv.FormatInt(f.size, 10))
	w.Header().Set("X-Linked-Etag", `"`+f.sha256+`"`)
	w.Header().Set("ETag", `"`+f.sha256+`"`)
	w.Header().Set("Location", s.CDN+"/"+id+"/"+c.id+"/"+url.PathEscape(f.path)+"?"+s.sign(id+"/"+c.id+"/"+f.path))
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", "21")
	w.WriteHeader(http.StatusFound)
	io.WriteString(w, "Found. Redirecting to")
}

// sign returns the query of a CDN URL.
func (s *Server) sign(what string) string {
	s.mu.Lock()
	expires, epoch := time.Now().Add(s.ttl).UnixNano(), s.epoch
	s.mu.Unlock()
	return url.Values{
		"Expires":   {strconv.FormatInt(expires, 10)},
		"Epoch":     {strconv.Itoa(epoch)},
		"Signature": {s.mac(what, expires, epoch)},
	}.Encode()
}

func (s *Server) mac(what string, expires int64, epoch int) string {
	m := hmac.New(sha256.New, s.secret)
	fmt.Fprintf(m, "%s\n%d\n%d", what, expires, epoch)
	return hex.EncodeToString(m.Sum(nil))
}

// resolveCache serves the bytes of a small file on the Hub's own host.
func (s *Server) resolveCache(w http.ResponseWriter, r *http.Request) {
	rest := strings.TrimPrefix(r.URL.EscapedPath(), "/api/resolve-cache/models/")
	parts := strings.Split(rest, "/")
	if len(parts) < 3 {
		s.refuse(w, http.StatusNotFound, "", "Not found")
		return
	}
	repo := s.repo(w, r, strings.Join(parts[:len(parts)-2], "/"), true)
	if repo == nil {
		return
	}
	c := s.commit(w, repo, parts[len(parts)-2])
	if c == nil {
		return
	}
	name, _ := url.PathUnescape(parts[len(parts)-1])
	f := c.file(name)
	if f == nil {
		s.refuse(w, http.StatusNotFound, "EntryNotFound", "Entry not found")
		return
	}
	w.Header().Set("X-Repo-Commit", c.id)
	w.Header().Set("ETag", `"`+f.blob+`"`)
	s.content(w, r, Cache, f)
}

// serveCDN serves the bytes of LFS files to whoever has a valid signature, and no one else.
func (s *Server) serveCDN(w http.ResponseWriter, r *http.Request) {
	s.serve(w, r, CDN, func(w http.ResponseWriter) {
		denied := func() {
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access denied</Message></Error>`)
		}
		parts := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
		if len(parts) < 3 {
			denied()
			return
		}
		name, _ := url.PathUnescape(parts[len(parts)-1])
		id, rev := strings.Join(parts[:len(parts)-2], "/"), parts[len(parts)-2]
		q := r.URL.Query()
		expires, _ := strconv.ParseInt(q.Get("Expires"), 10, 64)
		epoch, _ := strconv.Atoi(q.Get("Epoch"))
		s.mu.Lock()
		current, found := s.epoch, s.repos[id]
		var f *file
		if found != nil && found.commits[rev] != nil {
			f = found.commits[rev].file(name)
		}
		s.mu.Unlock()
		want := s.mac(id+"/"+rev+"/"+name, expires, epoch)
		if f == nil || epoch != current || time.Now().UnixNano() > expires || !hmac.Equal([]byte(want), []byte(q.Get("Signature"))) {
			denied()
			return
		}
		// The CDN's own ETag is the xet hash, which is not the sha256.
		xet := sha256.Sum256([]byte("xet " + f.sha256))
		w.Header().Set("ETag", `"`+hex.EncodeToString(xet[:])+`"`)
		s.content(w, r, CDN, f)
	})
}
