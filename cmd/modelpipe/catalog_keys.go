package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog/trust"
)

func init() { registerCatalog(newCatalogKeys) }

func newCatalogKeys(a *app) *cobra.Command {
	var policy, dir string
	cmd := &cobra.Command{
		Use:   "keys [NAME...]",
		Short: "Make keys, or list those of a policy",
		Long: `Keys makes an Ed25519 key pair for each name: NAME.pem, which only its owner may
read, and NAME.pub. Keys that are there are left alone. With --trust and no
names it lists the roles of a policy with their keys.

Private keys need not be files: in the policy, sign = "env:NAME" takes the PEM
from the environment, and sign = "command:PROGRAM ARGUMENT..." lets a program
sign, for PKCS#11 tokens and key services: it gets the bytes on its standard
input and prints the signature in base64.`,
		Example: `  modelpipe catalog keys root1 root2 root3 online stable -o keys
  modelpipe catalog keys --trust trust.toml`,
		RunE: func(_ *cobra.Command, names []string) error {
			if len(names) == 0 {
				return a.listKeys(policy)
			}
			made := []trust.KeyInfo{}
			for _, name := range names {
				if filepath.Base(name) != name || name[0] == '.' {
					return usagef("key %q: want a plain name", name)
				}
				k, err := trust.Generate(dir, name)
				if err != nil {
					return fmt.Errorf("key %s: %w", name, err)
				}
				made = append(made, trust.KeyInfo{Name: name, ID: k.ID})
			}
			if a.json {
				return a.printJSON(made)
			}
			for _, k := range made {
				if _, err := fmt.Fprintf(a.stdout, "%s %s\n", k.ID, filepath.Join(dir, k.Name)+".pub"); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&policy, "trust", "", "list the keys of the policy `FILE`")
	cmd.Flags().StringVarP(&dir, "output", "o", ".", "the `FOLDER` for new keys")
	return cmd
}

func (a *app) listKeys(policy string) error {
	if policy == "" {
		return usagef("catalog keys: give names of keys to make, or --trust to list")
	}
	p, err := trust.ReadPolicy(policy)
	if err != nil {
		return err
	}
	roles, err := p.List()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(roles)
	}
	for _, r := range roles {
		if _, err := fmt.Fprintf(a.stdout, "%s: %d of %d keys, valid for %g days\n", r.Role, r.Threshold, len(r.Keys), r.Days); err != nil {
			return err
		}
		for _, k := range r.Keys {
			if _, err := fmt.Fprintf(a.stdout, "  %s %s\n", k.ID, k.Name); err != nil {
				return err
			}
		}
	}
	return nil
}
