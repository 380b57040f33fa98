package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/gguf"
)

func init() { register(newPlan) }

// conversion is what the flags of plan and convert say about the file.
type conversion struct {
	outType string
	name    string
	pre     string
	meta    []string
}

func (c *conversion) register(f *pflag.FlagSet) {
	f.StringVar(&c.outType, "type", "auto", "the `TYPE` of the output: auto (that of the source), f32, f16, bf16, q8_0")
	f.StringVar(&c.name, "name", "", "general.name of the model, where its card does not say it well")
	f.StringArrayVar(&c.meta, "meta", nil, "set a metadata `KEY=VALUE` (repeatable); KEY:TYPE=VALUE for other than strings, as in a.b:u32=7")
	f.StringVar(&c.pre, "pre", "", "tokenizer.ggml.pre, for a pre-tokenizer that is not recognised")
}

// plan plans the source as the flags say.
func (c *conversion) plan(ctx context.Context, arg string, s *source) (*convert.Plan, error) {
	o := convert.Options{Name: c.name, Pre: c.pre, Source: s.repo, Repository: s.repo, Commit: s.commit}
	for _, m := range c.meta {
		kv, err := parseMeta(m)
		if err != nil {
			return nil, withExit(exitUsage, err)
		}
		o.Meta = append(o.Meta, kv)
	}
	if !strings.EqualFold(c.outType, "auto") {
		policy, err := convert.ParseOutputType(c.outType)
		if err != nil {
			return nil, usagef("--type: %w", err)
		}
		o.Types = policy
	}
	if o.Source == "" {
		path, err := filepath.Abs(arg)
		if err != nil {
			return nil, err
		}
		o.Source = filepath.Base(path)
	}
	if s.file != "" {
		if !strings.HasSuffix(s.file, ".gguf") {
			return nil, usagef("%s: want a model folder, hf://org/name or a .gguf file", arg)
		}
		return convert.PlanGGUF(ctx, s.fsys, s.file, o)
	}
	return convert.NewPlan(ctx, s.fsys, o)
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

// planJSON is what plan prints with --json.
type planJSON struct {
	Source       string       `json:"source"`
	Repository   string       `json:"repository,omitempty"`
	Commit       string       `json:"commit,omitempty"`
	BytesRead    int64        `json:"bytes_read,omitempty"` // over the network
	Architecture string       `json:"architecture"`
	Parameters   int64        `json:"parameters"`
	Size         int64        `json:"size"`        // of the file, in bytes
	HeaderSize   int64        `json:"header_size"` // up to the first tensor's data
	Notes        []string     `json:"notes"`
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
	var c conversion
	cmd := &cobra.Command{
		Use:   "plan SOURCE",
		Short: "Show the file that convert would write, to the byte",
		Long: `Plan reads the config, the tokenizer and the headers of a model, no weights, and
shows what convert would write: architecture, parameters, every tensor with its
type, shape, offset and bytes, and the exact size of the file.

SOURCE is a model folder, hf://org/name[@revision], or a .gguf file. From the
Hub it reads a few ranges; how many bytes, it says.`,
		Example: `  modelpipe plan ./Qwen3-0.6B
  modelpipe plan hf://Qwen/Qwen3-0.6B --type q8_0 --json`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.openSource(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer s.close()
			p, err := c.plan(cmd.Context(), args[0], s)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(describePlan(args[0], s, p))
			}
			if err := printTensors(a.stdout, p); err != nil {
				return err
			}
			return printSummary(a.stdout, s, p)
		},
	}
	c.register(cmd.Flags())
	return cmd
}

func describePlan(arg string, s *source, p *convert.Plan) planJSON {
	out := planJSON{
		Source: arg, Repository: s.repo, Commit: s.commit, Architecture: p.Arch, Parameters: p.Parameters,
		Size: p.Size, HeaderSize: p.HeaderSize, Notes: append([]string{}, p.Notes...), Tensors: []tensorJSON{},
	}
	if s.bytesRead != nil {
		out.BytesRead = s.bytesRead()
	}
	for _, t := range p.Steps {
		out.Tensors = append(out.Tensors, tensorJSON{t.Name, t.Type.String(), t.Shape, t.Offset, t.Size, t.From.String()})
	}
	return out
}

func printTensors(w io.Writer, p *convert.Plan) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "tensor\ttype\tshape\toffset\tbytes\tfrom")
	for _, t := range p.Steps {
		dims := strings.Trim(fmt.Sprint(t.Shape), "[]")
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%d\t%v\n", t.Name, t.Type, strings.ReplaceAll(dims, " ", "x"), t.Offset, t.Size, t.From)
	}
	return tw.Flush()
}

// printSummary prints a plan in a few lines.
func printSummary(w io.Writer, s *source, p *convert.Plan) error {
	var b strings.Builder
	if s.repo != "" {
		fmt.Fprintf(&b, "source        %s at commit %s\n", s.repo, s.commit)
	}
	fmt.Fprintf(&b, "architecture  %s\n", p.Arch)
	fmt.Fprintf(&b, "parameters    %d\n", p.Parameters)
	fmt.Fprintf(&b, "tensors       %d (%s)\n", len(p.Steps), typesOf(p))
	fmt.Fprintf(&b, "size          %d bytes\n", p.Size)
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "note          %s\n", n)
	}
	if s.bytesRead != nil {
		fmt.Fprintf(&b, "read          %d bytes over the network\n", s.bytesRead())
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
