package publish_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/publish/publishtest"
)

// environment is one that has nothing but vars.
func environment(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func open(t testing.TB, target string, vars map[string]string) publish.Sink {
	t.Helper()
	s, err := publish.OpenEnv(target, environment(vars))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFolder(t *testing.T) {
	t.Parallel()
	publishtest.Run(t, func(t testing.TB) *publishtest.Target {
		dir := t.TempDir()
		return &publishtest.Target{
			OneOfTwo: true,
			Open:     func(t testing.TB) publish.Sink { return open(t, dir, nil) },
			Damage: func(t testing.TB, name string) bool {
				f, err := os.OpenFile(filepath.Join(dir, name+".partial"), os.O_RDWR, 0)
				if err != nil {
					t.Error(err)
					return true
				}
				defer f.Close()
				b := make([]byte, 1)
				if _, err := f.ReadAt(b, 100); err != nil {
					return false
				}
				b[0] ^= 1
				_, err = f.WriteAt(b, 100)
				return err == nil
			},
			Stored: func(t testing.TB) int {
				n := 0
				filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
					if err != nil || !d.IsDir() && d.Name() != ".publish.lock" {
						n++
					}
					return nil
				})
				return n
			},
		}
	})
}

// s3Environment is that of a user of a store at endpoint.
func s3Environment(endpoint string) map[string]string {
	return map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_ENDPOINT_URL": endpoint,
		"AWS_CONFIG_FILE": "/nonexistent",
	}
}

func TestS3(t *testing.T) {
	t.Parallel()
	publishtest.Run(t, func(t testing.TB) *publishtest.Target {
		s3 := publishtest.NewS3(t)
		proxy := publishtest.NewProxy(t, s3.URL)
		return &publishtest.Target{
			OneOfTwo: true,
			Open:     func(t testing.TB) publish.Sink { return open(t, "s3://bucket/models/team", s3Environment(proxy.URL)) },
			Proxy:    proxy,
			Damage:   func(_ testing.TB, name string) bool { return s3.Damage("bucket/models/team/" + name) },
			Stored:   func(testing.TB) int { return s3.Stored() },
		}
	})
}

func TestOCI(t *testing.T) {
	t.Parallel()
	publishtest.Run(t, func(t testing.TB) *publishtest.Target {
		proxy := publishtest.NewProxy(t, publishtest.NewRegistry(t, registry.WithReferrersSupport(true)))
		to := ociTarget(t, proxy.URL)
		to.Proxy = proxy
		return to
	})
}

func TestOCIWithoutReferrers(t *testing.T) {
	t.Parallel()
	publishtest.Run(t, func(t testing.TB) *publishtest.Target { return ociTarget(t, publishtest.NewRegistry(t)) })
}

// ociTarget is a tag of the registry at address.
func ociTarget(t testing.TB, address string) *publishtest.Target {
	cache := t.TempDir()
	return &publishtest.Target{Open: func(t testing.TB) publish.Sink {
		return open(t, "oci://"+strings.TrimPrefix(address, "http://")+"/team/model:v1", map[string]string{"XDG_CACHE_HOME": cache})
	}}
}

// TestS3Alive looks at an upload that a process works at: nobody clears it,
// and a second publisher is told. The clock of the store is two days ahead.
func TestS3Alive(t *testing.T) {
	t.Parallel()
	s3 := publishtest.NewS3(t)
	proxy := publishtest.NewProxy(t, s3.URL)
	proxy.Set(&publishtest.Fault{Answer: func(r *http.Response) {
		r.Header.Set("Date", time.Now().Add(48*time.Hour).UTC().Format(http.TimeFormat))
		if last, err := http.ParseTime(r.Header.Get("Last-Modified")); err == nil {
			r.Header.Set("Last-Modified", last.Add(48*time.Hour).Format(http.TimeFormat))
		}
	}})
	s := open(t, "s3://bucket/x", s3Environment(proxy.URL))
	content := &blocking{data: make([]byte, 12<<20), reached: make(chan struct{}), release: make(chan struct{})}
	a := &publish.Artifact{Files: []publish.File{{Name: "m.gguf", Role: publish.RoleModel, Size: 12 << 20, Content: content}}}
	done := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, err := s.Publish(ctx, a, publish.Options{Threads: 1})
		done <- err
	}()
	<-content.reached
	if rests, err := s.Abandoned(t.Context()); err != nil || len(rests) != 0 {
		t.Errorf("abandoned: %v, %v: want none", rests, err)
	}
	other := *a
	other.Files = []publish.File{{Name: "m.gguf", Role: publish.RoleModel, Size: 12 << 20, Content: bytes.NewReader(make([]byte, 12<<20))}}
	if _, err := s.Publish(t.Context(), &other, publish.Options{}); !errors.Is(err, publish.ErrBusy) {
		t.Errorf("a second publisher is told %v", err)
	}
	cancel()
	close(content.release)
	if err := <-done; err == nil {
		t.Fatal("was not interrupted")
	}
	// The store says that it was begun two days before its own now.
	rests, err := s.Abandoned(t.Context())
	if err != nil || len(rests) != 1 {
		t.Fatalf("abandoned: %v, %v", rests, err)
	}
	if age := time.Since(rests[0].Started); age < 47*time.Hour || age > 49*time.Hour {
		t.Errorf("begun %v ago", age)
	}
}

// blocking is content that waits at its second piece.
type blocking struct {
	data             []byte
	reached, release chan struct{}
	once             sync.Once
}

func (b *blocking) ReadAt(p []byte, off int64) (int, error) {
	if off > 0 {
		b.once.Do(func() { close(b.reached) })
		<-b.release
	}
	return bytes.NewReader(b.data).ReadAt(p, off)
}
