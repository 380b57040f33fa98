package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/site"
)

func init() { registerCatalog(newCatalogSite) }

func newCatalogSite(a *app) *cobra.Command {
	var to, channel string
	var o site.Options
	cmd := &cobra.Command{
		Use:   "site CATALOG -o DIR",
		Short: "Write a catalog as a web site",
		Long: `Site writes a catalog as plain files for any web server: a list to search and
filter, and a page for each model with its quality, variants, prices, history
and origin, what to type to run it, and a calculator of costs. The pages load
nothing from elsewhere.

CATALOG is a catalog in one JSON file, or a store with the tree of --channel: a
folder, s3://bucket/prefix, http:// or https://. DIR must be empty, not there,
or a site already, which is replaced as a whole.`,
		Example: `  modelpipe catalog site catalog.json -o public
  modelpipe catalog site ./store --channel beta -o public --title "Edge models"`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return usagef("-o is missing: want a folder")
			}
			if err := o.Validate(); err != nil {
				return usagef("--base-url: %w", err)
			}
			c, err := openCatalog(cmd.Context(), args[0], channel)
			if err != nil {
				return err
			}
			stats, err := site.Write(cmd.Context(), to, c.channel, c.models, o)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(stats)
			}
			_, err = fmt.Fprintf(a.stdout, "%s: %d models, %d files, %d bytes\n", to, stats.Models, stats.Files, stats.Bytes)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&to, "output", "o", "", "`DIR` to write to")
	f.StringVar(&channel, "channel", catalog.DefaultChannel, "`CHANNEL` of a catalog in a store")
	f.StringVar(&o.Title, "title", "Models", "`TITLE` of the site")
	f.StringVar(&o.BaseURL, "base-url", "", "`URL` of your gateway's OpenAI-compatible API; left out: that of Workers AI")
	return cmd
}
