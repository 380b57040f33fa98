package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// Download brings whole files of the snapshot into the Hub cache, where huggingface_hub finds them, and from where files
// that are opened afterwards are read. What is there already is not fetched. Ranges are fetched in parallel and written
// in order, so that an interrupted download goes on where it was. Every file is held to its digest before it gets its
// name.
func (s *Snapshot) Download(ctx context.Context, names ...string) error {
	cache := s.c.cache
	if cache == "" {
		return fmt.Errorf("download %s: there is no cache folder: set HF_HOME or HF_HUB_CACHE", s.repo)
	}
	ctx, cancel := mergeCancel(ctx, s.ctx)
	defer cancel()
	for _, name := range names {
		e, ok := s.entry(name)
		if !ok {
			return fmt.Errorf("download %s: %w", name, s.missing())
		}
		if err := s.download(ctx, e); err != nil {
			return fmt.Errorf("download %s: %w", name, err)
		}
	}
	if isCommit(s.rev) {
		return nil
	}
	return writeAtomically(cache.ref(s.repo, s.rev), []byte(s.commit))
}

// mergeCancel is ctx that also ends with other.
func mergeCancel(ctx, other context.Context) (context.Context, func()) {
	merged, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(other, func() { cancel(context.Cause(other)) })
	return merged, func() { stop(); cancel(nil) }
}

func (s *Snapshot) download(ctx context.Context, e Entry) error {
	cache := s.c.cache
	pointer := filepath.Join(cache.snapshot(s.repo, s.commit), filepath.FromSlash(e.Path))
	if st, err := os.Stat(pointer); err == nil && st.Size() == e.Size {
		return nil
	}
	if s.c.offline {
		return fmt.Errorf("%w: it is not in the cache %s", ErrOffline, cache)
	}
	if e.etag() == "" {
		var err error
		if e, err = s.askETag(ctx, e); err != nil {
			return err
		}
	}
	blob := cache.blob(s.repo, e.etag())
	for _, dir := range []string{filepath.Dir(blob), filepath.Dir(pointer), filepath.Dir(cache.lock(s.repo, e.etag()))} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
	}
	unlock, err := lockFile(ctx, cache.lock(s.repo, e.etag()))
	if err != nil {
		return err
	}
	defer unlock()
	if st, err := os.Stat(blob); err != nil || st.Size() != e.Size {
		if err := s.fetchBlob(ctx, e, blob); err != nil {
			return err
		}
		s.c.log.Info("downloaded", "repo", s.repo, "file", e.Path, "bytes", e.Size)
	}
	return link(blob, pointer)
}

// askETag asks for the ETag of a file for which the listing names no digest; the cache names blobs by it.
func (s *Snapshot) askETag(ctx context.Context, e Entry) (Entry, error) {
	o := s.object(ctx, e)
	err := s.c.retry.do(ctx, s.c.log, o.subject.op, func() error {
		resp, err := s.c.send(ctx, &s.m, http.MethodHead, o.stable, "")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return s.c.failed(o.subject, resp)
		}
		if size, ok := sizeOf(resp); ok && size != e.Size {
			return fmt.Errorf("%w: the file has %d bytes, %d were listed", ErrMismatch, size, e.Size)
		}
		tag := etag(first(resp.linked.Get("X-Linked-Etag"), resp.Header.Get("ETag")))
		switch {
		case isHex(tag, 64):
			e.SHA256 = tag
		case isHex(tag, 40):
			e.BlobID = tag
		default:
			return fmt.Errorf("%w: the server names neither digest nor usable ETag (%q), without which it cannot be cached", ErrProtocol, s.c.clean(tag))
		}
		return nil
	})
	return e, err
}

// fetchBlob writes the file's content to blob by way of blob.incomplete, of which it keeps what is there.
func (s *Snapshot) fetchBlob(ctx context.Context, e Entry, blob string) error {
	partial := blob + ".incomplete"
	f, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	have := st.Size()
	if have > e.Size {
		have = 0
	}
	err = s.fillBlob(ctx, e, f, have)
	if errors.Is(err, ErrMismatch) && have > 0 {
		// What was there before us may be to blame.
		s.c.log.Warn("partial download does not fit: starting again", "file", partial)
		err = s.fillBlob(ctx, e, f, 0)
	}
	if errors.Is(err, ErrMismatch) {
		return errors.Join(err, os.Remove(partial))
	}
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(partial, blob); err != nil {
		return err
	}
	return syncDir(filepath.Dir(blob))
}

// fillBlob appends to the first have bytes of f until the file is whole, and checks the digest.
func (s *Snapshot) fillBlob(ctx context.Context, e Entry, f *os.File, have int64) error {
	if err := f.Truncate(have); err != nil {
		return err
	}
	sum := newDigest(e)
	if sum == nil {
		return fmt.Errorf("%w: %s names no digest", ErrProtocol, e.Path)
	}
	if _, err := io.Copy(sum, &ctxReader{ctx, io.NewSectionReader(f, 0, have)}); err != nil {
		return err
	}
	o := s.object(ctx, e)
	defer o.whole.close()

	// A window of blocks is fetched at once; they are written and hashed in order, so that the file is always a prefix.
	type block struct {
		buf    []byte
		off    int64
		pooled bool
		err    chan error
	}
	ctx, cancel := context.WithCancel(ctx)
	var queue []*block // being fetched, by offset
	defer func() {
		cancel()
		for _, b := range queue {
			<-b.err
			if b.pooled {
				s.c.pool.put(b.buf)
			}
		}
	}()
	for next := have; next < e.Size || len(queue) > 0; {
		ways := cap(s.c.slots)
		if o.inOrder() {
			ways = 1
		}
		for next < e.Size && len(queue) < ways {
			n := int(min(blockSize, e.Size-next))
			b := &block{buf: s.c.pool.get(n), off: next, err: make(chan error, 1)}
			b.pooled = b.buf != nil
			if !b.pooled {
				if len(queue) > 0 {
					break
				}
				b.buf = make([]byte, n) // one block is always allowed, so that a full pool cannot stop us
			}
			go func() { b.err <- o.readRange(ctx, b.buf, b.off) }()
			queue = append(queue, b)
			next += int64(n)
		}
		b := queue[0]
		if err := <-b.err; err != nil {
			b.err <- err // for the deferred wait
			return err
		}
		b.err <- nil
		if _, err := f.WriteAt(b.buf, b.off); err != nil {
			return err
		}
		sum.Write(b.buf)
		if b.pooled {
			s.c.pool.put(b.buf)
		}
		queue = queue[1:]
	}
	return sum.check()
}

// link makes pointer a relative link to blob, as huggingface_hub does, or a copy where links are not to be had.
func link(blob, pointer string) error {
	rel, err := filepath.Rel(filepath.Dir(pointer), blob)
	if err != nil {
		return err
	}
	temp := fmt.Sprintf("%s.%d.link", pointer, time.Now().UnixNano())
	if err := os.Symlink(rel, temp); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return err
		}
		return copyFile(blob, pointer)
	}
	if err := os.Rename(temp, pointer); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(filepath.Dir(pointer))
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	return replaceFile(to, func(w io.Writer) error {
		_, err := io.Copy(w, src)
		return err
	})
}

func writeAtomically(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	return replaceFile(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// replaceFile writes path by way of a temporary file beside it, so that nobody sees half of it.
func replaceFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(fmt.Sprintf("%s.%d.tmp", path, time.Now().UnixNano()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err = write(f); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename in dir durable. Systems that cannot open or sync a folder do not need it.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	d.Sync()
	return nil
}
