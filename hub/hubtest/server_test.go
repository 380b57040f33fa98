package hubtest

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

var weights = strings.Repeat("0123456789", 1000)

// get returns the status, headers and body of a GET that follows no redirect.
func get(t *testing.T, url string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp, string(body)
}

// server has org/m, and is not one of NewServer, which fails a test that leaks on purpose.
func server(t *testing.T) *Server {
	t.Helper()
	s, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.AddRepo(Repo{ID: "org/m", FS: fstest.MapFS{
		"a/config.json": {Data: []byte("{}")}, "w.safetensors": {Data: []byte(weights)},
	}})
	return s
}

func TestLargeFilesAreSigned(t *testing.T) {
	s := server(t)
	resp, _ := get(t, s.URL+"/org/m/resolve/main/w.safetensors")
	location := resp.Header.Get("Location")
	if resp.StatusCode != 302 || !strings.HasPrefix(location, s.CDN) || resp.Header.Get("X-Linked-Size") != "10000" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	if resp, body := get(t, location, "Range", "bytes=5-8"); resp.StatusCode != 206 || body != "5678" || resp.Header.Get("Content-Range") != "bytes 5-8/10000" {
		t.Errorf("%d %q %v", resp.StatusCode, body, resp.Header)
	}
	if resp, _ := get(t, strings.Replace(location, "Signature=", "Signature=0", 1)); resp.StatusCode != 403 {
		t.Errorf("wrong signature: %d", resp.StatusCode)
	}
	s.ExpireURLs()
	if resp, _ := get(t, location); resp.StatusCode != 403 {
		t.Errorf("expired: %d", resp.StatusCode)
	}
	s.SetURLTTL(-time.Second)
	resp, _ = get(t, s.URL+"/org/m/resolve/main/w.safetensors")
	if resp, _ := get(t, resp.Header.Get("Location")); resp.StatusCode != 403 {
		t.Errorf("out of time: %d", resp.StatusCode)
	}
}

func TestSmallFilesAreRelative(t *testing.T) {
	s := server(t)
	resp, _ := get(t, s.URL+"/org/m/resolve/main/a/config.json")
	location := resp.Header.Get("Location")
	if resp.StatusCode != 307 || !strings.HasPrefix(location, "/api/resolve-cache/models/org/m/") || resp.Header.Get("X-Linked-Size") != "" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	if resp, body := get(t, s.URL+location); resp.StatusCode != 200 || body != "{}" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}

func TestLeaksAreSeen(t *testing.T) {
	s := server(t)
	get(t, s.URL+"/org/m/resolve/main/w.safetensors", "Authorization", "Bearer hf_x")
	if leaks := s.TokenLeaks(); len(leaks) != 0 {
		t.Errorf("leaks to the Hub itself: %v", leaks)
	}
	get(t, s.CDN+"/org/m/x/w.safetensors", "Authorization", "Bearer hf_x")
	if leaks := s.TokenLeaks(); len(leaks) != 1 {
		t.Errorf("leaks: %v", leaks)
	}
	if n := len(s.Requests()); n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestFaultsAreCounted(t *testing.T) {
	s := server(t)
	remove := s.Inject(Fault{Stage: API, Skip: 1, Times: 2, Status: 503, RetryAfter: "9"})
	var got []int
	for range 5 {
		resp, _ := get(t, s.URL+"/api/models/org/m")
		got = append(got, resp.StatusCode)
	}
	if want := [5]int{200, 503, 503, 200, 200}; [5]int(got) != want || s.Struck() != 2 {
		t.Errorf("%v, want %v; struck %d", got, want, s.Struck())
	}
	remove()
	if s.Struck() != 0 {
		t.Error("the fault is still on")
	}
}

func TestBandwidthIsLimited(t *testing.T) {
	s := server(t)
	s.SetBandwidth(100_000)
	resp, _ := get(t, s.URL+"/org/m/resolve/main/w.safetensors")
	start := time.Now()
	get(t, resp.Header.Get("Location"))
	if d := time.Since(start); d < 60*time.Millisecond {
		t.Errorf("10 kB in %v at 100 kB/s", d)
	}
}

func TestParseRange(t *testing.T) {
	tests := []struct {
		in         string
		first, end int64
		ranged, ok bool
	}{
		{"", 0, 10, false, true},
		{"bytes=0-3", 0, 4, true, true},
		{"bytes=3-", 3, 10, true, true},
		{"bytes=3-99", 3, 10, true, true},
		{"bytes=-4", 6, 10, true, true},
		{"bytes=10-", 0, 0, true, false},
		{"bytes=5-3", 0, 10, false, true},
		{"bytes=0-1,3-4", 0, 10, false, true},
	}
	for _, tt := range tests {
		first, end, ranged, ok := parseRange(tt.in, 10)
		if first != tt.first || end != tt.end || ranged != tt.ranged || ok != tt.ok {
			t.Errorf("%q: %d-%d %v %v", tt.in, first, end, ranged, ok)
		}
	}
}
