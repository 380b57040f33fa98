package hub_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/modelpipe/modelpipe/hub"
	"github.com/modelpipe/modelpipe/hub/hubtest"
)

// These tests hold the package to other people's programs: the official client, and olah, a server that many run as a
// mirror. They install both from PyPI into a folder of their own, so they run only with MODELPIPE_LARGE=1;
// MODELPIPE_HUB_VENV names a virtual environment that has them already.
func pythonBin(t *testing.T) string {
	t.Helper()
	if os.Getenv("MODELPIPE_LARGE") != "1" {
		t.Skip("set MODELPIPE_LARGE=1 to install huggingface_hub and olah from PyPI and run against them")
	}
	if venv := os.Getenv("MODELPIPE_HUB_VENV"); venv != "" {
		return filepath.Join(venv, "bin")
	}
	venv := filepath.Join(t.TempDir(), "venv")
	command(t, "", nil, "python3", "-m", "venv", venv)
	bin := filepath.Join(venv, "bin")
	command(t, "", nil, filepath.Join(bin, "pip"), "install", "-q", "huggingface_hub==2.4.0", "olah==0.5.4")
	return bin
}

// command runs a program to its end and returns what it printed.
func command(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func sameFiles(t *testing.T, got fs.FS, want fstest.MapFS) {
	t.Helper()
	for name, f := range want {
		data, err := fs.ReadFile(got, name)
		if err != nil || !bytes.Equal(data, f.Data) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(data), err, len(f.Data))
		}
	}
}

// TestLargeOfficialClient: huggingface_hub uses the cache that we wrote without asking for anything but the commit, we use
// the one that it wrote, and it and we can share one.
func TestLargeOfficialClient(t *testing.T) {
	bin := pythonBin(t)
	srv, o, content := cached(t, 12<<20)
	home := t.TempDir()
	env := func(cache string, more ...string) []string {
		return append([]string{
			"HF_ENDPOINT=" + srv.URL, "HF_HOME=" + home, "HF_HUB_CACHE=" + cache,
			"HF_HUB_DISABLE_TELEMETRY=1", "HF_HUB_DISABLE_UPDATE_CHECK=1", "HF_HUB_DISABLE_PROGRESS_BARS=1",
		}, more...)
	}
	const download = "from huggingface_hub import snapshot_download; print(snapshot_download('org/tiny'))"
	lastLine := func(s string) string {
		lines := strings.Split(strings.TrimSpace(s), "\n")
		return lines[len(lines)-1]
	}

	ours := snapshot(t, newClient(t, o), "org/tiny", "")
	if err := ours.Download(t.Context(), everything...); err != nil {
		t.Fatal(err)
	}
	for _, more := range []string{"HF_HUB_OFFLINE=1", "HF_HUB_OFFLINE=0"} {
		srv.ResetLog()
		path := lastLine(command(t, home, env(o.CacheDir, more), filepath.Join(bin, "python"), "-c", download))
		if !strings.HasSuffix(path, filepath.Join("snapshots", ours.Commit())) {
			t.Errorf("%s: snapshot_download says %s", more, path)
		}
		sameFiles(t, os.DirFS(path), content)
		for _, r := range srv.Requests() {
			if r.Stage == hubtest.CDN || r.Stage == hubtest.Cache {
				t.Errorf("%s: %s %s %s for a file that is cached", more, r.Stage, r.Method, r.URL)
			}
		}
	}
	scan := command(t, home, env(o.CacheDir), filepath.Join(bin, "python"), "-c",
		"from huggingface_hub import scan_cache_dir as s; i = s(); print(len(i.warnings), i.size_on_disk, [r.repo_id for r in i.repos])")
	var size int
	for _, f := range content {
		size += len(f.Data)
	}
	if want := fmt.Sprintf("0 %d ['org/tiny']", size); lastLine(scan) != want {
		t.Errorf("scan_cache_dir: %q, want %q", lastLine(scan), want)
	}

	// The other way round.
	theirs := filepath.Join(t.TempDir(), "hub")
	command(t, home, env(theirs), filepath.Join(bin, "hf"), "download", "org/tiny")
	srv.ResetLog()
	c := newClient(t, hub.Options{Endpoint: srv.URL, CacheDir: theirs})
	s := snapshot(t, c, "org/tiny", "")
	sameFiles(t, s, content)
	if n := srv.BytesSent(hubtest.CDN) + srv.BytesSent(hubtest.Cache); n != 0 {
		t.Errorf("%d bytes fetched of what the official client had cached", n)
	}
	offline := newClient(t, hub.Options{Endpoint: srv.URL, CacheDir: theirs, Offline: true})
	s = snapshot(t, offline, "org/tiny", "")
	sameFiles(t, s, content)
	if err := s.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestLargeOlah reads from olah over a local git repository. It ignores Range, and its listing differs from the Hub's.
func TestLargeOlah(t *testing.T) {
	bin := pythonBin(t)
	dir := t.TempDir()
	repo := filepath.Join(dir, "mirrors", "models", "org", "tiny")
	content := tiny(9 << 20)
	for name, f := range content {
		path := filepath.Join(repo, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	git := func(args ...string) string {
		return command(t, repo, nil, "git", append([]string{"-c", "user.name=t", "-c", "user.email=t@localhost"}, args...)...)
	}
	git("init", "-q", "-b", "main")
	git("add", ".")
	git("commit", "-q", "-m", "tiny")
	commit := strings.TrimSpace(git("rev-parse", "HEAD"))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(address)
	config := filepath.Join(dir, "olah.toml")
	err = os.WriteFile(config, fmt.Appendf(nil, `[basic]
host = "127.0.0.1"
port = %s
repos-path = %q
mirrors-path = [%q]
mirror-scheme = "http"
mirror-netloc = %q
mirror-lfs-netloc = %q
hf-scheme = "http"
hf-netloc = "127.0.0.1:9"
hf-lfs-netloc = "127.0.0.1:9"
[accessibility]
offline = true
`, port, filepath.Join(dir, "cache"), filepath.Join(dir, "mirrors"), address, address), 0o666)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	server := exec.Command(filepath.Join(bin, "olah-cli"), "-c", config)
	server.Dir, server.Stdout, server.Stderr = dir, &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		server.Process.Kill()
		server.Wait()
		if t.Failed() {
			t.Logf("olah:\n%s", log.Bytes())
		}
	}()
	for range 200 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			break
		}
		time.Sleep(100 * time.Millisecond)
	}

	c := newClient(t, hub.Options{Endpoint: "http://" + address, CacheDir: filepath.Join(dir, "hub")})
	for _, rev := range []string{"main", commit} {
		s := snapshot(t, c, "org/tiny", rev)
		if s.Commit() != commit {
			t.Errorf("commit %s, want %s", s.Commit(), commit)
		}
		f := open(t, s, "model.safetensors")
		p := make([]byte, 1000)
		data := content["model.safetensors"].Data
		for _, off := range []int64{0, 8, 5_000_000, 300} {
			if _, err := f.ReadAt(p, off); err != nil || !bytes.Equal(p, data[off:][:1000]) {
				t.Errorf("at %d: %v", off, err)
			}
		}
		sameFiles(t, s, content)
		if err := s.Verify(t.Context()); err != nil {
			t.Error(err)
		}
		t.Logf("%s: %d bytes from olah for a repository of 9 MiB", rev, s.BytesRead())
	}
	if err := snapshot(t, c, "org/tiny", "main").Download(t.Context(), everything...); err != nil {
		t.Error(err)
	}
	if _, err := c.Snapshot(t.Context(), "org/none", ""); !errors.Is(err, hub.ErrRepoNotFound) {
		t.Errorf("missing repository: %v", err)
	}
}
