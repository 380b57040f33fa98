package hub_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/modelpipe/modelpipe/hub"
	"github.com/modelpipe/modelpipe/hub/hubtest"
)

func TestOpenURL(t *testing.T) {
	data := random(3<<20+5, 3)
	var sawToken atomic.Bool
	var version atomic.Int32
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			sawToken.Store(true)
		}
		switch r.URL.Path {
		case "/model.gguf":
			w.Header().Set("ETag", fmt.Sprintf(`"%d"`, version.Load()))
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		case "/norange.gguf":
			w.Write(data[:5000])
		case "/empty":
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(nil))
		case "/moved":
			http.Redirect(w, r, "/model.gguf", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	defer web.Close()
	c := newClient(t, hub.Options{Token: token}) // its endpoint is the real Hub: web is a stranger

	for _, path := range []string{"/model.gguf", "/moved", "/model.gguf?sig=secret"} {
		f, err := c.OpenURL(t.Context(), web.URL+path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readAll(f, 300_000)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
		if n := f.(interface{ BytesRead() int64 }).BytesRead(); n < int64(len(data)) || n > int64(len(data))+10 {
			t.Errorf("%s: %d bytes read", path, n)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if f, err := c.OpenURL(t.Context(), web.URL+"/empty"); err != nil || f.Size() != 0 {
		t.Errorf("empty: %v", err)
	} else {
		f.Close()
	}
	f, err := c.OpenURL(t.Context(), web.URL+"/norange.gguf")
	if err == nil {
		p := make([]byte, 1000)
		if _, err = f.ReadAt(p, 4000); err == nil && !bytes.Equal(p, data[4000:5000]) {
			t.Error("misread from a server that ignores Range")
		}
		f.Close()
	}
	if err != nil && !errors.Is(err, hub.ErrProtocol) { // without Content-Length there is no size to go by
		t.Error(err)
	}
	if _, err := c.OpenURL(t.Context(), web.URL+"/none?sig=secret"); !errors.Is(err, hub.ErrEntryNotFound) || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{"model.gguf", "ftp://host/x", "https://", "http://%zz?sig=secret"} {
		if _, err := c.OpenURL(t.Context(), bad); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if sawToken.Load() {
		t.Error("token sent to a stranger")
	}

	f, err = c.OpenURL(t.Context(), web.URL+"/model.gguf")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	version.Store(2)
	if _, err := f.ReadAt(make([]byte, 10), 0); !errors.Is(err, hub.ErrMismatch) || !strings.Contains(err.Error(), "changed while") {
		t.Errorf("a file that changed: %v", err)
	}
}

func TestOpenURLOnTheHub(t *testing.T) {
	srv := hubtest.NewServer(t)
	data := random(100_000, 5)
	srv.AddRepo(hubtest.Repo{ID: "org/gguf", FS: fstest.MapFS{"m.gguf": {Data: data}}, Gated: true, Tokens: []string{token}})
	c := newClient(t, hub.Options{Endpoint: srv.URL, Token: token})
	for _, path := range []string{"/org/gguf/resolve/main/m.gguf", "/org/gguf/blob/main/m.gguf"} {
		f, err := c.OpenURL(t.Context(), srv.URL+path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		f.Close()
	}
	srv.Inject(hubtest.Fault{Stage: hubtest.CDN, CorruptAt: 50_000})
	f, err := c.OpenURL(t.Context(), srv.URL+"/org/gguf/resolve/main/m.gguf")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(f); !errors.Is(err, hub.ErrMismatch) {
		t.Errorf("corrupted: %v", err)
	}
	if err := f.Close(); !errors.Is(err, hub.ErrMismatch) {
		t.Errorf("close: %v", err)
	}
	anonymous := newClient(t, hub.Options{Endpoint: srv.URL})
	if _, err := anonymous.OpenURL(t.Context(), srv.URL+"/org/gguf/resolve/main/m.gguf"); !errors.Is(err, hub.ErrUnauthorized) || !strings.Contains(err.Error(), "HF_TOKEN") {
		t.Errorf("gated, no token: %v", err)
	}
}
