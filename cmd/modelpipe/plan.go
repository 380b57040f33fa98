package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/internal/bulkhash"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/quantize"
)

func init() { register(newPlan) }

// conversion is what the flags of plan and convert say about the file.
type conversion struct {
	outType    string
	pure       bool
	strict     bool
	leave      bool
	output     string
	embedding  string
	tensorType []string
	recipe     string
	imatrix    string

	name string
	pre  string
	meta []string

	fitting

	// what the flags and the files that they name amount to
	chosen     quantize.Recipe
	importance *quantize.Imatrix
	digests    string
}

func (c *conversion) register(f *pflag.FlagSet) {
	f.StringVar(&c.outType, "type", "auto", "the `TYPE` of the output: auto (that of the source), f32, f16, bf16, q8_0, a preset (Q4_K_M, IQ3_XXS, ...) or a tensor type")
	f.BoolVar(&c.pure, "pure", false, "one type for all matrices, no mixture")
	f.BoolVar(&c.strict, "strict-types", false, "fail where a row cannot hold its type, instead of falling back as llama-quantize does")
	f.BoolVar(&c.leave, "leave-output", false, "keep the type of output.weight")
	f.StringVar(&c.output, "output-type", "", "the `TYPE` of output.weight")
	f.StringVar(&c.embedding, "embedding-type", "", "the `TYPE` of token_embd.weight")
	f.StringArrayVar(&c.tensorType, "tensor-type", nil, "`REGEX=TYPE`: the type of the tensors whose name matches (repeatable, the first decides)")
	f.StringVar(&c.recipe, "recipe", "", "read all of these from a recipe `FILE` (TOML)")
	c.fitting.register(f)
	f.StringVar(&c.imatrix, "imatrix", "", "importance matrix `FILE` (GGUF or .dat)")
	f.StringVar(&c.name, "name", "", "general.name of the model, where its card does not say it well")
	f.StringArrayVar(&c.meta, "meta", nil, "set a metadata `KEY=VALUE` (repeatable); KEY:TYPE=VALUE for other than strings, as in a.b:u32=7")
	f.StringVar(&c.pre, "pre", "", "tokenizer.ggml.pre, for a pre-tokenizer that is not recognised")
}

// plan plans the source as the flags say.
func (c *conversion) plan(ctx context.Context, s *pipeline.Source) (*convert.Plan, error) {
	o := convert.Options{Name: c.name, Pre: c.pre, Source: s.Repo, Repository: s.Repo, Commit: s.Commit}
	for _, m := range c.meta {
		kv, err := parseMeta(m)
		if err != nil {
			return nil, withExit(exitUsage, err)
		}
		o.Meta = append(o.Meta, kv)
	}
	recipe, err := c.readRecipe()
	if err != nil {
		return nil, err
	}
	c.chosen = recipe
	if err := c.readImatrix(); err != nil {
		return nil, err
	}
	if o.Source == "" {
		o.Source = s.Name
	}
	if s.File != "" && !strings.HasSuffix(s.File, ".gguf") {
		return nil, usagef("%s: want a model folder, hf://org/name or a .gguf file", s.Arg)
	}
	plan := func(types convert.TypePolicy) (*convert.Plan, error) {
		o := o
		o.Types = types
		if s.File != "" {
			return convert.PlanGGUF(ctx, s.FS, s.File, o)
		}
		return convert.NewPlan(ctx, s.FS, o)
	}
	switch {
	case c.fitting.wanted():
		return c.planFit(ctx, s, recipe, plan)
	case c.losses != "" || c.fast:
		return nil, usagef("--losses and --fast-types go with --max-size or --max-kld")
	case s.File != "" && reflect.DeepEqual(recipe, quantize.Recipe{Preset: "auto"}):
		return plan(nil)
	}
	return plan(convert.NewTypePolicy(recipe, c.importance, c.imatrix))
}

// readRecipe makes the recipe of the flags, or reads the file that takes
// their place.
func (c *conversion) readRecipe() (quantize.Recipe, error) {
	r := quantize.Recipe{Preset: c.outType, Pure: c.pure, LeaveOutput: c.leave, Strict: c.strict}
	if c.recipe != "" {
		if c.outType != "auto" || c.pure || c.leave || c.strict || c.output != "" || c.embedding != "" || len(c.tensorType) > 0 {
			return r, usagef("--recipe holds what the other flags about types say: give one or the other")
		}
		f, err := os.Open(c.recipe)
		if err != nil {
			return r, err
		}
		defer f.Close()
		if r, err = quantize.ReadRecipe(f); err != nil {
			return r, fmt.Errorf("%s: %w", c.recipe, err)
		}
		return r, nil
	}
	if !strings.EqualFold(c.outType, "auto") {
		_, isPreset := quantize.LookupPreset(c.outType)
		if _, err := gguf.ParseType(c.outType); err != nil && !isPreset {
			return r, usagef("--type %s: want auto, a tensor type or one of %s", c.outType, strings.Join(quantize.PresetNames(), ", "))
		}
	}
	for _, set := range []struct {
		flag, name string
		to         **gguf.Type
	}{{"--output-type", c.output, &r.Output}, {"--embedding-type", c.embedding, &r.Embedding}} {
		if set.name == "" {
			continue
		}
		t, err := gguf.ParseType(set.name)
		if err != nil {
			return r, usagef("%s: %w", set.flag, err)
		}
		*set.to = &t
	}
	for _, arg := range c.tensorType {
		i := strings.LastIndex(arg, "=")
		if i < 1 {
			return r, usagef("--tensor-type %s: want REGEX=TYPE", arg)
		}
		t, err := gguf.ParseType(arg[i+1:])
		if err != nil {
			return r, usagef("--tensor-type %s: %w", arg, err)
		}
		r.Overrides = append(r.Overrides, quantize.Override{Pattern: arg[:i], Type: t})
	}
	return r, nil
}

// readImatrix opens the importance matrix, if one is given; it is read from
// while the command runs.
func (c *conversion) readImatrix() error {
	if c.imatrix == "" || c.importance != nil {
		return nil
	}
	f, err := os.Open(c.imatrix)
	if err != nil {
		return err
	}
	h := bulkhash.NewSHA256()
	size, err := io.Copy(h, f)
	if err == nil {
		c.importance, err = quantize.ReadImatrix(f, size)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("%s: %w", c.imatrix, err)
	}
	c.digests = "imatrix sha256:" + hex.EncodeToString(h.Sum(nil))
	return nil
}

// metaTypes are the types that --meta can name.
var metaTypes = map[string]func(string) (any, error){
	"str":  func(s string) (any, error) { return s, nil },
	"bool": func(s string) (any, error) { return strconv.ParseBool(s) },
	"u32":  func(s string) (any, error) { n, err := strconv.ParseUint(s, 0, 32); return uint32(n), err },
	"i32":  func(s string) (any, error) { n, err := strconv.ParseInt(s, 0, 32); return int32(n), err },
	"u64":  func(s string) (any, error) { return strconv.ParseUint(s, 0, 64) },
	"i64":  func(s string) (any, error) { return strconv.ParseInt(s, 0, 64) },
	"f32":  func(s string) (any, error) { x, err := strconv.ParseFloat(s, 32); return float32(x), err },
	"f64":  func(s string) (any, error) { return strconv.ParseFloat(s, 64) },
}

// parseMeta reads KEY=VALUE or KEY:TYPE=VALUE.
func parseMeta(s string) (gguf.KV, error) {
	key, value, ok := strings.Cut(s, "=")
	key, typ, typed := strings.Cut(key, ":")
	if !ok || key == "" {
		return gguf.KV{}, fmt.Errorf("--meta %s: want KEY=VALUE or KEY:TYPE=VALUE", s)
	}
	if !typed {
		typ = "str"
	}
	parse, ok := metaTypes[typ]
	if !ok {
		return gguf.KV{}, fmt.Errorf("--meta %s: type %q: want str, bool, u32, i32, u64, i64, f32 or f64", s, typ)
	}
	v, err := parse(value)
	if err != nil {
		if numeric := (*strconv.NumError)(nil); errors.As(err, &numeric) {
			err = numeric.Err
		}
		return gguf.KV{}, fmt.Errorf("--meta %s: %w", s, err)
	}
	return gguf.KV{Key: key, Value: v}, nil
}

// recipeJSON is what plan and convert say, with --json, of how the types were
// chosen.
type recipeJSON struct {
	Recipe        quantize.Recipe `json:"recipe"`
	RecipeDigest  string          `json:"recipe_digest"`
	ImatrixDigest string          `json:"imatrix_digest,omitempty"`
	Budget        *fitJSON        `json:"budget,omitempty"`
}

func (c *conversion) describe() (recipeJSON, error) {
	digest, err := c.chosen.Digest()
	return recipeJSON{c.chosen, digest, c.imatrixDigest(), c.fit}, err
}

// planJSON is what plan prints with --json.
type planJSON struct {
	Source     string `json:"source"`
	Repository string `json:"repository,omitempty"`
	Commit     string `json:"commit,omitempty"`
	BytesRead  int64  `json:"bytes_read,omitempty"` // over the network
	recipeJSON
	Architecture string       `json:"architecture"`
	Parameters   int64        `json:"parameters"`
	Size         int64        `json:"size"`        // of the file, in bytes
	HeaderSize   int64        `json:"header_size"` // up to the first tensor's data
	Notes        []string     `json:"notes"`
	NeedImatrix  []string     `json:"need_imatrix,omitempty"` // tensors that cannot be encoded without one
	Tensors      []tensorJSON `json:"tensors"`
}

type tensorJSON struct {
	Name   string  `json:"name"`
	Type   string  `json:"type"`
	Shape  []int64 `json:"shape"`  // length of a row first
	Offset int64   `json:"offset"` // in the file
	Size   int64   `json:"size"`
	From   string  `json:"from"`
}

func newPlan(a *app) *cobra.Command {
	c := conversion{}
	cmd := &cobra.Command{
		Use:   "plan SOURCE",
		Short: "Show the file that convert would write, to the byte",
		Long: `Plan reads the config, the tokenizer and the headers of a model, no weights, and
shows what convert would write: the metadata, every tensor with its type, shape,
offset, bytes and source, architecture, parameters, and the exact size of the file.

SOURCE is a model folder, hf://org/name[@revision], or a .gguf file. From the
Hub it reads a few ranges; how many bytes, it says.`,
		Example: `  modelpipe plan ./Qwen3-0.6B
  modelpipe plan hf://Qwen/Qwen3-0.6B --type q8_0 --json
  modelpipe plan hf://Qwen/Qwen3-8B --max-size 5GB`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := pipeline.OpenSource(cmd.Context(), args[0], a.log)
			if err != nil {
				return err
			}
			defer s.Close()
			p, err := c.plan(cmd.Context(), s)
			if err != nil {
				return err
			}
			if a.json {
				return a.printPlan(s, &c, p)
			}
			if err := p.WriteText(a.stdout); err != nil {
				return err
			}
			return c.printSummary(a.stdout, s, p)
		},
	}
	c.register(cmd.Flags())
	cmd.Flags().Float64Var(&c.maxKLD, "max-kld", 0, "choose the types so that the expected KL divergence is at most so many `NATS` and the file is small")
	return cmd
}

// printPlan prints a plan as JSON.
func (a *app) printPlan(s *pipeline.Source, c *conversion, p *convert.Plan) error {
	recipe, err := c.describe()
	if err != nil {
		return err
	}
	out := planJSON{
		recipeJSON: recipe,
		Source:     s.Arg, Repository: s.Repo, Commit: s.Commit, Architecture: p.Arch, Parameters: p.Parameters,
		Size: p.Size, HeaderSize: p.HeaderSize, Notes: append([]string{}, p.Notes...), NeedImatrix: p.NeedImportance, Tensors: []tensorJSON{},
	}
	if s.BytesRead != nil {
		out.BytesRead = s.BytesRead()
	}
	for _, t := range p.Steps {
		out.Tensors = append(out.Tensors, tensorJSON{t.Name, t.Type.String(), t.Shape, t.Offset, t.Size, t.From.String()})
	}
	return a.printJSON(out)
}

// printSummary prints a plan in a few lines.
func (c *conversion) printSummary(w io.Writer, s *pipeline.Source, p *convert.Plan) error {
	var b strings.Builder
	if s.Repo != "" {
		fmt.Fprintf(&b, "source        %s at commit %s\n", s.Repo, s.Commit)
	}
	fmt.Fprintf(&b, "architecture  %s\n", p.Arch)
	fmt.Fprintf(&b, "parameters    %d\n", p.Parameters)
	fmt.Fprintf(&b, "tensors       %d (%s)\n", len(p.Steps), typesOf(p))
	fmt.Fprintf(&b, "size          %d bytes\n", p.Size)
	for _, line := range c.fit.lines(p.Size) {
		fmt.Fprintln(&b, line)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "note          %s\n", n)
	}
	if len(p.NeedImportance) > 0 {
		fmt.Fprintf(&b, "note          %s\n", needImportance(p))
	}
	if s.BytesRead != nil {
		fmt.Fprintf(&b, "read          %d bytes over the network\n", s.BytesRead())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// typesOf lists the types of a plan's tensors, that with the most bytes first.
func typesOf(p *convert.Plan) string {
	types := typesByBytes(p)
	count := map[gguf.Type]int{}
	for _, t := range p.Steps {
		count[t.Type]++
	}
	var parts []string
	for _, t := range types {
		parts = append(parts, fmt.Sprintf("%d %s", count[t], t))
	}
	return strings.Join(parts, ", ")
}

// needImportance says which tensors cannot be encoded without importance.
func needImportance(p *convert.Plan) string {
	return fmt.Sprintf("%d tensors need importance data to be encoded, %s first: give --imatrix", len(p.NeedImportance), p.NeedImportance[0])
}
