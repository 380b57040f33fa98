package main

import (
	"context"
	"fmt"
	"iter"
	"os"
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/publish"
)

// models are those of a catalog, one at a time.
type models = iter.Seq2[*catalog.Model, error]

// maxCatalogFile bounds a catalog in one document, in bytes.
const maxCatalogFile = 1 << 30

// openModels opens a catalog to be read model by model: one document, as
// catalog show prints it, or the channel of a store. It returns the name of the
// channel too.
func openModels(ctx context.Context, name, channel string) (models, string, error) {
	if !pipeline.IsURL(name) && !publish.IsRemote(name) {
		info, err := os.Stat(strings.TrimPrefix(name, "file://"))
		if err != nil {
			return nil, "", err
		}
		if !info.IsDir() {
			return readModels(strings.TrimPrefix(name, "file://"), info.Size())
		}
	}
	fetch, err := openCatalog(ctx, name)
	if err != nil {
		return nil, "", err
	}
	r, err := catalog.OpenChannel(ctx, fetch, channel)
	if err != nil {
		return nil, "", err
	}
	return r.Models(ctx), channel, nil
}

// readModels reads a catalog in one document.
func readModels(name string, size int64) (models, string, error) {
	if size > maxCatalogFile {
		return nil, "", fmt.Errorf("%s: has %d bytes, want at most %d", name, size, int64(maxCatalogFile))
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, "", err
	}
	c, err := catalog.Decode(data)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", name, err)
	}
	for i := range c.Models {
		if err := c.Models[i].Validate(); err != nil {
			return nil, "", fmt.Errorf("%s: %w", name, err)
		}
		if i > 0 && c.Models[i-1].Slug >= c.Models[i].Slug {
			return nil, "", fmt.Errorf("%s: model %s comes after %s: want them ordered by slug, each once", name, c.Models[i].Slug, c.Models[i-1].Slug)
		}
	}
	return func(yield func(*catalog.Model, error) bool) {
		for i := range c.Models {
			if !yield(&c.Models[i], nil) {
				return
			}
		}
	}, c.Channel, nil
}
