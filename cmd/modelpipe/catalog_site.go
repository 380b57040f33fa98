package main

import (
	"github.com/spf13/cobra"

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
folder, s3://bucket/prefix, or the address of a web server. DIR must be empty,
not there, or a site already, which is replaced as a whole.`,
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
			all, channel, err := openModels(cmd.Context(), args[0], channel)
			if err != nil {
				return err
			}
			stats, err := site.Write(cmd.Context(), to, channel, all, o)
			if err != nil {
				return err
			}
			return a.say(stats, "%s: %d models, %d files, %d bytes\n", to, stats.Models, stats.Files, stats.Bytes)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&to, "output", "o", "", "`DIR` to write to")
	channelFlag(cmd, &channel)
	f.StringVar(&o.Title, "title", "Models", "`TITLE` of the site")
	f.StringVar(&o.BaseURL, "base-url", "", "`URL` of your gateway's OpenAI-compatible API; left out: that of Workers AI")
	return cmd
}
