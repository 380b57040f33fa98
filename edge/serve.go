package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// status is what a node tells about itself.
type status struct {
	Release   int64     `json:"release"`   // current; 0: none
	Confirmed int64     `json:"confirmed"` // the last one that was healthy
	Models    int       `json:"models"`
	Polls     int64     `json:"polls"`
	Failures  int64     `json:"failures"` // of polls
	LastPoll  time.Time `json:"last_poll,omitzero"`
	LastGood  time.Time `json:"last_good,omitzero"`
	Expires   time.Time `json:"expires,omitzero"` // of what is signed
	Error     string    `json:"error,omitempty"`  // of the last poll

	files map[string]int64 // sizes of the files that peers may have, by SHA-256
}

// show notes how the node is, after a round.
func (n *Node) show(err error) {
	s := status{Release: n.currentNumber(), Confirmed: n.state.Confirmed, files: map[string]int64{}}
	banned := map[string]bool{}
	for _, i := range n.keptReleases(true) {
		r, rerr := n.readRelease(i)
		if rerr != nil {
			continue
		}
		if i == s.Release {
			s.Models = len(r.Models)
		}
		for _, e := range r.Models {
			for _, f := range e.Files {
				if n.state.Banned[banKey(e)] != "" {
					banned[hexOf(f.SHA256)] = true
				} else if n.has(f) {
					s.files[hexOf(f.SHA256)] = f.Size
				}
			}
		}
	}
	for hex := range banned {
		delete(s.files, hex)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s.Polls, s.Failures, s.LastGood, s.Expires = n.shown.Polls, n.shown.Failures, n.shown.LastGood, n.shown.Expires
	if n.shown.files != nil { // not the first time
		s.Polls++
		s.LastPoll = n.now().UTC()
		if err != nil {
			s.Failures++
			s.Error = strings.ReplaceAll(err.Error(), "\n", "; ")
		} else {
			s.LastGood = s.LastPoll
		}
	}
	n.shown = s
}

// maxServed bounds the files that are served at the same time.
const maxServed = 64

// Handler serves other nodes and those who watch this one:
//
//	/blobs/sha256/HEX   a verified file, whole or in ranges
//	/healthz            200 where the current release is confirmed, else 503
//	/metrics            in the text format of Prometheus
func (n *Node) Handler() http.Handler {
	slots := make(chan struct{}, maxServed)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /blobs/sha256/{hex}", func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			n.serveBlob(w, r)
		default:
			w.Header().Set("Retry-After", "5")
			http.Error(w, "too many transfers", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /healthz", n.serveHealth)
	mux.HandleFunc("GET /metrics", n.serveMetrics)
	return mux
}

func (n *Node) serveBlob(w http.ResponseWriter, r *http.Request) {
	hex := r.PathValue("hex")
	n.mu.Lock()
	size, ok := n.shown.files[hex]
	n.mu.Unlock()
	if !ok {
		http.Error(w, "not here", http.StatusNotFound)
		return
	}
	f, info, err := n.blobs.open(hex, os.O_RDONLY)
	if err == nil && info.Size() != size {
		err = errors.Join(errors.New("has changed"), f.Close())
	}
	if err != nil {
		http.Error(w, "not here", http.StatusNotFound)
		return
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("ETag", `"`+hex+`"`)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	http.ServeContent(countedWriter{w, n.counters.served.Add}, r, "", time.Time{}, f)
}

// countedWriter counts what is sent.
type countedWriter struct {
	http.ResponseWriter
	add func(int64) int64
}

func (c countedWriter) Write(p []byte) (int, error) {
	k, err := c.ResponseWriter.Write(p)
	c.add(int64(k))
	return k, err
}

func (n *Node) status() status {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.shown
}

func (n *Node) serveHealth(w http.ResponseWriter, _ *http.Request) {
	s := n.status()
	w.Header().Set("Content-Type", "application/json")
	if s.Release == 0 || s.Release != s.Confirmed {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	json.NewEncoder(w).Encode(s)
}

func (n *Node) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Write(n.Metrics())
}

// Metrics returns the state of the node in the text format of Prometheus.
func (n *Node) Metrics() []byte {
	s := n.status()
	c := &n.counters
	unix := func(t time.Time) int64 {
		if t.IsZero() {
			return 0
		}
		return t.Unix()
	}
	free, err := n.free(n.home.path)
	if err != nil {
		free = 0
	}
	var b bytes.Buffer
	for _, m := range []struct {
		name, kind, help string
		value            int64
	}{
		{"release", "gauge", "Number of the node's current release, 0 where there is none.", s.Release},
		{"confirmed_release", "gauge", "Number of the last release that was healthy.", s.Confirmed},
		{"models", "gauge", "Variants of models in the current release.", int64(s.Models)},
		{"polls_total", "counter", "Polls of the catalog.", s.Polls},
		{"poll_failures_total", "counter", "Polls that ended with an error.", s.Failures},
		{"last_poll_timestamp_seconds", "gauge", "When the catalog was polled last.", unix(s.LastPoll)},
		{"last_success_timestamp_seconds", "gauge", "When a poll last ended without an error.", unix(s.LastGood)},
		{"metadata_expires_timestamp_seconds", "gauge", "When the signatures of the catalog expire.", unix(s.Expires)},
		{"requests_total", "counter", "Requests for small objects of the catalog.", c.requests.Load()},
		{"metadata_bytes_total", "counter", "Bytes of small objects of the catalog.", c.metadata.Load()},
		{"fetched_bytes_total", "counter", "Bytes of model files that were fetched.", c.fetched.Load()},
		{"copied_bytes_total", "counter", "Bytes of model files that the node had in other files.", c.copied.Load()},
		{"resumed_bytes_total", "counter", "Bytes of model files that an earlier, broken off transfer had fetched.", c.resumed.Load()},
		{"served_bytes_total", "counter", "Bytes of model files that were given to other nodes.", c.served.Load()},
		{"fetch_failures_total", "counter", "Requests for model files that failed.", c.failures.Load()},
		{"evicted_bytes_total", "counter", "Bytes of files that were taken away.", c.evicted.Load()},
		{"rollbacks_total", "counter", "Releases that were not healthy and were taken back.", c.rollbacks.Load()},
		{"disk_free_bytes", "gauge", "Bytes that may be written to the disk of the node's folder.", free},
	} {
		fmt.Fprintf(&b, "# HELP modelpipe_sync_%s %s\n# TYPE modelpipe_sync_%s %s\nmodelpipe_sync_%s{channel=%q} %d\n", m.name, m.help, m.name, m.kind, m.name, n.o.Channel, m.value)
	}
	return b.Bytes()
}
