package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog/export"
	"github.com/modelpipe/modelpipe/catalog/trust"
	"github.com/modelpipe/modelpipe/internal/wholefile"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/validate"
)

func init() { register(newRefresh) }

// refreshing is what the flags of refresh say.
type refreshing struct {
	r                pipeline.Refresher
	store, policy    string
	disk, memory     string
	summary, metrics string
	interval         time.Duration
}

func newRefresh(a *app) *cobra.Command {
	var f refreshing
	cmd := &cobra.Command{
		Use:   "refresh -f FILE --store STORE",
		Short: "Make what a curation file asks for and a store does not have",
		Long: `Refresh is what a scheduler runs. It compares a curation file, and what its
sources hold now, with what is in a store, and does only what is missing: convert,
calibrate, validate, publish, release, promote, build the catalog, sign, and
write exports and a site. The types of a variant of type fit are chosen for its
max_size, as convert --max-size chooses them.

A release has every variant of the curation file, and is promoted when all of
their gates hold; until then the one before serves. A model that fails stops no
other and loses nothing. A refresh that was killed goes on when it is run again;
one with nothing to do writes nothing. One at a time works on a store: it holds
a lease there, and a second one ends with exit code 4 and the name of the first.

Exit codes: 0 done, or nothing to do; 1 a model failed, or something that all
need; 2 the curation file or the flags are wrong; 3 only gates said no, of
quality, size or license; 4 a source or the store does not answer or is locked:
try again later. See docs/refresh.md.`,
		Example: `  modelpipe refresh -f catalog.toml --store out/store --dry-run
  modelpipe refresh -f catalog.toml --store s3://models --trust trust.toml --work /var/lib/modelpipe \
    --metrics /var/lib/node_exporter/modelpipe.prom --summary summary.json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.refresh(cmd.Context(), &f) },
	}
	storeFlag(cmd, &f.store)
	flags := cmd.Flags()
	flags.StringVarP(&f.r.Curation, "file", "f", "", "the `PATH` of the curation file")
	flags.StringVar(&f.r.Work, "work", "", "`DIR` for unfinished work, which a killed run goes on with (default: one for the store in the user's cache folder)")
	flags.StringArrayVar(&f.r.Only, "only", nil, "refresh the model with this `SLUG` only (repeatable)")
	flags.BoolVar(&f.r.DryRun, "dry-run", false, "print what is missing, why, and what it is expected to take; write nothing")
	flags.StringVar(&f.policy, "trust", "", "sign with the policy `FILE` (docs/catalog.md)")
	flags.StringVar(&f.r.Export, "export", "", "write the catalog to `DIR` in the forms that gateways and servers read")
	flags.StringVar(&f.r.Root, "root", export.DefaultRoot, "`DIR` of the nodes with a copy of the store, for --export")
	flags.StringVar(&f.r.Site, "site", "", "write the catalog to `DIR` as a web site")
	flags.StringVar(&f.summary, "summary", "", "write the summary to a JSON `FILE`")
	flags.StringVar(&f.metrics, "metrics", "", "write the summary to a `FILE` for Prometheus' textfile collector")
	flags.StringVar(&f.r.Calibrate, "calibrate", "", "measure importance matrices (imatrix = \"auto\"), and with them what types lose (type = \"fit\"), on the text of `FILE`")
	flags.IntVar(&f.r.CalibrateChunks, "calibrate-chunks", 60, "measure matrices on at most so many chunks of 512 tokens, losses on at most 8 of them")
	flags.StringVar(&f.r.Text, "text", "", "validate on the text of `FILE` (default: one that comes with modelpipe)")
	flags.StringVar(&f.r.Canaries, "canaries", "", "validate on the prompts of `FILE`, one a line, instead of the built-in ones")
	flags.IntVar(&f.r.Chunks, "chunks", validate.DefaultChunks, "validate on at most so many chunks of the text")
	flags.IntVar(&f.r.Ctx, "ctx", validate.DefaultCtx, "tokens in a chunk")
	flags.StringVar(&f.r.Device, "device", "auto", "compute on `DEVICE`: cpu, cuda, xla:/path/to/plugin.so or auto")
	flags.IntVar(&f.r.Jobs, "jobs", 1, "make so many variants at once")
	flags.StringVar(&f.disk, "disk", "", "`SIZE` of what unfinished work may take of the disk")
	flags.StringVar(&f.memory, "memory", "", "`SIZE` of what variants that are made at once may take of the memory")
	flags.BoolVar(&f.r.Remake, "remake", false, "make everything anew where it was made by another version of modelpipe")
	flags.DurationVar(&f.r.Lease, "lease", pipeline.DefaultLease, "how long others wait for a run that does not answer")
	flags.DurationVar(&f.interval, "progress", defaultInterval, "`INTERVAL` of the progress lines where there is no terminal")
	return cmd
}

// open checks the flags and opens what they name.
func (f *refreshing) open(a *app) (err error) {
	r := &f.r
	switch {
	case r.Curation == "":
		return usagef("-f: the path of the curation file is missing")
	case f.store == "":
		return usagef("--store: want a folder or s3://bucket/prefix")
	case r.Jobs < 1:
		return usagef("--jobs %d: want at least 1", r.Jobs)
	case r.Lease < time.Second:
		return usagef("--lease %v: want at least a second", r.Lease)
	}
	for _, size := range []struct {
		flag, text string
		to         *int64
	}{{"--disk", f.disk, &r.Disk}, {"--memory", f.memory, &r.Memory}} {
		if *size.to, err = pipeline.ParseSize(size.text); err != nil {
			return usagef("%s %s: %w", size.flag, size.text, err)
		}
	}
	if f.policy != "" {
		if r.Trust, err = trust.ReadPolicy(f.policy); err != nil {
			return withExit(exitUsage, err)
		}
	}
	if r.Work == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return usagef("--work: want a folder, for %w", err)
		}
		name := f.store
		if !publish.IsRemote(name) {
			if name, err = filepath.Abs(name); err != nil {
				return err
			}
		}
		sum := sha256.Sum256([]byte(name))
		r.Work = filepath.Join(cache, "modelpipe", "refresh", hex.EncodeToString(sum[:8]))
	}
	r.Actor, r.Version, r.Log, r.Render = actor(), version().Version, a.log, renderApart
	r.Show = func(total int64, done func() int64, at func() string) func() {
		return a.showProgress(meter{"refreshing", total, done, at}, f.interval)
	}
	if r.DryRun && !publish.IsRemote(f.store) { // a store would be made
		if _, err := os.Stat(strings.TrimPrefix(f.store, "file://")); err != nil {
			return nil
		}
	}
	if r.Store, err = openStore(f.store); err != nil && publish.IsRemote(f.store) {
		return withExit(exitUsage, err) // nothing was asked of it yet
	}
	return err
}

// refresh runs the command.
func (a *app) refresh(ctx context.Context, f *refreshing) error {
	if err := f.open(a); err != nil {
		return err
	}
	s, err := f.r.Run(ctx)
	s.Store = f.store
	return errors.Join(refreshExit(s, err), f.write(a, s))
}

// write prints the summary and writes it where the flags say.
func (f *refreshing) write(a *app, s *pipeline.Summary) error {
	var bad []error
	if f.metrics != "" && !f.r.DryRun {
		if err := s.WriteMetrics(f.metrics); err != nil {
			bad = append(bad, fmt.Errorf("--metrics: %w", err))
		}
	}
	if f.summary != "" {
		if err := wholefile.Write(f.summary, func(w io.Writer) error { return encodeJSON(w, s) }); err != nil {
			bad = append(bad, fmt.Errorf("--summary: %w", err))
		}
	}
	switch {
	case a.json:
		bad = append(bad, a.printJSON(s))
	case s.Outcome == pipeline.OutcomeUsage:
	case f.r.DryRun:
		bad = append(bad, s.WritePlan(a.stdout))
	default:
		bad = append(bad, s.WriteText(a.stdout))
	}
	return errors.Join(bad...)
}

// refreshExit gives what became of a refresh its exit code.
func refreshExit(s *pipeline.Summary, err error) error {
	code := map[string]int{
		pipeline.OutcomeFailed: exitFailed, pipeline.OutcomeUsage: exitUsage,
		pipeline.OutcomeRefused: exitGate, pipeline.OutcomeUnavailable: exitUnavailable,
	}[s.Outcome]
	switch {
	case code == exitDone && err == nil:
		return nil
	case err != nil:
		return withExit(code, err)
	case s.Outcome == pipeline.OutcomeRefused:
		return withExit(code, fmt.Errorf("refused: %s", s.Named(pipeline.ModelRefused)))
	}
	return withExit(code, fmt.Errorf("failed: %s", s.Named(pipeline.ModelFailed)))
}
