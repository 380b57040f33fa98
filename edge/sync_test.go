package edge

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestSync goes the whole way on folders: first release, nothing new, an
// edited one, a second model, a withdrawal.
func TestSync(t *testing.T) {
	s := newShop(t, "alpha", "beta")
	one := modelFile("one", 1, 40, 0)
	s.offer("alpha", one)
	root := filepath.Join(t.TempDir(), "node")
	n := node(t, s.options(root))
	r := synced(t, n)
	if !r.Changed || r.Release != 1 || len(r.Models) != 1 || r.Fetched != int64(len(one)) {
		t.Errorf("got %+v", r)
	}
	s.serves(root, "alpha", one)
	if r = synced(t, n); r.Changed || r.Requests > 2 || r.Metadata > 10_000 {
		t.Errorf("nothing is new: got %+v", r)
	}
	two := modelFile("two, which is longer", 1, 40, 0)
	s.offer("alpha", two)
	r = synced(t, n)
	if !r.Changed || r.Fetched*100 > int64(len(two)) || r.Copied+r.Fetched != int64(len(two)) {
		t.Errorf("another template of %d bytes: got %+v", len(two), r)
	}
	t.Logf("another template: %d of %d bytes were fetched, and %d of metadata", r.Fetched, len(two), r.Metadata)
	s.serves(root, "alpha", two)
	beta := modelFile("beta", 2, 3, 0)
	s.offer("beta", beta)
	synced(t, n)
	s.serves(root, "alpha", two)
	s.serves(root, "beta", beta)
	s.withdraw("beta", 1, "it insults people")
	synced(t, n)
	s.serves(root, "alpha", two)
	s.serves(root, "beta", nil)
	if _, err := os.Stat(filepath.Join(root, "blobs", "sha256", sha(one))); err == nil {
		t.Error("a file that no release needs is there still")
	}
	// A second process finds all as it was.
	n.Close()
	n = node(t, s.options(root))
	if r = synced(t, n); r.Changed || r.Fetched != 0 {
		t.Errorf("after a restart: got %+v", r)
	}
}

// TestSettled: while neither the catalog nor what is taken of it changes, the
// catalog is not read, by another process of the node neither. What is current
// is looked at all the same.
func TestSettled(t *testing.T) {
	s := newShop(t, "alpha", "beta")
	one, two := modelFile("one", 1, 3, 0), modelFile("two", 2, 3, 0)
	s.offer("alpha", one)
	s.offer("beta", two)
	root := filepath.Join(t.TempDir(), "node")
	o := s.options(root)
	take := func(term string) {
		t.Helper()
		var err error
		if o.Select, err = ParseSelection([]string{term}); err != nil {
			t.Fatal(err)
		}
	}
	take("model=alpha")
	n := node(t, o)
	synced(t, n)
	two = modelFile("edited", 1, 3, 0)
	s.offer("alpha", two)
	synced(t, n)
	current := filepath.Join(root, "current")
	flip := func() {
		t.Helper()
		if err := errors.Join(os.Remove(current), os.Symlink(filepath.Join("releases", "1"), current)); err != nil {
			t.Fatal(err)
		}
		s.serves(root, "alpha", one)
	}
	flip()
	if r := synced(t, n); !r.Changed {
		t.Errorf("somebody has gone back to another release: got %+v", r)
	}
	s.serves(root, "alpha", two)
	again := func() *Node {
		n.Close()
		n = node(t, o)
		return n
	}
	objects := filepath.Join(s.dir, "objects")
	for _, d := range []string{objects, filepath.Join(root, "objects")} {
		if err := os.Rename(d, d+".away"); err != nil {
			t.Fatal(err)
		}
	}
	if r := synced(t, again()); r.Changed || r.Requests > 2 {
		t.Errorf("nothing is new: got %+v", r)
	}
	flip()
	fails(t, again(), fs.ErrNotExist, "read the catalog")
	if err := os.Rename(objects+".away", objects); err != nil {
		t.Fatal(err)
	}
	synced(t, again())
	s.serves(root, "alpha", two)
	take("model=beta")
	if r := synced(t, again()); !r.Changed || len(r.Models) != 1 || r.Models[0].Model != "beta" {
		t.Errorf("another selection: got %+v", r)
	}
}
