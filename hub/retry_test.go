package hub

import (
	"net/http"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := []struct {
		header, value string
		want          time.Duration
	}{
		{"Retry-After", "7", 7 * time.Second},
		{"Retry-After", "Fri, 02 Jan 2026 03:04:35 GMT", 30 * time.Second},
		{"Retry-After", "Fri, 02 Jan 2026 03:00:00 GMT", 0},
		{"Retry-After", "-7", 0},
		{"Retry-After", "soon", 0},
		{"Retry-After", "99999999999999", 30 * 24 * time.Hour},
		{"ratelimit", `"api";r=0;t=55`, 55 * time.Second},
		{"ratelimit", `"api";r=3;t=55`, 0},
		{"ratelimit", `"api";r=3;t=55, "resolvers"; r=0; t=12`, 12 * time.Second},
		{"ratelimit", `"api";r=0`, 0},
		{"ratelimit", `nonsense`, 0},
	}
	for _, tt := range tests {
		h := http.Header{}
		h.Set(tt.header, tt.value)
		if got := retryAfter(h, now); got != tt.want {
			t.Errorf("%s: %s: %v, want %v", tt.header, tt.value, got, tt.want)
		}
	}
}

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	r := Retry{Base: 100 * time.Millisecond, Cap: time.Second}.withDefaults()
	for n, want := range map[int]time.Duration{1: 100, 2: 200, 3: 400, 4: 800, 5: 1000, 60: 1000} {
		want *= time.Millisecond
		for range 50 {
			if d := r.backoff(n); d < want/2 || d > want {
				t.Errorf("backoff %d: %v, want %v to %v", n, d, want/2, want)
			}
		}
	}
}
