package publish_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/publish/publishtest"
)

// TestOpenReader reads ranges of what was published, from every kind of
// target.
func TestOpenReader(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	s3 := s3Environment(publishtest.NewS3(t).URL)
	oci := map[string]string{"XDG_CACHE_HOME": t.TempDir()}
	registry := strings.TrimPrefix(publishtest.NewRegistry(t), "http://")
	for _, c := range []struct {
		target string
		vars   map[string]string
	}{
		{t.TempDir(), nil}, {"s3://bucket/models/team", s3}, {"oci://" + registry + "/team/model:q8_0", oci},
	} {
		rec, err := open(t, c.target, c.vars).Publish(t.Context(), &publish.Artifact{
			Files: []publish.File{{Name: "model.gguf", Role: publish.RoleModel, Size: int64(len(data)), Content: bytes.NewReader(data)}},
			Model: publish.Model{Name: "model", Family: "llama", Parameters: 1, Quantization: "Q8_0"},
		}, publish.Options{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := publish.OpenReader(c.target, environment(c.vars))
		if err != nil {
			t.Fatal(err)
		}
		f := rec.Files[0]
		for _, span := range [][2]int64{{0, 1}, {0, f.Size}, {5, 11}, {f.Size - 1, 1}} {
			body, err := r.OpenRange(t.Context(), f, span[0], span[1])
			if err != nil {
				t.Fatalf("%s: %v", r, err)
			}
			got, err := io.ReadAll(body)
			if err = errors.Join(err, body.Close()); err != nil || !bytes.Equal(got, data[span[0]:span[0]+span[1]]) {
				t.Errorf("%s: %v: %d bytes, %v", r, span, len(got), err)
			}
		}
		for _, span := range [][2]int64{{-1, 1}, {0, 0}, {0, f.Size + 1}, {f.Size, 1}, {1 << 62, 1 << 62}} {
			if _, err := r.OpenRange(t.Context(), f, span[0], span[1]); err == nil {
				t.Errorf("%s: %v was read", r, span)
			}
		}
		for _, name := range []string{"../model.gguf", "/etc/passwd", ""} {
			bad := f
			bad.Name = name
			if _, err := r.OpenRange(t.Context(), bad, 0, 1); err == nil {
				t.Errorf("%s: %q was read", r, name)
			}
		}
		gone := f
		gone.Name, gone.SHA256 = "other.gguf", strings.Repeat("0", 64)
		if _, err := r.OpenRange(t.Context(), gone, 0, 1); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v", r, err)
		}
		larger := f
		larger.Size++
		if _, err := r.OpenRange(t.Context(), larger, 0, 1); !errors.Is(err, publish.ErrMismatch) {
			t.Errorf("%s: another size: got %v", r, err)
		}
	}
	missing := t.TempDir() + "/missing"
	if _, err := publish.OpenReader(missing, os.Getenv); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("a folder was made")
	}
}
