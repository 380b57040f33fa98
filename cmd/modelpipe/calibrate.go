package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/ops/calibrate"
	"github.com/modelpipe/modelpipe/pipeline"
)

func init() { register(newCalibrate) }

// calibration is what the flags of calibrate say.
type calibration struct {
	text          string
	pre           string
	chunks, ctx   int
	output        string
	resume        bool
	layers        string
	merge         []string
	device        string
	processOutput bool
	interval      time.Duration
}

func newCalibrate(a *app) *cobra.Command {
	var c calibration
	cmd := &cobra.Command{
		Use:   "calibrate SOURCE --text FILE -o IMATRIX.gguf",
		Short: "Measure which weights matter, for convert --imatrix",
		Long: `Calibrate runs a model over a text and writes an importance matrix: for each
matrix of the model the sums of squares of what each column is multiplied by,
in llama-imatrix's format. SOURCE is a model folder, hf://org/name or a .gguf
file. A source in Hugging Face's layout is read as the GGUF file that convert
would write.

The text is encoded whole by the file's own rules and cut every --ctx tokens;
where the vocabulary begins texts with a token of its own, that takes the place
of each chunk's first token.

Layers that are done are kept next to the output, in OUTPUT.calibration, until
all are: an interrupted run goes on with --resume. With --layers a run does a
part of the layers, and --merge takes in what was done elsewhere.`,
		Example: `  modelpipe calibrate hf://org/name --text groups_merged.txt --chunks 60 -o imatrix.gguf
  modelpipe convert hf://org/name --type IQ3_XXS --imatrix imatrix.gguf`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return a.calibrate(cmd.Context(), args[0], &c) },
	}
	f := cmd.Flags()
	f.StringVar(&c.text, "text", "", "the `FILE` with the text")
	f.StringVar(&c.pre, "pre", "", "tokenizer.ggml.pre, for a pre-tokenizer that is not recognised")
	f.IntVar(&c.chunks, "chunks", 0, "use the first `N` chunks of the text (default all)")
	f.IntVar(&c.ctx, "ctx", 512, "tokens of a chunk")
	f.StringVarP(&c.output, "output", "o", "", "the `PATH` of the importance matrix")
	f.BoolVar(&c.resume, "resume", false, "go on with an interrupted calibration")
	f.StringVar(&c.layers, "layers", "", "do layers `A:B` only: from A up to, but without, B")
	f.StringArrayVar(&c.merge, "merge", nil, "take in the layers of another calibration's state `FILE` (repeatable)")
	f.StringVar(&c.device, "device", "auto", "where to compute: cpu, cuda, xla:/path/to/plugin.so or auto")
	f.BoolVar(&c.processOutput, "process-output", false, "measure output.weight too")
	f.DurationVar(&c.interval, "progress", 10*time.Second, "`INTERVAL` of the progress lines")
	return cmd
}

// calibrationJSON is the command's result with --json.
type calibrationJSON struct {
	Output   string   `json:"output,omitempty"` // empty while layers are missing
	State    string   `json:"state,omitempty"`
	Model    string   `json:"architecture"`
	Chunks   int      `json:"chunks"`
	Ctx      int      `json:"ctx"`
	Entries  int      `json:"entries"`
	Layers   int      `json:"layers"`
	Missing  []string `json:"missing,omitempty"`
	Idle     []string `json:"idle,omitempty"`
	Device   string   `json:"device,omitempty"`
	Computed int      `json:"layers_computed"`
}

// calibrate runs the command.
func (a *app) calibrate(ctx context.Context, arg string, c *calibration) error {
	first, end, err := c.check()
	if err != nil {
		return err
	}
	s, err := pipeline.OpenSource(ctx, arg, a.log)
	if err != nil {
		return err
	}
	defer s.Close()
	m, err := pipeline.OpenModel(ctx, s, c.pre)
	if err != nil {
		return err
	}
	defer m.Close()
	chunks, err := m.Chunks(c.text, c.chunks, c.ctx)
	if err != nil {
		return err
	}
	if c.chunks > len(chunks) {
		a.log.Warn("the text is shorter than what was asked for", "chunks", len(chunks), "asked", c.chunks)
	}
	inputs, err := m.CalibrationDigest(ctx, s, chunks, c.ctx, c.processOutput)
	if err != nil {
		return err
	}

	k := calibrate.New(m.Spec, m.Header.Tensors, inputs, c.processOutput)
	if c.processOutput && !k.Output() {
		a.log.Warn("the model has no output.weight of its own: --process-output adds nothing")
	}
	of := k.All()
	if c.layers != "" {
		if end > k.Layers() {
			return fmt.Errorf("--layers %s: the model has layers 0:%d", c.layers, k.Layers())
		}
		of = calibrate.Layers{First: first, End: end, Output: k.Output() && end == k.Layers()}
	}
	state := c.output + ".calibration"
	if c.resume {
		if err := k.LoadState(state); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("resume: %w", err)
		}
	}
	for _, name := range c.merge {
		if err := k.LoadState(name); err != nil {
			return fmt.Errorf("merge: %w", err)
		}
	}
	save := func() error {
		if k.Complete() { // the output follows
			return nil
		}
		return k.SaveState(state, c.text, len(chunks), c.ctx)
	}
	r := calibrationJSON{Model: m.Spec.Family, Chunks: len(chunks), Ctx: c.ctx, Layers: k.Layers()}
	if missing := k.Missing(of); len(missing) > 0 {
		for _, run := range missing {
			r.Computed += run.End - run.First
		}
		if r.Device, err = a.measure(ctx, k, chunks, of, c, save); err != nil {
			return err
		}
	}
	if len(c.merge) > 0 {
		if err := save(); err != nil {
			return err
		}
	}

	f := k.File(c.text, len(chunks), c.ctx)
	r.Entries, r.Idle = len(f.Entries), k.Idle()
	for _, name := range r.Idle {
		a.log.Warn("experts met no token: a longer text would help", "tensor", name)
	}
	if !k.Complete() {
		r.State = state
		for _, run := range k.Missing(k.All()) {
			if run.First < run.End {
				r.Missing = append(r.Missing, fmt.Sprintf("%d:%d", run.First, run.End))
			}
			if run.Output {
				r.Missing = append(r.Missing, "output")
			}
		}
		if a.json {
			return a.printJSON(r)
		}
		fmt.Fprintf(a.stdout, "%s: layers %s are missing: go on with --resume\n", state, strings.Join(r.Missing, ", "))
		return nil
	}
	if err := f.Save(c.output); err != nil {
		return err
	}
	if err := os.Remove(state); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r.Output = c.output
	if a.json {
		return a.printJSON(r)
	}
	fmt.Fprintf(a.stdout, "%s: %d entries from %d chunks of %d tokens\n", c.output, r.Entries, r.Chunks, r.Ctx)
	return nil
}

// check looks at the flags and returns the layers of --layers.
func (c *calibration) check() (first, end int, err error) {
	switch {
	case c.text == "":
		return 0, 0, usagef("--text: want the file of a text")
	case c.output == "":
		return 0, 0, usagef("--output: want the path of the importance matrix")
	case c.chunks < 0:
		return 0, 0, usagef("--chunks %d: want a number of chunks", c.chunks)
	case c.ctx < 2:
		return 0, 0, usagef("--ctx %d: want at least 2 tokens", c.ctx)
	case c.layers == "":
		return 0, 0, nil
	}
	from, to, ok := strings.Cut(c.layers, ":")
	first, err1 := strconv.Atoi(from)
	end, err2 := strconv.Atoi(to)
	if !ok || err1 != nil || err2 != nil || first < 0 || end <= first {
		return 0, 0, usagef("--layers %s: want A:B with A less than B", c.layers)
	}
	return first, end, nil
}

// measure computes what is missing, and returns the device's name.
func (a *app) measure(ctx context.Context, k *calibrate.Calibration, chunks [][]int32, of calibrate.Layers, c *calibration, save func() error) (string, error) {
	d, err := ops.Open(c.device)
	if err != nil {
		return "", err
	}
	defer d.Close()
	last := time.Now()
	o := ops.Options{Progress: func(p ops.Progress) {
		if c.interval > 0 && time.Since(last) >= c.interval {
			last = time.Now()
			a.log.Info("calibrating", "stage", p.Stage, "done", p.Done, "total", p.Total)
		}
	}}
	return d.Name(), k.Run(ctx, pipeline.CalibrateOn(d, o), chunks, of, save)
}
