package publishtest

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A Fault is what goes wrong with some requests.
type Fault struct {
	Match func(*http.Request) bool // nil: every request
	After int                      // so many of them go well before
	Times int                      // so many fail; zero: all

	Delay       time.Duration        // before anything is done
	Status      int                  // is answered in place of the server
	CutRequest  int64                // the connection ends after so many bytes of the body
	CutAnswer   int64                // the connection ends after so many bytes of the answer
	LoseAnswer  bool                 // the server gets the request, the client no answer
	Answer      func(*http.Response) // changes the answer
	BytesPerSec int64                // of the request's body

	seen atomic.Int64
}

// A Proxy stands before a server and lets requests fail.
type Proxy struct {
	URL string

	mu     sync.Mutex
	faults []*Fault
	log    []string
}

// NewProxy starts a proxy before the server at upstream, which ends with the
// test. Clients must not notice it: the Host header, which is signed and from
// which registries make addresses, stays that of the proxy.
func NewProxy(t testing.TB, upstream string) *Proxy {
	to, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	p, ended := &Proxy{}, make(chan struct{})
	reverse := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
		},
		Transport:    &http.Transport{MaxIdleConnsPerHost: 16},
		ErrorLog:     log.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ModifyResponse: func(r *http.Response) error {
			f, _ := r.Request.Context().Value(faultKey{}).(*Fault)
			switch {
			case f == nil:
			case f.LoseAnswer:
				return errors.New("lost")
			case f.Answer != nil:
				f.Answer(r)
			}
			if f != nil && f.CutAnswer > 0 {
				r.Body = &cutBody{r.Body, f.CutAnswer}
			}
			return nil
		},
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := p.fault(r)
		if f == nil {
			reverse.ServeHTTP(w, r)
			return
		}
		if f.Delay > 0 {
			select {
			case <-time.After(f.Delay):
			case <-ended:
				panic(http.ErrAbortHandler)
			}
		}
		if f.Status != 0 {
			w.WriteHeader(f.Status)
			return
		}
		if f.CutRequest > 0 {
			r.Body = &cutBody{r.Body, f.CutRequest}
		}
		if f.BytesPerSec > 0 {
			r.Body = &slowBody{r.Body, f.BytesPerSec}
		}
		reverse.ServeHTTP(w, r.WithContext(contextWith(r.Context(), f)))
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(func() {
		close(ended)
		server.Close()
	})
	p.URL = server.URL
	return p
}

// Set replaces the faults.
func (p *Proxy) Set(faults ...*Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = faults
	p.log = nil
}

// Requests lists method and path of the requests since Set.
func (p *Proxy) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.log...)
}

// fault returns what goes wrong with a request, or nil.
func (p *Proxy) fault(r *http.Request) *Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = append(p.log, r.Method+" "+r.URL.RequestURI())
	for _, f := range p.faults {
		if f.Match != nil && !f.Match(r) {
			continue
		}
		n := int(f.seen.Add(1)) - 1
		if n >= f.After && (f.Times == 0 || n < f.After+f.Times) {
			return f
		}
	}
	return nil
}

// cutBody ends with an error after left bytes.
type cutBody struct {
	io.ReadCloser
	left int64
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errors.New("cut")
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// slowBody lets so many bytes pass in a second.
type slowBody struct {
	io.ReadCloser
	rate int64
}

func (s *slowBody) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p[:min(int64(len(p)), max(1, s.rate/50))])
	time.Sleep(time.Duration(float64(n) / float64(s.rate) * float64(time.Second)))
	return n, err
}

type faultKey struct{}

func contextWith(ctx context.Context, f *Fault) context.Context {
	return context.WithValue(ctx, faultKey{}, f)
}
