package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog"
)

func init() { registerCatalog(newCatalogBuild) }

func newCatalogBuild(a *app) *cobra.Command {
	var file, store, output string
	var o catalog.BuildOptions
	var strict bool
	cmd := &cobra.Command{
		Use:   "build -f FILE --store STORE",
		Short: "Make the catalog of a curation file and what was published",
		Long: `Build makes the catalog of a curation file and the records, reports and
releases in a store: for each channel an index, and below it parts with the
models. What has not changed is not written again, nothing is deleted, and
equal inputs make equal bytes. Of two builds at once the loser is told.

A model of which nothing was published is left out and said on stderr; with
--strict that is an error. A model that cannot be made (a broken record, another
chat template than expected) stays in the catalog as it was, does not stop the
others, and ends with exit code 1 and its name.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Curation, err = readCuration(file); err != nil {
				return err
			}
			if o.Store, err = openStore(store); err != nil {
				return err
			}
			if output != "" {
				if o.Output, err = openStore(output); err != nil {
					return err
				}
			}
			r, err := catalog.Build(cmd.Context(), o)
			if err != nil {
				return err
			}
			for _, s := range r.Skipped {
				a.log.Warn("left out: "+s.Reason, "model", s.Model, "variant", s.Variant, "channel", s.Channel)
			}
			if err := a.printBuild(r); err != nil {
				return err
			}
			for _, s := range r.Skipped {
				if s.Failed {
					return fmt.Errorf("build: model %s: %s; the others were built", s.Model, s.Reason)
				}
			}
			if strict && len(r.Skipped) > 0 {
				return fmt.Errorf("build: %d models or variants were left out, the first is %s: %s", len(r.Skipped), r.Skipped[0].Model, r.Skipped[0].Reason)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "the `PATH` of the curation file")
	storeFlag(cmd, &store)
	f.StringVarP(&output, "output", "o", "", "write the catalog to another `STORE`")
	f.StringSliceVar(&o.Channels, "channel", nil, "build these `CHANNELS` only")
	f.BoolVar(&o.Plain, "plain", false, "write what is compressed also as it is, for readers without zstd")
	f.BoolVar(&o.Rewrite, "rewrite", false, "write every object anew")
	f.BoolVar(&strict, "strict", false, "fail where something is left out")
	return cmd
}

func (a *app) printBuild(r *catalog.BuildResult) error {
	if a.json {
		return a.printJSON(r)
	}
	for _, c := range r.Channels {
		state := "unchanged"
		if c.Changed {
			state = fmt.Sprintf("%d objects written, %d bytes", c.Objects, c.Bytes)
		}
		if _, err := fmt.Fprintf(a.stdout, "%s: %d models in %d parts, %s (%s)\n", c.Channel, c.Models, c.Parts, c.Index, state); err != nil {
			return err
		}
	}
	return nil
}
