package publishtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/publish"
)

// writes says whether a request carries content of a file.
func writes(r *http.Request) bool {
	return r.Method == http.MethodPatch || r.Method == http.MethodPut && r.ContentLength >= 1<<20
}

// finishes says whether a request makes an upload complete.
func finishes(r *http.Request) bool {
	q := r.URL.Query()
	return r.Method == http.MethodPut && q.Has("digest") || r.Method == http.MethodPost && q.Has("uploadId") || r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/")
}

func begins(r *http.Request) bool { return r.Method == http.MethodPost && !finishes(r) }

// runFaults runs what only a server can do wrong.
func runFaults(t *testing.T, open func(testing.TB) *Target) {
	data := bytesOf(1, manyParts)
	// They wait more than they work: more of them at a time than processors.
	var wg sync.WaitGroup
	defer wg.Wait()
	run := func(name string, f func(*testing.T)) { wg.Go(func() { t.Run(name, f) }) }
	// Those that pass: the artifact is published all the same.
	for name, fault := range map[string]*Fault{
		"500 once":                {Status: 500, Times: 1},
		"500 at a part":           {Match: writes, Status: 500, After: 1, Times: 2},
		"503 at the end":          {Match: finishes, Status: 503, Times: 1},
		"429 at the beginning":    {Match: begins, Status: 429, Times: 1},
		"502 while reading back":  {Match: reads, Status: 502, Times: 1},
		"cut part":                {Match: writes, CutRequest: 3 << 20, After: 1, Times: 2},
		"lost answer to a part":   {Match: writes, LoseAnswer: true, Times: 1},
		"lost answer at the end":  {Match: finishes, LoseAnswer: true, Times: 1},
		"lost answer, beginning":  {Match: begins, LoseAnswer: true, Times: 1},
		"cut while reading back":  {Match: reads, CutAnswer: 7 << 20, Times: 2},
		"slow":                    {Delay: 20 * time.Millisecond},
		"slow while parts arrive": {Match: writes, BytesPerSec: 20 << 20},
	} {
		run(name, func(t *testing.T) {
			to := open(t)
			to.Proxy.Set(fault)
			published(t, to.Open(t), model("m.gguf", data), publish.Options{PartSize: partSize})
			if fault.seen.Load() == 0 {
				t.Fatalf("the fault did not happen: %v", to.Proxy.Requests())
			}
			to.Proxy.Set()
			has(t, to.Open(t), "m.gguf", data)
			for _, r := range abandonedRests(t, to) {
				// An upload whose beginning was not heard of is left.
				if !strings.HasSuffix(name, "beginning") && name != "500 once" {
					t.Errorf("abandoned: %+v", r)
				}
			}
		})
	}
	// Those that do not pass.
	for name, c := range map[string]struct {
		fault *Fault
		kind  error
	}{
		"forbidden":             {&Fault{Status: 403}, publish.ErrRefused},
		"unauthorized":          {&Fault{Status: 401}, publish.ErrRefused},
		"forbidden part":        {&Fault{Match: writes, Status: 403, After: 1}, publish.ErrRefused},
		"always 503":            {&Fault{Match: writes, Status: 503, After: 1}, publish.ErrUnavailable},
		"always cut":            {&Fault{Match: writes, CutRequest: 1 << 20, After: 1}, publish.ErrUnavailable},
		"shorter than sent":     {&Fault{Match: reads, Answer: announce(manyParts - 1)}, publish.ErrMismatch},
		"longer than sent":      {&Fault{Match: reads, Answer: announce(manyParts + 1)}, publish.ErrMismatch},
		"parts as of any size":  {&Fault{Match: writes, Answer: lie}, nil},
		"endless answer":        {&Fault{Match: begins, Answer: endless}, nil},
		"answer that is no XML": {&Fault{Match: begins, Answer: garbage}, nil},
	} {
		run(name, func(t *testing.T) {
			to := open(t)
			s := to.Open(t)
			to.Proxy.Set(c.fault)
			_, err := s.Publish(t.Context(), model("m.gguf", data), publish.Options{PartSize: partSize})
			if err == nil && (c.kind == nil || c.fault.CutRequest > 0) {
				// A lie that changes nothing, or a server that keeps what
				// arrived before a cut.
				to.Proxy.Set()
				has(t, to.Open(t), "m.gguf", data)
				return
			}
			fails(t, err, c.kind)
			// What is under way at once may be refused, nothing of it twice.
			if n := c.fault.seen.Load(); errors.Is(c.kind, publish.ErrRefused) && n > int64(c.fault.After)+5 {
				t.Errorf("asked %d times", n)
			}
			to.Proxy.Set()
			missing(t, to.Open(t), "m.gguf")
			if c.kind == publish.ErrUnavailable {
				r := published(t, to.Open(t), model("m.gguf", data), publish.Options{PartSize: partSize, Resume: true})
				if r.Files[0].Resumed == 0 {
					t.Error("what had arrived was not used")
				}
				has(t, to.Open(t), "m.gguf", data)
				clean(t, to.Open(t))
			}
		})
	}
	run("stopped while slow", func(t *testing.T) {
		to := open(t)
		to.Proxy.Set(&Fault{Match: writes, Delay: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := to.Open(t).Publish(ctx, model("m.gguf", data), publish.Options{PartSize: partSize})
		fails(t, err, nil)
		if time.Since(start) > 15*time.Second {
			t.Errorf("took %v to stop", time.Since(start))
		}
		to.Proxy.Set()
		missing(t, to.Open(t), "m.gguf")
	})
}

func abandonedRests(t *testing.T, to *Target) []publish.Rest {
	t.Helper()
	rests, err := to.Open(t).Abandoned(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return rests
}

// announce lets a server announce another length than what it sends.
func announce(n int64) func(*http.Response) {
	return func(r *http.Response) {
		if r.ContentLength != manyParts {
			return
		}
		r.ContentLength = n
		r.Header.Set("Content-Length", strconv.FormatInt(n, 10))
	}
}

// lie names sizes and checksums of what was not sent.
func lie(r *http.Response) {
	if r.Header.Get("Range") != "" {
		r.Header.Set("Range", "0-9999999999999999999")
	}
	if r.Header.Get("X-Amz-Checksum-Crc64nvme") != "" {
		r.Header.Set("X-Amz-Checksum-Crc64nvme", "AAAAAAAAAAA=")
	}
}

func endless(r *http.Response) {
	r.ContentLength = -1
	r.Header.Del("Content-Length")
	r.Header.Del("Location")
	r.Body = &zeros{}
}

type zeros struct{ n int64 }

func (z *zeros) Read(p []byte) (int, error) {
	z.n += int64(len(p))
	if z.n > 1<<30 {
		return 0, errors.New("a gigabyte was read")
	}
	copy(p, bytes.Repeat([]byte(" "), len(p)))
	return len(p), nil
}

func (z *zeros) Close() error { return nil }

func garbage(r *http.Response) {
	r.Header.Set("Location", "ftp://elsewhere/\x7f")
	r.Body.Close()
	const text = "<a><b>&nbsp;"
	r.ContentLength = int64(len(text))
	r.Header.Set("Content-Length", strconv.Itoa(len(text)))
	r.Body = io.NopCloser(strings.NewReader(text))
}
