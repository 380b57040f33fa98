package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/ops/calibrate"
	"github.com/modelpipe/modelpipe/ops/fromgguf"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/tokenizer"
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
	s, err := a.openSource(ctx, arg)
	if err != nil {
		return err
	}
	defer s.close()
	m, err := a.openModel(ctx, s, c.pre)
	if err != nil {
		return err
	}
	defer m.close()
	chunks, err := c.cut(m)
	if err != nil {
		return err
	}
	if c.chunks > len(chunks) {
		a.log.Warn("the text is shorter than what was asked for", "chunks", len(chunks), "asked", c.chunks)
	}
	inputs, err := c.digest(ctx, s, m, chunks)
	if err != nil {
		return err
	}

	k := calibrate.New(m.model, m.header.Tensors, inputs, c.processOutput)
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
	r := calibrationJSON{Model: m.model.Family, Chunks: len(chunks), Ctx: c.ctx, Layers: k.Layers()}
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

// openedModel is a model as its GGUF file specifies it, which may be computed
// while it is read.
type openedModel struct {
	model  *spec.Model
	header *gguf.Header
	close  func() error
}

// openModel opens a .gguf, or a model in Hugging Face's layout as the GGUF file
// that convert would write with a pre-tokenizer, "" for the one it recognises.
func (a *app) openModel(ctx context.Context, s *source, pre string) (*openedModel, error) {
	if s.file != "" {
		if !strings.HasSuffix(s.file, ".gguf") {
			return nil, usagef("%s: want a model folder, hf://org/name or a .gguf file", s.arg)
		}
		if pre != "" {
			return nil, usagef("--pre: %s says itself what its pre-tokenizer is", s.arg)
		}
		f, err := gguf.OpenFS(s.fsys, s.file)
		if err != nil {
			return nil, err
		}
		m, err := fromgguf.Open(f)
		if err != nil {
			f.Close()
			return nil, err
		}
		return &openedModel{m, f.Header, f.Close}, nil
	}
	p, err := convert.NewPlan(ctx, s.fsys, convert.Options{Source: cmp.Or(s.repo, s.name), Repository: s.repo, Commit: s.commit, Pre: pre})
	if err != nil {
		return nil, err
	}
	view, err := convert.NewView(p, s.fsys, convert.RenderOptions{})
	if err != nil {
		return nil, err
	}
	m, err := fromgguf.OpenAt(s.name+", converted", view, view.Size())
	if err != nil {
		view.Close()
		return nil, err
	}
	return &openedModel{m, &p.Header, view.Close}, nil
}

// cut reads the text, encodes and cuts it.
func (c *calibration) cut(m *openedModel) ([][]int32, error) {
	f, err := os.Open(c.text)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, tokenizer.MaxText+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.text, err)
	}
	return cutText(m, c.text, string(text), c.chunks, c.ctx)
}

// cutText encodes a text and cuts its first n chunks, 0 for all, as
// llama-imatrix does.
func cutText(m *openedModel, name, text string, n, ctx int) ([][]int32, error) {
	e, err := tokenizer.NewGGUFEncoder(m.header.Metadata)
	if err != nil {
		return nil, err
	}
	bos, err := beginning(e, m.model.Pooling)
	if err != nil {
		return nil, err
	}
	ids, err := e.Encode(strings.TrimSuffix(text, "\n"), tokenizer.EncodeOptions{AddSpecial: true})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	chunks, err := calibrate.Chunks(ids, bos, n, ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return chunks, nil
}

// beginning returns the token that a vocabulary puts before a text, spec.None
// where it puts none. One that also puts a token behind it is refused, as
// llama-imatrix refuses it, unless the model's result is that of the last
// token.
func beginning(e *tokenizer.GGUFEncoder, pooling spec.Pooling) (int32, error) {
	const sample = "a"
	plain, err := e.Encode(sample, tokenizer.EncodeOptions{})
	if err != nil {
		return 0, err
	}
	full, err := e.Encode(sample, tokenizer.EncodeOptions{AddSpecial: true})
	if err != nil {
		return 0, err
	}
	before := 0
	for before+len(plain) <= len(full) && !slices.Equal(full[before:before+len(plain)], plain) {
		before++
	}
	if before+len(plain) < len(full) && pooling != spec.PoolLast {
		return 0, errors.New("the vocabulary ends texts with a token of its own, which chunks of a text do not have: such a model cannot be calibrated")
	}
	if before == 0 {
		return spec.None, nil
	}
	return full[0], nil
}

// digest is of all that the sums depend on: the file's header but for what the
// model is called, its weights (the commit of a repository on the Hub, the first
// row of each elsewhere), and the tokens.
func (c *calibration) digest(ctx context.Context, s *source, m *openedModel, chunks [][]int32) (string, error) {
	model, err := modelDigest(ctx, s, m)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %t %d %d\n", model, c.processOutput, c.ctx, len(chunks))
	for _, ids := range chunks {
		if err := binary.Write(h, binary.LittleEndian, ids); err != nil {
			return "", err
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// firstRows calls f with the first row of each weight, of experts those of the
// first.
func firstRows(ctx context.Context, m *spec.Model, f func(float32)) error {
	var slots []spec.Slot
	for s := range m.Weights {
		if s.Expert <= 0 {
			slots = append(slots, s)
		}
	}
	slices.SortFunc(slots, func(a, b spec.Slot) int {
		return cmp.Or(cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Role, b.Role), cmp.Compare(a.Expert, b.Expert))
	})
	for _, s := range slots {
		w := m.Weights[s]
		row := make([]float32, w.Cols)
		if err := w.Read(ctx, row, 0); err != nil {
			return err
		}
		for _, v := range row {
			f(v)
		}
	}
	return nil
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
	engine := func(ctx context.Context, m *spec.Model, chunks [][]int32, of calibrate.Layers, tap calibrate.Tap) error {
		return ops.Calibrate(ctx, d, m, chunks, ops.Layers(of), tap, o)
	}
	return d.Name(), k.Run(ctx, engine, chunks, of, save)
}
