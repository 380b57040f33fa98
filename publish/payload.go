package publish

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
)

// payload is the bytes of a request that are used again when it is over. Net/http
// may still read a request's body after it has answered with an error; stop
// sees to it that it reads nothing any more.
type payload struct {
	mu      sync.Mutex
	stopped bool
	data    []byte
}

func (p *payload) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
}

// reader returns a reader of all bytes, which can seek.
func (p *payload) reader() *payloadReader {
	return &payloadReader{p, bytes.NewReader(p.data)}
}

// body makes the bytes the body of a request.
func (p *payload) body(req *http.Request) {
	req.ContentLength = int64(len(p.data))
	if len(p.data) == 0 {
		req.Body = http.NoBody
		return
	}
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(p.reader()), nil }
	req.Body, _ = req.GetBody()
}

type payloadReader struct {
	p *payload
	r *bytes.Reader
}

func (r *payloadReader) Read(b []byte) (int, error) {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	if r.p.stopped {
		return 0, errors.New("the request is over")
	}
	return r.r.Read(b)
}

func (r *payloadReader) Seek(offset int64, whence int) (int64, error) {
	return r.r.Seek(offset, whence)
}
