package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// The Hub cache, as huggingface_hub lays it out (file_download.py, "How to manage the cache"):
//
//	models--org--name/blobs/ETAG                 the content; ETAG is the sha256 (LFS) or the git blob id
//	models--org--name/snapshots/COMMIT/PATH      a relative link to the blob
//	models--org--name/refs/REVISION              the commit that REVISION was when it was last asked for
//	.locks/models--org--name/ETAG.lock           held (flock) while the blob is written
//
// cacheDir is the folder that holds it all; empty means that there is no cache.
type cacheDir string

func (c cacheDir) repo(id string) string {
	return filepath.Join(string(c), "models--"+strings.ReplaceAll(id, "/", "--"))
}

func (c cacheDir) blob(id, etag string) string {
	return filepath.Join(c.repo(id), "blobs", etag)
}

func (c cacheDir) snapshot(id, commit string) string {
	return filepath.Join(c.repo(id), "snapshots", commit)
}

func (c cacheDir) ref(id, revision string) string {
	return filepath.Join(c.repo(id), "refs", filepath.FromSlash(revision))
}

func (c cacheDir) lock(id, etag string) string {
	return filepath.Join(string(c), ".locks", filepath.Base(c.repo(id)), etag+".lock")
}

// commit is what the cache last knew revision to be.
func (c cacheDir) commit(id, revision string) (string, error) {
	if c == "" {
		return "", fmt.Errorf("there is no cache folder: set HF_HOME or HF_HUB_CACHE")
	}
	if isCommit(revision) {
		if _, err := os.Stat(c.snapshot(id, revision)); err != nil {
			return "", err
		}
		return revision, nil
	}
	text, err := readSmall(c.ref(id, revision), 256)
	if err != nil {
		return "", err
	}
	commit := strings.TrimSpace(string(text))
	if !isCommit(commit) {
		return "", fmt.Errorf("%s: %q is not a commit id", c.ref(id, revision), commit)
	}
	return commit, nil
}

// open returns the cached file for e, or nil: by its path in the snapshot, else by its blob, which another commit may
// have brought. A file of another size is left alone, as if it were not there.
func (c cacheDir) open(id, commit string, e Entry) *os.File {
	if c == "" {
		return nil
	}
	paths := []string{filepath.Join(c.snapshot(id, commit), filepath.FromSlash(e.Path))}
	if e.etag() != "" {
		paths = append(paths, c.blob(id, e.etag()))
	}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() && st.Size() == e.Size {
			return f
		}
		f.Close()
	}
	return nil
}

// listCached takes the commit and the files from the cache.
func (s *Snapshot) listCached() error {
	sub := s.subject("list", "")
	commit, err := s.c.cache.commit(s.repo, s.rev)
	if err != nil {
		return fmt.Errorf("%s: %w: it is not in the cache %s: unset HF_HUB_OFFLINE, or download it first (%w)", sub.op, ErrOffline, s.c.cache, err)
	}
	s.commit = commit
	root := s.c.cache.snapshot(s.repo, commit)
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if len(s.entries) > maxEntries {
			return fmt.Errorf("more than %d files", maxEntries)
		}
		st, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a link whose blob is gone: as if the file were not cached
		}
		if err != nil || !st.Mode().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		e := Entry{Path: filepath.ToSlash(rel), Size: st.Size()}
		if target, err := os.Readlink(path); err == nil {
			switch name := filepath.Base(target); {
			case isHex(name, 64):
				e.SHA256 = name
			case isHex(name, 40):
				e.BlobID = name
			}
		}
		s.entries = append(s.entries, e)
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: read the cache: %w", sub.op, err)
	}
	s.c.log.Warn("offline: files that were never downloaded look as if the repository did not have them",
		"repo", s.repo, "commit", commit, "files", len(s.entries))
	return nil
}

// local is a file found in the cache. Reads go to the disk; its digest is checked by Verify alone, for whoever wrote it
// into the cache has checked it once.
type local struct {
	f     *os.File
	entry Entry
	ctx   context.Context

	mu       sync.Mutex
	touched  bool
	verified bool
	bad      error
}

func (l *local) ReadAt(p []byte, off int64) (int, error) {
	if l.ctx.Err() != nil {
		return 0, context.Cause(l.ctx)
	}
	l.mu.Lock()
	l.touched = true
	bad := l.bad
	l.mu.Unlock()
	if bad != nil {
		return 0, bad
	}
	return l.f.ReadAt(p, off)
}

func (l *local) missing() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.touched || l.verified || newDigest(l.entry) == nil {
		return 0
	}
	return l.entry.Size
}

func (l *local) mismatch() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bad
}

func (l *local) verify(ctx context.Context) error {
	sum := newDigest(l.entry)
	if sum == nil {
		return nil
	}
	if _, err := io.Copy(sum, &ctxReader{ctx, io.NewSectionReader(l.f, 0, l.entry.Size)}); err != nil {
		return err
	}
	err := sum.check()
	if err != nil {
		err = fmt.Errorf("%s in the cache: %w", l.f.Name(), err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.verified, l.bad = true, err
	return err
}

// ctxReader ends a long copy with its context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
