package publishtest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/modelpipe/modelpipe/publish"
)

// runStore runs what a store must do.
func runStore(t *testing.T, open func(testing.TB) *Target) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *Target)
	}{
		{"objects", objects},
		{"counter", counter},
		{"list", lists},
		{"lost answer", lostAnswer},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, open(t))
		})
	}
}

func store(t testing.TB, to *Target) publish.Store { return to.Open(t).(publish.Store) }

func objects(t *testing.T, to *Target) {
	s := store(t, to)
	put := func(text string, prior publish.Version) publish.Version {
		t.Helper()
		v, err := s.Put(t.Context(), "a/b.json", []byte(text), prior)
		if err != nil {
			t.Fatal(err)
		}
		got, gv, err := store(t, to).Get(t.Context(), "a/b.json", 100)
		if err != nil || string(got) != text || gv != v {
			t.Fatalf("get: %q, %q, %v: want %q, %q", got, gv, err, text, v)
		}
		return v
	}
	_, _, err := s.Get(t.Context(), "a/b.json", 100)
	fails(t, err, fs.ErrNotExist, "a/b.json")
	_, err = s.Put(t.Context(), "a/b.json", []byte("x"), "of another")
	fails(t, err, publish.ErrChanged, "a/b.json")
	v1 := put("one", publish.Absent)
	_, err = s.Put(t.Context(), "a/b.json", []byte("x"), publish.Absent)
	fails(t, err, publish.ErrChanged, "a/b.json")
	v2 := put("two", v1)
	_, err = s.Put(t.Context(), "a/b.json", []byte("x"), v1)
	fails(t, err, publish.ErrChanged, "a/b.json")
	put("three", v2)
	put("", publish.Any)
	put("four", publish.Any)
	_, _, err = s.Get(t.Context(), "a/b.json", 3)
	fails(t, err, publish.ErrMismatch, "a/b.json", "at most 3")
	for range 2 {
		if err := s.Delete(t.Context(), "a/b.json"); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err = s.Get(t.Context(), "a/b.json", 100)
	fails(t, err, fs.ErrNotExist)
	put("five", publish.Absent)
	big := bytesOf(1, 1<<20)
	if _, err := s.Put(t.Context(), "big", big, publish.Absent); err != nil {
		t.Fatal(err)
	}
	if got, _, err := s.Get(t.Context(), "big", 1<<20); err != nil || !bytes.Equal(got, big) {
		t.Fatalf("big: %d bytes, %v", len(got), err)
	}
}

// counter adds from several writers: each addition counts once.
func counter(t *testing.T, to *Target) {
	const writers, each = 4, 5
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			s := store(t, to)
			for n := 0; n < each; {
				text, v, err := s.Get(t.Context(), "counter", 10)
				if errors.Is(err, fs.ErrNotExist) {
					text, v, err = []byte("0"), publish.Absent, nil
				}
				was, perr := strconv.Atoi(string(text))
				if err != nil || perr != nil {
					t.Errorf("get: %q, %v", text, err)
					return
				}
				_, err = s.Put(t.Context(), "counter", []byte(strconv.Itoa(was+1)), v)
				switch {
				case err == nil:
					n++
				case !errors.Is(err, publish.ErrChanged):
					t.Errorf("put: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if text, _, err := store(t, to).Get(t.Context(), "counter", 10); err != nil || string(text) != strconv.Itoa(writers*each) {
		t.Errorf("counter is %q, %v: want %d", text, err, writers*each)
	}
}

func lists(t *testing.T, to *Target) {
	s := store(t, to)
	names := []string{"a.json", "a/1.json", "a/2.json", "a/b/3.json", "ab", "b"}
	for i, name := range names {
		if _, err := s.Put(t.Context(), name, bytesOf(1, i+1), publish.Absent); err != nil {
			t.Fatal(err)
		}
	}
	data := bytesOf(1, manyParts)
	cut, ctx := cutOff(model("c.gguf", data), data, 12<<20)
	if _, err := to.Open(t).Publish(ctx, cut, publish.Options{PartSize: partSize}); err == nil {
		t.Fatal("was not interrupted")
	}
	for prefix, want := range map[string][]string{"": names, "a/": names[1:4], "a": names[:5], "nothing": nil, "a/b/3.json": {"a/b/3.json"}} {
		var got []string
		for e, err := range store(t, to).List(t.Context(), prefix) {
			if err != nil {
				t.Fatal(err)
			}
			if i := slices.Index(names, e.Name); i < 0 || e.Size != int64(i+1) || e.Modified.IsZero() {
				t.Errorf("entry %+v", e)
			}
			got = append(got, e.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("list %q: %v: want %v", prefix, got, want)
		}
	}
	for range s.List(t.Context(), "") {
		break // a reader may stop
	}
}

// lostAnswer writes where the answer to a write gets lost.
func lostAnswer(t *testing.T, to *Target) {
	if to.Proxy == nil {
		t.Skip("has no server")
	}
	s := store(t, to)
	prior := publish.Absent
	for i := range 3 {
		text := fmt.Sprint("text ", i)
		to.Proxy.Set(&Fault{LoseAnswer: true, Times: 1})
		v, err := s.Put(t.Context(), "x", []byte(text), prior)
		if err != nil {
			t.Fatal(err)
		}
		if got, now, err := s.Get(t.Context(), "x", 100); err != nil || string(got) != text || now != v {
			t.Fatalf("get: %q, %q, %v: want %q, %q", got, now, err, text, v)
		}
		prior = v
	}
}
