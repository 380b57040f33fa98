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
	schemas := map[string]func() []byte{"catalog": catalog.Schema, "curation": catalog.CurationSchema}
	names := strings.Join(slices.Sorted(maps.Keys(schemas)), "|")
	return &cobra.Command{
		Use:   "schema " + names,
		Short: "Print the JSON Schema of the catalog or of the curation file",
		Long: `Schema prints a JSON Schema (2020-12): of the catalog, for programs that read
it, or of the curation file, for editors.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			schema, ok := schemas[args[0]]
			if !ok {
				return usagef("schema %q: want %s", args[0], names)
			}
			_, err := a.stdout.Write(schema())
			return err
		},
	}
}
