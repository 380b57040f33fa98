// Package validate judges a GGUF file by its source. It trusts no converter:
// the source is read by ops/fromhf (or ops/fromgguf), the file by ops/fromgguf,
// which share nothing, and both run through the same engine. What the file
// states, how it tokenizes, how it renders conversations, what it predicts and
// how its weights differ are compared, gates decide, and a Report says all of
// it.
//
// A gate that fails is a Report that does not pass. An error is what could not
// be judged at all: then there is no Report.
package validate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/fromgguf"
	"github.com/modelpipe/modelpipe/ops/measure"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/quantize"
	"github.com/modelpipe/modelpipe/tokenizer"
)

// The checks that can be skipped.
const (
	CheckTokens   = "tokens"
	CheckTemplate = "template"
	CheckLogits   = "logits"
	CheckWeights  = "weights"
	CheckCanaries = "canaries"
)

// Checks are the names of the checks that can be skipped.
var Checks = []string{CheckTokens, CheckTemplate, CheckLogits, CheckWeights, CheckCanaries}

// ErrMetric says that a gate is about something that is not computed.
var ErrMetric = errors.New("gate on a metric that is not computed")

// A Source is the reference: a model with its tokenizer and templates.
type Source struct {
	Info  SourceInfo
	Model *spec.Model
	// Encoder is the tokenizer of the source by its own rules; nil where the
	// model has none.
	Encoder     tokenizer.Encoder
	Normalizers []string
	// Special is the texts of the tokens that begin and end a text, by role
	// ("bos", "eos"), as far as the source states them.
	Special   map[string]string
	Templates []tokenizer.ChatTemplate
}

// A Candidate is the file to be judged, open.
type Candidate struct {
	Name  string
	File  *gguf.File
	Parts []FileDigest // at least one
}

// Options say what is measured and what is demanded.
type Options struct {
	Version string // of modelpipe, for the report
	Engine  Engine

	Text     string // DefaultText where it is empty
	TextName string
	Chunks   int      // at most; 0 is DefaultChunks
	Ctx      int      // tokens of a chunk; 0 is DefaultCtx
	Canaries []string // nil is DefaultCanaries
	Skip     []string // of Checks

	// MaxKLD and MinTop1 are gates; nil is the default.
	MaxKLD, MinTop1 *float64

	// MaxPPLRatio is a gate: the candidate's perplexity relative to the
	// source's; nil is none.
	MaxPPLRatio *float64

	// Stock, where it is not nil, gives the best stock preset of at most
	// maxBytes bytes of tensors of the same source as a file that is computed while it is read,
	// and the candidate must not be worse. It is the caller's, since this
	// package knows no converter.
	Stock func(ctx context.Context, maxBytes int64) (*StockFile, error)

	// Beside are other files of the same source, which are measured in the same
	// pass and go into the report as alternatives, without a gate.
	Beside []Beside

	// Alternatives go into the report as they are.
	Alternatives []Alternative

	// Imatrix is the importance matrix that the candidate was made with; nil
	// where there was none or it is not at hand.
	Imatrix *quantize.Imatrix

	// Runtime is the address of a llama.cpp server that runs the candidate.
	Runtime string

	// Render renders a conversation: a chat template is a stranger's program,
	// which a caller may want to run in a process of its own. nil is
	// Rendering.Run.
	Render func(context.Context, Rendering) (string, error)

	// Progress, where it is not nil, is told what is being done, by any
	// goroutine.
	Progress func(what string)
}

// StockFile is a GGUF file of a stock preset.
type StockFile struct {
	Preset string
	Size   int64
	Data   io.ReaderAt
	Close  func() error
}

// Beside is a GGUF file to measure beside the candidate. It must stay open.
type Beside struct {
	Name string
	Kind string // of the alternative
	Size int64
	File *gguf.File
}

// Run judges the candidate. The error says why it could not be judged; a
// candidate that was judged and is not good enough is a report with Pass false.
func Run(ctx context.Context, s *Source, c *Candidate, o Options) (*Report, error) {
	start := time.Now()
	o = o.filled()
	if err := o.Check(s); err != nil {
		return nil, err
	}
	j := &judgement{Options: o, source: s, candidate: c}
	if err := j.open(); err != nil {
		return nil, err
	}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"structure", j.structure}, {CheckTokens, j.tokens}, {CheckTemplate, j.template}, {CheckWeights, j.weights},
		{CheckLogits, j.logits}, {CheckCanaries, j.canaries}, {"runtime", j.runtime},
	} {
		if slices.Contains(o.Skip, step.what) {
			j.report.Skipped = append(j.report.Skipped, step.what)
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		o.Progress(step.what)
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("validate %s: %s: %w", c.Name, step.what, err)
		}
	}
	r := &j.report
	r.Pass = len(r.Gates) > 0 && !slices.ContainsFunc(r.Gates, func(g Gate) bool { return !g.Pass })
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

// filled is o with the defaults.
func (o Options) filled() Options {
	if o.Text == "" {
		o.Text, o.TextName = DefaultText, "default"
	}
	if o.Chunks == 0 {
		o.Chunks = DefaultChunks
	}
	if o.Ctx == 0 {
		o.Ctx = DefaultCtx
	}
	if o.Canaries == nil {
		o.Canaries = DefaultCanaries
	}
	if o.Render == nil {
		o.Render = func(_ context.Context, r Rendering) (string, error) { return r.Run() }
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return o
}

// Check refuses options that contradict each other or the source, as Run does
// before it reads the candidate.
func (o Options) Check(s *Source) error {
	o = o.filled()
	for _, name := range o.Skip {
		if !slices.Contains(Checks, name) {
			return fmt.Errorf("skip %q: want one of %s", name, strings.Join(Checks, ", "))
		}
	}
	skipped := slices.Contains(o.Skip, CheckLogits)
	for _, g := range []struct {
		name string
		set  bool
	}{{"kld.mean", o.MaxKLD != nil}, {"top1", o.MinTop1 != nil}, {"ppl.ratio", o.MaxPPLRatio != nil}, {"stock", o.Stock != nil}, {"beside", len(o.Beside) > 0}} {
		switch {
		case !g.set:
		case skipped:
			return fmt.Errorf("%w: %s: logits are skipped", ErrMetric, g.name)
		case s.Model.Head == nil:
			return fmt.Errorf("%w: %s: the model predicts no tokens", ErrMetric, g.name)
		}
	}
	if o.Runtime != "" && s.Model.Head == nil {
		return fmt.Errorf("%w: runtime: the model predicts no tokens", ErrMetric)
	}
	for name, x := range map[string]*float64{"largest KLD": o.MaxKLD, "least top-1": o.MinTop1, "largest ratio of perplexities": o.MaxPPLRatio} {
		if x != nil && (math.IsNaN(*x) || *x < 0) {
			return fmt.Errorf("%s of %v: want a number that is not negative", name, *x)
		}
	}
	if o.Chunks < 1 || o.Chunks > 1<<20 || o.Ctx < 8 || o.Ctx > 1<<20 {
		return fmt.Errorf("%d chunks of %d tokens: want at least 1 of 8", o.Chunks, o.Ctx)
	}
	needsEngine := !skipped || !slices.Contains(o.Skip, CheckCanaries) || o.Runtime != ""
	if o.Engine == nil && needsEngine {
		return errors.New("no engine to run the models on")
	}
	return nil
}

// judgement is one run.
type judgement struct {
	Options
	source    *Source
	candidate *Candidate

	model  *spec.Model // of the candidate
	header *gguf.Header
	enc    tokenizer.Encoder     // of the candidate; nil where it has no vocabulary
	vocab  *tokenizer.Vocabulary // likewise
	report Report
}

func (j *judgement) gate(g Gate) { j.report.Gates = append(j.report.Gates, g) }

// notJudged notes why a check could not be made.
func (j *judgement) notJudged(check, why string) {
	j.report.NotJudged = append(j.report.NotJudged, check+": "+why)
}

// open reads the candidate's header.
func (j *judgement) open() error {
	c := j.candidate
	j.header = c.File.Header
	var err error
	if j.model, err = fromgguf.Open(c.File); err != nil {
		return fmt.Errorf("validate %s: %w", c.Name, err)
	}
	info := CandidateInfo{Name: c.Name, SHA256: c.Parts[0].SHA256, BytesPerType: map[string]int64{}}
	info.Architecture, _ = j.header.Metadata.String("general.architecture") // fromgguf has read it
	for _, p := range c.Parts {
		info.Size += p.Size
	}
	if len(c.Parts) > 1 {
		info.Parts = c.Parts
	}
	var blockBytes, blockWeights int64
	for _, t := range j.header.Tensors {
		n, err := t.Elements()
		if err != nil {
			return fmt.Errorf("validate %s: tensor %s: %w", c.Name, t.Name, err)
		}
		size, err := t.Size()
		if err != nil {
			return fmt.Errorf("validate %s: tensor %s: %w", c.Name, t.Name, err)
		}
		info.Parameters += n
		info.TensorBytes += size
		info.BytesPerType[t.Type.String()] += size
		if t.Type.BlockElements() > 1 {
			blockBytes += size
			blockWeights += n
		}
	}
	info.BlockBits = 8 * float64(blockBytes) / float64(max(1, blockWeights))
	info.BitsPerWeight = 8 * float64(info.TensorBytes) / float64(max(1, info.Parameters))
	digest := sha256.Sum256([]byte(j.Text))
	j.report = Report{
		Schema: SchemaVersion, Version: j.Version, Source: j.source.Info, Candidate: info,
		Method:       MethodInfo{Text: j.TextName, TextSHA256: hex.EncodeToString(digest[:]), Ctx: j.Ctx},
		Alternatives: slices.Clone(j.Alternatives),
	}
	j.report.Source.Family = j.source.Model.Family
	if j.Engine != nil {
		j.report.Method.Device = j.Engine.Name()
	}
	if labels, err := j.header.Metadata.Strings(info.Architecture + ".classifier.output_labels"); err == nil && j.model.Classifier != nil && j.source.Model.Head != nil {
		if j.source, err = j.source.ranking(labels); err == nil {
			err = j.Check(j.source) // which predicts no tokens now
		}
		if err != nil {
			return fmt.Errorf("validate %s: %w", c.Name, err)
		}
	}
	if err := sameModel(j.source.Model, j.model); err != nil {
		return fmt.Errorf("validate %s: %w", c.Name, err)
	}
	if name, err := j.header.Metadata.String("tokenizer.ggml.model"); err == nil && name != "none" && name != "no_vocab" {
		if j.vocab, err = tokenizer.FromMetadata(j.header.Metadata); err == nil {
			j.enc, err = tokenizer.NewGGUFEncoder(j.header.Metadata)
		}
		if err != nil {
			return fmt.Errorf("validate %s: %w", c.Name, err)
		}
		if err := checkVocabulary(j.vocab, j.model.Vocab); err != nil {
			return fmt.Errorf("validate %s: %w", c.Name, err)
		}
	}
	return nil
}

func (j *judgement) structure(context.Context) error {
	r := &StructureResult{
		Architecture: j.report.Candidate.Architecture, Family: j.source.Model.Family,
		Tensors: len(j.header.Tensors), Weights: len(j.model.Weights),
	}
	r.Differences, r.Notes = compareSpecs(j.source.Model, j.model, j.header.Metadata)
	r.OK = len(r.Differences) == 0
	j.report.Structure = r
	j.gate(mustHold("structure.ok", r.OK, "the file states what the source states"))
	return nil
}

func (j *judgement) tokens(context.Context) error {
	switch {
	case j.enc == nil && j.source.Encoder == nil:
		j.notJudged(CheckTokens, "neither the source nor the file has a tokenizer")
		return nil
	case j.enc == nil:
		return errors.New("the file has no vocabulary and the source has a tokenizer")
	case j.source.Encoder == nil:
		return errors.New("the file has a vocabulary and the source has no tokenizer")
	}
	r := compareTokens(j.source.Encoder, j.enc, j.vocab, j.source.Normalizers, j.Text)
	if j.model.Pooling == spec.PoolNone { // the texts of others end as their own settings say
		r.compareSpecial(j.source.Special, j.vocab)
	}
	j.report.Tokens = &r
	j.gate(mustHold("tokens.equal", r.Equal, "the file's tokenizer gives the source's ids"))
	return nil
}

func (j *judgement) template(ctx context.Context) error {
	if j.vocab == nil {
		j.notJudged(CheckTemplate, "the file has no vocabulary")
		return nil
	}
	special := map[string]string{}
	for _, s := range j.vocab.Special {
		special[s.Role+"_token"] = j.vocab.Tokens[s.ID].Text
	}
	templates := j.vocab.ChatTemplates
	if j.source.Model.Classifier != nil {
		templates = slices.DeleteFunc(slices.Clone(templates), func(t tokenizer.ChatTemplate) bool { return t.Name == rerankPrompt })
	}
	r := compareTemplates(j.source.Templates, templates, special, func(r Rendering) (string, error) { return j.Render(ctx, r) })
	j.report.Template = &r
	if r.Equal == nil {
		j.notJudged(CheckTemplate, strings.Join(r.NotJudged, "; "))
		return nil
	}
	j.gate(mustHold("template.equal", *r.Equal, "conversations are rendered as by the source"))
	return nil
}

func (j *judgement) weights(ctx context.Context) error {
	r, err := compareWeights(ctx, j.source.Model, j.model, j.header, j.Imatrix, func(done, total int) {
		j.Progress(fmt.Sprintf("weights: tensor %d of %d", done, total))
	})
	if err != nil {
		return err
	}
	j.report.Weights = &r
	for _, why := range r.NotJudged {
		j.notJudged(CheckWeights, why)
	}
	if len(r.Tensors) > 0 {
		j.gate(mustHold("weights.ok", r.OK, "the difference from the source is spread as rounding is"))
	}
	return nil
}

func (j *judgement) logits(ctx context.Context) error {
	if j.enc == nil {
		return errors.New("the file has no vocabulary to encode the text with")
	}
	if n := j.model.Context; n > 0 && j.Ctx > n {
		return fmt.Errorf("chunks of %d tokens: the model was made for %d", j.Ctx, n)
	}
	if j.model.Head == nil {
		return j.hiddenStates(ctx)
	}
	chunks, err := Chunks(j.enc, j.vocab, j.Text, j.Chunks, j.Ctx)
	if err != nil {
		return err
	}
	candidates := []*spec.Model{j.model}
	var stock *StockFile
	if j.Stock != nil {
		if stock, err = j.Stock(ctx, j.report.Candidate.TensorBytes); err != nil {
			return fmt.Errorf("stock preset: %w", err)
		}
		defer stock.Close()
		m, err := fromgguf.OpenAt(stock.Preset, stock.Data, stock.Size)
		if err != nil {
			return fmt.Errorf("stock preset: %w", err)
		}
		candidates = append(candidates, m)
	}
	for _, b := range j.Beside {
		m, err := fromgguf.Open(b.File)
		if err == nil {
			err = sameModel(j.source.Model, m)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", b.Name, err)
		}
		candidates = append(candidates, m)
	}
	results, err := j.Engine.Compare(ctx, j.source.Model, candidates, chunks)
	if err != nil {
		return err
	}
	for _, r := range results {
		if err := checkComparison(r); err != nil {
			return err
		}
	}
	r := results[0]
	j.report.KLD, j.report.Top1, j.report.PPL, j.report.NMSE, j.report.RMSDeltaP = &r.KLD, &r.Top1, &r.PPL, &r.NMSE, &r.RMSDeltaP
	j.report.Distribution, j.report.Layers = distribution(r.PerToken), r.Layers
	j.report.Method.Chunks, j.report.Method.Tokens = r.Chunks, r.Tokens
	j.judgeLogits(r)
	if stock != nil {
		j.judgeStock(stock, r, results[1])
	}
	for i, b := range j.Beside {
		r := results[len(results)-len(j.Beside)+i]
		j.report.Alternatives = append(j.report.Alternatives, Alternative{b.Name, b.Kind, b.Size, r.KLD.Mean, r.KLD.StdErr, r.Top1})
	}
	return nil
}

// noted says that llama.cpp does something in its own way.
func (j *judgement) noted() bool {
	return j.report.Structure != nil && len(j.report.Structure.Notes) > 0
}

// checkComparison refuses figures that are no numbers.
func checkComparison(r *measure.Comparison) error {
	if r.Tokens == 0 {
		return errors.New("no prediction counts")
	}
	return finite(map[string]float64{"kld.mean": r.KLD.Mean, "kld.max": r.KLD.Max, "top1": r.Top1, "ppl.reference": r.PPL.Reference, "ppl.candidate": r.PPL.Candidate, "nmse": r.NMSE})
}

func (j *judgement) judgeLogits(r *measure.Comparison) {
	minTop1 := j.MinTop1
	if quantized(j.header) {
		bits := j.report.Candidate.BlockBits
		limit, why := Ceiling(bits), fmt.Sprintf("the ceiling for %.2f bits per quantized weight", bits)
		if j.MaxKLD != nil {
			limit, why = *j.MaxKLD, "asked for"
		}
		j.gate(atMost("kld.mean", r.KLD.Mean, limit, why))
	} else {
		limit := floatLimits(j.source.Model, j.model, j.noted())
		j.gate(atMost("nmse", r.NMSE, limit.nmse, limit.why))
		if j.MaxKLD != nil {
			j.gate(atMost("kld.mean", r.KLD.Mean, *j.MaxKLD, "asked for"))
		}
		if minTop1 == nil {
			j.gate(atLeast("top1", r.Top1, limit.top1, limit.why))
		}
	}
	if minTop1 != nil {
		j.gate(atLeast("top1", r.Top1, *minTop1, "asked for"))
	}
	if j.MaxPPLRatio != nil {
		j.gate(atMost("ppl.ratio", r.PPL.Candidate/r.PPL.Reference, *j.MaxPPLRatio, "asked for"))
	}
}

// judgeStock holds the candidate to a stock preset on the same predictions:
// it may be worse by no more than twice the standard error of the difference.
func (j *judgement) judgeStock(f *StockFile, r, stock *measure.Comparison) {
	s := &StockResult{Preset: f.Preset, Size: f.Size, KLD: stock.KLD, Top1: stock.Top1, PPL: stock.PPL.Candidate, Difference: r.KLD.Mean - stock.KLD.Mean}
	if n := len(r.PerToken); n > 1 && n == len(stock.PerToken) {
		sum := 0.0
		for i := range r.PerToken {
			d := float64(r.PerToken[i]) - float64(stock.PerToken[i]) - s.Difference
			sum += d * d
		}
		s.StdErr = math.Sqrt(sum / float64(n-1) / float64(n))
	}
	j.report.Stock = s
	j.gate(atMost("kld.stock", r.KLD.Mean, stock.KLD.Mean+2*s.StdErr, fmt.Sprintf("%s in %d bytes, and twice the standard error", f.Preset, f.Size)))
}

// Encoders are judged by their vectors.
const (
	encoderNMSE   = 0.05 // of a quantized file
	encoderCosine = 0.97
)

// hiddenStates compares the vectors that an encoder gives.
func (j *judgement) hiddenStates(ctx context.Context) error {
	chunks, err := cutParagraphs(j.enc, j.Text, j.Chunks, j.Ctx)
	if err != nil {
		return err
	}
	want, err := j.Engine.Embed(ctx, j.source.Model, chunks)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	got, err := j.Engine.Embed(ctx, j.model, chunks)
	if err != nil {
		return err
	}
	if len(want) != len(got) || len(want) != len(chunks) {
		return fmt.Errorf("%d and %d vectors of %d texts", len(want), len(got), len(chunks))
	}
	least := 1.0
	var energy, off float64
	for i := range want {
		if len(want[i]) != len(got[i]) {
			return fmt.Errorf("vectors of %d and %d numbers", len(want[i]), len(got[i]))
		}
		var dot, a, b float64
		for k := range want[i] {
			x, y := float64(want[i][k]), float64(got[i][k])
			dot, a, b = dot+x*y, a+x*x, b+y*y
			energy += x * x
			off += (y - x) * (y - x)
		}
		least = min(least, dot/math.Sqrt(a*b))
	}
	nmse := off / energy
	figures := map[string]float64{"nmse": nmse}
	j.report.NMSE = &nmse
	if j.source.Model.Classifier == nil { // scores have no direction
		figures["cosine"], j.report.Cosine = least, &least
	}
	if err := finite(figures); err != nil {
		return err
	}
	j.report.Method.Chunks = len(chunks)
	if quantized(j.header) {
		j.gate(atMost("nmse", nmse, encoderNMSE, "a quantized encoder"))
		if j.report.Cosine != nil {
			j.gate(atLeast("cosine", least, encoderCosine, "a quantized encoder"))
		}
	} else {
		limit := floatLimits(j.source.Model, j.model, j.noted())
		j.gate(atMost("nmse", nmse, limit.nmse, limit.why))
	}
	return nil
}

func (j *judgement) canaries(ctx context.Context) error {
	switch {
	case j.model.Head == nil:
		j.notJudged(CheckCanaries, "the model predicts no tokens")
		return nil
	case j.enc == nil:
		j.notJudged(CheckCanaries, "the file has no vocabulary")
		return nil
	case j.report.KLD == nil:
		j.notJudged(CheckCanaries, "their margins' limit comes from the KLD, which is skipped")
		return nil
	}
	r, err := compareCanaries(ctx, j.Engine, j.source.Model, j.model, j.enc, j.vocab, j.Canaries, j.report.KLD.Mean)
	if err != nil {
		return err
	}
	if err := finite(map[string]float64{"canaries.margin": r.Margin}); err != nil {
		return err
	}
	j.report.Canaries = &r
	j.gate(atMost("canaries.margin", r.Margin, r.Limit, "what rounding explains at this KLD"))
	return nil
}

func (j *judgement) runtime(ctx context.Context) error {
	if j.Runtime == "" {
		return nil
	}
	if j.enc == nil {
		return errors.New("the file has no vocabulary")
	}
	r, err := compareRuntime(ctx, j.Engine, j.model, j.enc, j.vocab, j.Runtime, j.Canaries)
	if err != nil {
		return err
	}
	j.report.Runtime = &r
	j.gate(mustHold("runtime.ok", r.OK, "the server does what the file says"))
	return nil
}
