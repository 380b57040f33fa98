package edge

import (
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
