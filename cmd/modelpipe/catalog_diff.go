package main

import (
	"bufio"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/pipeline"
)

func init() { registerCatalog(newCatalogDiff) }

func newCatalogDiff(a *app) *cobra.Command {
	var channel string
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Show what is different in another catalog",
		Long: `Diff compares the catalogs of a channel in two stores: models that were added
or removed, and the fields that changed, with the old and the new value. Parts
that are equal are not read.`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var readers [2]*catalog.Reader
			for i, arg := range args {
				f, err := openCatalog(cmd.Context(), arg)
				if err != nil {
					return err
				}
				if readers[i], err = catalog.OpenChannel(cmd.Context(), f, channel); err != nil {
					return fmt.Errorf("%s: %w", pipeline.ShownSource(arg), err)
				}
			}
			changes, err := catalog.Diff(cmd.Context(), readers[0], readers[1])
			if err != nil {
				return err
			}
			if a.json {
				if changes == nil {
					changes = []catalog.Change{}
				}
				return a.printJSON(changes)
			}
			w := bufio.NewWriter(a.stdout)
			for _, c := range changes {
				switch c.Kind {
				case catalog.Added:
					fmt.Fprintf(w, "+ %s\n", c.Model)
				case catalog.Removed:
					fmt.Fprintf(w, "- %s\n", c.Model)
				default:
					fmt.Fprintf(w, "~ %s %s: %s -> %s\n", c.Model, printable(c.Field), orNothing(c.Old), orNothing(c.New))
				}
			}
			return w.Flush()
		},
	}
	channelFlag(cmd, &channel)
	return cmd
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}
