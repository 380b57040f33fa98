package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/trust"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/publish"
)

func init() { register(newCatalog) }

// catalogCommands makes the subcommands of catalog; each one's file appends to
// it with registerCatalog.
var catalogCommands []func(*app) *cobra.Command

func registerCatalog(command func(*app) *cobra.Command) {
	catalogCommands = append(catalogCommands, command)
}

func newCatalog(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "catalog",
		Short: "Keep a signed catalog of published models",
		Long: `Catalog keeps what gateways and nodes read: which models there are, in which
variants and releases, on what terms, and whose word that is.

People describe models in a curation file (TOML, docs/catalog.md). A store, a
folder or s3://bucket/prefix, holds the published files with a record beside
each. Build makes the catalog of both; sign signs it with TUF; verify reads it
as a client that trusts nothing but a root of keys.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, command := range catalogCommands {
		sub := command(a)
		run := sub.RunE
		sub.RunE = func(cmd *cobra.Command, args []string) error { return catalogExit(run(cmd, args)) }
		cmd.AddCommand(sub)
	}
	return cmd
}

// catalogExit gives the errors of catalogs their exit codes.
func catalogExit(err error) error {
	var exit *exitError
	switch {
	case err == nil || errors.As(err, &exit):
		return err
	case errors.Is(err, trust.ErrUntrusted):
		return withExit(exitGate, err)
	}
	return err
}

// readCuration reads the curation file at a path.
func readCuration(name string) (*catalog.Curation, error) {
	if name == "" {
		return nil, usagef("-f: the path of the curation file is missing")
	}
	return pipeline.ReadCuration(name)
}

// openStore opens the store that --store names.
func openStore(target string) (publish.Store, error) {
	if target == "" {
		return nil, usagef("--store: want a folder or s3://bucket/prefix")
	}
	return publish.OpenStore(target)
}

// openCatalog returns what reads the catalogs of a store: a folder,
// s3://bucket/prefix, or the address of a web server.
func openCatalog(ctx context.Context, target string) (catalog.Fetcher, error) {
	if pipeline.IsURL(target) {
		return catalog.FromHTTP(target, nil)
	}
	if !publish.IsRemote(target) { // a store would be made
		if _, err := os.Stat(strings.TrimPrefix(target, "file://")); err != nil {
			return nil, err
		}
	}
	s, err := openStore(target)
	if err != nil {
		return nil, err
	}
	return catalog.FromStore(s), nil
}

// actor is who runs the command, as the log shows it.
func actor() string {
	if name := os.Getenv("MODELPIPE_ACTOR"); name != "" {
		return name
	}
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// operatorOf changes what a store offers.
func operatorOf(s publish.Store) *catalog.Operator {
	return &catalog.Operator{Store: s, Actor: actor()}
}

// storeFlag adds --store.
func storeFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "store", "", "the `STORE`: a folder or s3://bucket/prefix")
}

// channelFlag adds --channel.
func channelFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "channel", catalog.DefaultChannel, "the `CHANNEL`")
}

// say prints lines to stdout, or v as JSON.
func (a *app) say(v any, format string, args ...any) error {
	if a.json {
		return a.printJSON(v)
	}
	_, err := fmt.Fprintf(a.stdout, format, args...)
	return err
}
