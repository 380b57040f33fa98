package edge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A fleet is nodes that follow one store behind a web server, over which
// faults are spread at random.
type fleet struct {
	t     *testing.T
	s     *shop
	roots []string
	stall time.Duration

	mu     sync.Mutex
	faults [][]string     // that each node still meets, one a round
	web    []map[int]bool // of each node: the requests of this round that meet the fault
	kind   []fault
	count  []int
	met    map[string]int
}

// kinds are what may happen to a node in a round.
var kinds = []string{"kill", "full disk", "clock ahead", "clock behind", "cut", "corrupt", "truncated", "slow", "page", "503"}

var webFaults = map[string]fault{"cut": faultCut, "corrupt": faultCorrupt, "truncated": faultTruncated, "slow": faultSlow, "page": faultPage, "503": fault503}

func newFleet(t *testing.T, nodes, faults int, random *rand.Rand) *fleet {
	f := &fleet{t: t, s: newShop(t, "alpha"), faults: make([][]string, nodes), web: make([]map[int]bool, nodes), kind: make([]fault, nodes), count: make([]int, nodes), met: map[string]int{}}
	dir := t.TempDir()
	for i := range nodes {
		f.roots = append(f.roots, filepath.Join(dir, fmt.Sprint(i)))
	}
	for i := range faults {
		n := random.IntN(nodes)
		f.faults[n] = append(f.faults[n], kinds[i%len(kinds)])
	}
	return f
}

// decide is what the web server does to a request of a node, which is the
// first element of its path.
func (f *fleet) decide(i int) fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count[i]++
	if f.web[i][f.count[i]] {
		return f.kind[i]
	}
	return faultNone
}

// round lets a node do a round, with the fault that it is to meet next.
func (f *fleet) round(i int, o Options) error {
	f.mu.Lock()
	kind := ""
	if len(f.faults[i]) > 0 {
		kind, f.faults[i] = f.faults[i][0], f.faults[i][1:]
		f.met[kind]++
	}
	f.count[i], f.web[i], f.kind[i] = 0, map[int]bool{}, webFaults[kind]
	if webFaults[kind] != faultNone {
		for range 4 {
			f.web[i][1+rand.IntN(10)] = true
		}
	}
	f.mu.Unlock()
	var h hook
	free := plenty
	var left atomic.Int64
	switch kind {
	case "kill":
		left.Store(int64(rand.IntN(60)))
		h = func(op, name string) error {
			if left.Add(-1) < 0 {
				return errCrash
			}
			return nil
		}
	case "full disk":
		left.Store(int64(rand.IntN(12)))
		h = func(op, name string) error {
			if op == "write" && left.Add(-1) < 0 {
				return &fs.PathError{Op: op, Path: name, Err: syscall.ENOSPC}
			}
			return nil
		}
		if rand.IntN(2) == 0 {
			free = func(string) (int64, error) { return 1000, nil }
		}
	case "clock ahead":
		o.Now = func() time.Time { return f.s.clock().Add(365 * 24 * time.Hour) }
	case "clock behind":
		o.Now = func() time.Time { return f.s.clock().Add(-365 * 24 * time.Hour) }
	}
	n, err := open(o, h, free)
	if err != nil {
		return err
	}
	_, err = n.Sync(context.Background())
	return errors.Join(err, n.Close())
}

// roll lets every node follow until it serves a file, or, for nil, nothing;
// whatever happens in between it serves one of the files that may be.
func (f *fleet) roll(web string, peers []string, want []byte, may ...[]byte) int64 {
	var rounds atomic.Int64
	allowed := map[string]bool{"": want == nil}
	for _, data := range append(may, want) {
		if data != nil {
			allowed[sha(data)] = true
		}
	}
	// A reader looks at the nodes all the time, as their servers would.
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			root := f.roots[rand.IntN(len(f.roots))]
			data, err := os.ReadFile(filepath.Join(root, "current", "alpha", "Q8_0", "alpha.gguf"))
			if err == nil && !allowed[sha(data)] {
				f.t.Errorf("%s serves %s", root, sha(data))
			}
			time.Sleep(time.Millisecond)
		}
	})
	var group sync.WaitGroup
	for i := range f.roots {
		group.Go(func() {
			o := f.s.options(f.roots[i])
			o.Catalog, o.Peers, o.Stall = fmt.Sprintf("%s/%d", web, i), peers, f.stall
			for range 50 {
				rounds.Add(1)
				err := f.round(i, o)
				got := f.s.served(o.Root)["alpha/Q8_0/alpha.gguf"]
				if !allowed[got] && len(may) > 0 {
					f.t.Errorf("node %d serves %q after %v", i, got, err)
				}
				f.mu.Lock()
				more := len(f.faults[i])
				f.mu.Unlock()
				if err == nil && more == 0 {
					f.s.serves(o.Root, "alpha", want)
					return
				}
			}
			f.t.Errorf("node %d does not get there", i)
		})
	}
	group.Wait()
	close(stop)
	watch.Wait()
	return rounds.Load()
}

func testFleet(t *testing.T, nodes, faults int) {
	random := rand.New(rand.NewPCG(1, uint64(nodes)))
	f := newFleet(t, nodes, faults, random)
	f.stall = time.Duration(nodes) * 100 * time.Millisecond
	one, two, three := modelFile("one", 1, 12, 0), modelFile("two", 2, 12, 0), modelFile("three", 3, 12, 0)
	f.s.offer("alpha", one)
	// One node of the fleet, which meets no faults, serves the others.
	seed := node(t, f.s.options(t.TempDir()))
	synced(t, seed)
	peers := []string{handlerServer(t, seed.Handler())}
	files := &server{dir: f.s.dir}
	web := handlerServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		first, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		i := 0
		fmt.Sscan(first, &i)
		r.URL.Path = "/" + rest
		one := &server{dir: files.dir, decide: func(*http.Request) fault { return f.decide(i) }}
		one.ServeHTTP(w, r)
		files.bytes.Add(one.bytes.Load())
	}))
	quiet := f.faults
	f.faults = make([][]string, nodes) // the first release comes without faults
	f.roll(web, peers, one)
	f.faults = quiet
	began := time.Now()
	v := f.s.offer("alpha", two)
	rounds := f.roll(web, nil, two, one)
	t.Logf("%d nodes, %d faults %v: all on the new release after %d rounds, %v, %d bytes from the store", nodes, faults, f.met, rounds, time.Since(began).Round(time.Millisecond), files.bytes.Load())
	f.s.withdraw("alpha", v, "it is wrong")
	if rounds := f.roll(web, nil, one, two); rounds != int64(nodes) {
		t.Errorf("what was withdrawn left %d nodes in %d rounds", nodes, rounds)
	}
	f.s.offer("alpha", three)
	f.roll(web, nil, three, one)
}

func TestFleet(t *testing.T) {
	t.Parallel()
	testFleet(t, 10, 20)
}

// TestLargeFleet rolls a release to 200 nodes that meet 100 faults.
func TestLargeFleet(t *testing.T) {
	if os.Getenv("MODELPIPE_LARGE") == "" {
		t.Skip("set MODELPIPE_LARGE=1")
	}
	testFleet(t, 200, 100)
}
