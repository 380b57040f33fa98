package hub_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/hub"
	"github.com/modelpipe/modelpipe/hub/hubtest"
)

// TestFaultsThatAreSurvived reads a whole file in order and at random through each fault: the bytes must be right.
func TestFaultsThatAreSurvived(t *testing.T) {
	content := tiny(13<<20 + 77)
	data := content["model.safetensors"].Data
	tests := []struct {
		name  string
		fault hubtest.Fault
		retry hub.Retry
	}{
		{name: "dropped connections", fault: hubtest.Fault{Stage: hubtest.CDN, DropAfter: 700_000}},
		{name: "dropped once at once", fault: hubtest.Fault{Stage: hubtest.CDN, DropAfter: 1, Times: 1}},
		{name: "dropped listing", fault: hubtest.Fault{Stage: hubtest.API, DropAfter: 10, Times: 2}},
		{name: "short ranges", fault: hubtest.Fault{Stage: hubtest.CDN, ShortRange: 300_000}},
		{name: "truncated bodies", fault: hubtest.Fault{Stage: hubtest.CDN, Truncate: 100_000, Skip: 1, Times: 3}},
		{name: "dropped without content length", fault: hubtest.Fault{Stage: hubtest.CDN, OmitLength: true, DropAfter: 900_000}},
		{name: "no content length", fault: hubtest.Fault{Stage: hubtest.CDN, OmitLength: true}},
		{name: "burst of 503", fault: hubtest.Fault{Status: 503, Times: 3}},
		{name: "burst of 500 at the CDN", fault: hubtest.Fault{Stage: hubtest.CDN, Status: 500, Times: 3}},
		{name: "429 with Retry-After", fault: hubtest.Fault{Stage: hubtest.Resolve, Status: 429, RetryAfter: "1", Times: 1}},
		{name: "429 with ratelimit", fault: hubtest.Fault{Stage: hubtest.API, Status: 429, Times: 1, Header: http.Header{"Ratelimit": {`"api";r=0;t=1`}}}},
		{name: "CDN forbids once", fault: hubtest.Fault{Stage: hubtest.CDN, Status: 403, Times: 1}},
		{name: "CDN does not know the file yet", fault: hubtest.Fault{Stage: hubtest.CDN, Status: 404, Times: 1}},
		{name: "range ignored", fault: hubtest.Fault{Stage: hubtest.CDN, IgnoreRange: true}},
		{name: "range ignored and dropped", fault: hubtest.Fault{Stage: hubtest.CDN, IgnoreRange: true, DropAfter: 9 << 20, Times: 3}},
		{name: "range ignored at times", fault: hubtest.Fault{Stage: hubtest.CDN, IgnoreRange: true, Skip: 2, Times: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv, c := serve(t, content)
			srv.Inject(tt.fault)
			s := snapshot(t, c, "org/tiny", "")
			f := open(t, s, "model.safetensors")
			if _, err := f.ReadAt(make([]byte, 8), 0); err != nil {
				t.Fatal(err)
			}
			got, err := readAll(f, 1<<20)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			p := make([]byte, 5000)
			if _, err := f.ReadAt(p, 6_000_000); err != nil || !bytes.Equal(p, data[6_000_000:][:5000]) {
				t.Errorf("step back: %v", err)
			}
			if err := s.Verify(context.Background()); err != nil {
				t.Error(err)
			}
			if srv.Struck() == 0 {
				t.Error("the fault never struck")
			}
		})
	}
}

// TestFaultsThatAreRefused: each ends in an error of the right kind that says enough, and never in wrong bytes.
func TestFaultsThatAreRefused(t *testing.T) {
	content := tiny(13 << 20)
	tests := []struct {
		name  string
		fault hubtest.Fault
		want  error
		text  string
	}{
		{"wrong content range", hubtest.Fault{Stage: hubtest.CDN, WrongRange: true}, hub.ErrProtocol, "Content-Range"},
		{"truncated for ever", hubtest.Fault{Stage: hubtest.CDN, Truncate: 10_000}, hub.ErrUnavailable, "middle of the body"},
		{"compressed", hubtest.Fault{Stage: hubtest.CDN, Encoding: "gzip"}, hub.ErrProtocol, `Content-Encoding "gzip"`},
		{"compressed listing", hubtest.Fault{Stage: hubtest.API, Encoding: "br"}, hub.ErrProtocol, "Content-Encoding"},
		{"redirect loop", hubtest.Fault{Stage: hubtest.Resolve, Redirect: "self"}, hub.ErrProtocol, "more than 10 redirects"},
		{"redirect to a file", hubtest.Fault{Stage: hubtest.Resolve, Redirect: "file:///etc/passwd"}, hub.ErrProtocol, `"file" URL`},
		{"server down", hubtest.Fault{Stage: hubtest.CDN, Status: 503}, hub.ErrUnavailable, "status 503"},
		{"listing down", hubtest.Fault{Stage: hubtest.API, Status: 502}, hub.ErrUnavailable, "gave up after 4 tries"},
		{"rate limited for long", hubtest.Fault{Stage: hubtest.API, Status: 429, RetryAfter: "3600"}, hub.ErrRateLimited, "pause of 1h0m0s"},
		{"CDN forbids for ever", hubtest.Fault{Stage: hubtest.CDN, Status: 403}, hub.ErrUnavailable, "status 403"},
		{"file gone", hubtest.Fault{Stage: hubtest.Resolve, Status: 404}, hub.ErrEntryNotFound, "status 404"},
		{"another commit", hubtest.Fault{Stage: hubtest.Resolve, WrongCommit: strings.Repeat("0", 40)}, hub.ErrMismatch, "served from commit 000"},
		{"another size", hubtest.Fault{Stage: hubtest.Resolve, WrongLinked: "5"}, hub.ErrMismatch, "X-Linked-Size is 5"},
		{"size of range unsatisfiable", hubtest.Fault{Stage: hubtest.CDN, Status: 416, Header: http.Header{"Content-Range": {"bytes */99"}}}, hub.ErrMismatch, "has 99 bytes"},
		{"teapot", hubtest.Fault{Stage: hubtest.CDN, Status: 418}, hub.ErrProtocol, "418"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv, c := serve(t, content)
			srv.Inject(tt.fault)
			s, err := c.Snapshot(t.Context(), "org/tiny", "")
			if err == nil {
				defer s.Close()
				_, err = readAll(open(t, s, "model.safetensors"), 1<<20)
			}
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), "org/tiny") {
				t.Errorf("got %v; want %v with %q", err, tt.want, tt.text)
			}
			if errors.Is(err, hub.ErrUnavailable) != errors.Is(tt.want, hub.ErrUnavailable) {
				t.Errorf("unavailable or not: %v", err)
			}
			for _, secret := range []string{token, "Signature="} {
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("the error shows %s: %v", secret, err)
				}
			}
		})
	}
}

func TestExpiredURLsAreAskedForAgain(t *testing.T) {
	content := tiny(30 << 20)
	srv, c := serve(t, content)
	s := snapshot(t, c, "org/tiny", "")
	f := open(t, s, "model.safetensors")
	var got []byte
	for off := 0; off < 30<<20; off += 1 << 20 {
		p := make([]byte, 1<<20)
		if _, err := f.ReadAt(p, int64(off)); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		got = append(got, p...)
		if off%(5<<20) == 0 {
			srv.ExpireURLs()
		}
	}
	if !bytes.Equal(got, content["model.safetensors"].Data) {
		t.Error("wrong bytes")
	}
	resolved := 0
	for _, r := range srv.Requests() {
		if r.Stage == hubtest.Resolve {
			resolved++
		}
	}
	if resolved < 2 {
		t.Errorf("resolved %d times", resolved)
	}
	if p := s.Unverified(); len(p) != 0 {
		t.Errorf("unverified: %v", p)
	}
}

func TestStalledConnectionIsDropped(t *testing.T) {
	content := tiny(3 << 20)
	for _, fault := range []hubtest.Fault{
		{Stage: hubtest.CDN, StallAfter: 100_000, Times: 2},
		{Stage: hubtest.CDN, Hang: true, Times: 2},
	} {
		srv, _ := serve(t, content)
		c := newClient(t, hub.Options{Endpoint: srv.URL, Stall: 400 * time.Millisecond})
		srv.Inject(fault)
		s := snapshot(t, c, "org/tiny", "")
		got, err := readAll(open(t, s, "model.safetensors"), 1<<20)
		if err != nil || !bytes.Equal(got, content["model.safetensors"].Data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

func TestSlowBodyIsNoStall(t *testing.T) {
	content := tiny(200_000)
	srv, _ := serve(t, content)
	c := newClient(t, hub.Options{Endpoint: srv.URL, Stall: time.Second})
	srv.Inject(hubtest.Fault{Stage: hubtest.CDN, BytesPerSec: 120_000})
	s := snapshot(t, c, "org/tiny", "")
	start := time.Now()
	if _, err := s.ReadFile("model.safetensors"); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d < 1300*time.Millisecond {
		t.Errorf("the body took %v: not slow", d)
	}
	if n := srv.BytesSent(hubtest.CDN); n != 200_000 {
		t.Errorf("%d bytes sent", n)
	}
}

func TestNobodyListens(t *testing.T) {
	c := newClient(t, hub.Options{Endpoint: "http://127.0.0.1:9", Token: token})
	_, err := c.Snapshot(t.Context(), "org/tiny", "")
	if !errors.Is(err, hub.ErrUnavailable) || !strings.Contains(err.Error(), "check the network") {
		t.Errorf("%v", err)
	}
}

func TestContextEndsReads(t *testing.T) {
	srv, c := serve(t, tiny(5<<20))
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Snapshot(ctx, "org/tiny", "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	srv.Inject(hubtest.Fault{Stage: hubtest.CDN, Hang: true})
	time.AfterFunc(50*time.Millisecond, cancel)
	start := time.Now()
	_, err = s.ReadFile("model.safetensors")
	if !errors.Is(err, context.Canceled) || errors.Is(err, hub.ErrUnavailable) || time.Since(start) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	// A pause that the server asked for ends with the context, too.
	srv2, c2 := serve(t, tiny(10))
	srv2.Inject(hubtest.Fault{Status: 429, RetryAfter: "2"})
	ctx2, cancel2 := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel2()
	if _, err := c2.Snapshot(ctx2, "org/tiny", ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	srv, c := serve(t, tiny(40<<20))
	srv.SetLatency(20 * time.Millisecond)
	s := snapshot(t, c, "org/tiny", "")
	f := open(t, s, "model.safetensors")
	for i := range int64(6) {
		if _, err := f.ReadAt(make([]byte, 1<<20), i<<20); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("read from a closed snapshot")
	}
	if _, err := s.Open("config.json"); err == nil {
		t.Error("open in a closed snapshot")
	}
	srv.Close()
	for range 100 {
		if runtime.NumGoroutine() <= before+2 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	buf := make([]byte, 1<<16)
	t.Errorf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
}

// TestErrorsSayWhatToDo: each refusal of the Hub names its cause and the way out.
func TestErrorsSayWhatToDo(t *testing.T) {
	srv := hubtest.NewServer(t)
	srv.AddToken("hf_stranger")
	srv.AddRepo(hubtest.Repo{ID: "org/open", FS: tiny(10)})
	srv.AddRepo(hubtest.Repo{ID: "org/gated", FS: tiny(10), Gated: true, Tokens: []string{token}})
	srv.AddRepo(hubtest.Repo{ID: "org/private", FS: tiny(10), Private: true, Tokens: []string{token}})
	tests := []struct {
		name, token, repo, rev string
		want                   error
		text                   string
	}{
		{"open", "", "org/open", "", nil, ""},
		{"gated with token", token, "org/gated", "", nil, ""},
		{"private with token", token, "org/private", "", nil, ""},
		{"gated without token", "", "org/gated", "", hub.ErrGated, "accept the licence at " + srv.URL + "/org/gated, then set HF_TOKEN"},
		{"gated, not on the list", "hf_stranger", "org/gated", "", hub.ErrGated, "not on the access list: ask for access at " + srv.URL + "/org/gated"},
		{"private without token", "", "org/private", "", hub.ErrRepoNotFound, "if the repository is private, set HF_TOKEN"},
		{"private for a stranger", "hf_stranger", "org/private", "", hub.ErrRepoNotFound, "RepoNotFound"},
		{"missing without token", "", "org/nothing", "", hub.ErrRepoNotFound, "check the name"},
		{"missing with token", "hf_stranger", "org/nothing", "", hub.ErrRepoNotFound, "check the name"},
		{"wrong token", "hf_wrong", "org/open", "", hub.ErrUnauthorized, "the token (HF_TOKEN) was not accepted"},
		{"missing revision", "", "org/open", "v9", hub.ErrRevisionNotFound, "Invalid rev id: v9"},
		{"missing commit", "", "org/open", strings.Repeat("a", 40), hub.ErrRevisionNotFound, "RevisionNotFound"},
		{"bad name", "", "org//open", "", nil, "want org/name"},
		{"bad revision", "", "org/open", "a b", nil, "not allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var logged bytes.Buffer
			c := newClient(t, hub.Options{
				Endpoint: srv.URL, Token: hub.Token(tt.token), TokenFrom: "HF_TOKEN",
				Log: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
			})
			s, err := c.Snapshot(t.Context(), tt.repo, tt.rev)
			if err == nil {
				defer s.Close()
				_, err = s.ReadFile("model.safetensors")
			}
			if tt.text == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("got %v\nwant %v with %q", err, tt.want, tt.text)
			}
			var e *hub.Error
			if tt.want != nil && (!errors.As(err, &e) || e.RequestID == "") {
				t.Errorf("no request id: %v", err)
			}
			if tt.token != "" && strings.Contains(err.Error()+logged.String(), tt.token) {
				t.Errorf("token shown: %v\n%s", err, &logged)
			}
		})
	}
}

// TestErrorsWithoutCodes: a mirror that leaves X-Error-Code out still gets errors that help.
func TestErrorsWithoutCodes(t *testing.T) {
	srv := hubtest.NewServer(t)
	srv.SetOmitCodes(true)
	srv.AddToken("hf_stranger")
	srv.AddRepo(hubtest.Repo{ID: "org/gated", FS: tiny(10), Gated: true, Tokens: []string{token}})
	tests := []struct {
		token, repo, rev string
		want             error
		text             string
	}{
		{"", "org/gated", "", hub.ErrUnauthorized, "set HF_TOKEN to a token from " + srv.URL + "/settings/tokens, and accept the licence at " + srv.URL + "/org/gated"},
		{"hf_stranger", "org/gated", "", hub.ErrUnauthorized, "lacks the permission"},
		{"", "org/none", "", hub.ErrRepoNotFound, "set HF_TOKEN"},
		{"hf_stranger", "org/none", "", hub.ErrRepoNotFound, "check the name and the revision"},
		{"", "org/gated", "v9", hub.ErrRepoNotFound, "check the name and the revision"},
	}
	for _, tt := range tests {
		c := newClient(t, hub.Options{Endpoint: srv.URL, Token: hub.Token(tt.token)})
		s, err := c.Snapshot(t.Context(), tt.repo, tt.rev)
		if err == nil {
			_, err = s.ReadFile("model.safetensors")
			s.Close()
		}
		if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s@%s with %q: %v", tt.repo, tt.rev, tt.token, err)
		}
	}
}

// TestServerTextIsTamed: what a server says reaches the terminal without control characters and without our token.
func TestServerTextIsTamed(t *testing.T) {
	srv, c := serve(t, tiny(10))
	srv.Inject(hubtest.Fault{Stage: hubtest.API, Status: 400, Header: http.Header{"X-Error-Code": {"Bad " + token}}})
	_, err := c.Snapshot(t.Context(), "org/tiny", "")
	if err == nil || strings.Contains(err.Error(), token) || !strings.Contains(err.Error(), "Bad ***") {
		t.Errorf("%v", err)
	}
}

func TestTokenStaysOnTheHub(t *testing.T) {
	other := hubtest.NewServer(t) // another Hub is another host, too
	srv, c := serve(t, tiny(1<<20))
	other.AddRepo(hubtest.Repo{ID: "org/tiny", FS: tiny(1 << 20)})

	s := snapshot(t, c, "org/tiny", "")
	if _, err := s.ReadFile("model.safetensors"); err != nil {
		t.Fatal(err)
	}
	seen := false
	for _, r := range srv.Requests() {
		seen = seen || r.Stage == hubtest.Resolve && r.Header.Get("Authorization") == "Bearer "+token
	}
	if !seen {
		t.Error("the Hub did not get the token")
	}

	// A redirect to another host that leads back: no token there, and none after the return.
	s2 := snapshot(t, c, "org/tiny", "")
	srv.ResetLog()
	back := srv.URL + "/org/tiny/resolve/" + s.Commit() + "/model.safetensors?back"
	other.Inject(hubtest.Fault{Redirect: back})
	srv.Inject(hubtest.Fault{Stage: hubtest.Resolve, Times: 1, Redirect: other.URL + "/away"})
	if _, err := s2.ReadFile("model.safetensors"); err != nil {
		t.Fatal(err)
	}
	for _, r := range other.Requests() {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("token sent to another host: %s", r.URL)
		}
	}
	returned := false
	for _, r := range srv.Requests() {
		if strings.HasSuffix(r.URL, "?back") {
			returned = true
			if r.Header.Get("Authorization") != "" {
				t.Error("token sent after the redirect had left the Hub")
			}
		}
	}
	if !returned {
		t.Error("the redirect did not lead back")
	}

	// The listing's next page is a Hub's page or none.
	srv.SetBareListing(true)
	srv.Inject(hubtest.Fault{Stage: hubtest.API, Skip: 1, Header: http.Header{"Link": {"<" + other.URL + `/next>; rel="next"`}}})
	if _, err := c.Snapshot(t.Context(), "org/tiny", ""); !errors.Is(err, hub.ErrProtocol) {
		t.Errorf("listing that goes on elsewhere: %v", err)
	}
}

// TestNoMemoryToReadAhead: reads in order work, and are verified, with less memory than a block.
func TestNoMemoryToReadAhead(t *testing.T) {
	content := tiny(9 << 20)
	srv, _ := serve(t, content)
	c := newClient(t, hub.Options{Endpoint: srv.URL, Memory: 10_000})
	s := snapshot(t, c, "org/tiny", "")
	got, err := readAll(open(t, s, "model.safetensors"), 1<<20)
	if err != nil || !bytes.Equal(got, content["model.safetensors"].Data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if p := s.Unverified(); len(p) != 0 || c.PeakMemory() > 10_000 || srv.BytesSent(hubtest.CDN) != 9<<20 {
		t.Errorf("unverified %v, peak %d, sent %d", p, c.PeakMemory(), srv.BytesSent(hubtest.CDN))
	}
}

func TestMemoryIsBounded(t *testing.T) {
	const limit = 16 << 20
	content := tiny(48 << 20)
	content["second.safetensors"] = content["model.safetensors"]
	srv, _ := serve(t, content)
	c := newClient(t, hub.Options{Endpoint: srv.URL, Memory: limit})
	s := snapshot(t, c, "org/tiny", "")
	a, b := open(t, s, "model.safetensors"), open(t, s, "second.safetensors")
	p := make([]byte, 1<<20)
	for off := int64(0); off < a.Size(); off += int64(len(p)) {
		for _, f := range []hub.File{a, b} {
			if _, err := f.ReadAt(p, off); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			if !bytes.Equal(p, content["model.safetensors"].Data[off:off+int64(len(p))]) {
				t.Fatalf("wrong bytes at %d", off)
			}
		}
	}
	if peak := c.PeakMemory(); peak > limit || peak < limit/4 {
		t.Errorf("peak of %d bytes, limit %d", peak, limit)
	}
	if p := s.Unverified(); len(p) != 0 {
		t.Errorf("unverified: %v", p)
	}
	if n := srv.BytesSent(hubtest.CDN); n > 2*a.Size()+1<<20 {
		t.Errorf("%d bytes sent for two files of %d", n, a.Size())
	}
}
