package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func init() {
	registerCatalog(newCatalogPublish)
	registerCatalog(newCatalogPromote)
	registerCatalog(newCatalogWithdraw)
}

func newCatalogPublish(a *app) *cobra.Command {
	var store, channel, notes string
	cmd := &cobra.Command{
		Use:   "publish MODEL VARIANT...",
		Short: "Make a release of recorded variants",
		Long: `Publish makes a release of variants of a model, named by their IDs; the first
one is served where nothing else is said. The first release of a channel is
active at once. Later ones are candidates for the slot that is free, blue or
green, until catalog promote. It shows in the catalog with the next build.`,
		Args: args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := openStore(store)
			if err != nil {
				return err
			}
			r, changed, err := operatorOf(s).Publish(cmd.Context(), args[0], channel, args[1:], notes)
			if err != nil {
				return err
			}
			state := "is there already"
			if changed {
				state = "is " + r.State + " in slot " + r.Slot
			}
			return a.say(r, "%s: release %d %s\n", args[0], r.Version, state)
		},
	}
	storeFlag(cmd, &store)
	channelFlag(cmd, &channel)
	cmd.Flags().StringVar(&notes, "notes", "", "what is new, `TEXT`")
	return cmd
}

// release reads the number of a release.
func release(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		return 0, usagef("release %q: want its number", text)
	}
	return n, nil
}

func newCatalogPromote(a *app) *cobra.Command {
	var store, channel string
	var weight int64
	cmd := &cobra.Command{
		Use:   "promote MODEL RELEASE",
		Short: "Give a release requests, all of them or a share",
		Long: `Promote makes a release active with a share of the requests. With less than
100 percent the active release of the other slot keeps the rest; with 100 the
others are retired. Promoting a retired release goes back to it.`,
		Example: `  modelpipe catalog promote qwen3-0.6b 2 --weight 20 --store out/store`,
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			version, err := release(args[1])
			if err != nil {
				return err
			}
			s, err := openStore(store)
			if err != nil {
				return err
			}
			if err := operatorOf(s).Promote(cmd.Context(), args[0], channel, version, weight); err != nil {
				return err
			}
			return a.say(map[string]any{"model": args[0], "release": version, "weight": weight}, "%s: release %d has weight %d\n", args[0], version, weight)
		},
	}
	storeFlag(cmd, &store)
	channelFlag(cmd, &channel)
	cmd.Flags().Int64Var(&weight, "weight", 100, "share of the requests in `PERCENT`")
	return cmd
}

func newCatalogWithdraw(a *app) *cobra.Command {
	var store, channel, why string
	cmd := &cobra.Command{
		Use:   "withdraw MODEL RELEASE --why TEXT",
		Short: "Say that a release must not be served any more",
		Long: `Withdraw takes a release out of service for good, and says why. What it served
goes to the other active release, or to the newest retired one. Nodes drop it
at their next poll after build and sign.`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			version, err := release(args[1])
			if err != nil {
				return err
			}
			if strings.TrimSpace(why) == "" {
				return usagef("catalog withdraw: --why is missing")
			}
			s, err := openStore(store)
			if err != nil {
				return err
			}
			next, err := operatorOf(s).Withdraw(cmd.Context(), args[0], channel, version, why)
			if err != nil {
				return err
			}
			text := "no other release is active"
			if next > 0 {
				text = fmt.Sprintf("release %d takes over", next)
			}
			return a.say(map[string]any{"model": args[0], "release": version, "active": next}, "%s: release %d is withdrawn: %s\n", args[0], version, text)
		},
	}
	storeFlag(cmd, &store)
	channelFlag(cmd, &channel)
	cmd.Flags().StringVar(&why, "why", "", "the reason, `TEXT`")
	return cmd
}
