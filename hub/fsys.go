package hub

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// File is an opened file: of a Snapshot, or of OpenURL. ReadAt may be called from many goroutines.
type File interface {
	fs.File
	io.ReaderAt
	Size() int64
}

// maxReadFile bounds ReadFile: what is larger is to be opened and read in parts.
const maxReadFile = 256 << 20

// Open opens a file or a directory. It asks nobody; a file is a File.
func (s *Snapshot) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if e, ok := s.entry(name); ok {
		src, err := s.source(e)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return &handle{src: src, info: info{name: path.Base(name), size: e.Size}}, nil
	}
	if list, err := s.ReadDir(name); err == nil {
		return &dirHandle{info: info{name: path.Base(name), dir: true}, list: list}, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: s.missing()}
}

// missing says where a name was looked for.
func (s *Snapshot) missing() error {
	if s.c.offline {
		return fmt.Errorf("%w in the cache of %s@%s (HF_HUB_OFFLINE is set)", ErrEntryNotFound, s.repo, s.commit)
	}
	return fmt.Errorf("%w in %s@%s", ErrEntryNotFound, s.repo, s.commit)
}

// Stat describes a file or a directory from the listing.
func (s *Snapshot) Stat(name string) (fs.FileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrInvalid}
	}
	if e, ok := s.entry(name); ok {
		return info{name: path.Base(name), size: e.Size}, nil
	}
	if _, ok := s.dirs[name]; ok {
		return info{name: path.Base(name), dir: true}, nil
	}
	return nil, &fs.PathError{Op: "stat", Path: name, Err: s.missing()}
}

// ReadDir lists a directory from the listing, sorted by name.
func (s *Snapshot) ReadDir(name string) ([]fs.DirEntry, error) {
	children, ok := s.dirs[name]
	if !ok {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: s.missing()}
	}
	out := make([]fs.DirEntry, 0, len(children))
	for _, i := range children {
		if i < 0 {
			out = append(out, fs.FileInfoToDirEntry(info{name: path.Base(s.subs[-1-i]), dir: true}))
		} else {
			out = append(out, fs.FileInfoToDirEntry(info{name: path.Base(s.entries[i].Path), size: s.entries[i].Size}))
		}
	}
	slices.SortFunc(out, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return out, nil
}

// ReadFile reads a whole file, of at most 256 MiB, and holds it to its digest.
func (s *Snapshot) ReadFile(name string) ([]byte, error) {
	f, err := s.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h, ok := f.(*handle)
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("is a directory")}
	}
	if h.Size() > maxReadFile {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("%d bytes are too many to read at once", h.Size())}
	}
	data := make([]byte, h.Size())
	if _, err := io.ReadFull(io.NewSectionReader(h, 0, h.Size()), data); err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return data, nil
}

// handle is an opened file.
type handle struct {
	src     source
	info    info
	onClose func() error

	mu     sync.Mutex
	off    int64
	closed bool
}

func (h *handle) Stat() (fs.FileInfo, error) { return h.info, nil }
func (h *handle) Size() int64                { return h.info.size }

// ReadAt is io.ReaderAt's.
func (h *handle) ReadAt(p []byte, off int64) (int, error) {
	h.mu.Lock()
	closed := h.closed
	h.mu.Unlock()
	if closed {
		return 0, fs.ErrClosed
	}
	return h.src.ReadAt(p, off)
}

// Read is io.Reader's, with an offset of this handle's own.
func (h *handle) Read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return 0, fs.ErrClosed
	case len(p) == 0:
		return 0, nil
	}
	n, err := h.src.ReadAt(p, h.off)
	h.off += int64(n)
	if err == io.EOF && n > 0 {
		err = nil
	}
	return n, err
}

func (h *handle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fs.ErrClosed
	}
	h.closed = true
	if h.onClose != nil {
		return h.onClose()
	}
	return nil
}

// dirHandle is an opened directory.
type dirHandle struct {
	info info
	list []fs.DirEntry
	at   int
}

func (d *dirHandle) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *dirHandle) Close() error               { return nil }
func (d *dirHandle) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.name, Err: errors.New("is a directory")}
}

// ReadDir is fs.ReadDirFile's.
func (d *dirHandle) ReadDir(n int) ([]fs.DirEntry, error) {
	left := d.list[d.at:]
	if n > 0 {
		if len(left) == 0 {
			return nil, io.EOF
		}
		left = left[:min(n, len(left))]
	}
	d.at += len(left)
	return slices.Clone(left), nil
}

// info describes a file or directory. The Hub keeps neither modes nor, per file, times.
type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) IsDir() bool        { return i.dir }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) Sys() any           { return nil }
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}
