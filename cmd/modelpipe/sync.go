package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog/trust"
	"github.com/modelpipe/modelpipe/edge"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/publish"
)

func init() { register(newSync) }

// syncing is what the flags of sync say.
type syncing struct {
	o                                  edge.Options
	trustRoot                          string
	selects, pins                      []string
	maxSize, maxMemory, rate, keepFree string
	daemon, dryRun                     bool
	interval                           time.Duration
	serve                              string
	healthCommand, healthURL           string
	healthTimeout                      time.Duration
}

func newSync(a *app) *cobra.Command {
	s := &syncing{}
	cmd := &cobra.Command{
		Use:   "sync --catalog STORE --root FOLDER",
		Short: "Keep the models of an edge node in step with a catalog",
		Long: `Sync follows a channel of a signed catalog. It fetches the model files that are
missing, from any place that the catalog names, from peers, and out of the files
that are there already; verifies them; makes a release of them and moves the
link FOLDER/current to it in one step. A server reads its models below
FOLDER/current/MODEL/VARIANT/. Where a health check is given and says no, the
link goes back to the release before. What was withdrawn leaves at once.

STORE is a folder, s3://bucket/prefix (credentials as the AWS tools find them)
or the address of a web server. --trust-root names the root metadata that is
trusted from the start; it is kept in FOLDER. Without it the first root of a
folder is trusted as it is; a remote store needs --trust-first-use for that.

--select KEY=VALUE takes models by model, task, vendor, language, tag or
license, and variants by variant; several with one key are alternatives.
Without a variant the first one of the release that fits is taken.

It does one round, or with --daemon one each --interval. Of a round of which
parts failed the others count: exit code 1 or 4 (unavailable), or 3 where
signatures, health or a withdrawal said no.`,
		Example: `  modelpipe sync --catalog out/store --root out/node
  modelpipe sync --catalog https://models.example --root /var/lib/modelpipe --trust-root root.json \
    --select task=text-generation --max-memory 6GB --health-url http://127.0.0.1:8080/health \
    --daemon --interval 5m --serve 10.0.0.5:9100 --peer http://10.0.0.6:9100`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.sync(cmd.Context(), s) },
	}
	f := cmd.Flags()
	f.StringVar(&s.o.Catalog, "catalog", "", "the `STORE` that has the catalog")
	f.StringVar(&s.o.Root, "root", "", "the `FOLDER` of the node")
	channelFlag(cmd, &s.o.Channel)
	f.StringVar(&s.trustRoot, "trust-root", "", "the trusted root metadata, a `FILE`")
	f.BoolVar(&s.o.FirstUse, "trust-first-use", false, "trust the first root that a remote store shows")
	f.StringArrayVar(&s.selects, "select", nil, "take the models with `KEY=VALUE` (repeatable)")
	f.StringVar(&s.maxSize, "max-size", "", "take variants of at most this `SIZE`")
	f.StringVar(&s.maxMemory, "max-memory", "", "take variants that run in this `SIZE` of memory")
	f.StringVar(&s.o.Slot, "slot", "", "follow the active release of this `SLOT`, blue or green, where there is one")
	f.StringArrayVar(&s.pins, "pin", nil, "hold a model at a release, `MODEL=RELEASE` (repeatable)")
	f.StringArrayVar(&s.o.Peers, "peer", nil, "`ADDRESS` of another node's --serve to fetch from first (repeatable)")
	f.StringVar(&s.healthCommand, "health-command", "", "shell `COMMAND` that says whether the release serves; it may restart the server")
	f.StringVar(&s.healthURL, "health-url", "", "`ADDRESS` that answers 2xx when the release serves")
	f.DurationVar(&s.healthTimeout, "health-timeout", time.Minute, "`TIME` that the health check may take")
	f.DurationVar(&s.o.Retry, "retry-after", time.Hour, "`TIME` after which an unhealthy release is tried again, doubled each time")
	f.IntVar(&s.o.Parallel, "parallel", 4, "requests at once")
	f.StringVar(&s.rate, "limit-rate", "", "fetch at most this `SIZE` per second")
	f.DurationVar(&s.o.Stall, "stall-time", 30*time.Second, "`TIME` after which a place that gives next to nothing is given up")
	f.StringVar(&s.keepFree, "keep-free", "256M", "`SIZE` of the disk that stays free")
	f.StringVar(&s.o.Evict, "evict", edge.EvictUnused, "what gives way to a release on a full disk: never, unused, or previous (the release to go back to)")
	f.BoolVar(&s.daemon, "daemon", false, "go on until interrupted")
	f.DurationVar(&s.interval, "interval", 5*time.Minute, "`TIME` between the rounds of a daemon, give or take a fifth")
	f.StringVar(&s.serve, "serve", "", "serve files to peers, /healthz and /metrics at this `ADDRESS`, with --daemon")
	f.BoolVar(&s.dryRun, "dry-run", false, "say what would be fetched and removed")
	return cmd
}

// options checks the flags.
func (s *syncing) options(a *app) (err error) {
	o := &s.o
	o.Log = a.log
	if o.Catalog == "" || o.Root == "" {
		return usagef("sync: --catalog and --root are missing")
	}
	if o.Select, err = edge.ParseSelection(s.selects); err != nil {
		return usagef("--select: %w", err)
	}
	for _, text := range s.pins {
		p, err := edge.ParsePin(text)
		if err != nil {
			return usagef("--pin: %w", err)
		}
		o.Pins = append(o.Pins, p)
	}
	for _, size := range []struct {
		flag, text string
		to         *int64
	}{
		{"--max-size", s.maxSize, &o.Select.MaxSize}, {"--max-memory", s.maxMemory, &o.Select.MaxMemory},
		{"--limit-rate", s.rate, &o.Limit}, {"--keep-free", s.keepFree, &o.KeepFree},
	} {
		if size.text == "0" {
			continue
		}
		if *size.to, err = pipeline.ParseSize(size.text); err != nil {
			return usagef("%s %s: %w", size.flag, size.text, err)
		}
	}
	for _, peer := range o.Peers {
		if !pipeline.IsURL(peer) {
			return usagef("--peer %s: want http://host:port", peer)
		}
	}
	o.Health = edge.Health{Command: s.healthCommand, URL: s.healthURL, Timeout: s.healthTimeout}
	switch {
	case s.healthURL != "" && !pipeline.IsURL(s.healthURL):
		return usagef("--health-url %s: want http://host/...", s.healthURL)
	case s.healthTimeout <= 0 || o.Stall <= 0 || o.Retry <= 0:
		return usagef("--health-timeout, --stall-time and --retry-after: want times that are more than nothing")
	case !slices.Contains([]string{edge.EvictNever, edge.EvictUnused, edge.EvictPrevious}, o.Evict):
		return usagef("--evict %s: want never, unused or previous", o.Evict)
	case !slices.Contains([]string{"", "blue", "green"}, o.Slot):
		return usagef("--slot %s: want blue or green", o.Slot)
	case o.Parallel < 1 || o.Parallel > 64:
		return usagef("--parallel %d: want 1 to 64", o.Parallel)
	case s.daemon && s.interval < time.Second:
		return usagef("--interval %v: want at least a second", s.interval)
	case s.serve != "" && !s.daemon:
		return usagef("--serve: wants --daemon")
	case s.daemon && s.dryRun:
		return usagef("--dry-run: says what one round would do, without --daemon")
	}
	if s.trustRoot != "" {
		if o.Trust, err = os.ReadFile(s.trustRoot); err != nil {
			return err
		}
	}
	if s.daemon {
		o.Round = s.interval
	}
	o.FirstUse = o.FirstUse || !pipeline.IsURL(o.Catalog) && !publish.IsRemote(o.Catalog)
	return nil
}

// syncExit gives the errors of a round their exit codes.
func syncExit(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, trust.ErrUntrusted), errors.Is(err, edge.ErrUnhealthy), errors.Is(err, edge.ErrWithdrawn):
		return withExit(exitGate, err)
	case errors.Is(err, publish.ErrUnavailable), errors.Is(err, edge.ErrBusy):
		return withExit(exitUnavailable, err)
	}
	return err
}

func (a *app) sync(ctx context.Context, s *syncing) error {
	if err := s.options(a); err != nil {
		return err
	}
	n, err := edge.New(s.o)
	if err != nil {
		return syncExit(err)
	}
	defer n.Close()
	switch {
	case s.dryRun:
		return a.planSync(ctx, n)
	case s.daemon:
		return a.syncDaemon(ctx, n, s)
	}
	r, err := n.Sync(ctx)
	return errors.Join(syncExit(err), a.saySync(r))
}

// saySync prints what a round has done.
func (a *app) saySync(r *edge.Result) error {
	if a.json {
		return a.printJSON(r)
	}
	what := "unchanged"
	if r.Changed {
		what = "is current"
	}
	var models []string
	for _, m := range r.Models {
		models = append(models, fmt.Sprintf("  %s %s, release %d\n", m.Model, m.Name, m.Release))
	}
	_, err := fmt.Fprintf(a.stdout, "release %d %s: %d variants, %d bytes fetched, %d copied\n%s", r.Release, what, len(r.Models), r.Fetched, r.Copied, strings.Join(models, ""))
	return err
}

// planSync prints what a round would do.
func (a *app) planSync(ctx context.Context, n *edge.Node) error {
	changes, err := n.Plan(ctx)
	if changes == nil && err != nil {
		return syncExit(err)
	}
	if a.json {
		return errors.Join(syncExit(err), a.printJSON(changes))
	}
	for _, c := range changes {
		line := fmt.Sprintf("%-6s %s release %d, %s, %d bytes", c.Action, c.Model, c.Release, c.Variant, c.Bytes)
		if c.Reason != "" {
			line += ": " + c.Reason
		}
		if _, err := fmt.Fprintln(a.stdout, line); err != nil {
			return err
		}
	}
	return syncExit(err)
}

// syncDaemon does rounds until it is interrupted, which is no error.
func (a *app) syncDaemon(ctx context.Context, n *edge.Node, s *syncing) error {
	if s.serve != "" {
		l, err := net.Listen("tcp", s.serve)
		if err != nil {
			return fmt.Errorf("--serve: %w", err)
		}
		server := &http.Server{Handler: n.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		defer func() {
			server.Close()
			<-served
		}()
		a.log.Info("serving", "address", l.Addr().String())
	}
	n.Run(ctx, s.interval, func(r *edge.Result, err error) {
		if err != nil {
			a.log.Error("a round has failed", "error", strings.ReplaceAll(err.Error(), "\n", "; "), "release", r.Release)
		}
		if err == nil && !r.Changed {
			a.log.Debug("unchanged", "release", r.Release, "requests", r.Requests)
			return
		}
		if err := a.saySync(r); err != nil {
			a.log.Error("print", "error", err)
		}
	})
	return nil
}
