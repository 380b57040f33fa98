package publish_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
