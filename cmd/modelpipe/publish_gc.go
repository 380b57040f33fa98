package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/publish"
)

func newPublishGC(a *app) *cobra.Command {
	var olderThan time.Duration
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "gc TARGET",
		Short: "Clear unfinished uploads that nobody goes on with",
		Long: `Gc finds what interrupted uploads have left at a target, and removes it: parts
in a bucket, NAME.partial in a folder (of interrupted conversions too), and the
uploads of this machine to a registry. Published files are never touched, nor
is what a process is known to work at.`,
		Example: `  modelpipe publish gc s3://models --dry-run
  modelpipe publish gc ./models --older-than 0s`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.publishGC(cmd.Context(), args[0], olderThan, dryRun)
		},
	}
	cmd.Flags().DurationVar(&olderThan, "older-than", 24*time.Hour, "clear what was begun longer than this `TIME` ago")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be cleared")
	return cmd
}

// gcJSON is what gc prints with --json.
type gcJSON struct {
	Target  string         `json:"target"`
	Cleared []publish.Rest `json:"cleared"`
	Kept    []publish.Rest `json:"kept"` // younger ones
	DryRun  bool           `json:"dry_run,omitempty"`
}

// publishGC runs the command.
func (a *app) publishGC(ctx context.Context, target string, olderThan time.Duration, dryRun bool) error {
	if olderThan < 0 {
		return usagef("--older-than %v: want a time that has passed", olderThan)
	}
	sink, err := publish.Open(target)
	if err != nil {
		return withExit(exitUsage, err)
	}
	rests, err := sink.Abandoned(ctx)
	if err != nil {
		return err
	}
	v := gcJSON{Target: sink.String(), Cleared: []publish.Rest{}, Kept: []publish.Rest{}, DryRun: dryRun}
	now := time.Now()
	var failed error
	for _, r := range rests {
		if now.Sub(r.Started) < olderThan {
			v.Kept = append(v.Kept, r)
			continue
		}
		if !dryRun {
			if err := sink.Discard(ctx, r); err != nil {
				failed = errors.Join(failed, err)
				continue
			}
		}
		v.Cleared = append(v.Cleared, r)
	}
	if a.json {
		err = a.printJSON(v)
	} else {
		verb := "cleared"
		if dryRun {
			verb = "would clear"
		}
		for _, r := range v.Cleared {
			fmt.Fprintf(a.stdout, "%s %s (%d bytes, begun %s)\n", verb, r.Name, r.Size, r.Started.UTC().Format(time.RFC3339))
		}
		if n := len(v.Kept); n > 0 {
			fmt.Fprintf(a.stderr, "%d younger than %v are kept\n", n, olderThan)
		}
	}
	return errors.Join(failed, err)
}
