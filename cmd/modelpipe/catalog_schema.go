package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog"
)

func init() { registerCatalog(newCatalogSchema) }

func newCatalogSchema(a *app) *cobra.Command {
	names := strings.Join(slices.Sorted(maps.Keys(catalog.Schemas)), "|")
	return &cobra.Command{
		Use:   "schema " + names,
		Short: "Print the JSON Schema of the catalog or of another document",
		Long: `Schema prints a JSON Schema (2020-12): of the catalog and its index, for programs
that read them, of the curation file, for editors, or of another document in a
store.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			schema, ok := catalog.Schemas[args[0]]
			if !ok {
				return usagef("schema %q: want %s", args[0], names)
			}
			_, err := a.stdout.Write(schema())
			return err
		},
	}
}
