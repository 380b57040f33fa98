package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/internal/wholefile"
	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/quantize"
	"github.com/modelpipe/modelpipe/validate"
)

func init() { register(newValidate) }

// maxText bounds the text that is measured on, in bytes.
const maxText = 256 << 20

// judging is what the flags of validate and of convert --validate say about
// how a file is judged.
type judging struct {
	text     string
	chunks   int
	ctx      int
	device   string
	maxKLD   float64
	minTop1  float64
	maxPPL   float64
	gate     []string
	runtime  string
	report   string
	canaries string
	skip     []string
	beside   []string

	set  func(name string) bool // says whether a flag was given
	read map[string]string      // files that were read, by name

	alternatives []validate.Alternative
}

// judgingFlags are the names of the flags that register adds.
var judgingFlags = []string{"text", "chunks", "ctx", "device", "max-kld", "min-top1", "max-ppl-ratio", "gate", "runtime", "report", "canaries", "skip", "beside"}

func (j *judging) register(f *pflag.FlagSet) {
	f.StringVar(&j.text, "text", "", "measure on the text of `FILE` (default: one that comes with modelpipe)")
	f.IntVar(&j.chunks, "chunks", validate.DefaultChunks, "measure on at most so many chunks of the text")
	f.IntVar(&j.ctx, "ctx", validate.DefaultCtx, "tokens in a chunk; predictions in its second half count")
	f.StringVar(&j.device, "device", "auto", "compute on `DEVICE`: cpu, cuda, xla:/path/to/plugin.so or auto")
	f.Float64Var(&j.maxKLD, "max-kld", 0, "refuse a mean KL divergence of more than so many `NATS` (default: a ceiling for the file's bits per weight)")
	f.Float64Var(&j.minTop1, "min-top1", 0, "refuse a `SHARE` of less than this (0 to 1) of predictions with the same first choice")
	f.Float64Var(&j.maxPPL, "max-ppl-ratio", 0, "refuse a perplexity of more than so many `TIMES` the source's")
	f.StringSliceVar(&j.gate, "gate", nil, "further gates: stock, not to be worse than the best stock preset of at most as many bytes")
	f.StringVar(&j.runtime, "runtime", "", "compare with what the llama.cpp server at `URL` makes of the file")
	f.StringVar(&j.report, "report", "", "write the report: both files into a folder, or one `FILE`.json or FILE.html")
	f.StringVar(&j.canaries, "canaries", "", "the prompts of `FILE`, one a line, instead of the built-in ones")
	f.StringArrayVar(&j.beside, "beside", nil, "measure another GGUF `FILE` of the model in the same pass and put it into the report, without a gate (repeatable)")
	f.StringSliceVar(&j.skip, "skip", nil, "leave checks out: "+strings.Join(validate.Checks, ", "))
	j.set = f.Changed
}

func newValidate(a *app) *cobra.Command {
	var j judging
	var against, imatrix string
	cmd := &cobra.Command{
		Use:   "validate CANDIDATE --against SOURCE",
		Short: "Judge a GGUF file by the model that it was made from",
		Long: `Validate compares a GGUF file with its source and refuses what is not good: that
it states the same model, tokenizes and renders conversations as the source does,
that its weights differ from the source's as rounding does, that it predicts what
the source predicts (KL divergence, perplexity and first choices over a text, as
llama-perplexity measures them), and that it continues prompts alike.

CANDIDATE is a .gguf file: a path, any part of a split, or a URL. SOURCE is a
model folder, hf://org/name[@revision], or a .gguf file. Source and file are read
by separate readers, neither of them the converter's, and run layer by layer, so
that the machine need not hold the model.

The result is a table, or with --json the report (docs/report.schema.json);
--report writes it, and a page with pictures. Exit code 3 says that a gate said
no. What cannot be judged at all is an error, and leaves no report.`,
		Example: `  modelpipe validate qwen3-Q4_K_M.gguf --against hf://Qwen/Qwen3-0.6B --report out/
  modelpipe validate m.gguf --against ./m --max-kld 0.03 --gate stock
  modelpipe validate m.gguf --against ./m --runtime http://localhost:8080`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.validate(cmd.Context(), args[0], against, imatrix, &j)
		},
	}
	f := cmd.Flags()
	f.StringVar(&against, "against", "", "the `SOURCE` that the file was made from (required)")
	f.StringVar(&imatrix, "imatrix", "", "the importance matrix `FILE` that the file was made with, which makes the check of its weights sharper")
	j.register(f)
	return cmd
}

// validate runs the command.
func (a *app) validate(ctx context.Context, arg, against, imatrix string, j *judging) error {
	if against == "" {
		return usagef("validate: want --against SOURCE")
	}
	candidate, err := pipeline.OpenSource(ctx, arg, a.log)
	if err != nil {
		return err
	}
	defer func() { candidate.Close() }()
	if !strings.HasSuffix(candidate.File, ".gguf") {
		return usagef("%s: want a .gguf file", candidate.Arg)
	}
	source, err := pipeline.OpenSource(ctx, against, a.log)
	if err != nil {
		return err
	}
	defer func() { source.Close() }()
	c := conversion{imatrix: imatrix}
	if err := c.readImatrix(); err != nil {
		return err
	}
	r, err := a.judge(ctx, j, source, c.importance, func(ctx context.Context) (*validate.Candidate, error) {
		return validate.OpenCandidate(ctx, candidate.FS, candidate.File)
	})
	if err != nil {
		return err
	}
	if a.json {
		if err := r.WriteJSON(a.stdout); err != nil {
			return err
		}
	} else if err := printReport(a.stdout, r); err != nil {
		return err
	}
	return verdict(r)
}

// verdict is the error of a report that does not pass.
func verdict(r *validate.Report) error {
	if r.Pass {
		return nil
	}
	var no []string
	for _, g := range r.Gates {
		if !g.Pass {
			no = append(no, g.Name)
		}
	}
	if len(no) == 0 {
		return withExit(exitGate, fmt.Errorf("%s: nothing was judged", r.Candidate.Name))
	}
	return withExit(exitGate, fmt.Errorf("%s: %d of %d gates say no: %s", r.Candidate.Name, len(no), len(r.Gates), strings.Join(no, ", ")))
}

// judge opens what the flags name, judges the candidate and writes the report.
func (a *app) judge(ctx context.Context, j *judging, s *pipeline.Source, importance *quantize.Imatrix, open func(context.Context) (*validate.Candidate, error)) (*validate.Report, error) {
	o, err := a.judgeOptions(j, s, importance)
	if err != nil {
		return nil, err
	}
	if err := removeReport(j.report); err != nil {
		return nil, err
	}
	closeBeside, err := a.openBeside(ctx, j.beside, &o)
	if err != nil {
		return nil, err
	}
	defer closeBeside()
	reference, closeReference, err := pipeline.OpenReference(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", s.Arg, err)
	}
	defer closeReference()
	c, err := open(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	d, err := ops.Open(j.device)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	p := &judgingProgress{log: a.log, last: time.Now()}
	o.Progress = p.check
	o.Engine = validate.OnDevice(d, ops.Options{Progress: p.stage})
	r, err := validate.Run(ctx, reference, c, o)
	switch {
	case errors.Is(err, validate.ErrMetric):
		return nil, withExit(exitUsage, err)
	case errors.Is(err, validate.ErrRuntime):
		return nil, withExit(exitUnavailable, err)
	case err != nil:
		return nil, err
	}
	return r, writeReport(j.report, r)
}

// openBeside opens the files of --beside. The function that it returns closes
// them.
func (a *app) openBeside(ctx context.Context, args []string, o *validate.Options) (func(), error) {
	var closers []func() error
	closeAll := func() {
		for _, c := range closers {
			c()
		}
	}
	for _, arg := range args {
		err := func() error {
			s, err := pipeline.OpenSource(ctx, arg, a.log)
			if err != nil {
				return err
			}
			closers = append(closers, s.Close)
			if !strings.HasSuffix(s.File, ".gguf") {
				return usagef("--beside %s: want a .gguf file", s.Arg)
			}
			f, err := gguf.OpenFS(s.FS, s.File)
			if err != nil {
				return err
			}
			closers = append(closers, f.Close)
			b := validate.Beside{Name: strings.TrimSuffix(s.File, ".gguf"), Kind: validate.AlternativeFile, File: f}
			for _, p := range f.Parts {
				info, err := fs.Stat(s.FS, p.Name)
				if err != nil {
					return err
				}
				b.Size += info.Size()
			}
			o.Beside = append(o.Beside, b)
			return nil
		}()
		if err != nil {
			closeAll()
			return nil, err
		}
	}
	return closeAll, nil
}

// judgingEvery is how often a line says how far a judgement has come.
const judgingEvery = 10 * time.Second

// judgingProgress says now and then what is being done.
type judgingProgress struct {
	log *slog.Logger

	mu   sync.Mutex
	what string
	last time.Time
}

func (p *judgingProgress) check(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.what = what
	p.say()
}

func (p *judgingProgress) stage(s ops.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.say("stage", s.Stage, "done", s.Done, "total", s.Total)
}

// say logs where the last line is long enough ago.
func (p *judgingProgress) say(more ...any) {
	if time.Since(p.last) >= judgingEvery {
		p.last = time.Now()
		p.log.Info("validating", append([]any{"check", p.what}, more...)...)
	}
}

// canJudge fails where judge would for what is known before there is a file.
func (a *app) canJudge(ctx context.Context, j *judging, s *pipeline.Source, importance *quantize.Imatrix) error {
	o, err := a.judgeOptions(j, s, importance)
	if err != nil {
		return err
	}
	closeBeside, err := a.openBeside(ctx, j.beside, &o)
	if err != nil {
		return err
	}
	defer closeBeside()
	reference, closeReference, err := pipeline.OpenReference(ctx, s)
	if err != nil {
		return fmt.Errorf("source %s: %w", s.Arg, err)
	}
	defer closeReference()
	d, err := ops.Open(j.device)
	if err != nil {
		return err
	}
	defer d.Close()
	o.Engine = validate.OnDevice(d, ops.Options{})
	if err := o.Check(reference); err != nil {
		return withExit(exitUsage, err)
	}
	return nil
}

// judgeOptions turns flags into options.
func (a *app) judgeOptions(j *judging, s *pipeline.Source, importance *quantize.Imatrix) (validate.Options, error) {
	o := validate.Options{
		Version: version().Version, Chunks: j.chunks, Ctx: j.ctx, Skip: j.skip, Runtime: j.runtime, Imatrix: importance,
		Alternatives: j.alternatives,
		Render:       renderApart,
	}
	if j.chunks < 1 || j.ctx < 8 {
		return o, usagef("--chunks %d --ctx %d: want at least one chunk of 8 tokens", j.chunks, j.ctx)
	}
	for _, name := range j.skip {
		if !slices.Contains(validate.Checks, name) {
			return o, usagef("--skip %s: want %s", name, strings.Join(validate.Checks, ", "))
		}
	}
	for _, g := range j.gate {
		if g != "stock" {
			return o, usagef("--gate %s: want stock", g)
		}
		o.Stock = func(ctx context.Context, maxBytes int64) (*validate.StockFile, error) {
			return bestStock(ctx, s, importance, maxBytes)
		}
	}
	if j.set("max-kld") {
		o.MaxKLD = &j.maxKLD
	}
	if j.set("min-top1") {
		if !(j.minTop1 >= 0 && j.minTop1 <= 1) {
			return o, usagef("--min-top1 %v: want a share from 0 to 1", j.minTop1)
		}
		o.MinTop1 = &j.minTop1
	}
	if j.set("max-ppl-ratio") {
		o.MaxPPLRatio = &j.maxPPL
	}
	if j.text != "" {
		text, err := j.readText(j.text)
		if err != nil {
			return o, err
		}
		o.Text, o.TextName = text, filepath.Base(j.text)
	}
	if j.canaries != "" {
		text, err := j.readText(j.canaries)
		if err != nil {
			return o, err
		}
		if o.Canaries, err = validate.ParseCanaries(text); err != nil {
			return o, fmt.Errorf("%s: %w", j.canaries, err)
		}
	}
	return o, nil
}

// trial measures on the text, in the chunks and on the device of a judgement.
func (j *judging) trial(log *slog.Logger) (*trial, error) {
	if j.chunks < 1 || j.ctx < 8 {
		return nil, usagef("--chunks %d --ctx %d: want at least one chunk of 8 tokens", j.chunks, j.ctx)
	}
	t := &trial{name: "default", text: validate.DefaultText, chunks: j.chunks, ctx: j.ctx, device: j.device, log: log}
	if j.text == "" {
		return t, nil
	}
	var err error
	t.name = filepath.Base(j.text)
	t.text, err = j.readText(j.text)
	return t, err
}

// readText reads a file that may not be empty, once.
func (j *judging) readText(name string) (string, error) {
	if text, ok := j.read[name]; ok {
		return text, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxText+1))
	switch {
	case err != nil:
		return "", err
	case len(data) > maxText:
		return "", fmt.Errorf("%s: larger than %d bytes", name, maxText)
	case len(data) == 0:
		return "", fmt.Errorf("%s: is empty", name)
	}
	if j.read == nil {
		j.read = map[string]string{}
	}
	j.read[name] = string(data)
	return j.read[name], nil
}

// anyPre is a pre-tokenizer for files of which only the tensors are read.
const anyPre = "default"

// bestStock plans every stock preset that the model can be in and returns the
// largest one whose tensors have at most maxBytes.
func bestStock(ctx context.Context, s *pipeline.Source, importance *quantize.Imatrix, maxBytes int64) (*validate.StockFile, error) {
	var best *convert.Plan
	var name string
	var refused error
	most := int64(-1)
	for _, preset := range quantize.PresetNames() {
		o := convert.Options{Source: s.Name, Repository: s.Repo, Commit: s.Commit, Pre: anyPre, Types: convert.NewTypePolicy(quantize.Recipe{Preset: preset}, importance, "")}
		var p *convert.Plan
		var err error
		if s.File != "" {
			p, err = convert.PlanGGUF(ctx, s.FS, s.File, o)
		} else {
			p, err = convert.NewPlan(ctx, s.FS, o)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err != nil { // rows that do not hold its types, for one
			refused = errors.Join(refused, fmt.Errorf("%s: %w", preset, err))
			continue
		}
		size := int64(0)
		for _, step := range p.Steps {
			size += step.Size
		}
		if len(p.NeedImportance) == 0 && size <= maxBytes && size > most {
			best, name, most = p, preset, size
		}
	}
	if best == nil {
		return nil, errors.Join(fmt.Errorf("no stock preset has at most %d bytes of tensors", maxBytes), refused)
	}
	view, err := convert.NewView(best, s.FS, convert.RenderOptions{Imatrix: importance})
	if err != nil {
		return nil, err
	}
	return &validate.StockFile{Preset: name, Size: view.Size(), Data: view, Close: view.Close}, nil
}

// reportFiles says where --report goes: both names, or one of them.
func reportFiles(to string) (jsonFile, htmlFile string) {
	switch {
	case to == "":
		return "", ""
	case strings.HasSuffix(to, ".json"):
		return to, ""
	case strings.HasSuffix(to, ".html"):
		return "", to
	}
	return filepath.Join(to, "report.json"), filepath.Join(to, "report.html")
}

// removeReport takes away the report of an earlier run, which would look like
// this one's where this one fails.
func removeReport(to string) error {
	a, b := reportFiles(to)
	for _, name := range []string{a, b} {
		if name == "" {
			continue
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("old report: %w", err)
		}
	}
	return nil
}

// writeReport writes the report where --report says.
func writeReport(to string, r *validate.Report) error {
	a, b := reportFiles(to)
	if a != "" && b != "" {
		if err := os.MkdirAll(to, 0o777); err != nil {
			return fmt.Errorf("write report: %w", err)
		}
	}
	for _, f := range []struct {
		name  string
		write func(io.Writer) error
	}{{a, r.WriteJSON}, {b, r.WriteHTML}} {
		if f.name == "" {
			continue
		}
		if err := wholefile.Write(f.name, f.write); err != nil {
			return fmt.Errorf("write report: %w", err)
		}
	}
	return nil
}

// printReport writes the report for people.
func printReport(w io.Writer, r *validate.Report) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s "+format+"\n", append([]any{name}, args...)...)
	}
	lines := func(all []string) {
		for _, s := range all {
			fmt.Fprintf(&b, "%-10s %s\n", "", s)
		}
	}
	line("candidate", "%s  sha256:%s", r.Candidate.Name, r.Candidate.SHA256)
	line("", "%s, %d bytes, %.2f bits per weight", r.Candidate.Architecture, r.Candidate.Size, r.Candidate.BitsPerWeight)
	line("source", "%s %s", r.Source.Name, r.Source.Commit)
	if s := r.Structure; s != nil {
		line("structure", "%s: %d tensors, %d differences", word(s.OK, "ok", "differs"), s.Tensors, len(s.Differences))
		lines(s.Differences)
		for _, note := range s.Notes {
			line("note", "%s", note)
		}
	}
	if t := r.Tokens; t != nil {
		line("tokens", "%s: %d texts, %d ids", word(t.Equal, "equal", "differ"), t.Texts, t.IDs)
		lines(t.Differences)
	}
	if t := r.Template; t != nil && t.Equal != nil {
		line("template", "%s", word(*t.Equal, "equal", "differs"))
		lines(t.Differences)
	}
	if x := r.Weights; x != nil {
		line("weights", "%s: %d tensors", word(x.OK, "as rounding leaves them", "suspicious"), len(x.Tensors))
		lines(x.Suspicious)
	}
	if k := r.KLD; k != nil {
		line("kld", "mean %.6f ± %.6f, median %.6f, 99%% %.6f, max %.6f", k.Mean, k.StdErr, k.Median, k.P99, k.Max)
	}
	if r.Top1 != nil {
		line("top-1", "%.2f %%", 100**r.Top1)
	}
	if p := r.PPL; p != nil {
		line("ppl", "%.4f, source %.4f", p.Candidate, p.Reference)
	}
	if r.NMSE != nil {
		line("nmse", "%.3g", *r.NMSE)
	}
	if r.Cosine != nil {
		line("cosine", "%.6f at least", *r.Cosine)
	}
	if s := r.Stock; s != nil {
		line("stock", "%s: kld %.6f, %d bytes", s.Preset, s.KLD.Mean, s.Size)
	}
	for _, x := range r.Alternatives {
		line("beside", "%s: kld %.6f, %d bytes", x.Name, x.KLD, x.Size)
	}
	if c := r.Canaries; c != nil {
		line("canaries", "%d of %d continued alike, largest margin %.3f of %.3f", c.Same, c.Prompts, c.Margin, c.Limit)
	}
	if t := r.Runtime; t != nil {
		line("runtime", "%s: %d of %d continued alike, log-probabilities off by %.4f", word(t.OK, "agrees", "differs"), t.Same, t.Prompts, t.LogProb)
		lines(t.Differences)
	}
	for _, s := range r.Skipped {
		line("skipped", "%s", s)
	}
	for _, s := range r.NotJudged {
		line("not judged", "%s", s)
	}
	for _, g := range r.Gates {
		line("gate", "%-4s %s: %v, limit %v (%s)", word(g.Pass, "pass", "no"), g.Name, figure(g.Value), figure(g.Limit), g.Why)
	}
	line("verdict", "%s", word(r.Pass, "pass", "no"))
	_, err := io.WriteString(w, b.String())
	return err
}

func word(ok bool, yes, no string) string {
	if ok {
		return yes
	}
	return no
}

// figure writes a number in short and anything else as it is.
func figure(v any) any {
	if x, ok := v.(float64); ok {
		return fmt.Sprintf("%.4g", x)
	}
	return v
}
