package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"github.com/modelpipe/modelpipe/publish"
)

// A Fetcher reads small objects of a store by name. It returns at most limit
// bytes: an object that is larger is an error that wraps ErrTooLarge, one
// that is not there an error that wraps fs.ErrNotExist.
type Fetcher interface {
	Fetch(ctx context.Context, name string, limit int64) ([]byte, error)
}

// ErrTooLarge says that an object has more bytes than it may have.
var ErrTooLarge = errors.New("is larger than it may be")

// FetchFunc is a function as a Fetcher.
type FetchFunc func(ctx context.Context, name string, limit int64) ([]byte, error)

// Fetch implements Fetcher.
func (f FetchFunc) Fetch(ctx context.Context, name string, limit int64) ([]byte, error) {
	return f(ctx, name, limit)
}

// FromStore reads a store.
func FromStore(s publish.Store) Fetcher {
	return FetchFunc(func(ctx context.Context, name string, limit int64) ([]byte, error) {
		data, _, err := s.Get(ctx, name, limit)
		if errors.Is(err, publish.ErrMismatch) {
			err = fmt.Errorf("%w: %w", ErrTooLarge, err)
		}
		return data, err
	})
}

// FromFS reads a folder.
func FromFS(fsys fs.FS) Fetcher {
	return FetchFunc(func(ctx context.Context, name string, limit int64) ([]byte, error) {
		f, err := fsys.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s: is not a regular file", name)
		}
		return readLimited(f, name, limit)
	})
}

// FromHTTP reads from a web server, below a base address. A client of nil is
// http.DefaultClient.
func FromHTTP(base string, client *http.Client) (Fetcher, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("address %s: want one that begins with http:// or https://", quoted(base))
	}
	if client == nil {
		client = http.DefaultClient
	}
	return FetchFunc(func(ctx context.Context, name string, limit int64) ([]byte, error) {
		address := u.JoinPath(strings.Split(name, "/")...)
		shown := address.Scheme + "://" + address.Host + address.EscapedPath()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
		if err != nil {
			return nil, err
		}
		res, err := client.Do(req)
		if err != nil {
			return nil, fmt.Errorf("get %s: %w: %w", shown, publish.ErrUnavailable, withoutURL(err))
		}
		defer res.Body.Close()
		switch {
		case res.StatusCode == http.StatusNotFound:
			return nil, fmt.Errorf("get %s: %w", shown, fs.ErrNotExist)
		case res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests:
			return nil, fmt.Errorf("get %s: %s: %w", shown, res.Status, publish.ErrUnavailable)
		case res.StatusCode != http.StatusOK:
			return nil, fmt.Errorf("get %s: %s: %w", shown, res.Status, publish.ErrRefused)
		case res.ContentLength > limit:
			return nil, fmt.Errorf("get %s: %d bytes: %w (%d)", shown, res.ContentLength, ErrTooLarge, limit)
		}
		data, err := readLimited(res.Body, shown, limit)
		if err != nil && !errors.Is(err, ErrTooLarge) {
			err = fmt.Errorf("%w: %w", publish.ErrUnavailable, err)
		}
		return data, err
	}), nil
}

// withoutURL takes the address, which may hold a password, out of an error of
// package http.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// readLimited reads at most limit bytes and fails where there are more.
func readLimited(r io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: %w (%d bytes)", name, ErrTooLarge, limit)
	}
	return data, nil
}
