package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"os"
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/publish"
)

// openedCatalog is a catalog that commands read model by model.
type openedCatalog struct {
	channel string
	count   int64
	models  iter.Seq2[*catalog.Model, error]
}

// maxCatalogFile bounds a catalog in one document, in bytes.
const maxCatalogFile = 1 << 30

// openCatalog opens a catalog: one document, or the tree of a channel in a
// folder, in a bucket or behind a web server.
func openCatalog(ctx context.Context, name, channel string) (*openedCatalog, error) {
	fetch, err := catalogFetcher(ctx, name)
	if err != nil {
		return nil, err
	}
	if fetch == nil {
		return readCatalogFile(name)
	}
	r, err := catalog.OpenChannel(ctx, fetch, channel)
	if err != nil {
		if errors.Is(err, publish.ErrUnavailable) {
			err = withExit(exitUnavailable, err)
		}
		return nil, fmt.Errorf("catalog %s: %w", shownSource(name), err)
	}
	return &openedCatalog{channel, r.Index().Models, func(yield func(*catalog.Model, error) bool) {
		for part, err := range r.Parts(ctx) {
			if err != nil {
				yield(nil, fmt.Errorf("catalog %s: %w", shownSource(name), err))
				return
			}
			for i := range part.Models {
				if !yield(&part.Models[i], nil) {
					return
				}
			}
		}
	}}, nil
}

// catalogFetcher returns what reads the objects of a store, or nil where name
// is a file.
func catalogFetcher(ctx context.Context, name string) (catalog.Fetcher, error) {
	if u, err := url.Parse(name); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		return catalog.FromHTTP(name, nil)
	}
	if publish.IsRemote(name) {
		store, err := publish.OpenStore(ctx, name)
		if err != nil {
			return nil, err
		}
		return catalog.FromStore(store), nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, nil
	}
	return catalog.FromFS(os.DirFS(name)), nil
}

func readCatalogFile(name string) (*openedCatalog, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxCatalogFile {
		return nil, fmt.Errorf("catalog %s: has %d bytes, want at most %d", name, info.Size(), int64(maxCatalogFile))
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	c, err := catalog.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for i := range c.Models {
		if err := c.Models[i].Validate(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if i > 0 && strings.Compare(c.Models[i-1].Slug, c.Models[i].Slug) >= 0 {
			return nil, fmt.Errorf("%s: model %s comes after %s: want them ordered by slug, each once", name, c.Models[i].Slug, c.Models[i-1].Slug)
		}
	}
	return &openedCatalog{c.Channel, int64(len(c.Models)), func(yield func(*catalog.Model, error) bool) {
		for i := range c.Models {
			if !yield(&c.Models[i], nil) {
				return
			}
		}
	}}, nil
}
