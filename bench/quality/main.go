// Quality measures what presets lose on a model and sets it beside what
// llama-perplexity has measured. The presets' files are computed while they are
// read, and all of them run beside the source in one pass.
//
//	usage: quality [flags] MODEL TEXT EXPECTED.csv [PRESET[+] ...]
//
// MODEL is a model folder, EXPECTED.csv a table of llama-perplexity's figures
// (bench/quality.csv). PRESET+ is with the importance matrix; where none is
// named, all rows of the table are measured, those with one only where
// --imatrix gives it. Prints a Markdown table, and ends with 1 where a mean KLD
// is further from the table's than --limit.
package main

import (
	"context"
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/ops/fromgguf"
	"github.com/modelpipe/modelpipe/ops/measure"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/quantize"
	"github.com/modelpipe/modelpipe/tokenizer"
	"github.com/modelpipe/modelpipe/validate"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "quality:", err)
		os.Exit(1)
	}
}

// row is a preset, with what llama-perplexity has measured; known says whether
// it has.
type row struct {
	preset  string
	weighed bool // with the importance matrix
	known   bool
	kld     float64
}

func (r row) name() string {
	if r.weighed {
		return r.preset + "+"
	}
	return r.preset
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("quality", flag.ContinueOnError)
	imatrix := f.String("imatrix", "", "the importance matrix `FILE` of the model")
	chunks := f.Int("chunks", 24, "chunks of the text")
	ctxTokens := f.Int("ctx", 512, "tokens of a chunk")
	device := f.String("device", "auto", "where to compute, as for modelpipe validate")
	limit := f.Float64("limit", 0.03, "largest relative difference of a mean KLD")
	f.SetOutput(stderr)
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() < 3 {
		return errors.New("usage: quality [flags] MODEL TEXT EXPECTED.csv [PRESET[+] ...]")
	}
	rows, err := chooseRows(f.Arg(2), f.Args()[3:], *imatrix != "")
	if err != nil {
		return err
	}
	text, err := os.ReadFile(f.Arg(1))
	if err != nil {
		return err
	}
	importance, closeImportance, err := openImatrix(*imatrix)
	if err != nil {
		return err
	}
	defer closeImportance()
	d, err := ops.Open(*device)
	if err != nil {
		return err
	}
	defer d.Close()

	model := os.DirFS(f.Arg(0))
	source, err := validate.OpenFolder(ctx, model, validate.SourceInfo{Name: f.Arg(0)})
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	defer source.Close()
	var candidates []*spec.Model
	var sizes []int64
	var ids [][]int32
	for _, r := range rows {
		types := convert.NewTypePolicy(quantize.Recipe{Preset: r.preset}, nil, "")
		render := convert.RenderOptions{}
		if r.weighed {
			types, render.Imatrix = convert.NewTypePolicy(quantize.Recipe{Preset: r.preset}, importance, *imatrix), importance
		}
		view, metadata, err := open(ctx, model, types, render)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name(), err)
		}
		defer view.Close()
		m, err := fromgguf.OpenAt(r.name(), view, view.Size())
		if err != nil {
			return fmt.Errorf("%s: %w", r.name(), err)
		}
		candidates, sizes = append(candidates, m), append(sizes, view.Size())
		if ids == nil {
			if ids, err = cut(metadata, string(text), *chunks, *ctxTokens); err != nil {
				return err
			}
		}
	}
	if len(ids) < *chunks {
		return fmt.Errorf("%s: %d chunks, want %d", f.Arg(1), len(ids), *chunks)
	}

	last := time.Now()
	results, err := ops.CompareAll(ctx, d, source.Model, candidates, ids, ops.Options{Progress: func(p ops.Progress) {
		if time.Since(last) > 30*time.Second {
			last = time.Now()
			fmt.Fprintf(stderr, "%s %d of %d\n", p.Stage, p.Done, p.Total)
		}
	}})
	if err != nil {
		return err
	}
	return report(stdout, rows, sizes, results, *limit)
}

// report prints the table and says which rows are further off than limit.
func report(w io.Writer, rows []row, sizes []int64, results []*measure.Comparison, limit float64) error {
	var off []string
	fmt.Fprintln(w, "| preset | imatrix | bytes | PPL | KLD | +/- | top-1 % | llama-perplexity: KLD | difference |\n|---|---|---|---|---|---|---|---|---|")
	for i, r := range rows {
		weighed, c := "no", results[i]
		if r.weighed {
			weighed = "yes"
		}
		beside := " | "
		if r.known {
			difference := c.KLD.Mean/r.kld - 1
			beside = fmt.Sprintf("%.6f | %+.2f %%", r.kld, 100*difference)
			if !(math.Abs(difference) <= limit) {
				off = append(off, r.name())
			}
		}
		fmt.Fprintf(w, "| %s | %s | %d | %.3f | %.6f | %.6f | %.2f | %s |\n", r.preset, weighed, sizes[i], c.PPL.Candidate, c.KLD.Mean, c.KLD.StdErr, 100*c.Top1, beside)
	}
	if len(off) > 0 {
		return fmt.Errorf("more than %g %% from llama-perplexity: %s", 100*limit, strings.Join(off, ", "))
	}
	return nil
}

// chooseRows reads the table and returns the rows that are named, or all.
func chooseRows(table string, names []string, imatrix bool) ([]row, error) {
	f, err := os.Open(table)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil || len(lines) == 0 {
		return nil, fmt.Errorf("%s: no table: %w", table, err)
	}
	column := map[string]int{}
	for i, name := range lines[0] {
		column[name] = i
	}
	var all []row
	for i, line := range lines[1:] {
		kld, err := strconv.ParseFloat(line[column["kld"]], 64)
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", table, i+2, err)
		}
		all = append(all, row{preset: line[column["preset"]], weighed: line[column["imatrix"]] == "yes", known: true, kld: kld})
	}
	if len(names) == 0 {
		for _, r := range all {
			if imatrix || !r.weighed {
				names = append(names, r.name())
			}
		}
	}
	var chosen []row
	for _, name := range names {
		preset, weighed := strings.CutSuffix(name, "+")
		if weighed && !imatrix {
			return nil, fmt.Errorf("%s: want --imatrix FILE", name)
		}
		r := row{preset: preset, weighed: weighed}
		for _, known := range all {
			if known.name() == name {
				r = known
			}
		}
		chosen = append(chosen, r)
	}
	return chosen, nil
}

// openImatrix opens an importance matrix, where one is named. The second result
// closes it.
func openImatrix(name string) (*quantize.Imatrix, func() error, error) {
	if name == "" {
		return nil, func() error { return nil }, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil {
		var m *quantize.Imatrix
		if m, err = quantize.ReadImatrix(f, info.Size()); err == nil {
			return m, f.Close, nil
		}
	}
	return nil, nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
}

// open plans a preset's file, to be read without being written.
func open(ctx context.Context, model fs.FS, types convert.TypePolicy, render convert.RenderOptions) (*convert.View, gguf.Metadata, error) {
	plan, err := convert.NewPlan(ctx, model, convert.Options{Source: "model", Types: types})
	if err != nil {
		return nil, nil, err
	}
	view, err := convert.NewView(plan, model, render)
	return view, plan.Header.Metadata, err
}

// cut makes chunks of a text by a file's own vocabulary.
func cut(m gguf.Metadata, text string, n, ctx int) ([][]int32, error) {
	v, err := tokenizer.FromMetadata(m)
	if err != nil {
		return nil, err
	}
	e, err := tokenizer.NewGGUFEncoder(m)
	if err != nil {
		return nil, err
	}
	return validate.Chunks(e, v, text, n, ctx)
}
