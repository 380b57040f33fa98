package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/publish"
)

func init() { registerCatalog(newCatalogLint) }

func newCatalogLint(a *app) *cobra.Command {
	var file, store, channel string
	var online bool
	cmd := &cobra.Command{
		Use:   "lint [-f FILE] [--store STORE]",
		Short: "Look for what is wrong with a catalog",
		Long: `Lint looks at a curation file, a catalog in a store, or both, for what people
regret later: broken locations, licenses that are no SPDX expression, prices
that cannot be compared, names that clash, releases that nobody serves, gates
that did not hold. With --online it asks web servers and mirrors too.
Errors end with exit code 3; warnings do not.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			o := catalog.LintOptions{Now: time.Now()}
			if file == "" && store == "" {
				return usagef("catalog lint: give -f, --store, or both")
			}
			var err error
			if file != "" {
				if o.Curation, err = readCuration(file); err != nil {
					return err
				}
			}
			if store != "" {
				s, err := openStore(store)
				if err != nil {
					return err
				}
				if o.Catalog, err = catalog.OpenChannel(ctx, catalog.FromStore(s), channel); err != nil {
					return err
				}
				if sink, ok := s.(publish.Sink); ok {
					o.Store = sink
				}
			}
			if online {
				o.Reach = reach
			}
			findings, err := catalog.Lint(ctx, o)
			if err != nil {
				return err
			}
			return a.printFindings(findings)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the `PATH` of the curation file")
	storeFlag(cmd, &store)
	channelFlag(cmd, &channel)
	cmd.Flags().BoolVar(&online, "online", false, "ask web servers and mirrors for the files too")
	return cmd
}

func (a *app) printFindings(findings []catalog.Finding) error {
	errorsFound := 0
	for _, f := range findings {
		if f.Error {
			errorsFound++
		}
	}
	if a.json {
		if findings == nil {
			findings = []catalog.Finding{}
		}
		if err := a.printJSON(findings); err != nil {
			return err
		}
	} else {
		for _, f := range findings {
			kind := "warning"
			if f.Error {
				kind = "error"
			}
			if _, err := fmt.Fprintf(a.stdout, "%s: %s: %s\n", kind, f.Model, f.Text); err != nil {
				return err
			}
		}
	}
	if errorsFound > 0 {
		return withExit(exitGate, fmt.Errorf("lint: %d errors", errorsFound))
	}
	return nil
}

// reach asks for the size of a file at a location.
func reach(ctx context.Context, l catalog.Location, f catalog.File) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	switch l.Kind {
	case catalog.KindFile:
		info, err := os.Stat(strings.TrimPrefix(l.Address(f), "file://"))
		if err != nil {
			return 0, fs.ErrNotExist
		}
		return info.Size(), nil
	case catalog.KindHTTP:
		req, err := http.NewRequestWithContext(ctx, http.MethodHead, l.Address(f), nil)
		if err != nil {
			return 0, err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", publish.ErrUnavailable, err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return 0, errors.New(res.Status)
		}
		return res.ContentLength, nil
	}
	sink, err := publish.Open(l.URI)
	if err != nil {
		return 0, err
	}
	r, size, err := sink.Open(ctx, f.Path, 0)
	if err != nil {
		return 0, err
	}
	return size, r.Close()
}
