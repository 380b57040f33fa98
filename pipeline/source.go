package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/hub"
	"github.com/modelpipe/modelpipe/validate"
)

// Source is where a model is read from: a folder, a repository on the Hub, or
// a single file of either or at a URL.
type Source struct {
	Arg       string // what the user gave, as ShownSource shows it
	Name      string // of the repository without its owner, of the folder, or of the file
	FS        fs.FS
	File      string        // name in FS where one file was meant, or empty
	Repo      string        // on the Hub, or empty
	Commit    string        // that the repository is pinned to, or empty
	Snapshot  *hub.Snapshot // the repository, or nil
	BytesRead func() int64  // over the network so far; nil for a local source
	Close     func() error
}

// HubClient returns a client with the settings of the environment.
func HubClient(log *slog.Logger) (*hub.Client, error) {
	o, err := hub.OptionsFromEnv(os.Getenv)
	if err != nil {
		return nil, err
	}
	o.Log = log
	return hub.New(o)
}

// ShownSource is a source as messages and reports show it: a URL without user
// and query, which may be secrets.
func ShownSource(arg string) string {
	if !IsURL(arg) {
		return arg
	}
	u, err := url.Parse(arg)
	if err != nil {
		return arg[:strings.Index(arg, "//")+2] + "..."
	}
	return u.Scheme + "://" + u.Host + u.EscapedPath()
}

// IsURL says whether an argument is the address of a web server.
func IsURL(arg string) bool {
	return strings.HasPrefix(arg, "https://") || strings.HasPrefix(arg, "http://")
}

// OpenSource opens hf://org/name[@revision], http(s)://host/path, or a local
// path. ctx bounds everything that is read from it. What no source can be
// called is an error that wraps ErrUsage.
func OpenSource(ctx context.Context, arg string, log *slog.Logger) (*Source, error) {
	switch {
	case hub.IsRef(arg):
		ref, err := hub.ParseRef(arg)
		if err != nil {
			return nil, usage(err)
		}
		c, err := HubClient(log)
		if err != nil {
			return nil, err
		}
		return openRepository(ctx, c, ref)
	case IsURL(arg):
		u, err := url.Parse(arg)
		if err != nil || !fs.ValidPath(path.Base(u.Path)) || strings.HasSuffix(u.Path, "/") || u.Path == "" {
			return nil, usage(fmt.Errorf("URL %q does not name a file", ShownSource(arg)))
		}
		c, err := HubClient(log)
		if err != nil {
			return nil, err
		}
		f := &urlFS{ctx: ctx, client: c, address: arg, name: path.Base(u.Path)}
		return &Source{
			Arg: ShownSource(arg), Name: f.name, FS: f, File: f.name, BytesRead: f.bytesRead, Close: func() error { return nil },
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
	s := &Source{Arg: arg, Name: filepath.Base(abs), Close: func() error { return nil }}
	if info.IsDir() {
		s.FS = os.DirFS(arg)
		return s, nil
	}
	if !info.Mode().IsRegular() { // a pipe would wait for a writer
		return nil, fmt.Errorf("%s: is not a regular file or a folder", arg)
	}
	dir, base := filepath.Split(arg)
	if dir == "" {
		dir = "."
	}
	s.FS, s.File = os.DirFS(dir), base
	return s, nil
}

// openRepository opens a repository at the commit that its revision means now.
func openRepository(ctx context.Context, c *hub.Client, ref hub.Ref) (*Source, error) {
	s, err := c.Snapshot(ctx, ref.Repo, ref.Revision)
	if err != nil {
		return nil, err
	}
	return &Source{
		Arg: ref.String(), Name: path.Base(s.Repo()), FS: s, Repo: s.Repo(), Commit: s.Commit(), Snapshot: s, BytesRead: s.BytesRead, Close: s.Close,
	}, nil
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

// OpenFile opens the named file and returns it with its size, for formats that
// read at offsets.
func (s *Source) OpenFile(name string) (ReadAtFile, int64, error) {
	f, err := s.FS.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s: is a folder", name)
	}
	r, ok := f.(ReadAtFile)
	if err == nil && !ok {
		err = fmt.Errorf("%s: cannot be read at an offset", name)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return r, info.Size(), nil
}

// ReadAtFile is a file that can be read at an offset.
type ReadAtFile interface {
	fs.File
	ReadAt(p []byte, off int64) (int, error)
}

// OpenReference opens a source as the reference of a validation. The second
// result closes it.
func OpenReference(ctx context.Context, s *Source) (*validate.Source, func() error, error) {
	info := validate.SourceInfo{Name: s.Arg, Repository: s.Repo, Commit: s.Commit}
	if s.File == "" {
		r, err := validate.OpenFolder(ctx, s.FS, info)
		if err != nil {
			return nil, nil, err
		}
		return r, r.Close, nil
	}
	if !strings.HasSuffix(s.File, ".gguf") {
		return nil, nil, usage(fmt.Errorf("%s: want a model folder, hf://org/name or a .gguf file", s.Arg))
	}
	f, err := gguf.OpenFS(s.FS, s.File)
	if err != nil {
		return nil, nil, err
	}
	r, err := validate.OpenGGUF(f, info)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return r, f.Close, nil
}
