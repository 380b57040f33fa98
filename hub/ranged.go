package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// object is one remote file, read as ranges. It has no memory of its own beyond the signed URL that the last redirect
// led to, and one open body if the server ignores Range.
type object struct {
	ctx     context.Context // bounds the open body of a server that ignores Range
	c       *Client
	m       *meter
	subject subject
	stable  *url.URL // the URL that does not expire
	size    int64
	commit  string // expected X-Repo-Commit, if any
	sha256  string // expected X-Linked-Etag, if any
	etag    string // for a plain URL: the ETag that every answer must repeat

	mu     sync.Mutex
	signed *url.URL // where stable redirected to; nil: ask again

	whole wholeBody
}

// readRange fills p from offset off, through dropped connections, expired URLs and server errors. The caller has
// checked that the range lies within the file.
func (o *object) readRange(ctx context.Context, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	done := 0
	err := o.c.retry.do(ctx, o.c.log, o.subject.op, func() error {
		n, err := o.attempt(ctx, p[done:], off+int64(done))
		done += n
		var t *transient
		if errors.As(err, &t) && n > 0 {
			t.progress = true
		}
		return err
	})
	return o.c.about(o.subject.op, err)
}

// attempt does one GET and reports how many bytes of p it filled. A nil error means all.
func (o *object) attempt(ctx context.Context, p []byte, off int64) (int, error) {
	if o.whole.active() {
		return o.readWhole(p, off)
	}
	last := off + int64(len(p)) - 1
	u, signed := o.location()
	resp, err := o.c.send(ctx, o.m, http.MethodGet, u, fmt.Sprintf("bytes=%d-%d", off, last))
	if err != nil {
		if signed {
			o.forget(u) // whatever is wrong there, the stable URL knows a better place
		}
		return 0, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusPartialContent:
		if err := o.check(resp, signed); err != nil {
			return 0, err
		}
		first, end, err := o.contentRange(resp, off, last)
		if err != nil {
			return 0, err
		}
		o.remember(u, resp)
		n, err := io.ReadFull(resp.Body, p[:end-first+1])
		if err == nil && n < len(p) {
			err = io.ErrUnexpectedEOF // the server chose to send less, which it may: go on behind it
		}
		return n, short(err)
	case http.StatusOK:
		if err := o.check(resp, signed); err != nil {
			return 0, err
		}
		if resp.ContentLength >= 0 && resp.ContentLength != o.size {
			return 0, fmt.Errorf("%w: the file has %d bytes, %d were listed", ErrMismatch, resp.ContentLength, o.size)
		}
		if off == 0 && int64(len(p)) == o.size {
			n, err := io.ReadFull(resp.Body, p)
			return n, short(err)
		}
		o.c.log.Warn("server ignores Range: reading the whole file in order", "op", o.subject.op, "host", resp.Request.URL.Host, "bytes", o.size)
		// The body is kept open beyond this call, so it is asked for again under the object's own context.
		return o.readWhole(p, off)
	case http.StatusRequestedRangeNotSatisfiable:
		_, _, size, _ := parseContentRange(resp.Header.Get("Content-Range"))
		return 0, fmt.Errorf("%w: bytes %d-%d are past the end: the file has %d bytes, %d were listed", ErrMismatch, off, last, size, o.size)
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone:
		if signed || resp.moved && !sameOrigin(resp.Request.URL, o.c.endpoint) {
			// A signed URL that has expired, or that another edge of the CDN does not know yet.
			o.forget(u)
			e := o.c.refusal(o.subject, resp.Response)
			e.Err, e.Hint = ErrUnavailable, ""
			return 0, &transient{err: e, at: e, progress: signed, again: signed}
		}
	}
	if signed {
		o.forget(u)
	}
	return 0, o.c.failed(o.subject, resp)
}

// short words the error of a body that ended early; it is always worth another try.
func short(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF {
		return &transient{err: fmt.Errorf("connection closed in the middle of the body")}
	}
	return err
}

// location is where to ask, and whether that is a remembered redirect.
func (o *object) location() (*url.URL, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.signed != nil {
		return o.signed, true
	}
	return o.stable, false
}

func (o *object) remember(asked *url.URL, resp *response) {
	if !resp.moved {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if asked == o.stable {
		o.signed = resp.Request.URL
	}
}

func (o *object) forget(u *url.URL) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.signed == u {
		o.signed = nil
	}
}

// check holds what the headers say about the file's identity to what the listing said.
func (o *object) check(resp *response, signed bool) error {
	if !signed {
		if v := resp.linked.Get("X-Repo-Commit"); v != "" && o.commit != "" && v != o.commit {
			return fmt.Errorf("%w: served from commit %s, not from %s", ErrMismatch, o.c.clean(v), o.commit)
		}
		if v := resp.linked.Get("X-Linked-Size"); v != "" && v != strconv.FormatInt(o.size, 10) {
			return fmt.Errorf("%w: X-Linked-Size is %s, %d bytes were listed", ErrMismatch, o.c.clean(v), o.size)
		}
		if v := etag(resp.linked.Get("X-Linked-Etag")); isHex(v, 64) && o.sha256 != "" && v != o.sha256 {
			return fmt.Errorf("%w: X-Linked-Etag is %s, the listed sha256 is %s", ErrMismatch, v, o.sha256)
		}
	}
	if v := resp.Header.Get("ETag"); o.etag != "" && v != "" && v != o.etag {
		return fmt.Errorf("%w: the file changed while it was being read (ETag was %s, is %s): start again", ErrMismatch, o.c.clean(o.etag), o.c.clean(v))
	}
	return nil
}

// contentRange checks a 206 against what was asked for: it must begin at off, not go past last, and agree on the size.
func (o *object) contentRange(resp *response, off, last int64) (first, end int64, err error) {
	text := resp.Header.Get("Content-Range")
	first, end, size, err := parseContentRange(text)
	switch {
	case err != nil:
		return 0, 0, fmt.Errorf("%w: %s: %w", ErrProtocol, resp.Request.URL.Host, err)
	case first != off || end > last || end < first:
		return 0, 0, fmt.Errorf("%w: %s: asked for bytes %d-%d, got Content-Range %q", ErrProtocol, resp.Request.URL.Host, off, last, o.c.clean(text))
	case size >= 0 && size != o.size:
		return 0, 0, fmt.Errorf("%w: the file has %d bytes, %d were listed", ErrMismatch, size, o.size)
	case resp.ContentLength > end-first+1: // a shorter body is a truncated one, which reading it will tell
		return 0, 0, fmt.Errorf("%w: %s: Content-Range %q with Content-Length %d", ErrProtocol, resp.Request.URL.Host, o.c.clean(text), resp.ContentLength)
	}
	return first, end, nil
}

// parseContentRange parses "bytes first-end/size", with -1 for a size of "*", and "bytes */size" of a 416, with first
// and end -1 (RFC 9110, section 14.4).
func parseContentRange(s string) (first, end, size int64, err error) {
	bad := func() (int64, int64, int64, error) {
		return -1, -1, -1, fmt.Errorf("malformed Content-Range %q", s)
	}
	unit, rest, ok := strings.Cut(s, " ")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return bad()
	}
	span, total, ok := strings.Cut(rest, "/")
	if !ok {
		return bad()
	}
	size = -1
	if total != "*" {
		if size, ok = decimal(total); !ok {
			return bad()
		}
	}
	if span == "*" {
		if size < 0 {
			return bad()
		}
		return -1, -1, size, nil
	}
	a, b, ok := strings.Cut(span, "-")
	if !ok {
		return bad()
	}
	first, ok1 := decimal(a)
	end, ok2 := decimal(b)
	if !ok1 || !ok2 || end < first || size >= 0 && end >= size {
		return bad()
	}
	return first, end, size, nil
}

// decimal parses digits and nothing else into a non-negative int64.
func decimal(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 63) // which takes no sign
	return int64(n), err == nil
}

// etag strips the weakness mark and the quotes.
func etag(s string) string {
	return strings.Trim(strings.TrimPrefix(s, "W/"), `"`)
}

// wholeBody reads a file from a server that ignores Range: one body from the start, kept open between reads. Reading on
// costs nothing; a step back costs the file's beginning again, so such a file should be read in order.
type wholeBody struct {
	on atomic.Bool // set for good once the server has ignored a Range; read without mu, which is held while reading

	mu     sync.Mutex
	body   io.ReadCloser
	pos    int64
	wasted int64 // bytes thrown away so far
}

func (w *wholeBody) active() bool { return w.on.Load() }

func (w *wholeBody) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop()
}

func (w *wholeBody) drop() {
	if w.body != nil {
		w.body.Close()
		w.body = nil
	}
}

func (o *object) readWhole(p []byte, off int64) (int, error) {
	w := &o.whole
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on.Store(true)
	if w.body == nil || off < w.pos {
		w.drop()
		resp, err := o.c.send(o.ctx, o.m, http.MethodGet, o.stable, "")
		if err != nil {
			return 0, err
		}
		if resp.StatusCode != http.StatusOK {
			defer resp.Body.Close()
			return 0, o.c.failed(o.subject, resp)
		}
		if err := o.check(resp, false); err != nil {
			resp.Body.Close()
			return 0, err
		}
		w.body, w.pos = resp.Body, 0
	}
	if skip := off - w.pos; skip > 0 {
		if w.wasted += skip; w.wasted > 4*o.size+(64<<20) {
			w.drop()
			return 0, fmt.Errorf("%w: the server ignores Range, and the file is not read in order: download it first (--cache)", ErrProtocol)
		}
		n, err := io.CopyN(io.Discard, w.body, skip)
		w.pos += n
		if err != nil {
			w.drop()
			return 0, short(err)
		}
	}
	n, err := io.ReadFull(w.body, p)
	w.pos += int64(n)
	if err != nil {
		w.drop()
	}
	return n, short(err)
}
