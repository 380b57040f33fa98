package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/publish"
)

// store reads the small objects of the catalog's store. What has not changed
// is not sent again: objects that are named by their digest are kept on the
// disk, and of the timestamp, the one that changes, a web server is asked for
// only if it is another than the last one. Nothing of this is trusted: package
// trust and the catalog's Reader verify what they are given.
type store struct {
	n     *Node
	inner catalog.Fetcher

	mu   sync.Mutex
	used map[string]bool // objects that this round has read
	hits int             // of them, from the disk
}

const (
	timestampName = "metadata/timestamp.json"
	objectsPrefix = "objects/"
	pollName      = "poll.json"
	fetchTries    = 3
)

// openStore returns what reads the store at Options.Catalog.
func (n *Node) openStore() (*store, error) {
	s := &store{n: n, used: map[string]bool{}}
	switch target := n.o.Catalog; {
	case isHTTP(target):
		u, err := url.Parse(target)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("catalog %.200q: has no host: want http://host/path or https://host/path", target)
		}
		s.inner = &webStore{base: u, n: n}
	case publish.IsRemote(target):
		sink, err := publish.OpenEnv(target, n.o.Getenv)
		if err != nil {
			return nil, err
		}
		p, ok := sink.(publish.Store)
		if !ok {
			return nil, fmt.Errorf("catalog %s: want a folder, s3://bucket/prefix or the address of a web server", sink)
		}
		s.inner = catalog.FromStore(p)
	default:
		dir := strings.TrimPrefix(target, "file://")
		if info, err := os.Stat(dir); err != nil {
			return nil, err
		} else if !info.IsDir() {
			return nil, fmt.Errorf("catalog %s: is not a folder", dir)
		}
		s.inner = catalog.FromFS(os.DirFS(dir))
	}
	return s, nil
}

// Fetch implements catalog.Fetcher.
func (s *store) Fetch(ctx context.Context, name string, limit int64) ([]byte, error) {
	if !strings.HasPrefix(name, objectsPrefix) {
		return s.again(ctx, name, limit)
	}
	base := path.Base(name)
	s.mu.Lock()
	s.used[base] = true
	s.mu.Unlock()
	if data, err := s.n.objects.read(base, limit); err == nil {
		s.mu.Lock()
		s.hits++
		s.mu.Unlock()
		return data, nil
	}
	data, err := s.again(ctx, name, limit)
	if err != nil {
		return nil, err
	}
	if err := s.n.objects.put(base, data, false); err != nil {
		s.n.log.Warn("an object of the catalog cannot be kept", "error", err)
	}
	return data, nil
}

// again fetches an object, a few times where the store does not answer.
func (s *store) again(ctx context.Context, name string, limit int64) ([]byte, error) {
	for try := 1; ; try++ {
		s.n.counters.requests.Add(1)
		data, err := s.inner.Fetch(ctx, name, limit)
		s.n.counters.metadata.Add(int64(len(data)))
		if err == nil || !errors.Is(err, publish.ErrUnavailable) || try == fetchTries || ctx.Err() != nil {
			return data, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(s.n.o.Backoff << (try - 1)):
		}
	}
}

// begin forgets what earlier rounds have read.
func (s *store) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used, s.hits = map[string]bool{}, 0
}

// prune takes away the objects on the disk that this round has not read; all
// of them where it is told so.
func (s *store) prune(all bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, err := s.n.objects.names()
	if err != nil {
		return err
	}
	for _, e := range names {
		if !all && s.used[e.Name()] {
			continue
		}
		if err := s.n.objects.remove(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// webStore is a store behind a web server.
type webStore struct {
	base *url.URL
	n    *Node
}

// polled is the last answer about the timestamp.
type polled struct {
	URL  string `json:"url"`
	ETag string `json:"etag"`
	Data []byte `json:"data"`
}

// Fetch implements catalog.Fetcher.
func (s *webStore) Fetch(ctx context.Context, name string, limit int64) ([]byte, error) {
	address := s.base.JoinPath(strings.Split(name, "/")...)
	shown := address.Scheme + "://" + address.Host + address.EscapedPath()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dog := newWatchdog(s.n.o.Stall, stallBytes, func() { cancel(tooSlow(s.n.o.Stall)) })
	defer dog.stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, withoutURL(err)
	}
	var last polled
	if name == timestampName {
		if data, err := s.n.home.read(pollName, 4*limit); err == nil && json.Unmarshal(data, &last) == nil && last.URL == shown && last.ETag != "" {
			req.Header.Set("If-None-Match", last.ETag)
		} else {
			last = polled{}
		}
	}
	res, err := s.n.client.Do(req)
	if err != nil {
		if context.Cause(ctx) != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("get %s: %w: %w", shown, publish.ErrUnavailable, withoutURL(err))
	}
	defer res.Body.Close()
	if date, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		s.n.skew = s.n.now().Sub(date)
	}
	kind := res.Header.Get("Content-Type")
	switch {
	case res.StatusCode == http.StatusNotModified && last.ETag != "":
		return last.Data, nil
	case res.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("get %s: %w", shown, fs.ErrNotExist)
	case res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusRequestTimeout:
		return nil, fmt.Errorf("get %s: %s: %w", shown, res.Status, publish.ErrUnavailable)
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("get %s: %s: %w", shown, res.Status, publish.ErrRefused)
	case strings.HasPrefix(kind, "text/html"):
		return nil, fmt.Errorf("get %s: answered 200 with a web page, not with the object: %w", shown, publish.ErrUnavailable)
	case res.ContentLength > limit:
		return nil, fmt.Errorf("get %s: %d bytes: %w (%d)", shown, res.ContentLength, catalog.ErrTooLarge, limit)
	}
	data, err := io.ReadAll(io.LimitReader(counted{res.Body, func(k int64) { dog.arrived(int(k)) }}, limit+1))
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("get %s: %w: %w", shown, publish.ErrUnavailable, err)
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("get %s: %w (%d bytes)", shown, catalog.ErrTooLarge, limit)
	}
	if etag := res.Header.Get("ETag"); name == timestampName && etag != "" && len(etag) < 1024 {
		if kept, err := json.Marshal(polled{shown, etag, data}); err == nil {
			if err := s.n.home.put(pollName, kept, false); err != nil {
				s.n.log.Warn("the last answer of the store cannot be kept", "error", err)
			}
		}
	}
	return data, nil
}
