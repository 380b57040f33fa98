package hubtest

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Request is one that the server saw.
type Request struct {
	Stage  Stage
	Method string
	URL    string // path and query
	Header http.Header
	Status int   // what was answered; 0 if nothing was yet
	Bytes  int64 // of the body that were sent
}

// A Fault makes answers go wrong. Fields that are zero do nothing; several may be set.
type Fault struct {
	Stage Stage  // which requests: of this stage,
	Path  string // whose file or path ends with a match of this path.Match pattern; empty: all
	Skip  int    // but not the first so many,
	Times int    // and then so many; 0: all

	Status     int           // answer with this status
	RetryAfter string        // and this Retry-After header
	Header     http.Header   // and these headers (also on good answers)
	Delay      time.Duration // wait so long before answering
	Hang       bool          // never answer
	Redirect   string        // answer 302 to this URL; "self" for a loop

	// Of the answers that carry a file's bytes:
	IgnoreRange  bool    // 200 and the whole file
	WrongRange   bool    // a Content-Range, and bytes, other than what was asked for
	ShortRange   int64   // 206 with only the first so many bytes of what was asked for
	DropAfter    int64   // cut the connection after so many bytes of the body
	Truncate     int64   // end the body, as if it were complete, so many bytes early
	Corrupt      bool    // flip a bit of the byte in the middle of what is sent
	CorruptAt    int64   // flip a bit of the byte at this offset of the file, if it is sent; 0: none
	BytesPerSec  float64 // send no faster
	Encoding     string  // pretend that the body has this Content-Encoding
	OmitLength   bool    // chunked, without Content-Length
	StallAfter   int64   // stop sending after so many bytes, keeping the connection open
	WrongCommit  string  // X-Repo-Commit
	WrongLinked  string  // X-Linked-Size
	seen, struck int
}

// Inject switches a fault on and returns the function that switches it off. Of several that match, the first is taken.
func (s *Server) Inject(f Fault) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &f
	s.faults = append(s.faults, p)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, q := range s.faults {
			if q == p {
				s.faults = append(s.faults[:i], s.faults[i+1:]...)
				return
			}
		}
	}
}

// Struck is how many answers went wrong so far because of the faults that are switched on.
func (s *Server) Struck() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, f := range s.faults {
		n += f.struck
	}
	return n
}

// fault picks the fault for a request.
func (s *Server) fault(stage Stage, urlPath string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		if f.Stage != Any && f.Stage != stage {
			continue
		}
		if ok, _ := path.Match(f.Path, path.Base(urlPath)); f.Path != "" && !ok {
			continue
		}
		f.seen++
		if f.seen <= f.Skip || f.Times > 0 && f.struck >= f.Times {
			continue
		}
		f.struck++
		return *f
	}
	return Fault{}
}

// Requests is what the server saw so far, in the order of arrival.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Request, len(s.requests))
	for i, r := range s.requests {
		out[i] = *r
	}
	return out
}

// ResetLog forgets the requests.
func (s *Server) ResetLog() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
}

// BytesSent is how many body bytes were sent by a stage; Any means all of them.
func (s *Server) BytesSent(stage Stage) int64 {
	var n int64
	for _, r := range s.Requests() {
		if stage == Any || stage == r.Stage {
			n += r.Bytes
		}
	}
	return n
}

// TokenLeaks lists the requests to the CDN that carried an Authorization or Cookie header.
func (s *Server) TokenLeaks() []string {
	var out []string
	for _, r := range s.Requests() {
		if r.Stage == CDN && (r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "") {
			out = append(out, fmt.Sprintf("%s %s to the CDN", r.Method, r.URL))
		}
	}
	return out
}

// answer is a response with the fault that was picked for it. It counts what it sends.
type answer struct {
	http.ResponseWriter
	s     *Server
	fault Fault
	log   *Request // guarded by s.mu
}

func (a *answer) WriteHeader(status int) {
	a.s.mu.Lock()
	a.log.Status = status
	a.s.mu.Unlock()
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	// Counted first: who has received the bytes finds them in the log.
	a.s.mu.Lock()
	if a.log.Status == 0 {
		a.log.Status = http.StatusOK
	}
	a.log.Bytes += int64(len(p))
	a.s.mu.Unlock()
	return a.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// serve does what all stages have in common: the log, latency, and faults of the status line.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, stage Stage, handle func(http.ResponseWriter)) {
	a := &answer{ResponseWriter: w, s: s, fault: s.fault(stage, r.URL.Path)}
	a.log = &Request{Stage: stage, Method: r.Method, URL: r.URL.RequestURI(), Header: r.Header.Clone()}
	s.mu.Lock()
	s.requests = append(s.requests, a.log)
	wait := s.latency + a.fault.Delay
	s.mu.Unlock()
	if a.fault.Hang {
		wait = time.Hour
	}
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("X-Request-Id", fmt.Sprintf("Root=1-hubtest-%p", a))
	for k, v := range a.fault.Header {
		w.Header()[k] = v
	}
	if a.fault.RetryAfter != "" {
		w.Header().Set("Retry-After", a.fault.RetryAfter)
	}
	switch {
	case a.fault.Redirect == "self":
		w.Header().Set("Location", r.URL.RequestURI())
		a.WriteHeader(http.StatusFound)
	case a.fault.Redirect != "":
		w.Header().Set("Location", a.fault.Redirect)
		a.WriteHeader(http.StatusFound)
	case a.fault.Status != 0:
		s.refuse(a, a.fault.Status, "", http.StatusText(a.fault.Status))
	case stage == API || stage == Resolve:
		s.plain(a, r, handle)
	default:
		handle(a)
	}
}

// plain applies the faults of bodies to answers that are no file: API listings and redirects.
func (s *Server) plain(a *answer, r *http.Request, handle func(http.ResponseWriter)) {
	rec := &recorder{header: a.Header(), status: http.StatusOK}
	handle(rec)
	if a.fault.WrongCommit != "" {
		a.Header().Set("X-Repo-Commit", a.fault.WrongCommit)
	}
	if a.fault.WrongLinked != "" {
		a.Header().Set("X-Linked-Size", a.fault.WrongLinked)
	}
	if a.fault.Encoding != "" {
		a.Header().Set("Content-Encoding", a.fault.Encoding)
	}
	a.WriteHeader(rec.status)
	if r.Method == http.MethodHead {
		return
	}
	body := rec.body.Bytes()
	if n := a.fault.DropAfter; n > 0 && n < int64(len(body)) {
		a.Write(body[:n])
		a.hangUp()
	}
	s.link.wait(len(body))
	a.Write(body)
}

// recorder holds an answer back.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }

// hangUp ends the answer by closing its connection.
func (a *answer) hangUp() {
	http.NewResponseController(a).Flush()
	panic(http.ErrAbortHandler)
}

// content serves a file's bytes, with Range.
func (s *Server) content(w http.ResponseWriter, r *http.Request, stage Stage, f *file) {
	a := w.(*answer)
	src, closeSrc, err := open(f)
	if err != nil {
		s.refuse(w, http.StatusInternalServerError, "", err.Error())
		return
	}
	defer closeSrc()

	first, end, ranged, ok := parseRange(r.Header.Get("Range"), f.size)
	if a.fault.IgnoreRange {
		first, end, ranged, ok = 0, f.size, false, true
	}
	h := w.Header()
	if !a.fault.IgnoreRange {
		h.Set("Accept-Ranges", "bytes")
	}
	if !ok {
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", f.size))
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	status := http.StatusOK
	if n := a.fault.ShortRange; n > 0 && ranged {
		end = min(end, first+n)
	}
	if ranged {
		status = http.StatusPartialContent
		if a.fault.WrongRange {
			if first > 0 {
				first--
				end--
			} else if end < f.size {
				first++
				end++
			}
		}
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, end-1, f.size))
	}
	end = max(end-a.fault.Truncate, first)
	if a.fault.Encoding != "" {
		h.Set("Content-Encoding", a.fault.Encoding)
	}
	h.Set("Content-Type", "binary/octet-stream")
	if !a.fault.OmitLength && a.fault.Truncate == 0 {
		h.Set("Content-Length", strconv.FormatInt(end-first, 10))
	}
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	s.copy(a, r, src, first, end)
}

// copy sends [first, end) of src, at the link's speed, with the faults of bodies.
func (s *Server) copy(a *answer, r *http.Request, src io.ReaderAt, first, end int64) {
	corrupt := a.fault.CorruptAt
	if a.fault.Corrupt {
		corrupt = (first + end) / 2
	}
	own := &link{}
	own.set(a.fault.BytesPerSec)
	buf := make([]byte, 64<<10)
	if a.fault.BytesPerSec > 0 {
		buf = buf[:max(1, min(len(buf), int(a.fault.BytesPerSec/20)))]
	}
	stopAt := int64(-1)
	if n := max(a.fault.DropAfter, a.fault.StallAfter); n > 0 && n < end-first {
		stopAt = first + n
	}
	for at := first; at < end; {
		n := min(int64(len(buf)), end-at)
		if stopAt >= 0 {
			n = min(n, stopAt-at)
		}
		p := buf[:n]
		if k, err := src.ReadAt(p, at); int64(k) < n {
			panic(fmt.Sprintf("hubtest: read %d bytes at %d: %v", n, at, err))
		}
		if corrupt > 0 && at <= corrupt && corrupt < at+n {
			p[corrupt-at] ^= 0x10
		}
		s.link.wait(len(p))
		own.wait(len(p))
		if _, err := a.Write(p); err != nil {
			return
		}
		at += n
		if at == stopAt {
			if a.fault.StallAfter > 0 {
				http.NewResponseController(a).Flush()
				<-r.Context().Done()
				return
			}
			a.hangUp()
		}
	}
}

func open(f *file) (io.ReaderAt, func(), error) {
	opened, err := f.fsys.Open(f.path)
	if err != nil {
		return nil, nil, err
	}
	if ra, ok := opened.(io.ReaderAt); ok {
		return ra, func() { opened.Close() }, nil
	}
	opened.Close()
	data, err := fs.ReadFile(f.fsys, f.path)
	return bytes.NewReader(data), func() {}, err
}

// parseRange reads "bytes=a-b", "bytes=a-" and "bytes=-n"; ok is false for one that lies past the end.
func parseRange(s string, size int64) (first, end int64, ranged, ok bool) {
	spec, found := strings.CutPrefix(s, "bytes=")
	if !found || strings.Contains(spec, ",") {
		return 0, size, false, true
	}
	a, b, _ := strings.Cut(spec, "-")
	if a == "" {
		n, err := strconv.ParseInt(b, 10, 64)
		if err != nil || n <= 0 {
			return 0, size, false, true
		}
		return max(0, size-n), size, true, true
	}
	first, err := strconv.ParseInt(a, 10, 64)
	if err != nil || first < 0 {
		return 0, size, false, true
	}
	if first >= size {
		return 0, 0, true, false
	}
	end = size
	if b != "" {
		last, err := strconv.ParseInt(b, 10, 64)
		if err != nil || last < first {
			return 0, size, false, true
		}
		end = min(size, last+1)
	}
	return first, end, true, true
}

// link is a line of limited speed that all answers share.
type link struct {
	mu   sync.Mutex
	rate float64   // bytes per second; 0: no limit
	free time.Time // when the line has sent what was given to it
}

func (l *link) set(rate float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate, l.free = rate, time.Time{}
}

// credit is how long a line that was idle may catch up: what sleeping overshoots on a busy machine is not lost.
const credit = 10 * time.Millisecond

// wait takes n bytes' time on the line. It sleeps only for more than a few milliseconds of debt, which sleeping is
// precise enough for.
func (l *link) wait(n int) {
	l.mu.Lock()
	if l.rate <= 0 {
		l.mu.Unlock()
		return
	}
	now := time.Now()
	if idle := now.Add(-credit); l.free.Before(idle) {
		l.free = idle
	}
	l.free = l.free.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	debt := l.free.Sub(now)
	l.mu.Unlock()
	if debt > 4*time.Millisecond {
		time.Sleep(debt)
	}
}
