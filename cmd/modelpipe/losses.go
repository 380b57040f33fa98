package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/ops/budget"
	"github.com/modelpipe/modelpipe/pipeline"
)

func init() { register(newLosses) }

// measuring is what the flags of losses say.
type measuring struct {
	calibration
	imatrix string
	seed    uint64
}

func newLosses(a *app) *cobra.Command {
	var m measuring
	cmd := &cobra.Command{
		Use:   "losses SOURCE --text FILE [--imatrix IMATRIX.gguf]",
		Short: "Measure what each type would lose on each tensor, for --max-size",
		Long: `Losses runs a model forth and back over a text, quantizes every tensor to every
type, and says what that would change about the model's predictions: the expected
KL divergence, to second order, from the Fisher information of the weights. plan
and convert choose types by it for --max-size and --max-kld.

The result goes beside the importance matrix, to IMATRIX.gguf.losses.json, where
plan and convert look for it, or to -o FILE for their --losses. A second budget
costs no second measurement. SOURCE is read as the GGUF file that convert would
write.`,
		Example: `  modelpipe losses ./m --text groups_merged.txt --imatrix imatrix.gguf
  modelpipe convert ./m --max-size 5GB --imatrix imatrix.gguf`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return a.losses(cmd.Context(), args[0], &m) },
	}
	f := cmd.Flags()
	f.StringVar(&m.text, "text", "", "the `FILE` with the text (required)")
	f.IntVar(&m.chunks, "chunks", pipeline.LossesChunks, "use the first `N` chunks of the text, 0 for all")
	f.IntVar(&m.ctx, "ctx", 512, "tokens of a chunk; predictions in its second half count")
	f.StringVar(&m.imatrix, "imatrix", "", "importance matrix `FILE` that the model will be converted with")
	f.StringVarP(&m.output, "output", "o", "", "the `PATH` of the losses (default IMATRIX"+pipeline.LossesSuffix+")")
	f.StringVar(&m.pre, "pre", "", "tokenizer.ggml.pre, for a pre-tokenizer that is not recognised")
	f.StringVar(&m.device, "device", "auto", "where to compute: cpu, cuda, xla:/path/to/plugin.so or auto")
	f.Uint64Var(&m.seed, "seed", 1, "fixes what is drawn from the model's predictions")
	f.DurationVar(&m.interval, "progress", 10*time.Second, "`INTERVAL` of the progress lines")
	return cmd
}

// lossesJSON is the command's result with --json.
type lossesJSON struct {
	Output  string  `json:"output"`
	Tensors int     `json:"tensors"`
	Chunks  int     `json:"chunks"`
	Ctx     int     `json:"ctx"`
	Device  string  `json:"device"`
	Seconds float64 `json:"seconds"`
}

func (a *app) losses(ctx context.Context, arg string, m *measuring) error {
	if m.output == "" {
		if m.imatrix == "" {
			return usagef("--output: want the path of the losses, where there is no --imatrix beside which they go")
		}
		m.output = m.imatrix + pipeline.LossesSuffix
	}
	if _, _, err := m.check(); err != nil {
		return err
	}
	s, err := pipeline.OpenSource(ctx, arg, a.log)
	if err != nil {
		return err
	}
	defer s.Close()
	model, err := pipeline.OpenModel(ctx, s, m.pre)
	if err != nil {
		return err
	}
	defer model.Close()
	c := conversion{imatrix: m.imatrix}
	if err := c.readImatrix(); err != nil {
		return err
	}
	chunks, err := model.Chunks(m.text, m.chunks, m.ctx)
	if err != nil {
		return err
	}
	digest, err := model.Digest(ctx, s)
	if err != nil {
		return err
	}
	d, err := ops.Open(m.device)
	if err != nil {
		return err
	}
	defer d.Close()
	start, last := time.Now(), time.Now()
	table, err := model.MeasureLosses(ctx, d, c.importance, chunks, m.seed, func(p ops.Progress) {
		if m.interval > 0 && time.Since(last) >= m.interval {
			last = time.Now()
			a.log.Info("measuring", "stage", p.Stage, "done", p.Done, "total", p.Total)
		}
	})
	if err != nil {
		return err
	}
	f := budget.NewFile(table)
	f.Model, f.Imatrix, f.Text, f.Chunks, f.Ctx = digest, c.imatrixDigest(), m.text, len(chunks), m.ctx
	if err := f.Save(m.output); err != nil {
		return err
	}
	r := lossesJSON{m.output, len(table), len(chunks), m.ctx, d.Name(), time.Since(start).Seconds()}
	if a.json {
		return a.printJSON(r)
	}
	fmt.Fprintf(a.stdout, "%s: losses of %d tensors from %d chunks of %d tokens\n", r.Output, r.Tensors, r.Chunks, r.Ctx)
	return nil
}

// imatrixDigest is that of the importance matrix, empty where there is none.
func (c *conversion) imatrixDigest() string { return strings.TrimPrefix(c.digests, "imatrix ") }
