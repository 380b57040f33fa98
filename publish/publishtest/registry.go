package publishtest

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// NewRegistry starts a registry in memory, that of go-containerregistry, which
// ends with the test. It returns its URL. What that registry lacks of the
// protocol is added: asking how far an upload is, and giving it up.
func NewRegistry(t testing.TB, opts ...registry.Option) string {
	opts = append(opts, registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(&uploads{next: registry.New(opts...), got: map[string]int64{}})
	t.Cleanup(server.Close)
	return server.URL
}

// uploads knows how many bytes each unfinished upload has.
type uploads struct {
	next http.Handler
	mu   sync.Mutex
	got  map[string]int64
}

// ServeHTTP implements http.Handler.
func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.Contains(r.URL.Path, "/blobs/uploads/") {
		u.next.ServeHTTP(w, r)
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	n, known := u.got[r.URL.Path]
	switch {
	case r.Method == http.MethodGet && known:
		w.Header().Set("Location", r.URL.Path)
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, n-1)))
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodDelete && known:
		delete(u.got, r.URL.Path)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPost:
		u.next.ServeHTTP(w, r)
		u.got[w.Header().Get("Location")] = 0
	case !known:
		http.Error(w, `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}`, http.StatusNotFound)
	case r.Method == http.MethodPatch:
		counted := &countedBody{ReadCloser: r.Body}
		r.Body = counted
		u.next.ServeHTTP(w, r)
		u.got[r.URL.Path] += counted.n
	default:
		u.next.ServeHTTP(w, r)
	}
}

type countedBody struct {
	io.ReadCloser
	n int64
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n += int64(n)
	return n, err
}
