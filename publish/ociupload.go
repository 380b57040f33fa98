package publish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/internal/filelock"
)

// ociUpload is a blob on its way. The protocol takes chunks in order; after a
// failure the registry is asked how far it got. What is needed to go on after
// a kill, the upload's address and the state of the digest, is kept in a file
// of this machine, whose lock keeps a second process away.
type ociUpload struct {
	r         *repository
	file      File
	opts      Options
	published Published

	kept *os.File // nil where nothing can be kept
	root *os.Root
	mark ociMarker
	off  int64 // that the registry has
}

// ociMarker is the content of the kept file.
type ociMarker struct {
	Version    int       `json:"modelpipe_upload"`
	Repository string    `json:"repository"`
	Name       string    `json:"name"`
	Identity   string    `json:"identity"`
	Size       int64     `json:"size"`
	URL        string    `json:"url"` // of the upload
	Started    time.Time `json:"started"`
	Chunk      int64     `json:"chunk"` // size of what is sent at once
	State      state     `json:"state"` // of so many chunks
}

// chunkSize is the size of the chunks of an upload.
func chunkSize(asked int64) int64 {
	if asked <= 0 {
		return chunkBytes
	}
	return min((asked+pieceBytes-1)/pieceBytes*pieceBytes, partMemory/3)
}

// errLost says that the registry no longer has an upload, or not all of it.
var errLost = errors.New("the registry has lost the upload")

// keptFolder is where unfinished uploads are kept: of this user alone, for
// their addresses can hold secrets.
func (r *repository) keptFolder() (*os.Root, error) {
	dir := r.cache
	if !filepath.IsAbs(dir) {
		var err error
		if dir, err = os.UserCacheDir(); err != nil {
			return nil, err
		}
	}
	dir = filepath.Join(dir, "modelpipe", "uploads")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

func (r *repository) keptName(name string) string {
	sum := sha256.Sum256([]byte(r.base + "\n" + name))
	return hex.EncodeToString(sum[:16]) + ".json"
}

// upload brings the file to the registry and reads it back. known is the
// manifest of the tag as it was, or nil.
func (u *ociUpload) upload(ctx context.Context, known *manifest) error {
	f := u.file
	if f.Size == 0 {
		return errors.New("is empty")
	}
	if ok, err := u.existing(ctx, known); ok || err != nil {
		return err
	}
	if f.Size <= smallBlob {
		return u.sendSmall(ctx)
	}
	if err := u.keep(ctx); err != nil {
		return err
	}
	for try := 0; ; try++ {
		err := u.send(ctx)
		if err == nil {
			break
		}
		// What was gone on with may have been of other content.
		again := errors.Is(err, errLost) || errors.Is(err, ErrMismatch) && u.published.Resumed > 0
		if !again || try == 2 || ctx.Err() != nil {
			if ctx.Err() == nil && !u.opts.Keep(err) {
				u.drop(context.WithoutCancel(ctx))
			}
			return err
		}
		u.opts.Log.Warn("the upload begins anew", "name", f.Name, "error", err)
		u.opts.Progress.Done.Add(-u.off)
		u.drop(ctx)
		u.mark.URL, u.mark.State, u.off, u.published.Resumed = "", state{}, 0, 0
		if err := u.keep(ctx); err != nil {
			return err
		}
	}
	u.published.Location = u.r.location("sha256:" + u.published.SHA256)
	err := u.readBack(ctx)
	if err == nil || !u.opts.Keep(err) {
		u.forget()
	}
	return err
}

// smallBlob is up to which size a blob is sent in one request.
const smallBlob = 4 << 20

// sendSmall sends a small file in one request.
func (u *ociUpload) sendSmall(ctx context.Context) error {
	data := make([]byte, u.file.Size)
	if err := readFull(u.file.Content, data, 0); err != nil {
		return err
	}
	u.published.SHA256 = strings.TrimPrefix(digestOf(data), "sha256:")
	if err := checkDigest(u.file, u.published.SHA256); err != nil {
		return err
	}
	if err := u.r.putBlob(ctx, data); err != nil {
		return err
	}
	u.published.Location = u.r.location("sha256:" + u.published.SHA256)
	u.opts.Progress.Done.Add(u.file.Size)
	return u.readBack(ctx)
}

// existing says whether the registry has the blob already.
func (u *ociUpload) existing(ctx context.Context, known *manifest) (bool, error) {
	f, sum := u.file, u.file.SHA256
	if sum == "" {
		// Find out where it is cheap, or where the tag has such a file.
		expected := false
		if known != nil {
			l, ok := known.layer(f.Name)
			expected = ok && l.Size == f.Size
		}
		if f.Size > smallBlob && !expected {
			return false, nil
		}
		d, err := digestContent(ctx, f, u.opts.Threads)
		if err != nil {
			return false, err
		}
		sum = d.sha256()
	}
	res, err := u.r.again(ctx, call{method: http.MethodHead, url: u.r.base + "/blobs/sha256:" + sum, want: []int{200}})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	res.Body.Close()
	if res.ContentLength >= 0 && res.ContentLength != f.Size {
		return false, fmt.Errorf("the registry has sha256:%s with %d bytes: want %d: %w", sum, res.ContentLength, f.Size, ErrMismatch)
	}
	u.published.SHA256, u.published.Existed = sum, true
	u.published.Location = u.r.location("sha256:" + sum)
	u.opts.Progress.Done.Add(f.Size)
	if f.SHA256 != "" {
		d, err := digestContent(ctx, f, u.opts.Threads)
		if err != nil {
			return false, err
		}
		if err := checkDigest(f, d.sha256()); err != nil {
			return false, err
		}
	}
	return true, u.readBack(ctx)
}

// readBack compares what the registry has with what was sent.
func (u *ociUpload) readBack(ctx context.Context) error {
	if u.opts.TrustChecksum {
		return nil // the registry has checked the digest before it answered
	}
	want := descriptor{Digest: "sha256:" + u.published.SHA256, Size: u.file.Size}
	back, err := readBack(ctx, func(ctx context.Context, from int64) (io.ReadCloser, int64, error) {
		return u.r.openBlob(ctx, want, from)
	}, u.file.Size)
	if err != nil {
		return err
	}
	if got := back.sha256(); got != u.published.SHA256 {
		return fmt.Errorf("read back: sha256 is %s: %s was sent: %w", got, u.published.SHA256, ErrMismatch)
	}
	return nil
}

// keep opens the kept file, takes its lock, and takes over what it says.
func (u *ociUpload) keep(ctx context.Context) error {
	fresh := ociMarker{Version: 1, Repository: u.r.base, Name: u.file.Name, Identity: u.file.Identity, Size: u.file.Size, Chunk: chunkSize(u.opts.PartSize), Started: time.Now().UTC()}
	u.mark = fresh
	if u.kept != nil {
		return nil
	}
	root, err := u.r.keptFolder()
	if err != nil {
		u.opts.Log.Debug("unfinished uploads cannot be kept", "error", err)
		return nil
	}
	kept, err := lockFile(ctx, root, u.r.keptName(u.file.Name), false)
	if err != nil {
		root.Close()
		if errors.Is(err, errors.ErrUnsupported) {
			return nil
		}
		return err
	}
	u.kept, u.root = kept, root
	var old ociMarker
	data, err := io.ReadAll(io.LimitReader(kept, errorLimit))
	if err != nil || json.Unmarshal(data, &old) != nil || old.URL == "" || old.Version != 1 || old.Repository != u.r.base || old.Chunk != chunkSize(old.Chunk) || old.State.Parts < 0 {
		return nil // none, or cut short
	}
	u.mark = old
	if !u.opts.Resume {
		u.opts.Log.Warn("what an interrupted run has left is thrown away: --resume would have gone on with it", "name", u.file.Name)
		u.cancel(ctx)
		u.mark = fresh
		return nil
	}
	if old.Size != u.file.Size || old.Identity != u.file.Identity {
		return errors.New("cannot go on with it: it was made from another source, with other options or by another version: publish again without --resume")
	}
	return nil
}

// save writes the kept file.
func (u *ociUpload) save() error {
	if u.kept == nil {
		return nil
	}
	data, err := json.Marshal(u.mark)
	if err == nil {
		_, err = u.kept.WriteAt(data, 0)
	}
	if err == nil {
		err = u.kept.Truncate(int64(len(data)))
	}
	if err != nil {
		return fmt.Errorf("keep the upload: %w", err)
	}
	return nil
}

// forget takes the kept file away.
func (u *ociUpload) forget() {
	if u.kept != nil {
		u.root.Remove(u.r.keptName(u.file.Name))
	}
	u.close()
}

// close gives the lock back.
func (u *ociUpload) close() {
	if u.kept != nil {
		filelock.Release(u.kept)
		u.root.Close()
		u.kept = nil
	}
}

// drop cancels the upload and takes the kept file away.
func (u *ociUpload) drop(ctx context.Context) {
	u.cancel(ctx)
	u.forget()
}

// cancel tells the registry that the upload is given up; one that does not
// hear it clears it in time.
func (u *ociUpload) cancel(ctx context.Context) {
	if u.mark.URL == "" {
		return
	}
	if err := u.r.cancelUpload(ctx, u.mark.URL); err != nil {
		u.opts.Log.Debug("the registry did not take the upload back", "error", err)
	}
}

func (r *repository) cancelUpload(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	res, err := r.do(ctx, call{method: http.MethodDelete, url: address, want: []int{204, 200, 202, 404}})
	if err == nil {
		res.Body.Close()
	}
	return err
}

// send sends what the registry does not have, and completes the blob.
func (u *ociUpload) send(ctx context.Context) error {
	f := u.file
	if u.mark.URL == "" {
		if err := u.start(ctx); err != nil {
			return fmt.Errorf("begin upload: %w", err)
		}
	} else {
		if err := u.ask(ctx); err != nil {
			return err
		}
		if f.Identity == "" || u.off < min(f.Size, int64(u.mark.State.Parts)*u.mark.Chunk) {
			u.mark.State = state{} // the digest begins with the first byte
		}
		u.published.Resumed = u.off
		u.opts.Progress.Done.Add(u.off)
		u.opts.Log.Info("going on with an unfinished upload", "name", f.Name, "bytes", u.off, "of", f.Size)
	}
	d, err := u.mark.State.restore()
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	front := newFrontier(u.mark.State)
	st := &stream{content: f.Content, size: f.Size, part: u.mark.Chunk, first: u.mark.State.Parts, threads: u.opts.Threads, senders: 1, buffers: 3}
	st.digest = func(p part) error {
		d.write(p.data)
		s, err := d.state(p.n + 1)
		if err != nil {
			return err
		}
		front.digested(s)
		return nil
	}
	st.deliver = func(ctx context.Context, p part) error {
		if err := u.chunk(ctx, p); err != nil {
			return fmt.Errorf("upload at byte %d: %w", u.off, err)
		}
		front.deliveredPart(p.n)
		u.mark.State = front.state()
		return u.save()
	}
	if err := st.run(ctx); err != nil {
		return err
	}
	u.published.SHA256 = d.sha256()
	if err := checkDigest(f, u.published.SHA256); err != nil {
		u.published.Resumed = 0 // it is the content that differs
		return err
	}
	return u.complete(ctx)
}

// start begins an upload.
func (u *ociUpload) start(ctx context.Context) error {
	res, err := u.r.again(ctx, call{method: http.MethodPost, url: u.r.base + "/blobs/uploads/", want: []int{202}})
	if err != nil {
		return err
	}
	res.Body.Close()
	u.off = 0
	if u.mark.URL, err = u.r.resolve(res); err != nil {
		return err
	}
	return u.save()
}

// resolve returns the address that an answer names for the next request.
func (r *repository) resolve(res *http.Response) (string, error) {
	at, err := res.Request.URL.Parse(res.Header.Get("Location"))
	switch {
	case err != nil || res.Header.Get("Location") == "":
		return "", fmt.Errorf("location %.80q: %w", res.Header.Get("Location"), ErrProtocol)
	case at.Scheme != "https" && at.Scheme != "http" || at.Scheme == "http" && res.Request.URL.Scheme == "https":
		return "", fmt.Errorf("location with the scheme %.20q: %w", at.Scheme, ErrProtocol)
	}
	return at.String(), nil
}

// ask asks how far the upload is.
func (u *ociUpload) ask(ctx context.Context) error {
	res, err := u.r.again(ctx, call{method: http.MethodGet, url: u.mark.URL, want: []int{204, 202, 200}})
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrProtocol) || errors.Is(err, ErrRefused) {
			return fmt.Errorf("%w: %w", errLost, err)
		}
		return err
	}
	res.Body.Close()
	return u.got(res)
}

// got takes over what an answer says of the upload.
func (u *ociUpload) got(res *http.Response) error {
	var err error
	if u.mark.URL, err = u.r.resolve(res); err != nil {
		return err
	}
	var from, end int64
	text := strings.TrimPrefix(res.Header.Get("Range"), "bytes=")
	if n, _ := fmt.Sscanf(text, "%d-%d", &from, &end); n != 2 || from != 0 || end < 0 || end >= u.file.Size {
		return fmt.Errorf("range %.80q of an upload of %d bytes: %w", text, u.file.Size, ErrProtocol)
	}
	u.off = end + 1
	if end == 0 {
		u.off = 0 // that is how nothing is written; one byte is sent again
	}
	return nil
}

// chunk sends what the registry lacks of a part.
func (u *ociUpload) chunk(ctx context.Context, p part) error {
	end := p.off + int64(len(p.data))
	for try := 0; u.off < end; try++ {
		if u.off < p.off {
			return fmt.Errorf("%w: it has %d bytes: %d were sent", errLost, u.off, p.off)
		}
		before := u.off
		err := u.patch(ctx, p.data[u.off-p.off:])
		if err == nil && u.off != end {
			err = fmt.Errorf("the registry has %d bytes: %d were sent: %w", u.off, end, ErrUnavailable)
		}
		if err == nil {
			u.opts.Progress.Done.Add(u.off - before)
			return nil
		}
		if !errors.Is(err, ErrUnavailable) || ctx.Err() != nil || try == tries {
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w: %w", errLost, err)
			}
			return err
		}
		u.opts.Log.Debug("a chunk has to be sent again", "name", u.file.Name, "at", u.off, "error", err)
		if err := pause(ctx, try); err != nil {
			return err
		}
		if err := u.ask(ctx); err != nil {
			return err
		}
		if u.off > before {
			try = 0
		}
		u.opts.Progress.Done.Add(max(0, u.off-before))
	}
	return nil
}

// patch sends bytes at the end of what the registry has.
func (u *ociUpload) patch(ctx context.Context, p []byte) error {
	ctx, cancel := within(ctx, int64(len(p)))
	defer cancel()
	res, err := u.r.do(ctx, call{method: http.MethodPatch, url: u.mark.URL, want: []int{202}, body: p, header: map[string]string{
		"Content-Type":  "application/octet-stream",
		"Content-Range": fmt.Sprintf("%d-%d", u.off, u.off+int64(len(p))-1),
	}})
	if err != nil {
		return err
	}
	res.Body.Close()
	return u.got(res)
}

// complete makes a blob of the upload.
func (u *ociUpload) complete(ctx context.Context) error {
	at, err := url.Parse(u.mark.URL)
	if err != nil {
		return fmt.Errorf("complete upload: %w", withoutURL(err))
	}
	q := at.Query()
	q.Set("digest", "sha256:"+u.published.SHA256)
	at.RawQuery = q.Encode()
	res, err := u.r.again(ctx, call{method: http.MethodPut, url: at.String(), want: []int{201, 204, 202}, header: map[string]string{"Content-Type": "application/octet-stream"}})
	if err != nil {
		// The answer to an earlier try may have been lost.
		head, herr := u.r.again(ctx, call{method: http.MethodHead, url: u.r.base + "/blobs/sha256:" + u.published.SHA256, want: []int{200}})
		if herr == nil {
			head.Body.Close()
			return nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %w", errLost, err)
		}
		return fmt.Errorf("complete upload: %w", err)
	}
	res.Body.Close()
	return nil
}

// putBlob uploads a small blob, unless it is there.
func (r *repository) putBlob(ctx context.Context, b []byte) error {
	digest := digestOf(b)
	for try := 0; ; try++ {
		res, err := r.again(ctx, call{method: http.MethodHead, url: r.base + "/blobs/" + digest, want: []int{200}})
		if err == nil {
			res.Body.Close()
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err = r.postBlob(ctx, b, digest); err == nil {
			return nil
		}
		if !errors.Is(err, ErrUnavailable) || try == tries || ctx.Err() != nil {
			return err
		}
		if perr := pause(ctx, try); perr != nil {
			return err
		}
	}
}

func (r *repository) postBlob(ctx context.Context, b []byte, digest string) error {
	res, err := r.do(ctx, call{method: http.MethodPost, url: r.base + "/blobs/uploads/", want: []int{202}})
	if err != nil {
		return err
	}
	res.Body.Close()
	address, err := r.resolve(res)
	if err != nil {
		return err
	}
	at, err := url.Parse(address)
	if err != nil {
		return withoutURL(err)
	}
	q := at.Query()
	q.Set("digest", digest)
	at.RawQuery = q.Encode()
	res, err = r.do(ctx, call{method: http.MethodPut, url: at.String(), want: []int{201, 204, 202}, body: b, header: map[string]string{"Content-Type": "application/octet-stream"}})
	if err != nil {
		return err
	}
	res.Body.Close()
	return nil
}

// withoutURL takes the address out of an error, which may hold a secret.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// Abandoned implements Sink. It knows of the uploads of this machine; a
// registry does not list them, and clears them in time.
func (r *repository) Abandoned(ctx context.Context) ([]Rest, error) {
	root, err := r.keptFolder()
	if err != nil {
		return nil, fmt.Errorf("list the uploads of %s: %w", r, err)
	}
	defer root.Close()
	var rests []Rest
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("list the uploads of %s: %w", r, err)
	}
	for _, e := range entries {
		m, busy, err := r.readKept(root, e.Name())
		if err != nil || busy || m.Repository != r.base {
			continue // of others, gone, or cut short
		}
		rests = append(rests, Rest{Name: m.Name, ID: e.Name(), Size: min(m.Size, int64(m.State.Parts)*m.Chunk), Started: m.Started})
	}
	return rests, ctx.Err()
}

// readKept reads a kept file and says whether a process holds it.
func (r *repository) readKept(root *os.Root, name string) (m ociMarker, busy bool, err error) {
	f, err := root.Open(name)
	if err != nil {
		return m, false, err
	}
	defer f.Close()
	if filelock.Held(f) {
		return m, true, nil
	}
	data, err := io.ReadAll(io.LimitReader(f, errorLimit))
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	return m, false, err
}

// Discard implements Sink.
func (r *repository) Discard(ctx context.Context, rest Rest) error {
	root, err := r.keptFolder()
	if err != nil {
		return fmt.Errorf("discard: %w", err)
	}
	defer root.Close()
	m, busy, err := r.readKept(root, rest.ID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("discard %s: %w", shownName(rest.Name), err)
	case busy:
		return fmt.Errorf("discard %s: %w", shownName(rest.Name), ErrBusy)
	case m.Repository != r.base || m.Name != rest.Name:
		return fmt.Errorf("discard %s: is not an upload to %s", shownName(rest.Name), r)
	}
	if err := r.cancelUpload(ctx, m.URL); err != nil {
		return fmt.Errorf("discard %s: %w", shownName(rest.Name), err)
	}
	if err := root.Remove(rest.ID); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("discard %s: %w", shownName(rest.Name), err)
	}
	return nil
}
