package main

import (
	"bufio"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog"
)

func init() { registerCatalog(newCatalogLog) }

func newCatalogLog(a *app) *cobra.Command {
	var store, model string
	var n int
	var verify bool
	var prune int
	cmd := &cobra.Command{
		Use:   "log --store STORE",
		Short: "Show who published, promoted and withdrew what",
		Long: `Log shows the record of a store, the newest entry first. Each entry holds the
digest of the one before it, and the digest of the newest is signed with the
catalog: what was changed or cut off is found. Entries are kept for at least
180 days; --prune takes older ones away.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			s, err := openStore(store)
			if err != nil {
				return err
			}
			log := catalog.NewLog(s)
			switch {
			case cmd.Flags().Changed("prune"):
				gone, err := log.Prune(ctx, time.Duration(prune)*24*time.Hour, actor(), time.Now())
				if err != nil {
					return err
				}
				return a.say(map[string]int64{"removed": gone}, "%d entries were removed\n", gone)
			case verify:
				n, err := log.Verify(ctx, time.Now(), nil)
				if err != nil {
					return withExit(exitGate, err)
				}
				return a.say(map[string]int64{"entries": n}, "%d entries, unchanged\n", n)
			}
			entries := []*catalog.LogEntry{}
			if err := log.Entries(ctx, func(e *catalog.LogEntry) bool {
				if model == "" || e.Model == model {
					entries = append(entries, e)
				}
				return len(entries) < n
			}); err != nil {
				return withExit(exitGate, err)
			}
			if a.json {
				return a.printJSON(entries)
			}
			w := bufio.NewWriter(a.stdout)
			for _, e := range entries {
				fmt.Fprintf(w, "%d %s %s %s", e.Sequence, e.Time.Format(time.RFC3339), printable(e.Actor), e.Action)
				if e.Model != "" {
					fmt.Fprintf(w, " %s", e.Model)
				}
				if e.Channel != "" {
					fmt.Fprintf(w, " %s/%d", e.Channel, e.Release)
				}
				if e.Weight > 0 {
					fmt.Fprintf(w, " weight %d", e.Weight)
				}
				if e.Refers > 0 {
					fmt.Fprintf(w, " entry %d", e.Refers)
				}
				if e.Reason != "" {
					fmt.Fprintf(w, ": %s", printable(e.Reason))
				}
				fmt.Fprintln(w)
			}
			return w.Flush()
		},
	}
	storeFlag(cmd, &store)
	f := cmd.Flags()
	f.StringVar(&model, "model", "", "entries of the model with this `SLUG` only")
	f.IntVarP(&n, "number", "n", 50, "show the newest `N` entries")
	f.BoolVar(&verify, "verify", false, "verify the whole chain")
	f.IntVar(&prune, "prune", 180, "take away entries that are older than `DAYS`")
	return cmd
}
