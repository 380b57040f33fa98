package main

import (
	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog"
)

func init() { registerCatalog(newCatalogShow) }

// maxShown bounds the models of a catalog that is printed whole.
const maxShown = 100_000

func newCatalogShow(a *app) *cobra.Command {
	var channel string
	cmd := &cobra.Command{
		Use:   "show STORE [MODEL]",
		Short: "Print the entry of a model, or a whole catalog, as JSON",
		Long: `Show prints the entry of a model, by slug or alias, or the whole catalog of a
channel as one document. STORE is a folder, s3://bucket/prefix or the address of
a web server. Everything is held to the digests of the channel's index; whether
somebody has signed that, catalog verify says.`,
		Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := openCatalog(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			r, err := catalog.OpenChannel(cmd.Context(), f, channel)
			if err != nil {
				return err
			}
			if len(args) == 2 {
				m, err := r.Lookup(cmd.Context(), args[1])
				if err != nil {
					return err
				}
				return a.printJSON(m)
			}
			c, err := r.Catalog(cmd.Context(), maxShown)
			if err != nil {
				return err
			}
			return a.printJSON(c)
		},
	}
	channelFlag(cmd, &channel)
	return cmd
}
