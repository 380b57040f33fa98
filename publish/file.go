package publish

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/internal/filelock"
)

func init() { register(kind{scheme: "file", open: openFolder}) }

// folder is a sink and a store in a folder. Files grow as NAME.partial, which
// is also the lock that keeps a second process away, and are linked to their
// name when they are on the disk. The objects of a store are written under
// the lock lockName and renamed. Nothing outside of the folder is touched,
// whatever symbolic links it holds.
type folder struct {
	path string
	root *os.Root
}

// lockName is the file whose lock guards the objects of a folder.
const lockName = ".publish.lock"

// openFolder opens a path or a file URL, and creates the folder.
func openFolder(target string, _ func(string) string) (Sink, error) {
	p := target
	if strings.HasPrefix(target, "file://") {
		u, err := url.Parse(target)
		if err != nil || u.Host != "" && u.Host != "localhost" || !path.IsAbs(u.Path) || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("target %s: want file:///folder", shown(target))
		}
		p = filepath.FromSlash(u.Path)
	}
	if p == "" {
		return nil, errors.New("target is empty: want the path of a folder")
	}
	if err := os.MkdirAll(p, 0o777); err != nil {
		return nil, fmt.Errorf("target %s: %w", shown(target), err)
	}
	root, err := os.OpenRoot(p)
	if err != nil {
		return nil, fmt.Errorf("target %s: %w", shown(target), err)
	}
	return &folder{path: p, root: root}, nil
}

func (s *folder) String() string { return s.path }

// Publish implements Sink.
func (s *folder) Publish(ctx context.Context, a *Artifact, opts Options) (_ *Receipt, err error) {
	if err := checkArtifact(a); err != nil {
		return nil, fmt.Errorf("publish to %s: %w", s, err)
	}
	opts = opts.filled()
	receipt := &Receipt{Target: s.String()}
	var partials []*partial
	defer func() {
		for _, p := range partials {
			p.end(err == nil || ctx.Err() != nil || opts.Keep(err))
		}
	}()
	for _, f := range asFiles(a) {
		p := &partial{root: s.root, published: Published{Name: f.Name, Location: filepath.Join(s.path, filepath.FromSlash(f.Name)), Size: f.Size}}
		partials = append(partials, p)
		if err := s.write(ctx, f, opts, p); err != nil {
			return nil, fmt.Errorf("publish %s to %s: %w", f.Name, s, err)
		}
		receipt.Files = append(receipt.Files, p.published)
	}
	if opts.BeforeNaming != nil {
		if err := opts.BeforeNaming(ctx); err != nil {
			return nil, err
		}
	}
	for _, p := range partials {
		if err := p.name(); err != nil {
			return nil, fmt.Errorf("publish %s to %s: %w", p.published.Name, s, err)
		}
	}
	return receipt, nil
}

// partial is a file that has not got its name yet.
type partial struct {
	root      *os.Root
	file      *os.File // nil where the name is there already
	published Published
}

// write makes NAME.partial complete and durable.
func (s *folder) write(ctx context.Context, f File, opts Options, p *partial) error {
	if ok, err := s.existing(ctx, f, opts, p); ok || err != nil {
		return err
	}
	if dir := path.Dir(f.Name); dir != "." {
		if err := s.root.MkdirAll(dir, 0o777); err != nil {
			return err
		}
	}
	var err error
	if p.file, err = lockFile(ctx, s.root, f.Name+partialSuffix, false); err != nil {
		return err
	}
	// Another process may have published it before the lock was taken.
	if ok, err := s.existing(ctx, f, opts, p); ok || err != nil {
		p.end(false)
		return err
	}
	have := int64(0)
	if opts.Resume {
		info, err := p.file.Stat()
		if err != nil {
			return err
		}
		have = min(info.Size(), f.Size)
	} else if err := p.file.Truncate(0); err != nil {
		return err
	}
	d := newDigests()
	before := opts.Progress.Done.Load()
	st := &stream{content: f.Content, size: f.Size, part: 8 * pieceBytes, threads: opts.Threads, senders: 1, buffers: 4}
	st.digest = func(q part) error { d.write(q.data); return nil }
	old := make([]byte, min(st.part, max(have, 1)))
	st.deliver = func(_ context.Context, q part) error {
		opts.Progress.Done.Store(before + q.off + int64(len(q.data)))
		if end := q.off + int64(len(q.data)); end <= have {
			// The content is read again, and what is there compared with it.
			if err := readFull(p.file, old[:len(q.data)], q.off); err != nil {
				return err
			}
			if bytes.Equal(old[:len(q.data)], q.data) {
				p.published.Resumed += int64(len(q.data))
				return nil
			}
		}
		_, err := p.file.WriteAt(q.data, q.off)
		return err
	}
	if err := st.run(ctx); err != nil {
		return err
	}
	if err := p.file.Truncate(f.Size); err != nil {
		return err
	}
	p.published.SHA256 = d.sha256()
	if err := checkDigest(f, p.published.SHA256); err != nil {
		return err
	}
	if err := p.file.Sync(); err != nil {
		return err
	}
	back, err := digestReader(io.NewSectionReader(p.file, 0, f.Size+1), f.Size)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if got := back.sha256(); got != p.published.SHA256 {
		return fmt.Errorf("read back: sha256 is %s: %s was written: %w", got, p.published.SHA256, ErrMismatch)
	}
	return nil
}

// existing says whether the name is there with the same content. Other
// content is an error.
func (s *folder) existing(ctx context.Context, f File, opts Options, p *partial) (bool, error) {
	r, size, err := s.Open(ctx, f.Name, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer r.Close()
	if size != f.Size {
		return false, fmt.Errorf("%s is there with %d bytes: want %d: %w", p.published.Location, size, f.Size, ErrExists)
	}
	theirs, err := digestReader(r, size)
	if err != nil {
		return false, err
	}
	ours := f.SHA256
	if ours == "" {
		d, err := digestContent(ctx, f, opts.Threads)
		if err != nil {
			return false, err
		}
		ours = d.sha256()
	}
	if got := theirs.sha256(); got != ours {
		return false, fmt.Errorf("%s is there with sha256 %s: want %s: %w", p.published.Location, got, ours, ErrExists)
	}
	opts.Progress.Done.Add(f.Size)
	p.published.SHA256, p.published.Existed = ours, true
	return true, nil
}

// name gives the file its name, which nobody else may have taken.
func (p *partial) name() error {
	if p.file == nil {
		return nil
	}
	name := p.published.Name
	err := p.root.Link(name+partialSuffix, name)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s: another publisher was faster: %w", p.published.Location, ErrExists)
	case err != nil:
		// The file system has no links: the lock keeps publishers away.
		if _, serr := p.root.Lstat(name); serr == nil {
			return fmt.Errorf("%s: another publisher was faster: %w", p.published.Location, ErrExists)
		}
		if err := p.root.Rename(name+partialSuffix, name); err != nil {
			return err
		}
	default:
		if err := p.root.Remove(name + partialSuffix); err != nil {
			return err
		}
	}
	return syncDir(p.root, path.Dir(name))
}

// end gives the lock back, and takes away what is not to be kept.
func (p *partial) end(keep bool) {
	if p.file == nil {
		return
	}
	if !keep {
		p.root.Remove(p.published.Name + partialSuffix)
	}
	filelock.Release(p.file)
	p.file = nil
}

// Open implements Sink.
func (s *folder) Open(_ context.Context, name string, from int64) (io.ReadCloser, int64, error) {
	if err := CheckName(name); err != nil {
		return nil, 0, err
	}
	f, err := s.root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: is not a regular file", filepath.Join(s.path, name))
	}
	if err == nil && (from < 0 || from > info.Size()) {
		err = fmt.Errorf("read %s from byte %d: it has %d", filepath.Join(s.path, name), from, info.Size())
	}
	if err == nil {
		_, err = f.Seek(from, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// Abandoned implements Sink. It knows of the unfinished files of conversions
// too.
func (s *folder) Abandoned(ctx context.Context) ([]Rest, error) {
	var rests []Rest
	err := s.walk(ctx, func(name string, info fs.FileInfo) error {
		if !strings.HasSuffix(name, partialSuffix) && !strings.HasSuffix(name, journalSuffix) || s.busy(name) {
			return nil
		}
		base := strings.TrimSuffix(strings.TrimSuffix(name, journalSuffix), partialSuffix)
		rests = append(rests, Rest{Name: base, ID: name, Size: info.Size(), Started: info.ModTime()})
		return nil
	})
	return rests, err
}

// busy says whether a process is working at an unfinished file: it holds the
// lock on it or, in a conversion, on the journal beside it.
func (s *folder) busy(name string) bool {
	names := []string{name}
	if strings.HasSuffix(name, partialSuffix) {
		names = append(names, strings.TrimSuffix(name, partialSuffix)+journalSuffix)
	}
	return slices.ContainsFunc(names, func(n string) bool {
		f, err := s.root.Open(n)
		if err != nil {
			return false
		}
		defer f.Close()
		return filelock.Held(f)
	})
}

// Discard implements Sink.
func (s *folder) Discard(ctx context.Context, r Rest) error {
	if err := CheckName(r.Name); err != nil {
		return fmt.Errorf("discard: %w", err)
	}
	if r.ID != r.Name+partialSuffix && r.ID != r.Name+journalSuffix {
		return fmt.Errorf("discard %s: is not an unfinished file", shownName(r.ID))
	}
	if s.busy(r.ID) {
		return fmt.Errorf("discard %s: %w", r.ID, ErrBusy)
	}
	if err := s.root.Remove(r.ID); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("discard: %w", err)
	}
	return ctx.Err()
}

// walk calls f for each regular file.
func (s *folder) walk(ctx context.Context, f func(name string, info fs.FileInfo) error) error {
	return fs.WalkDir(s.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it is gone since
		}
		if err != nil {
			return err
		}
		return f(name, info)
	})
}

// Get implements Store.
func (s *folder) Get(ctx context.Context, name string, limit int64) ([]byte, Version, error) {
	r, size, err := s.Open(ctx, name, 0)
	if err != nil {
		return nil, Absent, err
	}
	defer r.Close()
	return readObject(filepath.Join(s.path, name), r, size, limit)
}

// readObject reads an object of at most limit bytes. Its version is its
// digest.
func readObject(name string, r io.Reader, size, limit int64) ([]byte, Version, error) {
	if size > limit {
		return nil, Absent, fmt.Errorf("%s: is %d bytes: want at most %d: %w", name, size, limit, ErrMismatch)
	}
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, Absent, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, Absent, fmt.Errorf("%s: is more than %d bytes: %w", name, limit, ErrMismatch)
	}
	return data, versionOf(data), nil
}

func versionOf(data []byte) Version {
	sum := sha256.Sum256(data)
	return Version(hex.EncodeToString(sum[:]))
}

// Put implements Store.
func (s *folder) Put(ctx context.Context, name string, data []byte, prior Version) (_ Version, err error) {
	if err := CheckName(name); err != nil {
		return Absent, fmt.Errorf("put: %w", err)
	}
	where := filepath.Join(s.path, name)
	guard, err := lockFile(ctx, s.root, lockName, true)
	if err != nil {
		return Absent, fmt.Errorf("put %s: %w", where, err)
	}
	defer filelock.Release(guard)
	if prior != Any {
		now := Absent
		r, size, err := s.Open(ctx, name, 0)
		if err == nil {
			var d *digests
			d, err = digestReader(r, size)
			r.Close()
			if err == nil {
				now = Version(d.sha256())
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Absent, fmt.Errorf("put %s: %w", where, err)
		}
		if now != prior {
			return now, fmt.Errorf("put %s: %w", where, ErrChanged)
		}
	}
	if err := s.root.MkdirAll(path.Dir(name), 0o777); err != nil {
		return Absent, fmt.Errorf("put %s: %w", where, err)
	}
	temporary := name + ".put" + partialSuffix
	f, err := lockFile(ctx, s.root, temporary, false)
	if err != nil {
		return Absent, fmt.Errorf("put %s: %w", where, err)
	}
	defer func() {
		filelock.Release(f)
		if err != nil {
			s.root.Remove(temporary)
		}
	}()
	if err = f.Truncate(0); err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.root.Rename(temporary, name)
	}
	if err == nil {
		err = syncDir(s.root, path.Dir(name))
	}
	if err != nil {
		return Absent, fmt.Errorf("put %s: %w", where, err)
	}
	return versionOf(data), nil
}

// List implements Store.
func (s *folder) List(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		var entries []Entry
		err := s.walk(ctx, func(name string, info fs.FileInfo) error {
			if strings.HasPrefix(name, prefix) && CheckName(name) == nil {
				entries = append(entries, Entry{name, info.Size(), info.ModTime()})
			}
			return nil
		})
		if err != nil {
			yield(Entry{}, fmt.Errorf("list %s: %w", s, err))
			return
		}
		slices.SortFunc(entries, func(x, y Entry) int { return cmp.Compare(x.Name, y.Name) })
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Delete implements Store.
func (s *folder) Delete(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	guard, err := lockFile(ctx, s.root, lockName, true)
	if err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	defer filelock.Release(guard)
	if err := s.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// asFiles returns what a folder or a bucket keeps of an artifact: its files
// but those of the Ollama layout, and its attachments.
func asFiles(a *Artifact) []File {
	var files []File
	for _, f := range a.Files {
		switch f.Role {
		case RoleOllamaTemplate, RoleOllamaParams, RoleOllamaSystem:
		default:
			files = append(files, f)
		}
	}
	for _, t := range a.Attached {
		files = append(files, File{Name: t.Name, Size: int64(len(t.Data)), Content: strings.NewReader(string(t.Data))})
	}
	return files
}
