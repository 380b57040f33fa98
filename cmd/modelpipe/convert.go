package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/hub"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/quantize"
	"github.com/modelpipe/modelpipe/validate"
)

func init() { register(newConvert) }

// making is what the flags of convert say about how the file is made.
type making struct {
	output   string
	split    string
	resume   bool
	threads  int
	allow    bool
	cache    bool
	dryRun   bool
	moveTag  bool
	trust    bool
	interval time.Duration
	validate bool
	measure  bool
	fallback bool
	judging  judging
}

func newConvert(a *app) *cobra.Command {
	c := conversion{}
	var m making
	cmd := &cobra.Command{
		Use:   "convert SOURCE",
		Short: "Convert a model into a GGUF file",
		Long: `Convert plans the GGUF file of a model and writes it in one pass over the
weights. The file is written as OUTPUT.partial beside a journal and gets its
name when it is complete and on the disk; an interrupted conversion goes on
with --resume and ends in the same bytes. After an error nothing is left.

SOURCE is a model folder, hf://org/name[@revision], or a .gguf file. What is
read from the Hub is checked against the digests that the Hub names.

With -o s3://bucket/key.gguf or oci://host/repository:tag the file is uploaded
while it is rendered, without a copy on this machine's disk, and read back (see
publish).`,
		Example: `  modelpipe convert ./Qwen3-0.6B --type q8_0
  modelpipe convert hf://Qwen/Qwen3-0.6B -o qwen3.gguf
  modelpipe convert model-f16.gguf --type q8_0 -o model-q8_0.gguf
  modelpipe convert hf://Qwen/Qwen3-0.6B --type q4_k_m -o s3://models/qwen3-q4_k_m.gguf`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.convert(cmd.Context(), args[0], &c, &m)
		},
	}
	f := cmd.Flags()
	c.register(f)
	f.StringVarP(&m.output, "output", "o", "", "the `PATH` of the file, s3://bucket/key.gguf or oci://host/repository:tag (default NAME-TYPE.gguf in this folder)")
	f.StringVar(&m.split, "split-max-size", "", "split the model into files of at most `SIZE` (500M, 5G) of tensor data")
	f.BoolVar(&m.resume, "resume", false, "go on with an interrupted conversion")
	f.BoolVar(&m.moveTag, "move-tag", false, "let a tag of a registry that is there move to this model")
	f.BoolVar(&m.trust, "trust-checksum", false, trustHelp)
	f.IntVar(&m.threads, "threads", 0, "number of workers (default: the processors that this process may use)")
	f.BoolVar(&m.allow, "allow-nonfinite", false, "convert weights that are NaN or infinite, with a warning")
	f.BoolVar(&m.cache, "cache", false, "keep what is read from the Hub in the Hugging Face cache")
	f.BoolVar(&m.dryRun, "dry-run", false, "stop after the plan")
	f.BoolVar(&m.validate, "validate", false, "judge the file as modelpipe validate does (by --max-kld, --gate, --report, ...) before it gets its name, and leave nothing where a gate says no")
	m.judging.register(f)
	f.BoolVar(&m.measure, "measure", false, "with --max-size or --max-kld: measure the KL divergence of the whole file and of stock presets of at most as many bytes, on --text, and keep the best")
	f.Lookup("device").Usage = "encode on `DEVICE`, where that is cuda or xla:/path/to/plugin.so, and judge there with --validate (default: the processor encodes, with the same bytes everywhere)"
	f.Lookup("max-kld").Usage = "choose the types so that the expected KL divergence is at most so many `NATS` and the file is small, where no --type does; with --validate, refuse a measured one of more"
	f.BoolVar(&m.fallback, "device-fallback", false, "where the device of --device is not there or fails, go on with the processor, with a warning")
	f.DurationVar(&m.interval, "progress", 10*time.Second, "`INTERVAL` of the progress lines where there is no terminal")
	return cmd
}

// convert runs the command.
func (a *app) convert(ctx context.Context, arg string, c *conversion, m *making) error {
	if m.threads < 0 {
		return usagef("--threads %d: want a number of workers", m.threads)
	}
	maxBytes, err := pipeline.ParseSize(m.split)
	if err != nil {
		return usagef("--split-max-size %s: %w", m.split, err)
	}
	if m.judging.set("max-kld") && c.maxSize == "" && c.recipe == "" && strings.EqualFold(c.outType, "auto") {
		c.maxKLD = m.judging.maxKLD
	}
	chooses := []string{"device"}
	if c.maxKLD != 0 {
		chooses = append(chooses, "max-kld")
	}
	if m.measure {
		if !c.wanted() {
			return usagef("--measure holds what --max-size and --max-kld choose to presets: give one of them")
		}
		if c.trial, err = m.judging.trial(a.log); err != nil {
			return err
		}
		chooses = append(chooses, "text", "chunks", "ctx")
	}
	if err := m.checkJudging(chooses); err != nil {
		return err
	}
	if c.wanted() && maxBytes > 0 {
		return usagef("--split-max-size: a model that is cut has more bytes than --max-size and --max-kld count")
	}
	s, err := pipeline.OpenSource(ctx, arg, a.log)
	if err != nil {
		return err
	}
	defer func() { s.Close() }()
	p, err := c.plan(ctx, s)
	if err != nil {
		return err
	}
	out, target := m.output, ""
	if publish.IsRemote(out) {
		if target, out, err = splitTarget(out); err != nil {
			return err
		}
	}
	if out == "" {
		out = defaultOutput(s, c.chosen.Preset, p)
	}
	plans := []*convert.Plan{p}
	if maxBytes > 0 {
		if plans, err = p.Split(maxBytes); err != nil {
			return err
		}
	}
	outputs, err := nameParts(out, plans, target != "")
	if err != nil {
		return err
	}
	if !a.json {
		if err := c.printSummary(a.stderr, s, p); err != nil {
			return err
		}
	}
	if m.dryRun {
		if a.json {
			return a.printPlan(s, c, p)
		}
		for _, o := range outputs {
			fmt.Fprintf(a.stdout, "would write %s (%d bytes)\n", strings.TrimPrefix(target+" "+o.Path, " "), o.Plan.Size)
		}
		return nil
	}
	if len(p.NeedImportance) > 0 {
		return fmt.Errorf("type %s: %s", c.chosen.Preset, needImportance(p))
	}
	if m.cache && s.Snapshot != nil {
		if s, err = a.download(ctx, s, p); err != nil {
			return err
		}
	}
	if m.validate {
		if target != "" {
			return usagef("--validate judges a file of this machine: give -o a path, then publish it")
		}
		m.judging.alternatives = c.fit.alternatives()
		if err := a.canJudge(ctx, &m.judging, s, c.importance); err != nil {
			return err
		}
	}
	device, err := a.openEncoder(m)
	if err != nil {
		return err
	}
	defer device.close()
	start := time.Now()
	if target != "" {
		receipt, err := a.convertTo(ctx, s, c, m, p, outputs, target, device)
		if err != nil {
			return err
		}
		return a.reportPublished(s, c, p, receipt, time.Since(start))
	}
	progress := new(convert.Progress)
	total := int64(0)
	for _, o := range outputs {
		total += o.Plan.Size
	}
	stop := sync.OnceFunc(a.showProgress(meter{"converting", total, progress.Done.Load, progress.Tensor}, m.interval))
	opts := convert.FileOptions{
		RenderOptions: convert.RenderOptions{Threads: m.threads, AllowNonfinite: m.allow, Imatrix: c.importance, SourceOrder: s.Snapshot != nil, Progress: progress, Encoder: encoderOf(device)},
		Resume:        m.resume,
		Inputs:        c.digests + device.inputs(),
		Discarded: func(path string) {
			a.log.Warn("what an interrupted run has left is thrown away: --resume would have gone on with it", "file", path)
		},
		Keep: keepOutput,
	}
	var judged *validate.Report
	opts.Verify = func(ctx context.Context) error {
		if s.Snapshot != nil {
			if err := a.verify(ctx, s, m.resume); err != nil {
				return err
			}
		}
		if !m.validate {
			return nil
		}
		stop() // the files are complete
		began := time.Now()
		var err error
		judged, err = a.judgePartial(ctx, m, s, c.importance, outputs[0].Path)
		start = start.Add(time.Since(began)) // it is not converting
		return err
	}
	results, err := convert.WriteFiles(ctx, outputs, s.FS, opts)
	stop()
	if err != nil {
		return err
	}
	return a.report(s, c, p, outputs, results, judged, device.describe(), time.Since(start))
}

// checkJudging refuses flags about judging without --validate, but for those
// that say something about the conversion too.
func (m *making) checkJudging(both []string) error {
	if m.validate {
		return nil
	}
	for _, name := range judgingFlags {
		if m.judging.set(name) && !slices.Contains(both, name) {
			return usagef("--%s says how the file is judged: give --validate too", name)
		}
	}
	return nil
}

// judgePartial judges the file that is still without its name.
func (a *app) judgePartial(ctx context.Context, m *making, s *pipeline.Source, importance *quantize.Imatrix, path string) (*validate.Report, error) {
	r, err := a.judge(ctx, &m.judging, s, importance, func(ctx context.Context) (*validate.Candidate, error) {
		return validate.OpenCandidate(ctx, unnamed{os.DirFS(filepath.Dir(path))}, filepath.Base(path))
	})
	if err != nil {
		return nil, err
	}
	if !a.json {
		if err := printReport(a.stderr, r); err != nil {
			return nil, err
		}
	}
	return r, verdict(r)
}

// unnamed is a folder in which files are found under the names that they will
// get.
type unnamed struct{ fs.FS }

func (u unnamed) Open(name string) (fs.File, error) { return u.FS.Open(convert.PartialName(name)) }

// keepOutput says of which errors a later run may be free.
func keepOutput(err error) bool {
	var device *deviceError
	return errors.Is(err, hub.ErrUnavailable) || errors.As(err, &device)
}

// splitTarget splits -o of a remote output into the target and the name of
// the file, which is empty where it is left to us.
func splitTarget(out string) (target, name string, err error) {
	if !strings.HasPrefix(out, "s3://") {
		return out, "", nil
	}
	i := strings.LastIndex(out, "/")
	target, name = out[:i], out[i+1:]
	switch {
	case target == "s3:/":
		return out, "", nil // only a bucket
	case name != "" && !strings.HasSuffix(name, ".gguf"):
		return "", "", usagef("-o %s: want s3://bucket/NAME.gguf, or a slash at the end of a folder", out)
	}
	return target, name, nil
}

// smallFile bounds what --cache keeps besides the tensors.
const smallFile = 64 << 20

// download puts the source's tensor files into the cache, with the small
// files that a plan reads, so that the model can be converted offline later.
// It returns the source that reads them there.
func (a *app) download(ctx context.Context, s *pipeline.Source, p *convert.Plan) (*pipeline.Source, error) {
	files := map[string]bool{}
	for _, step := range p.Steps {
		convert.Leaves(step.From, func(l convert.Leaf) { files[l.File] = true })
	}
	for _, f := range s.Snapshot.Files() {
		switch path.Ext(f.Path) {
		case ".json", ".jinja", ".model", ".txt", ".tiktoken", ".md":
			if f.Size <= smallFile {
				files[f.Path] = true
			}
		}
	}
	if err := s.Snapshot.Download(ctx, slices.Sorted(maps.Keys(files))...); err != nil {
		return s, err
	}
	cached, err := pipeline.OpenSource(ctx, hub.Ref{Repo: s.Repo, Revision: s.Commit}.String(), a.log)
	if err != nil {
		return s, err
	}
	s.Close()
	return cached, nil
}

// verify holds what was read to the Hub's digests. A resumed run has read
// only the rest of some files, whose digests would cost reading them again.
func (a *app) verify(ctx context.Context, s *pipeline.Source, resumed bool) error {
	if resumed {
		for _, f := range s.Snapshot.Unverified() {
			a.log.Warn("not checked against the Hub's digest, for an earlier run has read a part of it", "file", f.Path)
		}
		return nil
	}
	return s.Snapshot.Verify(ctx)
}

// convertJSON is what convert prints with --json.
type convertJSON struct {
	Output string     `json:"output"`
	SHA256 string     `json:"sha256"`
	Size   int64      `json:"size"`
	Parts  []partJSON `json:"parts,omitempty"` // where the model is split
	recipeJSON
	Architecture string           `json:"architecture"`
	Parameters   int64            `json:"parameters"`
	Tensors      int              `json:"tensors"`
	Repository   string           `json:"repository,omitempty"`
	Commit       string           `json:"commit,omitempty"`
	Nonfinite    map[string]int64 `json:"nonfinite,omitempty"`
	Notes        []string         `json:"notes"`
	Seconds      float64          `json:"seconds"`
	MBPerSecond  float64          `json:"mb_per_second"` // of output
	Stages       stagesJSON       `json:"stages"`
	Bound        string           `json:"bound"` // what took the most time: network, disk or cpu
	Threads      int              `json:"threads"`
	BytesRead    int64            `json:"bytes_read"`             // of the source's tensors
	NetworkRead  int64            `json:"network_read,omitempty"` // bytes
	PeakMemory   int64            `json:"peak_memory"`            // resident bytes, pages of files included
	Validation   *validate.Report `json:"validation,omitempty"`   // with --validate
	Encoders     *encodersJSON    `json:"encoders,omitempty"`     // with a --device that encodes
}

type partJSON struct {
	Output string `json:"output"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// stagesJSON is seconds, summed over the workers.
type stagesJSON struct {
	Read    float64 `json:"read"`
	Convert float64 `json:"convert"`
	Hash    float64 `json:"hash"`
	Write   float64 `json:"write"`
	Wait    float64 `json:"wait"`
	Sync    float64 `json:"sync"`
}

// report prints what was made.
func (a *app) report(s *pipeline.Source, c *conversion, p *convert.Plan, outputs []convert.Output, results []*convert.Result, judged *validate.Report, encoders *encodersJSON, took time.Duration) error {
	recipe, err := c.describe()
	if err != nil {
		return err
	}
	v := convertJSON{
		recipeJSON:   recipe,
		Architecture: p.Arch, Parameters: p.Parameters, Tensors: len(p.Steps), Repository: s.Repo, Commit: s.Commit,
		Nonfinite: map[string]int64{}, Notes: append([]string{}, p.Notes...), Seconds: took.Seconds(), PeakMemory: peakMemory(), Validation: judged, Encoders: encoders,
	}
	for i, r := range results {
		part := partJSON{outputs[i].Path, hex.EncodeToString(r.SHA256[:]), r.Size}
		v.Parts = append(v.Parts, part)
		v.Size += r.Size
		v.BytesRead += r.Stats.BytesRead
		v.Threads = max(v.Threads, r.Stats.Threads)
		switch bound := r.Stats.Bound; {
		case bound == "source" && s.BytesRead != nil:
			v.Bound = "network"
		case bound == "cpu":
			v.Bound = "cpu"
		default:
			v.Bound = "disk"
		}
		v.Stages.Read += r.Stats.Read.Seconds()
		v.Stages.Convert += r.Stats.Convert.Seconds()
		v.Stages.Hash += r.Stats.Hash.Seconds()
		v.Stages.Write += r.Stats.Write.Seconds()
		v.Stages.Wait += r.Stats.Wait.Seconds()
		v.Stages.Sync += r.Stats.Sync.Seconds()
		maps.Copy(v.Nonfinite, r.Nonfinite)
	}
	v.Output, v.SHA256 = v.Parts[0].Output, v.Parts[0].SHA256
	v.MBPerSecond = float64(v.Size) / 1e6 / max(took.Seconds(), 1e-9)
	if s.BytesRead != nil {
		v.NetworkRead = s.BytesRead()
	}
	for _, name := range slices.Sorted(maps.Keys(v.Nonfinite)) {
		a.log.Warn("weights that are not finite were converted", "tensor", name, "count", v.Nonfinite[name])
	}
	parts := v.Parts
	if len(parts) == 1 {
		v.Parts = nil
	}
	if a.json {
		return a.printJSON(v)
	}
	for _, part := range parts {
		fmt.Fprintf(a.stdout, "%s  %s\n", part.SHA256, part.Output)
	}
	fmt.Fprintf(a.stderr, "%d bytes in %.2f s, %.0f MB/s\n", v.Size, v.Seconds, v.MBPerSecond)
	return nil
}

// publishedJSON is what convert prints with --json where the file was published.
type publishedJSON struct {
	Output string `json:"output"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
	recipeJSON
	Architecture string           `json:"architecture"`
	Parameters   int64            `json:"parameters"`
	Tensors      int              `json:"tensors"`
	Repository   string           `json:"repository,omitempty"`
	Commit       string           `json:"commit,omitempty"`
	Notes        []string         `json:"notes"`
	Seconds      float64          `json:"seconds"`
	NetworkRead  int64            `json:"network_read,omitempty"` // bytes
	PeakMemory   int64            `json:"peak_memory"`            // resident bytes, pages of files included
	Published    *publish.Receipt `json:"published"`
}

// reportPublished prints what was made and where it is.
func (a *app) reportPublished(s *pipeline.Source, c *conversion, p *convert.Plan, r *publish.Receipt, took time.Duration) error {
	recipe, err := c.describe()
	if err != nil {
		return err
	}
	if !a.json {
		a.printReceipt(r)
		return nil
	}
	v := publishedJSON{
		Output: r.Files[0].Location, SHA256: r.Files[0].SHA256, Size: p.Size, recipeJSON: recipe,
		Architecture: p.Arch, Parameters: p.Parameters, Tensors: len(p.Steps), Repository: s.Repo, Commit: s.Commit,
		Notes: append([]string{}, p.Notes...), Seconds: took.Seconds(), PeakMemory: peakMemory(), Published: r,
	}
	if s.BytesRead != nil {
		v.NetworkRead = s.BytesRead()
	}
	return a.printJSON(v)
}

// typesByBytes returns the types of a plan, that with the most bytes first.
func typesByBytes(p *convert.Plan) []gguf.Type {
	bytes := map[gguf.Type]int64{}
	for _, t := range p.Steps {
		bytes[t.Type] += t.Size
	}
	return slices.SortedFunc(maps.Keys(bytes), func(x, y gguf.Type) int {
		return cmp.Or(cmp.Compare(bytes[y], bytes[x]), cmp.Compare(x, y))
	})
}

// defaultOutput is the name of the model and the type, in this folder.
func defaultOutput(s *pipeline.Source, outType string, p *convert.Plan) string {
	base := s.Name
	if prefix, _, _, ok := gguf.ParseSplitName(base); ok {
		base = prefix
	}
	base = strings.TrimSuffix(base, ".gguf")
	outType = strings.ToUpper(outType)
	if types := typesByBytes(p); outType == "AUTO" && len(types) > 0 {
		outType = types[0].String()
	}
	return base + "-" + outType + ".gguf"
}

// nameParts gives the parts of a split their names.
func nameParts(out string, plans []*convert.Plan, remote bool) ([]convert.Output, error) {
	if info, err := os.Stat(out); err == nil && info.IsDir() && !remote {
		return nil, usagef("-o %s: is a folder: want the path of the file", out)
	}
	if dir := filepath.Dir(out); dir != "." && !remote {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("output: folder %s does not exist", dir)
		}
	}
	if len(plans) == 1 {
		return []convert.Output{{Path: out, Plan: plans[0]}}, nil
	}
	var outputs []convert.Output
	for i, p := range plans {
		outputs = append(outputs, convert.Output{Path: gguf.SplitName(strings.TrimSuffix(out, ".gguf"), i, len(plans)), Plan: p})
	}
	return outputs, nil
}
