package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// errCrash is what a disk says after the power has failed.
var errCrash = errors.New("the power has failed")

// TestCrashAtEveryStep stops the disk at the first change of a roll-out, at
// the second, and so on: what is served is always whole, and the next process
// ends on the new release.
func TestCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha", "beta")
	one, two, beta := modelFile("one", 1, 3, 0), modelFile("two", 2, 3, 0), modelFile("beta", 3, 3, 0)
	s.offer("alpha", one)
	s.offer("beta", beta)
	start := filepath.Join(t.TempDir(), "start")
	n := node(t, s.options(start))
	synced(t, n)
	n.Close()
	s.release("alpha", s.put("alpha", two))
	s.withdraw("beta", 1, "it is wrong")
	steps := 0
	for done := false; !done; steps++ {
		root := filepath.Join(t.TempDir(), "node")
		copyTree(t, start, root)
		count := 0
		done = true
		n, err := open(s.options(root), oneByOne(func(op, name string) error {
			if count++; count > steps {
				done = false
				return fmt.Errorf("%s %s: %w", op, name, errCrash)
			}
			return nil
		}), plenty)
		if err == nil {
			_, err = n.Sync(t.Context())
			n.Close()
		}
		if err == nil != done {
			t.Fatalf("step %d: %v", steps, err)
		}
		if got := s.served(root)["alpha/Q8_0/alpha.gguf"]; got != sha(one) && got != sha(two) {
			t.Errorf("crash at step %d: serves %q", steps, got)
		}
		n = node(t, s.options(root))
		synced(t, n)
		s.serves(root, "alpha", two)
		s.serves(root, "beta", nil)
		n.Close()
		for _, dir := range []string{"blobs/sha256", "pieces", "releases", "objects"} {
			names, err := os.ReadDir(filepath.Join(root, dir))
			for _, e := range names {
				if strings.HasPrefix(e.Name(), ".") || strings.Contains(e.Name(), ".partial") {
					err = errors.Join(err, fmt.Errorf("%s is left", e.Name()))
				}
			}
			if err != nil {
				t.Errorf("crash at step %d: %s: %v", steps, dir, err)
			}
		}
	}
	if steps < 20 {
		t.Errorf("%d steps", steps)
	}
	t.Logf("%d steps", steps)
}

// oneByOne lets workers call a hook one after the other.
func oneByOne(h hook) hook {
	var mu sync.Mutex
	return func(op, name string) error {
		mu.Lock()
		defer mu.Unlock()
		return h(op, name)
	}
}

// copyTree copies a node's folder with its links.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
}

// TestMain lets the test binary be a node that can be killed.
func TestMain(m *testing.M) {
	if os.Getenv("MODELPIPE_TEST_NODE") == "" {
		os.Exit(m.Run())
	}
	var selected []string
	if s := os.Getenv("MODELPIPE_TEST_SELECT"); s != "" {
		selected = append(selected, s)
	}
	var n *Node
	var r *Result
	selection, err := ParseSelection(selected)
	if err == nil {
		n, err = New(Options{
			Catalog: os.Getenv("MODELPIPE_TEST_CATALOG"), Root: os.Getenv("MODELPIPE_TEST_NODE"), FirstUse: true, Backoff: time.Millisecond,
			Select: selection, Health: Health{Command: os.Getenv("MODELPIPE_TEST_HEALTH")},
		})
	}
	if err == nil {
		r, err = n.Sync(context.Background())
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestKill kills the process of a node at random moments of a roll-out.
func TestKill(t *testing.T) {
	t.Parallel()
	testKill(t, 3)
}

// TestLargeKill does it for thirty releases.
func TestLargeKill(t *testing.T) {
	if os.Getenv("MODELPIPE_LARGE") == "" {
		t.Skip("set MODELPIPE_LARGE=1")
	}
	testKill(t, 30)
}

func testKill(t *testing.T, releases int) {
	s := newShop(t, "alpha")
	s.now = time.Now().Truncate(time.Second)
	one := modelFile("0", 1, 40, 8<<20)
	s.offer("alpha", one)
	web := serve(t, s.dir, nil)
	root := t.TempDir()
	command := func() *exec.Cmd {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "MODELPIPE_TEST_NODE="+root, "MODELPIPE_TEST_CATALOG="+web.URL, "MODELPIPE_TEST_HEALTH=sleep 0.05")
		return c
	}
	began := time.Now()
	if out, err := command().CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	whole := time.Since(began)
	last := one
	killed := 0
	for i := range releases {
		before := last
		last = modelFile(fmt.Sprint(i+1), byte(i+2), 40, 8<<20)
		s.offer("alpha", last)
		for {
			c := command()
			out, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			timer := time.AfterFunc(rand.N(whole+1), func() { c.Process.Kill() })
			said, _ := io.ReadAll(out)
			err = c.Wait()
			timer.Stop()
			got := s.served(root)["alpha/Q8_0/alpha.gguf"]
			if got != sha(before) && got != sha(last) {
				t.Fatalf("serves %q", got)
			}
			if err == nil && len(said) > 0 {
				break
			}
			if err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the node ended with %v", err)
			}
			killed++
		}
		s.serves(root, "alpha", last)
	}
	t.Logf("killed %d times", killed)
}

// leadsTo says whether a release is current.
func leadsTo(root, release string) bool {
	target, err := os.Readlink(filepath.Join(root, "current"))
	return err == nil && target == release
}

// TestUnconfirmed kills a node between the move of current and the answer of
// the health check: the next process asks again.
func TestUnconfirmed(t *testing.T) {
	t.Parallel()
	s := newShop(t, "alpha")
	one, two := modelFile("one", 1, 3, 0), modelFile("two", 2, 3, 0)
	s.offer("alpha", one)
	o := s.options(t.TempDir())
	n := node(t, o)
	synced(t, n)
	n.Close()
	s.offer("alpha", two)
	crash := false
	n, err := open(o, oneByOne(func(op, name string) error {
		if crash = crash || op == "sync" && leadsTo(o.Root, "releases/2"); crash {
			return errCrash
		}
		return nil
	}), plenty)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Sync(t.Context()); !errors.Is(err, errCrash) {
		t.Fatalf("got %v", err)
	}
	n.Close()
	s.serves(o.Root, "alpha", two)
	o.Health = Health{Command: `! grep -q two "$MODELPIPE_CURRENT"/alpha/Q8_0/alpha.gguf`, Timeout: 20 * time.Second}
	o.Catalog = serve(t, s.dir, func(*http.Request) fault { return fault503 }).URL
	n = node(t, o)
	fails(t, n, ErrUnhealthy, "release 1 is current again")
	s.serves(o.Root, "alpha", one)
}
