package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/publish"
)

// A source is a place that has a file. What it gives is not trusted.
type source interface {
	String() string

	// open reads n bytes, at least one, of the file from an offset on. Where
	// the place can only give whole files the error is errWhole, and open
	// with the whole file must follow.
	open(ctx context.Context, f catalog.File, from, n int64) (io.ReadCloser, error)
}

// errWhole says that a place does not give parts of files.
var errWhole = errors.New("gives whole files only")

// httpSource is a web server. A server of the kind of the node's own has blobs
// by digest.
type httpSource struct {
	base   string
	peer   bool
	client *http.Client
}

func (s *httpSource) String() string {
	if s.peer {
		return "peer " + s.base
	}
	return s.base
}

func (s *httpSource) open(ctx context.Context, f catalog.File, from, n int64) (io.ReadCloser, error) {
	name := f.Path
	if s.peer {
		name = "blobs/sha256/" + hexOf(f.SHA256)
	}
	address, err := url.JoinPath(s.base, strings.Split(name, "/")...)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	whole := from == 0 && n == f.Size
	if !whole {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, from+n-1))
	}
	req.Header.Set("Accept-Encoding", "identity")
	res, err := s.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", publish.ErrUnavailable, withoutURL(err))
	}
	if err := s.check(res, f, from, n, whole); err != nil {
		res.Body.Close()
		return nil, err
	}
	return res.Body, nil
}

// check says whether an answer is the bytes that were asked for.
func (s *httpSource) check(res *http.Response, f catalog.File, from, n int64, whole bool) error {
	kind := res.Header.Get("Content-Type")
	switch {
	case res.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s: %w", res.Status, fs.ErrNotExist)
	case res.StatusCode >= 500, res.StatusCode == http.StatusTooManyRequests, res.StatusCode == http.StatusRequestTimeout:
		return fmt.Errorf("%s: %w", res.Status, publish.ErrUnavailable)
	case res.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("%s: the file there is shorter: %w", res.Status, publish.ErrMismatch)
	case res.StatusCode == http.StatusPartialContent:
		if want := fmt.Sprintf("bytes %d-%d/%d", from, from+n-1, f.Size); res.Header.Get("Content-Range") != want {
			return fmt.Errorf("content-range is %.80q, want %q: %w", res.Header.Get("Content-Range"), want, publish.ErrMismatch)
		}
		return nil
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %w", res.Status, publish.ErrRefused)
	case res.ContentLength != f.Size:
		length := fmt.Sprintf("%d bytes", res.ContentLength)
		if res.ContentLength < 0 {
			length = "no length"
		}
		return fmt.Errorf("answered 200 with %s of %.60q, not with the file of %d bytes: %w", length, kind, f.Size, publish.ErrMismatch)
	case !whole:
		return errWhole
	}
	return nil
}

// withoutURL takes the address, which may hold a password, out of an error.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// published is a folder, a bucket or a registry.
type published struct {
	publish.RangeReader
	dir string // of the file in it
}

func (s *published) open(ctx context.Context, f catalog.File, from, n int64) (io.ReadCloser, error) {
	p := publish.Published{Name: path.Join(s.dir, f.Path), SHA256: hexOf(f.SHA256), Size: f.Size}
	return s.OpenRange(ctx, p, from, n)
}

// broken is a place that cannot even be asked.
type broken struct {
	name string
	err  error
}

func (s broken) String() string { return s.name }

func (s broken) open(context.Context, catalog.File, int64, int64) (io.ReadCloser, error) {
	return nil, fmt.Errorf("%w: %w", publish.ErrRefused, s.err)
}

// sources returns the places that have the files of a variant: peers first, in
// any order, then those of the catalog in its order.
func (n *Node) sources(v *catalog.Variant) []source {
	var out []source
	for _, i := range rand.Perm(len(n.o.Peers)) {
		out = append(out, &httpSource{strings.TrimSuffix(n.o.Peers[i], "/"), true, n.client})
	}
	for _, l := range v.Locations {
		s, err := n.location(l)
		if err != nil {
			s = broken{l.URI, err}
		}
		out = append(out, s)
	}
	return out
}

// location opens a place of the catalog.
func (n *Node) location(l catalog.Location) (source, error) {
	switch l.Kind {
	case catalog.KindHTTP:
		return &httpSource{strings.TrimSuffix(l.URI, "/"), false, n.client}, nil
	case catalog.KindStore:
		if isHTTP(n.o.Catalog) {
			address, err := url.JoinPath(n.o.Catalog, strings.Split(l.URI, "/")...)
			return &httpSource{address, false, n.client}, err
		}
		r, err := n.reader(n.o.Catalog, catalog.Location{})
		return &published{r, l.URI}, err
	case catalog.KindFile, catalog.KindS3, catalog.KindOCI:
		r, err := n.reader(l.URI, l)
		return &published{r, ""}, err
	}
	return nil, fmt.Errorf("location of kind %.40q is not known", l.Kind)
}

// reader opens a target of package publish, once.
func (n *Node) reader(target string, l catalog.Location) (publish.RangeReader, error) {
	key := target + " " + l.Endpoint + " " + l.Region
	if r := n.readers[key]; r != nil {
		return r, nil
	}
	r, err := publish.OpenReader(target, func(name string) string {
		switch {
		case l.Endpoint != "" && (name == "AWS_ENDPOINT_URL" || name == "AWS_ENDPOINT_URL_S3"):
			return l.Endpoint
		case l.Region != "" && name == "AWS_REGION":
			return l.Region
		}
		return n.o.Getenv(name)
	})
	if err != nil {
		return nil, err
	}
	n.readers[key] = r
	return r, nil
}

func isHTTP(target string) bool {
	return strings.HasPrefix(target, "http://") || strings.HasPrefix(target, "https://")
}

// newClient is a client for many transfers, none of which may wait for ever
// until it begins.
func newClient(stall time.Duration) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = stall
	t.DisableCompression = true
	t.MaxIdleConnsPerHost = 16
	return &http.Client{Transport: t}
}
