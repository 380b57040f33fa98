// Package hub reads a model repository of a Hugging Face Hub, pinned to a commit, as named io.ReaderAts.
//
//	client, err := hub.FromEnv()
//	snap, err := client.Snapshot(ctx, "org/name", "main") // one request; the commit is fixed from here on
//	defer snap.Close()
//	f, err := snap.Open("model.safetensors")              // no request yet; snap is an fs.FS
//	n, err := f.(io.ReaderAt).ReadAt(p, off)              // a ranged GET, or bytes that were read ahead
//
// Memory is bounded by Options.Memory whatever the size of the files. Reads survive dropped connections, expired
// signed URLs, rate limits and bursts of server errors. A file whose bytes were all read is held to the digest that
// the repository names for it. The token goes to the Hub's own origin and nowhere else.
package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// DefaultEndpoint is the Hub that HF_ENDPOINT replaces.
const DefaultEndpoint = "https://huggingface.co"

// A Token opens repositories. It prints as hf_***, whatever the verb or the logger.
type Token string

func (Token) String() string               { return "hf_***" }
func (Token) GoString() string             { return "hf_***" }
func (Token) LogValue() slog.Value         { return slog.StringValue("hf_***") }
func (Token) MarshalText() ([]byte, error) { return []byte("hf_***"), nil }

// Options configure a Client. The zero value reads public repositories of DefaultEndpoint without a cache.
type Options struct {
	Endpoint  string // the Hub's base URL; empty means DefaultEndpoint
	Token     Token  // empty: anonymous
	TokenFrom string // where the token is from, for error messages: "HF_TOKEN", a path
	CacheDir  string // the Hub cache (the folder with models--org--name); empty: no cache is read or written
	Offline   bool   // nothing but the cache is used

	Memory    int64         // bound on buffered bytes of all files together; 0 means 64 MiB
	Conns     int           // ranges fetched at once ahead of the readers; 0 means 8
	Stall     time.Duration // a connection that is silent for so long is dropped and retried; 0 means 60 s
	Retry     Retry
	UserAgent string            // empty means "modelpipe"
	Transport http.RoundTripper // nil means a transport of the client's own: HTTP/1.1, proxies from the environment
	Log       *slog.Logger      // nil means silence
}

// Client talks to one Hub. It is safe for concurrent use.
type Client struct {
	endpoint  *url.URL // without a trailing slash in Path
	token     Token
	tokenFrom string
	cache     cacheDir
	offline   bool
	retry     Retry
	stall     time.Duration
	agent     string
	http      http.Client
	pool      *pool
	slots     chan struct{} // one per range that is being read ahead
	log       *slog.Logger
}

// New returns a Client. It sends nothing.
func New(o Options) (*Client, error) {
	endpoint, err := parseEndpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	if strings.ContainsFunc(string(o.Token), func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, fmt.Errorf("hub token from %s: contains a space or a character that no token has", o.TokenFrom)
	}
	if o.TokenFrom == "" {
		o.TokenFrom = "given by the program"
	}
	if o.Memory <= 0 {
		o.Memory = 64 << 20
	}
	if o.Conns <= 0 {
		o.Conns = 8
	}
	if o.Stall <= 0 {
		o.Stall = time.Minute
	}
	if o.UserAgent == "" {
		o.UserAgent = "modelpipe"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Transport == nil {
		o.Transport = newTransport(o.Conns)
	}
	return &Client{
		endpoint:  endpoint,
		token:     o.Token,
		tokenFrom: o.TokenFrom,
		cache:     cacheDir(o.CacheDir),
		offline:   o.Offline,
		retry:     o.Retry.withDefaults(),
		stall:     o.Stall,
		agent:     o.UserAgent,
		http: http.Client{
			Transport:     o.Transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		pool:  &pool{limit: o.Memory},
		slots: make(chan struct{}, o.Conns),
		log:   o.Log,
	}, nil
}

// newTransport speaks HTTP/1.1 alone: HTTP/2 would put all parallel ranges on one connection and its flow-control
// window, which is what they are there to avoid.
func newTransport(conns int) *http.Transport {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	var http1 http.Protocols
	http1.SetHTTP1(true)
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSHandshakeTimeout:   20 * time.Second,
		MaxIdleConnsPerHost:   2 * conns,
		IdleConnTimeout:       60 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true,
		ReadBufferSize:        64 << 10,
		Protocols:             &http1,
	}
}

func parseEndpoint(s string) (*url.URL, error) {
	if s == "" {
		s = DefaultEndpoint
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("hub endpoint: not a URL: want https://host")
	case u.User != nil:
		return nil, fmt.Errorf("hub endpoint %s: must not hold a user or password: use HF_TOKEN", u.Redacted())
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("hub endpoint %q: want https://host", s)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = ""
	return u, nil
}

// FromEnv returns a Client configured as huggingface_hub configures itself; see OptionsFromEnv.
func FromEnv() (*Client, error) {
	o, err := OptionsFromEnv(os.Getenv)
	if err != nil {
		return nil, err
	}
	return New(o)
}

// OptionsFromEnv reads the variables that huggingface_hub (constants.py, utils/_auth.py) honours, with its precedence:
//
//	HF_ENDPOINT
//	HF_TOKEN, HUGGING_FACE_HUB_TOKEN, else the file HF_TOKEN_PATH, else $HF_HOME/token; HF_HUB_DISABLE_IMPLICIT_TOKEN
//	HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, else $HF_HOME/hub
//	HF_HOME, else $XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface
//	HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE
func OptionsFromEnv(getenv func(string) string) (Options, error) {
	o := Options{Endpoint: getenv("HF_ENDPOINT")}
	o.Offline = isTrue(first(getenv("HF_HUB_OFFLINE"), getenv("TRANSFORMERS_OFFLINE")))

	home := first(getenv("HOME"), getenv("USERPROFILE"))
	expand := func(path string) string {
		path = os.Expand(path, getenv)
		if path == "~" || strings.HasPrefix(path, "~/") {
			path = filepath.Join(home, path[1:])
		}
		return filepath.FromSlash(path)
	}
	hfHome := getenv("HF_HOME")
	if hfHome == "" {
		base := getenv("XDG_CACHE_HOME")
		if base == "" && home != "" {
			base = filepath.Join(home, ".cache")
		}
		if base != "" {
			hfHome = filepath.Join(base, "huggingface")
		}
	}
	hfHome = expand(hfHome)
	inHome := func(name string) string {
		if hfHome == "" {
			return ""
		}
		return filepath.Join(hfHome, name)
	}
	o.CacheDir = first(expand(first(getenv("HF_HUB_CACHE"), getenv("HUGGINGFACE_HUB_CACHE"))), inHome("hub"))

	if isTrue(getenv("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
		return o, nil
	}
	for _, name := range []string{"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} {
		if token := cleanToken(getenv(name)); token != "" {
			o.Token, o.TokenFrom = token, name
			return o, nil
		}
	}
	path := first(expand(getenv("HF_TOKEN_PATH")), inHome("token"))
	if path == "" {
		return o, nil
	}
	text, err := readSmall(path, 64<<10)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return Options{}, fmt.Errorf("read hub token: %w", err)
	default:
		if o.Token = cleanToken(string(text)); o.Token != "" {
			o.TokenFrom = path
		}
	}
	return o, nil
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func isTrue(s string) bool {
	switch strings.ToUpper(s) {
	case "1", "ON", "YES", "TRUE":
		return true
	}
	return false
}

func cleanToken(s string) Token {
	return Token(strings.TrimSpace(strings.NewReplacer("\r", "", "\n", "").Replace(s)))
}

// readSmall reads a file that has no reason to exceed limit.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return b, err
}

// url returns the endpoint's URL for a path of already escaped segments.
func (c *Client) url(escaped string) *url.URL {
	u := *c.endpoint
	raw := u.EscapedPath() + escaped
	// The segments were escaped by url.PathEscape, so they unescape.
	if path, err := url.PathUnescape(raw); err == nil {
		u.Path, u.RawPath = path, raw
	}
	return &u
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

// meter counts the body bytes received for one snapshot or file.
type meter struct{ n atomic.Int64 }

// response is the answer after redirects.
type response struct {
	*http.Response
	// linked holds the X-Repo-Commit and X-Linked-* headers that the Hub gave on the way.
	linked http.Header
	// moved reports that a redirect was followed, to the URL Request.URL.
	moved bool
}

const maxRedirects = 10

// send does one GET (or HEAD), following redirects. The Authorization header goes with requests to the endpoint's
// origin, and no longer once a redirect has left it, even if a later one leads back. A nil error means a final status,
// success or not. Failures to get one are *transient.
func (c *Client) send(ctx context.Context, m *meter, method string, u *url.URL, byteRange string) (*response, error) {
	linked := http.Header{}
	trusted := true
	for hop := 0; ; hop++ {
		trusted = trusted && sameOrigin(u, c.endpoint)
		resp, err := c.sendOnce(ctx, m, method, u, byteRange, trusted)
		if err != nil {
			return nil, err
		}
		if trusted || hop == 0 {
			for _, name := range []string{"X-Repo-Commit", "X-Linked-Size", "X-Linked-Etag"} {
				if v := resp.Header.Get(name); v != "" && linked.Get(name) == "" {
					linked.Set(name, v)
				}
			}
		}
		switch resp.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
			http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			return &response{Response: resp, linked: linked, moved: hop > 0}, nil
		}
		resp.Body.Close()
		if hop == maxRedirects {
			return nil, fmt.Errorf("%w: more than %d redirects", ErrProtocol, maxRedirects)
		}
		next, err := u.Parse(resp.Header.Get("Location"))
		switch {
		case err != nil || resp.Header.Get("Location") == "":
			return nil, fmt.Errorf("%w: %s: redirect without a usable Location", ErrProtocol, u.Host)
		case next.Scheme != "https" && next.Scheme != "http" || next.Host == "":
			return nil, fmt.Errorf("%w: %s: redirect to a %q URL", ErrProtocol, u.Host, c.clean(next.Scheme))
		case u.Scheme == "https" && next.Scheme == "http":
			return nil, fmt.Errorf("%w: %s: redirect from https down to http at %s", ErrProtocol, u.Host, c.clean(next.Host))
		}
		next.User = nil
		u = next
	}
}

func (c *Client) sendOnce(ctx context.Context, m *meter, method string, u *url.URL, byteRange string, trusted bool) (*http.Response, error) {
	reqCtx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(reqCtx, method, u.String(), nil)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("%w: %w", ErrProtocol, transportError(err))
	}
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", c.agent)
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	if trusted && c.token != "" {
		req.Header.Set("Authorization", "Bearer "+string(c.token))
	}
	watch := time.AfterFunc(c.stall, func() { cancel(errStall) })
	resp, err := c.http.Do(req)
	watch.Stop()
	if err != nil {
		err = c.netError(ctx, reqCtx, u, err)
		cancel(nil)
		return nil, err
	}
	resp.Body = &body{rc: resp.Body, c: c, m: m, ctx: ctx, reqCtx: reqCtx, cancel: cancel, host: u}
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		resp.Body.Close()
		return nil, fmt.Errorf("%w: %s: Content-Encoding %q where identity was asked for", ErrProtocol, u.Host, c.clean(enc))
	}
	return resp, nil
}

var errStall = errors.New("no data for too long")

// netError words a failure of the connection, without the URL's query, as transient; unless ctx itself ended.
func (c *Client) netError(ctx, reqCtx context.Context, u *url.URL, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(context.Cause(reqCtx), errStall) {
		return &transient{err: fmt.Errorf("%s: no data for %v", u.Host, c.stall)}
	}
	return &transient{err: fmt.Errorf("%s: %w", u.Host, transportError(err))}
}

// body counts bytes and drops a connection that stalls while it is being read.
type body struct {
	rc     io.ReadCloser
	c      *Client
	m      *meter
	ctx    context.Context
	reqCtx context.Context
	cancel context.CancelCauseFunc
	host   *url.URL
}

func (b *body) Read(p []byte) (int, error) {
	watch := time.AfterFunc(b.c.stall, func() { b.cancel(errStall) })
	n, err := b.rc.Read(p)
	watch.Stop()
	b.m.n.Add(int64(n))
	if err != nil && err != io.EOF {
		err = b.c.netError(b.ctx, b.reqCtx, b.host, err)
	}
	return n, err
}

func (b *body) Close() error {
	err := b.rc.Close()
	b.cancel(nil)
	return err
}

// failed turns a status that is not a success into an error: *transient if it is worth a retry, else final.
func (c *Client) failed(s subject, resp *response) error {
	e := c.refusal(s, resp.Response)
	if !retryStatus(resp.StatusCode) {
		return e
	}
	e.Err, e.Hint = ErrUnavailable, ""
	return &transient{
		err:     e,
		at:      e,
		after:   retryAfter(resp.Header, time.Now()),
		limited: resp.StatusCode == http.StatusTooManyRequests,
	}
}

// maxJSON bounds one API answer: the listing of 100 000 files is some 30 MB.
const maxJSON = 64 << 20

// getJSON decodes an API answer into v and returns its headers.
func (c *Client) getJSON(ctx context.Context, m *meter, s subject, u *url.URL, v any) (http.Header, error) {
	var header http.Header
	err := c.retry.do(ctx, c.log, s.op, func() error {
		resp, err := c.send(ctx, m, http.MethodGet, u, "")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return c.failed(s, resp)
		}
		data, err := io.ReadAll(io.LimitReader(resp.Body, maxJSON+1))
		if err != nil {
			return err
		}
		if len(data) > maxJSON {
			return fmt.Errorf("%w: answer of more than %d bytes", ErrProtocol, maxJSON)
		}
		if err := json.Unmarshal(data, v); err != nil {
			return fmt.Errorf("%w: %s: not the JSON expected: %w: is HF_ENDPOINT a Hub?", ErrProtocol, u.Host, err)
		}
		header = resp.Header
		return nil
	})
	return header, c.about(s.op, err)
}

// about gives err the context that it lacks: what was being done.
func (c *Client) about(op string, err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return fmt.Errorf("%s: %w", op, err)
}

// PeakMemory is the most that was buffered at once so far, in bytes.
func (c *Client) PeakMemory() int64 {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	return c.pool.peak
}
