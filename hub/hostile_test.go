package hub

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestReadingWholeHoldsNobodyUp: while a body that was asked for whole is
// waited for, the reader's other business goes on. It did not, so that Close
// waited for a server that had gone silent.
func TestReadingWholeHoldsNobodyUp(t *testing.T) {
	var o object
	o.whole.mu.Lock() // as readWhole does for as long as the server takes
	defer o.whole.mu.Unlock()
	asked := make(chan bool)
	go func() { asked <- o.inOrder() }()
	select {
	case <-asked:
	case <-time.After(5 * time.Second):
		t.Fatal("inOrder waits for the body")
	}
}

// TestHostileListings: a few bytes of names must not stand for a tree of
// millions of folders, nor a page of the listing for a name of megabytes.
func TestHostileListings(t *testing.T) {
	c, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &Snapshot{c: c, repo: "org/name", rev: "main"}
	for i := range 1000 {
		s.entries = append(s.entries, Entry{Path: fmt.Sprintf("%d%sx", i, strings.Repeat("/a", 2000))})
	}
	if err := s.index(); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "more than 500000 folders") {
		t.Errorf("folders: got %v", err)
	}

	commit := strings.Repeat("0", 40)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/revision/") { // names no sizes: the tree is asked for
			fmt.Fprintf(w, `{"sha":%q,"siblings":[{"rfilename":"x"}]}`, commit)
			return
		}
		w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, r.URL))
		fmt.Fprintf(w, `[{"type":"file","path":%q,"size":1}]`, strings.Repeat("a", 5000))
	}))
	defer web.Close()
	if c, err = New(Options{Endpoint: web.URL}); err != nil {
		t.Fatal(err)
	}
	if _, err = c.Snapshot(t.Context(), "org/name", ""); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "file name of 5000 bytes") {
		t.Errorf("long name: got %v", err)
	}
}
