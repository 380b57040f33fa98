package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/minio/minio-go/v7"
)

// A RangeReader reads parts of published files, and asks its server for no
// more than those. It tries once: who reads has other places to go to.
type RangeReader interface {
	// String is the place as people write it, without secrets.
	String() string

	// OpenRange reads n bytes, at least one, of a file from an offset on.
	// The error wraps fs.ErrNotExist where there is no such file, and
	// ErrMismatch where it has another size.
	OpenRange(ctx context.Context, f Published, from, n int64) (io.ReadCloser, error)
}

// OpenReader returns a reader of the files at a target, which is written as
// for OpenEnv. It makes nothing there, and asks a registry for no more than
// the permission to pull.
func OpenReader(target string, getenv func(string) string) (RangeReader, error) {
	if !IsRemote(target) {
		path := strings.TrimPrefix(target, "file://")
		root, err := os.OpenRoot(path)
		if err != nil {
			return nil, err
		}
		return &folderReader{path, root}, nil
	}
	s, err := OpenEnv(target, getenv)
	if err != nil {
		return nil, err
	}
	if r, ok := s.(*repository); ok {
		r.scope = transport.PullScope
	}
	r, ok := s.(RangeReader)
	if !ok {
		return nil, fmt.Errorf("target %s: ranges of its files cannot be read", s)
	}
	return r, nil
}

// checkRange holds a range to its file.
func checkRange(f Published, from, n int64) error {
	if from < 0 || n < 1 || from > f.Size-n {
		return fmt.Errorf("read %d bytes of %s from byte %d: it has %d", n, shownName(f.Name), from, f.Size)
	}
	return CheckName(f.Name)
}

// folderReader reads a folder.
type folderReader struct {
	path string
	root *os.Root
}

func (r *folderReader) String() string { return r.path }

func (r *folderReader) OpenRange(_ context.Context, f Published, from, n int64) (io.ReadCloser, error) {
	if err := checkRange(f, from, n); err != nil {
		return nil, err
	}
	file, err := r.root.Open(f.Name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: is not a regular file", f.Name)
	}
	if err == nil && info.Size() != f.Size {
		err = fmt.Errorf("%s: has %d bytes, want %d: %w", f.Name, info.Size(), f.Size, ErrMismatch)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(file, from, n), file}, nil
}

// OpenRange implements RangeReader.
func (s *bucket) OpenRange(ctx context.Context, f Published, from, n int64) (io.ReadCloser, error) {
	if err := checkRange(f, from, n); err != nil {
		return nil, err
	}
	var o minio.GetObjectOptions
	if err := o.SetRange(from, from+n-1); err != nil {
		return nil, err
	}
	r, _, header, err := s.core.GetObject(ctx, s.bucket, s.prefix+f.Name, o)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.location(f.Name), s.fail(err))
	}
	if err := checkContentRange(header.Get("Content-Range"), f.Size, from, n); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", s.location(f.Name), err), r.Close())
	}
	return r, nil
}

// checkContentRange says whether an answer is the range that was asked for.
func checkContentRange(got string, size, from, n int64) error {
	if want := fmt.Sprintf("bytes %d-%d/%d", from, from+n-1, size); got != want {
		return fmt.Errorf("content-range is %.80q, want %q: %w", got, want, ErrMismatch)
	}
	return nil
}

// OpenRange implements RangeReader: f is the blob with its digest.
func (r *repository) OpenRange(ctx context.Context, f Published, from, n int64) (io.ReadCloser, error) {
	if err := checkRange(f, from, n); err != nil {
		return nil, err
	}
	digest := "sha256:" + f.SHA256
	res, err := r.do(ctx, call{
		method: http.MethodGet, url: r.base + "/blobs/" + digest,
		header: map[string]string{"Accept": "*/*", "Range": fmt.Sprintf("bytes=%d-%d", from, from+n-1)},
		want:   []int{http.StatusOK, http.StatusPartialContent},
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", r.location(digest), err)
	}
	if res.StatusCode == http.StatusPartialContent {
		err = checkContentRange(res.Header.Get("Content-Range"), f.Size, from, n)
	} else {
		// The registry, or the store behind it, does not know ranges.
		if res.ContentLength >= 0 && res.ContentLength != f.Size {
			err = fmt.Errorf("%d bytes are announced, want %d: %w", res.ContentLength, f.Size, ErrMismatch)
		} else if _, err = io.CopyN(io.Discard, res.Body, from); err != nil {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", r.location(digest), err), res.Body.Close())
	}
	return res.Body, nil
}
