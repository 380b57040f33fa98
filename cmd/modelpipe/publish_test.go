package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/publish/publishtest"
)

// toStore makes a store the one that the environment names.
func toStore(t *testing.T) (*publishtest.S3, *publishtest.Proxy) {
	t.Helper()
	s3 := publishtest.NewS3(t)
	proxy := publishtest.NewProxy(t, s3.URL)
	for k, v := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_ENDPOINT_URL": proxy.URL,
		"AWS_CONFIG_FILE": filepath.Join(t.TempDir(), "none"), "AWS_PROFILE": "",
	} {
		t.Setenv(k, v)
	}
	return s3, proxy
}

// toRegistry starts a registry and returns a tag in it.
func toRegistry(t *testing.T) string {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	return "oci://" + strings.TrimPrefix(publishtest.NewRegistry(t), "http://") + "/team/model:v1"
}

// contentOf returns the SHA-256 of a published file.
func contentOf(t *testing.T, target, name string) string {
	t.Helper()
	s, err := publish.Open(target)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := s.Open(t.Context(), name, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// runJSON runs a command that must succeed.
func runJSON[T any](t *testing.T, args ...string) (v T) {
	t.Helper()
	code, stdout, stderr := try(t, append(args, "--json")...)
	if code != 0 {
		t.Fatalf("%v: exit code %d: %s", args, code, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), &v); err != nil {
		t.Fatalf("%v: %v: %s", args, err, stdout)
	}
	return v
}

// TestConvertPublishes holds what is rendered into a store or a registry to
// what is rendered into a file.
func TestConvertPublishes(t *testing.T) {
	toStore(t)
	tag := toRegistry(t)
	dir := makeModel(t, 3)
	local, _ := converted(t, dir, "--type", "q8_0")
	for _, c := range []struct{ output, target, name string }{
		{"s3://bucket/models/m.gguf", "s3://bucket/models", "m.gguf"},
		{"s3://bucket/others/", "s3://bucket/others", filepath.Base(dir) + "-Q8_0.gguf"},
		{"s3://bucket", "s3://bucket", filepath.Base(dir) + "-Q8_0.gguf"},
		{tag, tag, filepath.Base(dir) + "-Q8_0.gguf"},
	} {
		v := runJSON[publishedJSON](t, "convert", dir, "--type", "q8_0", "-o", c.output)
		if v.SHA256 != local.SHA256 || v.Size != local.Size || v.Published == nil || v.Architecture != "llama" {
			t.Errorf("%s: %+v: want %s", c.output, v, local.SHA256)
		}
		if got := contentOf(t, c.target, c.name); got != local.SHA256 {
			t.Errorf("%s: %s: want %s", c.output, got, local.SHA256)
		}
	}
	if entries, err := os.ReadDir("."); err == nil {
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".gguf") {
				t.Errorf("%s is on the disk", e.Name())
			}
		}
	}
	// A split goes up part by part.
	v := runJSON[publishedJSON](t, "convert", dir, "--type", "q8_0", "--split-max-size", "8M", "-o", "s3://bucket/split/m.gguf")
	if len(v.Published.Files) < 2 || v.Published.Files[1].Name != strings.Replace(v.Published.Files[0].Name, "00001", "00002", 1) {
		t.Errorf("parts: %+v", v.Published.Files)
	}
	// Again it is there already.
	if again := runJSON[publishedJSON](t, "convert", dir, "--type", "q8_0", "-o", "s3://bucket/models/m.gguf"); !again.Published.Files[0].Existed {
		t.Errorf("again: %+v", again.Published)
	}
	code, _, stderr := try(t, "convert", dir, "--type", "f32", "-o", "s3://bucket/models/m.gguf")
	if code != exitFailed || !strings.Contains(stderr, "exists with other content") {
		t.Errorf("other content: %d: %s", code, stderr)
	}
}

// TestConvertToStoreKilled kills an upload again and again, and goes on.
func TestConvertToStoreKilled(t *testing.T) {
	s3, proxy := toStore(t)
	dir := makeModel(t, 4)
	local, _ := converted(t, dir, "--type", "bf16")
	args := []string{"convert", dir, "--type", "bf16", "-o", "s3://bucket/m.gguf"}
	killed := 0
	for i := range 6 {
		proxy.Set(&publishtest.Fault{BytesPerSec: 40 << 20})
		c := exec.Command(os.Args[0], append(args, "--resume")...)
		c.Env = append(os.Environ(), asCommand+"=1")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Duration(200+150*i)*time.Millisecond, func() { c.Process.Kill() })
		if c.Wait() != nil {
			killed++
		}
	}
	proxy.Set()
	v := runJSON[publishedJSON](t, append(args, "--resume")...)
	if killed == 0 {
		t.Error("nothing was killed")
	}
	if v.SHA256 != local.SHA256 || contentOf(t, "s3://bucket", "m.gguf") != local.SHA256 {
		t.Errorf("%s: want %s", v.SHA256, local.SHA256)
	}
	gc := runJSON[gcJSON](t, "publish", "gc", "s3://bucket", "--older-than", "0s")
	if s3.Stored() != 1 {
		t.Errorf("%d things are stored, %v were cleared: want the model alone", s3.Stored(), gc.Cleared)
	}
}

func TestPublish(t *testing.T) {
	toStore(t)
	tag := toRegistry(t)
	work := t.TempDir()
	model := filepath.Join(work, "m.gguf")
	local, data := converted(t, stories)
	write(t, model, data)
	license, provenance := filepath.Join(work, "LICENSE"), filepath.Join(work, "m.intoto.jsonl")
	write(t, license, []byte("terms"))
	write(t, provenance, []byte("{}\n"))
	template := filepath.Join(work, "prompt.tmpl")
	write(t, template, []byte("{{ .Prompt }}"))
	for _, target := range []string{filepath.Join(work, "to"), "s3://bucket/x", tag} {
		args := []string{"publish", model, "-o", target, "--license", license, "--attach", "application/vnd.in-toto+json=" + provenance, "--ollama-template", template}
		code, stdout, stderr := try(t, append(args, "--dry-run")...)
		if code != 0 || !strings.Contains(stdout, "would publish m.gguf") || !strings.Contains(stdout, "m.intoto.jsonl") {
			t.Errorf("dry run: %d: %s%s", code, stdout, stderr)
		}
		r := runJSON[publish.Receipt](t, args...)
		if r.Files[0].SHA256 != local.SHA256 {
			t.Errorf("%s: %+v", target, r)
		}
		for name, want := range map[string]string{"m.gguf": local.SHA256, "LICENSE": hexSum("terms"), "m.intoto.jsonl": hexSum("{}\n")} {
			if got := contentOf(t, target, name); got != want {
				t.Errorf("%s: %s is %s: want %s", target, name, got, want)
			}
		}
		code, stdout, _ = try(t, args...)
		if code != 0 || !strings.HasPrefix(stdout, local.SHA256+"  ") {
			t.Errorf("again: %d: %s", code, stdout)
		}
		if tags := len(r.Manifests); (target == tag) != (tags == 3) {
			t.Errorf("%s: manifests %+v", target, r.Manifests)
		}
	}
	// Another model does not take the tag, unless it may.
	other := filepath.Join(work, "sub")
	if err := os.Mkdir(other, 0o777); err != nil {
		t.Fatal(err)
	}
	_, data = converted(t, stories, "--type", "q8_0")
	write(t, filepath.Join(other, "m.gguf"), data)
	code, _, stderr := try(t, "publish", filepath.Join(other, "m.gguf"), "-o", tag)
	if code != exitFailed || !strings.Contains(stderr, "--move-tag") {
		t.Errorf("other model: %d: %s", code, stderr)
	}
	runJSON[publish.Receipt](t, "publish", filepath.Join(other, "m.gguf"), "-o", tag, "--move-tag")
}

func hexSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestPublishGC(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "m.gguf"), []byte("a model"))
	write(t, filepath.Join(dir, "m.gguf.partial"), []byte("half"))
	write(t, filepath.Join(dir, "n.gguf.partial.journal"), []byte("{}"))
	if v := runJSON[gcJSON](t, "publish", "gc", dir); len(v.Cleared) != 0 || len(v.Kept) != 2 {
		t.Errorf("younger ones: %+v", v)
	}
	if v := runJSON[gcJSON](t, "publish", "gc", dir, "--older-than", "0s", "--dry-run"); len(v.Cleared) != 2 || !v.DryRun {
		t.Errorf("dry run: %+v", v)
	}
	code, stdout, _ := try(t, "publish", "gc", dir, "--older-than", "0s")
	if code != 0 || strings.Count(stdout, "cleared ") != 2 {
		t.Errorf("%d: %s", code, stdout)
	}
	if got := listDir(t, dir); got != "m.gguf" {
		t.Errorf("left: %s", got)
	}
}

func TestPublishErrors(t *testing.T) {
	_, proxy := toStore(t)
	tag := toRegistry(t)
	work := t.TempDir()
	model := filepath.Join(work, "m.gguf")
	_, data := converted(t, stories)
	write(t, model, data)
	write(t, filepath.Join(work, "no.gguf"), []byte("nothing"))
	write(t, filepath.Join(work, "params"), []byte("[1]"))
	write(t, filepath.Join(work, "NUL.gguf"), data)
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{exitUsage, "want a target", []string{model}},
		{exitUsage, "requires at least 1 arg", []string{"-o", "x"}},
		{exitUsage, `"ftp" is not known`, []string{model, "-o", "ftp://x/y"}},
		{exitUsage, "want oci://host/repository", []string{model, "-o", "oci://name"}},
		{exitUsage, "is not a host", []string{model, "-o", "oci://team/name"}},
		{exitUsage, "3 to 63 small letters", []string{model, "-o", "s3://B"}},
		{exitUsage, "does not climb", []string{model, "-o", "s3://bucket/../x"}},
		{exitUsage, "a tag holds one model", []string{model, model, "-o", tag}},
		{exitUsage, "want MEDIATYPE=FILE", []string{model, "-o", tag, "--attach", "x"}},
		{exitUsage, "--part-size", []string{model, "-o", tag, "--part-size", "x"}},
		{exitFailed, "want a JSON object", []string{model, "-o", tag, "--ollama-params", filepath.Join(work, "params")}},
		{exitFailed, "no.gguf", []string{filepath.Join(work, "no.gguf"), "-o", "s3://bucket/x"}},
		{exitFailed, "is a device on Windows", []string{filepath.Join(work, "NUL.gguf"), "-o", "s3://bucket/x"}},
		{exitFailed, "--license", []string{model, "-o", "s3://bucket/x", "--license", filepath.Join(work, "none")}},
		{exitFailed, "bucket other does not exist", []string{model, "-o", "s3://other/x"}},
	} {
		code, stdout, stderr := try(t, append([]string{"publish"}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.want) || stdout != "" {
			t.Errorf("%v: %d, %s%s: want %d, %q", c.args, code, stdout, stderr, c.code, c.want)
		}
	}
	if code, _, stderr := try(t, "convert", stories, "-o", "s3://bucket/name"); code != exitUsage || !strings.Contains(stderr, "NAME.gguf") {
		t.Errorf("%d: %s", code, stderr)
	}
	proxy.Set(&publishtest.Fault{Status: 503})
	if code, _, stderr := try(t, "publish", model, "-o", "s3://bucket/x"); code != exitUnavailable {
		t.Errorf("unavailable: %d: %s", code, stderr)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(work, "none"))
	if code, _, stderr := try(t, "publish", model, "-o", "s3://bucket/x"); code != exitUsage || !strings.Contains(stderr, "AWS_ACCESS_KEY_ID") || bytes.Contains([]byte(stderr), []byte("testsecret")) {
		t.Errorf("no credentials: %d: %s", code, stderr)
	}
}
