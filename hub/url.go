package hub

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
)

// OpenURL opens a file at an http or https URL with the same ranged reader. It asks once, for the size. The token is
// sent only if the URL is on the client's own endpoint. ctx bounds everything that is read through the file.
func (c *Client) OpenURL(ctx context.Context, rawURL string) (File, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("open URL %q: want https://host/path", c.clean(strings.SplitN(rawURL, "?", 2)[0]))
	}
	u.Fragment = ""
	if sameOrigin(u, c.endpoint) {
		// The page of a file on the Hub, as a browser shows its address, is not the file.
		parts := strings.SplitN(u.EscapedPath(), "/", 5)
		if len(parts) == 5 && parts[3] == "blob" {
			parts[3] = "resolve"
			raw := strings.Join(parts, "/")
			if p, err := url.PathUnescape(raw); err == nil {
				u.Path, u.RawPath = p, raw
			}
		}
	}
	shown := u.Scheme + "://" + u.Host + u.EscapedPath() // without user and query, which may be secrets
	if c.offline {
		return nil, fmt.Errorf("open %s: %w: unset HF_HUB_OFFLINE", shown, ErrOffline)
	}
	f := &urlFile{}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	o := &object{ctx: f.ctx, c: c, m: &f.m, subject: subject{op: "read " + shown, entry: shown}, stable: u}
	if err := o.probe(); err != nil {
		f.cancel(nil)
		return nil, err
	}
	var sum *digest
	if o.sha256 != "" {
		sum = newDigest(Entry{Path: shown, Size: o.size, SHA256: o.sha256})
	}
	f.object = o
	f.reader = newReader(f.ctx, o, o.size, sum, c.pool, c.slots, &f.wg)
	f.handle = handle{src: f.reader, info: info{name: path.Base(u.Path), size: o.size}, onClose: f.close}
	return f, nil
}

// urlFile is a file of OpenURL.
type urlFile struct {
	handle
	ctx    context.Context
	cancel context.CancelCauseFunc
	m      meter
	wg     sync.WaitGroup
	object *object
	reader *reader
}

// BytesRead is how many bytes were received so far.
func (f *urlFile) BytesRead() int64 { return f.m.n.Load() }

func (f *urlFile) close() error {
	f.reader.shut()
	f.cancel(errClosed)
	f.wg.Wait()
	f.object.whole.close()
	return f.reader.free()
}

// probe learns the size, the ETag and, from a Hub, the digest of the file with a GET of its first byte: servers that
// sign URLs refuse HEAD.
func (o *object) probe() error {
	err := o.c.retry.do(o.ctx, o.c.log, o.subject.op, func() error {
		resp, err := o.c.send(o.ctx, o.m, http.MethodGet, o.stable, "bytes=0-0")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		size, known := sizeOf(resp)
		switch {
		case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
			if _, _, n, err := parseContentRange(resp.Header.Get("Content-Range")); err != nil || n != 0 {
				return o.c.failed(o.subject, resp)
			}
			size = 0 // an empty file has no first byte
		case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent:
			return o.c.failed(o.subject, resp)
		case !known:
			return fmt.Errorf("%w: the server does not say how large the file is", ErrProtocol)
		}
		o.size = size
		o.etag = resp.Header.Get("ETag")
		if tag := etag(resp.linked.Get("X-Linked-Etag")); isHex(tag, 64) && sameOrigin(o.stable, o.c.endpoint) {
			o.sha256 = tag
		}
		if resp.StatusCode == http.StatusPartialContent {
			o.remember(o.stable, resp)
		}
		return nil
	})
	return o.c.about(o.subject.op, err)
}
