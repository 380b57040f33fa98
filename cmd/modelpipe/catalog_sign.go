package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog/trust"
)

func init() {
	registerCatalog(newCatalogSign)
	registerCatalog(newCatalogRotate)
}

func newCatalogSign(a *app) *cobra.Command {
	var store, policy string
	cmd := &cobra.Command{
		Use:   "sign --store STORE --trust FILE",
		Short: "Sign what a store's channels hold now",
		Long: `Sign signs the catalogs of a store with The Update Framework: the keys of a
channel sign its index, those of snapshot and timestamp that all of it belongs
together and is fresh. The policy (TOML, docs/catalog.md) says which keys, how
many of them, and for how long. What has not changed is signed again only when
a third of its time is left, so sign may run as often as a scheduler likes. The
timestamp is written last: until then readers see what was signed before.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.signing(cmd.Context(), store, policy, (*trust.Repository).Sign)
		},
	}
	storeFlag(cmd, &store)
	cmd.Flags().StringVar(&policy, "trust", "", "the policy `FILE`")
	return cmd
}

func newCatalogRotate(a *app) *cobra.Command {
	var store, policy string
	cmd := &cobra.Command{
		Use:   "rotate --store STORE --trust FILE",
		Short: "Change the keys that readers trust",
		Long: `Rotate writes the next root with the keys of the policy, signed by a threshold
of the keys before and by one of the new ones. Where not enough of these keys
are on this machine it keeps the signatures so far in the store: each holder of
a key runs the same command, and the last one publishes the root. The tables of
keys that are rotated out stay in the policy until that is done. Then sign.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.signing(cmd.Context(), store, policy, (*trust.Repository).Rotate)
		},
	}
	storeFlag(cmd, &store)
	cmd.Flags().StringVar(&policy, "trust", "", "the policy `FILE`")
	return cmd
}

// signing signs, and prints what was written.
func (a *app) signing(ctx context.Context, store, policy string, sign func(*trust.Repository, context.Context) (*trust.Result, error)) error {
	if policy == "" {
		return usagef("--trust: the path of the policy is missing")
	}
	p, err := trust.ReadPolicy(policy)
	if err != nil {
		return err
	}
	s, err := openStore(store)
	if err != nil {
		return err
	}
	r, err := sign(&trust.Repository{Store: s, Policy: p, Actor: actor()}, ctx)
	if errors.Is(err, trust.ErrMissingSignatures) {
		return withExit(exitGate, err)
	}
	if err != nil {
		return err
	}
	if left := time.Until(r.RootUntil); left < 30*24*time.Hour {
		a.log.Warn("the root expires soon: run catalog rotate", "expires", r.RootUntil.Format(time.RFC3339))
	}
	if a.json {
		return a.printJSON(r)
	}
	for _, name := range r.Written {
		if _, err := fmt.Fprintln(a.stdout, name); err != nil {
			return err
		}
	}
	if len(r.Written) == 0 {
		_, err = fmt.Fprintf(a.stdout, "nothing to sign, valid until %s\n", r.Expires.Format(time.RFC3339))
	}
	return err
}
