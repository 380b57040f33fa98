package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog"
)

func init() { registerCatalog(newCatalogGC) }

func newCatalogGC(a *app) *cobra.Command {
	var store string
	var keep time.Duration
	var dry bool
	cmd := &cobra.Command{
		Use:   "gc --store STORE",
		Short: "Take away parts of old catalogs that nothing refers to",
		Long: `Gc deletes objects of catalogs that no index in the store refers to, neither
one that was built nor one that was signed, and that are older than --keep.
Model files, records, the log and signatures are not touched. Where an index
cannot be read, nothing is deleted.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := openStore(store)
			if err != nil {
				return err
			}
			gone, err := catalog.Collect(cmd.Context(), s, keep, time.Now(), dry)
			if err != nil {
				return err
			}
			if a.json {
				if gone == nil {
					gone = []string{}
				}
				return a.printJSON(gone)
			}
			for _, name := range gone {
				if _, err := fmt.Fprintln(a.stdout, name); err != nil {
					return err
				}
			}
			return nil
		},
	}
	storeFlag(cmd, &store)
	cmd.Flags().DurationVar(&keep, "keep", 7*24*time.Hour, "keep what is younger than `AGE`, at least 1h")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only print what would be deleted")
	return cmd
}
