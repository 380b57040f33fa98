package main

import (
	"context"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/modelpipe/modelpipe/hub"
)

// source is where a model is read from: a folder, a repository on the Hub, or
// a single file of either or at a URL.
type source struct {
	arg       string // what the user gave, as shownSource shows it
	name      string // of the repository without its owner, of the folder, or of the file
	fsys      fs.FS
	file      string        // name in fsys where one file was meant, or empty
	repo      string        // on the Hub, or empty
	commit    string        // that the repository is pinned to, or empty
	snapshot  *hub.Snapshot // the repository, or nil
	bytesRead func() int64  // over the network so far; nil for a local source
	close     func() error
}

// hubClient returns a client with the settings of the environment.
func (a *app) hubClient() (*hub.Client, error) {
	o, err := hub.OptionsFromEnv(os.Getenv)
	if err != nil {
		return nil, err
	}
	o.Log = a.log
	return hub.New(o)
}

// shownSource is a source as messages and reports show it: a URL without user
// and query, which may be secrets.
func shownSource(arg string) string {
	if !isURL(arg) {
		return arg
	}
	u, err := url.Parse(arg)
	if err != nil {
		return arg[:strings.Index(arg, "//")+2] + "..."
	}
	return u.Scheme + "://" + u.Host + u.EscapedPath()
}

func isURL(arg string) bool {
	return strings.HasPrefix(arg, "https://") || strings.HasPrefix(arg, "http://")
}

// openSource opens hf://org/name[@revision], http(s)://host/path, or a local
// path. ctx bounds everything that is read from it.
func (a *app) openSource(ctx context.Context, arg string) (*source, error) {
	switch {
	case hub.IsRef(arg):
		ref, err := hub.ParseRef(arg)
		if err != nil {
			return nil, withExit(exitUsage, err)
		}
		c, err := a.hubClient()
		if err != nil {
			return nil, err
		}
		s, err := c.Snapshot(ctx, ref.Repo, ref.Revision)
		if err != nil {
			return nil, err
		}
		return &source{
			arg: arg, name: path.Base(s.Repo()), fsys: s, repo: s.Repo(), commit: s.Commit(), snapshot: s, bytesRead: s.BytesRead, close: s.Close,
		}, nil
	case isURL(arg):
		u, err := url.Parse(arg)
		if err != nil || !fs.ValidPath(path.Base(u.Path)) || strings.HasSuffix(u.Path, "/") || u.Path == "" {
			return nil, usagef("URL %q does not name a file", shownSource(arg))
		}
		c, err := a.hubClient()
		if err != nil {
			return nil, err
		}
		f := &urlFS{ctx: ctx, client: c, address: arg, name: path.Base(u.Path)}
		return &source{
			arg: shownSource(arg), name: f.name, fsys: f, file: f.name, bytesRead: f.bytesRead, close: func() error { return nil },
		}, nil
	}
	info, err := os.Stat(arg)
	if err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(arg)
	if err != nil {
		return nil, err
	}
	s := &source{arg: arg, name: filepath.Base(abs), close: func() error { return nil }}
	if info.IsDir() {
		s.fsys = os.DirFS(arg)
		return s, nil
	}
	if !info.Mode().IsRegular() { // a pipe would wait for a writer
		return nil, fmt.Errorf("%s: is not a regular file or a folder", arg)
	}
	dir, base := filepath.Split(arg)
	if dir == "" {
		dir = "."
	}
	s.fsys, s.file = os.DirFS(dir), base
	return s, nil
}

// urlFS is the folder that a URL's file is in, as far as files can be asked
// for by name: so that the other parts of a split are found next to it.
type urlFS struct {
	ctx     context.Context
	client  *hub.Client
	address string // of the file called name
	name    string

	mu     sync.Mutex
	opened []interface{ BytesRead() int64 }
}

// Open implements fs.FS.
func (f *urlFS) Open(name string) (fs.File, error) {
	address := f.address
	if name != f.name {
		u, err := url.Parse(f.address)
		if err != nil {
			return nil, err
		}
		address = u.ResolveReference(&url.URL{Path: "./" + name, RawQuery: u.RawQuery}).String()
	}
	file, err := f.client.OpenURL(f.ctx, address)
	if err != nil {
		return nil, err
	}
	if m, ok := file.(interface{ BytesRead() int64 }); ok {
		f.mu.Lock()
		f.opened = append(f.opened, m)
		f.mu.Unlock()
	}
	return file, nil
}

func (f *urlFS) bytesRead() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := int64(0)
	for _, m := range f.opened {
		n += m.BytesRead()
	}
	return n
}

// openFile opens the named file and returns it with its size, for formats that
// read at offsets.
func (s *source) openFile(name string) (readAtFile, int64, error) {
	f, err := s.fsys.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s: is a folder", name)
	}
	r, ok := f.(readAtFile)
	if err == nil && !ok {
		err = fmt.Errorf("%s: cannot be read at an offset", name)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return r, info.Size(), nil
}

// readAtFile is a file that can be read at an offset.
type readAtFile interface {
	fs.File
	ReadAt(p []byte, off int64) (int, error)
}
